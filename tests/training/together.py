"""What one process trains, and several that torchrun starts: `together.py FOLDER`.

Each process writes what it has found to FOLDER, for test_several_processes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from trained import Cut, CutError

from mmlab import compare
from mmlab.balancers import METHODS, OGM, Blend, GradientBlending, Joint, MMPareto
from mmlab.datasets import MultimodalData, Stream, drop
from mmlab.datasets.base import Batch
from mmlab.datasets.synthetic import synthetic
from mmlab.models import MultimodalNet, SequenceTransformer
from mmlab.training import (
    Checkpoint,
    EarlyStopping,
    Progress,
    Step,
    begin,
    fit,
    fit_seeds,
)
from mmlab.training.exchange import own_part
from mmlab.training.step import Parameters

WIDTH = 8
Found = dict[str, Any]


def data_of(dtype: torch.dtype = torch.float64, missing: bool = True) -> MultimodalData:
    """41 training samples: the last of the batches of 8 is 1 sample, fewer than processes."""
    splits = {}
    for name, batch in synthetic(n=(41, 20, 10), dims=5).splits.items():
        if missing:
            batch = drop(batch, {"a": 0.3, "b": 0.3}, 0)
        splits[name] = _typed(batch, dtype)
    return MultimodalData(**splits, n_classes=3)


def _typed(batch: Batch, dtype: torch.dtype) -> Batch:
    return batch._each(lambda x: x.to(dtype) if x.is_floating_point() else x)


def trained(make: Callable, data: MultimodalData, build: Any = None, **options: Any) -> Found:
    """Parameters, buffers and history that a training ends with."""
    balancer = make()
    options = {"epochs": 2, "batch_size": 8, "lr": 0.05, "device": "cpu"} | options
    network = {"width": WIDTH, **balancer.network, **(build or {})}
    dtype = data.train.head(1).inputs["a"].dtype
    net = MultimodalNet.build(data, **network)
    run = fit(net.to(dtype), data, balancer, **options)
    found = [*net.state_dict().values()]
    own = [] if run.modules is None else [*run.modules.state_dict().values()]
    values = [x.detach().double().flatten() for x in (*found, *own)]
    return {
        "parameters": torch.cat(values),
        "history": [row[:4] for row in run.rows],
        "values": torch.tensor([row[4] for row in run.rows], dtype=torch.float64),
    }


# --- equal to one process -------------------------------------------------------------------------

MAKERS = {name: method.make for name, method in METHODS.items()} | {
    "G-Blend, online": functools.partial(GradientBlending, warmup=1, super_epoch=1),
    "MMPareto by tensor": functools.partial(MMPareto, rescale="tensor"),
}


def dropping(dtype: torch.dtype = torch.float64) -> nn.Module:
    layers = nn.Linear(5, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, WIDTH)
    return nn.Sequential(*layers).to(dtype)


class Heads(nn.Module):
    """Two rows per sample in the dropout, as attention with its heads side by side has."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.dropout = linear(), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.linear(x).view(2 * len(x), WIDTH // 2)
        return self.dropout(rows).view(len(x), WIDTH)


def linear() -> nn.Module:
    return nn.Linear(5, WIDTH).double()


class Samples(torch.utils.data.Dataset):
    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, i: int) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        one = self.batch
        present = one.present or {}
        inputs = {m: x[i] + 0.1 * torch.randn(5, dtype=x.dtype) for m, x in one.inputs.items()}
        return inputs, one.target[i], {m: mask[i] for m, mask in present.items()}


def of_frames() -> MultimodalData:
    """A label per frame, of which some do not count."""

    def split(n: int) -> Batch:
        draw = torch.Generator().manual_seed(n)
        inputs = {m: torch.randn(n, 3, 5, generator=draw, dtype=torch.float64) for m in "ab"}
        target = torch.randint(0, 3, (n, 3), generator=draw)
        target[:, 2] = torch.where(torch.arange(n) % 2 == 0, -100, target[:, 2])
        return Batch(inputs, target)

    return MultimodalData(split(17), split(6), split(6), n_classes=3, frames=True)


def of_texts() -> MultimodalData:
    """A dict of ids and a mask, and a tuple of values and lengths."""

    def split(n: int) -> Batch:
        draw = torch.Generator().manual_seed(n)
        ids = torch.randint(0, 9, (n, 4), generator=draw)
        text = {"values": ids, "mask": ids > 2}
        return Batch({"text": text, "a": torch.randn(n, 5, generator=draw)}, ids[:, 0] % 3)

    return MultimodalData(split(19), split(6), split(6), n_classes=3)


