"""Two gradients in a plane, and what MMPareto makes of them. g is the joint one, u the unimodal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmlab.balancers.mmpareto import min_norm_weights, pareto_gradient
from mmlab.plotting import LOOKS, Look, canvas

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#555555"

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


def shortest(ax: Axes, *, angle: float, ratio: float) -> None:
    """g, u, the segment between them, its point next to the origin, and half of the sum, to scale.

    angle: between g and u, degrees. ratio: ‖u‖ / ‖g‖.
    """
    g, u = plane(angle, ratio)
    w = min_norm_weights(g, u)
    point = w * g + (1 - w) * u
    ax.plot(*zip(g.tolist(), u.tolist(), strict=True), color=_GREY, linewidth=1.2, zorder=1)
    for name, (tip, look) in {"g": (g, LOOKS["joint"]), "u": (u, LOOKS["image"])}.items():
        _arrow(ax, name, tip, look)
    look = RULES["Pareto"]
    ax.plot(*zip((0.0, 0.0), point.tolist(), strict=True), color=look.color, linestyle="--")
    ax.plot(*point.tolist(), look.marker, color=look.color, markersize=9, label="shortest point")
    if 0 < w < 1:
        _square(ax, point, u - g)
    look = RULES["sum"]
    ax.plot(*((g + u) / 2).tolist(), look.marker, color=look.color, markersize=9, label="midpoint")
    ax.plot(0, 0, "o", color="black", markersize=4)
    ax.set(xlim=(-0.8, 0.85), ylim=(-0.1, 1.05), aspect="equal")
    ax.axis("off")


def pairs(angles: Sequence[float], *, ratio: float) -> Figure:
    """A panel of `pair` for each angle, in degrees."""
    figure, axes = canvas(len(angles))
    figure.set_figheight(2.2)  # to scale, three flat panels would leave half of it blank
    for ax, angle in zip(axes, angles, strict=True):
        pair(ax, angle=angle, ratio=ratio)
    return figure


def triangles(angles: Sequence[float], *, ratio: float) -> Figure:
    """A panel of `shortest` for each angle, in degrees."""
    figure, axes = canvas(len(angles))
    for ax, angle in zip(axes, angles, strict=True):
        shortest(ax, angle=angle, ratio=ratio)
        ax.set_title(f"{angle:.0f}°: {'a conflict' if angle > 90 else 'no conflict'}")
    axes[0].legend(loc="lower left")
    return figure


def against_angle(*, ratio: float, gamma: float) -> Figure:
    """`lengths` and `directions` side by side."""
    figure, (left, right) = canvas(2)
    lengths(left, ratio=ratio, gamma=gamma)
    directions(right, ratio=ratio, gamma=gamma)
    left.legend()
    return figure


def pair(ax: Axes, *, angle: float, ratio: float) -> None:
    """g, u and their sum, to scale; the title says whether they conflict and whom the sum opposes.

    angle: between g and u, degrees. ratio: ‖u‖ / ‖g‖.
    """
    g, u = plane(angle, ratio)
    arrows = {"g": (g, LOOKS["joint"]), "u": (u, LOOKS["image"]), "sum": (g + u, RULES["sum"])}
    for name, (tip, look) in arrows.items():
        _arrow(ax, name, tip, look)
    (left, right), (low, high) = _reach(ratio, gamma=1)
    ax.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    ax.axis("off")
    said = _verdict(g, u).replace(", ", ",\n")
    ax.set_title(f"{angle:.0f}°: {said}")


def segment(ax: Axes, *, angle: float, ratio: float, gamma: float) -> None:
    """g, u, the segment between them, half of Pareto's step on it, the sum, and MMPareto's step.

    angle: between g and u, degrees. ratio: ‖u‖ / ‖g‖. gamma: γ, no unit.
    """
    g, u = plane(angle, ratio)
    found = steps(g, u, gamma)
    ax.plot(*zip(g.tolist(), u.tolist(), strict=True), color=_GREY, linewidth=1.2)
    ax.plot(*(found["Pareto"] / 2).tolist(), "o", color=RULES["Pareto"].color, markersize=9)
    arrows = {"g": (g, LOOKS["joint"]), "u": (u, LOOKS["image"])}
    arrows |= {name: (found[name], RULES[name]) for name in ("sum", "MMPareto")}
    for name, (tip, look) in arrows.items():
        _arrow(ax, name, tip, look)
    (left, right), (low, high) = _reach(ratio, gamma)
    ax.set(xlim=(left, right), ylim=(low, high), aspect="equal")
    ax.axis("off")
    ax.set_title(f"{angle:.0f}°: {_verdict(g, u)}")


def _reach(ratio: float, gamma: float) -> Tensor:
    """Ends of both axes, (2, 2), that hold all arrows and their names from 75 degrees on."""
    g, u = plane(torch.arange(75, 181, 5), ratio)
    tips = torch.stack([g, u, *steps(g, u, gamma).values()]).flatten(0, 1)
    low, high = tips.amin(0).clamp(max=0), tips.amax(0)
    room = 0.1 * (high - low).max()
    return torch.stack([low - room, high + room], -1)


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
    style = {"color": look.color, "linestyle": look.linestyle, "linewidth": 2.4}
    style |= {"arrowstyle": "-|>", "mutation_scale": 16, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", (x, y), (0, 0), arrowprops=style)
    above = ((0, 10), "center")
    beside = ((10, 3), "left") if y > abs(x) / 2 else above  # a flat arrow has no room beside it
    places = {"sum": beside, "MMPareto": above}
    length = math.hypot(x, y) or 1.0
    away, side = places.get(name, ((11 * x / length, 11 * y / length), "center"))
    text = ax.annotate(name, (x, y), away, textcoords="offset points", ha=side, va="center")
    text.set(color=look.color, fontsize=11, fontweight="bold")


def _square(ax: Axes, corner: Tensor, along: Tensor, size: float = 0.07) -> None:
    """The mark of a right angle between the segment and the way to the origin."""
    a = along / along.norm() * size
    b = -corner / corner.norm() * size
    ax.plot(*torch.stack([corner + a, corner + a + b, corner + b]).T.tolist(), color=_GREY, lw=1)


def _verdict(g: Tensor, u: Tensor) -> str:
    """Whether the two conflict, and whom the uniform sum then opposes."""
    if torch.dot(g, u) >= 0:
        return "no conflict"
    opposed = [name for name, x in (("g", g), ("u", u)) if torch.dot(g + u, x) < 0]
    return f"the sum opposes {opposed[0]}" if opposed else "a conflict, the sum serves both"
