"""What the exercises of notebook 03 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmlab.balancers.atf import ace_update

Rule = Callable[[Tensor, Tensor], Tensor]
"""New factors of the old ones and of the rate times the losses."""


def _vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _over_sum(u: Tensor) -> Tensor:
    return u / u.sum()


# --- the factors after many steps of ACE on constant losses ---------------------------------------


def _looped(rule: Rule) -> Callable[[Tensor, Tensor, float, int], Tensor]:
    def after(factors: Tensor, losses: Tensor, rate: float, steps: int) -> Tensor:
        for _ in range(steps):
            factors = rule(factors, rate * losses)
        return factors

    return after


def _closed(
    left: Callable[[Tensor, int], Tensor], target: Callable[[Tensor], Tensor] = _over_sum
) -> Callable[[Tensor, Tensor, float, int], Tensor]:
    """left: how much of the distance is left, by aℓ and the steps; target: where λ goes."""

    def after(factors: Tensor, losses: Tensor, rate: float, steps: int) -> Tensor:
        end = target(losses)
        return end + left(rate * losses.sum(), steps) * (factors - end)

    return after


def _ace(factors: Tensor, step: Tensor) -> Tensor:
    return ace_update(factors, step, 1)


_right = _looped(_ace)

after: dict[str, Any] = {
    "reference": _right,
    "cases": {
        "two": (_vector(0.9, 0.1), _vector(0.3, 0.6), 0.5, 7),
        "three": (_vector(0.2, 0.3, 0.5), _vector(2.0, 1.0, 0.0), 0.1, 40),
    },
    "mistakes": {
        "no step divides by the sum, 1 + aℓ": _looped(torch.add),
        "every step divides, not the last alone": _closed(lambda u, n: 1 / (1 + n * u)),
        "the target is L/ℓ, not L": _closed(lambda u, n: (1 + u) ** -n, lambda L: L),
        "the loss is added, not λ times the loss": _looped(lambda f, u: _over_sum(f + f * u)),
        "the sign: the higher loss gets more": _looped(lambda f, u: (f - u) / (f - u).sum()),
        "the sign: it is λ - L/ℓ that shrinks": _closed(lambda u, n: -((1 + u) ** -n)),
        "the distance λ - L/ℓ shrinks; add L/ℓ": lambda *x: _right(*x) - _over_sum(x[1]),
        "what is left of λ and of L/ℓ: you swapped them": _closed(lambda u, n: 1 - (1 + u) ** -n),
        "ℓ is the sum, not the mean": lambda f, L, a, n: _right(f, L, a / len(L), n),
        "1 - aℓ: for small aℓ only": _closed(lambda u, n: (1 - u) ** n),
        "β is the weight of the new; the old has 1 - β": _closed(lambda u, n: (1 + 1 / u) ** -n),
        "it shrinks at every step, not once": _closed(lambda u, n: 1 / (1 + u)),
        "it shrinks: the exponent is -steps": _closed(lambda u, n: (1 + u) ** n),
    },
}


# --- ACE where a batch lacks a modality -----------------------------------------------------------


def _with_gaps(factors: Tensor, losses: Tensor, seen: Tensor, rate: float) -> Tensor:
    u = (factors + rate * losses) * seen
    return torch.where(seen, (factors * seen).sum() * u / u.sum(), factors)


def _all_tracked(factors: Tensor, losses: Tensor, seen: Tensor, rate: float) -> Tensor:
    return ace_update(factors, losses, rate)


def _absent_get_nothing(factors: Tensor, losses: Tensor, seen: Tensor, rate: float) -> Tensor:
    return _over_sum((factors + rate * losses) * seen)


def _sum_above_1(factors: Tensor, losses: Tensor, seen: Tensor, rate: float) -> Tensor:
    return torch.where(seen, _absent_get_nothing(factors, losses, seen, rate), factors)


def _divided_by_all(factors: Tensor, losses: Tensor, seen: Tensor, rate: float) -> Tensor:
    return torch.where(seen, ace_update(factors, losses, rate), factors)


def _scaled_again(factors: Tensor, losses: Tensor, seen: Tensor, rate: float) -> Tensor:
    return _over_sum(_sum_above_1(factors, losses, seen, rate))


def _not_scaled(factors: Tensor, losses: Tensor, seen: Tensor, rate: float) -> Tensor:
    return torch.where(seen, factors + rate * losses, factors)


def _stopped(factors: Tensor, losses: Tensor, seen: Tensor, rate: float) -> Tensor:
    return ace_update(factors, losses, rate) if seen.all() else factors


def _parts_alone(factors: Tensor, losses: Tensor, seen: Tensor, rate: float) -> Tensor:
    part = losses * seen / (losses * seen).sum()
    return torch.where(seen, (factors * seen).sum() * part, factors)


ace_with_gaps: dict[str, Any] = {
    "reference": _with_gaps,
    "cases": {
        "one of three absent": (
            _vector(0.2, 0.3, 0.5),
            _vector(2.0, 0.0, 1.0),
            torch.tensor([True, False, True]),
            0.2,
        ),
        "all seen": (_vector(0.6, 0.4), _vector(0.5, 1.5), torch.tensor([True, True]), 0.1),
    },
    "mistakes": {
        "an absent loss of 0 still pulls λ down": _all_tracked,
        "the absent one keeps its factor, it does not get 0": _absent_get_nothing,
        "the seen ones share what is left, not 1": _sum_above_1,
        "the divisor is that of the seen ones alone": _divided_by_all,
        "dividing all by the sum at the end moves the absent factor": _scaled_again,
        "the seen ones are not divided by a sum": _not_scaled,
        "the others go on tracking": _stopped,
        "λ itself is a part of the sum": _parts_alone,
    },
}
