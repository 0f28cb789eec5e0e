"""One network, built and trained from its seed: what each of many seeds is on its own."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmlab.datasets.base import MultimodalData
from mmlab.models.network import MultimodalNet
from mmlab.training.arguments import check_balancer, check_observers
from mmlab.training.balancer import Balancer, build_options
from mmlab.training.loop import fit
from mmlab.training.run import Observer, Run

MakeBalancer = Callable[[], Balancer]


@dataclass
class Job:
    """One network to be trained."""

    seed: int
    data: MultimodalData
    make: MakeBalancer
    lr: float | None
    network: type[MultimodalNet]
    build: dict[str, Any]

    def model(self, balancer: Balancer) -> MultimodalNet:
        return self.network.build(self.data, **build_options(balancer, self.build), seed=self.seed)

    def train(self, options: Mapping[str, Any]) -> Run:
        observers, loss = own_observers(options.get("observers", ())), options.get("loss")
        if isinstance(loss, nn.Module):
            loss = copy.deepcopy(loss)
        return train_once(
            self.make(),
            self.data,
            seed=self.seed,
            lr=self.lr,
            network=self.network,
            build=self.build,
            **{**options, "observers": observers, "loss": loss},
        )


def own_observers(observers: Sequence[Observer | type]) -> list[Observer]:
    """The observers of one run: instances of classes, copies of instances.

    Functions, methods and partials are taken as they are.

    So what one keeps of a run does not reach the next.

    Raises TypeError for an instance that cannot be copied.
    """
    found: list[Observer] = []
    for observer in observers:
        if inspect.isroutine(observer) or isinstance(observer, functools.partial):
            found.append(observer)
            continue
        try:
            found.append(observer() if isinstance(observer, type) else copy.deepcopy(observer))
        except Exception as error:
            raise TypeError(
                f"observer {observer!r} cannot be copied for each seed: {error}. Give a class that "
                "needs no arguments, or a function"
            ) from error
    check_observers(found)
    return found


def train_once(
    balancer: Balancer,
    data: MultimodalData,
    *,
    seed: int,
    epochs: int,
    network: type[MultimodalNet] = MultimodalNet,
    build: Mapping[str, Any] | None = None,
    **training: Any,
) -> Run:
    """Build the network the balancer asks for and train it, both from `seed`.

    Raises TypeError for what is no Balancer.
    """
    check_balancer(balancer)
    model = network.build(data, **build_options(balancer, build), seed=seed)
    return fit(model, data, balancer, epochs=epochs, seed=seed, **training)
