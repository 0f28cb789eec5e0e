"""Methods ranked over data sets, and how little a rank says: Friedman, Nemenyi, signed ranks.

`scores` has one row per data set and one column per method, the higher the better. The unit of
repetition is the data set: two splits of one set of recordings are not two of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmlab.checks import check_number, check_whole

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


class SignedRanks(NamedTuple):
    """Probabilities that sum to 1: a new data set has the one ahead, neither, the other."""

    better: float
    same: float
    worse: float


def mean_ranks(scores: pd.DataFrame) -> pd.Series:
    """Mean rank of each method over the data sets, the best first; equal scores share a rank."""
    return scores.rank(axis=1, ascending=False).mean().sort_values(kind="stable")


def friedman(scores: pd.DataFrame) -> float:
    """p value of "all methods have the same ranks" (Friedman 1937, J. Am. Stat. Assoc. 32).

    Raises ValueError for fewer than three methods or two data sets.
    """
    from scipy import stats

    if scores.shape[0] < 2 or scores.shape[1] < 3:
        raise ValueError(
            f"scores has {scores.shape[0]} data sets and {scores.shape[1]} methods; Friedman's "
            "test needs at least 2 and 3"
        )
    return float(stats.friedmanchisquare(*scores.to_numpy().T).pvalue)


def critical_difference(methods: int, sets: int, level: float = 0.05) -> float:
    """The smallest difference of two mean ranks that Nemenyi's test calls one.

    q √(k (k + 1) / 6N) for k methods and N data sets, with the quantile q of the studentized range
    over √2 (Demšar 2006, J. Mach. Learn. Res. 7). It guards all pairs of methods at once.

    Raises ValueError for fewer than two methods or sets, or a level outside 0 to 1.
    """
    from scipy import stats

    check_whole("methods", methods, least=2)
    check_whole("sets", sets, least=2)
    check_number("level", level, above=0)
    if level >= 1:
        raise ValueError(f"level is {level!r}; allowed is a number above 0 and below 1")
    q = stats.studentized_range.isf(level, methods, np.inf) / np.sqrt(2)
    return float(q * np.sqrt(methods * (methods + 1) / (6 * sets)))


def signed_ranks(
    differences: ArrayLike, margin: float, draws: int = 20_000, seed: int = 0
) -> SignedRanks:
    """What differences on some data sets say of a new one: the Bayesian signed-rank test.

    Weights of the data sets are drawn from a Dirichlet distribution; one more difference, 0 with
    weight 1/2, is the prior. In each draw the pairs of data sets vote by the mean of their two
    differences: above the margin, below minus the margin, or between. The probabilities are how
    often each side has most votes (Benavoli et al. 2014, ICML; 2017, J. Mach. Learn. Res. 18).

    Args:
        differences: one per data set, of the score of one method minus that of another.
        margin: above 0, in their unit: what is too small to matter.

    Raises ValueError for such a margin, or differences that are no list of numbers.
    """
    check_number("margin", margin, above=0)
    z = np.atleast_1d(np.asarray(differences, dtype=float))
    if z.ndim > 1 or not z.size or not np.isfinite(z).all():
        raise ValueError(f"differences are {differences!r}; give one number per data set")
    z = np.append(0.0, z)
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.append(0.5, np.ones(len(z) - 1)), draws)
    means = (z[:, None] + z) / 2
    sides = (means > margin, abs(means) <= margin, means < -margin)
    votes = np.stack([((weights @ side) * weights).sum(-1) for side in sides])
    return SignedRanks(*np.bincount(votes.argmax(0), minlength=3) / draws)
