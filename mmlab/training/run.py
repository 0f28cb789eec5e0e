"""A training: what it works on while it lasts, and what it leaves."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from mmlab.checks import check_mask, kind_of
from mmlab.datasets.augment import augmented
from mmlab.datasets.base import Augment, Batch, MultimodalData, Split
from mmlab.datasets.frames import rows_of
from mmlab.datasets.sampling import epoch_order
from mmlab.datasets.splits import pieces
from mmlab.models.network import MultimodalNet, Output
from mmlab.models.rows import of_every_frame
from mmlab.seeds import Draws, Source, derive, drawing, drawing_all, generator
from mmlab.training import processes
from mmlab.training.balancer import Balancer
from mmlab.training.clip import clip_gradients
from mmlab.training.exchange import own_part
from mmlab.training.losses import Loss, Losses, default_loss, read_losses
from mmlab.training.passes import Reading, read
from mmlab.training.schedule import Schedule
from mmlab.training.updates import has_other_hooks

if TYPE_CHECKING:
    import pandas as pd

Observer = Callable[["Run"], None]
"""Called after each epoch (and, with run.epoch == 0, before the first). May call `run.record`.

One that has `on_start(run)` or `on_end(run)` is told when a training begins and ends.
"""

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(repr=False, kw_only=True)
class Course(ABC):
    """What the loop and the methods ask, of one network (`Run`) or of many (`StackedRun`).

    model:      the network that is trained; of a `StackedRun` a stack of networks.
    data:       what it learns from.
    balancer:   the method.
    optimizer:  makes the updates of the parameters.
    seed:       a whole number that sets the random streams of the run.
    epochs:     number of epochs of the run.
    batch_size: samples that an encoder sees at once.
    device:     where the network and the batches are.
    train_on:   trains to the last epoch (`mmlab.training.loop`).
    loss:       loss(prediction, target) -> one number; None: the one that fits the target.
    accumulate: a step has so many times batch_size samples.
    drop_last:  whether an epoch leaves out a last step of fewer samples.
    clip:       the largest norm of a gradient; None: no limit.
    schedule:   changes the learning rate during the run; None: it stays.
    modules:    parameters of the method's own (`Balancer.modules`).
    epoch:      number of finished epochs.
    stopped:    whether the run ends before the last epoch.
    stream:     prefix of the names of a branch's random streams.
    """

    model: MultimodalNet
    data: MultimodalData
    balancer: Balancer
    optimizer: torch.optim.Optimizer
    seed: int
    epochs: int
    batch_size: int
    device: torch.device
    train_on: Callable[[Course], None]
    loss: Loss | None = None
    accumulate: int = 1
    drop_last: bool = False
    clip: float | None = None
    schedule: Schedule | None = None
    modules: nn.Module | None = None
    epoch: int = 0
    stopped: bool = False
    stream: tuple[str | int, ...] = ()

    # --- what differs -----------------------------------------------------------------------------

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of a loss: () or (R,)."""

    @abstractmethod
    def record(self, split: str, output: str, metric: str, value: float | Tensor) -> None:
        """Add a row to the history, under the number of finished epochs."""

    @abstractmethod
    def split(self, name: str) -> Split:
        """A whole split, on the run's device: a Batch, or a Stream where the data are one."""

    @abstractmethod
    def pieces(self, split: str) -> Iterator[Batch]:
        """A whole split in parts that fit the memory, on the run's device."""

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """The batches of the coming epoch; each knows which samples it has."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Training samples."""

    @property
    @abstractmethod
    def epoch_size(self) -> int:
        """Training samples of an epoch, unless the method chooses them."""

    @abstractmethod
    def generators(self, *names: str | int, device: str | torch.device = "cpu") -> Source:
        """The generator of the stream called `names`, or one for each network."""

    @abstractmethod
    def drawing(self, *names: str | int) -> AbstractContextManager[None]:
        """In this block the global generators draw the stream called `names`."""

    @abstractmethod
    def tell(self, event: str) -> None:
        """Call this method of the observers that have it, with each network's own Run."""

    @abstractmethod
    def observe(self) -> None:
        """Show each network's own Run to its observers."""

    @abstractmethod
    def whose(self, place: Sequence[int]) -> str:
        """Which network an entry of a loss belongs to, for messages."""

    # --- what follows from it ---------------------------------------------------------------------

    @property
    def step_size(self) -> int:
        """Samples of a step."""
        return self.batch_size * self.accumulate

    @property
    def steps(self) -> int:
        """Batches of an epoch, unless the method chooses its samples (`Balancer.order`)."""
        return math.ceil(self.kept(self.epoch_size) / self.step_size)

    def kept(self, samples: int) -> int:
        """How many of an epoch's samples come in its batches."""
        return samples - samples % self.step_size if self.drop_last else samples

    # --- what a method may ask --------------------------------------------------------------------

    def features(self, split: str) -> dict[str, Tensor]:
        """Features (N, D) of a whole split per modality, in evaluation mode, without a graph."""
        return self.reading(split).values

    def reading(
        self, split: str, what: Callable[[Batch, Output], dict[str, Tensor]] | None = None
    ) -> Reading:
        """What is read of every sample of a split, with its targets and masks, in one pass.

        In evaluation mode, without a graph; a Stream, too.

        Args:
            what: (batch, its Output) -> tensors (B, …) by name; by default the features.
        """
        return read(self.model, self.pieces(split), what or (lambda _, out: dict(out.features)))

    def draws(self, name: str) -> Draws:
        """Random numbers of the run's seed for the coming epoch, a stream called `name`.

        Permutations and uniform numbers; they are drawn on the CPU, so that they are the same ones
        wherever the network is.
        """
        epoch = self.epoch
        return Draws(lambda kind: self.generators(name, kind, epoch))

    def losses(
        self, split: str, *keys: str, model: MultimodalNet | None = None
    ) -> dict[str, Tensor]:
        """Mean losses on a whole split, in evaluation mode, without a graph.

        The network sees it in parts that fit the memory; the loss is called once, for all of it.

        Args:
            keys: "joint" or modalities; by default all. For a modality only its encoder runs.
            model: by default the run's own; or a copy of it, as `branch` gives.
        """
        model = self.model if model is None else model
        wanted = keys or ("joint", *model.modalities)

        def logits(piece: Batch, out: Output) -> dict[str, Tensor]:
            losses = Losses(out, piece, default_loss(piece.target), graph=False)
            return {key: losses.logits(key) for key in wanted}

        found = read(model, self.pieces(split), logits)
        losses = read_losses(found, self.loss or default_loss(found.target), len(self.shape))
        return {key: losses[key] for key in wanted}

    def reset_momentum(self, parameters: Sequence[nn.Parameter] | None = None) -> None:
        """Delete the optimiser's state (momentum and so on), of some parameters or of all."""
        for p in list(self.optimizer.state) if parameters is None else parameters:
            self.optimizer.state.pop(p, None)

    def start(self) -> None:
        """Let the method begin."""
        self.balancer.start(self)

    def next_epoch(self) -> None:
        """Let the method prepare the coming epoch."""
        self.balancer.epoch(self)

    def before_update(self) -> None:
        """Called when the gradients are filled, before each step of the optimiser."""
        if self.clip is not None:
            clip_gradients(self.updated, self.clip, stacked=bool(self.shape))

    @property
    def updated(self) -> list[nn.Parameter]:
        """What the optimiser moves."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those of the network, and of the method's own modules."""
        own = [] if self.modules is None else self.modules.parameters()
        return [*self.model.parameters(), *own]

    def after_batch(self) -> None:
        """Called after the updates of each batch."""
        if self.schedule is not None:
            self.schedule.after_batch()

    def after_epoch(self) -> None:
        """Called after each epoch, when it has been counted: the history gets its learning rate."""
        if self.schedule is not None:
            rates = self.schedule.after_epoch()
            for i, rate in enumerate(rates):
                self.record("train", f"group {i}" if len(rates) > 1 else "", "lr", rate)

    @property
    def over(self) -> bool:
        """Whether no further epoch comes."""
        return self.stopped or self.epoch >= self.epochs

    def finish(self) -> None:
        """Let observers and method end."""
        self.tell("on_end")
        self.balancer.finish(self)

    def branch(self, balancer: Balancer, epochs: int) -> MultimodalNet:
        """Train a deep copy from here on under another balancer; return it.

        The copy takes model, buffers, optimiser and its schedule along; where this run is over, the
        schedule begins anew. This run is untouched bit for bit: the copy draws its data order,
        noise and dropout from streams of its own.
        """
        fork = self._forked(copy.deepcopy(balancer), epochs)
        if balancer.modules(fork.model) is not None:
            raise ValueError(
                f"{balancer.name} has modules of its own, and a branch trains the network's "
                "parameters alone; train it with fit"
            )
        fork.start()
        self.train_on(fork)
        return fork.model

    def branched(
        self, schedule: Schedule, optimizer: torch.optim.Optimizer, epochs: int
    ) -> Schedule:
        """A schedule of this run for a branch with this copy of its optimiser."""
        if self.over:
            return schedule.anew(optimizer, epochs * self.steps)
        return schedule.on(optimizer)

    def _forked(self, balancer: Balancer, epochs: int) -> Self:
        model, optimizer = copied(self.model, self.optimizer)
        return replace(
            self,
            model=model,
            optimizer=optimizer,
            schedule=self.schedule and self.branched(self.schedule, optimizer, epochs),
            balancer=balancer,
            modules=None,
            epochs=epochs,
            epoch=0,
            stopped=False,
            stream=(*self.stream, "branch", self.epoch),
        )


