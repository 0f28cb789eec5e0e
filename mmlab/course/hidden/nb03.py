"""Hidden cases of notebook 03."""

from __future__ import annotations

import torch
from torch import Tensor


def _factors(draw: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Factors with the sum 1, and losses."""
    factors, losses = 0.1 + torch.rand(2, count, generator=draw, dtype=torch.float64)
    return factors / factors.sum(), 2 * losses


def after(draw: torch.Generator) -> dict[str, tuple]:
    return {
        "one step": (*_factors(draw, 2), 0.3, 1),
        "many steps": (*_factors(draw, 3), 0.02, 150),
        "five modalities": (*_factors(draw, 5), 0.1, 12),
        "a large rate": (*_factors(draw, 2), 20.0, 2),
    }


def ace_with_gaps(draw: torch.Generator) -> dict[str, tuple]:
    def drawn(*seen: bool, rate: float = 0.2) -> tuple[Tensor, Tensor, Tensor, float]:
        factors, losses = _factors(draw, len(seen))
        here = torch.tensor(seen)
        return factors, losses * here, here, rate

    return {
        "two of four absent": drawn(True, False, True, False),
        "only one seen": drawn(False, True, False),
        "all seen": drawn(True, True, True),
        "a large rate": drawn(True, True, False, rate=30.0),
    }
