"""The one training loop. A balancer fills the gradients; this is where the optimiser steps."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmlab.balancers.base import Balancer, Parameters, Step
from mmlab.balancers.joint import Joint
from mmlab.balancers.losses import Loss, Losses, default_loss
from mmlab.balancers.shapes import check_number
from mmlab.balancers.updates import has_other_hooks
from mmlab.datasets.base import Batch, MultimodalData, stack_batches
from mmlab.models.network import MultimodalNet
from mmlab.modes import evaluating
from mmlab.normals import AHEAD, Normals
from mmlab.optimizers import SGD
from mmlab.replicas import SharedOptimizer, check_stackable, split_up
from mmlab.seeds import drawing, generator

if TYPE_CHECKING:
    import pandas as pd

MakeOptimizer = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


@dataclass(repr=False)
class Run:
    """A training: what it works on while it lasts, and what it leaves.

    epoch counts finished epochs. rows are the history as tuples; `history` is the tidy table.

    A training of R seeds at once has a stack of networks, a data set a seed, and in `replicas` one
    ordinary Run a seed, whose network follows the stack's. Its optimiser is the stack's alone.
    """

    model: MultimodalNet
    data: MultimodalData | Sequence[MultimodalData]
    balancer: Balancer
    optimizer: torch.optim.Optimizer | SharedOptimizer
    epochs: int
    batch_size: int
    device: torch.device
    seed: int | tuple[int, ...]
    loss: Loss | None = None
    epoch: int = 0
    rate_share: Tensor | None = None  # (R,): each replica's learning rate over the largest
    rows: list[tuple[int, str, str, str, float]] = field(default_factory=list)
    replicas: list[Run] = field(default_factory=list)

    def __repr__(self) -> str:
        """One line: a training often is the last value of a notebook's cell."""
        done = f"{self.epoch} of {self.epochs} epochs"
        return f"Run({self.balancer.name}, seed {self.seed}, {done}, on {self.device})"

    def record(self, split: str, output: str, metric: str, value: float | Tensor) -> None:
        """Add one row to the history, under the number of finished epochs; one a replica."""
        if not self.replicas:
            self.rows.append((self.epoch, split, output, metric, float(value)))
            return
        values = torch.as_tensor(value).expand(len(self.replicas)).tolist()
        for replica, own in zip(self.replicas, values, strict=True):
            replica.record(split, output, metric, own)

    @property
    def history(self) -> pd.DataFrame:
        """Columns epoch (from 1), split, output ("joint", a modality or ""), metric, value.

        And seed, where several were trained at once.
        """
        import pandas as pd

        if self.replicas:
            return pd.concat(
                [r.history.assign(seed=r.seed) for r in self.replicas], ignore_index=True
            )
        return pd.DataFrame(self.rows, columns=["epoch", "split", "output", "metric", "value"])

    def split(self, name: str) -> Batch:
        """A split on the run's device; for R seeds at once, theirs stacked."""
        if isinstance(self.data, MultimodalData):
            return self.data.splits[name].to(self.device)
        return stack_batches([data.splits[name] for data in self.data]).to(self.device)

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """The balancer's prediction at test time, (B, C), in evaluation mode.

        Raises ValueError for a training of several seeds: each has a Run of its own.
        """
        if self.replicas:
            raise ValueError(
                f"this run trained {len(self.replicas)} seeds at once; ask one of run.replicas"
            )
        batch = batch.to(self.device)
        with evaluating(self.model):
            return self.balancer.fuse(self.model(batch.inputs), batch.present)

    @torch.no_grad()
    def losses(
        self, split: str, model: MultimodalNet | None = None, only: str | None = None
    ) -> dict[str, Tensor]:
        """Mean loss of every output on a whole split, in evaluation mode, without a graph.

        model: by default the run's own; or a copy of it, as `branch` gives.
        only:  one output, "joint" or a modality; of a modality its encoder alone runs.
        """
        model = self.model if model is None else model
        batch = self.split(split)
        loss = self.loss or default_loss(batch.target)
        with evaluating(model):
            with model.restricted(None if only in (None, "joint") else (only,)):
                out = model.lazily(batch.inputs)
            losses = Losses(out, batch, loss, graph=False)
            return {key: losses[key] for key in ([only] if only else losses)}

    def branch(self, balancer: Balancer, epochs: int) -> MultimodalNet:
        """Train a deep copy from here on under another balancer; return it.

        The copy takes model, buffers and optimiser along. This run is untouched bit for bit: the
        copy draws its data order, noise and dropout from streams of its own.
        """
        model, optimizer = _copied(self.model, self.optimizer)
        fork = replace(
            self,
            model=model,
            optimizer=optimizer,
            balancer=balancer,
            epochs=epochs,
            epoch=0,
            rows=[],
            replicas=[replace(replica, epoch=0, rows=[]) for replica in self.replicas],
        )
        seed = self.seed if isinstance(self.seed, int) else self.seed[0]  # stacks draw no dropout
        with drawing(seed, "branch dropout", self.epoch, device=self.device):
            _train(fork, ("branch", self.epoch))
        return model

    def generators(
        self, *names: str | int, device: str | torch.device = "cpu"
    ) -> torch.Generator | list[torch.Generator]:
        """The generator of the stream called `names`; for R seeds at once a list of them."""
        if isinstance(self.seed, int):
            return generator(self.seed, *names, device=device)
        return [generator(seed, *names, device=device) for seed in self.seed]


