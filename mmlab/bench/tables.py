"""What the loop and the methods cost: ``python -m mmlab.bench [--json] [--rounds 25] [TABLE ...]``.

Every figure is a ratio, the median with quartiles over rounds. What is compared runs in turns
within every round, so that a machine that slows down slows both sides; CPU time leaves out what
other programs take. One thread on a CPU; on a GPU the wall clock, and the device is named.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

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
    Step,
    Uniform,
)
from mmlab.balancers.base import Parameters
from mmlab.datasets import Batch, MultimodalData, load
from mmlab.models import MultimodalNet
from mmlab.normals import AHEAD, Normals
from mmlab.optimizers import SGD
from mmlab.seeds import drawing, generator
from mmlab.training import find_device, fit

LR, MOMENTUM, BATCH_SIZE = 0.01, 0.9, 64

Timed = Callable[[], object]
Table = dict[str, dict[str, float]]

METHODS: dict[str, tuple[Callable[[], Balancer], float]] = {
    "Uniform": (Uniform, 1),
    "GradientBlending, a step": (GradientBlending, 1),
    "OGM": (lambda: OGM(enhance=False), 1),
    "OGM-GE": (OGM, 1),
    "ATF-ACE": (lambda: ATF("ace"), 1),
    "ATF-BDO": (lambda: ATF("bdo"), 4 / 3),
    "MMPareto": (MMPareto, 5 / 3),
    "MLA": (MLA, 1),
}
"""Each with its floor in joint steps, see mmlab/balancers/README.md; OGM-GE's is without noise."""


# --- the networks ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A pair of encoders, their inputs, and how many steps are timed in one go."""

    encoder: Callable[[int], nn.Module]
    shapes: Mapping[str, tuple[int, ...]]
    width: int
    steps: int
    size: int = BATCH_SIZE
    linear: bool = False  # encoders of linear layers alone, where MMPareto's floor is lower

    def data(self) -> MultimodalData:
        """One batch of random inputs: what they say does not change what a step costs."""
        draw, size = torch.Generator().manual_seed(0), self.size
        inputs = {m: torch.randn(size, *s, generator=draw) for m, s in self.shapes.items()}
        batch = Batch(inputs, torch.randint(10, (size,), generator=draw))
        return MultimodalData(batch, batch[:2], batch[:2], n_classes=10)

    def build(self, balancer: Balancer, data: MultimodalData) -> MultimodalNet:
        with drawing(0, "bench"):
            encoders = {m: self.encoder(s[0]) for m, s in self.shapes.items()}
        return MultimodalNet.build(data, encoders=encoders, width=self.width, **balancer.network)


def mlp(*widths: int) -> Callable[[int], nn.Module]:
    def build(size: int) -> nn.Module:
        layers: list[nn.Module] = []
        for before, after in zip((size, *widths), widths, strict=False):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers)

    return build


