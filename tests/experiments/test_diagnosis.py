"""`diagnose` names the cause where it is known, and says what it measured."""

import numpy as np
import pandas as pd
import pytest
import torch
from worlds import WORLDS, diagnosed

from mmlab import Ensemble
from mmlab import diagnosis as program
from mmlab.datasets import Batch, MultimodalData, drop, load
from mmlab.datasets.synthetic import synthetic
from mmlab.experiments import Diagnosis, diagnose
from mmlab.experiments.diagnosis import _best_scale
from mmlab.experiments.findings import findings_of
from mmlab.training import train_once

SEEDS = range(5)
TINY = {"n": (64, 32, 32), "dims": 4}


def around(mean, spread=0.004):
    """One share per seed with this mean."""
    return pd.Series(mean + spread * np.array([-1.0, 1, 0, 1, -1]) / 2, index=SEEDS)


def findings(chosen=(("loud", 0.25),), probe=0.0, **changed):
    """What is said of these scores; by default nothing is lost, and all are equal at 0.9."""
    names = ("loud", "good", "ensemble", "joint", "ensemble, scaled", "joint, scaled")
    scores = {split: {who: around(0.9) for who in names} for split in ("test", "holdout")}
    for split, given in changed.items():
        scores[split] |= {
            who.replace("_", ", "): x if isinstance(x, pd.Series) else around(x)
            for who, x in given.items()
        }
    probes = {m: around(probe) for m in ("loud", "good")}
    return findings_of(scores, probes, dict(chosen), margin=0.01)


def causes(found):
    return [name for name, one in found.items() if one.verdict == "seen"]


def test_nothing_is_found_where_nothing_is_lost():
    assert causes(findings()) == []


def test_no_cause_is_named_where_only_the_ensemble_is_better():
    better = {"ensemble": 0.95, "ensemble_scaled": 0.95}
    found = Diagnosis("x", findings(test=better), {}, pd.DataFrame(), 0.01, {})
    assert "+5.0" in found.findings["competition"].sentence
    assert found.causes == () and found.headline == "no drop"


@pytest.mark.parametrize(
    ("joint", "spread", "headline"),
    [
        (0.8, 0.004, "a drop by scale"),
        (0.8, 0.5, "cannot tell whether there is a drop"),
        (0.9, 0.004, "no drop"),
    ],
)
def test_the_headline_tells_no_drop_from_no_answer(joint, spread, headline):
    found = findings(test={"joint": around(joint, spread)})
    assert Diagnosis("x", found, {}, pd.DataFrame(), 0.01, {}).headline == headline


def test_a_drop_without_a_cause_says_so():
    found = findings(test={"joint": 0.8, "joint_scaled": 0.8, "ensemble_scaled": 0.8})
    headline = Diagnosis("x", found, {}, pd.DataFrame(), 0.01, {}).headline
    assert headline == "a drop by no cause that was found"


def test_scale_is_a_drop_that_a_constant_mends():
    found = findings(test={"joint": 0.8})
    assert causes(found) == ["drop", "scale"]
    assert "loud × 0.25" in found["scale"].sentence and "+10.0" in found["scale"].sentence


def test_without_a_chosen_scale_there_is_none():
    found = findings(chosen=(), test={"joint": 0.8, "joint_scaled": 0.8})
    assert found["scale"].verdict == "not seen"
    assert "no factor" in found["scale"].sentence


def test_competition_is_a_drop_that_no_constant_mends_and_the_ensemble_has_not():
    lost = {"joint": 0.8, "joint_scaled": 0.8}
    found = findings(test=lost, probe=0.05)
    assert causes(found) == ["drop", "competition"]
    assert "-5.0" in found["competition"].sentence
    assert findings(test=lost, probe=-0.05)["competition"].verdict == "cannot tell here"


def test_a_scale_may_mend_a_part_and_leave_competition():
    found = findings(test={"joint": 0.7, "joint_scaled": 0.8}, probe=0.05)
    assert causes(found) == ["drop", "scale", "competition"]


