"""Gradient-Blending drawn: the losses of a head, what an estimate measures, and the map of J."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from matplotlib.contour import ContourSet
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mmlab.balancers.gblend import blend_weights, optimal_weights, overfit_and_gain
from mmlab.plotting import LOOKS

if TYPE_CHECKING:
    import pandas as pd

DOWN, UP = "#555555", "#B00020"
"""The colour of a held-out loss that falls, and of one that rises."""

DOUBLINGS = 5
"""The map of J shades so many doublings of the least value; what is worse has the last shade."""


def over_sum(w: Tensor) -> Tensor:
    """w (…, K) over its sum."""
    return w / w.sum(-1, keepdim=True)


RULES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "G/O², guarded": blend_weights,
    "|G|/O²": lambda overfit, gain: over_sum(gain.abs() / overfit.square()),
    "G/O, guarded": lambda overfit, gain: over_sum(gain.clamp(min=0) / overfit.abs()),
}
"""From overfit and gain (…, K) to weights: the library's rule, and two mistakes that are made."""


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

    curves: a head -> its mean losses (training, held-out) after each epoch, (epochs + 1,) each, in
    nats. The weight is that of `head` among all of them, by one of `RULES`. Two epochs in the wrong
    order are swapped.
    """
    before, after = sorted((before, after))
    losses = torch.stack([torch.stack(tuple(pair)) for pair in curves.values()], dim=1)
    overfit, gain = overfit_and_gain(*losses[..., before], *losses[..., after])
    k, color = list(curves).index(head), LOOKS[head].color
    seen, unheard = curves[head]

    epochs = range(len(seen))
    ax.fill_between(epochs, seen, unheard, color=color, alpha=0.12, linewidth=0)
    ax.plot(epochs, unheard, color=color, label="holdout")
    ax.plot(epochs, seen, color=color, linestyle=":", label="training")
    for epoch in (before, after):
        ax.plot([epoch, epoch], [seen[epoch], unheard[epoch]], color=color, linewidth=4, alpha=0.6)
    start, end = float(unheard[before]), float(unheard[after])
    ax.axhline(start, color=DOWN, linewidth=0.8, linestyle="--")
    if start != end:
        arrow = {"arrowstyle": "->", "color": DOWN if end < start else UP, "lw": 2}
        x = before + (after - before) / 4
        ax.annotate("", xy=(x, end), xytext=(x, start), arrowprops=arrow)

    w = float(RULES[rule](overfit, gain)[k])
    weight = "no weight, 0/0" if math.isnan(w) else f"weight {w:.2f}"  # an unguarded rule
    numbers = f"ΔG {gain[k]:+.2f}, ΔO {overfit[k]:+.2f}".replace("-", "−")
    ax.set_title(f"{head}: {weight}\n{numbers}")
    ax.set_ylim(0, 1.3 * float(losses.max()))  # room for the legend
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    if _is_first(ax):
        ax.set_ylabel("cross-entropy, nats")
        ax.legend(loc="upper right", handlelength=1.2)


def _is_first(ax: Axes) -> bool:
    """Whether the axes stand in the first column of their figure, whose labels serve the row."""
    spec = ax.get_subplotspec()
    return spec is None or spec.is_first_col()


def losses(table: pd.DataFrame, ax: Axes) -> None:
    """One head's losses by epoch: held-out solid, training dotted, the overfit shaded between.

    table: tidy rows of `Curves` ("output", "seed", "split", "epoch", "value"), of one output. Thick
    is the mean over seeds, each seed is thin.
    """
    (head,) = table["output"].unique()
    color, means = LOOKS[head].color, {}
    for split, line in (("holdout", "-"), ("train", ":")):
        runs = table[table.split == split].pivot(index="epoch", columns="seed", values="value")
        means[split] = runs.mean(axis=1)
        ax.plot(runs, color=color, linestyle=line, linewidth=0.8, alpha=0.45)
        label = {"holdout": "holdout", "train": "training"}[split]
        ax.plot(means[split], color=color, linestyle=line, linewidth=2.4, label=label)
    ax.fill_between(
        means["train"].index, means["train"], means["holdout"], color=color, alpha=0.18, linewidth=0
    )
    ax.set_title(head)
    ax.set_xlabel("epoch")
    ax.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    ax.set_ylim(bottom=0)
    if _is_first(ax):
        ax.set_ylabel("cross-entropy, nats")
        ax.legend(loc="upper right", handlelength=1.4)


def ratio(w: Tensor, gain: Tensor, moment: Tensor) -> Tensor:
    """J = wᵀSw / (Gᵀw)²: expected squared overfit for squared gain; w (…, K) gives (…)."""
    return ((w @ moment) * w).sum(-1) / (w @ gain).square()


def second_moment(sigma: Tensor, correlation: float = 0.0, bias: float = 0.0) -> Tensor:
    """E[o oᵀ], (K, K), of overfits: deviations `sigma`, equal correlation, means bias · sigma."""
    together = torch.full((len(sigma), len(sigma)), float(correlation), dtype=sigma.dtype)
    return (together.fill_diagonal_(1) + bias**2) * sigma[:, None] * sigma


def criterion(
    gain: Tensor, sigma: Tensor, ax: Axes, *, correlation: float = 0.0, bias: float = 0.0
) -> ContourSet:
    """The map of J over the blends of three heads, with its minimum and the diagonal formula.

    gain, sigma: G and the deviations of the overfit, (3,) each. Right is weight on head 1, up is
    weight on head 2, the rest lies on head 3. The triangle holds the blends without a negative
    weight. Darker is worse; hatched blends do not gain. Returns the shades, for `scale`.
    """
    moment = second_moment(sigma, correlation, bias)
    grid = torch.linspace(-0.35, 1.1, 120, dtype=gain.dtype)
    one, two = torch.meshgrid(grid, grid, indexing="xy")
    w = torch.stack([one, two, 1 - one - two], dim=-1)
    best, formula = optimal_weights(gain, moment), over_sum(gain / moment.diagonal())
    J = {name: ratio(w, gain, moment) for name, w in (("best", best), ("formula", formula))}
    single = ratio(torch.eye(len(gain), dtype=gain.dtype), gain, moment).min()

    excess = (ratio(w, gain, moment) / J["best"]).log2()
    levels = torch.linspace(0, DOUBLINGS, 2 * DOUBLINGS + 1).tolist()
    shades = ax.contourf(one, two, excess.clamp(1e-9, DOUBLINGS), levels, cmap="Greys", alpha=0.8)
    ax.contourf(one, two, w @ gain, [-math.inf, 0], colors="white", hatches=["/////"])
    ax.plot([0, 1, 0, 0], [0, 0, 1, 0], color="#555555", linewidth=1)
    ax.plot(*best[:2], "*", color="#56B4E9", mec="black", markersize=13, label="best")
    ax.plot(*formula[:2], "X", color="#D55E00", mec="black", markersize=7, label="formula")
    for k, (place, shift) in enumerate([((1, 0), -10), ((0, 1), -10), ((0, 0), 3)], start=1):
        ax.annotate(f"{k}", place, (shift, -12), textcoords="offset points", weight="bold")
    ax.set_title(
        f"correlation {correlation:g}, mean {bias:g}\nbest {J['best']:.2f}, head {single:.2f}\n"
        f"formula {J['formula']:.2f}"
    )
    ax.set_xlabel("weight of head 1")
    ax.grid(False)
    if _is_first(ax):
        ax.set_ylabel("weight of head 2")
        ax.legend(loc="upper right", handletextpad=0)
    return shades


def scale(shades: ContourSet, axes: Sequence[Axes]) -> None:
    """The scale of maps of J beside them: how many times the least value."""
    bar = axes[0].figure.colorbar(shades, ax=list(axes), ticks=range(DOUBLINGS + 1))
    words = [f"{2**doubling}×" for doubling in range(DOUBLINGS + 1)]
    bar.set_ticklabels([*words[:-1], f"≥ {words[-1]}"])
    bar.set_label("J over its least value")
