"""R balancers as one, and what each network of a stack has of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from mmlab.models.stack import UnstackableError, point_at, stack_modules
from mmlab.training.balancer import Balancer


class StackedBalancer:
    """R balancers as one.

    A number in which they differ becomes a tensor (R, 1), which broadcasts against small tensors
    (R, M); modules of their own are stacked. What else differs cannot be one program.
    """

    def __init__(
        self, balancers: Sequence[Balancer], modules: Sequence[nn.Module | None], like: Tensor
    ) -> None:
        self.count, self.originals = len(balancers), list(balancers)
        own = [module for module in modules if module is not None]
        self.balancer = copy.copy(balancers[0])
        self.numbers: set[str] = set()
        self.module_name: str | None = None
        self.modules: nn.Module | None = None
        if own:
            self.modules = stack_modules(own, {})
            self.module_name = _name_of(own[0], balancers[0])
            setattr(self.balancer, self.module_name, self.modules)
        for name in vars(balancers[0]):
            if name != self.module_name:
                self._merge(name, like)
        self.given = _snapshot(vars(self.balancer))

    def _merge(self, name: str, like: Tensor) -> None:
        values = [vars(b).get(name) for b in self.originals]
        if all(_same(value, values[0]) for value in values[1:]):
            return
        if any(isinstance(v, bool) or not isinstance(v, Real) for v in values):
            raise UnstackableError(
                f"{name} of {self.balancer.name} is {values[0]!r} for one network and "
                f"{next(v for v in values if not _same(v, values[0]))!r} for another; in one "
                "program only numbers may differ"
            )
        column = torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
        setattr(self.balancer, name, column)
        self.numbers.add(name)

    def of(self, r: int) -> Balancer:
        """The balancer as network r has it."""
        own = copy.copy(self.balancer)
        for name, value in vars(self.balancer).items():
            if name in self.numbers:
                setattr(own, name, vars(self.originals[r])[name])
            elif name == self.module_name:
                module = copy.deepcopy(vars(self.originals[r])[name])
                point_at(module, value, r)
                setattr(own, name, module)
            else:
                setattr(own, name, _of(value, self.given.get(name), self.count, r))
        return own

    def own(self, balancer: Balancer) -> nn.Module | None:
        """The module of a balancer that `of` gives, or of a copy of it."""
        return vars(balancer)[self.module_name] if self.module_name else None


def _name_of(module: nn.Module, balancer: Balancer) -> str:
    for name, value in vars(balancer).items():
        if value is module:
            return name
    raise UnstackableError(
        f"{balancer.name}.modules gives a module that is no attribute of it, so a stack cannot put "
        "its own in the place; keep it: self.own = ...; return self.own"
    )


def _same(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    try:
        return bool(one == other)
    except ValueError:  # arrays do not say whether all of them is meant
        return False


def _snapshot(value: Any) -> Any:
    """The containers in a copy, what they hold itself."""
    if isinstance(value, dict):
        return {key: _snapshot(part) for key, part in value.items()}
    return [_snapshot(part) for part in value] if isinstance(value, list | tuple) else value


def _of(value: Any, given: Any, count: int, r: int) -> Any:
    """The part of network r in what a method keeps: what came since its start leads with R."""
    if isinstance(value, dict):
        parts = given if isinstance(given, dict) else {}
        return {key: _of(part, parts.get(key), count, r) for key, part in value.items()}
    if isinstance(value, list | tuple):
        fits = isinstance(given, list) and len(given) == len(value)
        known = given if fits else [None] * len(value)
        return type(value)(_of(part, k, count, r) for part, k in zip(value, known, strict=True))
    if isinstance(value, Tensor) and value is not given and value.ndim and len(value) == count:
        return value[r]
    return value
