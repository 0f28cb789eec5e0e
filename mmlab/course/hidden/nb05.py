"""Hidden cases of notebook 05."""

from __future__ import annotations

import torch
from torch import Tensor


def common_fall(draw: torch.Generator) -> dict[str, tuple]:
    norms = (0.5 + torch.rand(3, 2, generator=draw, dtype=torch.float64)).tolist()
    return {
        "alike": (*norms[0], -0.5),
        "a long joint gradient": (8 * norms[1][0], norms[1][1], -0.2),
        "nearly opposite": (*norms[2], -0.9),
    }


def pcgrad(draw: torch.Generator) -> dict[str, Tensor]:
    pairs = torch.randn(4, 5, 2, 7, generator=draw, dtype=torch.float64)
    pairs[..., 1, :] *= 3
    gram = pairs @ pairs.mT
    flat = gram.flatten(0, 1)
    return {
        "a grid": gram,
        "conflicts alone": flat[flat[:, 0, 1] < 0],
        "no conflict": flat[flat[:, 0, 1] > 0],
        "one Gramian": flat[flat[:, 0, 1].argmin()],
    }
