"""Hidden cases of notebook 06."""

from __future__ import annotations

import torch
from torch import Tensor

from mmlab.balancers import mla


def give_back(draw: torch.Generator) -> dict[str, tuple]:
    def drawn(size: int, alpha: float) -> tuple[Tensor, Tensor, float]:
        old, new = torch.randn(2, size, generator=draw, dtype=torch.float64)
        return mla.rls_projector(mla.restarted_projector(old[None], alpha), new, alpha), old, alpha

    return {"hard": drawn(7, 0.2), "soft": drawn(4, 3.0), "one number": drawn(1, 0.5)}


def entropy_gate(draw: torch.Generator) -> dict[str, tuple]:
    logits = 2 * torch.randn(3, 6, 5, generator=draw, dtype=torch.float64)
    all_here = torch.ones(3, 6, dtype=torch.bool)
    some = torch.rand(3, 6, generator=draw) < 0.5
    some[1] |= ~some.any(0)
    some[:, 0] = torch.tensor([True, False, False])
    return {
        "three modalities": (logits, all_here),
        "some absent": (logits, some),
        "logits far apart": (500 * logits, all_here),
        "two modalities": (logits[:2], all_here[:2]),
    }
