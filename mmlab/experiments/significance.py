"""Tests of paired differences: is there one, or is it too small to matter? Corrected for many.

Values are one paired difference per unit of repetition, as `mmlab.experiments.difference` gives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mmlab.checks import check_number
from mmlab.experiments.intervals import several, standard_error

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


def p_value(values: ArrayLike, overlap: float = 0.0) -> float:
    """Of the paired t test, two-sided: below 0.05 where the 95 % `interval` leaves out 0.

    Of values that are all the same it is 0 (but for rounding), of zeros 1. Where a run failed, and
    its value is NaN, there is no test: the p value is NaN, which `holm` does not count.

    Args:
        overlap: as in `mmlab.experiments.interval`, for runs whose splits share samples.

    Raises ValueError for fewer than two values, or other than one per run.
    """
    check_number("overlap", overlap, least=0)
    return float(_two_sided(several(values), overlap))


def equivalence(values: ArrayLike, margin: float) -> float:
    """p value of "the true difference is not within ±margin"; small: there is none that counts.

    Two one-sided t tests (TOST; Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657-680): the
    larger of their p values. A large `p_value` does not mean a small `equivalence`: both can be
    small, or both large.

    Args:
        margin: above 0, in the unit of the values: 0.01 is one point of an accuracy.

    Raises ValueError for such a margin, and as `p_value`.
    """
    check_number("margin", margin, above=0)
    return float(_equivalence(several(values), margin))


def holm(p_values: ArrayLike) -> np.ndarray:
    """p values (n,) adjusted for their number: those below 0.05 hold together at 5 %.

    Holm's step-down rule (1979, Scand. J. Statist. 6, 65-70): the k-th smallest of n is multiplied
    by n − k + 1, and none becomes smaller than the one before. The chance that any true null
    hypothesis is rejected then is at most the level, however the tests depend on each other. A NaN
    is no test: it is not counted, and stays.

    Raises ValueError for what is no list of numbers from 0 to 1.
    """
    p = np.atleast_1d(np.asarray(p_values, dtype=float))
    if p.ndim > 1 or (p < 0).any() or (p > 1).any():
        raise ValueError(f"p_values is {p_values!r}; give a list of numbers from 0 to 1")
    known = np.flatnonzero(~np.isnan(p))
    order = known[p[known].argsort()]
    adjusted = p.copy()
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted


def _two_sided(runs: np.ndarray, overlap: float = 0.0) -> np.ndarray:
    """p values of tests over the last axis, (…, n) to (…)."""
    from scipy import stats

    return 2 * stats.t.sf(np.abs(_ratio(runs, overlap)), runs.shape[-1] - 1)


def _equivalence(runs: np.ndarray, margin: float) -> np.ndarray:
    """p values of tests over the last axis, (…, n) to (…)."""
    from scipy import stats

    nearer = np.minimum(_ratio(margin + runs), _ratio(margin - runs))
    return stats.t.sf(nearer, runs.shape[-1] - 1)


def _ratio(runs: np.ndarray, overlap: float = 0.0) -> np.ndarray:
    """Student's t, mean over standard error: (…, n) to (…); 0 where all values are 0."""
    mean, error = runs.mean(-1), standard_error(runs, overlap)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((mean == 0) & (error == 0), 0, mean / error)