def small_conv(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2),
        nn.GroupNorm(4, 64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


class Block(nn.Module):
    """A basic residual block (He et al. 2016)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        fits = stride == 1 and before == after
        self.skip = nn.Identity() if fits else nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.skip(x)).relu()


def resnet18(channels: int) -> nn.Module:
    """ResNet-18 with a stem for small pictures."""
    widths = (64, 64, 128, 256, 512)
    stem = nn.Sequential(nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64))
    stages = [
        nn.Sequential(Block(before, after, 1 + (i > 0)), Block(after, after, 1))
        for i, (before, after) in enumerate(itertools.pairwise(widths))
    ]
    return nn.Sequential(stem, nn.ReLU(), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())


NETWORKS = {
    "tiny MLPs": Network(mlp(128, 64), {"a": (312,), "v": (64,)}, 64, 20, linear=True),
    "GEMM-bound MLPs": Network(mlp(1024, 1024), {"a": (1024,), "v": (1024,)}, 1024, 2, linear=True),
    "small convolutions": Network(small_conv, {"a": (1, 32, 32), "v": (3, 32, 32)}, 64, 1),
    "ResNet-18": Network(resnet18, {"a": (1, 16, 16), "v": (3, 16, 16)}, 512, 1),
}


# --- timing ---------------------------------------------------------------------------------------


def seconds(call: Timed, device: torch.device) -> float:
    """CPU time of this process; on a GPU the wall clock until it has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        return time.perf_counter() - begin
    begin = time.process_time()
    call()
    return time.process_time() - begin


def ratios(
    contenders: Mapping[str, Callable[[], Timed]],
    baseline: str,
    rounds: int,
    device: torch.device | None = None,
) -> Table:
    """Time of each contender over the baseline's, round by round: median and quartiles.

    contenders: name -> a callable that gets one timed call ready. The first round warms up and
                does not count; the order turns about from round to round.
    """
    device = device or torch.device("cpu")
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(rounds + 1):
        for name in names if number % 2 else reversed(names):
            taken[name].append(seconds(contenders[name](), device))
    base = taken[baseline][1:]
    return {
        name: quartiles([own / other for own, other in zip(taken[name][1:], base, strict=True)])
        for name in names
        if name != baseline
    }


def quartiles(values: Sequence[float]) -> dict[str, float]:
    low, middle, high = statistics.quantiles(values, n=4)
    return {"median": middle, "lower quartile": low, "upper quartile": high}


def stepping(
    network: Network, balancer: Balancer, device: torch.device, replicas: int | None = None
) -> Callable[[], Timed]:
    """`network.steps` steps of one batch under a balancer, the network built and warm."""
    data = network.data()
    model = network.build(balancer, data)
    batch = data.train
    if replicas is not None:
        model = MultimodalNet.stack([model] * replicas)
        batch = Batch(
            {m: x.expand(replicas, *x.shape).clone() for m, x in batch.inputs.items()},
            batch.target.expand(replicas, -1).clone(),
        )
    model, batch = model.to(device), batch.to(device)
    optimizer = SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    draws = [generator(0, "bench", r, device=device) for r in range(replicas or 1)]
    noise = Normals(draws if replicas else draws[0], AHEAD)
    parameters = Parameters(model)

    def steps() -> None:
        for _ in range(network.steps):
            s = Step(model, batch, optimizer, noise=noise, parameters=parameters)
            for _ in balancer.step(s):
                optimizer.step()
                optimizer.zero_grad()

    return lambda: steps


# --- the tables -----------------------------------------------------------------------------------


def methods_over_joint(rounds: int, device: torch.device) -> Iterator[tuple[str, Table]]:
    """A step of each method over a joint step of the same encoders, with its floor."""
    for title, network in NETWORKS.items():
        ready = {"Joint": stepping(network, Joint(), device)}
        ready |= {name: stepping(network, make(), device) for name, (make, _) in METHODS.items()}
        table = ratios(ready, "Joint", rounds, device)
        for name, (_, floor) in METHODS.items():
            lower = network.linear and name == "MMPareto"
            table[name]["floor"] = 4 / 3 if lower else floor
        yield f"a step over joint training, {title}", table


def replicas_over_sequential(rounds: int, device: torch.device) -> Iterator[tuple[str, Table]]:
    """How many times as fast R seeds are as one program than one after the other."""
    small = Network(mlp(12, 16), {"a": (8,), "v": (8,)}, 16, 20, size=32)
    medium = Network(mlp(64, 64), {"a": (32,), "v": (32,)}, 64, 20)
    default = NETWORKS["tiny MLPs"]
    chosen = {"Joint": (Joint, 1), **METHODS}
    for title, network, counts in (
        ("8-12-16", small, (8, 32, 128)),
        ("32-64-64", medium, (8, 32)),
        ("312-128-64", default, (8, 32)),
    ):
        table = {}
        for name, (make, _) in chosen.items():
            ready = {"one": stepping(network, make(), device)}
            ready |= {f"{name}, R = {r}": stepping(network, make(), device, r) for r in counts}
            for label, row in ratios(ready, "one", rounds, device).items():
                r = int(label.rpartition(" ")[2])
                low, high = r / row["upper quartile"], r / row["lower quartile"]
                table[label] = {"median": r / row["median"]}
                table[label] |= {"lower quartile": low, "upper quartile": high}
        yield f"times as fast as one seed after the other, {title}", table


SCALED = ("Uniform", "OGM", "OGM-GE", "ATF-ACE", "ATF-BDO", "MMPareto", "MLA")
MODALITIES, WIDTHS, BATCHES = (2, 3, 4, 6, 8), (32, 128, 512, 1536), (16, 64, 256, 1024)


def scaling(rounds: int, device: torch.device) -> Iterator[tuple[str, Table]]:
    """Cost over joint training against modalities, parameters and batch, each from one middle."""

    def pair(count: int = 2, width: int = 128, batch: int = BATCH_SIZE) -> Network:
        shapes = {f"m{i}": (width,) for i in range(count)}
        steps = max(1, 4_000_000 // (count * width * width + count * width * batch))
        return Network(mlp(width, width), shapes, width, min(20, steps), batch)

    rows = {
        "modalities": {n: pair(count=n) for n in MODALITIES},
        "parameters": {2 * 2 * (w * w + w): pair(width=w) for w in WIDTHS},
        "batch": {b: pair(batch=b) for b in BATCHES},
    }
    for what, networks in rows.items():
        table = {}
        for size, network in networks.items():
            ready = {"Joint": stepping(network, Joint(), device)}
            ready |= {name: stepping(network, METHODS[name][0](), device) for name in SCALED}
            for name, row in ratios(ready, "Joint", rounds, device).items():
                table[f"{name}, {size}"] = row
        yield f"a step over joint training, by {what}", table


def draw_scaling(tables: Mapping[str, Table], name: str = "cost") -> None:
    """The tables of `scaling` as figures/<name>.png and .svg, medians with quartiles."""
    from mmlab import plotting

    plotting.style()
    figure, axes = plotting.canvas(len(tables), sharey=True)
    looks = plotting.looks(SCALED)
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        for method in SCALED:
            rows = {
                int(k.rpartition(" ")[2]): r for k, r in table.items() if k.startswith(method + ",")
            }
            low, middle, high = (
                [row[key] for row in rows.values()]
                for key in ("lower quartile", "median", "upper quartile")
            )
            ax.plot(list(rows), middle, label=method, **looks[method]._asdict())
            ax.fill_between(list(rows), low, high, color=looks[method].color, alpha=0.15, lw=0)
        what = title.rpartition(" ")[2]
        ax.set_xscale("log", base=2 if what != "parameters" else 10)
        ax.set_xlabel({"batch": "samples in a batch"}.get(what, what))
        if what == "modalities":
            ax.set_xticks(MODALITIES, map(str, MODALITIES))
    axes[0].set_ylabel("time of a step, joint training = 1")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    with contextlib.redirect_stdout(sys.stderr):  # stdout may be read by a program
        plotting.show(
            figure,
            name,
            "Time of a step of each method over one of joint training, against the number of "
            "modalities, of parameters and of samples in a batch; medians with quartiles.",
        )


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


def train(balancer: Balancer, data: MultimodalData, *, epochs: int) -> Timed:
    """A training that is ready to run, its network already built."""
    model = MultimodalNet.build(data, **balancer.network)
    settings = {"epochs": epochs, "lr": LR, "batch_size": BATCH_SIZE, "device": "cpu"}
    return lambda: fit(model, data, balancer, **settings)


def by_hand(data: MultimodalData, *, epochs: int) -> Timed:
    """The same network under a loop written by hand: what the loop itself costs."""
    model = MultimodalNet.build(data)
    return lambda: hand_loop(model, lambda inputs: model(inputs).joint, data, epochs=epochs)


def plain(data: MultimodalData, *, epochs: int) -> Timed:
    """The hand-written loop on a module without heads, fusions or checks: all that mmlab costs."""
    built = MultimodalNet.build(data)
    model = PlainNet(built.encoders, built.fusion.linear)
    return lambda: hand_loop(model, model, data, epochs=epochs)


def fit_over_a_hand_loop(rounds: int, device: torch.device) -> Iterator[tuple[str, Table]]:
    """The loop on av-digits, and whole G-Blend runs; always on the CPU."""
    data, epochs = load("av-digits", seed=0), 4
    loop = {
        "hand-written": lambda: by_hand(data, epochs=epochs),
        "on a plain module": lambda: plain(data, epochs=epochs),
        "fit": lambda: train(Joint(), data, epochs=epochs),
    }
    yield "fit over a hand-written loop", ratios(loop, "hand-written", rounds)
    online = GradientBlending(warmup=2, super_epoch=2)
    runs = {
        "joint": lambda: train(Joint(), data, epochs=epochs),
        "GradientBlending, online": lambda: train(online, data, epochs=epochs),
    }
    table = ratios(runs, "joint", rounds)
    # the steps 1, all trials 2, and three forward passes over both splits in every two epochs
    samples, looked_at = len(data.train), len(data.train) + len(data.holdout)
    table["GradientBlending, online"]["floor"] = 3 + looked_at / (2 * samples)
    yield "a whole run over joint training", table


def loader(rounds: int, device: torch.device) -> Iterator[tuple[str, Table]]:
    """An epoch of batches from a DataLoader, over shuffling once and slicing."""
    data = load("av-digits", seed=0).train
    rows = torch.utils.data.TensorDataset(*data.inputs.values(), data.target)

    def by_slices() -> None:
        shuffled = data[torch.randperm(len(data))]
        for i in range(0, len(data), BATCH_SIZE):
            _ = shuffled[i : i + BATCH_SIZE]

    def by_loader() -> None:
        for _ in torch.utils.data.DataLoader(rows, BATCH_SIZE, shuffle=True):
            pass

    ready = {"slices": lambda: by_slices, "DataLoader": lambda: by_loader}
    yield "batches, over slices of what was shuffled once", ratios(ready, "slices", rounds)


def imports(rounds: int, device: torch.device) -> Iterator[tuple[str, Table]]:
    """Fresh processes, over one that imports torch alone."""
    first = "from mmlab import Joint, MultimodalNet, fit, load; d = load('av-digits'); "
    programs = {
        "import torch": "import torch",
        "import mmlab": "import torch, mmlab",
        "and train for an epoch": f"{first}fit(MultimodalNet.build(d), d, epochs=1, device='cpu')",
    }

    def children() -> float:
        import resource

        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(min(rounds, 9)):
        for name, program in programs.items():
            begin = children()
            subprocess.run([sys.executable, "-c", program], check=True)
            taken[name].append(children() - begin)
    base = taken.pop("import torch")
    yield (
        "a fresh process over one that imports torch",
        {
            name: quartiles([x / y for x, y in zip(own, base, strict=True)])
            for name, own in taken.items()
        },
    )


TABLES = {
    "loop": fit_over_a_hand_loop,
    "loader": loader,
    "imports": imports,
    "replicas": replicas_over_sequential,
    "scaling": scaling,
    "methods": methods_over_joint,
}


def run(
    tables: Sequence[str] = tuple(TABLES), rounds: int = 25, device: str = "cpu"
) -> Iterator[tuple[str, Table]]:
    """The tables asked for, one by one as they are ready; one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name in tables:
            yield from TABLES[name](rounds, find_device(device))
    finally:
        torch.set_num_threads(threads)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m mmlab.bench", description=__doc__)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--rounds", type=int, default=25, help="timed rounds, at least 2")
    parser.add_argument("--device", default="cpu", help="where the steps run (cpu)")
    parser.add_argument("--figure", action="store_true", help="draw `scaling`: figures/cost.png")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error(f"--rounds is {options.rounds}; quartiles need at least 2")
    if unknown := set(options.tables) - set(TABLES):
        parser.error(f"unknown table {', '.join(unknown)}; allowed: {', '.join(TABLES)}")
    if options.figure and options.tables not in ([], ["scaling"]):
        parser.error(f"--figure draws scaling, not {', '.join(options.tables)}; leave them out")
    device = find_device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU thread"
    results = run(options.tables or tuple(TABLES), options.rounds, options.device)
    if options.figure:
        results = list(run(["scaling"], options.rounds, options.device))
        draw_scaling(dict(results))
    if options.json:
        print(json.dumps({"where": where, "rounds": options.rounds, **dict(results)}, indent=2))
        return
    print(f"{where}, {options.rounds} rounds: median [quartiles]")
    for title, table in results:
        print(f"\n{title}", flush=True)
        for name, row in table.items():
            low, middle, high = row["lower quartile"], row["median"], row["upper quartile"]
            floor = f"  floor {row['floor']:.2f}" if "floor" in row else ""
            print(f"  {name:26s} {middle:7.3f} [{low:.3f}, {high:.3f}]{floor}")
