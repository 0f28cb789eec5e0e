"""What a modality's values may be: one tensor, or a dict or a tuple of tensors.

One level, no deeper. All tensors have the samples in their first axis: token ids beside their
attention mask, values beside their lengths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

T = TypeVar("T")

Nested = Tensor | dict[str, Tensor] | tuple[Tensor, ...]


def tensors(value: Nested) -> dict[str, Tensor]:
    """Each tensor under its place in the value: "['ids']", "[0]"; "" for a tensor alone."""
    if isinstance(value, dict):
        return {f"[{key!r}]": x for key, x in value.items()}
    if isinstance(value, tuple):
        return {f"[{i}]": x for i, x in enumerate(value)}
    return {"": value}


def changed(change: Callable[[Tensor], T], value: Nested) -> T | dict[str, T] | tuple[T, ...]:
    """What `change` makes of every tensor, in the same form."""
    if isinstance(value, dict):
        return {key: change(x) for key, x in value.items()}
    return tuple(map(change, value)) if isinstance(value, tuple) else change(value)


def joined(join: Callable[[list[Tensor]], Tensor], values: Sequence[Any]) -> Nested:
    """Values of one form as one: `join` gets the tensors that stand in the same place."""
    first = values[0]
    if isinstance(first, dict):
        return {key: join([value[key] for value in values]) for key in first}
    if isinstance(first, tuple):
        return tuple(join(list(same)) for same in zip(*values, strict=True))
    return join(list(values))


def shapes(value: Nested, skip: int = 0) -> Any:
    """The shape of every tensor without its first `skip` axes, in the same form."""
    return changed(lambda x: tuple(x.shape[skip:]), value)


def is_real(value: Nested) -> bool:
    """Whether a value is one tensor of real numbers: a layer reads it, and a factor scales it."""
    return isinstance(value, Tensor) and value.is_floating_point()
