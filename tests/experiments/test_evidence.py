"""The program that tunes and compares all methods and controls on one data set."""

import pytest

from mmlab import evidence
from mmlab.balancers import METHODS
from mmlab.balancers.registry import CONTROLS
from mmlab.datasets.synthetic import synthetic
from mmlab.experiments import jobs


@pytest.mark.parametrize("normalised", [False, True])
def test_every_method_and_control_has_a_row_and_five_trials(normalised):
    rows = evidence.rows_of(["a", "b"], normalised)
    made = [make(**({"factor": 0.5} if "factor" in grid else {})) for make, grid in rows.values()]
    kinds = {type(balancer).__name__ for balancer in made}
    control = {"ScaledInputs" if normalised else "EncoderRates"}  # the other one stands for it
    assert kinds == {m.kind for m in METHODS.values()} | {*CONTROLS} - control | {"Unimodal"}
    assert {*METHODS} <= {*rows}
    assert all(len(values) == 5 for _, grid in rows.values() for values in grid.values())
    assert all(len(grid) == 1 for _, grid in rows.values())


def test_the_same_command_again_trains_nothing_and_prints_the_same(monkeypatch, tmp_path, capsys):
    kept = ("joint", "ensemble", "joint, input of a", "uniform")
    rows = evidence.rows_of(["a", "b"], False)
    monkeypatch.setattr(evidence, "rows_of", lambda *_: {name: rows[name] for name in kept})
    monkeypatch.setattr(evidence, "load", lambda name, seed: synthetic(seed=seed, n=(64, 32, 32)))
    asked = ["synthetic", "--epochs", "1", "--trials", "2", "--seeds", "3"]
    asked += ["--cache", str(tmp_path)]
    evidence.main(asked)
    first = capsys.readouterr().out
    monkeypatch.setattr(jobs, "fit_seeds", None)
    evidence.main(asked)
    assert capsys.readouterr().out == first
    assert all(name in first for name in kept) and "3 seeds" in first


def test_what_cannot_be_done_is_said(capsys):
    with pytest.raises(SystemExit) as ended:
        evidence.main(["av-digit"])
    assert ended.value.code == 2 and "did you mean 'av-digits'" in capsys.readouterr().err
