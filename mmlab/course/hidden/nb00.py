"""Hidden cases of notebook 00."""

from __future__ import annotations

import torch
from torch import Tensor


def standardise(draw: torch.Generator) -> dict[str, tuple]:
    columns = torch.tensor([1.0, 10.0, 0.1, 1.0, 5.0], dtype=torch.float64)
    train, later = columns * torch.randn(2, 30, 5, generator=draw, dtype=torch.float64) + columns
    return {
        "five columns": (train, later),
        "one new row": (train, later[:1]),
        "one column": (train[:, :1], later[:, :1]),
        "values far away": (train, later + 100),
    }


def shares(draw: torch.Generator) -> dict[str, tuple]:
    def drawn(modalities: int, samples: int, width: int) -> tuple[list[Tensor], Tensor, Tensor]:
        features = [torch.randn(samples, width, generator=draw) for _ in range(modalities)]
        weight = torch.randn(4, width * modalities, generator=draw)
        return features, weight, torch.randn(4, generator=draw)

    return {
        "two modalities": drawn(2, 7, 3),
        "five modalities": drawn(5, 4, 2),
        "one modality": drawn(1, 4, 6),
        "one sample": drawn(3, 1, 5),
    }
