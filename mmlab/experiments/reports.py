"""Results in words: a difference with its interval, and what became of a claim.

A table here is one that `mmlab.experiments.compare` returned: one row per method and seed.
Values are one number per seed, each a paired difference that is above 0 where the claim holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mmlab.experiments.captions import could_see, joined, repeated, shown, tuned
from mmlab.experiments.intervals import enough, interval, one_per_run, share_interval
from mmlab.experiments.significance import equivalence, holm, p_value
from mmlab.experiments.statistics import of_method, pairs, per_unit
from mmlab.experiments.tables import check_column, unit_of

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike

UNSIGNED = ("%", "×")
"""Units of what is no difference: they never have a plus sign."""

UNCORRECTED = 5
"""Up to so many claims of one table are judged each by itself; of more all are corrected."""

LEVEL = 0.05


class Claim(NamedTuple):
    """What somebody says, and the values, one per seed, that speak for it where above 0.

    margin: "not seen" is also what is shown to lie within ±margin; in the unit of the values, so
            that 0.01 is one point of an accuracy. None: only what lies below 0.
    """

    text: str
    who: str
    values: ArrayLike
    unit: str = "points"
    margin: float | None = None


def spell(values: ArrayLike, unit: str = "points", *, signed: bool = True) -> str:
    """Mean and 95 % interval of independent runs in a unit: '+1.2 [+0.3, +2.1]'.

    Of fewer than 5 seeds or 3 folds, which have no interval here, the mean and each of them:
    '+1.2 (+0.9, +1.1, +1.6)'. An interval of shares ("%") stays within 0 to 100.

    signed: with plus signs, as a difference has; "%" and "×" never have one.

    Where runs failed (`mmlab.experiments.difference`) it says this, and reckons nothing.

    Raises ValueError for fewer than two runs, and for a share that is not between 0 and 1.
    """
    if why := _failed(values):
        return why
    sign = "+" if signed and unit not in UNSIGNED else ""
    mean, low, high = (share_interval if unit == "%" else interval)(values)
    if not enough(values):
        each = ", ".join(shown(x, unit, sign) for x in one_per_run(values))
        return f"{shown(mean, unit, sign)} ({each})"
    return "{} [{}, {}]".format(*(shown(x, unit, sign) for x in (mean, low, high)))


def verdict(values: ArrayLike, margin: float | None = None) -> str:
    """'seen', 'not seen' or 'cannot tell here': what the values say of a claim.

    Seen: their 95 % interval lies above 0. Not seen: it lies below 0, or, where a `margin` is
    given, `equivalence` shows at 5 % that the true difference is within ±margin. Else, and of fewer
    than 5 seeds or 3 folds, nobody can tell: that is not "equal".
    """
    return word_of(values, _p(values), _p_equal(values, margin))


def word_of(values: ArrayLike, p: float, equal: float = np.nan) -> str:
    """The verdict by the p values of a difference and of equivalence; a NaN is no test."""
    if p < LEVEL:
        return "seen" if one_per_run(values).mean() > 0 else "not seen"
    return "not seen" if equal < LEVEL else "cannot tell here"


def _p(values: ArrayLike) -> float:
    return p_value(values) if _is_judged(values) else np.nan


def _p_equal(values: ArrayLike, margin: float | None) -> float:
    return equivalence(values, margin) if margin is not None and _is_judged(values) else np.nan


def _is_judged(values: ArrayLike) -> bool:
    """Whether values get a verdict: no run failed, and they are enough for an interval."""
    return _is_complete(values) and enough(values)


def _is_complete(values: ArrayLike) -> bool:
    return not _failed(values)


def _failed(values: ArrayLike) -> str:
    """What failed of the runs that values come from, as a `difference` says it."""
    return getattr(values, "attrs", {}).get("failed", "")


def report(
    table: pd.DataFrame,
    baseline: str = "joint",
    column: str = "accuracy",
    folds: int | None = None,
    unit: str | None = None,
    by: str = "seed",
) -> pd.DataFrame:
    """One row per method: mean and interval, and the paired difference to `baseline`.

    Shares are shown in %, their differences in points; numbers as they are. Where a run failed it
    says so, in place of a mean over the others. Print `caption(report(...))` under it: over what
    the intervals are, and the smallest differences they could have shown (`detectable`).

    Args:
        table: what `compare` returned.
        baseline: the method that all others are compared with.
        column: of what; its unit is in `table.attrs["units"]`, where `compare(units=...)` puts it.
        folds: how many folds of people there are; then the difference is shown over the folds too.
        unit: the column's unit, where the table does not know it, or knows another: "%" for shares
            from 0 to 1, "" for plain numbers, or any text.
        by: the unit of repetition, "seed", or "fold" to speak of new people; see `per_unit`.

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
    rows, own, paired = {}, {}, {}
    for method in table["method"].unique():
        seeds = pairs(table, method, baseline, column)
        own[method] = per_unit(of_method(table, method, column), by, folds)
        rows[method] = {heading: spell(own[method], known or "", signed=False)}
        if method != baseline:
            paired[method] = per_unit(seeds, by, folds)
            lost = _failed(own[method])
            minus = "–" if lost else spell(paired[method], step)
            rows[method] |= {_headed(f"minus {baseline}", step): minus}
            rows[method] |= _other_unit(seeds, step, by, folds)
    result = pd.DataFrame.from_dict(rows, orient="index").fillna("–").rename_axis("method")
    result.attrs["caption"] = joined(
        f"{heading}: {repeated(filter(_is_complete, own.values()), by)}",
        could_see((values, step) for values in filter(_is_judged, paired.values())),
        tuned([table]),
    )
    return result


