"""Every notebook runs from a fresh kernel, offline, top to bottom."""

from pathlib import Path

import nbformat
from nbformat import v4

from mmlab.notebooks import run

FETCH = """
import socket
import urllib.request
try:
    urllib.request.urlopen("http://192.0.2.1", timeout=5)  # an address kept for documentation
except OSError as error:
    assert "no network in the smoke profile" in str(error), error
"""


def test_notebook_runs(path: Path, tmp_path: Path, no_network: None) -> None:
    (result,) = run([path.stem[:2]], profile="smoke", out=tmp_path, timeout=300)
    assert result.ok, f"{result}\n{result.detail}"
    text = (tmp_path / f"notebooks/{path.stem}.ipynb").read_text("utf-8")
    notebook = nbformat.reads(text, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert all(output.output_type != "error" for output in outputs)
    assert "widgets" not in notebook.metadata and "widget-view" not in text
    if int(path.stem[:2]) >= 1:
        assert any(alt for output in outputs for alt in alt_texts(output)), "no figure with words"


def alt_texts(output: nbformat.NotebookNode) -> list[str]:
    """The alt texts of an output's images."""
    kinds = [kind for kind in output.get("data", {}) if kind.startswith("image/")]
    return [output.metadata.get(kind, {}).get("alt", "") for kind in kinds]


def test_kernels_have_no_network_here(tmp_path: Path, no_network: None) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    fetch = v4.new_notebook(cells=[v4.new_code_cell(FETCH)], metadata={"kernelspec": kernel})
    nbformat.write(fetch, folder / "00-fetch.ipynb")
    (result,) = run(folder=folder, out=tmp_path / "build")
    assert result.ok, result
