"""Hidden cases of notebook 04."""

from __future__ import annotations

import torch


def coefficients(draw: torch.Generator) -> dict[str, tuple]:
    scores = 0.1 + 0.8 * torch.rand(4, 6, generator=draw, dtype=torch.float64)
    return {
        "two": (scores[0, :2], 0.8),
        "three": (scores[1, :3], 0.1),
        "six": (scores[2], 0.5),
        "the second leads": (torch.tensor([0.2, 0.9, 0.3], dtype=torch.float64), 2.0),
    }


def resting_ratio(draw: torch.Generator) -> dict[str, tuple]:
    speeds = 1.1 + 3 * torch.rand(3, 5, generator=draw, dtype=torch.float64)
    return {
        "weak": (speeds[0], 0.25),
        "strong": (speeds[1], 1.5),
        "hardly faster": (1 + speeds[2] / 100, 0.5),
    }
