"""LayerNorms of R networks as one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class StackedLayerNorm(nn.Module):
    """R LayerNorms over the last axes as one: (R, B, ..., D) -> the same shape; weight (R, D)."""

    def __init__(self, norm: nn.LayerNorm, weight: nn.Parameter, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.shape, self.eps, self.weight = norm.normalized_shape, norm.eps, weight
        self.bias: nn.Parameter | None
        self.register_parameter("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        found = functional.layer_norm(x, self.shape, eps=self.eps)
        between = x.ndim - self.weight.ndim
        weight = self._over(self.weight, between)
        if self.bias is None:
            return found * weight
        return torch.addcmul(self._over(self.bias, between), found, weight)

    def _over(self, parameter: Tensor, between: int) -> Tensor:
        return parameter.unflatten(0, (-1, *[1] * between))