class Sum(torch.autograd.Function):
    """The sum over the processes, as SyncBatchNorm takes it; its gradient is their sum, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return Sum.backward(ctx, x)

    @staticmethod
    def backward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        x = x.clone()
        if distributed.is_initialized():
            distributed.all_reduce(x)
        return x


class Standardised(nn.Module):
    """By mean and deviation of all samples: what SyncBatchNorm does, which needs a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.full_like(x[:1], len(x))
        total, squares, count = Sum.apply(torch.stack([x.sum(0), (x * x).sum(0), rows[0]]))
        mean = total / count
        return (x - mean) / (squares / count - mean**2 + 1e-5).sqrt()


def standardised() -> nn.Module:
    layers = nn.Linear(5, 8), Standardised(), nn.Tanh(), nn.Linear(8, WIDTH), Standardised()
    return nn.Sequential(*layers).double()


def noisy(x: Tensor) -> Tensor:
    return x + 0.1 * torch.randn_like(x)


def others() -> dict[str, Callable[[], Found]]:
    """What is no method: parts, data and options that could tell a part from the whole."""
    plain, adam = data_of(), functools.partial(torch.optim.Adam, lr=0.01)
    stream = MultimodalData(*(Stream(Samples(x)) for x in plain.splits.values()), n_classes=3)
    augmented = replace(plain, augment={"a": noisy})
    torch.manual_seed(0)
    shared = {"encoders": dict.fromkeys("ab", nn.Linear(5, WIDTH).double())}
    texts = {"encoders": {"text": text_encoder, "a": lambda: dropping(torch.float32)}}
    return {
        "dropout": lambda: trained(OGM, plain, {"encoders": {"a": dropping, "b": dropping}}),
        "dropout of heads": lambda: trained(OGM, plain, {"encoders": {"a": Heads, "b": linear}}),
        "dropout in a Transformer": lambda: trained(Joint, of_texts(), texts),
        "statistics of all samples": lambda: trained(
            MMPareto, plain, {"encoders": {"a": standardised, "b": standardised}}, drop_last=True
        ),
        "running means in the fusion": lambda: trained(OGM, plain, {"fusion": "gated"}),
        "frames": lambda: trained(MMPareto, of_frames(), {"encoders": {"a": linear, "b": linear}}),
        "a stream": lambda: trained(OGM, stream),
        "augmented": lambda: trained(OGM, augmented),
        "Adam": lambda: trained(METHODS["BDO"].make, plain, lr=None, optimizer=adam),
        "clipped": lambda: trained(functools.partial(Blend, "pcgrad"), plain, clip=0.1),
        "accumulated": lambda: trained(OGM, plain, batch_size=3, accumulate=4),
        "a shared encoder": lambda: trained(Joint, plain, shared),
        "stopped early": lambda: trained(
            Joint, plain, epochs=9, lr=1.0, observers=[EarlyStopping(patience=1)]
        ),
    }


def text_encoder() -> nn.Module:
    return SequenceTransformer(nn.Embedding(9, WIDTH), WIDTH, layers=1, heads=2, dropout=0.2)


def equal_ones() -> dict[str, Found]:
    """All that must end alike, however many processes train it."""
    exact, single = data_of(), data_of(torch.float32, missing=False)
    found = {name: trained(make, exact) for name, make in MAKERS.items()}
    few = ("OGM-GE", "MMPareto", "MLA", "BDO")
    found |= {f"{name} in float32": trained(MAKERS[name], single) for name in few}
    return found | {name: train() for name, train in others().items()}


# --- refused in words -----------------------------------------------------------------------------


class OwnForward(MultimodalNet):
    def forward(self, inputs: Any) -> Any:
        return super().forward(inputs)


class Drawing(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + torch.rand_like(x))


class Recurrent(nn.GRU):
    def forward(self, x: Tensor, h: Any = None) -> Any:
        return super().forward(x[:, None])[0][:, 0]


def unshared() -> None:
    """A step of a batch that each process has for itself."""
    data = data_of()
    Step(MultimodalNet.build(data, encoders={"a": linear, "b": linear}, width=WIDTH), data.train)


def with_encoder(*layers: nn.Module, hooked: bool = False, **options: Any) -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(*layers, nn.Linear(5, WIDTH)).double()
    data = data_of()
    net = MultimodalNet.build(data, encoders={"a": encoder, "b": linear}, width=WIDTH)
    if hooked:
        next(net.encoders["a"].parameters()).register_hook(torch.zeros_like)
    fit(net.double(), data, epochs=1, device="cpu", **options)


