"""The one training loop. A balancer fills the gradients; this is where the optimiser steps."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn, optim

from mmlab.checks import check_choice, check_flag, check_number, check_whole
from mmlab.datasets.base import MultimodalData
from mmlab.identity import digest
from mmlab.models.modes import training_mode
from mmlab.models.network import MultimodalNet
from mmlab.nested import tensors
from mmlab.seeds import AHEAD, Draws, random_state, seeded
from mmlab.training import processes
from mmlab.training.balancer import Balancer, Joint
from mmlab.training.losses import Loss
from mmlab.training.optimizers import SGD
from mmlab.training.progress import with_progress
from mmlab.training.run import Course, Observer, Run
from mmlab.training.schedule import MakeSchedule, Schedule, steps_per_batch
from mmlab.training.sharing import check_unwrapped, share_out
from mmlab.training.step import Parameters, Step
from mmlab.training.updates import forget_scaling

MakeOptimizer = (
    Callable[[Iterable[Tensor]], torch.optim.Optimizer]
    | Callable[[Iterable[tuple[str, Tensor]]], torch.optim.Optimizer]
)
"""Parameters, or pairs of a name and a parameter, -> an optimiser."""

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def fit(
    model: MultimodalNet,
    data: MultimodalData,
    balancer: Balancer | None = None,
    *,
    epochs: int,
    optimizer: MakeOptimizer | None = None,
    lr: float | None = None,
    schedule: MakeSchedule | None = None,
    clip: float | None = None,
    batch_size: int = 64,
    accumulate: int = 1,
    drop_last: bool = False,
    device: str | torch.device = "auto",
    precision: str = "float32",
    seed: int = 0,
    loss: Loss | None = None,
    observers: Sequence[Observer] = (),
    compile: bool | str = False,
) -> Run:
    """Train `model` in place on `data.train`.

    In a script that torchrun starts, all its processes train one network, and each ends where one
    process would: a step has `batch_size` samples, which they share out.

    Args:
        balancer: the method; Joint() by default.
        optimizer: a callable parameters -> torch.optim.Optimizer; default SGD(lr, momentum=0.9).
            One whose first argument is called `named_parameters` gets pairs (name, parameter), with
            names as in `model.named_parameters()`, and "balancer.…" for the method's own modules.
        lr: learning rate of the default optimiser; default 0.01. With your own `optimizer` it has
            no effect, and a warning says so.
        schedule: makes a scheduler of torch from the optimiser, such as
            `lambda optimizer: StepLR(optimizer, 30, 0.1)`, which steps after each epoch. With two
            arguments, `lambda optimizer, steps: ...`, it gets the number of batches of the whole
            training, and steps after each batch. It may be called several times, for copies. The
            history has each epoch's mean rate as "lr".
        clip: the largest norm of a gradient, over all parameters of the optimiser together. Before
            each update a longer one is shrunk to it (torch.nn.utils.clip_grad_norm_).
        accumulate: a step sees accumulate · batch_size samples at once, and each encoder batch_size
            of them at a time: it needs the memory of batch_size samples, and more time. For every
            method this is a training with accumulate · batch_size, up to rounding; but BatchNorm in
            an encoder normalises batch_size samples at a time, and dropout draws other masks.
        drop_last: leave out the last batch of an epoch where a step has fewer samples than others.
        device: "auto" takes cuda, then mps, then cpu.
        precision: "float32"; or "bfloat16", in which the encoders compute where that is safe: it
            saves time for big ones on a GPU.
        seed: sets data order, noise and dropout, each its own stream. (Initial weights are set by
            `MultimodalNet.build(seed=...)`.)
        loss: loss(prediction, target) -> one number; by default cross-entropy for classes,
            binary cross-entropy for several labels per sample, L1 for numbers.
        observers: called with the Run before the first epoch and after each. In a terminal or a
            notebook a longer training shows its `Progress` too.
        compile: True, or a backend of torch.compile such as "cudagraphs": compile the encoders.
            Needs a C++ compiler on a CPU, and saves time only in long runs.

    Returns:
        The Run. Its history holds the training loss of every output that the balancer computed, and
        what it logged, as means over the epoch.

    Raises:
        FloatingPointError: a loss or a parameter that is not finite.
        RuntimeError: a step that never yields; one of several processes has ended, or disagrees.
        TypeError, ValueError: arguments of the wrong kind or out of range.
    """
    balancer = Joint() if balancer is None else balancer
    check_arguments(model, data, balancer, epochs, batch_size, accumulate, drop_last, loss)
    check_clip(clip)
    check_observers(observers)
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TypeError(f"seed is {seed!r}; give one whole number (several: fit_seeds)")
    if model.replicas is not None:
        raise TypeError("the model is a stack of networks; fit_seeds makes and trains stacks")
    model.task, model.frames = data.task, data.frames
    processes.join()
    where, modules = prepare(model, device, precision, compile), own_modules(balancer, model, seed)
    if processes.count() > 1:
        share_out(model, where, accumulate)
    parameters = trained_parameters(model, modules, where)
    check_trainable(parameters.values())
    made = make_optimizer(optimizer, lr, parameters)
    _warn_of_loss(loss, made)
    warn_of_adaptive(balancer, made)
    run = Run(
        model=model,
        data=data,
        balancer=balancer,
        optimizer=made,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        drop_last=drop_last,
        clip=clip,
        device=where,
        seed=seed,
        train_on=train,
        loss=loss,
        modules=modules,
        observers=with_progress(observers),
    )
    plan(run, schedule)
    with processes.alike():
        run.start()
        train(run)
    return run


def own_modules(balancer: Balancer, model: MultimodalNet, seed: int) -> nn.Module | None:
    """The method's own modules, whose initial weights are a stream of the seed.

    Raises TypeError for what is no module.
    """
    found: object = seeded(seed, "modules", build=lambda: balancer.modules(model))
    if found is not None and not isinstance(found, nn.Module):
        raise TypeError(
            f"{balancer.name}.modules gives a {type(found).__name__}; give an nn.Module that holds "
            "it, such as nn.ParameterList([...])"
        )
    return found


def prepare(
    model: MultimodalNet, device: str | torch.device, precision: str, compile: bool | str
) -> torch.device:
    """Put a network where and into the form that it is to be trained in."""
    check_choice("precision", precision, PRECISIONS)
    found = find_device(device)
    training_mode(model.to(found))
    model.autocast = PRECISIONS[precision]
    if compile:
        for encoder in model.encoders.values():
            compile_in_place(encoder, "inductor" if compile is True else compile)
    return found


def compile_in_place(module: nn.Module, backend: str) -> None:
    """Let a module be called through torch.compile; its parameters keep their names.

    `module.compile()` would hand torch's compiler the call of nn.Module itself. That is a file the
    compiler skips for the containers of torch.nn, so that it would compile nothing.
    """

    def call(*args: object, **kwargs: object) -> object:
        return module._call_impl(*args, **kwargs)

    module._compiled_call_impl = torch.compile(call, backend=backend)


def make_optimizer(
    make: MakeOptimizer | None, lr: float | None, named: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser of a run: the one asked for, or plain SGD."""
    parameters = list(named.values())
    if lr is not None:
        check_number("lr", lr, above=0)
    if make is None:
        return SGD(parameters, lr=0.01 if lr is None else lr, momentum=0.9)
    if not callable(make):
        raise TypeError(
            f"optimizer is {_named(make)}; give a function that makes one from the parameters, "
            "such as lambda parameters: torch.optim.Adam(parameters, lr=1e-3)"
        )
    if lr is not None:
        warnings.warn(
            f"lr={lr} does not reach an optimiser of your own; set the rate there, such as "
            f"optimizer=lambda parameters: torch.optim.Adam(parameters, lr={lr})",
            stacklevel=3,
        )
    given: Any = list(named.items()) if _takes_names(make) else parameters
    made = make(given)
    _check_optimizer(made, parameters)
    return made


