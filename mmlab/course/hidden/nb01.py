"""Hidden cases of notebook 01."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def ensemble(draw: torch.Generator) -> dict[str, tuple]:
    def drawn(*sizes: float) -> tuple[list[Tensor]]:
        return ([k * torch.randn(6, 4, generator=draw, dtype=torch.float64) for k in sizes],)

    return {
        "two networks": drawn(1, 3),
        "five networks": drawn(1, 1, 2, 1, 1),
        "one network": drawn(2),
        "logits far apart": drawn(1, 1000),
    }


def encoder_gradient(draw: torch.Generator) -> dict[str, tuple]:
    def drawn(B: int, C: int, D: int, push: float = 0) -> tuple[Tensor, ...]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=draw, dtype=torch.float64)

        y = one_hot(torch.randint(C, (B,), generator=draw), C).double()
        return normal(B, D), normal(B, C) + push * y, y, normal(C, D), normal(C, D), normal(C)

    return {
        "eight samples": drawn(8, 10, 16),
        "one sample": drawn(1, 3, 5),
        "two classes, one feature": drawn(6, 2, 1),
        "the others are sure": drawn(5, 4, 3, push=100),
    }
