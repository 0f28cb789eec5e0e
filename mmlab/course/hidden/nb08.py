"""Hidden cases of notebook 08."""

from __future__ import annotations

import torch
from torch import Tensor


def shares(draw: torch.Generator) -> dict[str, tuple]:
    one, two = torch.randn(2, 4, 6, 3, generator=draw, dtype=torch.float64)
    nothing = torch.zeros_like(one[0])
    return {
        "any fusion": tuple(one),
        "a silent baseline": (nothing, *two[1:]),
        "one modality alone counts": (nothing, two[1], nothing, two[1]),
        "one sample": tuple(x[:1] for x in two),
    }


def i_min(draw: torch.Generator) -> dict[str, Tensor]:
    def drawn(*shape: int) -> Tensor:
        p = torch.rand(shape, generator=draw, dtype=torch.float64)
        return p / p.sum()

    holes = drawn(4, 3, 2)
    holes[0, 1], holes[2, :, 0] = 0, 0
    xor = torch.zeros(2, 2, 2, dtype=torch.float64)
    for a in (0, 1):
        for b in (0, 1):
            xor[a ^ b, a, b] = 0.25
    return {"any": drawn(3, 4, 2), "never seen": holes / holes.sum(), "one of two differs": xor}
