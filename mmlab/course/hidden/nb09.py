"""Hidden cases of notebook 09."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Factors = Callable[[Tensor, Tensor], Tensor]


def _candidates() -> list[Factors]:
    """AGM as in the notebook, and five others; all have one name, so that none tells."""

    def made(rule: Callable[[Tensor, Tensor], Tensor], sign: int = 1) -> Factors:
        def factors(costs: Tensor, usual: Tensor) -> Tensor:
            ahead, usually = ((2 * sign * (x.mean() - x)).exp() for x in (costs, usual))
            return rule(ahead, usually)

        return factors

    def agm(ahead: Tensor, usually: Tensor) -> Tensor:
        return (usually - ahead).clamp(max=10).exp()

    def exchanged(ahead: Tensor, usually: Tensor) -> Tensor:
        return agm(ahead, usually).flip(0)

    def forgets_what_is_usual(ahead: Tensor, usually: Tensor) -> Tensor:
        return agm(ahead, torch.ones_like(usually))

    def boosts_all_a_little(ahead: Tensor, usually: Tensor) -> Tensor:
        return 1.1 * agm(ahead, usually)

    def as_ogm(ahead: Tensor, usually: Tensor) -> Tensor:
        far = (usually - ahead).abs()
        return torch.where(ahead > 1, -far, far).exp()

    wrong = (exchanged, forgets_what_is_usual, boosts_all_a_little, as_ogm)
    return [made(agm), made(agm, sign=-1), *map(made, wrong)]


def which(draw: torch.Generator) -> dict[str, dict[str, Factors]]:
    def shuffled(letters: str) -> dict[str, Factors]:
        order = torch.randperm(len(letters), generator=draw).tolist()
        candidates = _candidates()
        return {letter: candidates[i] for letter, i in zip(letters, order, strict=True)}

    return {name: shuffled(name) for name in ("ABCDEF", "UVWXYZ", "KLMNOP")}


def parts(draw: torch.Generator) -> dict[str, tuple[dict[str, Tensor]]]:
    keys = ("a", "i", "t", "ai", "at", "it", "ait")

    def drawn(*shape: int) -> dict[str, Tensor]:
        return {k: torch.randn(shape, generator=draw, dtype=torch.float64) for k in keys}

    one = drawn(3, 2)
    silent = {key: one[key.replace("t", "")] if key != "t" else 0 * one["t"] for key in keys}
    return {"any fusion": (drawn(5, 4),), "numbers": (drawn(),), "a silent third": (silent,)}