class WeightDropped(nn.Linear):
    """Drops weights, of which no sample has its own."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, nn.functional.dropout(self.weight, training=self.training))


def own_loop() -> None:
    data = data_of(torch.float32)
    net = MultimodalNet.build(data)
    begin(net, data, Joint(), torch.optim.SGD(net.parameters(), lr=0.1), epochs=1)


def own_forward() -> None:
    data = data_of(torch.float32)
    fit(OwnForward.build(data), data, epochs=1, device="cpu")


def wrapped() -> None:
    data = data_of(torch.float32)
    net = MultimodalNet.build(data)
    net.encoders["a"] = nn.parallel.DistributedDataParallel(net.encoders["a"])
    fit(net, data, epochs=1, device="cpu")


def unlike(run: Any) -> None:
    """An observer that changes the network of one process."""
    if run.epoch == 1 and distributed.get_rank() == 1:
        with torch.no_grad():
            next(run.model.parameters()).add_(1e-6)


def own_seeds() -> None:
    data = data_of(torch.float32)
    net = MultimodalNet.build(data, seed=distributed.get_rank())
    fit(net, data, epochs=1, device="cpu")


def several_seeds(at_once: bool | None) -> Found:
    data = data_of(torch.float32)
    runs = fit_seeds(data, Joint, seeds=[0, 1], epochs=1, device="cpu", at_once=at_once)
    return {"seeds": [run.together for run in runs]}


WRONG = {
    "an own loop": own_loop,
    "a batch of one's own": unshared,
    "a comparison": lambda: compare({"joint": Joint}, data_of(torch.float32), seeds=[0], epochs=1),
    "seeds at once": lambda: several_seeds(at_once=True),
    "an own forward pass": own_forward,
    "DistributedDataParallel": wrapped,
    "BatchNorm": lambda: with_encoder(nn.Linear(5, 5), nn.BatchNorm1d(5)),
    "a recurrent net's dropout": lambda: with_encoder(Recurrent(5, 5, 2, dropout=0.1)),
    "numbers of its own": lambda: with_encoder(Drawing(5, 5)),
    "dropped weights": lambda: with_encoder(nn.Linear(5, 7), WeightDropped(7, 5)),
    "a hook": lambda: with_encoder(nn.Linear(5, 5), hooked=True),
    "accumulated dropout": lambda: with_encoder(nn.Dropout(0.5), accumulate=2),
    "an observer": lambda: trained(Joint, data_of(), observers=[unlike]),
    "own seeds": own_seeds,
}


def refusals() -> dict[str, str]:
    """What each says."""
    return {name: said(call) for name, call in WRONG.items()}


def said(call: Callable[[], object]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


# --- how much is sent -----------------------------------------------------------------------------

SENT = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
"""How often what a call is about is sent, all but one part of N, where processes form a ring."""


@contextlib.contextmanager
def counting() -> Iterator[list[tuple[str, int]]]:
    """The calls within, and the bytes that each process sends."""
    found: list[tuple[str, int]] = []
    plain = {name: getattr(distributed, name) for name in SENT}

    def counted(name: str, *args: Any) -> None:
        whole = max(
            sum(x.nbytes for x in (arg if isinstance(arg, list) else [arg])) for arg in args
        )
        count = distributed.get_world_size()
        found.append((name, SENT[name] * whole * (count - 1) // count))
        plain[name](*args)

    try:
        for name in SENT:
            setattr(distributed, name, functools.partial(counted, name))
        yield found
    finally:
        for name, call in plain.items():
            setattr(distributed, name, call)


def sent(name: str) -> tuple[int, int]:
    """Calls and bytes of one step on the tiny pair of the benchmark."""
    balancer = METHODS[name].make()
    inputs = {"a": torch.randn(64, 312), "b": torch.randn(64, 64)}
    batch = Batch(inputs, torch.arange(64) % 10)
    data = MultimodalData(batch, batch, batch, n_classes=10)
    net = MultimodalNet.build(data, **balancer.network, encoders="mlp")
    own = balancer.modules(net)
    balancer.taught = True  # UMT's teachers
    everything = itertools.chain(net.parameters(), [] if own is None else own.parameters())
    optimizer = torch.optim.SGD([p for p in everything if p.requires_grad], lr=0.1)
    part = own_part(replace(batch, index=torch.arange(64)))
    s = Step(net, part, optimizer, parameters=Parameters(net, own))
    with counting() as calls:
        for _ in balancer.step(s):
            s._merge()
            optimizer.step()
            optimizer.zero_grad()
    return len(calls), sum(size for _, size in calls)


# --- one process writes ---------------------------------------------------------------------------


def resumed(path: Path) -> Found:
    """A training that broke off after an epoch, and went on from its file."""
    with contextlib.suppress(CutError):
        trained(OGM, data_of(), observers=[Cut(path, after=1)])
    return trained(OGM, data_of(), observers=[Checkpoint(path)])


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    found: Found = {"before joining": said(unshared), "equal": equal_ones()}
    found |= {"refused": refusals(), "seeds": several_seeds(at_once=None)}
    found |= {"sent": {name: sent(name) for name in METHODS}, "resumed": resumed(folder / "file")}
    trained(Joint, data_of(), observers=[Progress()])
    torch.save(found, folder / f"{distributed.get_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
