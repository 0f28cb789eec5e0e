"""Ranks over data sets, against scipy, printed tables, and cases by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mmlab.experiments import interval, p_value
from mmlab.experiments.ranks import critical_difference, friedman, mean_ranks, signed_ranks

SCORES = pd.DataFrame(
    {"a": [0.9, 0.8, 0.7, 0.9], "b": [0.8, 0.8, 0.6, 0.5], "c": [0.1, 0.9, 0.2, 0.3]}
)


def test_the_best_has_rank_one_and_equal_ones_share():
    ranks = mean_ranks(SCORES)
    assert ranks.to_dict() == {"a": (1 + 2.5 + 1 + 1) / 4, "b": 8.5 / 4, "c": 10 / 4}
    assert [*ranks.index] == ["a", "b", "c"]


def test_friedman_is_scipys():
    assert friedman(SCORES) == stats.friedmanchisquare(*SCORES.to_numpy().T).pvalue
    with pytest.raises(ValueError, match="4 data sets and 2 methods"):
        friedman(SCORES[["a", "b"]])


def test_the_critical_difference_is_that_of_the_printed_table():
    """q of Demšar's table 5: 1.960, 2.343 and 3.164 for 2, 3 and 10 methods."""
    for k, q in ((2, 1.960), (3, 2.343), (10, 3.164)):
        expected = q * np.sqrt(k * (k + 1) / (6 * 14))
        assert critical_difference(k, 14) == pytest.approx(expected, abs=1e-3)
    with pytest.raises(ValueError, match="level is 1"):
        critical_difference(3, 5, level=1.0)


def test_signed_ranks_know_a_side_a_tie_and_few_sets():
    many = signed_ranks([0.03] * 12, margin=0.01)
    assert many.better > 0.99 and sum(many) == pytest.approx(1)
    assert signed_ranks([0.001, -0.002] * 6, margin=0.01).same > 0.99
    assert signed_ranks([-0.03] * 12, margin=0.01).worse == pytest.approx(many.better, abs=0.01)
    assert signed_ranks([0.03] * 2, margin=0.01).better < many.better


@pytest.mark.parametrize("wrong", [[], [np.nan], [[0.1]]])
def test_differences_that_are_none_are_named(wrong):
    with pytest.raises(ValueError, match="one number per data set"):
        signed_ranks(wrong, margin=0.01)


def test_runs_that_share_samples_say_less():
    """By hand: the standard error grows from s √(1/n) to s √(1/n + overlap)."""
    runs = np.array([1.0, 2.0, 4.0, 5.0])
    error = runs.std(ddof=1) * np.sqrt(1 / 4 + 0.5)
    mean, low, high = interval(runs, overlap=0.5)
    assert high - mean == pytest.approx(stats.t.ppf(0.975, 3) * error) and low < 0 < mean
    assert p_value(runs, overlap=0.5) == pytest.approx(2 * stats.t.sf(3 / error, 3))
    assert p_value(runs) < 0.05 < p_value(runs, overlap=0.5)
    with pytest.raises(ValueError, match="overlap"):
        interval(runs, overlap=-0.1)
