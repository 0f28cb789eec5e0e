"""One label per frame: the frames that count of a batch, as methods and measures see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from torch import Tensor

from mmlab.datasets.base import IGNORED, Batch
from mmlab.datasets.parts import Part
from mmlab.models.rows import Rows


class Frames(Batch):
    """The frames that count of a Batch whose target is (B, T), each of them a sample of its own.

    whole: the Batch itself.

    `target`, `present` and `index` are (N,), of the frames that count, in order; `index` says which
    sample of the split a frame is of. `rows` says which frames these are.

    Raises ValueError for what a frame does not have: inputs, and parts that are a Batch.
    """

    def __init__(self, whole: Batch) -> None:
        count = whole.target.flatten() != IGNORED
        places = count.nonzero()[:, 0]  # on a GPU the CPU waits here: how many are they?
        frames = whole.target.shape[1]

        def each(values: Tensor) -> Tensor:
            return values.repeat_interleave(frames)[places]

        self.whole = whole
        self.rows = Rows((len(whole), frames), None if len(places) == len(count) else places)
        self.target = whole.target.flatten()[places]
        self.present = whole.present and {m: each(mask) for m, mask in whole.present.items()}
        self.index = None if whole.index is None else each(whole.index)

    def __repr__(self) -> str:
        return f"Frames({len(self)} of {self.whole!r})"

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.whole.modalities

    @property
    def inputs(self) -> NoReturn:  # type: ignore[override]
        self._refuse("reads the inputs of a batch")

    def _each(self, change: Callable[[Tensor], Tensor]) -> NoReturn:
        self._refuse("takes a batch apart")

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"something {what}, and where each frame has a label its rows are frames, which have "
            "no inputs of their own; take a method or a measure that reads losses, logits and "
            "features, such as Joint, or make each frame a sample: targets (B,)"
        )


def rows_of(batch: Batch) -> Batch:
    """The batch as methods and measures see it: with one label per frame, its `Frames`."""
    framed = batch.task == "classification" and batch.target.ndim == 2
    return Frames(batch) if framed else batch


def inputs_of(batch: Batch) -> dict[str, Any]:
    """What the network reads for it, in this process."""
    part = part_of(batch)
    if part is not None:
        return part.own
    return batch.whole.inputs if isinstance(batch, Frames) else batch.inputs


def part_of(batch: Batch) -> Part | None:
    """The part of several processes that a batch, or its frames, is; None for a whole one."""
    whole = batch.whole if isinstance(batch, Frames) else batch
    return whole if isinstance(whole, Part) else None
