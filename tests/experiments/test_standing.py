"""The standing controls, as the holdout chose them."""

import json

import pytest

from mmlab.balancers import METHODS, OGM, Balancer, RefittedHead, ScaledInputs, Unimodal
from mmlab.balancers.registry import CONTROLS
from mmlab.datasets.synthetic import synthetic
from mmlab.experiments import compare, standing
from mmlab.experiments.standing import keep, standing_rows
from mmlab.models.encoders import BUILDERS


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """A file of choices: b is best alone, and half of a's input is best."""
    monkeypatch.setattr(standing, "FILE", tmp_path / "standing.json")
    monkeypatch.setattr(standing, "load", lambda name, seed: synthetic(seed=seed, n=(64, 32, 32)))
    standing.FILE.write_text("{}")
    rows = {name: {"score": 0.5, "chosen": {}} for name in standing_rows(["a", "b"])}
    rows["b alone"] = {"score": 0.6, "chosen": {"lr": 0.04}}
    rows["joint, input of a"] = {"score": 0.7, "chosen": {"factor": 0.5}}
    rows["joint, input of b"] = {"score": 0.6, "chosen": {"factor": 0.25}}
    rows["OGM-GE"] = {"score": 0.6, "chosen": {"alpha": 0.3}}
    common = {"modalities": ["a", "b"], "epochs": 1, "lr": 0.02, "seeds": "seeds 0–4"}
    keep("synthetic", "mlp", {}, rows=rows, **common)


@pytest.mark.parametrize("encoders", BUILDERS)
def test_every_method_and_control_has_a_row_and_five_trials(encoders):
    rows = standing_rows(["a", "b"], encoders)
    made = [make(**({"factor": 0.5} if "factor" in grid else {})) for make, grid in rows.values()]
    kinds = {type(balancer).__name__ for balancer in made}
    control = {"EncoderRates" if encoders == "mlp" else "ScaledInputs"}  # no row of this kind
    assert kinds == {m.kind for m in METHODS.values()} | {*CONTROLS} - control | {"Unimodal"}
    assert {*METHODS} <= {*rows}
    assert all(len(values) == 5 for _, grid in rows.values() for values in grid.values())
    assert all(len(grid) == 1 for _, grid in rows.values())


def test_the_rows_are_those_that_the_holdout_chose(kept):
    found = standing.standing("synthetic", "OGM-GE")
    made = {name: make() for name, make in found["methods"].items()}
    assert [*made] == [
        "joint",
        "b alone",
        "ensemble",
        "joint, input of a",
        "joint, head refitted",
        "DGL",
        "uniform",
        "OGM-GE",
    ]
    assert isinstance(made["b alone"], Unimodal) and made["b alone"].m == "b"
    assert isinstance(made["joint, input of a"], ScaledInputs)
    assert made["joint, input of a"].scales == {"a": 0.5}
    assert isinstance(made["joint, head refitted"], RefittedHead)
    assert isinstance(made["OGM-GE"], OGM) and made["OGM-GE"].alpha == 0.3
    assert found["settings"]["b alone"] == {"lr": 0.04} and found["settings"]["OGM-GE"] == {}
    assert found["lr"] == 0.02 and found["epochs"] == 1
    assert "holdout" in found["tuned"] and "seeds 0–4" in found["tuned"]


def test_compare_takes_them_as_they_are(kept):
    table = compare(seeds=range(2), **standing.standing("synthetic", "MLA"))
    assert len(table) == 16 and "MLA" in {*table["method"]}


KEPT = [
    ("av-digits", "normalised", {}),
    ("watch", "mlp", {"split": "arm"}),
    ("watch", "mlp", {"split": "person"}),
    ("icons", "mlp", {}),
    ("stamps", "mlp", {}),
]


@pytest.mark.parametrize(("name", "encoders", "settings"), KEPT)
def test_what_the_library_keeps_makes_every_method_that_was_tuned(name, encoders, settings):
    tuned = json.loads(standing.FILE.read_text())[standing.key_of(name, encoders, settings)]["rows"]
    methods = [method for method in METHODS if method in tuned]
    found = standing.standing(name, *methods, encoders=encoders, **settings)
    assert {"joint", "uniform", "MMPareto", "MLA"} <= {*methods} <= {*found["methods"]}
    rates = standing_rows([], encoders)["joint"][1]["lr"]
    for row, make in found["methods"].items():
        assert isinstance(make(), Balancer)
        assert found["settings"][row].get("lr", found["lr"]) in rates


def test_each_choice_has_its_own_entry(kept):
    before = json.loads(standing.FILE.read_text())
    keep("watch", "cnn", {"split": "arm"}, modalities=[], epochs=3, lr=1, seeds="", rows={})
    after = json.loads(standing.FILE.read_text())
    assert {*after} - {*before} == {"watch split='arm', cnn"}
    assert after["synthetic, mlp"] == before["synthetic, mlp"]


def test_what_was_not_tuned_is_refused(kept):
    with pytest.raises(ValueError, match=r"'synthetic, cnn' was not tuned; tuned are 'synthetic"):
        standing.standing("synthetic", encoders="cnn")
    with pytest.raises(ValueError, match=r"a method is 'OMG'; .*OGM"):
        standing.standing("synthetic", "OMG")
    chosen = json.loads(standing.FILE.read_text())
    del chosen["synthetic, mlp"]["rows"]["OGM"]
    standing.FILE.write_text(json.dumps(chosen))
    with pytest.raises(ValueError, match=r"'OGM' was not tuned on 'synthetic, mlp'; tuned"):
        standing.standing("synthetic", "OGM")
