"""The list of result files: its commands, its units of repetition, a row that is run again."""

import pandas as pd
import pytest

from mmlab import evidence
from mmlab.datasets import load
from mmlab.experiments import leaderboard, results
from mmlab.experiments.leaderboard import FILES, File, command, judged, per_source, rerun, values_of

MADE = sorted(path.stem for path in results.FOLDER.glob("*.csv"))


@pytest.mark.parametrize("name", MADE)
def test_a_file_is_on_the_list_under_exactly_its_command(name):
    assert results.read_results(name).attrs["command"] == command(name)


def test_one_command_makes_all_files_with_one_cache(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(evidence, "_untuned", lambda *_: {})
    monkeypatch.setattr(evidence, "compare", lambda **_: None)
    monkeypatch.setattr(evidence, "report", lambda *_, **__: pd.DataFrame())
    monkeypatch.setattr(evidence, "caption", str)
    saved = {}

    def save(path, line, *_):
        saved[path.stem] = line

    monkeypatch.setattr(evidence, "_save", save)
    monkeypatch.setattr(evidence, "drawn", lambda *_: None)

    class Nothing:
        chosen, optima = {}, pd.DataFrame()

    monkeypatch.setattr(
        evidence, "_tuned", lambda data, options, sweep: asked.append(options) or Nothing()
    )
    evidence.main(["--all", "--cache", str(tmp_path), "--parallel", "2"])
    assert [*saved] == [*FILES]
    assert {(one.cache, one.parallel) for one in asked} == {(tmp_path, 2)}
    for name, line in saved.items():
        assert f"python -m mmlab.evidence {line}".startswith(command(name).partition(" --csv")[0])


@pytest.mark.parametrize("more", [["items"], ["--csv", "x.csv"], ["--keep"]])
def test_all_files_leave_no_room_for_one(more, capsys):
    with pytest.raises(SystemExit):
        evidence.main(["--all", *more])
    assert "--cache and --parallel alone" in capsys.readouterr().err


def test_nothing_at_all_is_no_command(capsys):
    with pytest.raises(SystemExit):
        evidence.main([])
    assert "or --all" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, file in FILES.items() if file.overlap])
def test_the_overlap_is_that_of_the_splits(name):
    file = FILES[name]
    data = load(file.name, seed=0, **file.settings)
    assert file.overlap == pytest.approx(len(data.test) / len(data.train), abs=0.05)


def test_the_unit_is_the_fold_where_seeds_take_folds_in_turn():
    seeds = pd.Series([0.0, 3.0, 6.0, 2.0, 5.0, 8.0])
    values, overlap = values_of("av-digits", seeds)
    assert list(values) == [1.0, 4.0, 7.0] and overlap == 0
    values, overlap = values_of("items", seeds)
    assert list(values) == list(seeds) and overlap == FILES["items"].overlap


def test_differences_are_judged_as_one_family():
    up, down = [0.030, 0.031, 0.029, 0.032], [-0.030, -0.031, -0.029, -0.032]
    found = pd.DataFrame({"units": [up, down, [0.01, 0.02, 0.03, 0.04], up], "overlap": 0.0})
    found.loc[3, "overlap"] = 100.0
    own = judged(found)
    assert [*own["verdict"]] == ["seen", "not seen", "cannot tell here", "cannot tell here"]
    assert own["p"][2] < 0.05 < own["p, Holm"][2] == pytest.approx(2 * own["p"][2])


def test_files_of_one_source_have_one_vote():
    scores = pd.DataFrame({"a": [0.2, 0.4, 0.9]}, index=["av-digits", "sum-digits", "items"])
    assert per_source(scores)["a"].to_dict() == pytest.approx({"digits": 0.3, "items": 0.9})


def test_a_row_is_run_again_with_what_was_chosen(monkeypatch, tmp_path):
    chosen = {"joint": "lr=0.02", "uniform": "encoder_scale=0.5", "DGL": "lr=0.08"}
    rows = [f"{m},0,0.5,{t},{c if t else ''}" for m, c in chosen.items() for t in (True, False)]
    (tmp_path / "x.csv").write_text(
        "\n".join(["# made", "method,seed,accuracy,tuned,chosen", *rows])
    )
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setitem(FILES, "x", File("synthetic", {}, "made"))
    seen = []

    def compared(methods, data, **options):
        (make,) = methods.values()
        seen.append((make(), options))
        return pd.DataFrame({"accuracy": [1.0]})

    monkeypatch.setattr(leaderboard, "compare", compared)
    for method in chosen:
        rerun("x", method, 3)
    rerun("x", "uniform", 3, tuned=False)
    (_, joint), (uniform, second), (_, third), (plain, last) = seen
    assert (joint["lr"], second["lr"], third["lr"]) == (0.02, 0.02, 0.08) and "lr" not in last
    assert uniform.encoder_scale == 0.5 and plain.encoder_scale != 0.5
    assert joint["seeds"] == [3]
    with pytest.raises(ValueError, match="'nothing'"):
        rerun("x", "nothing", 0)
