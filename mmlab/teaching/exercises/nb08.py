"""What the exercises of notebook 08 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Four = Callable[[Tensor, Tensor, Tensor, Tensor], list[Tensor]]

# --- the shares of two modalities -----------------------------------------------------------------


def _by_orders(none: Tensor, a: Tensor, i: Tensor, both: Tensor) -> list[Tensor]:
    """The mean gain over the two orders; what nobody says is shared equally."""
    first = [a - none, i - none]
    last = [both - i, both - a]
    return [(x + y + none) / 2 for x, y in zip(first, last, strict=True)]


def _weighed(first: float, last: float, rest: float) -> Four:
    """Gains as first, gains as last, and the logits of nobody, with other weights."""

    def shares(none: Tensor, a: Tensor, i: Tensor, both: Tensor) -> list[Tensor]:
        gains = [(a - none, both - i), (i - none, both - a)]
        return [first * x + last * y + rest * none for x, y in gains]

    return shares


def _answers(seed: int) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(4, 5, 3, generator=draw, dtype=torch.float64))


def _sum() -> tuple[Tensor, ...]:
    none, a, i, _ = _answers(1)
    return none, a, i, a + i - none


def _product() -> tuple[Tensor, ...]:
    none, _, _, both = _answers(2)
    return 0 * none, 0 * none, 0 * none, both


def _swapped(none: Tensor, a: Tensor, i: Tensor, both: Tensor) -> list[Tensor]:
    return _by_orders(none, a, i, both)[::-1]


shares: dict[str, Any] = {
    "reference": _by_orders,
    "cases": {
        "any fusion": _answers(0),
        "a fusion that adds": _sum(),
        "a pure product": _product(),
    },
    "mistakes": {
        "the logits of nobody are missing: the shares must sum to f(a, i)": _weighed(0.5, 0.5, 0),
        "each gets half of the logits of nobody, not all": _weighed(0.5, 0.5, 1),
        "only the order in which the modality comes first": _weighed(1, 0, 0.5),
        "only the order in which the modality comes last": _weighed(0, 1, 0.5),
        "the mean over two orders: divide by 2": _weighed(1, 1, 0.5),
        "the two shares are exchanged": _swapped,
    },
}


# --- the redundancy of Williams and Beer ----------------------------------------------------------


def _told(pair: Tensor, base: float = 2) -> Tensor:
    """What a source tells of each value of the target, (Y); pair: (Y, X)."""
    of_y, of_x = pair.sum(1, keepdim=True), pair.sum(0, keepdim=True)
    log = torch.where(pair > 0, (pair / (of_y * of_x).clamp(min=1e-300)).log(), 0) / math.log(base)
    return (pair / of_y * log).sum(1)


def _i_min(p: Tensor, base: float = 2) -> Tensor:
    told = torch.stack([_told(p.sum(2), base), _told(p.sum(1), base)])
    return (p.sum((1, 2)) * told.amin(0)).sum()


def _min_of_means(p: Tensor) -> Tensor:
    weight = p.sum((1, 2))
    return torch.stack([(weight * _told(pair)).sum() for pair in (p.sum(2), p.sum(1))]).amin()


def _largest(p: Tensor) -> Tensor:
    return (p.sum((1, 2)) * torch.maximum(_told(p.sum(2)), _told(p.sum(1)))).sum()


def _unweighed(p: Tensor) -> Tensor:
    return torch.minimum(_told(p.sum(2)), _told(p.sum(1))).sum()


def _nats(p: Tensor) -> Tensor:
    return _i_min(p, math.e)


def _random(seed: int) -> Tensor:
    p = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return p / p.sum()


def _copy_of_two() -> Tensor:
    """y names both bits."""
    p = torch.zeros(4, 2, 2, dtype=torch.float64)
    for a in (0, 1):
        for b in (0, 1):
            p[2 * a + b, a, b] = 0.25
    return p


i_min: dict[str, Any] = {
    "reference": _i_min,
    "cases": {"any": _random(0), "another": _random(1), "y names both bits": _copy_of_two()},
    "mistakes": {
        "the minimum is taken for each y, inside the sum": _min_of_means,
        "the smaller of the two, not the larger": _largest,
        "weigh each y with p(y)": _unweighed,
        "bits: the logarithm has base 2": _nats,
    },
}
