"""What a table of `compare` says of itself: its columns, their units, and what failed.

A table has one row per method and seed. A row whose run failed has the error's text in the column
"error" and no scores; so has one whose further measures failed, and it keeps its scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmlab.checks import kind_of

if TYPE_CHECKING:
    import pandas as pd

SCORES = {
    **dict.fromkeys(("accuracy", "mAP", "F1 macro", "F1 micro", "accuracy 2", "accuracy 7"), "%"),
    **dict.fromkeys(("mae", "pearson"), ""),
}
"""The scores of `mmlab.evaluation.test_scores` and their units: "%" of a share, "" of a number."""

ANSWERED = "answered"
"""Column of `compare`: the part of the test samples for which the method has an answer, 0 to 1."""

ERROR = "error"
"""Column of `compare`: what a run failed with, a text; None of a run that did not fail."""

HOLDOUT = "holdout "
"""How the names of columns begin that hold scores of the holdout split: "holdout accuracy"."""

SHARE = "share "
"""How the names of columns begin of which there is one per modality, such as "share audio".

Each holds the test accuracy of the modality's part of the joint logits, 0 to 1.
"""


def known_unit(column: str) -> str | None:
    """The unit of a column that `compare` writes itself; None of any other."""
    if column == ANSWERED or column.startswith(SHARE):
        return "%"
    return SCORES.get(column.removeprefix(HOLDOUT))


def unit_of(table: pd.DataFrame, column: str) -> str | None:
    """The unit of a column; None where nobody said one.

    It is in `table.attrs["units"]`. Pandas keeps this in copies and selections, and not where
    tables of different attrs are put together; there the columns of `compare` itself are known by
    their names.
    """
    units = table.attrs.get("units")
    return known_unit(column) if units is None else units.get(column)


def check_column(table: pd.DataFrame, column: str) -> None:
    """Raises ValueError where the table has no such column of results, TypeError for no table."""
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table is {kind_of(table)}; give the table that compare returns")
    for name in ("method", "seed"):
        if name not in table:
            raise ValueError(
                f"the table has no column {name!r}; it needs one row per method and seed, as the "
                f"table that compare returns has. Its columns are {list(table)}"
            )
    results = [name for name in table if name not in ("method", "seed", ERROR)]
    if column not in results:
        raise ValueError(f"the table has no column {column!r}; its results are {results}")
    if not pd.api.types.is_numeric_dtype(table[column]):
        raise ValueError(
            f"column {column!r} is {table[column].dtype} and holds no numbers; the columns of "
            f"numbers are {[n for n in results if pd.api.types.is_numeric_dtype(table[n])]}"
        )


def lost_seeds(table: pd.DataFrame, method: str, column: str) -> dict[int, str]:
    """Seed -> error of the runs of a method that failed before they had this column."""
    if ERROR not in table:
        return {}
    lost = table[(table["method"] == method) & table[ERROR].notna() & table[column].isna()]
    return dict(zip(lost["seed"], lost[ERROR], strict=True))


def failed(table: pd.DataFrame, method: str, column: str) -> str:
    """'failed at 1 of 5 seeds (3): ...'; '' where no run of the method lacks the column so."""
    errors = lost_seeds(table, method, column)
    return failure(errors, int((table["method"] == method).sum())) if errors else ""


def failure(errors: Mapping[int, str], count: int) -> str:
    """What failed at some of `count` seeds, in words: which ones, and the first one's error."""
    seeds, first = ", ".join(map(str, errors)), next(iter(errors.values())).partition("\n")[0]
    return f"failed at {len(errors)} of {count} seeds ({seeds}): {first}"
