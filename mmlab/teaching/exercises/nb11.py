"""What the exercises of notebook 11 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Splits = dict[str, tuple[Tensor, Tensor]]
Train = Callable[[Splits], Tensor]

# --- what the choice of an epoch adds -------------------------------------------------------------


def _added(holdout: Tensor, test: Tensor) -> Tensor:
    """Points by which the best epoch of each run exceeds the holdout's choice, in the mean."""
    chosen = test.gather(1, holdout.argmax(1, keepdim=True))[:, 0]
    return 100 * (test.amax(1) - chosen).mean()


def _curves(seed: int, runs: int = 4, epochs: int = 7) -> tuple[Tensor, Tensor]:
    """Accuracies (runs, epochs) on holdout and test, from 0 to 1."""
    draw = torch.Generator().manual_seed(seed)
    holdout, test = torch.rand(2, runs, epochs, generator=draw, dtype=torch.float64)
    return 0.6 + 0.3 * holdout, 0.4 + 0.3 * test


def _of_the_mean_curve(holdout: Tensor, test: Tensor) -> Tensor:
    return _added(holdout.mean(0, keepdim=True), test.mean(0, keepdim=True))


added: dict[str, Any] = {
    "reference": _added,
    "cases": {"four runs": _curves(0), "another four": _curves(1), "one run": _curves(2, runs=1)},
    "mistakes": {
        "a share is not yet points: times 100": lambda h, t: _added(h, t) / 100,
        "the last epoch is not what the holdout chooses": lambda h, t: (
            100 * (t.amax(1) - t[:, -1]).mean()
        ),
        "the holdout chooses the epoch; the accuracy is the test's": lambda h, t: (
            100 * (t.amax(1) - h.amax(1)).mean()
        ),
        "the best by the test minus its mean is another question": lambda h, t: (
            100 * (t.amax(1) - t.mean(1)).mean()
        ),
        "choose in each run, and average then": _of_the_mean_curve,
        "the mean over the runs, not their sum": lambda h, t: len(t) * _added(h, t),
    },
}


# --- which splits a training reads ----------------------------------------------------------------


def _fitted(x: Tensor, y: Tensor) -> Tensor:
    """Ridge regression, (D,)."""
    return torch.linalg.solve(x.T @ x + torch.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def _honest(splits: Splits) -> Tensor:
    return _fitted(*splits["train"])


def _by_labels_of(name: str) -> Train:
    """The length of the weights follows the labels of a split."""
    return lambda splits: _honest(splits) * (1 + splits[name][1].abs().mean())


def _centred_on(name: str) -> Train:
    """The inputs lose the mean of a split's inputs; its labels are not read."""

    def train(splits: Splits) -> Tensor:
        x, y = splits["train"]
        return _fitted(x - splits[name][0].mean(0), y)

    return train


def _by_a_hair(splits: Splits) -> Tensor:
    return _honest(splits) + 1e-12 * splits["test"][1].mean()


def _tuned_and_leaking(splits: Splits) -> Tensor:
    return _by_labels_of("holdout")(splits) + _centred_on("test")(splits)


def _splits() -> Splits:
    draw = torch.Generator().manual_seed(0)

    def pair() -> tuple[Tensor, Tensor]:
        x = torch.randn(20, 3, generator=draw, dtype=torch.float64)
        return x, x[:, 0] + torch.rand(20, generator=draw, dtype=torch.float64)

    return {name: pair() for name in ("train", "holdout", "test")}


def _other(pair: tuple[Tensor, Tensor], inputs: bool, labels: bool) -> tuple[Tensor, Tensor]:
    x, y = pair
    return x + 1 if inputs else x, y + 1 if labels else y


def _reading(
    train: Train,
    splits: Splits,
    *,
    inputs: bool = True,
    labels: bool = True,
    near: float = 0.0,
    among: tuple[str, ...] = ("holdout", "test"),
) -> str:
    before = train(splits)
    found = []
    for name in among:
        after = train(splits | {name: _other(splits[name], inputs, labels)})
        if (after - before).abs().max() > near:
            found.append(name)
    return " ".join(found)


def _all_at_once(train: Train, splits: Splits) -> str:
    other = {name: _other(splits[name], True, True) for name in ("holdout", "test")}
    same = torch.equal(train(splits), train(splits | other))
    return "" if same else "holdout test"


def _the_others(train: Train, splits: Splits) -> str:
    found = _reading(train, splits).split()
    return " ".join(name for name in ("holdout", "test") if name not in found)


reads: dict[str, Any] = {
    "reference": _reading,
    "cases": {
        "an honest one": (_honest, _splits()),
        "labels of the holdout": (_by_labels_of("holdout"), _splits()),
        "labels of the test": (_by_labels_of("test"), _splits()),
        "inputs of the test": (_centred_on("test"), _splits()),
        "both splits": (_tuned_and_leaking, _splits()),
        "by a hair": (_by_a_hair, _splits()),
    },
    "mistakes": {
        "inputs can leak too": lambda t, s: _reading(t, s, inputs=False),
        "labels can leak too": lambda t, s: _reading(t, s, labels=False),
        "compare bit for bit, not within a tolerance": lambda t, s: _reading(t, s, near=1e-8),
        "replace one split at a time": _all_at_once,
        "name the splits that are read, not those that are not": _the_others,
        "that it reads the training split is no news": lambda t, s: _reading(
            t, s, among=("train", "holdout", "test")
        ),
    },
}
