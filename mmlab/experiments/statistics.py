"""Paired differences, seed by seed, and their intervals.

A table here is one that `mmlab.experiments.compare` returned: one row per method and seed. Where
runs failed nothing is reckoned from the others in silence: the numbers are NaN, and the failure is
named. To leave the seeds of failed runs out for all methods:
``table[~table.seed.isin(table[table.error.notna()].seed)]``.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

from mmlab.checks import check_number, check_whole
from mmlab.experiments.tables import check_column, failed, lost_seeds

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike


def interval(values: ArrayLike, confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean and ends of Student's t interval over independent runs: (mean, low, high).

    Runs that share their test people are independent repeats for those people only. To speak of
    new people, average over the runs of each fold first and give the folds' means.

    Raises ValueError for fewer than two values (one run has no interval), for values that are not
    one number per run, or a confidence that is not between 0 and 1.
    """
    import numpy as np
    from scipy import stats

    check_number("confidence", confidence, above=0)
    if confidence >= 1:
        raise ValueError(f"confidence is {confidence!r}; allowed is a number above 0 and below 1")
    values = np.atleast_1d(np.asarray(values, dtype=float))
    if values.ndim > 1:
        raise ValueError(
            f"values have the shape {values.shape}; give one number per run, such as one column"
        )
    if len(values) < 2:
        raise ValueError(f"an interval needs at least 2 runs; got {len(values)}. Use more seeds")
    mean = values.mean()
    half = stats.t.ppf((1 + confidence) / 2, len(values) - 1) * stats.sem(values)
    return float(mean), float(mean - half), float(mean + half)


def summary(
    table: pd.DataFrame, baseline: str = "joint", column: str = "accuracy", confidence: float = 0.95
) -> pd.DataFrame:
    """One row per method: mean and interval, and the paired difference to `baseline` seed by seed.

    Columns: mean, low, high, difference, difference low, difference high, seeds (that have a
    value), and, where a run failed, failed: what failed. A method with a failed run has no numbers,
    and none has a difference to it. A paired interval that leaves out 0 is a difference that
    repeating the experiment does not explain; see `interval` for what seeds that share a fold can
    tell. Raises ValueError for an unknown baseline, or a method that lacks a seed.
    """
    import pandas as pd

    check_column(table, column)
    rows = {}
    for method in table["method"].unique():
        paired = pairs(table, method, baseline, column)
        values = table.loc[table["method"] == method, column]
        why = failed(table, method, column)
        row = dict(zip(("mean", "low", "high"), _ends(values, confidence, why), strict=True))
        if method != baseline:
            keys = ("difference", "difference low", "difference high")
            ends = _ends(paired, confidence, paired.attrs["failed"])
            row |= dict(zip(keys, ends, strict=True))
        rows[method] = row | {"seeds": values.count()} | ({"failed": why} if why else {})
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _ends(values: pd.Series, confidence: float, why: str) -> tuple[float, float, float]:
    return (math.nan,) * 3 if why else interval(values, confidence)


def difference(
    table: pd.DataFrame, method: str, baseline: str = "joint", column: str = "accuracy"
) -> pd.Series:
    """`method` minus `baseline` in the column's own unit: one value per seed, which is the index.

    Where a run of one of the two failed the value is NaN; a warning and `attrs["failed"]` say what
    failed.

    Raises ValueError for a column or a method that the table lacks, or a seed that one of the two
    lacks, or has twice.
    """
    paired = pairs(table, method, baseline, column)
    if paired.attrs["failed"]:
        warnings.warn(
            f"the difference is NaN where a run failed: {paired.attrs['failed']}", stacklevel=2
        )
    return paired


def pairs(table: pd.DataFrame, method: str, baseline: str, column: str) -> pd.Series:
    """What `difference` gives, without its warning; `attrs["failed"]` is '' where none failed."""
    check_column(table, column)
    values, reasons = {}, []
    for name in dict.fromkeys((method, baseline)):
        own = table[table["method"] == name]
        if own.empty:
            found = list(table["method"].unique())
            raise ValueError(f"no method {name!r} to compare with; the table has {found}")
        if own["seed"].duplicated().any():
            seed = own["seed"][own["seed"].duplicated()].iloc[0]
            raise ValueError(
                f"method {name!r} has {(own['seed'] == seed).sum()} rows at seed {seed}; pairs "
                "need one: where tables were put together, leave out what is there twice"
            )
        values[name] = own.set_index("seed")[column].reindex(sorted(table["seed"].unique()))
        why = failed(table, name, column)
        reasons += [f"{name!r} {why}"] if why else []
        gaps = values[name].drop([*lost_seeds(table, name, column)]).isna()
        if gaps.any():
            raise ValueError(
                f"method {name!r} has no {column} at seed {gaps.idxmax()}; pairs need every seed"
            )
    paired = (values[method] - values[baseline]).rename(None)  # it is no column of the table
    paired.attrs["failed"] = "; ".join(reasons)
    return paired


def fold_means(values: pd.Series, folds: int = 3) -> pd.Series:
    """Mean over the seeds s of each fold, s modulo `folds`: independent where people are the same.

    `interval` of these few means speaks of new people, that of the seeds of these people only.

    Raises TypeError for values without their seeds, ValueError for fewer than two folds.
    """
    import pandas as pd

    if not isinstance(values, pd.Series):
        raise TypeError(
            f"values is {values!r}; folds need a pandas Series whose index is the seeds, as "
            "`mmlab.experiments.difference` gives"
        )
    check_whole("folds", folds, least=2)
    return values.groupby(lambda seed: seed % folds).apply(lambda own: own.mean(skipna=False))
