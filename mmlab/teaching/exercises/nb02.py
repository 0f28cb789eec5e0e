"""What the exercises of notebook 02 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmlab.balancers.gblend import blend_weights, optimal_weights
from mmlab.seeds import generator
from mmlab.teaching.pictures.gblend import over_sum, second_moment

# --- the best weights of two heads whose overfits are correlated ----------------------------------


def _by_solving(gain: Tensor, spread: Tensor, r: float) -> Tensor:
    return optimal_weights(gain, second_moment(spread, correlation=r))


def _adjugate(diagonal: Tensor, gain: Tensor, off: Tensor | float) -> Tensor:
    return diagonal * gain - off * gain.flip(0)


def _two(r: float) -> tuple[Tensor, Tensor, float]:
    gain, spread = torch.tensor([[1.0, 0.5], [1.0, 0.4]], dtype=torch.float64)
    return gain, spread, r


two_heads: dict[str, Any] = {
    "reference": _by_solving,
    "cases": {"together": _two(0.3), "against each other": _two(-0.5), "hedge": _two(0.95)},
    "mistakes": {
        "the off-diagonal of the inverse has a minus": lambda G, s, r: _by_solving(G, s, -r),
        "the off-diagonal of S is r σ₁ σ₂": lambda G, s, r: over_sum(
            _adjugate((s**2).flip(0), G, r)
        ),
        "the inverse swaps σ₁² and σ₂²": lambda G, s, r: over_sum(_adjugate(s**2, G, r * s.prod())),
        "the diagonal of S is σ²": lambda G, s, r: over_sum(_adjugate(s.flip(0), G, r * s.prod())),
        "`spread` is σ, not σ²": lambda G, s, r: _by_solving(G, s.sqrt(), r),
        "that is the diagonal formula": lambda G, s, r: over_sum(G / s**2),
        "a weight may be below 0": lambda G, s, r: over_sum(_by_solving(G, s, r).clamp(min=0)),
        "the weights do not sum to 1": lambda G, s, r: _adjugate((s**2).flip(0), G, r * s.prod()),
        "that is S⁻¹G, whose sum is not 1": lambda G, s, r: second_moment(s, r).inverse() @ G,
    },
}


# --- the guarded rule for many runs at once -------------------------------------------------------


def _rule(overfit: Tensor, gain: Tensor, previous: Tensor, floor: float = 0.1) -> Tensor:
    return blend_weights(overfit, gain, floor=floor, previous=previous)


def _tenth(overfit: Tensor) -> Tensor:
    """A tenth of each run's largest overfit."""
    return overfit.amax(-1, keepdim=True) / 10


def _before_the_sum(overfit: Tensor, gain: Tensor) -> Tensor:
    return gain.clamp(min=0) / overfit.abs().maximum(_tenth(overfit.abs())) ** 2


def _runs() -> tuple[Tensor, Tensor, Tensor]:
    """Five runs of three heads, with all that needs a guard."""
    overfit, gain, previous = torch.rand(3, 5, 3, generator=generator(0, "exercise", "02"))
    overfit[0, 1] = -1e-6
    overfit[1] /= 100
    overfit[4] *= -1
    gain[2] *= -1
    gain[3, 0] = -0.2
    return overfit, gain, over_sum(previous)


_many = _runs()
blend_many: dict[str, Any] = {
    "reference": _rule,
    "cases": {"one run": tuple(x[0] for x in _many), "five runs": _many},
    "mistakes": {
        "|gain| pays a head whose loss rose": lambda o, g, p: _rule(o, g.abs(), p),
        "no floor under the overfit": lambda o, g, p: _rule(o, g, p, 0.0),
        "the floor is a tenth of the largest": lambda o, g, p: _rule(o.abs().clamp(0.1), g, p, 0.0),
        "an overfit below 0 counts too": lambda o, g, p: _rule(o.maximum(_tenth(o)), g, p, 0.0),
        "the overfit is squared": lambda o, g, p: _rule(o.abs().sqrt(), g, p, 0.1**0.5),
        "each row: its own floor": lambda o, g, p: _rule(o.abs().clamp(o.abs().max() / 10), g, p),
        "each row: its own sum": lambda o, g, p: (
            _before_the_sum(o, g) / _before_the_sum(o, g).sum()
        ),
        "a row where nothing gains keeps `previous`": lambda o, g, p: blend_weights(o, g),
    },
}
