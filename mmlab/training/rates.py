"""A learning rate per network of a stack, whose one optimiser has but one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, optim

from mmlab.models.stack import UnstackableError
from mmlab.training.schedule import Schedule


@dataclass
class Rates:
    """The rates of R networks, each with a schedule of its own.

    optimizers: one per network, of the kind that it would have alone, to hold its rate.
    schedules:  theirs; none where the rates stay.

    The optimiser of the stack has the rate that was the largest at first; the updates of the other
    networks are scaled.
    """

    optimizers: Sequence[optim.Optimizer]
    schedules: Sequence[Schedule] = ()
    lead: int = 0
    _known: tuple[list[float], Tensor] | None = field(default=None, repr=False)

    @classmethod
    def of(cls, optimizers: Sequence[optim.Optimizer], stack: Schedule | None) -> Rates:
        """With the schedule of the stack for each of them."""
        rates = [one.param_groups[0]["lr"] for one in optimizers]
        schedules = [Schedule(stack.make, one, stack.steps) for one in optimizers if stack]
        _begin(optimizers)
        return cls(optimizers, schedules, rates.index(max(rates)))

    @property
    def values(self) -> list[float]:
        return [one.param_groups[0]["lr"] for one in self.optimizers]

    def shares(self, optimizer: optim.Optimizer, device: torch.device) -> Tensor:
        """(R,), each network's rate over that of the stack's optimiser.

        Raises UnstackableError where the optimiser has another rate than its schedule gives.
        """
        rates = self.values
        top = rates[self.lead]
        set_otherwise = any(group["lr"] != top for group in optimizer.param_groups)
        if set_otherwise or (top == 0 and any(rates)):
            raise UnstackableError(
                "the learning rate is set during the training, and the seeds have rates of their "
                "own; train the seeds one by one"
            )
        if self._known is None or self._known[0] != rates:
            self._known = rates, torch.tensor(rates, device=device) / (top or 1)
        return self._known[1]

    def schedule_of(self, r: int) -> Schedule | None:
        return self.schedules[r] if self.schedules else None

    def after_batch(self) -> None:
        for schedule in self.schedules:
            schedule.after_batch()

    def after_epoch(self) -> Tensor:
        """(R,), the mean of each rate over the batches of the epoch."""
        means = [schedule.after_epoch()[0] for schedule in self.schedules]
        return torch.tensor(means, dtype=torch.float64)

    def copied(self, branched: Callable[[Schedule, optim.Optimizer], Schedule]) -> Rates:
        """The same for a branch, with its schedules as `branched` makes them of these."""
        optimizers = copy.deepcopy(self.optimizers)
        schedules = [*map(branched, self.schedules, optimizers)]
        _begin(optimizers)
        return Rates(optimizers, schedules, self.lead)


def _begin(optimizers: Sequence[optim.Optimizer]) -> None:
    """Steps in which nothing moves: a scheduler warns where its optimiser has not stepped."""
    for one in optimizers:
        one.step()