def _copied(
    model: MultimodalNet, optimizer: torch.optim.Optimizer
) -> tuple[MultimodalNet, torch.optim.Optimizer]:
    """Both in a deep copy; what torch's own copy of an optimiser leaves out is refused or added."""
    if has_other_hooks(optimizer):
        raise ValueError(
            f"this {type(optimizer).__name__} has step hooks, which a copy would not take along, "
            "so a branch would train otherwise than the run; write them into the `step` of a "
            "subclass of the optimiser"
        )
    known: dict[int, object] = {}
    result = copy.deepcopy((model, optimizer), known)
    for name in vars(optimizer).keys() - vars(result[1]).keys() - {"step"}:  # a schedule's wrapper
        setattr(result[1], name, copy.deepcopy(vars(optimizer)[name], known))
    return result


Observer = Callable[[Run], None]
"""Called after each epoch (and, with run.epoch == 0, before the first). May call `run.record`."""


def fit(
    model: MultimodalNet,
    data: MultimodalData | Sequence[MultimodalData],
    balancer: Balancer | None = None,
    *,
    epochs: int,
    optimizer: MakeOptimizer | None = None,
    lr: float | Tensor | None = None,
    batch_size: int = 64,
    device: str | torch.device = "auto",
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    loss: Loss | None = None,
    observers: Sequence[Observer] = (),
    autocast: bool = False,
    compile: bool | str = False,
) -> Run:
    """Train `model` in place on `data.train`.

    balancer:  the method; Joint() by default.
    optimizer: a callable parameters -> torch.optim.Optimizer; default SGD(lr, momentum=0.9).
    lr:        of the default optimiser, 0.01 unless said otherwise; one of your own brings its own,
               and a warning says so.
    device:    "auto" takes cuda, then mps, then cpu.
    seed:      sets data order, noise and dropout, each its own stream. (Initial weights are set by
               `MultimodalNet.build(seed=...)`.)
    seeds:     R seeds, to train R networks at once as one program; `model` is a stack of R, from
               `MultimodalNet.build(..., replicas=R)`. Each replica gets the data order and noise of
               its seed, and ends where `fit(seed=...)` on its own network would, up to rounding.
               `data` may then be one data set a seed, all of one size; `lr` and a balancer's
               numbers may be tensors (R,), so that a grid is one run. (A grid at one seed:
               `build(data, seed=[0] * R)`, `seeds=[0] * R`, and its runs in `replicas`.) The
               optimiser must be one of torch's that work entry by entry, without step hooks.
    loss:      loss(prediction, target, reduction=...); cross-entropy for labels, L1 for numbers.
    observers: called with the Run before the first epoch and after each; of R seeds, with each
               one's own Run in turn, to look and record: what they put into its network does not
               reach the stack.
    autocast:  let the encoders compute in bfloat16 where that is safe; pays for big ones on a GPU.
    compile:   True, or a backend of torch.compile such as "cudagraphs": compile the encoders. Needs
               a C++ compiler on a CPU, and pays in long runs alone.

    The history holds the training loss of every output that the balancer computed, and what it
    logged, as means over the epoch. Raises FloatingPointError for a loss that is not finite,
    RuntimeError for a step that never yields, ValueError for arguments out of range.
    """
    balancer = Joint() if balancer is None else balancer
    _check_seeds(seed, seeds)
    datasets = data if seeds is not None and isinstance(data, Sequence) else [data]
    for dataset in datasets:
        _check_arguments(model, dataset, balancer, epochs, batch_size)
    if optimizer is not None and not callable(optimizer):
        raise TypeError(
            f"optimizer is {type(optimizer).__name__!r}; give what makes one from the parameters, "
            "such as lambda parameters: torch.optim.Adam(parameters, lr=1e-3)"
        )
    if optimizer is not None and lr is not None and not (isinstance(lr, Tensor) and lr.ndim):
        warnings.warn(
            f"lr={lr} does not reach an optimiser of your own; set the rate there, such as "
            f"optimizer=lambda parameters: torch.optim.Adam(parameters, lr={lr})",
            stacklevel=2,
        )
    lr = 0.01 if lr is None else lr
    check_number("lr", lr, above=0)
    device = find_device(device)
    model.to(device).train()
    model.autocast = torch.bfloat16 if autocast else None
    for encoder in model.encoders.values() if compile else ():
        encoder.compile(backend="inductor" if compile is True else compile)
    shared = {"epochs": epochs, "batch_size": batch_size, "device": device, "loss": loss}
    rate = float(lr.max()) if isinstance(lr, Tensor) else lr
    rate_share = lr.to(device) / rate if isinstance(lr, Tensor) and lr.ndim else None
    make = optimizer or (lambda parameters: SGD(parameters, lr=rate, momentum=0.9))
    run = Run(model, data, balancer, make(model.parameters()), seed=seed, **shared)
    if rate_share is not None and (optimizer is not None or model.replicas is None):
        raise ValueError(
            f"lr has shape {tuple(lr.shape)}; a rate for each network of a stack goes with seeds "
            "and the default optimiser. Give a number, or set the rate in `optimizer`"
        )
    if seeds is not None or model.replicas is not None:
        split_up(run, seeds, rate_share)
    with drawing(seed, "dropout", device=device):
        balancer.start(run)
        _observe(run, observers)
        _train(run, (), observers)
    _check_finite(run)
    return run


