"""What the exercises of notebook 09 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# --- four invented papers, and their branch of the tree -------------------------------------------

_BRANCHES = {"A": "data order", "B": "gradient scale", "C": "teachers", "D": "fusion"}


def _placed(**wrong: str) -> Callable[[str], str]:
    """The right branches but for some papers."""
    return lambda paper: (_BRANCHES | wrong)[paper]


branch: dict[str, Any] = {
    "reference": _placed(),
    "cases": {f"paper {paper}": paper for paper in _BRANCHES},
    "mistakes": {
        "A reads the holdout, but it changes which samples come": _placed(A="loss weights"),
        "A drops no feature: whole samples come more often": _placed(A="features dropped"),
        "B adds no loss: it multiplies a gradient": _placed(B="loss weights"),
        "B keeps the direction, one factor for the encoder": _placed(B="gradient direction"),
        "C has a loss, and what is new is whom it follows": _placed(C="loss weights"),
        "C never goes back to old weights itself": _placed(C="turns and stages"),
        "D changes logits, and no gradient by hand": _placed(D="gradient scale"),
        "D weighs answers, not losses": _placed(D="loss weights"),
    },
}


# --- a test that finds a sign error ---------------------------------------------------------------

Factors = Callable[[Tensor, Tensor], Tensor]


def _lead(costs: Tensor) -> Tensor:
    return (2 * (costs.mean() - costs)).exp()


def _agm(costs: Tensor, usual: Tensor) -> Tensor:
    return (_lead(usual) - _lead(costs)).clamp(max=10).exp()


def _boosts_who_is_ahead(costs: Tensor, usual: Tensor) -> Tensor:
    return (_lead(costs) - _lead(usual)).clamp(max=10).exp()


def _forgets_what_is_usual(costs: Tensor, usual: Tensor) -> Tensor:
    return (1 - _lead(costs)).clamp(max=10).exp()


def _takes_a_high_cost_for_a_lead(costs: Tensor, usual: Tensor) -> Tensor:
    return (_lead(-usual) - _lead(-costs)).clamp(max=10).exp()


def _damps_all_a_little(costs: Tensor, usual: Tensor) -> Tensor:
    return 0.9 * _agm(costs, usual)


def _damps_who_is_ahead(costs: Tensor, usual: Tensor) -> Tensor:
    """As OGM would: less than usual is still ahead."""
    change = (_lead(usual) - _lead(costs)).abs()
    return torch.where(_lead(costs) > 1, (-change).exp(), change.exp())


Candidates = Mapping[str, Factors]

_ALL = (
    _boosts_who_is_ahead,
    _forgets_what_is_usual,
    _agm,
    _takes_a_high_cost_for_a_lead,
    _damps_all_a_little,
    _damps_who_is_ahead,
)


def _passing(candidates: Candidates, *, more: int = 1, less: bool = True, calm: bool = True) -> str:
    """The letters of those that pass up to three tests; more: -1 turns the first one round."""
    usual = torch.tensor([0.5, 1.1])
    found = ""
    for letter, factors in candidates.items():
        further = factors(torch.tensor([0.3, 1.3]), usual) - 1
        nearer = factors(torch.tensor([0.7, 0.9]), usual) - 1
        still = factors(usual, usual) - 1
        passed = bool(more * further[0] < 0 < more * further[1])
        passed &= not less or bool(nearer[0] > 0 > nearer[1])
        passed &= not calm or bool(still.abs().max() < 1e-6)
        found += letter * passed
    return found


which: dict[str, Any] = {
    "reference": _passing,
    "cases": {
        "six functions": dict(zip("ABCDEF", _ALL, strict=True)),
        "the same, with other letters": dict(zip("ABCDEF", _ALL[::-1], strict=True)),
    },
    "mistakes": {
        "all pass: ask who is damped": lambda candidates: "".join(candidates),
        "none passes, not even AGM": lambda candidates: "",
        "one test is not enough; what happens in a batch that is as usual?": lambda c: _passing(
            c, less=False, calm=False
        ),
        "what happens in a batch that is as usual?": lambda c: _passing(c, calm=False),
        "what happens to a modality that is ahead, but less than usual?": lambda c: _passing(
            c, less=False
        ),
        "the one with the lower cost is ahead": lambda c: _passing(
            c, more=-1, less=False, calm=False
        ),
    },
}


# --- Shapley parts of three modalities ------------------------------------------------------------


def _by_orders(value: Mapping[str, Tensor]) -> list[Tensor]:
    """The mean gain over all six orders."""
    total = dict.fromkeys("ait", 0 * value["ait"])
    for order in itertools.permutations("ait"):
        before = 0 * value["ait"]
        for n in range(1, 4):
            after = value["".join(sorted(order[:n], key="ait".index))]
            total[order[n - 1]] = total[order[n - 1]] + (after - before) / 6
            before = after
    return list(total.values())


def _weighed(alone: float, second: float, last: float) -> Callable[[Mapping], list[Tensor]]:
    """Parts with other weights: alone, each of two second places, last."""

    def parts(value: Mapping[str, Tensor]) -> list[Tensor]:
        pairs = {"a": ("ai", "at", "it"), "i": ("ai", "it", "at"), "t": ("at", "it", "ai")}
        found = []
        for m, (one, two, rest) in pairs.items():
            gains = [value[pair] - value[pair.replace(m, "")] for pair in (one, two)]
            found.append(
                alone * value[m] + second * sum(gains) + last * (value["ait"] - value[rest])
            )
        return found

    return parts


def _coalitions(seed: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    keys = ("a", "i", "t", "ai", "at", "it", "ait")
    return {key: torch.randn(2, 3, generator=draw, dtype=torch.float64) for key in keys}


def _additive() -> dict[str, Tensor]:
    found = _coalitions(2)
    return {key: torch.stack([found[m] for m in key]).sum(0) for key in found}


parts: dict[str, Any] = {
    "reference": _by_orders,
    "cases": {
        "any fusion": (_coalitions(0),),
        "another one": (_coalitions(1),),
        "a fusion that adds": (_additive(),),
    },
    "mistakes": {
        "all four gains have the same weight; first and last come in two orders of six": _weighed(
            1 / 4, 1 / 4, 1 / 4
        ),
        "each second place comes in one order of six, not in two": _weighed(1 / 3, 1 / 3, 1 / 3),
        "only the order in which the modality comes first": _weighed(1, 0, 0),
        "only the order in which the modality comes last": _weighed(0, 0, 1),
        "the second places are missing": _weighed(1 / 2, 0, 1 / 2),
        "the sum over six orders is not divided by six": _weighed(2, 1, 2),
    },
}
