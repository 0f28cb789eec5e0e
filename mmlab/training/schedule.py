"""A schedule of the learning rate: one of torch's classes, and when it steps."""

from __future__ import annotations

import copy
import inspect
import statistics
from collections.abc import Callable
from typing import Any

from torch import Tensor, optim
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from mmlab.checks import kind_of

MakeSchedule = (
    Callable[[optim.Optimizer], LRScheduler] | Callable[[optim.Optimizer, int], LRScheduler]
)
"""optimizer -> a scheduler; or (optimizer, number of batches of the training) -> one."""

FIX = (
    "give a function that makes one of torch.optim.lr_scheduler: lambda optimizer: "
    "StepLR(optimizer, 30, 0.1) steps after each epoch, and lambda optimizer, steps: "
    "OneCycleLR(optimizer, 0.1, total_steps=steps) after each batch"
)


class Schedule:
    """A scheduler of torch, which steps after each batch or after each epoch.

    Args:
        make: makes the scheduler. One that takes two arguments gets `steps`, and steps after each
            batch, however many updates the method makes of it.
        optimizer: whose rate it sets.
        steps: batches of the whole training.

    Raises TypeError or ValueError for what `fit` cannot step.
    """

    def __init__(self, make: MakeSchedule, optimizer: optim.Optimizer, steps: int) -> None:
        self.make, self.optimizer, self.steps = make, optimizer, steps
        self.per_batch = steps_per_batch(make)
        arguments: Any = (optimizer, steps) if self.per_batch else (optimizer,)
        self.scheduler = make(*arguments)
        _check_scheduler(self.scheduler, optimizer)
        self._used: list[list[float | Tensor]] = []

    def after_batch(self) -> None:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self._used.append([lr.clone() if isinstance(lr, Tensor) else lr for lr in rates])
        if self.per_batch:
            self.scheduler.step()

    def after_epoch(self) -> list[float]:
        """The learning rate of each group in the epoch: the mean over its batches."""
        each = zip(*self._used, strict=True)
        means = [statistics.mean(map(float, rates)) for rates in each]
        self._used = []
        if not self.per_batch:
            self.scheduler.step()
        return means

    def state_dict(self) -> dict[str, Any]:
        """What the scheduler keeps; between epochs there is nothing else."""
        return self.scheduler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.scheduler.load_state_dict(state)

    def on(self, optimizer: optim.Optimizer) -> Schedule:
        """The same schedule for a copy of its optimiser, as far on as it is.

        It is made anew, because a copy of a scheduler does not know when its optimiser steps.
        """
        kept = [
            {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]
        other = Schedule(self.make, optimizer, self.steps)
        other.load_state_dict(copy.deepcopy(self.state_dict()))
        for group, settings in zip(optimizer.param_groups, kept, strict=True):
            group.update(settings)  # where making a scheduler has set the rate back
        return other

    def anew(self, optimizer: optim.Optimizer, steps: int) -> Schedule:
        """The same schedule from its beginning, for a copy of its optimiser."""
        for group in optimizer.param_groups:
            group["lr"] = copy.deepcopy(group["initial_lr"])
        return Schedule(self.make, optimizer, steps)


def steps_per_batch(make: object) -> bool:
    """Whether it takes the number of batches too.

    Raises TypeError for what makes no schedule.
    """
    if isinstance(make, type):
        raise TypeError(f"schedule is the class {make.__name__}; {FIX}")
    if not callable(make):
        raise TypeError(f"schedule is {kind_of(make)}; {FIX}")
    parameters = inspect.signature(make).parameters.values()
    wanted = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty
    ]
    if len(wanted) not in (1, 2):
        raise TypeError(f"schedule takes {len(wanted)} arguments; {FIX}")
    return len(wanted) == 2


def _check_scheduler(made: object, optimizer: optim.Optimizer) -> None:
    if not isinstance(made, LRScheduler):
        raise TypeError(f"schedule gives {kind_of(made)}; {FIX}")
    if isinstance(made, ReduceLROnPlateau) or _wants_a_value(made):
        raise ValueError(
            f"{type(made).__name__} needs a value at each step, and `fit` has none for it; give a "
            "schedule of time alone, such as StepLR or CosineAnnealingLR. Or let an observer make "
            "it from run.optimizer at run.epoch == 0, and call its step(value) later"
        )
    if made.optimizer is not optimizer:
        raise ValueError(
            f"schedule gives {kind_of(made)} of another optimiser; make it from the one "
            "that it is given"
        )


def _wants_a_value(scheduler: LRScheduler) -> bool:
    parameters = inspect.signature(scheduler.step).parameters.values()
    return any(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