FALLEN = {"loud": 0.4, "ensemble": 0.8, "ensemble_scaled": 0.8, "joint": 0.75, "joint_scaled": 0.75}


def test_shift_is_a_modality_that_fails_in_the_test_and_takes_the_ensemble_down():
    """There the holdout answers for scale and competition, and it has no drop."""
    found = findings(test=FALLEN)
    assert causes(found) == ["drop", "shift"]
    assert "holdout" in found["competition"].sentence
    assert "loud alone changes by -50.0" in found["shift"].sentence


def test_beside_a_shift_the_holdout_tells_of_scale_and_competition():
    drop = {"joint": 0.7, "joint_scaled": 0.8}
    found = findings(test=FALLEN, holdout=drop, probe=0.05)
    assert causes(found) == ["drop", "scale", "competition", "shift"]


def test_a_modality_that_is_too_sure_on_the_holdout_as_well_is_no_shift():
    low = {"ensemble": 0.8, "ensemble_scaled": 0.8}
    found = findings(test=FALLEN, holdout=low)
    assert found["shift"].verdict != "seen"


def test_a_test_that_is_harder_for_all_is_no_shift():
    found = findings(test={**FALLEN, "good": 0.6, "loud": 0.6, "ensemble": 0.5, "joint": 0.5})
    assert found["shift"].verdict == "not seen"


def test_an_ensemble_that_falls_without_any_modality_falling_is_no_shift():
    found = findings(test={**FALLEN, "loud": 0.9})
    assert found["shift"].verdict != "seen"


def test_less_than_the_margin_does_not_count():
    assert causes(findings(test={"joint": 0.894})) == []


def test_runs_that_disagree_tell_nothing():
    found = findings(test={"joint": around(0.8, 0.5)})
    assert {found[name].verdict for name in ("drop", "scale")} == {"cannot tell here"}


def test_two_loud_inputs_are_scaled_one_after_the_other():
    def train(methods):
        rows = []
        for name, make in methods.items():
            scales = make().scales
            level = 0.5 + 0.2 * (scales.get("a") == 0.25) + 0.1 * (scales.get("b") == 0.5)
            rows += [{"method": name, "seed": s, "choice answer": level} for s in SEEDS]
        return pd.DataFrame(rows)

    start = pd.DataFrame([{"method": "joint", "seed": s, "choice answer": 0.5} for s in SEEDS])
    runs, best, chosen = _best_scale(start, train, ("a", "b", "c"), (0.5, 0.25), 2)
    assert chosen == {"a": 0.25, "b": 0.5} and best == "a × 0.25, b × 0.5"
    assert runs["method"].nunique() == 1 + 6 + 4
    assert _best_scale(start, train, ("a", "b"), (0.5, 0.25), 1)[2] == {"a": 0.25}


def test_a_scale_at_which_a_training_fails_is_not_chosen():
    def train(methods):
        return pd.DataFrame(
            [
                {"method": m, "seed": s, "choice answer": 0.9 if s or m != "a × 0.5" else None}
                for m in methods
                for s in SEEDS
            ]
        )

    start = pd.DataFrame([{"method": "joint", "seed": s, "choice answer": 0.5} for s in SEEDS])
    assert _best_scale(start, train, ("a", "b"), (0.5,), 1)[1] == "b × 0.5"


@pytest.mark.parametrize("expected", [("scale",), ("competition",), ("shift",)], ids=str)
def test_a_cause_that_is_there_by_construction_is_named(expected):
    torch.set_num_threads(1)
    found = diagnosed(WORLDS[expected], draw=0)
    assert found.causes == expected, str(found)


@pytest.fixture(scope="module")
def small():
    return diagnose(
        lambda seed: synthetic(seed=seed, **TINY), scales=(0.5,), epochs=1, batch_size=32
    )


