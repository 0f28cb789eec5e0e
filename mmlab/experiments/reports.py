"""Results in words: a difference with its interval, and what became of a claim.

A table here is one that `mmlab.experiments.compare` returned: one row per method and seed.
Values are one number per seed, each a paired difference that is above 0 where the claim holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmlab.experiments.statistics import fold_means, interval, pairs
from mmlab.experiments.tables import check_column, failed, unit_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

UNITS: dict[str, tuple[Callable[[float], float], int]] = {
    "%": (lambda x: 100 * x, 1),  # of a share such as accuracy
    "points": (lambda x: 100 * x, 1),  # of a difference of shares
    "×": (np.exp, 2),  # of differences of logarithms
    "nats": (lambda x: x, 3),
}
"""How the values of a unit are shown, and with how many decimals; any other stays, with two."""

UNSIGNED = ("%", "×")
"""Units of what is no difference: they never have a plus sign."""


class Claim(NamedTuple):
    """What somebody says, and the values, one per seed, that speak for it where above 0."""

    text: str
    who: str
    values: ArrayLike
    unit: str = "points"


def spell(values: ArrayLike, unit: str = "points", *, signed: bool = True) -> str:
    """Mean and 95 % interval of independent runs in a unit: '+1.2 [+0.3, +2.1]'.

    signed: with plus signs, as a difference has; "%" and "×" never have one.

    Where runs failed (`mmlab.experiments.difference`) it says this, and reckons nothing.
    """
    if why := _failed(values):
        return why
    show, decimals = UNITS.get(unit, (lambda x: x, 2))
    sign = "+" if signed and unit not in UNSIGNED else ""
    mean, low, high = (f"{show(end):{sign}.{decimals}f}" for end in interval(values))
    return f"{mean} [{low}, {high}]"


def verdict(values: ArrayLike) -> str:
    """'seen' where the interval of the values is above 0, 'not seen' below, else undecided."""
    if _failed(values):
        return "cannot tell here"
    _, low, high = interval(values)
    return "seen" if low > 0 else "not seen" if high < 0 else "cannot tell here"


def _failed(values: ArrayLike) -> str:
    """What failed of the runs that values come from, as a `difference` says it."""
    return getattr(values, "attrs", {}).get("failed", "")


def report(
    table: pd.DataFrame,
    baseline: str = "joint",
    column: str = "accuracy",
    folds: int | None = None,
    unit: str | None = None,
) -> pd.DataFrame:
    """One row per method: mean and interval, and the paired difference to `baseline`.

    Shares are shown in %, their differences in points; numbers as they are. Where a run failed it
    says so, in place of a mean over the others.

    Args:
        column: of what; its unit is in `table.attrs["units"]`, where `compare(units=...)` puts it.
        folds: show the interval over folds too, see `fold_means`.
        unit: the column's unit, where the table does not know it, or knows another: "%" for shares
            from 0 to 1, "" for plain numbers, or any text.

    Raises:
        ValueError: no such column, baseline or pair; a share that is not between 0 and 1.
    """
    import pandas as pd

    check_column(table, column)
    known = unit_of(table, column) if unit is None else unit
    if known == "%":
        _check_shares(table[column], column)
    heading = _headed(column, "unit not known" if known is None else known)
    step = "points" if known == "%" else known or ""
    rows = {}
    for method in table["method"].unique():
        paired = pairs(table, method, baseline, column)
        own = table.loc[table["method"] == method, column]
        why = failed(table, method, column)
        row = {heading: why or spell(own, known or "", signed=False)}
        if method != baseline:
            row[_headed(f"minus {baseline}", step)] = "–" if why else spell(paired, step)
            if folds is not None:
                row["over folds"] = _over_folds(paired, folds, step)
        rows[method] = row
    return pd.DataFrame.from_dict(rows, orient="index").fillna("–").rename_axis("method")


def _headed(column: str, unit: str) -> str:
    return f"{column}, {unit}" if unit else column


def _over_folds(values: ArrayLike, folds: int, unit: str) -> str:
    """The interval over folds; nothing where runs failed, which stands beside it."""
    return "–" if _failed(values) else spell(fold_means(values, folds), unit)


def _check_shares(values: pd.Series, column: str) -> None:
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"column {column!r} has values from {values.min():g} to {values.max():g}, and '%' is "
            "for shares from 0 to 1; say the unit, such as report(..., unit='') for plain numbers"
        )


def claims(rows: Iterable[Claim | tuple], folds: int | None = None) -> pd.DataFrame:
    """One row per claim: who makes it, what is seen here with its 95 % interval, and the verdict.

    Where runs failed it says so, and cannot tell.

    folds: show the interval over folds too; the verdict is that over seeds.

    Raises TypeError for a row that is no claim.
    """
    import pandas as pd

    shown, texts = [], []
    for text, who, values, unit in map(_claim, rows):
        seen = spell(values, unit)
        row = {
            "who": who,
            "here, paired, 95 %": seen if _failed(values) else f"{seen} {unit}".strip(),
        }
        if folds is not None:
            row["over folds"] = _over_folds(values, folds, unit)
        shown.append(row | {"verdict": verdict(values)})
        texts.append(text)
    return pd.DataFrame(shown, index=pd.Index(texts, name="claim"))


def _claim(row: Claim | tuple) -> Claim:
    if not isinstance(row, tuple) or len(row) not in (3, 4):
        raise TypeError(
            f"a claim is {row!r}; give (text, who, values) or (text, who, values, unit), such as "
            "Claim('OGM-GE beats joint', 'paper', difference(table, 'OGM-GE'))"
        )
    return Claim(*row)
