"""Hidden cases of notebook 02."""

from __future__ import annotations

import torch
from torch import Tensor


def two_heads(draw: torch.Generator) -> dict[str, tuple]:
    def drawn(r: float, spread: tuple[float, float] = (0.5, 0.5)) -> tuple[Tensor, Tensor, float]:
        more = torch.rand(2, 2, generator=draw, dtype=torch.float64) / 2
        return 0.5 + more[0], torch.tensor(spread, dtype=torch.float64) + more[1], r

    return {
        "together": drawn(0.4),
        "uncorrelated": drawn(0.0),
        "against each other": drawn(-0.7),
        "a negative weight": drawn(0.95, (2.0, 0.5)),
    }


def blend_many(draw: torch.Generator) -> dict[str, tuple]:
    def drawn(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
        overfit, gain, old = torch.rand(3, *shape, generator=draw, dtype=torch.float64)
        return overfit - 0.3, gain - 0.2, old / old.sum(-1, keepdim=True)

    overfit, gain, old = drawn(4, 3)
    small = torch.tensor([1.0, 1e-3, -1e-9], dtype=torch.float64)
    return {
        "four runs": (overfit, gain, old),
        "a grid of runs": drawn(2, 3, 4),
        "nothing gains": (overfit, -gain.abs(), old),
        "hardly any overfit": (small * overfit, gain.abs(), old),
    }
