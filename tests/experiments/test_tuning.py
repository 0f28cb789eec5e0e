"""What is chosen is chosen on the holdout split, among as many trials for each method."""

import pandas as pd
import pytest

from mmlab.balancers import OGM, Joint
from mmlab.datasets import Batch, MultimodalData
from mmlab.datasets.synthetic import synthetic
from mmlab.experiments import compare
from mmlab.experiments.tuning import tune
from mmlab.training import Balancer

DATA = synthetic(n=(80, 40, 40), dims=5)
OPTIONS = {"seeds": range(2), "epochs": 1, "device": "cpu"}


class Guessed(Balancer):
    """Untrained; its measure is a number that it is made with."""

    def __init__(self, good=0.0, other=0):
        self.good, self.other = good, other

    def step(self, s):
        s.backward(s.losses["joint"])
        yield


def good(run):
    return {"good": run.balancer.good + 0.01 * (run.seed - 0.5)}


def tuned(grid, methods=None, data=DATA, **options):
    options = {"column": "good", "measure": good, **OPTIONS, **options}
    return tune(methods or {"guessed": Guessed}, data, grid=grid, **options)


def test_the_best_mean_of_the_holdout_is_chosen_and_trains_again():
    lr = [1e-6, 0.1, 0.2]
    found = tune({"joint": Joint, "OGM": OGM}, DATA, grid={"joint": {"lr": lr}, "OGM": {
        "alpha": [0.1, 0.3, 0.5]}}, lr=0.05, settings={"OGM": {"batch_size": 16}},
        **OPTIONS)  # fmt: skip
    means = found.runs.groupby("method", sort=False)["holdout accuracy"].mean()
    best = means[[f"joint (lr={rate})" for rate in lr]].to_numpy().argmax()
    assert found.chosen["settings"]["joint"] == {"lr": lr[best]}
    assert found.chosen["settings"]["OGM"] == {"batch_size": 16}
    assert found.trials.chosen.tolist().count(True) == 2
    assert found.trials["mean"].tolist() == means.tolist()
    table = compare(data=DATA, seeds=range(2), **found.chosen)
    row = found.runs[found.runs.method == f"joint (lr={lr[best]})"]
    again = table[table.method == "joint"]
    assert again["holdout accuracy"].tolist() == row["holdout accuracy"].tolist()
    alpha = found.trials.query("method == 'OGM' and chosen").alpha.item()
    assert found.chosen["methods"]["OGM"]().alpha == alpha
    assert (
        table.attrs["tuned"]
        == found.note
        == (
            "joint's lr from 3 values, OGM's alpha from 3 values on the holdout split "
            "(accuracy), seeds 0, 1"
        )
    )


def test_no_trial_sees_the_test_split():
    seen = []

    def measure(run):
        seen.append(run.data.test)
        return {"n": len(run.split("test"))}

    data = synthetic(n=(80, 30, 40), dims=5)
    found = tune({"joint": Joint}, data, grid={"joint": {"lr": [0.1, 0.2]}}, measure=measure,
                 **OPTIONS)  # fmt: skip
    assert seen and all(split is data.holdout for split in seen)
    assert list(found.runs) == [
        "method", "seed", "holdout accuracy", "holdout share a", "holdout share b", "n",
    ]  # fmt: skip
    assert {*found.runs.attrs["units"]} == {*list(found.runs)[2:5]}
    assert len(data.test) == 40

    def per_seed(seed):
        return data

    again = tune({"joint": Joint}, per_seed, grid={"joint": {"lr": [0.1, 0.2]}}, measure=measure,
                 **OPTIONS)  # fmt: skip
    pd.testing.assert_frame_equal(found.runs, again.runs)
    assert all(split is data.holdout for split in seen)


def test_of_equal_means_the_first_is_chosen():
    found = tuned({"guessed": {"good": [1.0, 2.0], "other": [1, 0]}})
    assert found.trials[["good", "other"]].values.tolist() == [[1, 1], [1, 0], [2, 1], [2, 0]]
    assert found.trials.chosen.tolist() == [False, False, True, False]
    made = found.chosen["methods"]["guessed"]()
    assert (made.good, made.other) == (2.0, 1)
    assert found.note.startswith(
        "each method's good from 2 values and other from 2 values on the holdout split (good)"
    )


