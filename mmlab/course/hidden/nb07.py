"""Hidden cases of notebook 07."""

from __future__ import annotations

import torch
from torch import Tensor


def posterior(draw: torch.Generator) -> dict[str, tuple]:
    def drawn(modalities: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
        log_p = torch.randn(modalities, 6, classes, generator=draw, dtype=torch.float64)
        present = torch.rand(modalities, 6, generator=draw) < 0.5
        present[0] |= ~present.any(0)
        present[:, 0] = True
        prior = torch.rand(classes, generator=draw, dtype=torch.float64) + 0.05
        return log_p.log_softmax(-1), present, (prior / prior.sum()).log()

    return {"two modalities": drawn(2, 5), "four": drawn(4, 3), "one": drawn(1, 4)}


def chances(draw: torch.Generator) -> dict[str, Tensor]:
    rates = 0.1 + 0.8 * torch.rand(5, generator=draw, dtype=torch.float64)
    never = torch.tensor([0.0, 1.0, 0.5], dtype=torch.float64)
    return {"two": rates[:2], "three": rates[2:], "five": rates, "never and always": never}
