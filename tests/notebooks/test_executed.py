"""Every notebook runs from a fresh kernel, offline, top to bottom."""

import os
from pathlib import Path

import nbformat
import pytest
from small import outputs, write_notebook

from mmlab.notebooks import run
from mmlab.notebooks.warm import ONE_THREAD, WarmParent

FETCH = """
import socket
import urllib.request
try:
    urllib.request.urlopen("http://192.0.2.1", timeout=5)  # an address kept for documentation
except OSError as error:
    assert "no network in the smoke profile" in str(error), error
"""


def test_notebook_runs(path: Path, tmp_path: Path, warm_parent: WarmParent) -> None:
    (result,) = run([path.stem[:2]], profile="smoke", out=tmp_path, timeout=300, warm=warm_parent)
    assert result.ok, f"{result}\n{result.detail}"
    assert [*Path(os.environ["MMLAB_FIGURES"]).glob(f"{path.stem[:2]}-*.png")], "not saved there"
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


def test_a_notebook_says_the_same_in_a_plain_run(
    tmp_path: Path,
    warm_parent: WarmParent,
    no_network: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reference: each process from nothing. Every text, number and figure is compared."""
    for name, value in ONE_THREAD.items():
        monkeypatch.setenv(name, value)
    for way, parent in (("plain", None), ("warm", warm_parent)):
        (result,) = run([0], profile="smoke", out=tmp_path / way, timeout=300, warm=parent)
        assert result.ok, f"{result}\n{result.detail}"
    (path,) = (tmp_path / "plain/notebooks").glob("*.ipynb")
    plain, warm = outputs(path), outputs(tmp_path / "warm/notebooks" / path.name)
    assert any("image/" in str(cell) for cell in plain)
    assert warm == plain


@pytest.mark.parametrize("way", ["plain", "warm"])
def test_kernels_have_no_network_here(
    tmp_path: Path, way: str, no_network: None, request: pytest.FixtureRequest
) -> None:
    parent = request.getfixturevalue("warm_parent") if way == "warm" else None
    write_notebook(tmp_path / "notebooks", "00-fetch", FETCH)
    (result,) = run(folder=tmp_path / "notebooks", out=tmp_path / "build", warm=parent)
    assert result.ok, result
