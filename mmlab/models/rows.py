"""The rows of a forward pass where each frame of a sample has a label: one row per frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Which frames of B samples are the rows of a forward pass.

    shape:  B and T, samples and frames per sample.
    places: (N,) whole numbers from 0 to B·T − 1, in order; None: all frames.
    """

    shape: tuple[int, int]
    places: Tensor | None = None


def as_rows(m: str, features: Tensor, rows: Rows | None) -> Tensor:
    """Features (B, T, D) of modality m as (N, D), one row per frame of `rows`; None: of all.

    Raises ValueError for features of another shape.
    """
    shape = tuple(features.shape)
    if features.ndim != 3 or (rows is not None and shape[:2] != rows.shape):
        wanted = "(B, T, D)" if rows is None else f"({rows.shape[0]}, {rows.shape[1]}, D)"
        raise ValueError(
            f"the encoder of {m!r} gives features {shape}, and with a label for each frame they "
            f"must be {wanted}: one feature vector per label; pool or repeat frames in the encoder"
        )
    flat = features.flatten(0, 1)
    return flat if rows is None or rows.places is None else flat.index_select(0, rows.places)


def of_every_frame(
    fuse: Callable[[Any, Mapping[str, Tensor] | None], Tensor],
    out: Any,
    samples: int,
    present: Mapping[str, Tensor] | None,
) -> Tensor:
    """The prediction (B, T, C) for B samples, of an Output that has one row per frame."""
    if present is not None:
        frames = len(next(iter(out.features.values()))) // samples
        present = {m: mask.repeat_interleave(frames) for m, mask in present.items()}
    return fuse(out, present).unflatten(0, (samples, -1))
