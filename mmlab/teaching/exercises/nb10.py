"""What the exercises of notebook 10 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

# --- mean ranks -----------------------------------------------------------------------------------


def _mean_ranks(scores: Sequence[Sequence[float]], sign: int = -1, ties: str = "average") -> list:
    return stats.rankdata(sign * np.array(scores), method=ties, axis=1).mean(0).tolist()


def _rank_of_means(scores: Sequence[Sequence[float]]) -> list:
    return stats.rankdata(-np.mean(scores, axis=0)).tolist()


mean_ranks: dict[str, Any] = {
    "reference": _mean_ranks,
    "cases": {
        "two sets": [[0.9, 0.8, 0.7], [0.2, 0.6, 0.4]],
        "equal accuracies": [[0.5, 0.5, 0.9, 0.5], [0.3, 0.1, 0.1, 0.2], [0.7, 0.8, 0.7, 0.6]],
    },
    "mistakes": {
        "the lowest accuracy has rank 1; the highest should": lambda s: _mean_ranks(s, sign=1),
        "equal accuracies all get the best of their ranks": lambda s: _mean_ranks(s, ties="min"),
        "equal accuracies all get the worst of their ranks": lambda s: _mean_ranks(s, ties="max"),
        "equal accuracies are ranked by their place in the list": lambda s: _mean_ranks(
            s, ties="ordinal"
        ),
        "these are ranks of the mean accuracies, not means of the ranks": _rank_of_means,
    },
}


# --- runs whose splits overlap --------------------------------------------------------------------


def _overlap_error(values: Sequence[float], train: int, test: int) -> float:
    return float(np.std(values, ddof=1) * np.sqrt(1 / len(values) + test / train))


overlap_error: dict[str, Any] = {
    "reference": _overlap_error,
    "cases": {
        "eight seeds": ([0.1, 0.4, 0.3, 0.2, 0.5, 0.0, 0.3, 0.6], 1739, 735),
        "two seeds": ([0.02, 0.05], 100, 50),
    },
    "mistakes": {
        "the overlap is missing: test / train is added to 1 / n": lambda values, train, test: (
            np.std(values, ddof=1) / np.sqrt(len(values))
        ),
        "the overlap is divided by n: 1 / n and test / train are added": lambda v, train, test: (
            np.std(v, ddof=1) * np.sqrt((1 + test / train) / len(v))
        ),
        "the standard deviation divides by n - 1 (ddof=1)": lambda v, train, test: (
            np.std(v) * np.sqrt(1 / len(v) + test / train)
        ),
        "test and train are exchanged": lambda v, train, test: _overlap_error(v, test, train),
        "this is the variance; the error is its root": lambda v, train, test: (
            _overlap_error(v, train, test) ** 2
        ),
    },
}
