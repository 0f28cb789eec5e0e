"""A run of R seeds at once: what it needs, and whether a method of one's own stands it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor, nn, optim

from mmlab.balancers.base import Balancer, Step, is_stackable
from mmlab.balancers.updates import has_other_hooks
from mmlab.datasets.base import Batch, MultimodalData
from mmlab.models.network import MultimodalNet
from mmlab.models.stack import UnstackableError
from mmlab.normals import Normals
from mmlab.optimizers import SGD
from mmlab.seeds import drawing

if TYPE_CHECKING:
    from mmlab.training import Run

ENTRY_BY_ENTRY = (
    *(SGD, optim.SGD, optim.Adam, optim.AdamW, optim.NAdam, optim.RAdam, optim.Adamax),
    *(optim.Adagrad, optim.Adadelta, optim.RMSprop, optim.Rprop, optim.ASGD),
)
"""Optimisers under which replicas in one tensor do not see each other."""


class SharedOptimizer:
    """Stands where a replica's Run would have its optimiser: replicas share the stack's.

    An observer that sets a learning rate would set it R times; a branch of one replica would train
    nothing. Raises UnstackableError for any use.
    """

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)  # Python's own question, as in a copy
        raise UnstackableError(
            f"optimizer.{name} of one of several seeds that train at once: they share one "
            "optimiser, so an observer cannot set it, nor can one replica branch off; train the "
            "seeds one by one: a loop over fit(..., seed=s)"
        )


def split_up(run: Run, seeds: Sequence[int] | None, rate_share: Tensor | None) -> None:
    """Make a run one of R seeds at once: check what it needs, and give each seed its own Run."""
    count = run.model.replicas
    if count is None or seeds is None or len(seeds) != count:
        raise ValueError(
            f"the model is {f'a stack of {count} networks' if count else 'one network'}, and seeds "
            f"is {seeds}; give one seed a network: MultimodalNet.build(data, replicas=R) and "
            "fit(..., seeds=[...]) with R seeds"
        )
    if not is_stackable(run.balancer):
        raise UnstackableError(
            f"{run.balancer.name} does not say that it can train a stack of networks, where every "
            "loss is (R,); train the seeds one by one, or let the modalities be the last axis in "
            "its step (s.losses.stack) and set `stackable = True` in its class"
        )
    datasets = [run.data] * count if isinstance(run.data, MultimodalData) else list(run.data)
    if len(datasets) != count:
        raise ValueError(f"{len(datasets)} data sets for {count} seeds; give one, or one a seed")
    if rate_share is not None and rate_share.shape != (count,):
        raise ValueError(
            f"lr has shape {tuple(rate_share.shape)}; allowed is a number or ({count},)"
        )
    optimizer, hooked = run.optimizer, has_other_hooks(run.optimizer)
    if type(optimizer) not in ENTRY_BY_ENTRY or hooked:
        raise UnstackableError(
            f"{type(optimizer).__name__}{' with step hooks' if hooked else ''} is not known to "
            "treat every entry on its own, so replicas might mix; allowed, without step hooks, are "
            f"{', '.join(o.__name__ for o in ENTRY_BY_ENTRY[1:])}"
        )
    run.seed, run.data, run.rate_share = tuple(seeds), datasets, rate_share
    run.replicas = [
        replace(
            run,
            model=run.model.replica(r),
            data=data,
            optimizer=SharedOptimizer(),
            seed=seed,
            rate_share=None,
            rows=[],
            replicas=[],
        )
        for r, (seed, data) in enumerate(zip(seeds, datasets, strict=True))
    ]


def check_stackable(run: Run, train: Batch) -> None:
    """Let two replicas take the first update within the stack and on their own: both must agree.

    For a method of one's own; the library's are tested. Nothing of the run is touched. Raises
    ValueError where they differ, which is what losses (R,) added up over replicas would do.
    """
    if type(run.balancer).__module__.partition(".")[0] == __package__:
        return
    batch, count = train[:, : run.batch_size], len(run.replicas)
    noise = run.generators("check", device=run.device)
    stack = _updated(run, run.model, run.balancer, batch, Normals(noise))
    for r in {0, count - 1}:
        own, noise = run.balancer.replica(r, count), run.generators("check", device=run.device)[r]
        alone = _updated(run, run.model.replica(r), own, batch[r], Normals(noise))
        before, one, other = map(_flat, (run.model.replica(r), alone, stack.replica(r)))
        gap, moved = torch.dist(one, other), torch.dist(one, before)
        if gap > 1e-2 * moved + 1e-6 * before.norm():
            raise ValueError(
                f"{run.balancer.name} says `stackable = True`, and network {r} of the stack moves "
                f"by {gap:.2g} elsewhere than on its own, where it moves by {moved:.2g}. In a "
                "stack every loss is (R,): keep the modalities in the last axis (s.losses.stack) "
                "and sum over it alone; name the attributes with an entry a replica in "
                "`by_replica`; or set `stackable = False`"
            )


def _updated(
    run: Run, model: MultimodalNet, balancer: Balancer, batch: Batch, noise: Normals
) -> MultimodalNet:
    """A copy of the network after the updates of one batch under plain SGD."""
    model, balancer = copy.deepcopy((model, balancer))
    optimizer = SGD(model.parameters(), lr=run.optimizer.param_groups[0]["lr"])
    with drawing(0, "check", device=run.device):
        for _ in balancer.step(Step(model, batch, optimizer, loss=run.loss, noise=noise)):
            optimizer.step()
            optimizer.zero_grad()
    return model


def _flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
