"""Hidden cases of notebook 11."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Splits = dict[str, tuple[Tensor, Tensor]]


def added(draw: torch.Generator) -> dict[str, tuple]:
    def drawn(runs: int, epochs: int) -> tuple[Tensor, Tensor]:
        holdout, test = torch.rand(2, runs, epochs, generator=draw, dtype=torch.float64)
        return 0.5 + holdout / 2, 0.3 + test / 2

    return {"six runs": drawn(6, 9), "one run": drawn(1, 20), "one epoch": drawn(4, 1)}


def reads(draw: torch.Generator) -> dict[str, tuple]:
    def pair(samples: int) -> tuple[Tensor, Tensor]:
        return (
            torch.randn(samples, 4, generator=draw, dtype=torch.float64),
            torch.randn(samples, generator=draw, dtype=torch.float64),
        )

    splits = {"train": pair(25), "holdout": pair(9), "test": pair(12)}
    return {name: (_reading(*what), splits) for name, what in _READ.items()}


_READ: dict[str, list[tuple[str, int, float]]] = {
    "an honest one": [],
    "inputs of the holdout": [("holdout", 0, 1.0)],
    "labels of the test, by a hair": [("test", 1, 1e-13)],
    "labels of the holdout, inputs of the test": [("holdout", 1, 0.1), ("test", 0, 0.1)],
}
"""Which splits a training reads: the name, 0 for its inputs or 1 for its labels, and how much."""


def _reading(*read: tuple[str, int, float]) -> Callable[[Splits], Tensor]:
    def train(splits: Splits) -> Tensor:
        x, y = splits["train"]
        w = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)
        for name, place, much in read:
            w = w + much * splits[name][place].mean()
        return w

    return train
