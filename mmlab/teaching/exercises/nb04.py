"""What the exercises of notebook 04 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmlab.balancers.ogm import discrepancy_ratios, modulation_coefficients

# --- from scores to coefficients ------------------------------------------------------------------


def _reference(scores: Tensor, alpha: float, **form: bool) -> Tensor:
    return modulation_coefficients(discrepancy_ratios(scores), alpha, **form)


coefficients: dict[str, Any] = {
    "reference": _reference,
    "cases": {
        "three": (torch.tensor([0.6, 0.35, 0.2]), 0.8),
        "two": (torch.tensor([0.3, 0.6]), 0.1),
    },
    "mistakes": {
        "the mean is over the others": lambda s, a: modulation_coefficients(s / s.mean(), a),
        "their mean, not their sum": lambda s, a: modulation_coefficients(s / (s.sum() - s), a),
        "the others: all but s_m": lambda s, a: modulation_coefficients(2 * s / s.sum(), a),
        "flip finds the other of two; here are three": lambda s, a: modulation_coefficients(
            s / s.flip(0), a
        ),
        "you slow the one that is behind": lambda s, a: modulation_coefficients(
            1 / discrepancy_ratios(s), a
        ),
        "k is 1 where the ratio is at most 1": lambda s, a: 1 - (a * discrepancy_ratios(s)).tanh(),
        "elsewhere k is 1, not 0": lambda s, a: _reference(s, a) % 1,
        "k is 1 - tanh, not tanh": lambda s, a: 1 - _reference(s, a) % 1,
        "α is missing": lambda s, a: _reference(s, 1.0),
        "that is the form without a jump": lambda s, a: _reference(s, a, continuous=True),
    },
}


# --- the lead at which the continuous rule holds the race level -----------------------------------


def _by_search(speed: Tensor, alpha: float) -> Tensor:
    """The first ratio on a fine grid at which k is not above 1 / speed."""
    rho = torch.linspace(1, 9, 800_001, dtype=torch.float64)
    k = modulation_coefficients(rho[:, None], alpha, continuous=True)[:, 0]
    return rho[torch.searchsorted(-k, -1 / speed)]


_SPEEDS = torch.tensor([1.5, 2.0, 4.0], dtype=torch.float64)

resting_ratio: dict[str, Any] = {
    "reference": _by_search,
    "cases": {"strong": (_SPEEDS, 0.8), "weak": (_SPEEDS, 0.3)},
    "tolerance": 1e-4,
    "mistakes": {
        "that is the rule with the jump: its argument is αρ": lambda v, a: (
            torch.atanh(1 - 1 / v) / a
        ),
        "k v = 1 gives tanh(…) = 1 - 1/v, not 1/v": lambda v, a: 1 + torch.atanh(1 / v) / a,
        "α is missing; it stands inside tanh": lambda v, a: 1 + torch.atanh(1 - 1 / v),
        "α divides the artanh, not the 1": lambda v, a: (1 + torch.atanh(1 - 1 / v)) / a,
    },
}
