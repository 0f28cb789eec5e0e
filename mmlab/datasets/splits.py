"""A split in parts that fit the memory."""

from __future__ import annotations

from collections.abc import Iterator

from mmlab.datasets.base import Batch, Split
from mmlab.nested import tensors

AT_ONCE = 2**23
"""Bytes of input that go through a network at once where nothing is trained."""

FEWEST = 16
"""The smallest number of samples of a piece, however many bytes they have."""

MOST = 4096
"""The largest number of samples of a piece, however few bytes they have."""

LOOKED_UP = 1024
"""Bytes that a whole number counts as: a network looks up a row of numbers for it."""


def piece_size(split: Split) -> int:
    """How many samples of a split go through a network at once where nothing is trained."""
    size = sum(
        x.numel() * (x.element_size() if x.is_floating_point() else LOOKED_UP)
        for value in split.head(1).inputs.values()
        for x in tensors(value).values()
    )
    return min(max(AT_ONCE // max(size, 1), FEWEST), MOST)


def pieces(split: Split) -> Iterator[Batch]:
    """A whole split, in its order, in parts that fit the memory."""
    return split.batches(piece_size(split))
