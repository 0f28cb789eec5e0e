"""The run of R networks as one program, and what stands in place of what each has of its own.

Where a method may treat networks of a stack otherwise than alone, it is tried at some updates and
preparations (`mmlab.training.exact`).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NoReturn, Self, cast

import torch
from torch import Tensor, optim

from mmlab.datasets.augment import augmented
from mmlab.datasets.base import Batch, concatenate, in_memory, stack_batches
from mmlab.datasets.sampling import epoch_order
from mmlab.datasets.splits import piece_size
from mmlab.models.network import MultimodalNet
from mmlab.models.stack import NetworkStack, UnstackableError
from mmlab.seeds import Source, drawing, drawing_all, generator
from mmlab.training.alone import Job
from mmlab.training.balancer import Balancer
from mmlab.training.exact import check_exact, check_prepared
from mmlab.training.merged import StackedBalancer
from mmlab.training.rates import Rates
from mmlab.training.run import Course, Run
from mmlab.training.schedule import Schedule
from mmlab.training.updates import scale_next_update


class Shared:
    """Stands for what the networks of a stack have in common, where a Run has its own.

    Raises UnstackableError for any use.
    """

    def __init__(self, what: str, who: str) -> None:
        self._what, self._who = what, who

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)  # Python's own question, as in a copy
        self._refuse_part(f".{name}")

    def _refuse(self, *_: object) -> NoReturn:
        self._refuse_part("")

    def _refuse_part(self, part: str) -> NoReturn:
        raise UnstackableError(
            f"{self._what}{part}: several seeds train at once, and {self._who} needs a run of its "
            "own; train the seeds one by one (at_once=False)"
        )

    # what one would do to a seed
    __str__ = __int__ = __index__ = __float__ = __bool__ = _refuse
    __lt__ = __gt__ = __le__ = __ge__ = __mod__ = __add__ = __sub__ = __mul__ = _refuse
    __floordiv__ = __truediv__ = __xor__ = __radd__ = __rmul__ = __rsub__ = _refuse
    __eq__: Any = _refuse
    __ne__: Any = _refuse
    __hash__: Any = _refuse


@dataclass(repr=False, kw_only=True)
class StackedRun(Course):
    """The training of R networks as one program.

    jobs:       what each network is; `replicas` are their ordinary Runs, whose networks follow the
                stack's.
    methods:    their balancers.
    rates:      their learning rates, where they differ.
    """

    model: NetworkStack
    jobs: list[Job]
    methods: StackedBalancer
    replicas: list[Run] = field(default_factory=list)
    rates: Rates | None = None

    def alone(self, r: int) -> Run:
        """The ordinary Run of network r."""
        who = "an observer that sets it, or a branch of one network,"
        return Run(
            model=self.model.replica(r),
            data=self.jobs[r].data,
            balancer=self.balancer,
            optimizer=cast(optim.Optimizer, Shared("optimizer", who)),
            seed=self.jobs[r].seed,
            epochs=self.epochs,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            drop_last=self.drop_last,
            clip=self.clip,
            device=self.device,
            train_on=self.train_on,
            loss=self.loss,
            schedule=self.schedule and cast(Schedule, Shared("schedule", who)),
            together=len(self.jobs),
        )

    def __repr__(self) -> str:
        done = f"{self.epoch} of {self.epochs} epochs"
        return f"StackedRun({self.balancer.name}, seeds {self.seeds}, {done})"

    @property
    def seeds(self) -> list[int]:
        return [job.seed for job in self.jobs]

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.jobs),)

    def record(self, split: str, output: str, metric: str, value: float | Tensor) -> None:
        count = len(self.seeds)
        values = value.expand(count).tolist() if isinstance(value, Tensor) else [value] * count
        for replica, own in zip(self.replicas, values, strict=True):
            replica.epoch = self.epoch
            replica.record(split, output, metric, own)

    def split(self, name: str) -> Batch:
        return stack_batches(self._on_device(name))

    def pieces(self, split: str) -> Iterator[Batch]:
        data = self._on_device(split)
        size = piece_size(data[0])
        for start in range(0, len(data[0]), size):
            parts = {id(one): one[start : start + size] for one in data}
            yield stack_batches([parts[id(one)] for one in data])

    def _on_device(self, split: str) -> list[Batch]:
        """One network's split each; what networks share is there once."""
        found = self._own(split)
        moved = {id(one): one.to(self.device) for one in found}
        return [moved[id(one)] for one in found]

    def _own(self, split: str) -> list[Batch]:
        return [in_memory(job.data.splits[split], "a stack") for job in self.jobs]

    def generators(self, *names: str | int, device: str | torch.device = "cpu") -> Source:
        return self._generators(*names, device=device)

    def _generators(
        self, *names: str | int, device: str | torch.device = "cpu"
    ) -> list[torch.Generator]:
        return [generator(seed, *self.stream, *names, device=device) for seed in self.seeds]

    def drawing(self, *names: str | int) -> AbstractContextManager[None]:
        """No part of a stack draws from the global generators; what does leaves no trace."""
        return drawing(self.seeds[0], *self.stream, *names, device=self.device)

    def tell(self, event: str) -> None:
        self._update_replicas()
        for replica in self.replicas:
            replica.tell(event)

    def observe(self) -> None:
        self._update_replicas()
        for replica in self.replicas:
            replica.observe()
        if any(replica.stopped for replica in self.replicas):
            raise UnstackableError(
                f"an observer stops some of the seeds {self.seeds} after epoch {self.epoch}, and a "
                "stack goes on with all; train the seeds one by one (at_once=False)"
            )

    def _update_replicas(self) -> None:
        for r, replica in enumerate(self.replicas):
            replica.epoch, replica.balancer = self.epoch, self.methods.of(r)
            replica.modules = self.methods.own(replica.balancer)

    def before_update(self) -> None:
        super().before_update()
        if self.rates is not None:
            shares = self.rates.shares(self.optimizer, self.device)
            scale_next_update(self.optimizer, self.updated, shares)

    def after_batch(self) -> None:
        super().after_batch()
        if self.rates is not None:
            self.rates.after_batch()

    def after_epoch(self) -> None:
        if self.schedule is None or self.rates is None:
            super().after_epoch()
        else:
            self.schedule.after_epoch()
            self.record("train", "", "lr", self.rates.after_epoch())

    def whose(self, place: Sequence[int]) -> str:
        return f" of seed {self.seeds[place[0]]}"

    def batches(self) -> Iterator[Batch]:
        """Each network's samples in its own order, taken from data that are there once."""
        check_order(self.balancer)  # of a branch
        data, offsets = self._once
        draws = zip(self.jobs, self._generators("order", self.epoch), strict=True)
        orders = [epoch_order(job.data.sampler, self.size, own) for job, own in draws]
        order = torch.stack(orders).to(self.device)
        places = range(0, self.kept(self.epoch_size), self.step_size)
        looked = {0} if _is_looked_at(self.epoch, self.epochs) else set()
        if self.epoch == self.epochs - 1:
            looked.add(len(places) - 1)
        for number, i in enumerate(places):
            own = order[:, i : i + self.step_size]
            batch = self._augmented(replace(data[own + offsets], index=own), number)
            if number in looked and not self.stream:
                self._check(batch, (self.epoch + number / len(places)) / self.epochs)
            yield batch

    def _augmented(self, batch: Batch, number: int) -> Batch:
        """The batch with each network's part changed as it would be on its own."""
        if all(job.data.augment is None for job in self.jobs):
            return batch
        parts = [batch[r, :] for r in range(len(self.jobs))]
        for r, job in enumerate(self.jobs):
            if (augment := job.data.augment) is not None:
                with drawing_all(
                    job.seed, *self.stream, "augment", self.epoch, number, device=self.device
                ):
                    parts[r] = augmented(augment, parts[r])
        return replace(stack_batches(parts), index=batch.index)

    def _check(self, batch: Batch, progress: float) -> None:
        check_exact(
            self.model,
            self.methods,
            self.seeds,
            batch,
            epoch=self.epoch,
            progress=progress,
            lr=self.optimizer.param_groups[0]["lr"],
            loss=self.loss,
        )

    def start(self) -> None:
        own = type(self.balancer).start is not Balancer.start and not self.stream
        alone = self.apart(len(self.jobs) - 1) if own else None
        super().start()
        if alone is not None:
            alone.start()
            check_prepared(self.methods, len(self.jobs) - 1, alone.balancer)

    def next_epoch(self) -> None:
        own = type(self.balancer).epoch is not Balancer.epoch and not self.stream
        looked = own and _is_looked_at(self.epoch, self.epochs)
        alone = self.apart(len(self.jobs) - 1) if looked else None
        super().next_epoch()
        if alone is not None:
            alone.next_epoch()
            check_prepared(self.methods, len(self.jobs) - 1, alone.balancer)

    def apart(self, r: int) -> Run:
        """A Run of network r in copies, with an optimiser of its own, to try things on."""
        model = copy.deepcopy(self.model.replica(r))
        optimizer = self._optimizer_of(r, model)
        schedule = self.schedule if self.rates is None else self.rates.schedule_of(r)
        return replace(
            self.alone(r),
            model=model,
            balancer=copy.deepcopy(self.methods.of(r)),
            optimizer=optimizer,
            schedule=schedule and schedule.on(optimizer),
            epoch=self.epoch,
        )

    def _optimizer_of(self, r: int, model: MultimodalNet) -> optim.Optimizer:
        """The optimiser as network r would have it: its rate, and its part of what is kept."""
        place = dict(zip(self.model.parameters(), model.parameters(), strict=True))
        groups = [
            {**group, "params": [place[p] for p in group["params"] if p in place]}
            for group in self.optimizer.param_groups
        ]
        if self.rates is not None:
            for group in groups:
                group["lr"] = self.rates.values[r]
        kind: Any = type(self.optimizer)  # one of ENTRY_BY_ENTRY, which need no more than this
        own: optim.Optimizer = kind(groups)
        for stacked, single in place.items():
            kept = self.optimizer.state.get(stacked, {})
            own.state[single] = {name: self._part(value, r) for name, value in kept.items()}
        return own

    def _part(self, value: Any, r: int) -> Any:
        if isinstance(value, Tensor):
            return value[r].clone() if value.ndim else value.clone()
        return value

    @cached_property
    def _once(self) -> tuple[Batch, Tensor]:
        """The training data, each set once, one after the other; where each network's begin."""
        own = self._own("train")
        distinct = {id(one): one for one in own}
        place = {key: i * self.size for i, key in enumerate(distinct)}
        starts = torch.tensor([place[id(one)] for one in own], device=self.device)
        return concatenate(list(distinct.values())).to(self.device), starts[:, None]

    @property
    def size(self) -> int:
        return len(self.jobs[0].data.train)

    @property
    def epoch_size(self) -> int:
        return self.jobs[0].data.epoch_size

    def _forked(self, balancer: Balancer, epochs: int) -> Self:
        same = [balancer] * len(self.jobs)
        return replace(
            super()._forked(balancer, epochs),
            methods=StackedBalancer(same, (), next(self.model.parameters())),
            rates=self.rates and self.rates.copied(functools.partial(self.branched, epochs=epochs)),
            replicas=[replace(replica, rows=[], observers=()) for replica in self.replicas],
        )


def _is_looked_at(epoch: int, epochs: int) -> bool:
    """Epochs 0, 1, 2, 4, 8, … and the last: a method may change its ways on the way."""
    return epoch & (epoch - 1) == 0 or epoch == epochs - 1


def check_order(balancer: Balancer) -> None:
    """Refuse a method that chooses the samples of an epoch."""
    if type(balancer).order is not Balancer.order:
        raise UnstackableError(
            f"{balancer.name} chooses the samples of an epoch, for one network; train the seeds "
            "one by one"
        )
