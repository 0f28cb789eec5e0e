"""Arithmetic on an encoder's gradient: a list of tensors, one per parameter, taken as one vector.

Nothing here makes the CPU wait for the GPU: results are tensors, and every function is one or two
batched (`foreach`) calls however many parameters the encoder has.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Gradient = Sequence[Tensor]


def flatten(grads: Gradient, lead: int = 0) -> Tensor:
    """One vector of all entries, in order: (P,), or (R, P) where lead=1 axis leads every tensor."""
    return torch.cat([_rows(g, lead) for g in grads], dim=-1)


def _rows(grad: Tensor, lead: int) -> Tensor:
    return grad.flatten(lead) if grad.ndim > lead else grad[..., None]


def unflatten(vector: Tensor, like: Gradient) -> list[Tensor]:
    """The tensors that `flatten` joined, in the shapes of `like`; views of the vector."""
    lead = vector.ndim - 1
    parts = vector.split([math.prod(g.shape[lead:]) for g in like], dim=-1)
    return [part.view(g.shape) for part, g in zip(parts, like, strict=True)]


def dot(a: Gradient, b: Gradient) -> Tensor:
    """Inner product of two gradients of the same encoder, a scalar tensor."""
    parts = [torch.dot(x.reshape(-1), y.reshape(-1)) for x, y in zip(a, b, strict=True)]
    return torch.stack(parts).sum()


def grams(gradients: Sequence[Gradient], lead: int = 0) -> Tensor:
    """Inner products of K gradients of one encoder, tensor by tensor: (…, T, K, K).

    T is the number of parameters. Summed over them it is the Gramian of the whole gradients.
    """
    count = len(gradients)
    pairs = {
        (i, j): [
            torch.linalg.vecdot(_rows(x, lead), _rows(y, lead))
            for x, y in zip(gradients[i], gradients[j], strict=True)
        ]
        for i in range(count)
        for j in range(i, count)
    }
    entries = [pairs[min(i, j), max(i, j)] for i in range(count) for j in range(count)]
    flat = torch.stack([x for entry in entries for x in entry], dim=-1)
    return flat.unflatten(-1, (count, count, -1)).movedim(-1, -3)


def norm(grads: Gradient) -> Tensor:
    """Euclidean norm of the whole gradient, a scalar tensor."""
    return dot(grads, grads).sqrt()


def cosine(a: Gradient, b: Gradient) -> Tensor:
    """Cosine of the angle between two gradients; 0 where one of them is zero."""
    length = norm(a) * norm(b)
    return torch.where(length > 0, dot(a, b) / length, length)


def entry_std(grads: Gradient, lead: int = 0) -> list[Tensor]:
    """Standard deviation over the entries of each tensor, plus 1e-8 (OGM-GE's released code).

    A tensor of one entry has no spread: 1e-8. lead=1: one per network, (R,).
    """
    return list(torch._foreach_add([_std(_rows(g, lead)) for g in grads], 1e-8))


LARGE = 2**16
"""Entries from which on torch's own standard deviation takes three times as long as two passes."""


def _std(rows: Tensor) -> Tensor:
    """Sample standard deviation over the last axis; 0 for one entry."""
    count = rows.shape[-1]
    if count < LARGE:
        return rows.std(-1, correction=min(1, count - 1))
    centred = rows - rows.mean(-1, keepdim=True)
    return torch.linalg.vector_norm(centred, dim=-1) / (count - 1) ** 0.5


def laid_out(grad: Tensor, parameter: Tensor) -> Tensor:
    """A gradient in the memory layout of its parameter, as fused optimisers silently expect it."""
    if grad.stride() == parameter.stride():
        return grad
    return torch.empty_like(parameter).copy_(grad)


def align_to(tensor: Tensor, k: float | Tensor) -> float | Tensor:
    """k ready to multiply `tensor`: its axes stand along the leading axes of the tensor.

    A number or a tensor without axes stays as it is.
    """
    if isinstance(k, Tensor) and k.ndim:
        return k.to(tensor).reshape(k.shape + (1,) * (tensor.ndim - k.ndim))
    return k
