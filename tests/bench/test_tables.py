"""The benchmark's tables have their shape, and its loops do the same work. No time is asserted."""

import json

import pytest
import torch
from torch import nn

from mmlab import balancers, load
from mmlab.balancers import Joint
from mmlab.bench import tables as bench
from mmlab.models import MultimodalNet

TINY = bench.Network(lambda size: nn.Linear(size, 4), {"a": (3,), "v": (2,)}, 4, 1, 8, linear=True)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(bench, "NETWORKS", {"tiny MLPs": TINY})
    for name, values in (("MODALITIES", (2, 3)), ("WIDTHS", (4, 8)), ("BATCHES", (4, 8))):
        monkeypatch.setattr(bench, name, values)


def tables(capsys, *names):
    bench.main([*names, "--json", "--rounds", "2"])
    result = json.loads(capsys.readouterr().out)
    assert result.pop("rounds") == 2 and result.pop("where") == "one CPU thread"
    for table in result.values():
        for row in table.values():
            assert 0 < row["lower quartile"] <= row["median"] <= row["upper quartile"]
    return result


def test_every_method_stands_beside_its_floor(capsys):
    (table,) = tables(capsys, "methods").values()
    assert table.keys() == bench.METHODS.keys()
    assert table["MMPareto"]["floor"] == pytest.approx(4 / 3)
    methods = set(balancers.__all__) - {"Balancer", "Step", "Joint", "Unimodal"}
    assert {type(make()).__name__ for make, _ in bench.METHODS.values()} == methods


def test_scaling_is_drawn(capsys, monkeypatch, tmp_path):
    from mmlab import plotting

    monkeypatch.setattr(plotting, "FIGURES", tmp_path)
    monkeypatch.setattr(bench, "SCALED", ("OGM", "MMPareto"))
    result = tables(capsys, "scaling")
    assert [title.rpartition(" ")[2] for title in result] == ["modalities", "parameters", "batch"]
    assert all(len(table) == 2 * len(bench.SCALED) for table in result.values())
    bench.draw_scaling(result)
    assert (tmp_path / "cost.png").stat().st_size > 10_000


def test_replicas_loop_and_loader_have_their_rows(capsys, monkeypatch):
    monkeypatch.setattr(bench, "METHODS", {"MMPareto": bench.METHODS["MMPareto"]})
    names = next(iter(tables(capsys, "replicas").values()))
    assert "MMPareto, R = 32" in names
    result = tables(capsys, "loop", "loader")
    assert list(result["fit over a hand-written loop"]) == ["on a plain module", "fit"]
    assert list(result["a whole run over joint training"]) == ["GradientBlending, online"]
    assert list(result["batches, over slices of what was shuffled once"]) == ["DataLoader"]


def test_both_loops_end_at_the_same_weights(monkeypatch):
    data, built = load("av-digits", seed=0), []
    build = MultimodalNet.build
    monkeypatch.setattr(
        MultimodalNet, "build", lambda *a, **k: built.append(build(*a, **k)) or built[-1]
    )
    bench.by_hand(data, epochs=1)()
    bench.train(Joint(), data, epochs=1)()
    pairs = zip(built[0].parameters(), built[1].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rounds", "1"], "--rounds is 1; quartiles need at least 2"),
        (["speed"], "unknown table speed; allowed: loop, loader"),
        (["loop", "--figure"], "--figure draws scaling, not loop"),
    ],
)
def test_bad_requests_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        bench.main(arguments)
    assert message in capsys.readouterr().err
