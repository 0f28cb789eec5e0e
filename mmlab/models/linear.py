"""Linear maps, one or a stack of R: what a layer does to a batch, whatever axes lead."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, bias_scale: float = 1.0) -> Tensor:
    """x Wᵀ + bias_scale · b for x (B, D) and W (C, D); or for R of each, with a leading axis R."""
    if bias is None:
        return x @ weight.mT if weight.ndim == 2 else torch.bmm(x, weight.mT)
    if weight.ndim == 2:
        return torch.addmm(bias, x, weight.mT, beta=bias_scale)
    return torch.baddbmm(bias.unsqueeze(-2), x, weight.mT, beta=bias_scale)


class StackedLinear(nn.Module):
    """R linear layers as one: (R, B, ..., D) -> (R, B, ..., C); weight (R, C, D), bias (R, C)."""

    def __init__(self, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.weight = weight
        self.bias: nn.Parameter | None
        self.register_parameter("bias", bias)

    @property
    def out_features(self) -> int:
        return self.weight.shape[-2]

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            return linear(x, self.weight, self.bias)
        rows = linear(x.flatten(1, -2), self.weight, self.bias)
        return rows.unflatten(1, x.shape[1:-1])


Linear = nn.Linear | StackedLinear
"""One linear layer, or a stack of them."""
