"""What the exercises of notebook 00 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmlab.models.fusion import Concat
from mmlab.seeds import generator

# --- standardise ----------------------------------------------------------------------------------


def _standardised(train: Tensor, values: Tensor) -> Tensor:
    sd, mean = torch.std_mean(train, dim=0, correction=0)
    return (values - mean) / sd


def _by_own_statistics(train: Tensor, values: Tensor) -> Tensor:
    return _standardised(values, values)


def _by_one_number(train: Tensor, values: Tensor) -> Tensor:
    return (values - train.mean()) / train.std(correction=0)


def _by_sample_deviation(train: Tensor, values: Tensor) -> Tensor:
    return (values - train.mean(0)) / train.std(0)


_ROWS = torch.tensor([[1.0, 10.0], [2.0, 30.0], [6.0, 20.0]])

standardise: dict[str, Any] = {
    "reference": _standardised,
    "cases": {"train itself": (_ROWS, _ROWS), "new values": (_ROWS, _ROWS[:2] + 1)},
    "mistakes": {
        "you use the statistics of `values`: in a test this looks at the test split": (
            _by_own_statistics
        ),
        "one mean for the whole table; each column needs its own": _by_one_number,
        "you divide by N' - 1; use correction=0": _by_sample_deviation,
    },
}


# --- shares ---------------------------------------------------------------------------------------


def _shares(features: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    named = {str(i): h for i, h in enumerate(features)}
    fusion = Concat({m: h.shape[1] for m, h in named.items()}, len(bias))
    fusion.linear.weight, fusion.linear.bias = map(torch.nn.Parameter, (weight, bias))
    return list(fusion.contributions(named).values())


def _with_bias(features: list[Tensor], weight: Tensor, bias: Tensor, part: float) -> list[Tensor]:
    blocks = weight.split(features[0].shape[1], dim=1)
    return [h @ W.T + part * bias for h, W in zip(features, blocks, strict=True)]


def _without_bias(features: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    return _with_bias(features, weight, bias, 0)


def _with_whole_bias(features: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    return _with_bias(features, weight, bias, 1)


def _with_half_bias(features: list[Tensor], weight: Tensor, bias: Tensor) -> list[Tensor]:
    return _with_bias(features, weight, bias, 1 / 2)


def _drawn(modalities: int) -> tuple[list[Tensor], Tensor, Tensor]:
    draw = generator(0, "shares", modalities)
    features = [torch.randn(4, 6, generator=draw) for _ in range(modalities)]
    weight = torch.randn(3, 6 * modalities, generator=draw)
    return features, weight, torch.randn(3, generator=draw)


shares: dict[str, Any] = {
    "reference": _shares,
    "cases": {"two modalities": _drawn(2), "three modalities": _drawn(3)},
    "mistakes": {
        "the bias is missing": _without_bias,
        "each share has the whole bias, so the sum has it M times": _with_whole_bias,
        "the bias is always halved; there may be three modalities": _with_half_bias,
    },
}


# --- a loss with holes ----------------------------------------------------------------------------


def _mean_over_present(losses: Tensor, present: Tensor) -> Tensor:
    return (losses * present).sum() / present.sum().clamp(min=1)


def _over_the_batch(losses: Tensor, present: Tensor) -> Tensor:
    return (losses * present).mean()


def _of_nobody(losses: Tensor, present: Tensor) -> Tensor:
    return losses[present].mean()


_FOUR = torch.tensor([1.0, 2.0, 4.0, 8.0])

mean_over_present: dict[str, Any] = {
    "reference": _mean_over_present,
    "cases": {
        "all there": (_FOUR, torch.tensor([True, True, True, True])),
        "two there": (_FOUR, torch.tensor([True, False, False, True])),
        "none there": (_FOUR, torch.tensor([False, False, False, False])),
    },
    "mistakes": {
        "you divide by the batch size": _over_the_batch,
        "0 / 0: nobody is there": _of_nobody,
    },
}
