"""Rows of arrays that are in memory, as samples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mmlab.datasets.disk.reader import Reader, Stored


class Rows(Reader):
    """A row of each part; the source is its number."""

    def __init__(self, parts: Mapping[str, np.ndarray] | np.ndarray) -> None:
        self.parts = parts

    def __call__(self, row: int) -> Stored:
        if isinstance(self.parts, Mapping):
            return {part: values[row] for part, values in self.parts.items()}
        return self.parts[row]


def steps(values: np.ndarray, mask: np.ndarray | None = None) -> Rows:
    """Sequences (N, T, d) as {"values", "mask"}: where a step is.

    mask: (N, T); by default, a step is where a number is not 0, at whichever end the padding is.
    """
    there = (values != 0).any(2) if mask is None else mask.astype(bool)
    return Rows({"values": values, "mask": there})
