"""Arithmetic on an encoder's gradient: a list of tensors, one a parameter, taken as one vector.

Nothing here waits for the device: results are tensors, and every function is one or two batched
(`foreach`) calls however many parameters the encoder has.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Gradient = Sequence[Tensor]


def flatten(grads: Gradient) -> Tensor:
    """One vector (P,) of all entries, in order."""
    return torch.cat([g.reshape(-1) for g in grads])


def dot(a: Gradient, b: Gradient) -> Tensor:
    """Inner product of two gradients of the same encoder, a scalar tensor."""
    parts = [torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True)]
    return torch.stack(parts).sum()


def norm(grads: Gradient) -> Tensor:
    """Euclidean norm of the whole gradient, a scalar tensor."""
    return dot(grads, grads).sqrt()


def cosine(a: Gradient, b: Gradient) -> Tensor:
    """Cosine of the angle between two gradients; 0 where one of them is zero."""
    length = norm(a) * norm(b)
    return torch.where(length > 0, dot(a, b) / length, length)


def scale(grads: Gradient, k: float | Tensor) -> list[Tensor]:
    """k times the gradient."""
    return list(torch._foreach_mul(list(grads), k))


def combine(a: Gradient, b: Gradient, weight_a: Tensor, weight_b: Tensor) -> list[Tensor]:
    """weight_a * a + weight_b * b."""
    return list(torch._foreach_add(scale(a, weight_a), scale(b, weight_b)))


def entry_std(grads: Gradient) -> list[Tensor]:
    """Standard deviation over the entries of each tensor, plus 1e-8 (OGM-GE's released code).

    A tensor of one entry has no spread: 1e-8.
    """
    return [g.std(correction=min(1, g.numel() - 1)) + 1e-8 for g in grads]


def noise_like(
    grads: Gradient, std: Sequence[Tensor | float], generator: torch.Generator | None = None
) -> list[Tensor]:
    """Independent normal noise in the shape of `grads`; std: one standard deviation a tensor."""
    draws = [
        torch.randn(g.shape, generator=generator, dtype=g.dtype, device=g.device) for g in grads
    ]
    return [draw * s for draw, s in zip(draws, std, strict=True)]
