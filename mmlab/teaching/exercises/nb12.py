"""What the exercises of notebook 12 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# --- three balancers that do nothing --------------------------------------------------------------

_FAULTS = {"A": "too early", "B": "too late", "C": "cut off"}


def _named(**wrong: str) -> Callable[[str], str]:
    """The right faults but for some letters."""
    return lambda letter: (_FAULTS | wrong)[letter]


fault: dict[str, Any] = {
    "reference": _named(),
    "cases": {f"balancer {letter}": letter for letter in _FAULTS},
    "mistakes": {
        "A multiplies before `backward` has filled anything": _named(A="too late"),
        "A changes what is in the encoder, at the wrong time": _named(A="cut off"),
        "B multiplies when the optimiser has stepped already": _named(B="too early"),
        "B changes what is in the encoder: look at its `yield`": _named(B="cut off"),
        "C comes in time; look at `encoders=`": _named(C="too early"),
        "C comes before the `yield`; look at `encoders=`": _named(C="too late"),
    },
}


# --- factors with a constant mean -----------------------------------------------------------------


def _shared(seen: Tensor, new: Tensor, strength: float) -> Tensor:
    weights = (-strength * (new - seen)).softmax(-1)
    return weights * weights.shape[-1]


def _along(axis: int) -> Callable[[Tensor, Tensor, float], Tensor]:
    def shared(seen: Tensor, new: Tensor, strength: float) -> Tensor:
        return (-strength * (new - seen)).softmax(axis) * seen.shape[-1]

    return shared


def _over_the_largest(seen: Tensor, new: Tensor, strength: float) -> Tensor:
    gap = new - seen
    return (-strength * (gap - gap.amin(-1, keepdim=True))).exp()


def _drawn(*shape: int) -> tuple[Tensor, Tensor, float]:
    draw = torch.Generator().manual_seed(sum(shape))
    seen = torch.rand(shape, generator=draw, dtype=torch.float64)
    return seen, seen + torch.rand(shape, generator=draw, dtype=torch.float64), 2.0


constant_sum: dict[str, Any] = {
    "reference": _shared,
    "cases": {
        "two modalities": _drawn(2),
        "three modalities": _drawn(3),
        "four networks, two modalities": _drawn(4, 2),
        "equal gaps": (torch.zeros(3).double(), torch.ones(3).double(), 5.0),
    },
    "mistakes": {
        "the larger gap must get the smaller factor": lambda seen, new, strength: _shared(
            new, seen, strength
        ),
        "the factors have the sum 1; it should be their mean": lambda seen, new, strength: (
            _shared(seen, new, strength) / seen.shape[-1]
        ),
        "the largest is 1, as in `brake`; the mean should be": _over_the_largest,
        "the strength does nothing": lambda seen, new, strength: _shared(seen, new, 1.0),
        "you read the holdout alone, not the gap": lambda seen, new, strength: _shared(
            0 * seen, new, strength
        ),
        "the sum runs over the networks, not over the modalities": _along(0),
    },
}