def _takes_names(make: MakeOptimizer) -> bool:
    try:
        return next(iter(inspect.signature(make).parameters), "") == "named_parameters"
    except ValueError:  # code in C does not say what its arguments are called
        return False


def _named(value: object) -> str:
    return repr(value) if isinstance(value, str) else f"of the type {type(value).__name__}"


def _check_optimizer(optimizer: object, parameters: Sequence[nn.Parameter]) -> None:
    """Refuse what is no optimiser, or would not train the network."""
    kind = type(optimizer).__name__
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer(parameters) gives a {kind}; it must give a torch.optim.Optimizer, such as "
            "torch.optim.Adam(parameters, lr=1e-3)"
        )
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(
            f"{kind}.step needs a function that computes the loss anew, and a balancer fills the "
            "gradients once per step; allowed is any optimiser without it, such as SGD or Adam"
        )
    wanted = [p for p in parameters if p.requires_grad]
    left = left_out(optimizer, wanted)
    if wanted and len(left) == len(wanted):
        raise ValueError(
            f"this {kind} holds none of the network's parameters, so nothing would be trained; "
            "make it from what it is given: optimizer=lambda parameters: ...(parameters)"
        )
    if left:
        _warn_of_left_out(optimizer, len(left), len(wanted))


def left_out(optimizer: optim.Optimizer, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The trained ones of these parameters that the optimiser does not hold."""
    held = {p for group in optimizer.param_groups for p in group["params"]}
    return [p for p in parameters if p.requires_grad and p not in held]


def _warn_of_left_out(optimizer: optim.Optimizer, left: int, wanted: int) -> None:
    warnings.warn(
        f"this {type(optimizer).__name__} leaves out {left} of {wanted} trained parameters: they "
        "will not change. If you want that, set requires_grad_(False) on them",
        stacklevel=5,
    )


ADAPTIVE = (
    *(optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax, optim.SparseAdam),
    *(optim.RMSprop, optim.Adagrad, optim.Adadelta, optim.Rprop, optim.Adafactor, optim.Muon),
)
"""Optimisers that divide the gradient by its usual size, and so take a constant factor out."""


def warn_of_adaptive(balancer: Balancer, optimizer: optim.Optimizer) -> None:
    """Say so where this optimiser undoes what the method does."""
    if balancer.lost_if_adaptive and isinstance(optimizer, ADAPTIVE):
        warnings.warn(
            f"{type(optimizer).__name__} divides each gradient by its usual size, so under it "
            f"{balancer.name} {balancer.lost_if_adaptive}",
            stacklevel=3,
        )


def trained_parameters(
    model: MultimodalNet, modules: nn.Module | None, device: torch.device
) -> dict[str, nn.Parameter]:
    """The network's parameters by name, then those of the method's own modules."""
    found = dict(model.named_parameters())
    if modules is not None:
        known = set(found.values())
        own = modules.to(device).train().named_parameters(prefix="balancer")
        found |= {name: p for name, p in own if p not in known}
    return found


def plan(run: Course, schedule: MakeSchedule | None) -> None:
    """Make the schedule of a run's learning rate, unless there is nothing to train.

    Raises TypeError or ValueError for what makes none that `fit` can step.
    """
    if schedule is None:
        return
    if steps_per_batch(schedule) and type(run.balancer).order is not Balancer.order:
        raise ValueError(
            f"schedule asks for the number of batches, and {run.balancer.name}.order may give each "
            "epoch another one; give a schedule per epoch: lambda optimizer: ..."
        )
    if run.epochs:
        run.schedule = Schedule(schedule, run.optimizer, run.epochs * run.steps)


def train(run: Course) -> None:
    """Train a run to its last epoch."""
    run.tell("on_start")  # where a checkpoint may go on from a later epoch
    _check_alike(run, "before the training")
    if run.epoch == 0:
        run.observe()
    while not run.over:
        run.next_epoch()
        with run.drawing("dropout", run.epoch):
            logged = _train_epoch(run)
            drawn = [state for _, state in random_state(run.device)]
        run.epoch += 1
        _record(run, logged)
        run.after_epoch()
        check_finite(run)
        run.observe()
        _check_alike(run, f"after epoch {run.epoch}", drawn)
    run.finish()


def _check_alike(run: Course, when: str, drawn: Sequence[Tensor] = ()) -> None:
    """Refuse to go on where processes that train one network do not have one network any more."""
    if processes.count() > 1:
        own = [] if run.modules is None else [*run.modules.state_dict().values()]
        values = {
            "the epoch": (run.epoch, run.stopped),
            "the settings": [(run.seed, run.epochs, run.step_size, run.steps, run.balancer.name)],
            "the random numbers of dropout": digest([*drawn], "drawn"),
            "the parameters": digest([*run.model.state_dict().values(), *own], "network"),
        }
        processes.check_same(when, values)


def _train_epoch(run: Course) -> list[dict[tuple[str, str], tuple[Any, Tensor | None]]]:
    """The steps of one epoch; what each computed and logged."""
    epoch, steps = run.epoch, run.steps
    draws = Draws(lambda kind: run.generators(kind, epoch, device=run.device), AHEAD)
    parameters, logged = Parameters(run.model, run.modules), []
    run.optimizer.zero_grad(set_to_none=True)  # from here on, once after every update
    everything = [
        *run.model.parameters(),
        *([] if run.modules is None else run.modules.parameters()),
    ]
    left = left_out(run.optimizer, everything)
    if left and epoch:  # before the first one it was said
        _warn_of_left_out(run.optimizer, len(left), sum(p.requires_grad for p in everything))
    for i, batch in enumerate(run.batches()):
        progress = (epoch + min(1.0, i / steps)) / run.epochs
        s = Step(
            run.model,
            batch,
            run.optimizer,
            epoch,
            progress=progress,
            loss=run.loss,
            draws=draws,
            parameters=parameters,
            piece=run.batch_size if run.accumulate > 1 else None,
        )
        with _told_of_a_single_sample(batch.target.shape[len(run.shape)], run):
            _take(run, s, first=i == 0, left=left)
        run.after_batch()
        logged.append(s._recorded())
    return logged


_MORE = "choose a larger batch_size"
_LEFT_OUT = "leave the last batch out with drop_last=True, or choose another batch_size"


@contextlib.contextmanager
def _told_of_a_single_sample(size: int, run: Course) -> Iterator[None]:
    """Say which batch it is where torch's BatchNorm meets one sample."""
    try:
        yield
    except ValueError as error:
        if (size - 1) % run.batch_size or "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "BatchNorm needs two samples or more, and a batch holds 1 "
            f"({run.epoch_size} samples in batches of {run.batch_size}); "
            f"{_MORE if run.batch_size == 1 else _LEFT_OUT}"
        ) from error


