"""Training batches changed at random, where they are: crops, flips, noise, masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from mmlab.checks import kind_of
from mmlab.datasets.base import Augment, Batch
from mmlab.nested import tensors


@torch.no_grad()
def augmented(augment: Augment, batch: Batch) -> Batch:
    """The batch as `augment` changes it.

    Raises TypeError or ValueError for what is no such batch; nothing here waits for a GPU.
    """
    if isinstance(augment, Mapping):
        inputs = {m: augment[m](x) if m in augment else x for m, x in batch.inputs.items()}
        found = replace(batch, inputs=inputs)
    else:
        found = augment(batch)
    if not isinstance(found, Batch):
        raise TypeError(f"augment gives {kind_of(found)}; it must give a Batch")
    before, after = _form(batch), _form(found)
    if before != after:
        names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        raise ValueError(
            f"augment changes the form of {', '.join(names)}: "
            + ", ".join(f"{before.get(name)} becomes {after.get(name)}" for name in names)
            + "; it must keep the modalities, the samples, the types and the number of axes"
        )
    return replace(found, index=batch.index)  # the same samples in the same order


def _form(batch: Batch) -> dict[str, tuple[object, ...]]:
    """What a network and a loss rely on, of each tensor."""
    parts = {
        f"{m!r}{place}": x for m in batch.inputs for place, x in tensors(batch.inputs[m]).items()
    }
    every = {**parts, "the target": batch.target}
    return {name: (x.dtype, x.ndim, len(x), x.device) for name, x in every.items()}
