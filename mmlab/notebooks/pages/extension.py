"""What our pages need of Sphinx beyond its extensions."""

import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

import mmlab
from mmlab.notebooks.pages.marks import KeepMarks
from mmlab.notebooks.pages.prepare import TAG, embed
from mmlab.notebooks.pages.reference import (
    drop_borrowed,
    keep_marks,
    keep_sentence,
    leave_out,
    list_arguments,
    name_defaults,
    shorten_values,
    write_dashes,
)
from mmlab.notebooks.pages.tables import CellWidths

HOMES = mmlab._module_of()
"""Public name -> the module or room that holds it."""

LONGEST = 160
"""Characters of a description; a list of search results shows no more."""


class PlainText(SphinxTransform):
    """Let the Markdown of a page hold no HTML but harmless tags, and no picture but its own."""

    default_priority = 10  # before anything looks at them

    def apply(self, **kwargs: Any) -> None:
        if self.env.docname == "index":
            return  # its table is ours
        for raw in list(self.document.findall(nodes.raw)):
            if "text_html" not in raw["classes"]:  # what is shown by code is clean already
                raw.replace_self(nodes.raw("", TAG.sub("&lt;", raw.astext()), format="html"))
        for section in self.document.findall(nodes.section):
            title = section[0].astext().lower()
            slug = re.sub(r"[^\w -]", "", title).replace(" ", "-")  # as links of Markdown have it
            if slug and slug not in self.document.ids:
                self.document.ids[slug] = section
                section["ids"].append(slug)
        page = self.config.mmlab_links.pages.get(self.env.docname)
        for image in list(self.document.findall(nodes.image)):
            if not image["uri"].startswith("data:image/"):
                self._put_in(image, page)

    def _put_in(self, image: nodes.image, page: Path | None) -> None:
        """Make a picture beside the file that a page shows a part of the page, or leave words."""
        try:
            if page is None:
                raise ValueError("a docstring has no folder")
            self.env.note_dependency(page.parent / unquote(image["uri"]))
            image["uri"] = embed(image["uri"], page.parent)
        except ValueError:
            image.replace_self(nodes.emphasis("", image.get("alt", "")))


def link_names(app: Sphinx, document: nodes.document, name: str) -> None:
    """Link `mmlab`'s public names in notebooks and docs, such as ``fit(…)``, to the reference."""
    if name == "index" or name.startswith("reference/"):
        return
    known = app.env.domains.python_domain.objects
    for literal in list(document.findall(nodes.literal)):
        public = literal.astext().partition("(")[0]
        if public not in HOMES or isinstance(literal.parent, nodes.reference):
            continue
        start, end = f"{HOMES[public]}.", f".{public}"
        for path in (path for path in known if path.startswith(start) and path.endswith(end)):
            uri = app.builder.get_relative_uri(name, known[path].docname)
            link = nodes.reference(refuri=f"{uri}#{known[path].node_id}", reftitle=path)
            literal.replace_self(link)
            link += literal
            break


def describe(
    app: Sphinx, name: str, template: str, context: dict[str, Any], document: nodes.document | None
) -> None:
    """Give a page its description and footer, redirect its links, and say if it is Chinese."""
    links = app.config.mmlab_links
    if name in links.pages:
        context["body"] = links.redirect(context["body"], name)
    if name.endswith(".zh"):
        context["body"] = context["body"].replace("<section ", '<section lang="zh" ', 1)
    context["mmlab_footer"] = app.config.mmlab_footers.get(name, app.config.mmlab_footers["index"])
    if document and (first := next(iter(document.findall(nodes.paragraph)), None)):
        text = html.escape(re.sub(r"\s+", " ", first.astext()))
        if len(text) > LONGEST:
            text = text[:LONGEST].rpartition(" ")[0] + " …"
        context["metatags"] += f'\n<meta name="description" content="{text}">'


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx."""
    app.add_config_value("mmlab_links", None, "")
    app.add_config_value("mmlab_footers", {}, "")
    app.add_transform(PlainText)
    app.add_transform(CellWidths)
    app.add_transform(KeepMarks)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("autodoc-process-signature", name_defaults)
    app.connect("autodoc-process-docstring", drop_borrowed, priority=100)
    app.connect("autodoc-process-docstring", keep_marks, priority=100)
    app.connect("autodoc-process-docstring", list_arguments, priority=100)  # before napoleon
    app.connect("autodoc-process-docstring", keep_sentence, priority=900)  # after it
    app.connect("object-description-transform", shorten_values)
    app.connect("doctree-read", write_dashes)
    app.connect("doctree-resolved", link_names)
    app.connect("html-page-context", describe)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