def _take(run: Course, s: Step, first: bool, left: Sequence[nn.Parameter]) -> None:
    """One optimiser step at each yield of the balancer.

    first: whether this is the first batch of an epoch; left: parameters that no optimiser holds.
    """
    updates = run.balancer.step(s)
    yields = 0
    if not isinstance(updates, Iterator):
        updates = ()  # a plain method: it has no `yield` at all
    for _ in updates:
        yields += 1
        if first and not _any_gradient(run):
            raise RuntimeError(
                f"{run.balancer.name}.step yielded, and no parameter has a gradient, so nothing "
                "would be trained; call s.backward(loss) before the `yield`"
            )
        s._merge()
        run.before_update()
        try:
            run.optimizer.step()
        except BaseException:
            forget_scaling(run.optimizer)  # its groups are whole again, for whoever saves it
            raise
        run.optimizer.zero_grad(set_to_none=True)
        for p in left:
            p.grad = None
    if yields == 0:
        raise RuntimeError(
            f"{run.balancer.name}.step never yielded, so nothing would be trained; "
            "fill the gradients, then `yield` once for each optimiser step"
        )


def _any_gradient(run: Course) -> bool:
    own = [] if run.modules is None else run.modules.parameters()
    return any(p.grad is not None for p in (*run.model.parameters(), *own))


