"""What the exercises of notebook 01 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmlab.seeds import generator

Arguments = tuple[Tensor, ...]


# --- the gradient of the joint loss and the image's own -------------------------------------------


def _by_autograd(
    features: Tensor,
    rest: Tensor,
    y: Tensor,
    W: Tensor,
    V: Tensor,
    d: Tensor,
    *,
    joint: float = 1,
    own: float = 1,
) -> Tensor:
    """What autograd says of `joint` times the joint loss and `own` times the image's own."""
    h = features.clone().requires_grad_()
    joint_loss = nn.functional.cross_entropy(rest + h @ W.T, y)
    own_loss = nn.functional.cross_entropy(h @ V.T + d, y)
    return torch.autograd.grad(joint * joint_loss + own * own_loss, h)[0]


def _one_residual(h: Tensor, rest: Tensor, y: Tensor, W: Tensor, V: Tensor, d: Tensor) -> Tensor:
    return ((rest + h @ W.T).softmax(-1) - y) @ (W + V) / len(y)


def _case(push: int) -> Arguments:
    """Random float64 arguments; `push` makes the audio surer of the right class."""
    stream = generator(push, "exercise", "01")

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64, generator=stream)

    y = nn.functional.one_hot(torch.randint(10, (8,), generator=stream), 10).double()
    return draw(8, 64), draw(8, 10) + push * y, y, draw(10, 64), draw(10, 64), draw(10)


encoder_gradient: dict[str, Any] = {
    "reference": _by_autograd,
    "cases": {"audio unsure": _case(0), "audio certain": _case(50)},
    "mistakes": {
        "a mean divides by B": lambda *args: len(args[2]) * _by_autograd(*args),
        "the residual is p − y, not y − p": lambda *args: -_by_autograd(*args),
        "the image's own loss is missing": lambda *args: _by_autograd(*args, own=0),
        "the joint loss is missing": lambda *args: _by_autograd(*args, joint=0),
        "the own loss has a residual of its own": _one_residual,
        "p needs the other shares, `rest`": lambda h, rest, *args: _by_autograd(h, 0 * rest, *args),
        "the own head has a bias d": lambda h, rest, y, W, V, d: _by_autograd(
            h, rest, y, W, V, 0 * d
        ),
    },
}


# --- the answer of networks that never met --------------------------------------------------------


def _ensemble(logits: list[Tensor]) -> Tensor:
    return torch.stack([z.log_softmax(-1) for z in logits]).mean(0)


def _logits_of(*sizes: float) -> tuple[list[Tensor]]:
    """One tensor (5, 10) per modality; its size is how sure the network is."""
    stream = generator(1, "exercise", "01", len(sizes))
    return ([x * torch.randn(5, 10, dtype=torch.float64, generator=stream) for x in sizes],)


ensemble: dict[str, Any] = {
    "reference": _ensemble,
    "cases": {"two alike": _logits_of(1, 1), "three, one too sure": _logits_of(1, 2, 30)},
    "mistakes": {
        "logits of two networks have no common zero: take log-probabilities": lambda z: torch.stack(
            z
        ).mean(0),
        "log-probabilities are averaged, not probabilities": lambda z: (
            torch.stack([x.softmax(-1) for x in z]).mean(0).log()
        ),
        "the answer is a log-probability, not a probability": lambda z: _ensemble(z).exp(),
        "a mean divides by the number of networks": lambda z: len(z) * _ensemble(z),
        "softmax runs over the classes, the last axis": lambda z: torch.stack(
            [x.log_softmax(0) for x in z]
        ).mean(0),
    },
}