def test_the_lowest_may_be_the_best():
    values = {"guessed": {"good": [0.5, 0.1, 0.3]}}
    assert tuned(values).chosen["methods"]["guessed"]().good == 0.5
    assert tuned(values, lowest=True).chosen["methods"]["guessed"]().good == 0.1
    batch = Batch({m: DATA.train.inputs[m] for m in "ab"}, DATA.train.inputs["a"][:, 0])
    found = tune({"joint": Joint}, MultimodalData(batch, batch, batch, task="regression"),
                 grid={"joint": {"lr": [1e-9, 0.05]}}, **{**OPTIONS, "epochs": 5})  # fmt: skip
    assert found.column == "holdout mae" and found.chosen["settings"]["joint"] == {"lr": 0.05}
    assert not [name for name in found.runs if name in ("mae", "pearson", "accuracy 2")]


def test_how_flat_an_optimum_is():
    def measure(run):
        wild = run.balancer.other == 1
        return {"good": run.balancer.good + 0.3 * (run.seed - 1) * (1 if wild else 0.1)}

    found = tuned({"guessed": {"good": [1.0, 1.1, 0.0]}}, measure=measure, seeds=range(3)).optima
    assert found.lead.item() == pytest.approx(0.1) and found.clear.item()
    assert found["s.e."].item() == pytest.approx(0, abs=1e-9)  # both have the noise of a seed
    grid = {"other": [0, 1]}
    found = tuned({"guessed": grid}, measure=measure, seeds=range(3)).optima
    assert found.lead.item() == pytest.approx(0, abs=1e-9) and not found.clear.item()
    assert found["s.e."].item() == pytest.approx(0.27 / 3**0.5)


def test_a_value_at_the_edge_is_told():
    edges = [tuned({"guessed": {"good": values}}).optima.edge.item()
             for values in ([1.0, 2.0, 3.0], [1.0, 3.0, 2.0, 3.5, 0.0], [1.0, 2.0])]  # fmt: skip
    assert edges == [True, True, False]
    assert not tuned({"guessed": {"other": [1, 0, 2], "good": [0.0, 0.0001]}}).optima.clear.item()


def test_unequal_numbers_of_trials_are_told():
    with pytest.warns(UserWarning, match=r"unequal numbers of trials \('joint' 1, 'guessed' 2\)"):
        found = tuned({"guessed": {"good": [0.1, 0.2]}}, {"joint": Joint, "guessed": Guessed},
                      measure=lambda run: {"good": getattr(run.balancer, "good", 0.0)})  # fmt: skip
    assert found.trials.method.tolist() == ["joint", "guessed", "guessed"]
    assert found.note.startswith(
        "joint as is, guessed's good from 2 values on the holdout split (good)"
    )


@pytest.mark.filterwarnings("ignore:method .* failed at")
def test_a_trial_that_failed_is_not_chosen():
    def measure(run):
        if run.balancer.good > 1 and run.seed == 1:
            raise ValueError("too much")
        return good(run)

    found = tuned({"guessed": {"good": [0.5, 2.0, 0.7]}}, measure=measure)
    assert found.trials.failed.tolist() == [0, 1, 0]
    assert found.chosen["methods"]["guessed"]().good == 0.7
    with pytest.raises(ValueError, match="every trial of 'guessed' has a run that failed"):
        tuned({"guessed": {"good": [2.0, 3.0]}}, measure=measure)


def test_trials_are_kept_on_disk(tmp_path):
    grid = {"guessed": {"good": [0.1, 0.2]}}
    found = tuned(grid, cache=tmp_path)
    assert len([*tmp_path.iterdir()]) == 4 and not {"cache", "parallel"} & {*found.chosen}
    pd.testing.assert_frame_equal(found.runs, tuned(grid, cache=tmp_path).runs)
    tuned({"guessed": {"good": [0.1, 0.2, 0.3]}}, cache=tmp_path)
    assert len([*tmp_path.iterdir()]) == 6


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ({"guesed": {}}, "grid names 'guesed', which is no method; they are"),
        ({"guessed": {"god": [1]}}, "grid names 'god' for 'guessed'.*allowed are good, other, acc"),
        ({"guessed": {"good": []}}, r"grid\['guessed'\]\['good'\] is \[\]; give a list of values"),
        ({"guessed": {"good": "12"}}, "is '12'; give a list of values"),
        ({"guessed": {"good": [1, 1]}}, r"grid gives guessed \(good=1\) more than once"),
    ],
)
def test_bad_grids_are_refused(grid, message):
    with pytest.raises(ValueError, match=message):
        tuned(grid)


def test_columns_of_the_test_are_refused():
    for column in ("accuracy", "share a"):
        with pytest.raises(ValueError, match=f"column is '{column}', which is of the test split"):
            tuned({}, column=column)
    with pytest.raises(ValueError, match="no column 'gut'; its results are"):
        tuned({}, column="gut")
    with pytest.raises(TypeError, match="grid is a list; give method"):
        tuned([])
    with pytest.raises(TypeError, match=r"is 3; give \{parameter: values\}"):
        tuned({"guessed": 3})
