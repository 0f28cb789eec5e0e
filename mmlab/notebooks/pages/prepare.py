"""An executed notebook as the source of a page: nothing in it runs or comes from elsewhere.

The text of a page is plain Markdown: directives are shown as the code that they are in JupyterLab,
and of HTML only the tags in `TAG`. Outputs are cleaned HTML, images with their words, or text.
"""

import base64
import html
import mimetypes
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from bs4 import BeautifulSoup
from markdown_it import MarkdownIt
from markdown_it.token import Token
from nbformat import NotebookNode, v4, writes

from mmlab.notebooks.catalogue import ROOT
from mmlab.notebooks.clean import clean
from mmlab.notebooks.pages.tables import keep_intervals

TAG = re.compile(
    r"<(?!/?(?:details|summary|b|br|em|i|kbd|s|small|strong|sub|sup|u)\s*/?>|details open>)"
)
"""A ``<`` that begins none of the tags which text may use. Those have no attributes."""

NAME = re.compile(r"</?([a-zA-Z][\w-]*)")
MARKDOWN = MarkdownIt("commonmark")


def prepare(notebook: NotebookNode, folder: Path) -> tuple[str, list[str]]:
    """The source of a notebook's page, and notes of what it had to leave out.

    Args:
        notebook: the executed notebook.
        folder: where the source notebook lies, for the images beside it.
    """
    notes = Notes()
    cells = [
        _code(cell, folder, notes) if cell.cell_type == "code" else _text(cell, folder, notes)
        for cell in notebook.cells
        if cell.cell_type != "raw"
    ]
    facts = {k: v for k, v in notebook.metadata.items() if k in ("kernelspec", "language_info")}
    return writes(v4.new_notebook(cells=cells, metadata=facts)), notes.said()


class Notes:
    """What a page lacks."""

    def __init__(self) -> None:
        self.removed: set[str] = set()
        self.images: dict[str, str] = {}

    def said(self) -> list[str]:
        """One line per image, and one for all that is active."""
        lines = [f"its page lacks the image {src!r}: {why}" for src, why in self.images.items()]
        if self.removed:
            names = ", ".join(sorted(self.removed))
            lines.append(f"its page leaves out what could run or load something by itself: {names}")
        return lines

    def embed(self, src: str, folder: Path) -> str | None:
        """The image as part of the page; None, with a note, where it cannot be that."""
        try:
            return src if src.startswith("data:image/") else embed(src, folder)
        except ValueError as error:
            self.images[src] = str(error)
            return None


# --- text --------------------------------------------------------------------------------------


def _text(cell: NotebookNode, folder: Path, notes: Notes) -> NotebookNode:
    return v4.new_markdown_cell(plain_markdown(cell.source, folder, notes), id=cell.id)


def plain_markdown(text: str, folder: Path, notes: Notes) -> str:
    """Markdown without directives; its images are put in when it is read (`extension`)."""
    lines = text.split("\n")
    tokens = MARKDOWN.parse(text)
    for token in tokens:
        if token.type == "fence" and token.map and "{" in token.info:
            head = token.map[0]
            lines[head] = lines[head].replace("{", "").replace("}", "")
    for token in _all(tokens):
        if token.type == "image":
            notes.embed(str(token.attrs["src"]), folder)
        elif token.type.startswith("html_"):
            found = (NAME.match(token.content, at.start()) for at in TAG.finditer(token.content))
            notes.removed.update(name[1].lower() for name in found if name)
    return "\n".join(lines)


def _all(tokens: Iterable[Token]) -> Iterable[Token]:
    for token in tokens:
        yield token
        yield from token.children or ()


# --- code and outputs --------------------------------------------------------------------------


def _code(cell: NotebookNode, folder: Path, notes: Notes) -> NotebookNode:
    """A code cell with what it shows; folded where the notebook hides its source."""
    outputs = [shown for output in cell.outputs if (shown := _output(output, folder, notes))]
    folded = cell.metadata.get("jupyter", {}).get("source_hidden")
    return v4.new_code_cell(
        cell.source,
        id=cell.id,
        outputs=outputs,
        execution_count=cell.execution_count,
        metadata={"tags": ["hide-input"]} if folded else {},
    )


def _output(output: NotebookNode, folder: Path, notes: Notes) -> NotebookNode | None:
    """An output in one form; None where it has none that a page shows."""
    if output.output_type == "stream":  # a warning names its file, in the folder of one machine
        text = output.text.replace(f"{ROOT}{os.sep}", "")
        return v4.new_output("stream", name=output.name, text=text)
    if output.output_type == "error":
        return output
    for kind, show in FORMS.items():
        if kind in output.data:
            facts = output.metadata.get(kind, {})
            data = show(output.data[kind], facts, folder, notes)
            return v4.new_output("display_data", data)
    return None


def _html(markup: str, facts: dict[str, Any], folder: Path, notes: Notes) -> dict[str, str]:
    soup = BeautifulSoup(markup, "html.parser")
    for image in soup.select("img[src]"):
        source = notes.embed(str(image["src"]), folder)
        if source is None:
            del image["src"]  # its words stay
        else:
            image["src"] = source
    keep_intervals(soup)
    page, removed = clean(soup)
    notes.removed.update(removed)
    return {"text/html": page}


def _image(kind: str) -> Callable[..., dict[str, str]]:
    def show(code: str, facts: dict[str, Any], folder: Path, notes: Notes) -> dict[str, str]:
        if kind == "image/svg+xml":
            code = base64.b64encode(code.encode()).decode()
        code = "".join(code.split())  # some kernels break the lines of base64
        size = "".join(
            f' {side}="{facts[side]}"'
            for side in ("width", "height")
            if type(facts.get(side)) is int
        )
        alt = html.escape(facts.get("alt", "a figure"))
        return {
            "text/html": f'<img src="data:{kind};base64,{html.escape(code)}" alt="{alt}"{size}>'
        }

    return show


def _said(text: str, facts: dict[str, Any], folder: Path, notes: Notes) -> dict[str, str]:
    return {"text/markdown": plain_markdown(text, folder, notes)}


FORMS: dict[str, Callable[[str, dict[str, Any], Path, Notes], dict[str, str]]] = {
    "text/html": _html,
    **{kind: _image(kind) for kind in ("image/svg+xml", "image/png", "image/jpeg", "image/gif")},
    "text/latex": lambda text, *_: {"text/latex": text},
    "text/markdown": _said,
    "text/plain": lambda text, *_: {"text/plain": text},
}
"""How an output is shown; of several forms, the first one here."""


def embed(src: str, folder: Path) -> str:
    """An image that lies beside the notebook, as an address that holds it whole.

    Raises:
        ValueError: it is none, or it lies outside the notebooks' own checkout, where a page that
            is passed on must not take a file from.
    """
    if ":" in src:
        raise ValueError("a page loads nothing from elsewhere; put the image beside the notebook")
    file = folder / unquote(src)
    if not os.path.isfile(file):  # Path.is_file raises on a name that is too long
        raise ValueError("there is no such file")
    checkout = ROOT if folder.resolve().is_relative_to(ROOT) else folder.resolve()
    if not file.resolve().is_relative_to(checkout):
        raise ValueError(f"it lies outside {checkout}; copy it there")
    kind, _ = mimetypes.guess_type(file.name)
    if not (kind and kind.startswith("image/")):
        raise ValueError("its name is not that of an image, such as .png or .svg")
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
