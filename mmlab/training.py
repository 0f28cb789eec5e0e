"""The one training loop. A balancer fills the gradients; this is where the optimiser steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmlab.balancers.base import Balancer, Loss, Losses, Step, default_loss
from mmlab.balancers.joint import Joint
from mmlab.datasets.base import Batch, MultimodalData
from mmlab.models.network import MultimodalNet
from mmlab.optimizers import SGD
from mmlab.seeds import drawing, generator

if TYPE_CHECKING:
    import pandas as pd

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


@dataclass
class Run:
    """A training: what it works on while it lasts, and what it leaves.

    epoch counts finished epochs. rows are the history as tuples; `history` is the tidy table.
    """

    model: MultimodalNet
    data: MultimodalData
    balancer: Balancer
    optimizer: torch.optim.Optimizer
    epochs: int
    batch_size: int
    device: torch.device
    seed: int
    loss: Loss | None = None
    epoch: int = 0
    rows: list[tuple[int, str, str, str, float]] = field(default_factory=list, repr=False)

    def record(self, split: str, output: str, metric: str, value: float) -> None:
        """Add one row to the history, under the number of finished epochs."""
        self.rows.append((self.epoch, split, output, metric, float(value)))

    @property
    def history(self) -> pd.DataFrame:
        """Columns epoch (from 1), split, output ("joint", a modality or ""), metric, value."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=["epoch", "split", "output", "metric", "value"])

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """The balancer's prediction at test time, (B, C), in evaluation mode."""
        batch = batch.to(self.device)
        training = self.model.training
        self.model.eval()
        prediction = self.balancer.fuse(self.model(batch.inputs), batch.present)
        self.model.train(training)
        return prediction

    @torch.no_grad()
    def losses(self, split: str, model: MultimodalNet | None = None) -> dict[str, Tensor]:
        """Mean loss of every output on a whole split, in evaluation mode, without a graph.

        model: by default the run's own; or a copy of it, as `branch` gives.
        """
        model = self.model if model is None else model
        batch = self.data.splits[split].to(self.device)
        training = model.training
        model.eval()
        loss = self.loss or default_loss(batch.target)
        losses = dict(Losses(model(batch.inputs), batch, loss, graph=False))
        model.train(training)
        return losses

    def branch(self, balancer: Balancer, epochs: int) -> MultimodalNet:
        """Train a deep copy from here on under another balancer; return it.

        The copy takes model, buffers and optimiser along. This run is untouched bit for bit: the
        copy draws its data order, noise and dropout from streams of its own.
        """
        model, optimizer = copy.deepcopy((self.model, self.optimizer))
        model.train()
        fork = replace(
            self,
            model=model,
            optimizer=optimizer,
            balancer=balancer,
            epochs=epochs,
            epoch=0,
            rows=[],
        )
        train = self.data.train.to(self.device)
        order = generator(self.seed, "branch order", self.epoch)
        noise = generator(self.seed, "branch noise", self.epoch, device=self.device)
        with drawing(self.seed, "branch dropout", self.epoch, device=self.device):
            for _ in range(epochs):
                _train_epoch(fork, train, order, noise)
        return model


Observer = Callable[[Run], None]
"""Called after each epoch (and, with run.epoch == 0, before the first). May call `run.record`."""


def fit(
    model: MultimodalNet,
    data: MultimodalData,
    balancer: Balancer | None = None,
    *,
    epochs: int,
    optimizer: MakeOptimizer | None = None,
    lr: float = 0.01,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    seed: int = 0,
    loss: Loss | None = None,
    observers: Sequence[Observer] = (),
) -> Run:
    """Train `model` in place on `data.train`.

    balancer:  the method; Joint() by default.
    optimizer: a callable parameters -> torch.optim.Optimizer; default SGD(lr, momentum=0.9).
    device:    "auto" takes cuda, then mps, then cpu.
    seed:      sets data order, noise and dropout, each its own stream. (Initial weights are set by
               `MultimodalNet.build(seed=...)`.)
    loss:      loss(prediction, target, reduction=...); cross-entropy for labels, L1 for numbers.
    observers: called with the Run before the first epoch and after each.

    The history holds the training loss of every output that the balancer computed, and what it
    logged, as means over the epoch. Raises FloatingPointError for a loss that is not finite,
    RuntimeError for a step that never yields, ValueError for arguments out of range.
    """
    balancer = Joint() if balancer is None else balancer
    _check_arguments(model, data, balancer, epochs, batch_size, lr)
    device = find_device(device)
    model.to(device).train()
    make = optimizer or (lambda parameters: SGD(parameters, lr=lr, momentum=0.9))
    run = Run(
        model, data, balancer, make(model.parameters()), epochs, batch_size, device, seed, loss
    )
    train = data.train.to(device)
    order = generator(seed, "order")
    noise = generator(seed, "noise", device=device)
    with drawing(seed, "dropout", device=device):
        balancer.start(run)
        for observer in observers:
            observer(run)
        while run.epoch < epochs:
            balancer.epoch(run)
            _train_epoch(run, train, order, noise)
            for observer in observers:
                observer(run)
    _check_finite(run)
    return run


