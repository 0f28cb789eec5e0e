"""Hidden cases of notebook 13."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(draw: torch.Generator) -> dict[str, tuple]:
    values = torch.randn(5, 6, 3, generator=draw, dtype=torch.float64)
    some = torch.rand(5, 6, generator=draw) < 0.6
    some[0], some[1] = False, True
    return {
        "words anywhere": (values, some),
        "one place": (values[:, :1], some[:, :1]),
        "no text has a word": (values, torch.zeros_like(some)),
        "large numbers in the padding": (torch.where(some[..., None], values, 1e6), some),
    }


def whole_mean(draw: torch.Generator) -> dict[str, tuple]:
    def drawn(*counts: int) -> tuple[Tensor, Tensor]:
        means, found = torch.rand(len(counts), 3, generator=draw), torch.tensor(counts)
        return torch.where(found[:, None] > 0, means.double(), torch.nan), found

    return {
        "unequal parts": drawn(7, 1, 30, 2),
        "one process": drawn(5),
        "most are empty": drawn(0, 0, 4, 0),
        "a very large part": drawn(100_000, 1),
    }
