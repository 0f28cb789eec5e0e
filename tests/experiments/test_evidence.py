"""The program that tunes and compares all methods and controls on one data set."""

import json

import pandas as pd
import pytest

from mmlab import evidence
from mmlab.datasets.synthetic import synthetic
from mmlab.experiments import jobs, results, standing


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """The program on made data with few rows; it keeps its choices in a file of its own."""
    kept = ("joint", "a alone", "ensemble", "joint, input of a", "uniform")
    rows = standing.standing_rows(["a", "b"])
    few = {name: rows[name] for name in kept}
    monkeypatch.setattr(evidence, "standing_rows", lambda *_: few)
    monkeypatch.setattr(standing, "load", lambda name, seed: synthetic(seed=seed, n=(64, 32, 32)))
    monkeypatch.setattr(standing, "FILE", tmp_path / "standing.json")
    standing.FILE.write_text("{}")
    asked = ["synthetic", "--epochs", "1", "--trials", "2", "--seeds", "3"]
    return lambda *more: evidence.main([*asked, "--cache", str(tmp_path), *more])


def test_the_same_command_again_trains_nothing_and_prints_the_same(quick, monkeypatch, capsys):
    quick()
    first = capsys.readouterr().out
    monkeypatch.setattr(jobs, "fit_seeds", None)
    quick()
    assert capsys.readouterr().out == first
    assert all(name in first for name in ("joint, input of a", "uniform", "3 seeds"))
    assert json.loads(standing.FILE.read_text()) == {}


def test_rows_without_a_rate_of_their_own_train_at_that_of_joint_training(quick, monkeypatch):
    rates = {}

    def seen(*, settings, lr, methods, **_):
        rates.update({name: settings[name].get("lr", lr) for name in methods})
        raise ValueError("that is all")

    monkeypatch.setattr(evidence, "compare", seen)
    monkeypatch.setattr(evidence, "RATES", {"lr": (0.05, 0.07)})
    with pytest.raises(SystemExit):
        quick()
    assert rates["uniform"] == rates["joint, input of a"] and rates["uniform"] in (0.05, 0.07)


def test_what_was_chosen_is_kept(quick):
    quick("--keep")
    (key, found), *more = json.loads(standing.FILE.read_text()).items()
    assert key == "synthetic, mlp" and not more
    assert found["epochs"] == 1 and found["modalities"] == ["a", "b"]
    assert {*found["rows"]["uniform"]["chosen"]} == {"encoder_scale"}
    assert {*found["rows"]["joint"]["chosen"]} == {"lr"}
    assert 0 < found["rows"]["joint"]["score"] <= 1


def test_every_run_is_saved_under_the_command_that_made_it(quick, tmp_path, monkeypatch):
    quick("--csv", str(tmp_path / "made.csv"))
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    runs = results.read_results("made")
    assert runs.attrs["command"].startswith("python -m mmlab.evidence synthetic --epochs 1 --tri")
    tuned, plain = runs[runs["tuned"]], runs[~runs["tuned"]]
    assert list(tuned["method"].value_counts()) == [3] * 5 and {*runs["seed"]} == {0, 1, 2}
    assert {*plain["method"]} == {*tuned["method"]} - {"joint, input of a"}
    assert tuned.query("method == 'uniform'")["chosen"].str.startswith("encoder_scale=").all()
    assert plain["chosen"].isna().all()
    shares = ["accuracy", "macro-F1", "calibration error", "probe a", "probe b"]
    assert runs[shares].stack().between(0, 1).all()


def test_results_that_are_not_there_are_named_with_those_that_are(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    (tmp_path / "watch-arm.csv").write_text("")
    with pytest.raises(FileNotFoundError, match="'watch'; there are watch-arm"):
        results.read_results("watch")


def test_a_choice_of_epoch_by_the_test_is_told_from_one_by_the_holdout():
    class Scripted:
        """Scores by epoch; epoch 0 is the untrained network."""

        history = pd.DataFrame(
            [
                (epoch, split, "prediction", "accuracy", score)
                for split, scores in {"holdout": (0.5, 0.7, 0.7), "test": (0.9, 0.4, 0.6)}.items()
                for epoch, score in enumerate(scores, 1)
            ],
            columns=["epoch", "split", "output", "metric", "value"],
        )

    assert results.by_epoch(Scripted()) == {"best on holdout": 0.4, "best on test": 0.9}


def test_the_scores_of_the_last_epoch_are_those_of_the_table(quick, tmp_path, monkeypatch):
    quick("--csv", str(tmp_path / "made.csv"))
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    runs = results.read_results("made")  # of one epoch: no choice
    assert runs["best on test"].tolist() == runs["accuracy"].tolist()
    assert runs["best on holdout"].tolist() == runs["accuracy"].tolist()


def test_each_modality_may_have_an_encoder_of_its_own(quick):
    quick("--keep", "--encoders", "a=normalised,b=mlp")
    assert [*json.loads(standing.FILE.read_text())] == ["synthetic, a=normalised b=mlp"]
    rows = standing.standing_rows(["a", "b"], {"a": "normalised", "b": "mlp"})
    assert {"joint, rate of a", "joint, input of b"} <= {*rows}
    assert "joint, input of a" not in rows


@pytest.mark.parametrize("wrong", ["cn", "a=cn", "a=cnn,mlp", "=cnn,", "a"])
def test_encoders_that_are_none_are_named(quick, wrong, capsys):
    with pytest.raises(SystemExit):
        quick("--encoders", wrong)
    assert f"{wrong!r} is no choice of encoders; give one of mlp" in capsys.readouterr().err


def test_an_installed_library_is_not_changed(quick, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evidence, "CHECKOUT", tmp_path)
    with pytest.raises(SystemExit):
        quick("--keep")
    assert "use it in a checkout" in capsys.readouterr().err
    assert json.loads(standing.FILE.read_text()) == {}


def test_what_cannot_be_done_is_said(capsys):
    with pytest.raises(SystemExit) as ended:
        evidence.main(["av-digit"])
    assert ended.value.code == 2 and "did you mean 'av-digits'" in capsys.readouterr().err


def test_methods_that_are_asked_for_stand_beside_the_controls(quick, tmp_path, monkeypatch, capsys):
    rows = standing.standing_rows(["a", "b"])
    kept = ("joint", "a alone", "joint, input of a", "OGM", "MLA", "G-Blend")
    monkeypatch.setattr(evidence, "standing_rows", lambda *_: {name: rows[name] for name in kept})
    path = tmp_path / "few.csv"
    quick("--methods", "OGM,MLA", "--csv", str(path))
    assert [*pd.read_csv(path, comment="#").method.unique()] == [*kept[:-1]]
    assert "--methods OGM,MLA --csv" in path.read_text().splitlines()[0]
    with pytest.raises(SystemExit):
        quick("--methods", "OMG")
    assert "a method is 'OMG'" in capsys.readouterr().err
