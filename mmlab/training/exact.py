"""Whether a method treats each network of a stack as it would treat it alone: it is tried.

Two networks of the stack, the first and the last, do alone what they do within it: the updates of
some batches, and for the last one what the method prepares before an epoch. What they end with, log
and keep must agree.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mmlab.datasets.base import Batch
from mmlab.models.network import MultimodalNet
from mmlab.models.stack import NetworkStack, UnstackableError
from mmlab.seeds import Draws, Source, drawing, generator
from mmlab.training.balancer import Balancer
from mmlab.training.losses import Loss
from mmlab.training.merged import StackedBalancer
from mmlab.training.optimizers import SGD
from mmlab.training.step import Parameters, Step

Logged = Mapping[tuple[str, str], object]


class _Modules(NamedTuple):
    network: MultimodalNet
    own: nn.Module | None
    """The method's own."""


class _Updated(NamedTuple):
    """What updates leave, what the method logged meanwhile, and what it keeps."""

    modules: _Modules
    logged: Logged
    kept: Mapping[str, Any]


SAMPLES = 16
"""Samples that an update is tried on: whether networks mix does not hang on how many."""


def check_exact(
    model: NetworkStack,
    methods: StackedBalancer,
    seeds: Sequence[int],
    batch: Batch,
    *,
    epoch: int,
    progress: float,
    lr: float,
    loss: Loss | None,
) -> None:
    """Let two networks take an update within the stack and on their own: both must agree.

    Nothing of the training is touched. In float64, because a rule may jump where rounding decides,
    as at a cosine of 0; in the network's own type where something cannot be had in float64.

    Raises:
        UnstackableError: they differ, as they do if losses (R,) are added up over networks.
    """
    size = batch.target.shape[1]
    some = replace(batch, index=None)[:, : min(SAMPLES, size)]
    trial = _Trial(model, methods, seeds, some, epoch, progress, lr, loss)
    try:
        try:
            why = trial.difference(wide=some.target.device.type != "mps")
        except Exception:  # such as a loss with weights of its own type
            why = trial.difference(wide=False)
    except Exception as error:  # of any kind: the method was written for one network
        raise UnstackableError(f"under {methods.balancer.name} a stack fails: {error}") from error
    if why:
        raise UnstackableError(
            f"under {methods.balancer.name} {why}. In a stack every loss is (R,): work on the last "
            "axis alone (s.losses.stack), log one number per network, or train the seeds one by one"
        )


def check_prepared(methods: StackedBalancer, r: int, alone: Balancer) -> None:
    """Compare what a method has prepared for network r with what it has for that network alone.

    Raises:
        UnstackableError: they differ.
    """
    why = _kept_apart(vars(methods.balancer), vars(alone), r, methods, 2e-2)
    if why:
        raise UnstackableError(
            f"under {methods.balancer.name}, before an epoch, network {r} of the stack {why}. Keep "
            "one value per network, or train the seeds one by one"
        )


@dataclass(frozen=True)
class _Trial:
    """The updates of one batch, on copies."""

    model: NetworkStack
    methods: StackedBalancer
    seeds: Sequence[int]
    batch: Batch
    epoch: int
    progress: float
    lr: float
    loss: Loss | None

    def difference(self, wide: bool) -> str:
        """What the two networks do otherwise within the stack; nothing where all agrees."""
        within = self._updated(self.model, self.methods.balancer, slice(None), wide)
        for r in {0, len(self.seeds) - 1}:
            one, balancer = self.model.replica(r), self.methods.of(r)
            start = _Modules(one, self.methods.own(balancer))
            alone = self._updated(one, balancer, r, wide)
            why = self._difference_of(r, start, alone, within, tolerance=1e-6 if wide else 1e-2)
            if why:
                return f"network {r} {why}"
        return ""

    def _difference_of(
        self, r: int, start: _Modules, alone: _Updated, within: _Updated, tolerance: float
    ) -> str:
        """What network r does otherwise within the stack."""
        for before, mine, stack in zip(start, alone.modules, within.modules, strict=True):
            if before is not None and mine is not None and stack is not None:
                why = _apart(_flat(before), _flat(mine), _flat(stack, r), tolerance)
                if why:
                    return why
        why = _logged_apart(within.logged, alone.logged, r, tolerance)
        return why or _kept_apart(within.kept, alone.kept, r, self.methods, tolerance)

    def _updated(
        self, model: MultimodalNet, balancer: Balancer, place: int | slice, wide: bool
    ) -> _Updated:
        """What the updates of the batch by SGD make of copies.

        The rate is one at which a difference is no rounding.
        """
        model, balancer = copy.deepcopy((model, balancer))
        model.autocast = None
        batch, seeds = self.batch._each(lambda x: x[place]), self.seeds[place]
        device = batch.target.device
        if wide:
            model, balancer, batch = model.double(), _widened(balancer), batch._each(_widened)

        def source(kind: str) -> Source:
            names = ("check", kind)
            if isinstance(seeds, int):
                return generator(seeds, *names, device=device)
            return [generator(seed, *names, device=device) for seed in seeds]

        own = self.methods.own(balancer)
        both = [*model.parameters(), *(own.parameters() if own is not None else ())]
        optimizer = SGD(both, lr=max(self.lr, 0.01))
        steps: list[None] = []
        optimizer.register_step_post_hook(lambda *_: steps.append(None))
        yields = 0
        # as in the training: a stack has one global generator, and each network alone its own
        first = seeds if isinstance(seeds, int) else seeds[0]
        with drawing(first, "check", device=device):
            draws, parameters = Draws(source), Parameters(model, own)
            s = Step(
                model,
                batch,
                optimizer,
                self.epoch,
                progress=self.progress,
                loss=self.loss,
                draws=draws,
                parameters=parameters,
            )
            for _ in balancer.step(s):
                yields += 1
                optimizer.step()
                optimizer.zero_grad()
        if len(steps) != yields:
            raise UnstackableError("its step moves the optimiser by hand, which networks share")
        return _Updated(_Modules(model, own), s.logged, vars(balancer))


