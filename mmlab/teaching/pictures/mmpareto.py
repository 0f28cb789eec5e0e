"""Two gradients in a plane, and what MMPareto makes of them. g is the joint one, u the unimodal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmlab.balancers.mmpareto import min_norm_weights, pareto_gradient
from mmlab.plotting import LOOKS, Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RULES = {
    "sum": LOOKS["uniform"],
    "Pareto": Look("#CC79A7", "--", "X"),
    "MMPareto": LOOKS["MMPareto"],
}
"""g + u; twice the min-norm point in a conflict, else g + u; and that with MMPareto's magnitude."""


def plane(angle: Tensor | float, ratio: float) -> tuple[Tensor, Tensor]:
    """Gradients g and u in the plane with `angle` degrees between them and ‖u‖ = `ratio` ‖g‖.

    angle: of any shape (…). Returns two tensors (…, 2); g points right, the longer has length 1.
    """
    turn = torch.deg2rad(torch.as_tensor(angle, dtype=torch.float64))
    unit = 1 / max(1.0, ratio)
    u = ratio * unit * torch.stack([turn.cos(), turn.sin()], -1)
    return torch.tensor([unit, 0.0], dtype=torch.float64).expand_as(u), u


def steps(g: Tensor, u: Tensor, gamma: float) -> dict[str, Tensor]:
    """What each of `RULES` makes of g and u, (…, P) like them."""
    total = g + u
    w = min_norm_weights(g, u)[..., None]
    conflict = (g * u).sum(-1, keepdim=True) < 0
    return {
        "sum": total,
        "Pareto": torch.where(conflict, 2 * (w * g + (1 - w) * u), total),
        "MMPareto": pareto_gradient(g, u, gamma=gamma),
    }


def segment(ax: Axes, *, angle: float, ratio: float, gamma: float) -> None:
    """g, u, the segment between them, half of Pareto's step on it, the sum, and MMPareto's step.

    angle: between g and u, degrees. ratio: ‖u‖ / ‖g‖. gamma: γ, no unit.
    """
    g, u = plane(angle, ratio)
    found = steps(g, u, gamma)
    ax.plot(*zip(g.tolist(), u.tolist(), strict=True), color="#555555", linewidth=1)
    ax.plot(*(found["Pareto"] / 2).tolist(), "o", color=RULES["Pareto"].color, markersize=7)
    arrows = {"g": (g, LOOKS["joint"]), "u": (u, LOOKS["image"])}
    arrows |= {name: (found[name], RULES[name]) for name in ("sum", "MMPareto")}
    for name, (tip, look) in arrows.items():
        _arrow(ax, name, tip, look)
    reach = 0.9 * gamma * (g.norm() + u.norm()).item() + 0.3  # the same at every angle
    ax.set(xlim=(-1.2, max(reach, 1.3)), ylim=(-0.3, max(0.85 * reach, 1.2)))
    ax.set(aspect="equal", xticks=[], yticks=[])
    ax.set_title(f"{angle:.0f}°: {_verdict(g, u)}")


def lengths(ax: Axes, *, ratio: float, gamma: float) -> None:
    """Length of each rule's step, relative to the sum's, against the angle between g and u."""
    angles = torch.linspace(0, 179, 180, dtype=torch.float64)
    found = steps(*plane(angles, ratio), gamma)
    for name, step in found.items():
        relative = step.norm(dim=-1) / found["sum"].norm(dim=-1)
        _curve(ax, angles, relative, name)
    ax.set(ylabel="length / length of the sum", ylim=(0, None))


def directions(ax: Axes, *, ratio: float, gamma: float) -> None:
    """Angle from g to each rule's step against the angle between g and u, both in degrees.

    In the shaded band a step is at most 90° from both, so it opposes neither.
    """
    angles = torch.arange(1, 180, dtype=torch.float64)
    for name, step in steps(*plane(angles, ratio), gamma).items():
        if name != "Pareto":  # it has MMPareto's direction
            away = torch.rad2deg(torch.atan2(step[..., 1], step[..., 0]))
            _curve(ax, angles, away, name)
    edge = (angles - 90).clamp(min=0)
    ax.fill_between(angles, edge, 90, color="#009E73", alpha=0.1, linewidth=0)
    ax.set(ylabel="from g to the step, degrees", ylim=(0, 180), yticks=range(0, 181, 45))


def _curve(ax: Axes, angles: Tensor, values: Tensor, name: str) -> None:
    ax.plot(angles, values, label=name, markevery=0.2, **RULES[name]._asdict())
    ax.set(xlabel="angle between g and u, degrees", xlim=(0, 180), xticks=range(0, 181, 45))


def _arrow(ax: Axes, name: str, tip: Tensor, look: Look) -> None:
    """An arrow from the origin, with its name beyond the tip."""
    x, y = tip.tolist()
    style = {"color": look.color, "linestyle": look.linestyle, "linewidth": 1.8}
    style |= {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (x, y), (0, 0), arrowprops=style)
    if name == "sum":  # it may lie along MMPareto's step: its name goes beside the tip
        ax.text(x + 0.1, y, name, color=look.color, ha="left", va="center")
    else:
        beyond = 1 + 0.17 / (math.hypot(x, y) or 1.0)
        ax.text(beyond * x, beyond * y, name, color=look.color, ha="center", va="center")


def _verdict(g: Tensor, u: Tensor) -> str:
    """Whether the two conflict, and whom the uniform sum then opposes."""
    if torch.dot(g, u) >= 0:
        return "no conflict"
    opposed = [name for name, x in (("g", g), ("u", u)) if torch.dot(g + u, x) < 0]
    return f"the sum opposes {opposed[0]}" if opposed else "a conflict, the sum serves both"
