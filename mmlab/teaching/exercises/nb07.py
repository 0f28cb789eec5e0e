"""What the exercises of notebook 07 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

# --- the fusion of what is there, for classes that are not equally frequent -----------------------


def _posterior(
    log_p: Tensor, present: Tensor, log_prior: Tensor, *, priors: Tensor | None = None
) -> Tensor:
    """priors: how many priors are taken off, (B,); by default one fewer than modalities."""
    votes = torch.where(present[..., None], log_p, 0).sum(0)
    extra = present.sum(0) - 1 if priors is None else priors
    return (votes - extra[:, None] * log_prior).log_softmax(-1)


def _of_all(log_p: Tensor, present: Tensor, log_prior: Tensor) -> Tensor:
    return _posterior(log_p, torch.ones_like(present), log_prior)


def _mean(log_p: Tensor, present: Tensor, log_prior: Tensor) -> Tensor:
    count = present.sum(0)[:, None]
    return (torch.where(present[..., None], log_p, 0).sum(0) / count).log_softmax(-1)


def _not_normalised(log_p: Tensor, present: Tensor, log_prior: Tensor) -> Tensor:
    votes = torch.where(present[..., None], log_p, 0).sum(0)
    return votes - (present.sum(0) - 1)[:, None] * log_prior


def _drawn(modalities: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    log_p = torch.randn(modalities, 4, 3, generator=draw, dtype=torch.float64).log_softmax(-1)
    present = torch.rand(modalities, 4, generator=draw) > 0.5
    present[0] |= ~present.any(0)
    present[:, 0] = True
    prior = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    return log_p, present, prior.log()


posterior: dict[str, Any] = {
    "reference": _posterior,
    "cases": {
        "two modalities, some absent": _drawn(2, 1),
        "three modalities, some absent": _drawn(3, 2),
    },
    "mistakes": {
        "each of the others has counted the prior again: take it off": lambda p, on, prior: (
            _posterior(p, on, prior, priors=0 * on.sum(0))
        ),
        "one prior must stay": lambda p, on, prior: _posterior(p, on, prior, priors=on.sum(0)),
        "M - 1 priors are too many where a modality is absent": lambda p, on, prior: _posterior(
            p, on, prior, priors=0 * on.sum(0) + len(on) - 1
        ),
        "absent modalities have voted": _of_all,
        "the sum, not the mean": _mean,
        "log-probabilities: normalise at the end": _not_normalised,
    },
}


# --- how often each pattern of M modalities occurs ------------------------------------------------


def _chances(rates: Tensor, *, rescue: str = "equal") -> Tensor:
    """Pattern k has modality m where bit m of k is set."""
    found = []
    for k in range(2 ** len(rates)):
        has = torch.tensor([bool(k >> m & 1) for m in range(len(rates))])
        found.append(torch.where(has, 1 - rates, rates).prod())
    p = torch.stack(found)
    singles = [2**m for m in range(len(rates))]
    if rescue == "equal":
        p[singles] += p[0] / len(rates)
    elif rescue == "each":
        p[singles] += p[0]
    elif rescue == "all":
        p[-1] += p[0]
    elif rescue == "spread":
        p = p / p[1:].sum()
    if rescue != "none":
        p[0] = 0
    return p


def _reversed(rates: Tensor) -> Tensor:
    """Bit m counted from the other end."""
    return _chances(rates.flip(0))


def _enumerated(rates: Tensor) -> Tensor:
    """The reference: all draws, and a rescue of each modality in turn, counted one by one."""
    count = len(rates)
    p = torch.zeros(2**count, dtype=rates.dtype)
    for kept in itertools.product((False, True), repeat=count):
        chance = torch.where(torch.tensor(kept), 1 - rates, rates).prod()
        code = sum(2**m for m in range(count) if kept[m])
        for saved in range(count):
            p[code or 2**saved] += chance / count
    return p


_RATES = torch.tensor([0.5, 0.2, 0.8], dtype=torch.float64)

chances: dict[str, Any] = {
    "reference": _enumerated,
    "cases": {"two": _RATES[:2], "three": _RATES, "four": torch.cat([_RATES, _RATES[:1] / 5])},
    "mistakes": {
        "a sample that would lose all keeps one": lambda r: _chances(r, rescue="none"),
        "it keeps one of them, so they share this chance": lambda r: _chances(r, rescue="each"),
        "it keeps one, not all": lambda r: _chances(r, rescue="all"),
        "it is not drawn again: it keeps one": lambda r: _chances(r, rescue="spread"),
        "a rate says how often a modality is missing": lambda r: _chances(1 - r),
        "bit m of k belongs to modality m": _reversed,
    },
}