def _check_seeds(seed: int, seeds: Sequence[int] | None) -> None:
    if not isinstance(seed, int):
        raise TypeError(f"seed is {seed!r}; give one int, or several as seeds=[...]")
    if isinstance(seeds, int):
        raise TypeError(f"seeds is {seeds}; give the seeds themselves, such as range({seeds})")


def _observe(run: Run, observers: Sequence[Observer]) -> None:
    for r, replica in enumerate(run.replicas):
        replica.balancer = run.balancer.replica(r, len(run.replicas))
    for observer in observers:
        for one in run.replicas or [run]:
            observer(one)


def _train(run: Run, stream: tuple, observers: Sequence[Observer] = ()) -> None:
    """The epochs; stream: the names that a branch's random streams have for themselves."""
    train = run.split("train")
    name = f"{stream[0]} " if stream else ""
    order = run.generators(f"{name}order", *stream[1:])
    noise = Normals(run.generators(f"{name}noise", *stream[1:], device=run.device), AHEAD)
    while run.epoch < run.epochs:
        run.balancer.epoch(run)
        if run.epoch == 0 and run.replicas:
            check_stackable(run, train)
        _train_epoch(run, train, order, noise)
        _observe(run, observers)


def _shuffled(run: Run, train: Batch, order: torch.Generator | list[torch.Generator]) -> Batch:
    """The samples in this epoch's order: each replica's own."""
    size = train.target.shape[-1]
    if not run.replicas:
        return train[torch.randperm(size, generator=order).to(run.device)]
    orders = torch.stack([torch.randperm(size, generator=g) for g in order]).to(run.device)
    return train[torch.arange(len(orders), device=run.device)[:, None], orders]


def _train_epoch(
    run: Run, train: Batch, order: torch.Generator | list[torch.Generator], noise: Normals
) -> None:
    size = train.target.shape[-1]
    steps = math.ceil(size / run.batch_size)
    shuffled, parameters = _shuffled(run, train, order), Parameters(run.model)
    everyone = (slice(None),) * train.target[..., 0].ndim  # all replicas, where there are any
    logged: list[dict] = []
    run.optimizer.zero_grad(set_to_none=True)  # from here on, once after every update
    for i in range(steps):
        batch = shuffled[*everyone, i * run.batch_size : (i + 1) * run.batch_size]
        progress = (run.epoch + i / steps) / run.epochs
        s = Step(run.model, batch, run.optimizer, run.epoch, progress, run.loss, noise, parameters)
        _step(run, s)
        losses = {("loss", key): value.detach() for key, value in s.losses.computed.items()}
        logged.append(losses | s.logged)
    run.epoch += 1
    for replica in run.replicas:
        replica.epoch = run.epoch
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
        if run.rate_share is not None:
            s.scale_all_updates(run.rate_share)
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
        if values[0].numel() > 1 and values.shape[1:] != (len(run.replicas),):
            raise ValueError(
                f"{metric!r} was logged in the shape {tuple(values.shape[1:])}; give one number, "
                f"or a dict with one a modality: s.log({metric}={{m: ...}})"
            )
        values = values.cpu()
        if metric == "loss" and not values.isfinite().all():
            first = (~values.isfinite()).nonzero()[0]
            of_seed = f" of seed {run.seed[int(first[1])]}" if run.replicas else ""
            raise FloatingPointError(
                f"the {output!r} loss{of_seed} is {values[tuple(first)]} in batch "
                f"{entries[int(first[0])][0]} of epoch {run.epoch} under {run.balancer.name}; "
                "lower lr, or look for NaN in the inputs"
            )
        run.record("train", output, metric, values.mean(0))


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
    kinds = {p.dtype for p in model.parameters()}
    for m, values in data.train.inputs.items():
        if values.dtype == torch.float64 and torch.float64 not in kinds:
            raise ValueError(
                f"modality {m!r} is torch.float64, as NumPy's arrays are, and the network is not; "
                "use .float()"
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
