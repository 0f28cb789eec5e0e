"""Every block of the pages about other programs runs, each page from top to bottom."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[2] / "docs"


def ran(page: str, without: str = "\0") -> dict:
    """All names that the blocks of a page leave; blocks that hold the text `without` do not run."""
    text = (DOCS / page).read_text(encoding="utf-8")
    names: dict = {"__name__": "__main__"}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        if without not in block:
            exec(block, names)
    return names


def test_export(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    onnx = importlib.util.find_spec("onnxscript") is not None
    names = ran("export.md", without="\0" if onnx else "onnx")
    assert torch.equal(names["logits"], names["run"].predict(names["data"].test[:8]))
    assert capsys.readouterr().out.startswith("True\ntorch.Size([3, 10])\n")
    assert (tmp_path / "net.onnx").exists() == onnx


def test_own_loop(capsys):
    names = ran("own-loop.md")
    assert capsys.readouterr().out.count("\n") == 3
    assert sum(map(float, names["run"].balancer.weights.values())) == pytest.approx(1)


def test_lightning(capsys):
    pytest.importorskip("lightning")
    names = ran("lightning.md")
    assert names["module"].trainer.callback_metrics["accuracy"] > 0.5  # chance is 0.1
    weights = names["blended"].balancer.weights
    assert len({float(w) for w in weights.values()}) == 3
    assert "{'joint': tensor(" in capsys.readouterr().out


def test_accelerate(capsys):
    pytest.importorskip("accelerate")
    names = ran("accelerate.md")
    first, last = map(float, capsys.readouterr().out.split())
    assert last < first < 2.3
    assert names["balancer"].factors.sum() == pytest.approx(1)
