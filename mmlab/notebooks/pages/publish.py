"""Finished pages, put into the site whole or not at all."""

import re
from collections.abc import Iterator, Set
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from mmlab.files import write_atomically
from mmlab.notebooks.pages.links import FILES

TEXT = re.compile(
    r"<(script|style|title)\b.*?</\1>|<[^>]*>|([\u3400-\u9fff][\u3000-\u9fff\uff00-\uffef]*)",
    re.DOTALL,
)
"""What is no text of a page; or else Chinese."""

ICONS = re.compile(r"<script[^>]*scripts/fontawesome\.js[^>]*></script>")
"""A megabyte and a half, in place of which `mmlab.css` shows the few icons that there are."""

UNREAD = re.compile(r"(^|/)(\.|jupyter_execute/|locales/|fontawesome\.js$|.*\.map$)")
"""Names of files that no page reads."""

MATHJAX = (
    *("startup.js", "core.js", "input/tex.js", "input/tex/extensions/*.js", "output/chtml.js"),
    *("output/chtml/fonts/tex.js", "output/chtml/fonts/woff-v2/*.woff"),
    *("ui/safe.js", "a11y/assistive-mml.js"),
)
"""The parts of MathJax that pages load (see `config`)."""

SKIP = '<div id="pst-skip-link"'
"""The one part of a page that the theme leaves without a role."""

PARAMETERS = "<dl>\n<dd>"
"""A long signature with a line per parameter: for Sphinx a list of descriptions of nothing."""


def finish(page: str) -> str:
    """The HTML of a page as readers get it.

    Chinese is marked as such, so that it is spoken and shown right; the link that skips the lists
    has a role; the lines of a signature are no list; and no script draws the icons.
    """
    marked = TEXT.sub(lambda m: f'<span lang="zh">{m[2]}</span>' if m[2] else m[0], page)
    skip = SKIP.replace("div", 'div role="navigation" aria-label="Skip"')
    lines = PARAMETERS.replace("<dl", '<dl role="presentation"')
    return ICONS.sub("", marked).replace(SKIP, skip, 1).replace(PARAMETERS, lines)


def mathjax(site: Path) -> dict[Path, Path]:
    """Where the site has MathJax's files, and where they come from."""
    package = Path(str(files("sphinx-mathjax-offline"))) / "static/mathjax"
    parts = (file for pattern in MATHJAX for file in package.glob(pattern))
    return {site / "_static/mathjax" / file.relative_to(package): file for file in parts}


def publish(built: Path, site: Path, pages: Set[str], copies: dict[Path, Path]) -> list[str]:
    """Put what Sphinx built into the site, as far as it is not there already.

    Args:
        built: Sphinx's folder.
        site: the folder of the site.
        pages: the names of the pages without ending; others are of an earlier run, and go.
        copies: where copies of other files belong, and of which.

    Returns:
        What could not be read, written or removed.
    """
    faults: list[str] = []
    for file in sorted(built.rglob("*")):
        name = file.relative_to(built).as_posix()
        if not file.is_file() or UNREAD.search(name):
            continue
        content = file.read_bytes()
        if file.suffix == ".html":
            if name.removesuffix(".html") not in pages:
                continue
            content = finish(content.decode()).encode()
        with _noting(faults):
            _write(site / name, content)
    for copy, file in (copies | mathjax(site)).items():
        with _noting(faults):
            _write(copy, file.read_bytes())
    for file in site.rglob("*.html"):
        name = file.relative_to(site).as_posix()
        if name.removesuffix(".html") not in pages and not name.startswith((f"{FILES}/", "_")):
            with _noting(faults):
                file.unlink()
    return faults


def _write(path: Path, content: bytes) -> None:
    """Write what is not there yet as it should be."""
    if not (
        path.is_file() and path.stat().st_size == len(content) and path.read_bytes() == content
    ):
        write_atomically(path, content)


@contextmanager
def _noting(faults: list[str]) -> Iterator[None]:
    """Note that something cannot be done to a file, and go on."""
    try:
        yield
    except OSError as error:
        faults.append(str(error))
