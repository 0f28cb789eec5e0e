"""Sequences of unlike length as one tensor, and a mask that says which steps there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate

from mmlab.checks import check_choice
from mmlab.datasets.base import IGNORED


def pad(sequences: Sequence[Any], length: int | None = None) -> dict[str, Tensor]:
    """Sequences (T_i, …) as {"values": (B, T, …), "mask": (B, T)}, with zeros at the ends.

    mask: True where a step is. `SequenceGRU`, `SequenceTransformer` and `FrameMean` of
    `mmlab.models` read both.

    Args:
        sequences: tensors, arrays or lists of numbers, one per sample; an empty one has no step.
        length: T; by default that of the longest sequence. Splits that are padded apart need one
            length.

    Raises:
        ValueError: no sequence, or no step in any; unlike types or shapes of a step; a sequence
            longer than `length`.

    >>> pad([[3, 1], [2]], length=3)["values"].tolist()
    [[3, 1, 0], [2, 0, 0]]
    """
    rows = [torch.as_tensor(sequence) for sequence in sequences]
    like = next((row for row in rows if row.ndim and len(row)), None)
    if like is None:
        raise ValueError(f"none of {len(rows)} sequences has a step; give at least one that has")
    rows = [like[:0] if row.shape[:1] == (0,) else row for row in rows]
    for i, row in enumerate(rows):
        if row.shape[1:] != like.shape[1:] or not row.ndim or row.dtype != like.dtype:
            raise ValueError(
                f"sequence {i} is {row.dtype} of shape {tuple(row.shape)}, and another is "
                f"{like.dtype} of shape {tuple(like.shape)}; only the first axis, the steps, may "
                "differ"
            )
    steps = [len(row) for row in rows]
    longest = max(steps)
    length = longest if length is None else length
    if longest > length:
        raise ValueError(
            f"sequence {steps.index(longest)} has {longest} steps, and length is {length}; cut the "
            f"sequences, [x[:{length}] for x in sequences], or give length={longest}"
        )
    whole = like.new_zeros(length, *like.shape[1:])  # so that all become this long
    values = pad_sequence([*rows, whole], batch_first=True)[:-1]
    mask = torch.arange(length) < torch.tensor(steps)[:, None]
    return {"values": values, "mask": mask.to(like.device)}


def _is_row(target: Any) -> bool:
    """Whether it is a row of whole numbers, as the labels of frames are."""
    row = torch.as_tensor(target)
    return row.ndim == 1 and row.dtype in (torch.int64, torch.uint8)


class Padded:
    """Samples as a batch, with padded sequences: `Stream(dataset, collate=Padded("text"))`.

    A sample is (inputs, target) or (inputs, target, present), as a Stream reads it. Where each
    frame has a label, targets of unlike length get −100 at the end, which does not count.

    names: the modalities that `pad` makes one tensor and a mask, as long as the longest sequence of
           the batch; the others go through torch's `default_collate`.

    Raises ValueError for a name that the samples do not have, and as `pad` does.
    """

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, samples: Sequence[tuple]) -> tuple:
        form = samples[0][0]
        for m in self.names:
            check_choice("a name in Padded", m, form)
        padded = {m: pad([inputs[m] for inputs, *_ in samples]) for m in self.names}
        others = [
            ({m: x for m, x in inputs.items() if m not in padded}, *more)
            for inputs, *more in samples
        ]
        if len({len(target) for _, target, *_ in others if _is_row(target)}) > 1:
            labels = pad([target for _, target, *_ in others])
            padded_labels = torch.where(labels["mask"], labels["values"], IGNORED)
            others = [(x, y, *more) for (x, _, *more), y in zip(others, padded_labels, strict=True)]
        collated, *rest = default_collate(others)
        return {m: padded[m] if m in padded else collated[m] for m in form}, *rest
