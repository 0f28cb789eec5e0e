"""What MLA does, in the plane: the step of a shared head, and the gate on the simplex."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.tri import Triangulation
from torch import Tensor

from mmlab.balancers.mla import entropy_weights, restarted_projector, rls_projector
from mmlab.plotting import LOOKS

PROJECTORS = ("none", "restarted", "rls")
BATCHES = 24
"""What the recursion has seen in the picture of the step: one epoch."""
SPREAD = 0.1
"""Standard deviation of a batch mean around the mean feature, which has length 1."""


def plane_projector(projector: str, alpha: float) -> Tensor:
    """The projector in a plane whose first axis is the other modality's mean feature: (2, 2).

    "restarted" knows the mean feature. "rls" has seen `BATCHES` batch means, which vary around it.
    Raises ValueError for another projector.
    """
    if projector not in PROJECTORS:
        raise ValueError(f"projector is {projector!r}; allowed are {', '.join(PROJECTORS)}")
    P = torch.eye(2, dtype=torch.float64)
    if projector == "restarted":
        return restarted_projector(P[:1], alpha)
    if projector == "rls":
        noise = SPREAD * torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
        for i in range(BATCHES):  # the four noises average to 0 and have the spread in each axis
            P = rls_projector(P, noise[i % 4] + torch.tensor([1.0, 0.0]), alpha)
    return P


def head_step(ax: Axes, *, angle: float, alpha: float, projector: str) -> None:
    """One step of a head's weight, plain and projected.

    angle: between the wanted step and the other modality's mean feature, degrees.
    alpha: softness of the projector, in units of the mean feature's squared length.

    On the dashed line the other modality's logit, at its mean feature, stays as it is.
    """
    radians = torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
    plain = torch.stack([radians.cos(), radians.sin()])
    step = plain @ plane_projector(projector, alpha)
    ax.axvline(0, color="#555555", linestyle="--", linewidth=1)
    for (x, y), label, color, width in (
        (plain, "plain step", "#999999", 5),
        (step, "step taken", LOOKS["image"].color, 2),
    ):
        ax.plot([0, x], [0, y], "-o", color=color, linewidth=width, markevery=[1], label=label)
    ax.set(xlim=(-1.15, 1.15), ylim=(-0.75, 1.15), aspect="equal", yticks=[0, 1])
    ax.set(xlabel="along the other's mean", ylabel="across it")
    ax.legend(loc="lower left", fontsize=8, borderaxespad=0.2)
    name = "no projector" if projector == "none" else f"{projector}, α = {alpha:g}"
    ax.set_title(f"{name}\nalong {step[0]:+.2f}, across {step[1]:.2f}")


CORNERS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]], dtype=torch.float64)
"""Where the simplex of three classes has its corners in the picture."""


def simplex(resolution: int = 60) -> Tensor:
    """A grid of probabilities over three classes, all above 0: (N, 3)."""
    i, j = torch.meshgrid(torch.arange(resolution), torch.arange(resolution), indexing="ij")
    inside = i + j < resolution
    counts = torch.stack([i[inside], j[inside], resolution - 1 - (i + j)[inside]], dim=-1)
    return (counts.double() + 1e-3) / (resolution - 1 + 3e-3)


def says_first(own: Tensor, other: Tensor, weight: Tensor | float) -> Tensor:
    """Fused logit of class 1 minus the best of the rest; own (N, 3), other (3,), weight (N)."""
    weight = torch.as_tensor(weight, dtype=own.dtype).expand(len(own))[:, None]
    fused = weight * own.log() + (1 - weight) * other.log()
    return fused[:, 0] - fused[:, 1:].amax(-1)


def gate_weight(own: Tensor, other: Tensor) -> Tensor:
    """Weight (N) that the entropy gate gives to `own` (N, 3) beside `other` (3,)."""
    logits = torch.stack([own.log(), other.log().expand_as(own)])
    return entropy_weights(logits)[0]


def gate(ax: Axes, *, sure: float) -> None:
    """The weight of a modality by what it says, and where it overrules the other.

    sure: the probability that the other modality gives to class 1; the rest is shared equally.
    """
    own = simplex()
    other = torch.tensor([sure, (1 - sure) / 2, (1 - sure) / 2], dtype=torch.float64)
    weight = gate_weight(own, other)
    grid = Triangulation(*(own @ CORNERS).T.numpy())
    levels = [round(0.05 * k, 2) for k in range(5, 16)]  # 1/4 to 3/4, the bounds for three classes
    filled = ax.tricontourf(grid, weight.numpy(), levels=levels, cmap="Blues", extend="both")
    bar = ax.figure.colorbar(filled, ax=ax, orientation="horizontal", shrink=0.8, pad=0.02)
    bar.set_ticks(levels[1::2])
    bar.set_label("weight")
    for rule, style, color in ((weight, "solid", "#D55E00"), (0.5, "dashed", "black")):
        margin = says_first(own, other, rule).numpy()
        ax.tricontour(grid, margin, levels=[0], colors=color, linestyles=style, linewidths=1.8)
    ax.plot(*(other @ CORNERS).numpy(), "*", color="black", markersize=10)
    for k, (x, y) in enumerate(CORNERS.tolist()):
        below = y == 0
        ax.text(
            x,
            y + (-0.04 if below else 0.03),
            f"class {k + 1}",
            ha="center",
            va="top" if below else "bottom",
            fontsize=8,
        )
    ax.set(xlim=(-0.12, 1.12), ylim=(-0.12, 1.0), aspect="equal")
    ax.set_axis_off()
    ax.set_title(f"the other: class 1 at {100 * sure:.0f} %")
