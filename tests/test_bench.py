"""The benchmark's output has its shape, and its two loops do the same work. No time is asserted."""

import json

import pytest
import torch

from mmlab import balancers, bench, load
from mmlab.balancers import Joint
from mmlab.models import MultimodalNet


def test_the_table_has_a_median_and_quartiles_for_every_method(capsys):
    bench.main(["--json", "--rounds", "2"])
    result = json.loads(capsys.readouterr().out)
    tables = [result[key] for key in result if key != "rounds"]
    assert result["rounds"] == 2 and list(tables[0]) == ["on a plain module", "fit"]
    assert list(tables[1]) == list(bench.BALANCERS)
    for row in (tables[0] | tables[1]).values():
        assert 0 < row["lower quartile"] <= row["median"] <= row["upper quartile"]


def test_every_method_is_timed():
    methods = set(balancers.__all__) - {"Balancer", "Step", "Joint"}
    assert {type(make()).__name__ for make in bench.BALANCERS.values()} == methods


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


def test_too_few_rounds_are_refused(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--rounds", "1"])
    assert "--rounds is 1; quartiles need at least 2" in capsys.readouterr().err