def check_finite(run: Course) -> None:
    """Refuse parameters that are not finite, such as by the last update or a loss of one's own."""
    own = [] if run.modules is None else run.modules.parameters()
    trained = [p for p in (*run.model.parameters(), *own) if p.requires_grad]
    finite = [p.isfinite().reshape(*run.shape, -1).all(-1) for p in trained]
    if not finite:
        return
    lost = (~torch.stack(finite).all(0)).nonzero()
    if len(lost):
        raise FloatingPointError(
            f"parameters{run.whose(lost[0].tolist())} are not finite after epoch {run.epoch} under "
            f"{run.balancer.name}; lower lr"
        )


def _record(run: Course, logged: list[dict[tuple[str, str], tuple[Any, Tensor | None]]]) -> None:
    """The epoch's means into the history. Here the CPU waits for the GPU, once per epoch."""
    keys = dict.fromkeys(key for entry in logged for key in entry)
    for metric, output in keys:
        entries = [(i, *e[metric, output]) for i, e in enumerate(logged) if (metric, output) in e]
        values = torch.stack([torch.as_tensor(v, device=run.device).float() for _, v, _ in entries])
        if values.shape[1:] not in ((), run.shape):
            raise ValueError(
                f"{metric!r} was logged in the shape {tuple(values.shape[1:])}; give one number, "
                f"or a dict with one per modality: s.log({metric}={{m: ...}})"
            )
        values = values.cpu()
        if metric in ("loss", "objective") and not values.isfinite().all():
            first = (~values.isfinite()).nonzero()[0]
            untrained = run.epoch == 1 and entries[int(first[0])][0] == 0
            remedy = (
                "nothing was trained before it: look at the loss and its weights, for a division "
                "by 0 or the log of 0"
                if untrained
                else "lower lr, or look for a division by 0 or the log of 0 in the loss"
            )
            what = f"the {output!r} loss" if metric == "loss" else "the loss given to `backward`"
            raise FloatingPointError(
                f"{what}{run.whose(first[1:].tolist())} is {values[tuple(first)]} in "
                f"batch {entries[int(first[0])][0]} of epoch {run.epoch} under "
                f"{run.balancer.name}; {remedy}"
            )
        run.record("train", output, metric, _mean(values, [seen for *_, seen in entries]))


