"""Normal noise for one run or a stack of R, each replica from its own generator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

AHEAD = 2**18
"""Numbers that are drawn at once for each replica: a step then costs a slice, not R draws."""


class Normals:
    """Independent standard normal numbers, the same for a replica as for a run on its own.

    generators: one a replica; or a single one, None for torch's global one.
    ahead:      how many numbers to draw at once; 0 draws just what is asked for.
    """

    def __init__(
        self,
        generators: torch.Generator | Sequence[torch.Generator] | None,
        ahead: int = 0,
    ) -> None:
        self.stacked = isinstance(generators, Sequence)
        self.generators = list(generators) if self.stacked else [generators]
        self.ahead = ahead
        self._block = torch.empty(len(self.generators), 0)
        self._used = 0

    def like(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Normal numbers in the shapes of `tensors`, which have a leading axis R in a stack."""
        sizes = [math.prod(t.shape[self.stacked :]) for t in tensors]
        drawn = self._next(sum(sizes), tensors[0])
        parts = (drawn if self.stacked else drawn[0]).split(sizes, dim=-1)
        return [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]

    def _next(self, count: int, like: Tensor) -> Tensor:
        """The next `count` numbers of each replica, (R, count)."""
        block = self._block
        fits = self._used + count <= block.shape[1]
        if not fits or block.dtype != like.dtype or block.device != like.device:
            # whole requests, so that a replica's numbers do not hang on how many there are
            width = count * max(1, self.ahead // count)
            rows = [
                torch.randn(width, generator=g, dtype=like.dtype, device=like.device)
                for g in self.generators
            ]
            self._block, self._used = torch.stack(rows) if len(rows) > 1 else rows[0][None], 0
        self._used += count
        return self._block[:, self._used - count : self._used]
