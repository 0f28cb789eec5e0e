"""Gradient-Blending drawn: what an estimate measures, and the map of what blending minimises."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from matplotlib.axes import Axes
from torch import Tensor

from mmlab.balancers.gblend import blend_weights, optimal_weights, overfit_and_gain
from mmlab.plotting import LOOKS


def over_sum(w: Tensor) -> Tensor:
    return w / w.sum(-1, keepdim=True)


RULES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "G/O², guarded": blend_weights,
    "|G|/O²": lambda overfit, gain: over_sum(gain.abs() / overfit.square()),
    "G/O, guarded": lambda overfit, gain: over_sum(gain.clamp(min=0) / overfit.abs()),
}
"""Ways from overfit and gain (…, K) to weights: the library's, and two mistakes that are made."""


def estimate(
    curves: Mapping[str, tuple[Tensor, Tensor]],
    ax: Axes,
    *,
    head: str,
    before: int,
    after: int,
    rule: str = "G/O², guarded",
) -> None:
    """One head's losses, what it gains and overfits between two epochs, and its weight for that.

    curves: a head -> its mean losses (train, holdout) after each epoch, (epochs + 1,) each, in
    nats; the weight is that of `head` among all of them. Two epochs in the wrong order are swapped.
    """
    before, after = sorted((before, after))
    train, holdout = (torch.stack([pair[i] for pair in curves.values()], dim=-1) for i in (0, 1))
    overfit, gain = overfit_and_gain(train[before], holdout[before], train[after], holdout[after])
    k = list(curves).index(head)
    color = LOOKS[head].color

    seen, unheard = curves[head]
    epochs = range(len(seen))
    ax.fill_between(epochs, seen, unheard, color=color, alpha=0.12, linewidth=0)
    ax.plot(epochs, unheard, color=color, label="held-out")
    ax.plot(epochs, seen, color=color, linestyle=":", label="training")
    for epoch in (before, after):
        ax.plot([epoch, epoch], [seen[epoch], unheard[epoch]], color=color, linewidth=4, alpha=0.6)
    ax.axhline(unheard[before], color="#555555", linewidth=0.8, linestyle="--")
    if before < after:
        _arrow(ax, (after + before) / 2, float(unheard[before]), float(unheard[after]))
    ax.set_xlabel("epoch")
    w = RULES[rule](overfit, gain)[k]
    ax.set_title(f"{head}: w = {w:.2f}\nG = {gain[k]:+.2f}, O = {overfit[k]:+.2f}")


def _arrow(ax: Axes, x: float, start: float, end: float) -> None:
    """The gain, from the held-out loss before to that after; its colour tells a rise."""
    color = "#555555" if end <= start else "#B00020"
    ax.annotate(
        "", xy=(x, end), xytext=(x, start), arrowprops={"arrowstyle": "->", "color": color, "lw": 2}
    )


def ratio(w: Tensor, gain: Tensor, moment: Tensor) -> Tensor:
    """J = wᵀMw / (Gᵀw)²: expected squared overfit for squared gain; w (…, K) gives (…)."""
    return ((w @ moment) * w).sum(-1) / (w @ gain).square()


def second_moment(sigma: Tensor, correlation: float = 0.0, bias: float = 0.0) -> Tensor:
    """E[o oᵀ], (K, K), of overfits: deviations `sigma`, equal correlation, means bias · sigma."""
    together = torch.full((len(sigma), len(sigma)), float(correlation), dtype=sigma.dtype)
    return (together.fill_diagonal_(1) + bias**2) * sigma[:, None] * sigma


def criterion(
    gain: Tensor, sigma: Tensor, ax: Axes, *, correlation: float = 0.0, bias: float = 0.0
) -> None:
    """The map of J over the blends of three heads, with the optimum and the diagonal formula.

    gain, sigma: G and the deviations of the overfit, (3,) each. Right is weight on head 1, up is
    weight on head 2, the rest lies on head 3. The triangle holds the blends without a negative
    weight. Darker is worse; white is where the blend gains nothing.
    """
    moment = second_moment(sigma, correlation, bias)
    grid = torch.linspace(-0.35, 1.1, 120, dtype=gain.dtype)
    one, two = torch.meshgrid(grid, grid, indexing="xy")
    w = torch.stack([one, two, 1 - one - two], dim=-1)
    best = optimal_weights(gain, moment)
    lowest = ratio(best, gain, moment)
    excess = (ratio(w, gain, moment) / lowest).log2().masked_fill(w @ gain <= 0, torch.nan)
    ax.contourf(one, two, excess.clamp(max=5), levels=10, cmap="Greys", alpha=0.8)
    ax.plot([0, 1, 0, 0], [0, 0, 1, 0], color="#555555", linewidth=1)
    diagonal = over_sum(gain / moment.diagonal())
    ax.plot(*best[:2], "*", color="#009E73", markersize=14, markeredgecolor="black", label="best")
    ax.plot(
        *diagonal[:2], "X", color="#D55E00", markersize=9, markeredgecolor="black", label="G/σ²"
    )
    for k, place in enumerate([(1, 0), (0, 1), (0, 0)], start=1):
        ax.annotate(str(k), place, xytext=(4, 4), textcoords="offset points", weight="bold")
    singles = ratio(torch.eye(len(gain), dtype=gain.dtype), gain, moment)
    formula = ratio(diagonal, gain, moment)
    ax.set_title(f"best {lowest:.2f}, formula {formula:.2f},\nbest head {singles.min():.2f}")
    ax.set(xlabel="weight of head 1", aspect="equal")
    ax.grid(False)
