"""Hidden cases of notebook 12."""

from __future__ import annotations

import torch
from torch import Tensor


def fault(draw: torch.Generator) -> dict[str, str]:
    """The same as in the notebook: there are three letters."""
    return {f"balancer {letter}": letter for letter in "ABC"}


def constant_sum(draw: torch.Generator) -> dict[str, tuple]:
    def drawn(*shape: int, strength: float) -> tuple[Tensor, Tensor, float]:
        seen, more = torch.rand(2, *shape, generator=draw, dtype=torch.float64)
        return seen, seen + 2 * more, strength

    seen, new, strength = drawn(3, strength=1.5)
    return {
        "two modalities": drawn(2, strength=0.7),
        "five modalities": drawn(5, strength=4.0),
        "a grid of networks": drawn(3, 4, 2, strength=1.0),
        "another zero of the loss": (seen - 7, new - 7, strength),
        "no strength": drawn(3, strength=0.0),
    }
