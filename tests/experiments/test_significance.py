"""Tests of differences and of equivalence, by scipy and statsmodels, and how often they err."""

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from mmlab.experiments import equivalence, holm, interval, p_value
from mmlab.experiments.significance import _equivalence, _two_sided

DRAWS = 20_000


def test_the_p_value_is_that_of_the_paired_t_test():
    draw = np.random.default_rng(0)
    for n in (2, 3, 6, 20):
        one, two = draw.normal(0.3, 1, n), draw.normal(0, 1, n)
        assert p_value(one - two) == pytest.approx(stats.ttest_rel(one, two).pvalue)


def test_a_p_value_below_a_twentieth_is_an_interval_without_0():
    draw = np.random.default_rng(1)
    for _ in range(200):
        values = draw.normal(1, 1, 6)
        _, low, high = interval(values)
        assert (p_value(values) < 0.05) == (low > 0 or high < 0)


def test_values_without_spread():
    assert p_value([0.1, 0.1, 0.1]) < 1e-12 and p_value([0.0, 0.0]) == 1
    assert equivalence([0.0, 0.0], 0.1) == 0 and equivalence([0.2, 0.2], 0.1) == 1
    assert np.isnan(p_value([0.1, np.nan]))


def test_equivalence_is_two_one_sided_tests():
    draw = np.random.default_rng(2)
    for n, shift in ((2, 0), (5, 0.4), (6, -0.4), (20, 1.2)):
        values = draw.normal(shift, 1, n)
        expected = DescrStatsW(values).ttost_mean(-0.7, 0.7)[0]
        assert equivalence(values, 0.7) == pytest.approx(expected)
        assert equivalence(-values, 0.7) == pytest.approx(expected)


def test_equivalence_is_a_90_percent_interval_within_the_margin():
    draw = np.random.default_rng(3)
    within = []
    for _ in range(200):
        values = draw.normal(0, 1, 8)
        _, low, high = interval(values, 0.9)
        within.append(low > -0.8 and high < 0.8)
        assert (equivalence(values, 0.8) < 0.05) == within[-1]
    assert 0 < sum(within) < 200


@pytest.mark.parametrize("margin", [0, -0.01, float("nan")])
def test_a_margin_is_above_0(margin):
    with pytest.raises(ValueError, match=r"margin is .*; allowed is a number above 0"):
        equivalence([0.1, 0.2], margin)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.4, 0.6]).tolist() == pytest.approx([0.8, 0.8])
    assert holm([0.7, 0.8]).tolist() == [1, 1] and holm([0.02]).tolist() == [0.02]
    assert holm([]).tolist() == []


def test_holm_is_that_of_statsmodels():
    draw = np.random.default_rng(4)
    for n in (1, 2, 7, 30):
        p = draw.random(n) ** 3
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_keeps_the_order_and_never_lowers_a_p_value():
    draw = np.random.default_rng(5)
    for _ in range(50):
        p = draw.random(9) ** 2
        adjusted = holm(p)
        assert (adjusted >= p).all() and (np.diff(adjusted[p.argsort()]) >= 0).all()
        shuffle = draw.permutation(9)
        assert holm(p[shuffle]).tolist() == adjusted[shuffle].tolist()


def test_a_nan_is_no_test():
    adjusted = holm([0.01, np.nan, 0.04])
    assert adjusted[[0, 2]].tolist() == pytest.approx([0.02, 0.04]) and np.isnan(adjusted[1])


@pytest.mark.parametrize("p", [[1.2], [-0.1, 0.3], [[0.1, 0.2]]])
def test_p_values_lie_between_0_and_1(p):
    with pytest.raises(ValueError, match=r"p_values is .*; give a list of numbers from 0 to 1"):
        holm(p)


def test_the_tests_err_as_often_as_they_say():
    """Over many draws: 5 % of true nulls are rejected, and together no more than 5 % after Holm."""
    draw = np.random.default_rng(6)
    runs = draw.standard_normal((5000, 8, 6))
    runs[:, 5:] += 3  # three of the eight claims hold
    p = _two_sided(runs)
    assert p[0, 0] == pytest.approx(p_value(runs[0, 0]))
    assert (p[:, :5] < 0.05).mean() == pytest.approx(0.05, abs=0.003)
    assert (p[:, :5] < 0.05).any(1).mean() > 0.2  # uncorrected, one in five tables is wrong
    rejected = np.array([holm(row) for row in p]) < 0.05
    assert 0.03 < rejected[:, :5].any(1).mean() < 0.056  # 5 %, s.e. 0.3
    assert rejected[:, 5:].mean() > (8 * p[:, 5:] < 0.05).mean()  # more is seen than by Bonferroni


def test_equivalence_errs_as_often_as_it_says():
    """A difference as large as the margin passes for none in 5 % of the draws, at most."""
    draw = np.random.default_rng(7)
    noise = draw.standard_normal((DRAWS, 6))
    assert _equivalence(noise, 2.0)[0] == pytest.approx(equivalence(noise[0], 2.0))
    for side in (-2.0, 2.0):
        assert (_equivalence(noise + side, 2.0) < 0.05).mean() == pytest.approx(0.05, abs=0.004)
    assert (_equivalence(noise + 2.5, 2.0) < 0.05).mean() < 0.02
    assert (_equivalence(noise, 2.0) < 0.05).mean() > 0.8