def test_the_scores_are_those_of_the_trainings(small):
    runs = small.runs.set_index(["method", "seed"])
    assert {*small.runs["method"]} >= {"joint", "ensemble", "a × 0.5", "b × 0.5"}
    assert (small.scores["test"]["joint"] == runs.loc["joint", "accuracy"]).all()
    halves = runs.loc["joint", ["holdout answer", "choice answer"]].mean(axis=1)
    np.testing.assert_allclose(halves, runs.loc["joint", "holdout accuracy"])
    for split in ("test", "holdout"):
        scores = small.scores[split]
        for m in "ab":
            assert (scores[m] == runs.loc["ensemble", f"{split} alone {m}"]).all()
        for who in ("joint", "ensemble"):
            assert (scores[who] == runs.loc[who, f"{split} answer"]).all()
    assert [*small.scores["test"]] == [
        *("a", "b", "ensemble", "joint", "ensemble, scaled", "joint, scaled"),
    ]


def test_the_holdout_chooses_the_scale(small):
    means = small.runs.groupby("method")["choice answer"].mean()
    best = means[["joint", "a × 0.5", "b × 0.5"]].max()
    name = "joint" if not small.chosen else "{} × {}".format(*next(iter(small.chosen.items())))
    assert means[name] == best
    chosen = small.runs[small.runs["method"] == name].set_index("seed")["accuracy"]
    assert (small.scores["test"]["joint, scaled"] == chosen).all()


def test_it_prints_a_table_and_four_sentences(small):
    text = str(small)
    assert text.count("points") >= 3 and "a alone" in text and "joint, best scale" in text
    assert text.startswith(f"synthetic: {small.headline}") and repr(small) == text
    assert len(small.sentences) == 4
    page = small._repr_html_()
    assert small.headline in page
    assert page.count("<li>") == 5 and "<table" in page
    for shown in (text, page):
        assert "at another learning rate" in shown and "that the holdout shares" in shown


def test_names_of_modalities_are_escaped_on_a_page():
    names = {m: torch.randn(64, 3) for m in ("<i>", "c")}
    batch = Batch(names, torch.randint(2, (64,)))
    data = MultimodalData(batch, batch, batch)
    found = diagnose(data, scales=(0.5,), epochs=1)
    assert "<i>" not in found._repr_html_()


def test_folds_are_the_unit_where_asked_for():
    found = diagnose(
        lambda seed: synthetic(seed=seed, **TINY),
        seeds=range(6),
        by="fold",
        folds=3,
        scales=(0.5,),
        epochs=1,
    )
    assert all(len(values) == 3 for values in found.scores["test"].values())


BATCH = Batch({"a": torch.randn(8, 2), "b": torch.randn(8, 2)}, torch.randn(8))


@pytest.mark.parametrize(
    ("data", "given", "error", "message"),
    [
        (MultimodalData(BATCH, BATCH, BATCH, task="regression"), {}, ValueError, "'regression'"),
        (synthetic(signal={"a": 2.0}, **TINY), {}, ValueError, "'a' alone.*at least two"),
        (synthetic(**TINY), {"seeds": range(4)}, ValueError, r"\[0, 1, 2, 3\].*at least five"),
        (synthetic(**TINY), {"margin": 0}, ValueError, "margin is 0.*above 0"),
        (synthetic(**TINY), {"scales": (0.0,)}, ValueError, "scales is 0.0.*above 0"),
        (synthetic(**TINY), {"scales": 0.5}, TypeError, "0.5; give a list"),
        (synthetic(**TINY), {"margin": 1}, ValueError, "margin is 1; it is a share"),
        (synthetic(**TINY), {"settings": {}}, TypeError, "takes no 'settings'"),
        (synthetic(**TINY), {"by": "fold"}, ValueError, "folds is None"),
        (synthetic(**TINY), {"build": {"scale": {"a": 2.0}}}, ValueError, "tries scales itself"),
        (synthetic(**TINY), {"scales": (0.5, 1)}, ValueError, r"\[0.5, 1\].*1 is tried"),
        (synthetic(**TINY), {"scales": ()}, ValueError, "scales"),
        (synthetic(**TINY), {"epoch": 3}, TypeError, "'epoch' is no argument"),
        ("av-digits", {}, TypeError, "data is"),
        (synthetic(signal={"ensemble": 1.0, "b": 1.0}, **TINY), {}, ValueError, "'ensemble'"),
    ],
)
def test_what_cannot_be_diagnosed_is_said(data, given, error, message):
    with pytest.raises(error, match=message):
        diagnose(data, **given)


