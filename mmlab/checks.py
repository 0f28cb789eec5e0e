"""Checks of what a user gives, whose messages say what was given and what is allowed.

A check of a tensor reads no values, so it does not make the CPU wait for the GPU.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from math import inf
from numbers import Integral, Real

import torch
from torch import Tensor

_SPOKEN_AS_VOWEL = re.compile(r"(?!One)[AEIOaeio]|[Uu]n(?!i)|nd|[FHLMNRSX](?![a-z])")
"""The beginning of a name before which one says "an": "int", "ndarray", "MLPEncoder"."""


def kind_of(value: object) -> str:
    """What a value is, for a message: "a dict", "an int", "None", "the class Joint"."""
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if _SPOKEN_AS_VOWEL.match(name) else 'a'} {name}"


def check_choice(what: str, value: object, allowed: Collection[str]) -> None:
    """Check a name against the names there are.

    Raises:
        ValueError: it is none of them.
    """
    if value not in allowed:
        raise ValueError(f"{what} is {value!r}; allowed are {', '.join(map(repr, allowed))}")


def check_number(
    name: str, value: float, *, above: float = -inf, least: float = -inf, most: float = inf
) -> None:
    """Check a hyper-parameter: a number in range.

    Raises:
        TypeError: no number, as a tensor or a list.
        ValueError: out of range, or NaN.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        several = hasattr(value, "__len__") and not isinstance(value, str)
        hint = ". For several values at once give `fit_seeds` one maker for each network"
        raise TypeError(f"{name} is {value!r}; give a number{hint if several else ''}")
    if not (value > above and least <= value <= most):
        ends = [f"above {above:g}"] * (above > -inf) + [f"≥ {least:g}"] * (least > -inf)
        ends += [f"≤ {most:g}"] * (most < inf)
        raise ValueError(f"{name} is {value!r}; allowed is a number {' and '.join(ends)}")


def check_values(
    name: str, value: float | Tensor, *, above: float = -inf, least: float = -inf
) -> None:
    """Check a coefficient of a formula: a number, or a tensor, all of whose entries are in range.

    Only a plain tensor on the CPU is read: a GPU would make the CPU wait.

    Raises:
        ValueError: out of range, or NaN.
    """
    if isinstance(value, Tensor):
        unread = type(value) is not Tensor or not value.is_cpu
        if unread or bool(((value > above) & (value >= least)).all()):
            return
    elif value > above and value >= least:
        return
    end = f"above {above:g}" if above > -inf else f"≥ {least:g}"
    raise ValueError(f"{name} is {value!r}; allowed is a number {end}")


def check_flag(name: str, value: bool) -> None:
    """Check a switch.

    Raises:
        TypeError: neither True nor False, as "no", which would count as true.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; give True or False")


def check_whole(name: str, value: int, *, least: int = 0) -> None:
    """Check a count.

    Raises:
        ValueError: no whole number, or too small.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")


def check_mask(what: str, mask: object, shape: tuple[int, ...]) -> None:
    """Check a mask: one boolean per sample.

    Args:
        shape: that of the samples, (…, B).

    Raises:
        TypeError: no tensor.
        ValueError: another type or shape.
    """
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"{what} is {kind_of(mask)}; give a tensor of booleans, one per sample, or None"
        )
    if mask.dtype != torch.bool or mask.shape != shape:
        raise ValueError(
            f"{what} is {mask.dtype} of shape {tuple(mask.shape)}; it must be torch.bool of shape "
            f"{tuple(shape)}, as the target"
        )


def check_shapes(**tensors: tuple[Tensor, str]) -> None:
    """Check the trailing axes of tensors, one letter per axis, and that the leading ones broadcast.

    ``check_shapes(gain=(gain, "K"), second_moment=(second_moment, "KK"))`` passes for the shapes
    (…, K) and (…, K, K) with one K ≥ 1 for both.

    Raises:
        TypeError: something is no tensor.
        ValueError: an axis is missing or empty, two axes of one letter differ in length, or the
            leading axes do not broadcast.
    """
    sizes: dict[str, int] = {}
    leading = []
    fits = True
    for name, (tensor, axes) in tensors.items():
        _check_tensor(name, tensor)
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


def check_several(name: str, tensor: Tensor) -> None:
    """Check that the last axis of a tensor (…, M) holds at least two modalities.

    Raises:
        TypeError: it is no tensor.
        ValueError: there is no axis, or it is shorter.
    """
    _check_tensor(name, tensor)
    if not tensor.ndim or tensor.shape[-1] < 2:
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}; allowed is (…, M) with M ≥ 2: of one "
            "modality alone nothing is ahead or behind, so train it under Joint."
        )


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {kind_of(value)}; give a tensor: torch.as_tensor(...)")


def _broadcast(shapes: list[torch.Size]) -> bool:
    try:
        torch.broadcast_shapes(*shapes)
    except RuntimeError:
        return False
    return True
