"""Checks of what balancers and their pure functions are given, and where a replica's number goes.

A check of a tensor reads no values: no device is waited for.
"""

from math import inf
from numbers import Real

import torch
from torch import Tensor


def check_shapes(**tensors: tuple[Tensor, str]) -> None:
    """Check the trailing axes of tensors, a letter an axis, and that their leading axes broadcast.

    ``check_shapes(gain=(gain, "K"), second_moment=(second_moment, "KK"))`` passes for the shapes
    (…, K) and (…, K, K) with one K ≥ 1 for both.

    Raises:
        ValueError: an axis is missing or empty, two axes of one letter differ in length, or the
            leading axes do not broadcast.
    """
    sizes: dict[str, int] = {}
    leading = []
    fits = True
    for tensor, axes in tensors.values():
        split = tensor.ndim - len(axes)
        fits = fits and split >= 0
        leading.append(tensor.shape[: max(split, 0)])
        for axis, size in zip(axes, tensor.shape[max(split, 0) :], strict=False):
            fits = fits and size > 0 and sizes.setdefault(axis, size) == size
    if not (fits and (len(set(leading)) == 1 or _broadcast(leading))):
        given = ", ".join(f"{name} {tuple(tensor.shape)}" for name, (tensor, _) in tensors.items())
        allowed = ", ".join(f"{name} (…, {', '.join(axes)})" for name, (_, axes) in tensors.items())
        raise ValueError(
            f"The shapes are {given}. Allowed are {allowed}: an axis of one name has one length "
            "≥ 1 in all of them, and the leading axes … broadcast."
        )


def _broadcast(shapes: list[torch.Size]) -> bool:
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        return False
    return True


def check_number(
    name: str, value: float | Tensor, *, above: float = -inf, least: float = -inf
) -> None:
    """Check a hyper-parameter: a number in range, or a tensor (R,) of such numbers.

    Raises:
        TypeError: neither a number nor a tensor, as a list or an array.
        ValueError: out of range, or a tensor of another shape. (It is read, before any training.)
    """
    if not isinstance(value, Real | Tensor):
        raise TypeError(
            f"{name} is a {type(value).__name__}; give a number, or a tensor (R,) with one number "
            "for each network of a stack: torch.as_tensor(...)"
        )
    allowed = f"a number above {above:g}" if above > -inf else f"a number ≥ {least:g}"
    values = value if isinstance(value, Tensor) else torch.tensor(value)
    if values.ndim > 1 or not bool(((values > above) & (values >= least)).all()):
        raise ValueError(
            f"{name} is {value!r}; allowed is {allowed}, or a tensor (R,) of such numbers, one for "
            "each network of a stack"
        )


def per_replica(value: float | Tensor, like: Tensor, replicas: int | None) -> float | Tensor:
    """A hyper-parameter ready to meet real `like` (R, ...): (R,) becomes (R, 1, ...).

    A number stays. Raises ValueError for a tensor that has not one number for each of the replicas.
    """
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    if len(value) != replicas:
        model = "one network" if replicas is None else f"a stack of {replicas} networks"
        raise ValueError(
            f"a hyper-parameter has {len(value)} values, and the model is {model}; give a number, "
            "or one for each network of a stack: fit(..., seeds=[...])"
        )
    return beside(value.to(like), like)


def beside(k: float | Tensor, tensor: Tensor) -> float | Tensor:
    """k ready to multiply `tensor`: one factor a replica stands along the leading axis."""
    if isinstance(k, Tensor) and k.ndim:
        return k.to(tensor).reshape(k.shape + (1,) * (tensor.ndim - k.ndim))
    return k
