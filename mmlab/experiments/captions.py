"""What stands under a table of results: units, runs, what could have been seen, what was tuned."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from mmlab.experiments.intervals import ENOUGH, detectable

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


def caption(table: pd.DataFrame) -> str:
    """What to print under a table of `report` or `claims`; it is in ``table.attrs["caption"]``.

    Raises ValueError for a table without one. Pandas drops it where different tables are put
    together: print that of each part.
    """
    if "caption" not in table.attrs:
        raise ValueError(
            "this table has no caption; report and claims give one, and pandas drops it where "
            "tables are put together: take it from one of the parts"
        )
    return table.attrs["caption"]


def shown(value: float, unit: str, sign: str = "") -> str:
    """A value in its unit, as tables show it; sign: '+' for plus signs."""
    show, decimals = UNITS.get(unit, (lambda x: x, 2))
    return f"{show(value):{sign}.{decimals}f}"


def repeated(groups: Iterable[ArrayLike], by: str) -> str:
    """'mean [95 % interval] over 6 seeds', or what is shown of fewer than `ENOUGH`; '' for none."""
    sizes = sorted({np.size(values) for values in groups})
    if not sizes:
        return ""
    few = f"; of fewer than {ENOUGH[by]} mean (each value)" if sizes[0] < ENOUGH[by] else ""
    return f"mean [95 % interval] over {_span(sizes)} {by}s{few}"


def could_see(differences: Iterable[tuple[ArrayLike, str]]) -> str:
    """'a true difference of 1.2 points would show in 4 of 5 such experiments'; '' for none.

    Of several rows, each taken alone, the most and the least exact one.
    """
    found: dict[str, list[float]] = {}
    for values, unit in differences:
        found.setdefault(unit, []).append(detectable(values))
    if not found:
        return ""
    each = "row by row, " if sum(map(len, found.values())) > 1 else ""
    sizes = ", ".join(_from_to(rows, unit) for unit, rows in found.items())
    return f"{each}a true difference of {sizes} would show in 4 of 5 such experiments"


def _from_to(sizes: list[float], unit: str) -> str:
    """'1.2 points (most exact row) to 6.7 points (least exact row)'; one size if they are alike."""
    least, most = (f"{shown(x, unit)} {unit}".strip() for x in (min(sizes), max(sizes)))
    if least == most:
        return least
    return f"{least} (most exact row) to {most} (least exact row)"


def tuned(tables: Iterable[object]) -> str:
    """'tuned: ...' from the `attrs["tuned"]` of tables or differences: a text, or name -> text."""
    notes = [getattr(table, "attrs", {}).get("tuned") for table in tables]
    texts = dict.fromkeys(_text(note) for note in notes if note)
    return f"tuned: {'; '.join(texts)}" if texts else ""


def joined(*sentences: str) -> str:
    """The sentences that say something, with capitals and full stops."""
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in sentences if text)


def _text(note: object) -> str:
    if isinstance(note, Mapping):
        return ", ".join(f"{name}: {text}" for name, text in note.items())
    return str(note)


def _span(values: Iterable[object]) -> str:
    """'6', or '3 to 6', of values in order."""
    first, *others = map(str, values)
    return f"{first} to {others[-1]}" if others else first
