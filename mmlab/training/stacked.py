"""Many seeds at once: R networks as one program, where that is exact; else one after the other.

A method uses only the last axis of small tensors, so an extra first axis R does not matter to it.
Whether this is true of a method is tried at some updates and preparations (`mmlab.training.exact`):
two networks do within the stack and alone what the method does, and must agree.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor, nn, optim

from mmlab.checks import check_number, kind_of
from mmlab.datasets.base import Batch, MultimodalData
from mmlab.models.network import MultimodalNet
from mmlab.models.stack import NetworkStack, UnstackableError, Vmapped
from mmlab.training import processes
from mmlab.training.alone import Job, MakeBalancer, own_observers
from mmlab.training.arguments import (
    check_arguments,
    check_clip,
    check_trainable,
    seed_list,
)
from mmlab.training.balancer import Balancer
from mmlab.training.checkpoint import check_own_paths
from mmlab.training.devices import find_device
from mmlab.training.loop import fit, train
from mmlab.training.merged import StackedBalancer
from mmlab.training.optimizers import SGD
from mmlab.training.progress import with_progress
from mmlab.training.rates import Rates
from mmlab.training.run import Observer, Run
from mmlab.training.schedule import MakeSchedule
from mmlab.training.setup import (
    MakeOptimizer,
    make_optimizer,
    own_modules,
    plan,
    prepare,
    trained_parameters,
    warn_of_adaptive,
)
from mmlab.training.stacked_run import Shared, StackedRun, check_order
from mmlab.training.updates import has_other_hooks

AT_ONCE = 32
"""Networks in one program. More networks save little time and need more memory."""

ENTRY_BY_ENTRY = (
    *(SGD, optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax),
    *(optim.Adagrad, optim.Adadelta, optim.RMSprop, optim.Rprop, optim.ASGD),
)
"""Optimisers under which networks in one tensor do not see each other."""


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
    _check_options(training)
    datasets = _per_seed("data", data, MultimodalData, seeds)
    makers = _per_seed("balancer", balancer, Callable, seeds)
    rates = _rates(lr, seeds)
    check_own_paths(training.get("observers", ()), len(seeds))
    options = {"epochs": epochs, **training}
    each = zip(seeds, datasets, makers, rates, strict=True)
    jobs = [
        Job(seed, one, make, rate, network, dict(build or {})) for seed, one, make, rate in each
    ]
    runs: list[Run] = []
    for start in range(0, len(jobs), AT_ONCE):
        some = jobs[start : start + AT_ONCE]
        runs += _one_program(some, options, at_once) or [job.train(options) for job in some]
    return runs


def _check_network(network: object) -> None:
    if not isinstance(network, type) or not callable(getattr(network, "build", None)):
        what = network.__name__ if isinstance(network, type) else kind_of(network)
        raise TypeError(
            f"network is {what}; give a class of networks, MultimodalNet or a subclass: a network "
            "of its own is built for each seed"
        )


def _check_options(training: Mapping[str, Any]) -> None:
    """Refuse what `fit` does not take."""
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


def _one_program(
    jobs: Sequence[Job], options: Mapping[str, Any], at_once: bool | None
) -> list[Run] | None:
    """The jobs as one program; None where that cannot be, or (unless asked for) would not pay."""
    # an observer that does more than look would not reach the stack
    looking = all(getattr(o, "only_looks", False) for o in options.get("observers", ()))
    if at_once is False or (at_once is None and (len(jobs) < 2 or not looking)):
        return None
    try:
        run = _before_training(jobs, options, at_once)
    except UnstackableError:
        if at_once:
            raise
        return None
    if run is None:
        return None
    try:
        check_order(run.balancer)
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


def _before_training(
    jobs: Sequence[Job], options: Mapping[str, Any], at_once: bool | None
) -> StackedRun | None:
    """The run of a stack; None where it would not pay. Raises UnstackableError."""
    if processes.count() > 1:
        raise UnstackableError(
            f"this is one of {processes.count()} processes, which share the samples of one "
            "network; train the seeds one by one (at_once=False), or in one process"
        )
    _check_only_looking(options.get("observers", ()))
    balancers = _balancers(jobs)
    networks = [job.model(b) for job, b in zip(jobs, balancers, strict=True)]
    model = NetworkStack(networks)
    on_cpu = find_device(options.get("device", "auto")).type == "cpu"
    slow = on_cpu and any(isinstance(part, Vmapped) for part in model.modules())
    if slow and at_once is None:
        return None
    return _stacked_run(model, networks, jobs, balancers, **options)


def _balancers(jobs: Sequence[Job]) -> list[Balancer]:
    """One per network, each an object of its own."""
    balancers = [job.make() for job in jobs]
    if type(balancers[0]).order.__module__.startswith("mmlab."):  # documented, so no news
        check_order(balancers[0])
    if len({id(balancer) for balancer in balancers}) < len(balancers):
        raise TypeError(
            f"the maker of {balancers[0].name} gives the same object twice, and what it keeps "
            "of one seed would reach the next; make a new one each time, such as "
            "lambda: OGM(alpha=0.1)"
        )
    return balancers


def _check_only_looking(observers: Sequence[Observer | type]) -> None:
    for observer in observers:
        if getattr(observer, "only_looks", True) is False:
            kind = observer if isinstance(observer, type) else type(observer)
            raise UnstackableError(
                f"{kind.__name__} acts on one training, and a stack trains several seeds as one; "
                "train the seeds one by one (at_once=False)"
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
    _check_alike(datasets)
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


def _check_alike(datasets: Sequence[MultimodalData]) -> None:
    """Refuse data of which no batch of a stack can be made."""
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


def _check_in_memory(data: MultimodalData) -> None:
    if data.frames:
        raise UnstackableError(
            "each frame has a label, and in a batch each network of a stack would have another "
            "number of frames that count; train the seeds one by one"
        )
    for name, split in data.splits.items():
        if not isinstance(split, Batch):
            raise UnstackableError(
                f"{name} is {kind_of(split)}, and every network of a stack reads its own "
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
