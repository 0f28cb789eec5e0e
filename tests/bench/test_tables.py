"""The benchmark's tables have their shape. No time is asserted."""

import pytest

from mmlab.balancers import METHODS
from mmlab.bench import tables as timed


def test_every_method_stands_beside_its_floor(tables):
    (table,) = tables("methods").values()
    assert ["joint", *table] == list(METHODS)
    assert table["MMPareto"]["floor"] == pytest.approx(4 / 3)
    assert table["BDO"]["floor"] == pytest.approx(4 / 3)
    assert timed.METHODS is METHODS


def test_scaling_has_every_method_that_trains_no_copies():
    assert set(timed.SCALED) == METHODS.keys() - {"joint", "G-Blend", "UMT"}


def test_replicas_loop_and_loader_have_their_rows(tables, monkeypatch):
    monkeypatch.setattr(timed, "METHODS", {"MMPareto": timed.METHODS["MMPareto"]})
    names = next(iter(tables("replicas").values()))
    assert "MMPareto, R = 32" in names
    result = tables("loop", "loader")
    assert list(result["fit over a hand-written loop"]) == ["on a plain module", "fit"]
    assert list(result["a whole run over joint training"]) == ["GradientBlending, online"]
    assert list(result["batches, over slices of what was shuffled once"]) == ["DataLoader"]
    assert list(result["an epoch of pictures, over a DataLoader's by hand"]) == ["fit on a Stream"]