def _mean(values: Tensor, seen: Sequence[Tensor | None]) -> Tensor:
    """Mean over the batches in which a loss says something; NaN where none did."""
    if all(one is None for one in seen):
        return values.mean(0)
    there = torch.stack([torch.ones(()).bool() if one is None else one.cpu() for one in seen])
    return torch.where(there, values, 0).sum(0) / there.sum(0)


def find_device(device: str | torch.device = "auto") -> torch.device:
    """The device to train on; "auto" takes cuda, then mps, then cpu.

    Each of several processes takes a GPU of its own, the one of its LOCAL_RANK.

    Raises ValueError for a device that this machine or this build of torch does not have.
    """
    available = ["cpu"]
    several = processes.count() > 1
    if torch.backends.mps.is_available() and not several:
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if device == "auto":
        device = available[0]
    if several and str(device) == "cuda":
        device = f"cuda:{processes.local_rank()}"
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    there = found is not None and found.type in available
    if found is not None and found.type == "cuda" and found.index is not None:
        there = there and found.index < torch.cuda.device_count()
    if found is None or not there:
        raise ValueError(
            f"device {str(device)!r} is not available; this machine has {', '.join(available)}. "
            "Use device='auto' to take the first of these"
        )
    return found


def check_arguments(
    model: MultimodalNet,
    data: MultimodalData,
    balancer: Balancer,
    epochs: int,
    batch_size: int,
    accumulate: int,
    drop_last: bool,
    loss: Loss | None,
) -> None:
    """Refuse what a training cannot do, before it starts."""
    check_balancer(balancer)
    if not isinstance(model, MultimodalNet) or not isinstance(data, MultimodalData):
        raise TypeError(
            f"fit(model, data, ...) got a {type(model).__name__} and a {type(data).__name__}; "
            "it takes a MultimodalNet and a MultimodalData, in this order"
        )
    check_unwrapped(model)
    if set(model.modalities) != set(data.modalities):
        raise ValueError(
            f"the model has the modalities {model.modalities}, the data {data.modalities}; build "
            "the model with MultimodalNet.build(data)"
        )
    kinds = {p.dtype for p in model.parameters()}
    for m, value in data.train.head(1).inputs.items():
        wide = any(x.dtype == torch.float64 for x in tensors(value).values())
        if wide and torch.float64 not in kinds:
            raise ValueError(
                f"modality {m!r} is torch.float64, as NumPy's arrays are, and the network is not; "
                "use .float()"
            )
    outputs = getattr(model.fusion, "n_outputs", data.n_outputs)
    if outputs != data.n_outputs:
        raise ValueError(
            f"the model has {outputs} outputs, the data need {data.n_outputs}; build the model "
            "with MultimodalNet.build(data)"
        )
    check_whole("epochs", epochs)
    check_whole("batch_size", batch_size, least=1)
    check_whole("accumulate", accumulate, least=1)
    if accumulate > 1 and type(model).forward is not MultimodalNet.forward:
        raise ValueError(
            f"accumulate={accumulate} lets the encoders see some samples at a time, and "
            f"{type(model).__name__} has a forward pass of its own, which calls them with all; use "
            "torch.utils.checkpoint in it, and accumulate=1 with a larger batch_size"
        )
    if data.sampler is not None and type(balancer).order is not Balancer.order:
        raise ValueError(
            f"{balancer.name} chooses the samples of an epoch, and so does the sampler of the "
            "data; leave one of them out"
        )
    check_flag("drop_last", drop_last)
    if drop_last and data.epoch_size < batch_size * accumulate:
        raise ValueError(
            f"drop_last=True leaves nothing to train on: {data.epoch_size} samples make no batch "
            f"of {batch_size * accumulate}; choose a smaller batch_size"
        )
    if isinstance(loss, type):
        raise TypeError(
            f"loss is the class {loss.__name__}; give {loss.__name__}() (with brackets)"
        )
    if loss is not None and not callable(loss):
        raise TypeError(
            f"loss is {loss!r}; give a function loss(prediction, target) -> one number, such as "
            "torch.nn.functional.mse_loss"
        )


