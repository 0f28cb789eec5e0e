"""Paired differences, seed by seed, and their intervals.

A table here is one that `mmlab.experiments.compare` returned: one row per method and seed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


def interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and ends of Student's t interval over independent runs: (mean, low, high).

    Runs that share their test people are independent repeats for those people only. To speak of
    new people, average over the runs of each fold first and give the folds' means.

    Raises ValueError for fewer than two values: one run has no interval.
    """
    import numpy as np
    from scipy import stats

    values = np.atleast_1d(np.asarray(values, dtype=float))
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 runs; got {len(values)}. Use more seeds")
    mean = values.mean()
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)
    return float(mean), float(mean - half), float(mean + half)


def summary(
    table: pd.DataFrame, baseline: str = "joint", column: str = "accuracy", confidence: float = 0.95
) -> pd.DataFrame:
    """One row per method: mean and interval, and the paired difference to `baseline` seed by seed.

    Columns: mean, low, high, difference, difference low, difference high, seeds. A paired interval
    that leaves out 0 is a difference that repeating the experiment does not explain; see `interval`
    for what seeds that share a fold can tell. Raises ValueError for an unknown baseline, or a
    method that lacks a seed.
    """
    import pandas as pd

    rows = {}
    for method in table["method"].unique():
        paired = difference(table, method, baseline, column)
        values = table.loc[table["method"] == method, column]
        row = dict(zip(("mean", "low", "high"), interval(values, confidence), strict=True))
        if method != baseline:
            keys = ("difference", "difference low", "difference high")
            row |= dict(zip(keys, interval(paired, confidence), strict=True))
        rows[method] = row | {"seeds": len(paired)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def check_column(table: pd.DataFrame, column: str) -> None:
    """Raises ValueError where the table has no such column of results."""
    if column not in table:
        results = [name for name in table if name not in ("method", "seed")]
        raise ValueError(f"the table has no column {column!r}; its results are {results}")


def difference(
    table: pd.DataFrame, method: str, baseline: str = "joint", column: str = "accuracy"
) -> pd.Series:
    """`method` minus `baseline` in the column's own unit: one value per seed, which is the index.

    Raises ValueError for a column or a method that the table lacks, or a seed that one of the two
    lacks.
    """
    check_column(table, column)
    wide = table.pivot(index="seed", columns="method", values=column)
    for name in (method, baseline):
        if name not in wide:
            raise ValueError(f"no method {name!r} to compare with; the table has {list(wide)}")
        gaps = wide[name].isna()
        if gaps.any():
            raise ValueError(
                f"method {name!r} has no {column} at seed {gaps.idxmax()}; pairs need every seed"
            )
    return wide[method] - wide[baseline]


def fold_means(values: pd.Series, folds: int = 3) -> pd.Series:
    """Mean over the seeds s of each fold, s modulo `folds`: independent where people are the same.

    `interval` of these few means speaks of new people, that of the seeds of these people only.

    Raises TypeError for values without their seeds.
    """
    import pandas as pd

    if not isinstance(values, pd.Series):
        raise TypeError(
            f"values is {values!r}; folds need a pandas Series whose index is the seeds, as "
            "`mmlab.experiments.difference` gives"
        )
    return values.groupby(lambda seed: seed % folds).mean()
