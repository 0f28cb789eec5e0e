"""Notebook 01's open experiment: nothing in the notebook checks it, so its solution runs here."""

import re

import matplotlib
import nbformat
import pytest

matplotlib.use("Agg")

from mmlab.notebooks.catalogue import NOTEBOOKS

(FILE,) = NOTEBOOKS.glob("01-*.ipynb")


def test_the_open_experiment_runs(capsys: pytest.CaptureFixture[str]) -> None:
    cells = nbformat.read(FILE, as_version=4).cells
    folded = [cell.source for cell in cells if "<summary>Solution" in cell.source]
    solution = re.search(r"```python\n(.*?)```", folded[-1], re.DOTALL)[1]
    names: dict[str, object] = {}
    for cell in cells:
        if cell.cell_type == "code" and {*cell.metadata.get("tags", [])} <= {
            "parameters",
            "implement",
        }:
            exec(cell.source, names)
    exec(solution, names | {"training": {"seeds": range(2), "epochs": 2, "device": "cpu"}})
    printed = capsys.readouterr().out
    assert "speaker" in printed and "seen" in printed and "0.03" in printed
