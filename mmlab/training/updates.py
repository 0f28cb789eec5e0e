"""Scale the next update that an optimiser makes, whatever optimiser it is.

By the learning rate where the update is proportional to it, and no parameter is touched; else by
interpolation between the parameters before and after the step.

Hooks of others see the optimiser's real `param_groups`: ours are the last before a step and the
first after it, of all that are there when an update is asked to be scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn, optim

from mmlab.gradients import align_to
from mmlab.training.optimizers import SGD

Factors = Mapping[nn.Parameter, float | Tensor]
Waiting = list[tuple[list[nn.Parameter], float | Tensor]]


class _Scaling:
    """What is asked of one optimiser, and where its scaled step is.

    waiting: groups of parameters whose next update is to be scaled, each with its factor.
    hooks:   the numbers of our hooks before and after the step.
    undo:    what to do after the step; finished=False where an error or a keyboard cut it short.
    within:  steps that have begun within the step which is scaled: torch calls the hooks of both
             where a subclass's `step` calls that of its base.
    """

    def __init__(self, optimizer: optim.Optimizer) -> None:
        self.waiting: Waiting = []
        before = optimizer.register_step_pre_hook(_before_step)
        after = optimizer.register_step_post_hook(_after_step)
        self.hooks = before.id, after.id
        self.undo: Callable[..., None] | None = None
        self.within = 0

    def abandon(self) -> None:
        """Take back what a step that was cut short has left."""
        if self.undo is not None:
            undo, self.undo = self.undo, None
            undo(finished=False)


_scalings: WeakKeyDictionary[optim.Optimizer, _Scaling] = WeakKeyDictionary()

LINEAR_IN_LR = (
    *(SGD, optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax),
    *(optim.RMSprop, optim.Adagrad),
)
"""Optimisers that multiply the whole update by the learning rate, and use it for nothing else."""


def scale_next_update(
    optimizer: optim.Optimizer, parameters: Sequence[nn.Parameter], k: float | Tensor
) -> None:
    """Multiply the next update of `parameters` by k, a number or one per replica (R,).

    The optimiser's hooks, which stay on it, do it at its next step. Factors asked for one after the
    other multiply.
    """
    if not parameters:
        return  # a frozen encoder
    if optimizer not in _scalings:
        _scalings[optimizer] = _Scaling(optimizer)
    scaling = _scalings[optimizer]
    scaling.abandon()
    number_before, number_after = scaling.hooks
    before_step: Any = optimizer._optimizer_step_pre_hooks  # both are ordered dicts
    after_step: Any = optimizer._optimizer_step_post_hooks
    before_step.move_to_end(number_before)
    after_step.move_to_end(number_after, last=False)
    scaling.waiting.append((list(parameters), k))


def _before_step(optimizer: optim.Optimizer, *_: object) -> None:
    scaling = _scalings[optimizer]
    if scaling.undo is not None:
        scaling.within += 1
        return
    waiting, scaling.waiting = scaling.waiting, []
    # To read a factor is free on a CPU only, where numpy knows its type; a group has one rate.
    cheap = type(optimizer) in LINEAR_IN_LR and all(
        not isinstance(k, Tensor) or (not k.ndim and k.is_cpu and k.dtype != torch.bfloat16)
        for _, k in waiting
    )
    if cheap:  # the memory that a tensor on the CPU shares with numpy: no wait for a GPU
        waiting = [(parameters, _read(k)) for parameters, k in waiting]
    factor = _multiplied(waiting)
    if factor:
        scaling.undo = (_by_learning_rate if cheap else _by_interpolation)(optimizer, factor)
        scaling.within = 0


def _multiplied(waiting: Waiting) -> dict[nn.Parameter, float | Tensor]:
    """The factor of each parameter that has a gradient; one without stays as it is."""
    factor: dict[nn.Parameter, float | Tensor] = {}
    for parameters, k in waiting:
        for p in parameters:
            if p.grad is not None:
                factor[p] = factor[p] * k if p in factor else k
    return factor


def _read(k: float | Tensor) -> float:
    return float(k.detach().numpy()) if isinstance(k, Tensor) else k


def _after_step(optimizer: optim.Optimizer, *_: object) -> None:
    scaling = _scalings[optimizer]
    if scaling.undo is None:
        return
    if scaling.within:
        scaling.within -= 1
    else:
        undo, scaling.undo = scaling.undo, None
        undo(finished=True)


def is_waiting(optimizer: optim.Optimizer) -> bool:
    """Whether an update is still to be scaled that has not come."""
    return optimizer in _scalings and bool(_scalings[optimizer].waiting)


def has_other_hooks(optimizer: optim.Optimizer) -> bool:
    """Whether anything but this module acts before, in or after the optimiser's steps.

    Such as a hook, or a `step` put in the place of its own; that of a schedule only counts.
    """
    patched = vars(optimizer).get("step")
    if patched is not None and not hasattr(patched, "_wrapped_by_lr_sched"):
        return True
    hooks = {**optimizer._optimizer_step_pre_hooks, **optimizer._optimizer_step_post_hooks}
    return not {*hooks.values()} <= {_before_step, _after_step}


def _by_learning_rate(optimizer: optim.Optimizer, factor: Factors) -> Callable[..., None]:
    """Groups of their own for one step, at k times the learning rate: no parameter is touched."""
    groups = optimizer.param_groups
    optimizer.param_groups = [
        {**group, "lr": group["lr"] * k, "params": own}
        for group in groups
        for k, own in _by_factor(group["params"], factor).items()
    ]

    def restore(finished: bool) -> None:
        optimizer.param_groups = groups

    return restore


def _by_factor(
    parameters: Sequence[nn.Parameter], factor: Factors
) -> dict[float | Tensor, list[nn.Parameter]]:
    """The parameters by the factor they get; a NaN is a factor too, and shows in what it scales."""
    parts: dict[float | Tensor, list[nn.Parameter]] = {}
    for p in parameters:
        parts.setdefault(factor.get(p, 1.0), []).append(p)
    return parts


def _by_interpolation(_: optim.Optimizer, factor: Factors) -> Callable[..., None]:
    """Copies of the parameters, and after the step before + k (after - before)."""
    after = [p.detach() for p in factor]
    weights: Any = [
        align_to(p, torch.as_tensor(k, dtype=p.dtype, device=p.device)) for p, k in factor.items()
    ]
    before = torch._foreach_add(after, 0)

    def interpolate(finished: bool) -> None:
        if finished:
            torch._foreach_copy_(after, torch._foreach_lerp(before, after, weights))

    return torch.no_grad()(interpolate)


def forget_scaling(optimizer: optim.Optimizer | None) -> None:
    """Drop what was asked of the optimiser for a step that was never taken, or never ended."""
    if optimizer is not None and optimizer in _scalings:
        _scalings[optimizer].waiting.clear()
        _scalings[optimizer].abandon()
