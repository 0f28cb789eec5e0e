"""Whether a method treats each network of a stack as it would treat it alone: it is tried."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

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


def check_exact(
    model: NetworkStack,
    methods: StackedBalancer,
    seeds: Sequence[int],
    batch: Batch,
    epoch: int,
    lr: float,
    loss: Loss | None,
) -> None:
    """Let two networks take an update within a stack and on their own: both must agree.

    Nothing of the training is touched. A rule may jump where rounding decides, as at a cosine of 0:
    what differs is looked at again in float64.

    Raises:
        UnstackableError: they differ, as they do if losses (R,) are added up over networks.
    """
    places = (0, len(seeds) - 1)
    batch = replace(batch, index=None)[torch.tensor(places, device=batch.target.device)]
    trial = _Trial(model, methods, [seeds[r] for r in places], batch, epoch, lr, loss)
    why = trial.difference(places)
    if why and batch.target.device.type != "mps":  # which has no float64
        why = trial.difference(places, wide=True)
    if why:
        raise UnstackableError(
            f"under {methods.balancer.name} {why}. In a stack every loss is (R,): work on the last "
            "axis alone (s.losses.stack), log one number per network, or train the seeds one by one"
        )


class _Trial:
    """One update of two networks, on copies."""

    def __init__(
        self,
        model: NetworkStack,
        methods: StackedBalancer,
        seeds: Sequence[int],
        batch: Batch,
        epoch: int,
        lr: float,
        loss: Loss | None,
    ) -> None:
        self.model, self.methods, self.seeds, self.batch = model, methods, seeds, batch
        self.epoch, self.lr, self.loss = epoch, lr, loss

    def difference(self, places: tuple[int, int], wide: bool = False) -> str:
        """What the two networks do otherwise within a stack; nothing where all agrees."""
        ones = [self.model.replica(r) for r in places]
        try:
            pair = self.methods.pair(*places)
            within, logged = self._updated(NetworkStack(ones), pair, slice(None), wide)
            for at, (r, one) in enumerate(zip(places, ones, strict=True)):
                balancer = self.methods.of(r)
                before = (one, self.methods.own(balancer))
                alone, theirs = self._updated(one, balancer, at, wide)
                parts = zip(before, alone, within, strict=True)
                moved = [
                    _apart(_flat(start), _flat(mine), _flat(stack, at))
                    for start, mine, stack in parts
                    if start is not None and mine is not None and stack is not None
                ]
                if why := next(filter(None, moved), "") or _logged_apart(logged, theirs, at):
                    return f"network {r} {why}"
        except Exception as error:  # of any kind: the method was written for one network
            return f"a stack of two networks fails: {error}"
        return ""

    def _updated(
        self, model: MultimodalNet, balancer: Balancer, place: int | slice, wide: bool
    ) -> tuple[tuple[MultimodalNet, nn.Module | None], Logged]:
        """A network and the method's own module, in copies, after the updates of the batch by SGD.

        With it, what was logged. The rate is one at which a difference is no rounding.
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
            s = Step(model, batch, optimizer, self.epoch, 0.5, self.loss, draws, parameters)
            for _ in balancer.step(s):
                yields += 1
                optimizer.step()
                optimizer.zero_grad()
        if len(steps) != yields:
            raise UnstackableError("its step moves the optimiser by hand, which networks share")
        return (model, own), s.logged


def _widened(value):
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


def _apart(start: Tensor, alone: Tensor, within: Tensor) -> str:
    gap, moved = torch.dist(alone, within), torch.dist(alone, start)
    if gap <= 1e-2 * moved + 1e-6 * start.norm():
        return ""
    return f"moves by {gap:.2g} elsewhere than on its own, where it moves by {moved:.2g}"


def _logged_apart(within: Logged, alone: Logged, place: int) -> str:
    for key in within.keys() | alone.keys():
        mine, theirs = (torch.as_tensor(x.get(key, torch.nan)).cpu() for x in (within, alone))
        mine = mine[place] if mine.ndim else mine
        if not torch.allclose(mine.double(), theirs.double(), rtol=1e-2, atol=1e-4, equal_nan=True):
            return f"logs {key[0]!r} as {mine.item():.3g} and {theirs.item():.3g} on its own"
    return ""


def _flat(module: nn.Module, at: int | None = None) -> Tensor:
    """All parameters in a row; of a stack, those of the network `at`."""
    place = ... if at is None else at
    return torch.cat([p[place].detach().flatten().double() for p in module.parameters()])