def _widened(value: Any) -> Any:
    """Tensors of real numbers in float64, whatever holds them."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, nn.Module):
        return value.double()
    if isinstance(value, dict):
        return {key: _widened(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_widened(part) for part in value)
    if isinstance(value, Balancer):
        vars(value).update({name: _widened(part) for name, part in vars(value).items()})
    return value


def _apart(start: Tensor, alone: Tensor, within: Tensor, tolerance: float) -> str:
    gap, moved = torch.dist(alone, within), torch.dist(alone, start)
    if gap <= tolerance * (moved + 1e-4 * start.norm()):
        return ""
    return f"moves by {gap:.2g} elsewhere than on its own, where it moves by {moved:.2g}"


def _logged_apart(within: Logged, alone: Logged, r: int, tolerance: float) -> str:
    for key in within.keys() | alone.keys():
        mine, theirs = (torch.as_tensor(x.get(key, torch.nan)).cpu() for x in (within, alone))
        mine = mine[r] if mine.ndim else mine
        if not _close(mine, theirs, tolerance):
            return f"logs {key[0]!r} as {mine.item():.3g} and {theirs.item():.3g} on its own"
    return ""


def _kept_apart(
    within: Mapping[str, Any],
    alone: Mapping[str, Any],
    r: int,
    methods: StackedBalancer,
    tolerance: float,
) -> str:
    for name in within.keys() - methods.numbers - {methods.module_name}:
        if not _agree(within[name], alone.get(name), r, methods.count, tolerance):
            return f"keeps another {name!r} than on its own"
    return ""


def _agree(within: Any, alone: Any, r: int, count: int, tolerance: float) -> bool:
    """Whether the part of network r in what a method keeps is what it keeps for it alone."""
    if isinstance(within, dict) and isinstance(alone, dict):
        return within.keys() == alone.keys() and all(
            _agree(within[key], alone[key], r, count, tolerance) for key in within
        )
    if isinstance(within, list | tuple) and isinstance(alone, list | tuple):
        return len(within) == len(alone) and all(
            _agree(mine, theirs, r, count, tolerance)
            for mine, theirs in zip(within, alone, strict=True)
        )
    if isinstance(within, Tensor) and isinstance(alone, Tensor):
        mine = within if within.shape == alone.shape else within[r : r + 1].squeeze(0)
        return mine.shape == alone.shape and _close(mine.cpu(), alone.cpu(), tolerance)
    return isinstance(within, Tensor) == isinstance(alone, Tensor)


def _close(mine: Tensor, theirs: Tensor, tolerance: float) -> bool:
    mine, theirs = mine.double(), theirs.double()
    near = torch.isclose(mine, theirs, rtol=tolerance, atol=tolerance * 1e-2, equal_nan=True)
    return bool(near.all())


def _flat(module: nn.Module, at: int | None = None) -> Tensor:
    """All parameters in a row; of a stack, those of the network `at`."""
    place = ... if at is None else at
    return torch.cat([p[place].detach().flatten().double() for p in module.parameters()])
