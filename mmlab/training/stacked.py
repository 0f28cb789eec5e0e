"""Many seeds at once: R networks as one program, where that is exact; else one after the other.

A method uses only the last axis of small tensors, so an extra first axis R does not matter to it.
Whether this is true of a method is tried at some updates and preparations (`mmlab.training.exact`):
two networks do within the stack and alone what the method does, and must agree.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import Any, NoReturn, Self, cast

import torch
from torch import Tensor, nn, optim

from mmlab.checks import check_number
from mmlab.datasets.augment import augmented
from mmlab.datasets.base import Batch, MultimodalData, concatenate, in_memory, stack_batches
from mmlab.datasets.sampling import epoch_order
from mmlab.datasets.splits import piece_size
from mmlab.models.network import MultimodalNet
from mmlab.models.stack import NetworkStack, UnstackableError, Vmapped
from mmlab.seeds import Source, drawing, drawing_all, generator
from mmlab.training import processes
from mmlab.training.arguments import (
    check_arguments,
    check_balancer,
    check_clip,
    check_observers,
    check_trainable,
    seed_list,
)
from mmlab.training.balancer import Balancer, build_options
from mmlab.training.checkpoint import check_own_paths
from mmlab.training.devices import find_device
from mmlab.training.exact import check_exact, check_prepared
from mmlab.training.loop import fit, train
from mmlab.training.merged import StackedBalancer
from mmlab.training.optimizers import SGD
from mmlab.training.progress import with_progress
from mmlab.training.rates import Rates
from mmlab.training.run import Course, Observer, Run
from mmlab.training.schedule import MakeSchedule, Schedule
from mmlab.training.setup import (
    MakeOptimizer,
    make_optimizer,
    own_modules,
    plan,
    prepare,
    trained_parameters,
    warn_of_adaptive,
)
from mmlab.training.updates import has_other_hooks, scale_next_update

AT_ONCE = 32
"""Networks in one program. More networks save little time and need more memory."""

ENTRY_BY_ENTRY = (
    *(SGD, optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax),
    *(optim.Adagrad, optim.Adadelta, optim.RMSprop, optim.Rprop, optim.ASGD),
)
"""Optimisers under which networks in one tensor do not see each other."""

MakeBalancer = Callable[[], Balancer]


def fit_seeds(
    data: MultimodalData | Sequence[MultimodalData],
    balancer: MakeBalancer | Sequence[MakeBalancer],
    *,
    seeds: Sequence[int],
    epochs: int,
    network: type[MultimodalNet] = MultimodalNet,
    build: Mapping[str, Any] | None = None,
    lr: float | Sequence[float] | None = None,
    at_once: bool | None = None,
    **training: Any,
) -> list[Run]:
    """Train one network per seed; many of them as one program where that is exact.

    Each ends where `fit(seed=s)` on `network.build(data, seed=s)` does, up to rounding.

    Args:
        data: one data set; or one per seed.
        balancer: what makes a fresh balancer, such as OGM; or one maker per seed, so that a grid of
            a hyper-parameter is one program: [lambda a=a: OGM(alpha=a) for a in grid].
        seeds: whole numbers; the same one may come several times, as in a grid.
        network: the class of the networks.
        build: arguments for its `build`, beside those that the balancer asks for.
        lr: learning rate of the default optimiser; or a list with one per seed.
        at_once: None: as one program where that is exact and saves time (linear layers on a CPU,
            anything on a GPU; observers with the attribute `only_looks = True`). True: as one
            program, or an error. False: one after the other.
        training: further arguments for `fit`. Each run has its own observers (`run.observers`): of
            a class an instance, of an instance a copy; functions, methods and partials serve all.
            In one program what they change in a network does not reach the training, and the maker
            of the optimiser is called once; where a program is given up midway, functions see the
            first epochs twice. A loss that is a module is copied for each run.

    Returns:
        A Run per seed, in order. `run.together` says how many were trained in one program.

    Raises:
        UnstackableError: at_once=True, and one program would not do what separate ones do.
        TypeError, ValueError: arguments of the wrong kind, or not one per seed.
    """
    seeds = seed_list(seeds)
    _check_network(network)
    check_options(training)
    datasets = _per_seed("data", data, MultimodalData, seeds)
    makers = _per_seed("balancer", balancer, Callable, seeds)
    rates = _rates(lr, seeds)
    check_own_paths(training.get("observers", ()), len(seeds))
    options = {"epochs": epochs, **training}
    runs: list[Run] = []
    for start in range(0, len(seeds), AT_ONCE):
        some = slice(start, start + AT_ONCE)
        jobs = [
            Job(*job, network, dict(build or {}))
            for job in zip(seeds[some], datasets[some], makers[some], rates[some], strict=True)
        ]
        runs += _one_program(jobs, options, at_once) or [job.train(options) for job in jobs]
    return runs


def _check_network(network: object) -> None:
    if not isinstance(network, type) or not callable(getattr(network, "build", None)):
        what = network.__name__ if isinstance(network, type) else f"a {type(network).__name__}"
        raise TypeError(
            f"network is {what}; give a class of networks, MultimodalNet or a subclass: a network "
            "of its own is built for each seed"
        )


def check_options(training: Mapping[str, Any]) -> None:
    """Refuse what `fit` does not take.

    Raises TypeError.
    """
    given_otherwise = {"model", "data", "balancer", "seed", "lr", "epochs"}
    allowed = [name for name in inspect.signature(fit).parameters if name not in given_otherwise]
    for name in training:
        if name not in allowed:
            raise TypeError(
                f"{name!r} is no argument of `fit`; beside those of fit_seeds allowed are "
                f"{', '.join(allowed)}"
            )


def _per_seed(name: str, given: Any, kind: type | Any, seeds: Sequence[int]) -> list:
    """One value per seed, of what may be one for all."""
    if isinstance(given, kind):
        return [given] * len(seeds)
    values = given.tolist() if isinstance(given, Tensor) else given
    wanted = f"give one {name}, or a list with one for each of the {len(seeds)} seeds"
    if not isinstance(values, Sequence) or not all(isinstance(value, kind) for value in values):
        hint = " (a class or function, without the brackets)" if name == "balancer" else ""
        raise TypeError(f"{name} is {given!r}; {wanted}{hint}")
    if len(values) != len(seeds):
        raise ValueError(f"{name} has {len(values)} entries for {len(seeds)} seeds; {wanted}")
    return list(values)


def _rates(lr: float | Sequence[float] | None, seeds: Sequence[int]) -> list[float | None]:
    if lr is None:
        return [None] * len(seeds)
    rates = _per_seed("lr", lr, Real, seeds)
    for rate in rates:
        check_number("lr", rate, above=0)
    return rates


@dataclass
class Job:
    """One network to be trained."""

    seed: int
    data: MultimodalData
    make: MakeBalancer
    lr: float | None
    network: type[MultimodalNet]
    build: dict[str, Any]

    def model(self, balancer: Balancer) -> MultimodalNet:
        return self.network.build(self.data, **build_options(balancer, self.build), seed=self.seed)

    def train(self, options: Mapping[str, Any]) -> Run:
        observers, loss = own_observers(options.get("observers", ())), options.get("loss")
        if isinstance(loss, nn.Module):
            loss = copy.deepcopy(loss)
        return train_once(
            self.make(),
            self.data,
            seed=self.seed,
            lr=self.lr,
            network=self.network,
            build=self.build,
            **{**options, "observers": observers, "loss": loss},
        )


def own_observers(observers: Sequence[Observer | type]) -> list[Observer]:
    """The observers of one run: instances of classes, copies of instances.

    Functions, methods and partials are taken as they are.

    So what one keeps of a run does not reach the next.

    Raises TypeError for an instance that cannot be copied.
    """
    found: list[Observer] = []
    for observer in observers:
        if inspect.isroutine(observer) or isinstance(observer, functools.partial):
            found.append(observer)
            continue
        try:
            found.append(observer() if isinstance(observer, type) else copy.deepcopy(observer))
        except Exception as error:
            raise TypeError(
                f"observer {observer!r} cannot be copied for each seed: {error}. Give a class that "
                "needs no arguments, or a function"
            ) from error
    check_observers(found)
    return found


def train_once(
    balancer: Balancer,
    data: MultimodalData,
    *,
    seed: int,
    epochs: int,
    network: type[MultimodalNet] = MultimodalNet,
    build: Mapping[str, Any] | None = None,
    **training: Any,
) -> Run:
    """Build the network the balancer asks for and train it, both from `seed`.

    Raises TypeError for what is no Balancer.
    """
    check_balancer(balancer)
    model = network.build(data, **build_options(balancer, build), seed=seed)
    return fit(model, data, balancer, epochs=epochs, seed=seed, **training)


def _one_program(
    jobs: Sequence[Job], options: Mapping[str, Any], at_once: bool | None
) -> list[Run] | None:
    """The jobs as one program; None where that cannot be, or (unless asked for) would not pay."""
    # an observer that does more than look would not reach the stack
    looking = all(getattr(o, "only_looks", False) for o in options.get("observers", ()))
    if at_once is False or (at_once is None and (len(jobs) < 2 or not looking)):
        return None
    try:
        if processes.count() > 1:
            raise UnstackableError(
                f"this is one of {processes.count()} processes, which share the samples of one "
                "network; train the seeds one by one (at_once=False), or in one process"
            )
        _check_only_looking(options.get("observers", ()))
        balancers = [job.make() for job in jobs]
        if type(balancers[0]).order.__module__.startswith("mmlab."):  # documented, so no news
            _check_order(balancers[0])
        if len({id(balancer) for balancer in balancers}) < len(balancers):
            raise TypeError(
                f"the maker of {balancers[0].name} gives the same object twice, and what it keeps "
                "of one seed would reach the next; make a new one each time, such as "
                "lambda: OGM(alpha=0.1)"
            )
        networks = [job.model(b) for job, b in zip(jobs, balancers, strict=True)]
        model = NetworkStack(networks)
        on_cpu = find_device(options.get("device", "auto")).type == "cpu"
        slow = on_cpu and any(isinstance(part, Vmapped) for part in model.modules())
        if slow and at_once is None:
            return None
        run = _stacked_run(model, networks, jobs, balancers, **options)
    except UnstackableError:
        if at_once:
            raise
        return None
    try:
        _check_order(run.balancer)
        with _unstackable(run.balancer):
            run.start()
            train(run)
    except UnstackableError as error:
        if at_once:
            raise
        warnings.warn(
            f"the program of {len(jobs)} seeds at once is given up; they now train one by one "
            f"(at_once=False skips this try): {error}",
            stacklevel=3,
        )
        return None
    return run.replicas


def _check_only_looking(observers: Sequence[Observer | type]) -> None:
    for observer in observers:
        if getattr(observer, "only_looks", True) is False:
            kind = observer if isinstance(observer, type) else type(observer)
            raise UnstackableError(
                f"{kind.__name__} acts on one training, and a stack trains several seeds as one; "
                "train the seeds one by one (at_once=False)"
            )


def _check_order(balancer: Balancer) -> None:
    """Refuse a method that chooses the samples of an epoch."""
    if type(balancer).order is not Balancer.order:
        raise UnstackableError(
            f"{balancer.name} chooses the samples of an epoch, for one network; train the seeds "
            "one by one"
        )


def _stacked_run(
    model: NetworkStack,
    networks: Sequence[MultimodalNet],
    jobs: Sequence[Job],
    balancers: Sequence[Balancer],
    *,
    epochs: int,
    optimizer: MakeOptimizer | None = None,
    schedule: MakeSchedule | None = None,
    clip: float | None = None,
    batch_size: int = 64,
    accumulate: int = 1,
    drop_last: bool = False,
    device: str | torch.device = "auto",
    precision: str = "float32",
    loss: Callable[..., Tensor] | None = None,
    observers: Sequence[Observer | type] = (),
    compile: bool | str = False,
) -> StackedRun:
    """What `fit` makes before it trains, for a stack."""
    datasets = [job.data for job in jobs]
    for data, balancer in zip(datasets, balancers, strict=True):
        check_arguments(
            model,
            data,
            balancer,
            epochs=epochs,
            batch_size=batch_size,
            accumulate=accumulate,
            drop_last=drop_last,
            loss=loss,
        )
    check_clip(clip)
    for data in datasets:
        _check_in_memory(data)
    sizes = {
        (data.epoch_size, *(len(batch) for batch in data.splits.values())) for data in datasets
    }
    if len(sizes) > 1 or len({data.n_outputs for data in datasets}) > 1:
        raise UnstackableError(
            f"the data sets have epochs and splits of {sorted(sizes)} samples, or other numbers of "
            "outputs, and a stack needs data of one form; train the seeds one by one"
        )
    where = prepare(model, device, precision, compile)
    trios = zip(balancers, networks, jobs, strict=True)
    modules = [own_modules(balancer, net, job.seed) for balancer, net, job in trios]
    methods = StackedBalancer(balancers, modules, next(model.parameters()))
    rates = [job.lr for job in jobs]
    top = max((rate for rate in rates if rate is not None), default=None)
    alone = trained_parameters(copy.deepcopy(networks[0]).to(where), modules[0], where)
    together = trained_parameters(model, methods.modules, where)
    check_trainable(alone.values())
    one = make_optimizer(optimizer, top, alone)
    made = _stacked_optimizer(one, list(alone.values()), list(together.values()))
    warn_of_adaptive(methods.balancer, made)
    run = StackedRun(
        model=model,
        data=cast(MultimodalData, Shared("data", "a method that reads its data")),
        balancer=methods.balancer,
        optimizer=made,
        seed=cast(int, Shared("seed", "a method that reads its seed")),
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        drop_last=drop_last,
        clip=clip,
        device=where,
        train_on=train,
        loss=loss,
        modules=methods.modules,
        jobs=list(jobs),
        methods=methods,
    )
    plan(run, schedule)
    if optimizer is None and top is not None and len(set(rates)) > 1:
        holders = [make_optimizer(None, rate, {"": nn.Parameter(torch.zeros(1))}) for rate in rates]
        run.rates = Rates.of(holders, run.schedule)
    watching = with_progress(observers)
    run.replicas = [
        replace(run.alone(r), observers=own_observers(watching)) for r in range(len(jobs))
    ]
    return run


def _check_in_memory(data: MultimodalData) -> None:
    if data.frames:
        raise UnstackableError(
            "each frame has a label, and in a batch each network of a stack would have another "
            "number of frames that count; train the seeds one by one"
        )
    for name, split in data.splits.items():
        if not isinstance(split, Batch):
            raise UnstackableError(
                f"{name} is a {type(split).__name__}, and every network of a stack reads its own "
                "samples of it, so that nothing would be saved; train the seeds one by one"
            )


@contextlib.contextmanager
def _unstackable(balancer: Balancer) -> Iterator[None]:
    """Whatever fails in this block may do well without a stack; numbers that are NaN would not."""
    try:
        yield
    except (UnstackableError, FloatingPointError):
        raise
    except Exception as error:
        raise UnstackableError(
            f"under {balancer.name} a stack of networks fails: {error}"
        ) from error


def _stacked_optimizer(
    one: optim.Optimizer, alone: Sequence[Tensor], together: Sequence[Tensor]
) -> optim.Optimizer:
    """The optimiser of one network, made that of all: in the same groups, however they were chosen.

    A group chosen by the number of axes, such as weight decay for matrices alone, would be another
    one if the parameters with their additional axis were asked.
    """
    _check_entry_by_entry(one)
    place = dict(zip(alone, together, strict=True))
    if any(p not in place for group in one.param_groups for p in group["params"]):
        raise UnstackableError(
            "the optimiser holds other parameters than it was given, and a stack cannot tell whose "
            "they are; train the seeds one by one"
        )
    groups = [
        {**group, "params": [place[p] for p in group["params"]]} for group in one.param_groups
    ]
    kind: Any = type(one)  # one of ENTRY_BY_ENTRY, whose settings are all in the groups
    return kind(groups)


def _check_entry_by_entry(optimizer: optim.Optimizer) -> None:
    if any("initial_lr" in group for group in optimizer.param_groups):
        raise UnstackableError(
            "a schedule sets the optimiser's rate, and trying a stack would let it step; train the "
            "seeds one by one"
        )
    hooked = has_other_hooks(optimizer)
    if type(optimizer) not in ENTRY_BY_ENTRY or hooked:
        raise UnstackableError(
            f"{type(optimizer).__name__}{' with step hooks' if hooked else ''} is not known to "
            "treat every entry on its own, so networks of a stack might mix; allowed are, without "
            f"step hooks, {', '.join(o.__name__ for o in ENTRY_BY_ENTRY[1:])}"
        )


class Shared:
    """Stands for what the networks of a stack have in common, where a Run has its own.

    Raises UnstackableError for any use.
    """

    def __init__(self, what: str, who: str) -> None:
        self._what, self._who = what, who

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)  # Python's own question, as in a copy
        self._refuse(f".{name}")

    def _refuse(self, what: str = "") -> NoReturn:
        raise UnstackableError(
            f"{self._what}{what}: several seeds train at once, and {self._who} needs a run of its "
            "own; train the seeds one by one (at_once=False)"
        )

    # what one would do to a seed
    __str__ = __int__ = __index__ = __float__ = __bool__ = _refuse
    __lt__ = __gt__ = __le__ = __ge__ = __mod__ = __add__ = _refuse
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
        _check_order(self.balancer)  # of a branch
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
