"""What an exercise of notebook 06 is checked with: reference, cases, and likely slips.

It is what `exercise(**...)` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mmlab.balancers import mla

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
