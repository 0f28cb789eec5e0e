"""What a balancer is: a generator of updates. It fills the gradients, then yields.

The training loop steps the optimiser at each `yield`. Code after a `yield` sees the updated
parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NotRequired, Protocol, TypedDict

from torch import Tensor, nn, optim

from mmlab.datasets.base import Batch, MultimodalData, Split
from mmlab.models.network import MakeFusion, MultimodalNet, Output
from mmlab.seeds import Draws
from mmlab.training.losses import Loss
from mmlab.training.passes import Reading
from mmlab.training.step import Step


class Training(Protocol):
    """What a method may ask of its run, between steps (`mmlab.training.run.Run`)."""

    @property
    def model(self) -> MultimodalNet:
        """The network."""

    @property
    def data(self) -> MultimodalData:
        """The data set.

        A method that reads this trains one seed after the other; `split(name)` does not have this
        cost.
        """

    @property
    def optimizer(self) -> optim.Optimizer:
        """The optimiser."""

    @property
    def loss(self) -> Loss | None:
        """The loss that the run was given, for `Step(loss=...)`; None: the one for the targets."""

    @property
    def epochs(self) -> int:
        """Number of epochs of the run."""

    @property
    def epoch(self) -> int:
        """Number of finished epochs; in `Balancer.epoch` the index of the coming one, from 0."""

    def split(self, name: str) -> Split:
        """A whole split, on the run's device: a Batch, or a Stream where the data are one."""

    def features(self, split: str) -> dict[str, Tensor]:
        """Features (N, D) of a whole split, per modality."""

    def reading(
        self, split: str, what: Callable[[Batch, Output], dict[str, Tensor]] | None = None
    ) -> Reading:
        """What is read of every sample of a split, with its targets and masks, in one pass."""

    def losses(
        self, split: str, *keys: str, model: MultimodalNet | None = None
    ) -> dict[str, Tensor]:
        """Mean losses on a whole split."""

    def branch(self, balancer: Balancer, epochs: int) -> MultimodalNet:
        """A copy of the network, trained on under another balancer."""

    def draws(self, name: str) -> Draws:
        """Random numbers of the run's seed for the coming epoch, a stream called `name`."""

    def record(self, split: str, output: str, metric: str, value: float | Tensor) -> None:
        """Add a row to the history."""

    def reset_momentum(self, parameters: Sequence[nn.Parameter] | None = None) -> None:
        """Delete the optimiser's state (momentum and so on)."""


class NetworkOptions(TypedDict):
    """Arguments for `MultimodalNet.build`."""

    heads: str
    fusion: str | MakeFusion
    scale: NotRequired[Mapping[str, float]]


def build_options(balancer: Balancer, build: Mapping[str, Any] | None) -> dict[str, Any]:
    """What the network of a balancer is built with: what it asks for, and then the user's own.

    Raises ValueError where both scale the inputs: one of the two would be lost.
    """
    asked: dict[str, Any] = {**balancer.network}
    given = build or {}
    if asked.get("scale") and given.get("scale"):
        raise ValueError(
            f"{balancer.name} scales the inputs by {asked['scale']}, and build by "
            f"{given['scale']}; give the product to one of them"
        )
    return asked | {name: one for name, one in given.items() if name != "scale" or one}


def warn_without_run(acts: str, instead: str, fix: str = "") -> None:
    """Say that a method which acts between epochs has been told of none.

    acts: which method does what between epochs; the message begins with it.
    instead: what the method does in a loop that never calls `next_epoch`.
    fix: another way out, which the message ends with.
    """
    warnings.warn(
        f"{acts}, from the run of `fit`; in your own loop {instead}. Call run = mmlab.training."
        "begin(net, data, balancer, optimizer, epochs=...) and, before each epoch, "
        f"run.next_epoch(){fix}",
        stacklevel=3,
    )


class Balancer:
    """Base of every method: write `step`; the rest has a default.

    heads, fusion: the network the method assumes, see `MultimodalNet.build`.
    """

    heads = "own"
    fusion = "concat"

    @property
    def network(self) -> NetworkOptions:
        """Keyword arguments for `MultimodalNet.build`."""
        return {"heads": self.heads, "fusion": self.fusion}

    @property
    def lost_if_adaptive(self) -> str:
        """What Adam and the like take from the method, as the end of a sentence.

        A training under one then warns. Empty where they take nothing.
        """
        return ""

    @property
    def name(self) -> str:
        """What histories and messages call the method."""
        return type(self).__name__

    def modules(self, model: MultimodalNet) -> nn.Module | None:
        """Parameters of the method's own, trained with the network's; called once, at the start.

        Keep the module as an attribute too, and call it in `step`.
        """
        return None

    def order(self, run: Training) -> Sequence[int] | Tensor | None:
        """Which training samples the coming epoch sees, in this order; repeats are allowed.

        None: all of them, shuffled. `batch.index` says which they are.
        """
        return None

    def start(self, run: Training) -> None:
        """Called once, before the first epoch."""

    def epoch(self, run: Training) -> None:
        """Called before each epoch. Here parts may be frozen, or parameters changed in place."""

    def finish(self, run: Training) -> None:
        """Called once, after the last epoch and its observers: a last change of the network."""

    def step(self, s: Step) -> Iterator[None]:
        """Fill the gradients of one batch, then yield; at each yield the optimiser steps."""
        s.backward(s.losses["joint"])
        yield

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        """The prediction at test time, (B, C).

        out: what the network gave for the samples.
        present: modality -> booleans (B,), which samples have it; None: each sample has all.
        """
        return out.joint

    def answers(self, batch: Batch) -> Tensor | None:
        """Which samples it has a prediction for, booleans (B,); None: all. Scores count these."""
        return None


class Joint(Balancer):
    """One loss on the fused logits: the baseline that the papers set out from."""