def _train_epoch(run: Run, train: Batch, order: torch.Generator, noise: torch.Generator) -> None:
    steps = math.ceil(len(train) / run.batch_size)
    shuffled = train[torch.randperm(len(train), generator=order).to(run.device)]
    logged: list[dict] = []
    run.optimizer.zero_grad(set_to_none=True)  # from here on, once after every update
    for i in range(steps):
        batch = shuffled[i * run.batch_size : (i + 1) * run.batch_size]
        progress = (run.epoch + i / steps) / run.epochs
        s = Step(run.model, batch, run.optimizer, run.epoch, progress, run.loss, noise)
        _step(run, s)
        losses = {("loss", key): value.detach() for key, value in s.losses.computed.items()}
        logged.append(losses | s.logged)
    run.epoch += 1
    _record(run, logged)


def _step(run: Run, s: Step) -> None:
    """One optimiser step at each yield of the balancer."""
    updates = run.balancer.step(s)
    yields = 0
    if not isinstance(updates, Iterator):
        updates = ()  # a plain method: it has no `yield` at all
    for _ in updates:
        yields += 1
        if s.progress == 0 and all(p.grad is None for p in run.model.parameters()):
            raise RuntimeError(
                f"{run.balancer.name}.step yielded, and no parameter has a gradient, so nothing "
                "would be trained; call s.backward(loss) before the `yield`"
            )
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
    if yields == 0:
        raise RuntimeError(
            f"{run.balancer.name}.step never yielded, so nothing would be trained; "
            "fill the gradients, then `yield` once for each optimiser step"
        )


def _check_finite(run: Run) -> None:
    """The last update is followed by no loss that would tell: look at the parameters."""
    if not torch.stack([p.isfinite().all() for p in run.model.parameters()]).all():
        raise FloatingPointError(
            f"parameters are not finite after epoch {run.epoch} under {run.balancer.name}; lower lr"
        )


def _record(run: Run, logged: list[dict]) -> None:
    """The epoch's means into the history. The device is waited for here, once an epoch."""
    keys = dict.fromkeys(key for entry in logged for key in entry)
    for metric, output in keys:
        entries = [(i, e[metric, output]) for i, e in enumerate(logged) if (metric, output) in e]
        values = torch.stack([torch.as_tensor(v, device=run.device).float() for _, v in entries])
        values = values.cpu()
        if metric == "loss" and not values.isfinite().all():
            step = entries[int((~values.isfinite()).nonzero()[0])][0]
            raise FloatingPointError(
                f"the {output!r} loss is {values[~values.isfinite()][0]} in batch {step} of epoch "
                f"{run.epoch} under {run.balancer.name}; lower lr, or look for NaN in the inputs"
            )
        run.record("train", output, metric, values.mean())


def find_device(device: str | torch.device = "auto") -> torch.device:
    """The device to train on; "auto" takes cuda, then mps, then cpu.

    Raises ValueError for a device that this machine or this build of torch does not have.
    """
    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.insert(0, "mps")
    if torch.cuda.is_available():
        available.insert(0, "cuda")
    if device == "auto":
        return torch.device(available[0])
    try:
        found = torch.device(device)
    except RuntimeError:
        found = None
    on_cuda = found is not None and found.type == "cuda"
    beyond = on_cuda and (found.index or 0) >= torch.cuda.device_count()
    if found is None or found.type not in available or beyond:
        raise ValueError(
            f"device {str(device)!r} is not available; this machine has {', '.join(available)}. "
            "Use device='auto' to take the first of these"
        )
    return found


def _check_arguments(
    model: MultimodalNet,
    data: MultimodalData,
    balancer: Balancer,
    epochs: int,
    batch_size: int,
    lr: float,
) -> None:
    if not isinstance(balancer, Balancer):
        raise TypeError(
            f"balancer is {balancer!r}; it must be a Balancer instance, such as Joint() "
            "(with the brackets)"
        )
    if not isinstance(model, MultimodalNet) or not isinstance(data, MultimodalData):
        raise TypeError(
            f"fit(model, data, ...) got a {type(model).__name__} and a {type(data).__name__}; "
            "it takes a MultimodalNet and a MultimodalData, in this order"
        )
    if set(model.modalities) != set(data.modalities):
        raise ValueError(
            f"the model has the modalities {model.modalities}, the data {data.modalities}; build "
            "the model with MultimodalNet.build(data)"
        )
    outputs = getattr(model.fusion, "n_outputs", data.n_outputs)
    if outputs != data.n_outputs:
        raise ValueError(
            f"the model has {outputs} outputs, the data need {data.n_outputs}; build the model "
            "with MultimodalNet.build(data)"
        )
    for name, value, least in (("epochs", epochs, 0), ("batch_size", batch_size, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    if not lr > 0:
        raise ValueError(f"lr is {lr!r}; it must be positive")
