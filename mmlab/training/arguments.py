"""The arguments of a training: what it cannot do is refused before it starts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import nn

from mmlab.checks import check_flag, check_number, check_whole, kind_of
from mmlab.datasets.base import MultimodalData
from mmlab.models.network import MultimodalNet
from mmlab.nested import tensors
from mmlab.training.balancer import Balancer
from mmlab.training.losses import Loss
from mmlab.training.run import Observer
from mmlab.training.sharing import check_unwrapped


def check_arguments(
    model: MultimodalNet,
    data: MultimodalData,
    balancer: Balancer,
    *,
    epochs: int,
    batch_size: int,
    accumulate: int,
    drop_last: bool,
    loss: Loss | None,
) -> None:
    """Check what every training has. Raises TypeError, ValueError."""
    check_balancer(balancer)
    _check_network(model, data)
    check_whole("epochs", epochs)
    check_whole("batch_size", batch_size, least=1)
    check_whole("accumulate", accumulate, least=1)
    _check_accumulate(model, accumulate)
    _check_order(data, balancer)
    _check_drop_last(data, drop_last, batch_size * accumulate)
    _check_loss(loss)


def _check_network(model: object, data: object) -> None:
    """Refuse a network that the data do not fit."""
    if not isinstance(model, MultimodalNet) or not isinstance(data, MultimodalData):
        raise TypeError(
            f"fit(model, data, ...) got {kind_of(model)} and {kind_of(data)}; "
            "it takes a MultimodalNet and a MultimodalData, in this order"
        )
    check_unwrapped(model)
    if set(model.modalities) != set(data.modalities):
        raise ValueError(
            f"the model has the modalities {model.modalities}, the data {data.modalities}; build "
            "the model with MultimodalNet.build(data)"
        )
    _check_types(model, data)
    outputs = getattr(model.fusion, "n_outputs", data.n_outputs)
    if outputs != data.n_outputs:
        raise ValueError(
            f"the model has {outputs} outputs, the data need {data.n_outputs}; build the model "
            "with MultimodalNet.build(data)"
        )


def _check_types(model: MultimodalNet, data: MultimodalData) -> None:
    """Refuse inputs in float64 for a network that is not, or in float32 for one of another type."""
    kinds = {p.dtype for p in model.parameters()}
    for m, value in data.train.head(1).inputs.items():
        plain = any(x.dtype == torch.float32 for x in tensors(value).values())
        if plain and kinds and torch.float32 not in kinds:
            raise ValueError(
                f"the network is {', '.join(sorted(map(str, kinds)))}, and modality {m!r} is "
                "torch.float32; use model.float() (to compute in half precision all the same: "
                "fit(..., precision='bfloat16'))"
            )
        wide = any(x.dtype == torch.float64 for x in tensors(value).values())
        if wide and torch.float64 not in kinds:
            raise ValueError(
                f"modality {m!r} is torch.float64, as NumPy's arrays are, and the network is not; "
                "use .float()"
            )


def _check_accumulate(model: MultimodalNet, accumulate: int) -> None:
    if accumulate > 1 and type(model).forward is not MultimodalNet.forward:
        raise ValueError(
            f"accumulate={accumulate} lets the encoders see some samples at a time, and "
            f"{type(model).__name__} has a forward pass of its own, which calls them with all; use "
            "torch.utils.checkpoint in it, and accumulate=1 with a larger batch_size"
        )


def _check_order(data: MultimodalData, balancer: Balancer) -> None:
    """Refuse that two choose the samples of an epoch."""
    if data.sampler is not None and type(balancer).order is not Balancer.order:
        raise ValueError(
            f"{balancer.name} chooses the samples of an epoch, and so does the sampler of the "
            "data; leave one of them out"
        )


def _check_drop_last(data: MultimodalData, drop_last: bool, step_size: int) -> None:
    check_flag("drop_last", drop_last)
    if drop_last and data.epoch_size < step_size:
        raise ValueError(
            f"drop_last=True leaves nothing to train on: {data.epoch_size} samples make no batch "
            f"of {step_size}; choose a smaller batch_size"
        )


def _check_loss(loss: object) -> None:
    if isinstance(loss, type):
        raise TypeError(
            f"loss is the class {loss.__name__}; give {loss.__name__}() (with brackets)"
        )
    if loss is not None and not callable(loss):
        raise TypeError(
            f"loss is {loss!r}; give a function loss(prediction, target) -> one number, such as "
            "torch.nn.functional.mse_loss"
        )


def check_seed(seed: object) -> None:
    """Refuse what is not one whole number."""
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise TypeError(f"seed is {seed!r}; give one whole number (several: fit_seeds)")


def seed_list(seeds: object) -> list[int]:
    """Several seeds, at least one, as Python's own whole numbers. Raises TypeError, ValueError."""
    if isinstance(seeds, Integral):
        raise TypeError(f"seeds is {seeds}; give the seeds themselves, such as range({seeds})")
    found: list[Any] = list(seeds) if isinstance(seeds, Iterable) else [seeds]
    if not all(isinstance(seed, Integral) and not isinstance(seed, bool) for seed in found):
        raise TypeError(f"seeds is {seeds!r}; give whole numbers, such as range(5) or [3, 5, 8]")
    if not found:
        raise ValueError("seeds is empty; give at least one whole number")
    return [int(seed) for seed in found]


def check_clip(clip: float | None) -> None:
    """Refuse what is no length."""
    if clip is not None:
        check_number("clip", clip, above=0)


def check_trainable(parameters: Iterable[nn.Parameter]) -> None:
    """Refuse a training in which nothing may learn."""
    if not any(p.requires_grad for p in parameters):
        raise ValueError(
            "no parameter requires a gradient, so nothing would be trained; set "
            "requires_grad_(True) on what is to learn"
        )


def check_balancer(balancer: object) -> None:
    """Refuse what is no method, such as its class."""
    if not isinstance(balancer, Balancer):
        raise TypeError(
            f"balancer is {balancer!r}; it must be a Balancer instance, such as Joint() "
            "(with the brackets)"
        )


def check_observers(observers: Sequence[Observer]) -> None:
    """Refuse what `fit` cannot call with the run."""
    if not isinstance(observers, Sequence) or isinstance(observers, str):
        raise TypeError(f"observers is {observers!r}; give a list, such as [Curves()]")
    for i, observer in enumerate(observers):
        if isinstance(observer, type) or not callable(observer):
            named = isinstance(observer, type)
            what = f"the class {observer.__name__}" if named else repr(observer)
            raise TypeError(
                f"observers[{i}] is {what}; give what can be called with the run: an instance, "
                "such as Curves() (with the brackets), or a function"
            )
