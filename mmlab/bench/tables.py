"""The tables, one function each: what a step, a run, a stack or an import costs, as ratios."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence

import torch

from mmlab.balancers import METHODS, GradientBlending, Joint
from mmlab.bench.loops import by_hand, plain, stepping, train
from mmlab.bench.networks import BATCH_SIZE, NETWORKS, Network, mlp
from mmlab.bench.pictures import Pictures, from_a_loader, from_a_stream
from mmlab.bench.processes import two_over_one
from mmlab.bench.timing import Table, quartiles, ratios, seconds_of_children
from mmlab.datasets import load
from mmlab.datasets.base import in_memory
from mmlab.training import find_device


def methods_over_joint(rounds: int, device: torch.device) -> Iterator[tuple[str, Table]]:
    """A step of each method over a joint step of the same encoders, with its floor."""
    for title, network in NETWORKS.items():
        ready = {
            name: stepping(network, m.make(), device, trials="trials" in m.needs)
            for name, m in METHODS.items()
        }
        table = ratios(ready, "joint", rounds, device)
        for name in table:
            method = METHODS[name]
            lower = method.floor_linear if network.linear else None
            table[name]["floor"] = lower or method.floor
        yield f"a step over joint training, {title}", table


def replicas_over_sequential(rounds: int, device: torch.device) -> Iterator[tuple[str, Table]]:
    """How many times as fast R seeds are as one program than one after the other."""
    small = Network(mlp(12, 16), {"a": (8,), "v": (8,)}, 16, 20, size=32)
    medium = Network(mlp(64, 64), {"a": (32,), "v": (32,)}, 64, 20)
    default = NETWORKS["tiny MLPs"]
    for title, network, counts in (
        ("8-12-16", small, (8, 32, 128)),
        ("32-64-64", medium, (8, 32)),
        ("312-128-64", default, (8, 32)),
    ):
        table = {}
        for name, method in METHODS.items():
            if "trials" in method.needs:  # a run prepares it, and here are steps alone
                continue
            ready = {"one": stepping(network, method.make(), device)}
            ready |= {
                f"{name}, R = {r}": stepping(network, method.make(), device, r) for r in counts
            }
            for label, row in ratios(ready, "one", rounds, device).items():
                r = int(label.rpartition(" ")[2])
                low, high = r / row["upper quartile"], r / row["lower quartile"]
                table[label] = {"median": r / row["median"]}
                table[label] |= {"lower quartile": low, "upper quartile": high}
        yield f"times as fast as one seed after the other, {title}", table


SCALED = tuple(name for name, m in METHODS.items() if name != "joint" and "trials" not in m.needs)
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
            names = ("joint", *SCALED)
            ready = {name: stepping(network, METHODS[name].make(), device) for name in names}
            for name, row in ratios(ready, "joint", rounds, device).items():
                table[f"{name}, {size}"] = row
        yield f"a step over joint training, by {what}", table


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
    """Batches from a DataLoader, over shuffling once and slicing; and what a Stream adds to one."""
    data = in_memory(load("av-digits", seed=0).train, "the benchmark")
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
    pictures = Pictures(256)
    loops = {
        "by hand": lambda: from_a_loader(pictures),
        "fit on a Stream": lambda: from_a_stream(pictures),
    }
    yield "an epoch of pictures, over a DataLoader's by hand", ratios(loops, "by hand", rounds)


def imports(rounds: int, device: torch.device) -> Iterator[tuple[str, Table]]:
    """Fresh processes, over one that imports torch alone."""
    first = "from mmlab import Joint, MultimodalNet, fit, load; d = load('av-digits'); "
    programs = {
        "import torch": "import torch",
        "import mmlab": "import torch, mmlab",
        "and train for an epoch": f"{first}fit(MultimodalNet.build(d), d, epochs=1, device='cpu')",
    }

    taken: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(min(rounds, 9)):
        for name, program in programs.items():
            begin = seconds_of_children()
            subprocess.run([sys.executable, "-c", program], check=True)
            taken[name].append(seconds_of_children() - begin)
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
    "processes": two_over_one,
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
