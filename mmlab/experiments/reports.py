"""Results in words: a difference with its interval, and what became of a claim.

A table here is one that `mmlab.experiments.compare` returned: one row per method and seed.
Values are one number per seed, each a paired difference that is above 0 where the claim holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmlab.experiments.statistics import check_column, difference, fold_means, interval

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

UNITS: dict[str, tuple[Callable[[float], float], str]] = {
    "%": (lambda x: 100 * x, "{:.1f}"),  # of a share such as accuracy
    "points": (lambda x: 100 * x, "{:+.1f}"),  # of a difference of shares
    "×": (np.exp, "{:.2f}"),  # of differences of logarithms
    "nats": (lambda x: x, "{:+.3f}"),
}
"""How the values of a unit are shown; those of any other stay as they are, with two decimals."""

NO_SHARES = ("mae", "pearson")
"""Columns of `mmlab.evaluation.regression_metrics` that are no share of the samples."""


class Claim(NamedTuple):
    """What somebody says, and the values, one per seed, that speak for it where above 0."""

    text: str
    who: str
    values: ArrayLike
    unit: str = "points"


def spell(values: ArrayLike, unit: str = "points") -> str:
    """Mean and 95 % interval of independent runs in a unit: '+1.2 [+0.3, +2.1]'."""
    show, form = UNITS.get(unit, (lambda x: x, "{:+.2f}"))
    mean, low, high = (form.format(show(end)) for end in interval(values))
    return f"{mean} [{low}, {high}]"


def verdict(values: ArrayLike) -> str:
    """'seen' where the interval of the values is above 0, 'not seen' below, else undecided."""
    _, low, high = interval(values)
    return "seen" if low > 0 else "not seen" if high < 0 else "cannot tell here"


def report(
    table: pd.DataFrame, baseline: str = "joint", column: str = "accuracy", folds: int | None = None
) -> pd.DataFrame:
    """One row per method, in %: mean and interval; in points, the paired difference to `baseline`.

    column: a share, from 0 to 1; or "mae" or "pearson", which are shown as they are.
    folds:  show the interval over folds too, see `fold_means`.
    """
    import pandas as pd

    check_column(table, column)
    share = column not in NO_SHARES
    unit, points = ("%", "points") if share else ("", "")
    rows = {}
    for method in table["method"].unique():
        own = spell(table.loc[table["method"] == method, column], unit)
        row = {f"{column}, %" if share else column: own}
        if method != baseline:
            paired = difference(table, method, baseline, column)
            row[f"minus {baseline}" + (", points" if share else "")] = spell(paired, points)
            if folds:
                row["over folds"] = spell(fold_means(paired, folds), points)
        rows[method] = row
    return pd.DataFrame.from_dict(rows, orient="index").fillna("–").rename_axis("method")


def claims(rows: Iterable[Claim | tuple], folds: int | None = None) -> pd.DataFrame:
    """One row per claim: who makes it, what is seen here with its 95 % interval, and the verdict.

    folds: show the interval over folds too; the verdict is that over seeds.
    """
    import pandas as pd

    shown, texts = [], []
    for text, who, values, unit in (Claim(*row) for row in rows):
        row = {"who": who, "here, paired, 95 %": f"{spell(values, unit)} {unit}".strip()}
        if folds:
            row["over folds"] = spell(fold_means(values, folds), unit)
        shown.append(row | {"verdict": verdict(values)})
        texts.append(text)
    return pd.DataFrame(shown, index=pd.Index(texts, name="claim"))
