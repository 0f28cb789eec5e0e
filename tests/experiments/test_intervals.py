"""Intervals hold the true value as often as they say, and power is that of statsmodels."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from mmlab.experiments import (
    detectable,
    interval,
    share_interval,
    spell,
    verdict,
)
from mmlab.experiments.intervals import _half, _logit_ends
from mmlab.experiments.significance import _two_sided

DRAWS = 20_000


def test_the_interval_of_a_share_by_hand():
    """Mean .75; standard error .05 / √3 over .75 · .25 on the scale of the logit, t = 4.30."""
    step = 4.302653 * 0.05 / 3**0.5 / (0.75 * 0.25)
    low, high = (1 / (1 + np.exp(-np.log(3) + sign * step)) for sign in (1, -1))
    assert share_interval([0.7, 0.75, 0.8]) == pytest.approx((0.75, low, high), abs=1e-6)


def test_shares_that_spread_little_have_students_interval():
    values = [0.500, 0.501, 0.499, 0.502]
    assert share_interval(values) == pytest.approx(interval(values), abs=1e-6)


def test_the_interval_of_a_share_keeps_within_0_and_1_and_mirrors():
    draw = np.random.default_rng(0)
    for size in (2, 3, 8):
        for values in draw.beta(0.3, 0.1, (50, size)):
            mean, low, high = share_interval(values)
            assert 0 <= low <= mean <= high <= 1
            mirrored = share_interval(1 - values)
            assert mirrored == pytest.approx((1 - mean, 1 - high, 1 - low))


def test_a_higher_confidence_is_a_wider_interval():
    values = [0.9, 0.95, 0.99]
    ends = [share_interval(values, c)[1:] for c in (0.5, 0.9, 0.99)]
    assert ends[0][0] > ends[1][0] > ends[2][0] and ends[0][1] < ends[1][1] < ends[2][1]


@pytest.mark.parametrize("share", [0.0, 1.0, 0.25])
def test_runs_that_agree_leave_no_width(share):
    assert share_interval([share] * 3) == (share, share, share)


def test_what_is_no_share_is_refused():
    with pytest.raises(ValueError, match=r"from 0\.9 to 91, and shares lie between 0 and 1; div"):
        share_interval([0.9, 91])
    with pytest.raises(ValueError, match=r"from -0\.1 to 0\.5, and shares"):
        share_interval([-0.1, 0.5])
    with pytest.raises(ValueError, match="at least 2 runs; got 1"):
        share_interval([0.5])
    with pytest.raises(ValueError, match="confidence is 95; allowed"):
        share_interval([0.5, 0.6], 95)


@pytest.mark.parametrize("reckon", [interval, share_interval, detectable, spell, verdict])
def test_a_run_without_a_number_is_named(reckon):
    lost = pd.Series([0.1, np.nan, 0.2, np.inf, 0.3], index=[7, 8, 9, 10, 11])
    with pytest.raises(ValueError, match=r"2 of 5 values are not finite \(nan at 8, 10\): "):
        reckon(lost)
    with pytest.raises(ValueError, match=r"1 of 2 values are not finite \(nan at 1\)"):
        reckon([0.1, np.nan])


@pytest.mark.parametrize("n", [5, 6, 10])
def test_students_interval_holds_the_mean_in_95_percent(n):
    runs = np.random.default_rng(n).normal(0.02, 0.03, (DRAWS, n))
    half, mean = _half(runs, 0.95), runs.mean(-1)
    assert interval(runs[0]) == pytest.approx((mean[0], mean[0] - half[0], mean[0] + half[0]))
    assert (abs(mean - 0.02) <= half).mean() == pytest.approx(0.95, abs=0.005)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.97])
@pytest.mark.parametrize("n", [5, 6, 10])
def test_the_interval_of_a_share_holds_it_in_95_percent(share, n):
    """Runs whose true shares differ (s.d. 1 to 4 points), each counted on 300 samples."""
    draw = np.random.default_rng(n)
    runs = draw.binomial(300, draw.beta(200 * share, 200 * (1 - share), (DRAWS, n))) / 300
    low, high = _logit_ends(runs, 0.95)
    assert share_interval(runs[0])[1:] == pytest.approx((low[0], high[0]))
    assert ((low <= share) & (share <= high)).mean() == pytest.approx(0.95, abs=0.01)


def test_a_detectable_difference_is_that_of_statsmodels():
    draw = np.random.default_rng(1)
    for n in (3, 5, 6, 10, 30):
        values = draw.normal(0, 2, n)
        for power in (0.1, 0.5, 0.8, 0.95):
            effect = TTestPower().solve_power(nobs=n, alpha=0.05, power=power)
            expected = effect * values.std(ddof=1)
            assert detectable(values, power) == pytest.approx(expected, rel=1e-4)


def test_a_detectable_difference_is_found_as_often_as_it_says():
    runs = np.random.default_rng(2).standard_normal((DRAWS, 6))
    values = stats.zscore(runs[0], ddof=1)  # of standard deviation 1
    size = detectable(values)
    assert (_two_sided(runs + size) < 0.05).mean() == pytest.approx(0.8, abs=0.01)
    assert detectable(values + 5) == pytest.approx(size)  # whatever was found


def test_more_runs_and_a_lower_confidence_detect_less():
    values = [0.1, 0.2, 0.4]
    assert detectable(values * 4) < detectable(values * 2) < detectable(values)
    assert detectable(values, confidence=0.8) < detectable(values) < detectable(values, 0.99)
    assert detectable([0.1, 0.1, 0.1]) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("power", [0, 1, 80, 0.04])
def test_a_power_lies_between_the_level_and_1(power):
    with pytest.raises(ValueError, match=rf"power is {power}; allowed is a number above 0"):
        detectable([0.1, 0.2], power)
