"""What the loop and the methods cost: ``python -m mmlab.bench [--json] [--rounds 25]``.

Two ratios, each a median with quartiles over rounds: `fit` over a hand-written PyTorch loop on the
same network (beside it, that loop on a plainer network), and each balancer over joint training.
What is compared runs in turns within every round, so that a machine that slows down slows both
sides; CPU time leaves out what other programs take.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmlab.balancers import (
    ATF,
    MLA,
    OGM,
    Balancer,
    GradientBlending,
    Joint,
    MMPareto,
    Uniform,
    Unimodal,
)
from mmlab.datasets import MultimodalData, load
from mmlab.models import MultimodalNet
from mmlab.seeds import generator
from mmlab.training import fit

LR, MOMENTUM, BATCH_SIZE = 0.01, 0.9, 64
EPOCHS = 2

BALANCERS: dict[str, Callable[[], Balancer]] = {
    "Uniform": Uniform,
    "Unimodal('image')": lambda: Unimodal("image"),
    "GradientBlending": GradientBlending,
    "ATF(ace)": lambda: ATF(update="ace"),
    "ATF(bdo)": lambda: ATF(update="bdo"),
    "OGM": OGM,
    "MMPareto": MMPareto,
    "MLA": MLA,
}


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
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    order = generator(seed, "order")
    model.train()
    history = []
    for _ in range(epochs):
        permutation = torch.randperm(len(data.train), generator=order)
        inputs = {m: x[permutation] for m, x in data.train.inputs.items()}
        target = data.train.target[permutation]
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


def train(balancer: Balancer, data: MultimodalData, *, epochs: int) -> Callable[[], object]:
    """A training that is ready to run, its network already built."""
    model = MultimodalNet.build(data, **balancer.network)
    settings = {"epochs": epochs, "lr": LR, "batch_size": BATCH_SIZE, "device": "cpu"}
    return lambda: fit(model, data, balancer, **settings)


def by_hand(data: MultimodalData, *, epochs: int) -> Callable[[], object]:
    """The same network under a loop written by hand: what the loop itself costs."""
    model = MultimodalNet.build(data)
    return lambda: hand_loop(model, lambda inputs: model(inputs).joint, data, epochs=epochs)


def plain(data: MultimodalData, *, epochs: int) -> Callable[[], object]:
    """The hand-written loop on a module without heads, fusions or checks: all that mmlab costs."""
    built = MultimodalNet.build(data)
    model = PlainNet(built.encoders, built.fusion.linear)
    return lambda: hand_loop(model, model, data, epochs=epochs)


def ratios(
    contenders: Mapping[str, Callable[[], Callable[[], object]]], baseline: str, rounds: int
) -> dict[str, dict[str, float]]:
    """CPU time of each contender over the baseline's, round by round: median and quartiles.

    contenders: name -> a callable that gets one timed call ready. The first round warms up and
                does not count; the order turns about from round to round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            call = contenders[name]()
            begin = time.process_time()
            call()
            seconds[name].append(time.process_time() - begin)
    base = seconds[baseline][1:]
    return {
        name: quartiles([own / other for own, other in zip(seconds[name][1:], base, strict=True)])
        for name in names
        if name != baseline
    }


def quartiles(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "lower quartile": low, "upper quartile": high}


def run(rounds: int = 25, epochs: int = EPOCHS) -> dict[str, object]:
    """Both tables, on av-digits with the default network, batch 64, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = load("av-digits", seed=0)
        loop = {
            "hand-written": lambda: by_hand(data, epochs=epochs),
            "on a plain module": lambda: plain(data, epochs=epochs),
            "fit": lambda: train(Joint(), data, epochs=epochs),
        }
        methods = {"Joint": lambda: train(Joint(), data, epochs=epochs)} | {
            name: lambda make=make: train(make(), data, epochs=epochs)
            for name, make in BALANCERS.items()
        }
        return {
            "rounds": rounds,
            "fit over a hand-written loop": ratios(loop, "hand-written", rounds),
            "balancers over joint training": ratios(methods, "Joint", rounds),
        }
    finally:
        torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mmlab.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=25, help="timed rounds, at least 2")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error(f"--rounds is {options.rounds}; quartiles need at least 2")
    result = run(options.rounds)
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"CPU time, {result.pop('rounds')} rounds: median [quartiles]")
    for title, table in result.items():
        print(f"\n{title}")
        for name, row in table.items():
            low, middle, high = row["lower quartile"], row["median"], row["upper quartile"]
            print(f"  {name:18s} {middle:6.3f} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
