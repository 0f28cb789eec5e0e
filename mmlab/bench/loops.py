"""What is timed: steps and trainings by mmlab, and the loops one would write by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmlab.bench.networks import BATCH_SIZE, Network
from mmlab.bench.timing import Timed
from mmlab.datasets import Batch, MultimodalData
from mmlab.datasets.base import in_memory
from mmlab.models import Concat, MultimodalNet, NetworkStack
from mmlab.seeds import AHEAD, Draws, generator
from mmlab.training import Balancer, Step, begin, fit
from mmlab.training.optimizers import SGD
from mmlab.training.step import Parameters

LR, MOMENTUM = 0.01, 0.9  # of every training here


def stepping(
    network: Network,
    balancer: Balancer,
    device: torch.device,
    replicas: int | None = None,
    trials: bool = False,
) -> Callable[[], Timed]:
    """`network.steps` steps of one batch under a balancer, the network built and warm.

    trials: whether a run prepares the method first, by trainings of copies.
    """
    data = network.data()
    model = network.build(balancer, data)
    batch = in_memory(data.train, "the benchmark")
    if replicas is not None:
        model = NetworkStack([model] * replicas)
        batch = Batch(
            {m: x.expand(replicas, *x.shape).clone() for m, x in batch.inputs.items()},
            batch.target.expand(replicas, -1).clone(),
        )
    model, batch = model.to(device), batch.to(device)
    optimizer = SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    made = [generator(0, "bench", r, device=device) for r in range(replicas or 1)]
    draws = Draws(lambda kind: made if replicas else made[0], AHEAD)
    if trials:
        begin(model, data, balancer, optimizer, epochs=1).next_epoch()
    parameters = Parameters(model)

    def steps() -> None:
        for _ in range(network.steps):
            s = Step(model, batch, optimizer, draws=draws, parameters=parameters)
            for _ in balancer.step(s):
                optimizer.step()
                optimizer.zero_grad()

    return lambda: steps


class PlainNet(nn.Module):
    """Encoders and one linear layer, as one would write them without mmlab."""

    def __init__(self, encoders: nn.ModuleDict, linear: nn.Linear) -> None:
        super().__init__()
        self.encoders, self.linear = encoders, linear

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        features = [encoder(inputs[m]) for m, encoder in self.encoders.items()]
        return self.linear(torch.cat(features, dim=-1))


def hand_loop(
    model: nn.Module,
    predict: Callable[[Mapping[str, Tensor]], Tensor],
    data: MultimodalData,
    *,
    epochs: int,
    seed: int = 0,
) -> list[float]:
    """Joint training as one would write it without mmlab; returns the mean loss of each epoch.

    It takes the data order of `fit`, so both end at the same weights.
    """
    optimizer = SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    model.train()
    history, train = [], in_memory(data.train, "the benchmark")
    for epoch in range(epochs):
        order = generator(seed, "order", epoch)
        permutation = torch.randperm(len(train), generator=order)
        inputs = {m: x[permutation] for m, x in train.inputs.items()}
        target = train.target[permutation]
        losses = []
        for i in range(0, len(target), BATCH_SIZE):
            batch = slice(i, i + BATCH_SIZE)
            loss = F.cross_entropy(predict({m: x[batch] for m, x in inputs.items()}), target[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        history.append(torch.stack(losses).mean().item())
    return history


def train(balancer: Balancer, data: MultimodalData, *, epochs: int) -> Timed:
    """A training that is ready to run, its network already built."""
    model = MultimodalNet.build(data, **balancer.network)
    return lambda: fit(
        model, data, balancer, epochs=epochs, lr=LR, batch_size=BATCH_SIZE, device="cpu"
    )


def by_hand(data: MultimodalData, *, epochs: int) -> Timed:
    """The same network under a loop written by hand: what the loop itself costs."""
    model = MultimodalNet.build(data)
    return lambda: hand_loop(model, lambda inputs: model(inputs).joint, data, epochs=epochs)


def plain(data: MultimodalData, *, epochs: int) -> Timed:
    """The hand-written loop on a module without heads, fusions or checks: all that mmlab costs."""
    built = MultimodalNet.build(data)
    assert isinstance(built.fusion, Concat)  # what `build` takes by default
    model = PlainNet(built.encoders, built.fusion.linear)
    return lambda: hand_loop(model, model, data, epochs=epochs)
