"""One process's part of a batch: the inputs of some samples, and what is known of all of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NoReturn

from torch import Tensor

from mmlab.datasets.base import Batch
from mmlab.nested import changed


class Part(Batch):
    """What one of several processes has of a batch, whose samples they share out.

    - target, present, index: those of all B samples, as in the batch.
    - own: the inputs of the samples that this process encodes, from the sample `start` on. Where
      the process has no sample, as in a batch of 1 for 2 processes, it takes one all the same,
      which does not count. Its encoders then run, and join in every sum with zeros.
    - sizes: how many samples each process has; they differ by at most 1.

    Raises ValueError for what a part does not have: the inputs of all, and parts that are a Batch.
    """

    def __init__(self, whole: Batch, rank: int, count: int) -> None:
        self.target, self.present, self.index = whole.target, whole.present, whole.index
        bounds = [len(whole) * r // count for r in range(count + 1)]
        self.sizes = [end - start for start, end in pairwise(bounds)]
        self.start, size = min(bounds[rank], len(whole) - 1), max(1, self.sizes[rank])
        self.own = {
            m: changed(lambda x: x.narrow(0, self.start, size), value)
            for m, value in whole.inputs.items()
        }

    def __repr__(self) -> str:
        return f"Part({self.sizes} samples, target {tuple(self.target.shape)})"

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.own)

    @property
    def inputs(self) -> dict[str, Any]:  # type: ignore[override]
        self._refuse("reads the inputs of a batch")

    def _each(self, change: Callable[[Tensor], Tensor]) -> NoReturn:
        self._refuse("takes a batch apart")

    def _refuse(self, what: str) -> NoReturn:
        raise ValueError(
            f"something {what}, and this is one of {len(self.sizes)} processes, which has the "
            "inputs of its own samples alone; take a method that reads losses, logits and "
            "features, such as Joint, or train in one process"
        )
