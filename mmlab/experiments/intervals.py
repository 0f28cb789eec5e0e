"""How sure a mean over independent runs is: intervals, and the difference they could have shown.

Runs that share their test people are independent repeats for those people only. To speak of new
people, average over the runs of each fold first (`mmlab.experiments.statistics.per_unit`).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from mmlab.checks import check_number

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

ENOUGH = {"seed": 5, "fold": 3}
"""Values from which tables show an interval and give a verdict; fewer are shown one by one.

Student's interval is exact for two normal values as well. But so few do not show whether they are
normal, and accuracies, which are counts, may be equal by chance, so that the interval has width 0.
More seeds can always be run. The number of people limits that of folds, each a mean over seeds.
"""


def enough(values: ArrayLike) -> bool:
    """Whether there are `ENOUGH` values; those of folds have an index of that name."""
    unit = getattr(getattr(values, "index", None), "name", None)
    return len(one_per_run(values)) >= ENOUGH["fold" if unit == "fold" else "seed"]


def interval(
    values: ArrayLike, confidence: float = 0.95, overlap: float = 0.0
) -> tuple[float, float, float]:
    """Mean and ends of Student's t interval over independent runs: (mean, low, high).

    Args:
        overlap: test samples over training samples, where each run draws its split anew from one
            pool. Such runs share samples, so the variance s² / n of their mean becomes
            s² (1 / n + overlap) (Nadeau and Bengio 2003, Machine Learning 52, 239-281).

    It is reckoned from two runs on, for whoever asks for it. Tables and figures show none of fewer
    than `ENOUGH` runs.

    Raises ValueError for fewer than two values (one run has no interval), for values that are not
    one finite number per run, as of a run that failed, for a confidence that is not between 0 and
    1, or an overlap below 0.
    """
    runs = one_per_run(values)
    check_part("confidence", confidence)
    check_number("overlap", overlap, least=0)
    mean, half = runs.mean(), _half(runs, confidence, overlap)
    return float(mean), float(mean - half), float(mean + half)


def share_interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and ends of an interval of a share over independent runs, which stays in 0 to 1.

    Student's t on the scale of the mean's logit, with the standard error s / (√n mean (1 − mean))
    (delta method: Agresti, Categorical Data Analysis, section 16.1). In simulations of 5 to 10 runs
    it held shares of .1 to .97 in 94 to 95 % of the draws; where runs near 1 differ much, as .99
    ± .02, in about 90 %, and Student's own interval in 80 %. Where all runs agree there is
    no spread, and the interval is that point. For one run of N samples the spread is binomial:
    ``scipy.stats.binomtest(right, N).proportion_ci(method="wilson")``.

    Raises ValueError as `interval`, and for a value that is not between 0 and 1.
    """
    runs = one_per_run(values)
    check_part("confidence", confidence)
    if (runs < 0).any() or (runs > 1).any():
        raise ValueError(
            f"the values go from {runs.min():g} to {runs.max():g}, and shares lie between 0 and 1; "
            "divide percentages by 100, and use `interval` for other numbers"
        )
    low, high = _logit_ends(runs, confidence)
    return float(runs.mean()), float(low), float(high)


def detectable(values: ArrayLike, power: float = 0.8, confidence: float = 0.95) -> float:
    """The smallest true difference that so many runs, spread like these, show with this power.

    In the unit of the values, which are paired differences. It is the size at which the two-sided t
    test finds a difference with probability `power`, were the standard deviation the one seen here
    (noncentral t: Cohen 1988, Statistical Power Analysis, chapter 2). The mean plays no part.

    Raises ValueError as `interval`, and for a power that is not between 1 − confidence and 1.
    """
    runs = one_per_run(values)
    check_part("confidence", confidence)
    check_part("power", power)
    if power <= 1 - confidence:
        raise ValueError(
            f"power is {power!r}; allowed is a number above {1 - confidence:g}, the chance to see "
            "what is not there"
        )
    return float(_effect(len(runs), power, confidence) * runs.std(ddof=1))


def one_per_run(values: ArrayLike) -> np.ndarray:
    """The values as an array (n,) of n ≥ 2 finite numbers; raises ValueError for any other."""
    runs = several(values)
    _check_finite(values, runs)
    return runs


def several(values: ArrayLike) -> np.ndarray:
    """The values as an array (n,), finite or not; raises ValueError unless n ≥ 2."""
    runs = np.atleast_1d(np.asarray(values, dtype=float))
    if runs.ndim > 1:
        raise ValueError(
            f"values have the shape {runs.shape}; give one number per run, such as one column"
        )
    if len(runs) < 2:
        raise ValueError(f"an interval needs at least 2 runs; got {len(runs)}. Use more seeds")
    return runs


def _check_finite(values: ArrayLike, runs: np.ndarray) -> None:
    """Raises ValueError for a run without a number: the mean of the others would hide it."""
    lost = np.flatnonzero(~np.isfinite(runs))
    if len(lost):
        index = getattr(values, "index", None)  # of a Series; that of a list is a method
        places = range(len(runs)) if index is None or callable(index) else index
        which = ", ".join(str(places[i]) for i in lost)
        raise ValueError(
            f"{len(lost)} of {len(runs)} values are not finite ({runs[lost[0]]} at {which}): these "
            "runs failed or were not measured. Run them again, or leave their seeds out for all "
            "methods: table[~table.seed.isin([...])]"
        )


def check_part(name: str, value: float) -> None:
    """Check a probability. Raises ValueError unless it is above 0 and below 1."""
    check_number(name, value, above=0)
    if value >= 1:
        raise ValueError(f"{name} is {value!r}; allowed is a number above 0 and below 1")


def standard_error(runs: np.ndarray, overlap: float = 0.0) -> np.ndarray:
    """The standard error of the mean over the last axis, (…, n) to (…).

    runs: one number per run, in the last axis, (…, n).
    overlap: test samples over training samples, as in `interval`.
    """
    return runs.std(-1, ddof=1) * np.sqrt(1 / runs.shape[-1] + overlap)


def _half(runs: np.ndarray, confidence: float, overlap: float = 0.0) -> np.ndarray:
    """Half the width of Student's interval, (…, n) to (…)."""
    from scipy import stats

    return stats.t.ppf((1 + confidence) / 2, runs.shape[-1] - 1) * standard_error(runs, overlap)


def _logit_ends(runs: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the interval of a share, (…, n) to (…) each."""
    mean, half = runs.mean(-1), _half(runs, confidence)
    with np.errstate(divide="ignore", invalid="ignore"):
        odds, step = mean / (1 - mean), half / (mean * (1 - mean))
        low, high = (1 / (1 + np.exp(sign * step) / odds) for sign in (1, -1))
    return np.where(half == 0, mean, low), np.where(half == 0, mean, high)


@functools.cache
def _effect(n: int, power: float, confidence: float) -> float:
    """The true mean, in standard deviations, that n runs show with this power."""
    from scipy import optimize, stats

    edge = stats.t.ppf((1 + confidence) / 2, n - 1)
    places = (np.arange(4096) + 0.5) / 4096
    noise = np.sqrt(stats.chi2.ppf(places, n - 1) / (n - 1))  # estimated over true deviation

    def surplus(shift: float) -> float:
        """Of the noncentral t test, averaged over the noise: scipy's `nct` is NaN far out."""
        return (norm(shift - edge * noise) + norm(-shift - edge * noise)).mean() - power

    norm, high = stats.norm.cdf, edge
    while surplus(high) < 0:
        high *= 2
    return optimize.brentq(surplus, 0, high) / np.sqrt(n)
