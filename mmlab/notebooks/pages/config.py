"""How Sphinx reads and shows our pages."""

from pathlib import Path
from typing import Any

import mmlab

THEME = Path(__file__).parent / "theme"

EXTENSIONS = [
    "myst_nb",
    "sphinx_copybutton",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mmlab.notebooks.pages.extension",
]

MATHJAX = {
    # of its parts those alone that set TeX; safe: no link, style or class out of a formula
    "loader": {"load": ["core", "input/tex", "output/chtml", "ui/safe", "a11y/assistive-mml"]},
    "tex": {"tags": "ams"},
    "options": {"processHtmlClass": "tex2jax_process|mathjax_process|math|text_html"},
}

CONFIG: dict[str, Any] = {
    "project": "mmlab",
    "author": "The mmlab authors",
    "version": mmlab.__version__,
    "release": mmlab.__version__,
    "extensions": EXTENSIONS,
    "default_role": "code",
    "language": "en",
    "smartquotes": False,  # text stays as it is written
    "templates_path": [str(THEME)],
    # --- notebooks and Markdown, which say what they say in JupyterLab
    "nb_execution_mode": "off",
    "myst_all_links_external": True,  # `links` says where they lead
    "myst_disable_syntax": ["myst_role", "myst_target", "myst_block_break", "myst_line_comment"],
    "myst_enable_extensions": ["amsmath", "dollarmath"],
    "myst_dmath_double_inline": True,
    "myst_update_mathjax": False,
    "mathjax3_config": MATHJAX,
    "mathjax_path": "mathjax/startup.js",
    # --- the reference
    "autodoc_preserve_defaults": True,  # as written, not as they are on this machine
    "autodoc_member_order": "bysource",
    "add_module_names": False,
    "python_maximum_signature_line_length": 120,  # with modules; else a line per parameter
    "python_trailing_comma_in_multi_line_signatures": False,
    "toc_object_entries": False,  # every page would copy thousands of them
    "napoleon_google_docstring": True,
    "napoleon_numpy_docstring": False,
    # --- the pages
    "html_theme": "sphinx_book_theme",
    "html_title": "mmlab",
    "html_static_path": [str(THEME / "static")],
    "html_css_files": ["mmlab.css"],
    "html_search_scorer": str(THEME / "scorer.js"),
    "html_sidebars": {"**": ["search-button-field.html", "sbt-sidebar-nav.html"]},
    "html_use_index": False,
    "html_domain_indices": False,
    "html_show_copyright": False,
    "html_show_sphinx": False,
    "pygments_style": "a11y-high-contrast-light",
    "html_theme_options": {
        "pygments_light_style": "a11y-high-contrast-light",
        "pygments_dark_style": "a11y-high-contrast-dark",
        "home_page_in_toc": True,
        "show_navbar_depth": 1,
        "navigation_depth": 2,
        "navbar_persistent": [],
        "primary_sidebar_end": [],  # by itself a place for advertisements
        "use_download_button": True,
        "use_fullscreen_button": False,
        "footer_content_items": ["mmlab-footer.html"],
    },
}
