"""What a training begins with: the network in its form, the optimiser, the schedule."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from mmlab.checks import check_choice, check_number, kind_of
from mmlab.models.modes import training_mode
from mmlab.models.network import MultimodalNet
from mmlab.seeds import seeded
from mmlab.training.balancer import Balancer
from mmlab.training.devices import find_device
from mmlab.training.losses import Loss
from mmlab.training.optimizers import SGD
from mmlab.training.run import Course
from mmlab.training.schedule import MakeSchedule, Schedule, steps_per_batch

MakeOptimizer = (
    Callable[[Iterable[Tensor]], torch.optim.Optimizer]
    | Callable[[Iterable[tuple[str, Tensor]]], torch.optim.Optimizer]
)
"""Parameters, or pairs of a name and a parameter, -> an optimiser."""

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


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


def own_modules(balancer: Balancer, model: MultimodalNet, seed: int) -> nn.Module | None:
    """The method's own modules, whose initial weights are a stream of the seed.

    Raises TypeError for what is no module.
    """
    found: object = seeded(seed, "modules", build=lambda: balancer.modules(model))
    if found is not None and not isinstance(found, nn.Module):
        raise TypeError(
            f"{balancer.name}.modules gives {kind_of(found)}; give an nn.Module that holds "
            "it, such as nn.ParameterList([...])"
        )
    return found


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
            f"optimizer(parameters) gives {kind_of(optimizer)}; it must give a "
            "torch.optim.Optimizer, such as torch.optim.Adam(parameters, lr=1e-3)"
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
        warn_of_left_out(optimizer, len(left), len(wanted))


def left_out(optimizer: optim.Optimizer, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The trained ones of these parameters that the optimiser does not hold."""
    held = {p for group in optimizer.param_groups for p in group["params"]}
    return [p for p in parameters if p.requires_grad and p not in held]


def warn_of_left_out(optimizer: optim.Optimizer, left: int, wanted: int) -> None:
    """Say so where an optimiser holds `left` of `wanted` trained parameters not."""
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


def warn_of_loss(loss: Loss | None, optimizer: optim.Optimizer) -> None:
    """Say so where a loss has parameters that would never move."""
    held = {p for group in optimizer.param_groups for p in group["params"]}
    own = loss.parameters() if isinstance(loss, nn.Module) else ()
    if any(p.requires_grad and p not in held for p in own):
        warnings.warn(
            f"{type(loss).__name__} has parameters that the optimiser does not hold, so they will "
            "not change; give them by `Balancer.modules`, or set requires_grad_(False) on them",
            stacklevel=3,
        )


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