def test_answers_are_compared_on_the_samples_that_have_every_modality():
    data = synthetic(**TINY)
    lacking = MultimodalData(
        **{name: drop(batch, {"b": 0.5}, seed=1) for name, batch in data.splits.items()}
    )
    found = diagnose(lacking, scales=(0.5,), epochs=1)
    run = train_once(Ensemble(), lacking, seed=2, epochs=1)
    batch = lacking.test
    whole = batch.present["b"]
    expected = (run.predict(batch).argmax(-1) == batch.target)[whole].float().mean().item()
    assert found.scores["test"]["ensemble"][2] == pytest.approx(expected)
    alone = (run.model(batch.inputs).unimodal["b"].argmax(-1) == batch.target)[whole]
    assert found.scores["test"]["b"][2] == pytest.approx(alone.float().mean().item())


def test_a_split_without_one_whole_sample_is_refused():
    data = synthetic(**TINY)
    masks = {"a": torch.arange(32) % 2 == 0, "b": torch.arange(32) % 2 == 1}
    inputs = {m: x * masks[m][:, None] for m, x in data.test.inputs.items()}
    split = MultimodalData(data.train, data.holdout, Batch(inputs, data.test.target, masks))
    with pytest.raises(ValueError, match="0 samples of test have every modality"):
        diagnose(split, epochs=1)


def test_the_smallest_factor_as_the_best_one_is_warned_of():
    def loud(seed):
        data = synthetic(seed=seed, signal={"a": 0.5, "b": 3.0}, n=(128, 200, 200), dims=16)
        for batch in data.splits.values():
            batch.inputs["a"] *= 30
        return data

    with pytest.warns(UserWarning, match="smallest factor that was tried.*a × 0.1"):
        diagnose(loud, scales=(0.1,), epochs=5)


@pytest.mark.filterwarnings("ignore:method")
def test_a_training_that_failed_ends_the_diagnosis():
    def stop(run):
        if run.seed == 3 and run.epoch:
            raise ValueError("no more")

    with pytest.raises(
        RuntimeError, match=r"training 'joint' failed at 1 of 5 seeds \(3\).*no more"
    ):
        diagnose(synthetic(**TINY), scales=(0.5,), epochs=1, observers=[stop])


# --- the program ----------------------------------------------------------------------------------


def test_the_program_prints_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program, "load", lambda name, seed, **more: synthetic(seed=seed, **TINY))
    program.main(["synthetic", "--epochs", "1", "--figure", str(tmp_path / "d.png")])
    assert "joint training" in capsys.readouterr().out
    assert (tmp_path / "d.png").read_bytes().startswith(b"\x89PNG")


def test_settings_reach_the_data_set(monkeypatch):
    asked = []

    def ask(name, seed, **more):
        asked.append((name, more))
        raise ValueError("enough")

    monkeypatch.setattr(program, "load", ask)
    with pytest.raises(SystemExit):
        program.main(["watch", "split=arm", "front_people=3"])
    assert asked[0] == ("watch", {"split": "arm", "front_people": 3})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["av-digit"], "did you mean 'av-digits'"),
        (["av-digits", "split"], "KEY=VALUE"),
        (["av-digits", "split=x"], "unknown split 'x'"),
        (["av-digits", "--seeds", "2"], "at least five"),
        (["av-digits", "--figure", "x.bmp"], "--figure is x.bmp; allowed are files of png"),
    ],
)
def test_the_program_says_what_it_cannot_do(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        program.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_load_is_what_the_program_calls():
    assert program.load is load
