"""Notebook 01's exercises: unsolved they say so, solved they are right, wrong they say what."""

import re
from pathlib import Path

import matplotlib
import nbformat
import pytest

matplotlib.use("Agg")

from mmlab.notebooks.catalogue import NOTEBOOKS

(FILE,) = NOTEBOOKS.glob("01-*.ipynb")
CELLS = nbformat.read(Path(FILE), as_version=4).cells
SOLUTIONS = [
    re.search(r"```python\n(.*?)```", cell.source, re.S)[1]
    for cell in CELLS
    if "<summary>Solution" in cell.source
]
STUBS = [cell.source for cell in CELLS if cell.source.rstrip().endswith(": ...")]
STUB = re.compile(r"^def (\w+)\(.*\): \.\.\.$", re.MULTILINE)


@pytest.fixture(scope="module")
def names() -> dict:
    """What the notebook defines, without its experiments."""
    space: dict = {}
    for cell in CELLS:
        tags = set(cell.metadata.get("tags", []))
        if cell.cell_type == "code" and tags <= {"parameters", "implement"}:
            exec(cell.source, space)
    return space


@pytest.mark.parametrize("number", range(len(STUBS)))
def test_unsolved(number, names, capsys, monkeypatch):
    monkeypatch.setenv("MMLAB_STRICT", "1")
    exec(STUBS[number], names)
    assert "not written yet" in capsys.readouterr().out


@pytest.mark.parametrize("number", range(len(STUBS)))
def test_solved(number, names, capsys, monkeypatch):
    monkeypatch.setenv("MMLAB_STRICT", "1")
    exec(STUB.sub(lambda _: SOLUTIONS[number], STUBS[number]), names)
    assert "✓" in capsys.readouterr().out


def test_a_forgotten_mean_is_named(names, capsys, monkeypatch):
    monkeypatch.delenv("MMLAB_STRICT", raising=False)
    wrong = SOLUTIONS[0].replace(" / len(y)", "")
    exec(STUB.sub(lambda _: wrong, STUBS[0]), names)
    assert "likely mistake: a mean divides by B" in capsys.readouterr().out


def test_the_open_experiment_runs(names, capsys):
    exec(SOLUTIONS[2], names | {"side": {"seeds": range(2), "epochs": 2, "device": "cpu"}})
    printed = capsys.readouterr().out
    assert "speaker" in printed and "seen" in printed and "0.03" in printed