def check_clip(clip: float | None) -> None:
    """Refuse what is no length."""
    if clip is not None:
        check_number("clip", clip, above=0)


def check_trainable(parameters: Iterable[nn.Parameter]) -> None:
    """Refuse a training in which nothing may learn."""
    if not any(p.requires_grad for p in parameters):
        raise ValueError(
            "no parameter requires a gradient, so nothing would be trained; set "
            "requires_grad_(True) on what is to learn"
        )


def _warn_of_loss(loss: Loss | None, optimizer: optim.Optimizer) -> None:
    """Say so where a loss has parameters that would never move."""
    held = {p for group in optimizer.param_groups for p in group["params"]}
    own = loss.parameters() if isinstance(loss, nn.Module) else ()
    if any(p.requires_grad and p not in held for p in own):
        warnings.warn(
            f"{type(loss).__name__} has parameters that the optimiser does not hold, so they will "
            "not change; give them by `Balancer.modules`, or set requires_grad_(False) on them",
            stacklevel=3,
        )


def check_balancer(balancer: object) -> None:
    """Refuse what is no method, such as its class."""
    if not isinstance(balancer, Balancer):
        raise TypeError(
            f"balancer is {balancer!r}; it must be a Balancer instance, such as Joint() "
            "(with the brackets)"
        )


def check_observers(observers: Sequence[Observer]) -> None:
    """Refuse what `fit` cannot call with the run."""
    if not isinstance(observers, Sequence) or isinstance(observers, str):
        raise TypeError(f"observers is {observers!r}; give a list, such as [Curves()]")
    for i, observer in enumerate(observers):
        if isinstance(observer, type) or not callable(observer):
            named = isinstance(observer, type)
            what = f"the class {observer.__name__}" if named else repr(observer)
            raise TypeError(
                f"observers[{i}] is {what}; give what can be called with the run: an instance, "
                "such as Curves() (with the brackets), or a function"
            )
