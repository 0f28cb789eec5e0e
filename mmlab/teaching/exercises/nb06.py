"""What the exercises of notebook 06 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes. `unpaired` is the data of its open experiment.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmlab.balancers import mla
from mmlab.datasets import MultimodalData, load
from mmlab.datasets.base import Batch, in_memory
from mmlab.seeds import generator

# --- a direction given back -----------------------------------------------------------------------

Change = Callable[[Tensor, Tensor, float], Tensor]


def _by_inverse(P: Tensor, h: Tensor, alpha: float) -> Tensor:
    return (P.inverse() - torch.outer(h, h) / alpha).inverse()


def _slip(change: Change) -> Callable[[Tensor, Tensor, float], Tensor]:
    """P plus a change that is made from k = P h, h and α."""
    return lambda P, h, alpha: P + change(P @ h, h, alpha)


def _given(alpha: float) -> tuple[Tensor, Tensor, float]:
    old, new = torch.arange(10).reshape(2, 5).double() / 10
    return mla.rls_projector(mla.restarted_projector(old[None], alpha), new, alpha), old, alpha


give_back: dict[str, Any] = {
    "reference": _by_inverse,
    "cases": {"hard": _given(0.1), "soft": _given(2.0)},
    "mistakes": {
        "you take the direction out once more, as in step 4": mla.rls_projector,
        "the denominator is step 4's": _slip(lambda k, h, a: torch.outer(k, k) / (a + h @ k)),
        "the minus is step 4's": _slip(lambda k, h, a: -torch.outer(k, k) / (a - h @ k)),
        "P is missing: this is the change alone": lambda P, h, a: _by_inverse(P, h, a) - P,
        "h hᵀ stands where (P h)(P h)ᵀ should": _slip(
            lambda k, h, a: torch.outer(h, h) / (a - h @ k)
        ),
        "P h hᵀ: the right factor is (P h)ᵀ": _slip(
            lambda k, h, a: torch.outer(k, h) / (a - h @ k)
        ),
        "h (P h)ᵀ: the left factor is P h": _slip(lambda k, h, a: torch.outer(h, k) / (a - h @ k)),
        "(P h)ᵀ P h is a number, not a matrix": _slip(lambda k, h, a: k @ k / (a - h @ k)),
        "P h * P h goes entry by entry": _slip(lambda k, h, a: k * k / (a - h @ k)),
        "below stands α, not 1": _slip(lambda k, h, a: torch.outer(k, k) / (1 - h @ k)),
        "α is missing below": _slip(lambda k, h, a: -torch.outer(k, k) / (h @ k)),
        "hᵀ P h is missing below": _slip(lambda k, h, a: torch.outer(k, k) / a),
        "hᵀ P h is a number": _slip(lambda k, h, a: torch.outer(k, k) / (a - torch.outer(k, h))),
    },
}


# --- the entropy gate -----------------------------------------------------------------------------


def _gate(
    z: Tensor,
    here: Tensor,
    *,
    axis: int = -1,
    sign: int = 1,
    absent: float = -torch.inf,
    over: int = 0,
    log: Callable[[Tensor, int], Tensor] = torch.log_softmax,
) -> Tensor:
    """The gate, and what it becomes with one thing changed."""
    negative_entropy = sign * (z.softmax(axis) * log(z, axis)).sum(-1)
    return torch.where(here, negative_entropy, absent).softmax(over)


_logits = torch.randn(2, 3, 4, generator=generator(0, "exercise", "06"))
_all = torch.ones(2, 3, dtype=torch.bool)
_some = torch.tensor([[True, True, False], [True, False, True]])

entropy_gate: dict[str, Any] = {
    "reference": mla.entropy_weights,
    "cases": {
        "all": (_logits, _all),
        "some absent": (_logits, _some),
        "far": (200 * _logits, _all),
    },
    "mistakes": {
        "the softmax runs over the batch, not the classes": lambda *x: _gate(*x, axis=-2),
        "you trust the unsure one: the entropy needs a minus": lambda *x: _gate(*x, sign=-1),
        "the softmax runs over the modalities, not the classes": lambda *x: _gate(*x, axis=0),
        "the last softmax belongs to the modalities": lambda *x: _gate(*x, over=-1),
        "-e = 0 says sure; an absent modality needs -∞": lambda *x: _gate(*x, absent=0.0),
        "an absent modality keeps a weight": lambda z, here: mla.entropy_weights(z),
        "the weights of those present sum to 1": lambda z, here: mla.entropy_weights(z) * here,
        "log(softmax(z)) underflows": lambda *x: _gate(*x, log=lambda z, k: z.softmax(k).log()),
    },
}


# --- no pairs -------------------------------------------------------------------------------------


def unpaired(seed: int) -> MultimodalData:
    """av-digits with the training pairs taken apart: every sample has one modality, and its label.

    Twice as many samples, first the recordings in their order, then the scans in another one. A
    missing input is 0. Holdout and test stay in pairs.
    """
    data = load("av-digits", seed=seed)
    train, n = in_memory(data.train, "unpaired"), len(data.train)
    order = torch.randperm(n, generator=generator(seed, "unpaired"))
    a, i = train.inputs["audio"], train.inputs["image"][order]
    inputs = {"audio": torch.cat([a, 0 * a]), "image": torch.cat([0 * i, i])}
    heard = torch.arange(2 * n) < n
    target = torch.cat([train.target, train.target[order]])
    data.train = Batch(inputs, target, {"audio": heard, "image": ~heard})
    return data