@dataclass(repr=False, kw_only=True)
class Run(Course):
    """The training of one network.

    rows:      the history as tuples; `history` is the tidy table.
    observers: what looks at it after each epoch.
    together:  how many networks were trained in the same program.
    """

    rows: list[tuple[int, str, str, str, float]] = field(default_factory=list)
    observers: Sequence[Observer] = ()
    together: int = 1

    def __repr__(self) -> str:
        """One line: a training often is the last value of a notebook's cell."""
        done = f"{self.epoch} of {self.epochs} epochs"
        return f"Run({self.balancer.name}, seed {self.seed}, {done}, on {self.device})"

    @property
    def history(self) -> pd.DataFrame:
        """Columns epoch (from 1), split, output ("joint", a modality or ""), metric, value."""
        import pandas as pd

        return pd.DataFrame(self.rows, columns=["epoch", "split", "output", "metric", "value"])

    def predict(self, split: Split) -> Tensor:
        """The balancer's prediction at test time, (B, C), in evaluation mode.

        So are the method's own modules. The network sees the samples in parts that fit the memory.
        Where each frame has a label it is (B, T, C), of every frame, whether it counts or not.

        Raises TypeError for what is no Batch and no Stream, ValueError for a Stream whose batches
        have unlike numbers of frames.
        """
        if not isinstance(split, Split):
            raise TypeError(
                f"split is {kind_of(split)}; give a Batch or a Stream(dataset), such as "
                "run.split('test')"
            )
        if not self.model.frames:
            return self.answers(split).values["prediction"]

        def answer(piece: Batch, out: Output) -> dict[str, Tensor]:
            prediction = of_every_frame(self._fused, out, len(piece), piece.present)
            return {"prediction": prediction}

        some = pieces(split.to(self.device))
        return read(self.model, some, answer, self.modules, every=True).values["prediction"]

    def answers(self, split: Split) -> Reading:
        """What `predict` gives, as "prediction", and what `answered` gives, as "answered".

        Where each frame has a label, of the frames that count.
        """

        def answer(piece: Batch, out: Output) -> dict[str, Tensor]:
            prediction = self._fused(out, piece.present)
            return {"prediction": prediction, "answered": self.answered(piece)}

        return read(self.model, pieces(split.to(self.device)), answer, self.modules)

    def _fused(self, out: Output, present: Mapping[str, Tensor] | None) -> Tensor:
        """What the method predicts. Raises TypeError, ValueError where it is no prediction."""
        found: object = self.balancer.fuse(out, present)
        who = f"{self.balancer.name}.fuse"
        outputs = getattr(self.model.fusion, "n_outputs", self.data.n_outputs)
        if not isinstance(found, Tensor):
            raise TypeError(f"{who} gives {kind_of(found)}; it must give a tensor (B, C)")
        if found.ndim < 2 or found.shape[-1] != outputs:
            raise ValueError(
                f"{who} gives the shape {tuple(found.shape)}; it must give (B, {outputs}), one "
                "column per output of the network"
            )
        return found

    def answered(self, batch: Batch) -> Tensor:
        """Which samples (or frames that count) it has an answer for, booleans (B,)."""
        batch = rows_of(batch)
        mask = self.balancer.answers(batch)
        if mask is None:
            return torch.ones(len(batch), dtype=torch.bool, device=batch.target.device)
        check_mask(f"{self.balancer.name}.answers(batch)", mask, (len(batch),))
        return mask

    @property
    def shape(self) -> tuple[int, ...]:
        return ()

    def record(self, split: str, output: str, metric: str, value: float | Tensor) -> None:
        """Add one row to the history, under the number of finished epochs."""
        self.rows.append((self.epoch, split, output, metric, float(value)))

    def split(self, name: str) -> Split:
        """A whole split, on the run's device: a Batch, or a Stream where the data are one."""
        return self.data.splits[name].to(self.device)

    def pieces(self, split: str) -> Iterator[Batch]:
        return pieces(self.split(split))

    def generators(self, *names: str | int, device: str | torch.device = "cpu") -> Source:
        return generator(self.seed, *self.stream, *names, device=device)

    def drawing(self, *names: str | int) -> AbstractContextManager[None]:
        return drawing(self.seed, *self.stream, *names, device=self.device)

    def stop(self) -> None:
        """Let the training end after this epoch; for observers."""
        self.stopped = True

    def tell(self, event: str) -> None:
        for observer in self.observers:
            if hears := getattr(observer, event, None):
                hears(self)

    def observe(self) -> None:
        for observer in self.observers:
            observer(self)

    def whose(self, place: Sequence[int]) -> str:
        return ""

    @property
    def size(self) -> int:
        return len(self.data.train)

    @property
    def epoch_size(self) -> int:
        return self.data.epoch_size

    def batches(self) -> Iterator[Batch]:
        order = self._order()
        draws = derive(self.seed, *self.stream, "samples", self.epoch)
        batches = self._train.batches(self.step_size, order[: self.kept(len(order))], draws)
        if (augment := self.data.augment) is not None:
            batches = (self._augmented(augment, batch, i) for i, batch in enumerate(batches))
        return map(own_part, batches) if processes.count() > 1 else batches

    def _augmented(self, augment: Augment, batch: Batch, i: int) -> Batch:
        with drawing_all(self.seed, *self.stream, "augment", self.epoch, i, device=self.device):
            return augmented(augment, batch)

    @cached_property
    def _train(self) -> Split:
        return self.split("train")

    def _order(self) -> Tensor:
        """Which samples the coming epoch sees."""
        given = self.balancer.order(self)
        if given is None:
            draw = generator(self.seed, *self.stream, "order", self.epoch)
            return epoch_order(self.data.sampler, self.size, draw).to(self.device)
        try:
            order = torch.as_tensor(given, device=self.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(
                f"{self.balancer.name}.order gives {kind_of(given)} of which torch makes "
                f"no tensor ({error}); return a 1-D sequence of sample indices (whole numbers)"
            ) from error
        if order.ndim != 1 or not len(order) or order.dtype not in WHOLE:
            raise ValueError(
                f"{self.balancer.name}.order gives {order.dtype} of shape {tuple(order.shape)}; "
                "return a 1-D sequence of sample indices (whole numbers), at least one"
            )
        if order.min() < 0 or order.max() >= self.size:
            raise ValueError(
                f"{self.balancer.name}.order names the samples {int(order.min())} to "
                f"{int(order.max())}; there are {self.size}, numbered from 0"
            )
        if not self.kept(len(order)):
            raise ValueError(
                f"drop_last=True leaves nothing to train on: {self.balancer.name}.order names "
                f"{len(order)} samples, and a step has {self.step_size}"
            )
        return order.long()  # torch takes bytes for a mask

    def _forked(self, balancer: Balancer, epochs: int) -> Self:
        return replace(super()._forked(balancer, epochs), rows=[], observers=())


def copied(
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
