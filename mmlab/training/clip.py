"""Gradients no longer than a given length, for one network or for each of a stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmlab.gradients import align_to


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], most: float, stacked: bool = False) -> None:
    """Shrink the gradient of all parameters together to the norm `most` where it is longer.

    As `torch.nn.utils.clip_grad_norm_` does. In a stack of R networks, whose parameters have a
    leading axis R, each network's gradient has a norm of its own. The CPU does not wait for a GPU.
    """
    if not stacked:
        nn.utils.clip_grad_norm_(parameters, most)
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return
    norms = torch.stack([grad.reshape(len(grad), -1).norm(dim=1) for grad in grads])
    factor = (most / (norms.norm(dim=0) + 1e-6)).clamp(max=1)  # (R,), with torch's own 1e-6
    factors: Any = [align_to(grad, factor) for grad in grads]
    torch._foreach_mul_(grads, factors)
