"""An executed notebook as the body of a page: nbconvert's HTML, without all that is active."""

import base64
import html
import mimetypes
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter

from mmlab.notebooks.catalogue import ROOT
from mmlab.notebooks.clean import clean


def body(notebook: nbformat.NotebookNode, folder: Path) -> tuple[str, list[str]]:
    """The body, its links as the notebook has them; and notes of what it had to leave out.

    Args:
        notebook: the executed notebook; its vector images are changed in place.
        folder: where the source notebook lies, for the images beside it.

    Raises:
        ValueError: the HTML of a cell swallows the cells below.
    """
    notes = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            _describe_vector_image(output)
    markup, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    soup = BeautifulSoup(markup, "html.parser")
    for image in soup.select("img[src]"):
        src = str(image["src"])
        if not src.startswith("data:"):
            try:
                image["src"] = _embed(src, folder)
            except ValueError as error:
                notes.append(f"its page lacks the image {src!r}: {error}")
                del image["src"]  # its words stay
    for cell in notebook.cells:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            _fold(soup, cell.id)
    page, removed = clean(soup)
    _check_whole(notebook, page)
    if removed:
        names = ", ".join(removed)
        notes.append(f"its page leaves out what could run or load something by itself: {names}")
    return page, notes


def _check_whole(notebook: nbformat.NotebookNode, page: str) -> None:
    """Raise ValueError if a cell is missing because one above it left a tag open."""
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type != "raw" and f'id="cell-id={cell.id}"' not in page:
            raise ValueError(
                f"the HTML of cell {number} leaves a tag open, such as <style> or <!--, which "
                "swallows all that follows; close it"
            )


def _fold(soup: BeautifulSoup, cell: str) -> None:
    """Fold the code of a cell, as JupyterLab does where the notebook asks for it."""
    code = soup.select_one(f'[id="cell-id={cell}"] .input')
    if code is None:  # a cell of text, which the page shows
        return
    fold = code.wrap(soup.new_tag("details"))
    summary = soup.new_tag("summary")
    summary.string = "Code"
    fold.insert(0, summary)


def _describe_vector_image(output: dict[str, Any]) -> None:
    """Turn an SVG with alt text into HTML: nbconvert hands alt text on for PNG only."""
    data, facts = output.get("data", {}), output.get("metadata", {}).get("image/svg+xml", {})
    if facts.get("alt") and "image/svg+xml" in data:
        code = base64.b64encode(data.pop("image/svg+xml").encode()).decode()
        alt = html.escape(facts["alt"])
        data["text/html"] = f'<img src="data:image/svg+xml;base64,{code}" alt="{alt}">'


def _embed(src: str, folder: Path) -> str:
    """An image that lies beside the notebook, as part of the page (nbconvert's own way to do
    this takes folded ``<details>`` apart).

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