def _headed(column: str, unit: str) -> str:
    return f"{column}, {unit}" if unit else column


def _other_unit(values: pd.Series, unit: str, by: str, folds: int | None) -> dict[str, str]:
    """A column over the other unit of repetition where there are folds; '–' where runs failed."""
    if folds is None:
        return {}
    other = "fold" if by == "seed" else "seed"
    text = "–" if _failed(values) else spell(per_unit(values, other, folds), unit)
    return {f"over {other}s": text}


def _check_shares(values: pd.Series, column: str) -> None:
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"column {column!r} has values from {values.min():g} to {values.max():g}, and '%' is "
            "for shares from 0 to 1; say the unit, such as report(..., unit='') for plain numbers"
        )


def claims(
    rows: Iterable[Claim | tuple], folds: int | None = None, by: str = "seed"
) -> pd.DataFrame:
    """One row per claim: who makes it, what is seen here with its 95 % interval, and the verdict.

    Verdicts are those of `verdict`, by the unit of repetition `by`. A table of more than five is
    corrected for their number by `holm`: the column "p, Holm" has the p values that its verdicts
    follow, and an interval that leaves out 0 may be "cannot tell here". The tests for equivalence
    are corrected likewise, for their own number. Where runs failed it says so, and cannot tell.

    Args:
        folds: how many folds of people there are; then the folds are shown too.
        by: "seed" to speak of these people, "fold" of new ones; see `per_unit`.

    Raises TypeError for a row that is no claim, or values without their seeds where there are
    folds; ValueError for folds that are none.
    """
    import pandas as pd

    given = [*map(_claim, rows)]
    values = [c.values if _failed(c.values) else per_unit(c.values, by, folds) for c in given]
    p = np.array([*map(_p, values)])
    equal = np.array([_p_equal(own, c.margin) for own, c in zip(values, given, strict=True)])
    corrected = np.isfinite(p).sum() > UNCORRECTED
    if corrected:
        p, equal = holm(p), holm(equal)
    lines = []
    for claim, own, one, none in zip(given, values, p, equal, strict=True):
        text = spell(own, claim.unit)
        here = text if _failed(own) else f"{text} {claim.unit}".strip()
        line = {"who": claim.who, "here, paired, 95 %": here}
        line |= _other_unit(claim.values, claim.unit, by, folds)
        line |= {"p, Holm": _spelt_p(one)} if corrected else {}
        lines.append(line | {"verdict": word_of(own, one, none)})
    table = pd.DataFrame(lines, index=pd.Index([claim.text for claim in given], name="claim"))
    table.attrs["caption"] = _caption(given, values, by, corrected)
    return table


def _caption(given: list[Claim], values: list[ArrayLike], by: str, corrected: bool) -> str:
    judged = [(own, c.unit) for own, c in zip(values, given, strict=True) if _is_judged(own)]
    margins = {f"±{shown(c.margin, c.unit)} {c.unit}" for c in given if c.margin is not None}
    equal = " or ".join(sorted(margins))
    how = "Holm's correction" if corrected else "no correction"
    return joined(
        repeated(filter(_is_complete, values), by),
        f"verdicts at {100 * LEVEL:.0f} %, with {how} for the number of claims",
        f"not seen: below 0, or shown to lie within {equal}" if equal else "",
        could_see(judged),
        tuned(claim.values for claim in given),
    )


def _spelt_p(p: float) -> str:
    return "–" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _claim(row: Claim | tuple) -> Claim:
    if not isinstance(row, Claim) and not (isinstance(row, tuple) and len(row) in (3, 4)):
        raise TypeError(
            f"a claim is {row!r}; give (text, who, values) or (text, who, values, unit), such as "
            "Claim('OGM-GE beats joint', 'paper', difference(table, 'OGM-GE'))"
        )
    return Claim(*row)
