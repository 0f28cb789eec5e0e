"""Tiny float64 networks, batches and steps, and gradients that autograd gives on a twin."""

import copy

import torch
from torch import Tensor, nn

from mmlab import Batch, MultimodalNet, Step
from mmlab.datasets.base import stack_batches
from mmlab.models import Concat, NetworkStack

MASK = torch.tensor([True, False, True, True, False, True])
EVERYONE, NOBODY = torch.ones(6, dtype=torch.bool), torch.zeros(6, dtype=torch.bool)


def make_net(*layers, modalities="ab", outputs=3, fusion=Concat, seed=0):
    """Linear encoders, 3 -> 4, with `layers` after them, in float64."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoders = {m: nn.Sequential(nn.Linear(3, 4), *copy.deepcopy(layers)) for m in modalities}
        heads = {m: nn.Linear(4, outputs) for m in modalities}
        fused = fusion(dict.fromkeys(modalities, 4), outputs)
        return MultimodalNet(encoders, fused, heads).double()


def make_batch(present=None, regression=False, modalities="ab", seed=5):
    draw = torch.Generator().manual_seed(seed)
    inputs = {m: torch.randn(6, 3, generator=draw, dtype=torch.float64) for m in modalities}
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    target = torch.randn(6, generator=draw, dtype=torch.float64) if regression else labels
    return Batch(inputs, target, present)


def make_step(*layers, optimizer=None, **batch):
    net = make_net(*layers)
    return Step(net, make_batch(**batch), optimizer and optimizer(net.parameters()))


def make_stack(count=3, *, present=None, **network):
    """Networks, their batches, and a step of all of them as one; present: masks of each."""
    nets = [make_net(seed=r, **network) for r in range(count)]
    masks = present or [None] * count
    batches = [make_batch(mask, seed=r) for r, mask in enumerate(masks)]
    return nets, batches, Step(NetworkStack(nets), stack_batches(batches))


def trained(step: Step, m: str) -> list[nn.Parameter]:
    return [p for p in step.model.encoders[m].parameters() if p.requires_grad]


def encoder_grads(step: Step, m: str) -> list[Tensor]:
    return [p.grad.clone() for p in step.model.encoders[m].parameters()]


def assert_equal(one, other, **tolerance) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def flat(grads) -> Tensor:
    return torch.cat([g.flatten() for g in grads])


def gradients(loss: Tensor, parameters) -> list[Tensor]:
    """Those of autograd, with zeros where the loss does not depend on a parameter."""
    grads = torch.autograd.grad(
        loss, list(parameters), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return list(grads)
