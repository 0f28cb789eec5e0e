"""Differences are paired by seed, and the intervals are those of the paired t test."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from two_methods import TABLE

from mmlab.experiments import (
    difference,
    fold_means,
    interval,
    per_unit,
    share_interval,
    summary,
)


def test_the_interval_is_students():
    values = [0.7, 0.75, 0.6, 0.9]
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert interval(values, 0.9) == pytest.approx((np.mean(values), *expected))


def test_the_paired_interval_is_that_of_the_paired_t_test():
    draw = np.random.default_rng(0)
    joint, other = draw.random(6), draw.random(6)
    rows = [("joint", s, v) for s, v in enumerate(joint)]
    rows += [("other", s, other[s]) for s in reversed(range(6))]  # paired by seed, not by row
    table = summary(pd.DataFrame(rows, columns=["method", "seed", "accuracy"]))
    test = stats.ttest_rel(other, joint).confidence_interval(0.95)
    row = table.loc["other"]
    assert row["difference"] == pytest.approx((other - joint).mean())
    assert row[["difference low", "difference high"]].tolist() == pytest.approx([*test])
    assert row[["mean", "seeds"]].tolist() == pytest.approx([other.mean(), 6])
    assert np.isnan(table.loc["joint", "difference"])


def test_every_interval_of_a_summary_has_the_confidence_asked_for():
    draw = np.random.default_rng(1)
    joint, other = draw.random(5), draw.random(5)
    values = {"joint": joint, "other": other}
    rows = [(name, s, v) for name, row in values.items() for s, v in enumerate(row)]
    runs = pd.DataFrame(rows, columns=["method", "seed", "mae"])
    table = summary(runs, column="mae", confidence=0.8)
    expected = stats.ttest_rel(other, joint).confidence_interval(0.8)
    assert table.loc["other", ["difference low", "difference high"]].tolist() == pytest.approx(
        [*expected]
    )
    expected = stats.ttest_1samp(other, 0).confidence_interval(0.8)
    assert table.loc["other", ["low", "high"]].tolist() == pytest.approx([*expected])
    table = summary(runs.rename(columns={"mae": "accuracy"}), confidence=0.8)
    own = table.loc["other", ["mean", "low", "high"]].tolist()
    assert own == pytest.approx(share_interval(other, 0.8))  # a share keeps within 0 to 1


def test_a_summary_of_few_runs_has_means_and_no_interval():
    ends = ["low", "high", "difference low", "difference high"]
    row = summary(TABLE.query("seed < 4")).loc["other"]
    assert row[ends].isna().all() and row[["mean", "difference"]].notna().all()
    row = summary(TABLE, by="fold", folds=2).loc["other"]
    assert row[ends].isna().all() and row["mean"] == pytest.approx(0.86)


def test_a_summary_needs_two_runs_and_the_baseline():
    with pytest.raises(ValueError, match=r"at least 2 runs; got 1\. Use more seeds"):
        interval([0.5])
    table = pd.DataFrame({"method": ["a", "a"], "seed": [0, 1], "accuracy": [0.1, 0.2]})
    with pytest.raises(ValueError, match=r"no method 'joint' to compare with; .*\['a'\]"):
        summary(table)


def test_a_difference_is_paired_by_seed():
    paired = difference(TABLE, "other")
    assert [*paired.index] == [*range(6)]
    assert paired.index.name == "seed" and paired.name is None
    assert paired.tolist() == pytest.approx([0.03 + 0.002 * s for s in range(6)])
    assert difference(TABLE, "joint", "other", "share a").tolist() == pytest.approx([-0.2] * 6)


def test_seeds_of_a_fold_are_averaged():
    means = fold_means(difference(TABLE, "other"))
    assert means.tolist() == pytest.approx([0.033, 0.035, 0.037])
    assert fold_means(pd.Series([1.0, 2.0, 4.0], index=[0, 2, 3]), 2).tolist() == [1.5, 4.0]


def test_the_unit_of_repetition_is_a_seed_or_a_fold():
    paired = difference(TABLE, "other")
    assert per_unit(paired) is paired
    means = per_unit(paired, "fold", 3)
    assert means.tolist() == fold_means(paired, 3).tolist() and means.index.name == "fold"
    with pytest.raises(ValueError, match=r"by is 'people'; allowed are 'seed', 'fold'"):
        per_unit(paired, "people")
    with pytest.raises(ValueError, match=r"by is 'fold', and folds is None; say .*folds=3"):
        per_unit(paired, "fold")


def test_a_summary_is_over_the_unit_asked_for():
    row = summary(TABLE, by="fold", folds=3).loc["other"]
    expected = interval(fold_means(difference(TABLE, "other"), 3))
    assert row[["difference", "difference low", "difference high"]].tolist() == [*expected]
    own = TABLE[TABLE.method == "other"].set_index("seed").accuracy
    assert row[["mean", "low", "high"]].tolist() == [*share_interval(fold_means(own, 3))]
    assert row["seeds"] == 6


def test_a_fold_of_a_failed_run_has_no_mean():
    with pytest.warns(UserWarning, match="NaN where a run failed"):
        means = fold_means(difference(with_a_failure("other"), "other"))
    assert means.isna().tolist() == [False, True, False]
    assert means.attrs["failed"].startswith("'other' failed at 1 of 6 seeds")
    lost = summary(with_a_failure("other"), by="fold", folds=3).loc["other"]
    assert lost.drop(["seeds", "failed"]).isna().all()


def test_one_number_is_no_set_of_runs():
    with pytest.raises(ValueError, match="at least 2 runs; got 1"):
        interval(0.02)


def with_a_failure(method):
    """`TABLE`, where the run of a method at seed 4 failed."""
    table = TABLE.assign(error=None)
    here = (table.method == method) & (table.seed == 4)
    table.loc[here, ["accuracy", "share a"]] = np.nan
    table.loc[here, "error"] = "ValueError: not for these data"
    return table


@pytest.mark.parametrize("method", ["joint", "other"])
def test_a_difference_to_a_failed_run_is_named(method):
    with pytest.warns(
        UserWarning, match=rf"'{method}' failed at 1 of 6 seeds \(4\): Val"
    ) as caught:
        paired = difference(with_a_failure(method), "other")
    assert len(caught) == 1 and caught[0].filename == __file__
    assert [*paired.index[paired.isna()]] == [4]
    whole = difference(TABLE, "other")
    assert paired.dropna().tolist() == whole.drop(4).tolist()
    assert paired.attrs["failed"].startswith(f"'{method}' failed") and not whole.attrs["failed"]


def test_a_summary_has_no_numbers_of_a_method_that_failed_somewhere():
    numbers = ["mean", "low", "high", "difference", "difference low", "difference high"]
    whole = summary(TABLE)
    assert "failed" not in whole
    table = summary(with_a_failure("other"))
    assert table.loc["other", numbers].isna().all() and table.loc["other", "seeds"] == 5
    assert table.failed["other"] == "failed at 1 of 6 seeds (4): ValueError: not for these data"
    assert table.loc["joint", numbers[:3]].tolist() == whole.loc["joint", numbers[:3]].tolist()
    table = summary(with_a_failure("joint"))
    assert table.loc["other", numbers].isna().tolist() == [False] * 3 + [True] * 3


def test_what_cannot_be_paired_is_refused():
    with pytest.raises(ValueError, match=r"no method 'mine' to compare .* \['joint', 'other'\]"):
        difference(TABLE, "mine")
    with pytest.raises(ValueError, match="method 'other' has no accuracy at seed 5"):
        difference(TABLE.query("method == 'joint' or seed < 5"), "other")
