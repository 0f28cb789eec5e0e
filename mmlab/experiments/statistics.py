"""Paired differences, seed by seed; their intervals over seeds, or over folds of people.

A table here is one that `mmlab.experiments.compare` returned: one row per method and seed. Where
runs failed nothing is reckoned from the others in silence: the numbers are NaN, and the failure is
named. To leave the seeds of failed runs out for all methods:
``table[~table.seed.isin(table[table.error.notna()].seed)]``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from mmlab.checks import check_choice, check_whole
from mmlab.experiments.intervals import enough, interval, share_interval
from mmlab.experiments.tables import check_column, failed, lost_seeds, unit_of

if TYPE_CHECKING:
    import pandas as pd


def summary(
    table: pd.DataFrame,
    baseline: str = "joint",
    column: str = "accuracy",
    confidence: float = 0.95,
    by: str = "seed",
    folds: int | None = None,
) -> pd.DataFrame:
    """One row per method: mean and interval, and the paired difference to `baseline` seed by seed.

    Columns: mean, low, high, difference, difference low, difference high, seeds (that have a
    value), and, where a run failed, failed: what failed. A method with a failed run has no numbers,
    and none has a difference to it. Of fewer than 5 seeds or 3 folds there is a mean and no
    interval, as in `report`: low and high are NaN. A paired interval that leaves out 0 is a
    difference that repeating the experiment does not explain. Shares keep within 0 to 1
    (`share_interval`).

    Args:
        by: the unit of repetition, as in `per_unit`: "seed", or "fold" with the number of `folds`.

    Raises ValueError for an unknown baseline, or a method that lacks a seed.
    """
    import pandas as pd

    check_column(table, column)
    ends = share_interval if unit_of(table, column) == "%" else interval
    rows = {}
    for method in table["method"].unique():
        paired = pairs(table, method, baseline, column)
        own = of_method(table, method, column)
        row = _named("", per_unit(own, by, folds), ends, confidence)
        if method != baseline:
            row |= _named("difference", per_unit(paired, by, folds), interval, confidence)
        why = own.attrs["failed"]
        rows[method] = row | {"seeds": own.count()} | ({"failed": why} if why else {})
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def _named(
    what: str, values: pd.Series, ends: Callable[..., tuple[float, ...]], confidence: float
) -> dict[str, float]:
    """Mean and ends under their columns' names; NaN where runs failed, or are too few for ends."""
    keys = (what or "mean", f"{what} low".strip(), f"{what} high".strip())
    found = (math.nan,) * 3 if values.attrs["failed"] else ends(values, confidence)
    few = not values.attrs["failed"] and not enough(values)
    return dict(zip(keys, (found[0], math.nan, math.nan) if few else found, strict=True))


def of_method(table: pd.DataFrame, method: str, column: str) -> pd.Series:
    """A method's values by seed; `attrs["failed"]` says what failed, '' where nothing did."""
    own = table[table["method"] == method].set_index("seed")[column]
    own.attrs = {"failed": failed(table, method, column)}
    return own


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
    paired.attrs = {"failed": "; ".join(reasons)}
    if "tuned" in table.attrs:
        paired.attrs["tuned"] = table.attrs["tuned"]
    return paired


def per_unit(values: pd.Series, by: str = "seed", folds: int | None = None) -> pd.Series:
    """One value per unit of repetition: what an interval or a verdict counts as one observation.

    Args:
        values: one per seed, which is the index, as `difference` gives.
        by: "seed" speaks of repeating the training on these people; "fold" of new people. Seeds
            that share their test people repeat the training, not the people.
        folds: how many there are; needed for "fold".

    Raises ValueError for another unit, or folds without their number; TypeError as `fold_means`.
    """
    check_choice("by", by, ("seed", "fold"))
    if by == "seed":
        return values
    if folds is None:
        raise ValueError("by is 'fold', and folds is None; say how many there are, such as folds=3")
    return fold_means(values, folds)


def fold_means(values: pd.Series, folds: int = 3) -> pd.Series:
    """Mean over the seeds s of each fold, s modulo `folds`: independent where people are the same.

    Where the seeds 0, 1, 2, … take the folds in turn, as in `compare(data=lambda s: fold(s % 3))`.
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
    means = values.groupby(lambda seed: seed % folds).apply(lambda own: own.mean(skipna=False))
    means.attrs = values.attrs
    return means.rename_axis("fold")
