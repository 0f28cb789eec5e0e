"""Forward passes over a whole split that train nothing, in parts that fit the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmlab.datasets.base import Batch
from mmlab.datasets.frames import Frames, inputs_of, rows_of
from mmlab.models.modes import evaluating
from mmlab.models.network import MultimodalNet, Output


@dataclass
class Reading:
    """What was read of each sample of a split, and what is known of it; nothing of its inputs.

    values:  one tensor (N, ...) per thing that was read.
    target:  the targets, (N, ...).
    present: modality -> booleans (N,), which samples have it; None: each sample has all.

    Of a stack of R networks every tensor has a leading axis R. Where each frame has a label, the
    frames that count are the samples.
    """

    values: dict[str, Tensor]
    target: Tensor
    present: dict[str, Tensor] | None

    def has(self, modality: str) -> Tensor | None:
        """The mask of samples that have `modality`; None where all have it."""
        return None if self.present is None else self.present[modality]


@torch.no_grad()
def read(
    model: MultimodalNet,
    pieces: Iterable[Batch],
    what: Callable[[Batch, Output], dict[str, Tensor]],
    modules: nn.Module | None = None,
    *,
    every: bool = False,
) -> Reading:
    """Let each piece through the network, in evaluation mode, and keep what is read of the output.

    what: (piece, Output) -> tensors (B, ...). A part of the network of which it reads nothing does
        not run.
    modules: beside the network, which `what` calls: those of a method that predicts by them.
    every: where each frame has a label: whether to read all frames, (B, T, ...) per piece, in place
        of those that count, a piece being its `Frames`.
    """
    parts: list[Reading] = []
    axis, seen = 0 if model.replicas is None else 1, 0
    with evaluating(model), evaluating(modules or nn.Module()):
        for piece in pieces:
            try:
                some = piece if axis or every else rows_of(piece)
                rows = some.rows if isinstance(some, Frames) else None
                values = what(some, model.lazily(inputs_of(some), rows=rows))
            except Exception as error:
                if seen:
                    error.add_note(f"in a piece of the split, which begins at its sample {seen}")
                raise
            parts.append(Reading(values, some.target, some.present))
            seen += piece.target.shape[axis]
    return parts[0] if len(parts) == 1 else _joined(parts, axis)


def _joined(parts: Sequence[Reading], axis: int) -> Reading:
    """The readings of all pieces as one."""

    def join(dicts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([one[name] for one in dicts], axis) for name in dicts[0]}

    masks = [part.present for part in parts if part.present is not None]
    if 0 < len(masks) < len(parts):
        raise ValueError(
            "some batches of the split say which samples have a modality, and others do not; give "
            "every sample its `present`, or none"
        )
    lengths = {part.target.shape[axis + 1 :] for part in parts}
    if len(lengths) > 1:
        raise ValueError(
            f"the batches of the split have {sorted(n for (n,) in lengths)} frames per sample, "
            "which make no single tensor; predict them one by one, as in "
            "[run.predict(batch) for batch in split.batches(64)]"
        )
    target = torch.cat([part.target for part in parts], axis)
    return Reading(join([part.values for part in parts]), target, join(masks) if masks else None)
