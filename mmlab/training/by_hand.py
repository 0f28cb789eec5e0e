"""Refuse gradients that a method gave the optimiser by hand, and the loop would take once more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice

from torch import Tensor, nn, optim

Used = tuple[nn.Parameter, Tensor, int]
"""A parameter, a gradient of it, and how often that had been changed in place."""


@contextlib.contextmanager
def last_used(optimizer: optim.Optimizer, *, watch: bool) -> Iterator[list[Used]]:
    """One gradient that the optimiser's latest step took, whoever called it; no other is held.

    watch: False leaves the list empty, and the optimiser as fast as it is.
    """
    used: list[Used] = []

    def note(*_: object) -> None:
        groups = chain.from_iterable(group["params"] for group in optimizer.param_groups)
        used[:] = islice(((p, p.grad, p.grad._version) for p in groups if p.grad is not None), 1)

    hook = optimizer.register_step_post_hook(note) if watch else None
    try:
        yield used
    finally:
        if hook:
            hook.remove()


def check_not_taken(used: Sequence[Used], method: str) -> None:
    """Raises RuntimeError where a gradient that a step took stands there again, unchanged."""
    if any(p.grad is grad and grad._version == version for p, grad, version in used):
        raise RuntimeError(
            f"{method}.step calls the optimiser's step itself, and then yields with the same "
            "gradients, so they would be taken twice; leave s.optimizer.step() out: the loop "
            "steps at each `yield`"
        )
