"""An executed notebook as the body of a page: nbconvert's HTML, without scripts."""

import base64
import html
import mimetypes
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup
from nbconvert import HTMLExporter


def body(notebook: nbformat.NotebookNode, folder: Path) -> str:
    """The body, its links as the notebook has them.

    Args:
        notebook: the executed notebook; its vector images are changed in place.
        folder: where the source notebook lies, for the images beside it.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            _describe_vector_image(output)
    markup, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    soup = BeautifulSoup(markup, "html.parser")
    for tag in soup.select("script, link"):
        tag.decompose()
    for image in soup.select("img[src]"):
        image["src"] = _embed(str(image["src"]), folder)
    for cell in notebook.cells:
        if cell.metadata.get("jupyter", {}).get("source_hidden"):
            _fold(soup, cell.id)
    return str(soup)


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
    this takes folded ``<details>`` apart)."""
    file = folder / src
    if ":" in src or not file.is_file():
        return src
    kind, _ = mimetypes.guess_type(file.name)
    return f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"
