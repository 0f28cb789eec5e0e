"""Gradient-Blending drawn: what an estimate measures, what it finds, and the map of J.

`plotting.LOOKS |= VARIANTS` gives the forms of the method, and of its control, their looks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from mmlab.balancers.gblend import blend_weights, optimal_weights, overfit_and_gain
from mmlab.plotting import LOOKS, Look, curves

if TYPE_CHECKING:
    import pandas as pd

DOWN, UP = "#555555", "#B00020"
"""The colour of a held-out loss that falls, and of one that rises."""

VARIANTS: Mapping[str, Look] = {
    "online": LOOKS["G-Blend"],
    "online, short": LOOKS["G-Blend"]._replace(linestyle=(0, (4, 2)), marker=(4, 1)),
    "offline": LOOKS["G-Blend"]._replace(linestyle=(0, (8, 2, 2, 2)), marker="h"),
    "equal": LOOKS["uniform"]._replace(linestyle=(0, (2, 1)), marker=(3, 1, 180)),
}
"""The method's forms share its colour, and the uniform sum over K that of the uniform sum."""

FEW = 5
"""Fewer seeds than that have an interval too wide to tell anything about a weight."""


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
    ax.plot(epochs, unheard, color=color, label="held-out")
    ax.plot(epochs, seen, color=color, linestyle=":", label="training")
    for epoch in (before, after):
        ax.plot([epoch, epoch], [seen[epoch], unheard[epoch]], color=color, linewidth=4, alpha=0.6)
    start, end = float(unheard[before]), float(unheard[after])
    ax.axhline(start, color=DOWN, linewidth=0.8, linestyle="--")
    if start != end:
        arrow = {"arrowstyle": "->", "color": DOWN if end < start else UP, "lw": 2}
        x = before + (after - before) / 4
        ax.annotate("", xy=(x, end), xytext=(x, start), arrowprops=arrow)

    w = RULES[rule](overfit, gain)[k]
    numbers = f"ΔG {gain[k]:+.2f}, ΔO {overfit[k]:+.2f}".replace("-", "−")
    ax.set_title(f"{head}: weight {w:.2f}\n{numbers}")
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


def weights(found: pd.Series, axes: Sequence[Axes]) -> None:
    """The weight of each loss by the epoch of its estimate, one panel per setting.

    found: the weights, by setting, seed, epoch and output (the head), which name the levels of its
    index. Thick is the mean over seeds, with its 95 % interval as a band, cut where no weight can
    be. Fewer than `FEW` seeds are drawn themselves in place of a band, one thin line each.
    """
    for ax, (setting, table) in zip(axes, found.groupby("setting", sort=False), strict=True):
        table = table.rename("value").reset_index()
        if table.seed.nunique() < FEW:
            for (head, _), run in table.groupby(["output", "seed"], sort=False):
                style = LOOKS[head]._replace(marker="")._asdict()
                ax.plot(run.epoch, run.value, linewidth=0.8, alpha=0.6, **style)
            means = table.groupby(["output", "epoch"], sort=False, as_index=False).value.mean()
            table = means.assign(seed="mean")
        curves(table, ax=ax)
        ax.set(title=setting, xlabel="epoch of the estimate", ylim=(-0.03, 1.03))
    axes[0].set_ylabel("weight of the loss")
    lines = axes[0].get_legend_handles_labels()
    axes[0].figure.legend(*lines, loc="outside upper right", ncols=len(lines[0]))


def ratio(w: Tensor, gain: Tensor, moment: Tensor) -> Tensor:
    """J = wᵀSw / (Gᵀw)²: expected squared overfit for squared gain; w (…, K) gives (…)."""
    return ((w @ moment) * w).sum(-1) / (w @ gain).square()


def second_moment(sigma: Tensor, correlation: float = 0.0, bias: float = 0.0) -> Tensor:
    """E[o oᵀ], (K, K), of overfits: deviations `sigma`, equal correlation, means bias · sigma."""
    together = torch.full((len(sigma), len(sigma)), float(correlation), dtype=sigma.dtype)
    return (together.fill_diagonal_(1) + bias**2) * sigma[:, None] * sigma


def criterion(
    gain: Tensor, sigma: Tensor, ax: Axes, *, correlation: float = 0.0, bias: float = 0.0
) -> None:
    """The map of J over the blends of three heads, with its minimum and the diagonal formula.

    gain, sigma: G and the deviations of the overfit, (3,) each. Right is weight on head 1, up is
    weight on head 2, the rest lies on head 3. The triangle holds the blends without a negative
    weight. Darker is worse; white at the edge is where a blend does not gain.
    """
    moment = second_moment(sigma, correlation, bias)
    grid = torch.linspace(-0.35, 1.1, 120, dtype=gain.dtype)
    one, two = torch.meshgrid(grid, grid, indexing="xy")
    w = torch.stack([one, two, 1 - one - two], dim=-1)
    best, formula = optimal_weights(gain, moment), over_sum(gain / moment.diagonal())
    J = {name: ratio(w, gain, moment) for name, w in (("best", best), ("formula", formula))}
    single = ratio(torch.eye(len(gain), dtype=gain.dtype), gain, moment).min()

    excess = (ratio(w, gain, moment) / J["best"]).log2().masked_fill(w @ gain <= 0, torch.nan)
    ax.contourf(one, two, excess.clamp(max=5), levels=10, cmap="Greys", alpha=0.8)
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
