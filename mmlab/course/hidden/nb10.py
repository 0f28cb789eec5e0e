"""Hidden cases of notebook 10."""

from __future__ import annotations

import torch


def mean_ranks(draw: torch.Generator) -> dict[str, list]:
    scores = torch.rand(5, 6, generator=draw, dtype=torch.float64)
    return {
        "five sets": scores.tolist(),
        "many equal": (3 * scores).round().tolist(),
        "one set": scores[:1].tolist(),
        "all equal": [[0.5, 0.5, 0.5], [0.7, 0.7, 0.7]],
    }


def overlap_error(draw: torch.Generator) -> dict[str, tuple]:
    values = torch.randn(12, generator=draw, dtype=torch.float64).tolist()
    return {
        "twelve seeds": (values, 1000, 500),
        "three seeds": (values[:3], 300, 100),
        "a small test split": (values[:6], 10_000, 10),
    }
