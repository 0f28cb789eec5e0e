"""Paper and code: where they can differ, by how much, and how lucky a best epoch is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import torch

from mmlab.experiments import interval
from mmlab.experiments.intervals import enough
from mmlab.plotting import SIZE, canvas

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY, _BLUE, _ORANGE = "#555555", "#0072B2", "#D55E00"

PLACES = {
    "which data": "class means, weights or epochs from the test split",
    "loss": "a sum for a mean, the relu of a sum, a term that is absent",
    "gradient": "an inverted sign, read too late, cut off on both sides",
    "update": "a step that waits for a name, a factor per tensor",
    "prediction": "a softmax over the batch",
    "report": "the best of all epochs, by the test split",
}
"""Part of a training -> what can differ there from the paper."""

RUNS, RIGHT = 4000, 0.7
"""Of the simulation: how many, and the true accuracy."""

POINTS = -6.0, 8.0
"""Its axis: wide enough for 700 samples or more."""


def places() -> Figure:
    """One row per part of a training, from the data to the report, and what can differ there."""
    figure, (ax,) = canvas()
    ax.set(xlim=(0, SIZE[0]), ylim=(len(PLACES) - 0.4, -0.6))
    ax.axis("off")
    box = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": _GREY}
    for row, (part, what) in enumerate(PLACES.items()):
        ax.text(1.05, row, part, ha="center", va="center", fontweight="bold", bbox=box)
        ax.text(2.15, row, what, va="center", fontsize=10.5)
        if row:
            arrow = {"arrowstyle": "-|>", "color": _GREY}
            ax.annotate("", (1.05, row - 0.27), (1.05, row - 0.73), arrowprops=arrow)
    return figure


def effects(values: Mapping[str, pd.Series], margin: float, label: str) -> Figure:
    """One row per difference: pale marks per run, the mean with its 95 % interval, in points.

    values: shares of 1, one per run. margin: within it a difference counts as none.
    """
    figure, (ax,) = canvas()
    figure.set_figheight(0.9 + 0.3 * len(values))
    ax.axvspan(-100 * margin, 100 * margin, color="#EEEEEE", zorder=0)
    ax.axvline(0, color=_GREY, linewidth=1)
    for row, runs in enumerate(values.values()):
        mean, low, high = (100 * x for x in interval(runs))
        color = _GREY if low <= 0 <= high else _BLUE if mean > 0 else _ORANGE
        below = [row + 0.24] * len(runs)
        ax.plot(100 * np.asarray(runs), below, "o", color=color, alpha=0.35, markersize=3)
        ends = [[mean - low], [high - mean]] if enough(runs) else None
        ax.errorbar(mean, row, xerr=ends, color=color, marker="o", markersize=6, capsize=3)
    ax.set_yticks(range(len(values)), list(values))
    ax.set(ylim=(len(values) - 0.5, -0.5), xlabel=label)
    ax.grid(axis="y", visible=False)
    return figure


def epochs(table: pd.DataFrame) -> Figure:
    """Test accuracy by epoch, a line per run; rings: the best epoch, squares: the holdout's choice.

    table: columns seed, epoch, holdout, test: shares of 1.
    """
    figure, (ax,) = canvas()
    for _, run in table.groupby("seed"):
        ax.plot(run.epoch, 100 * run.test, color=_GREY, alpha=0.5, linewidth=1)
        for column, marker, color in (("test", "o", _ORANGE), ("holdout", "s", _BLUE)):
            chosen = run.loc[run[column].idxmax()]
            ring = ax.plot(chosen.epoch, 100 * chosen.test, marker, color=color, markersize=9)
            plt.setp(ring, fillstyle="none", markeredgewidth=2)
    for marker, color, by in (("o", _ORANGE, "test"), ("s", _BLUE, "holdout")):
        ring = ax.plot([], [], marker, color=color, label=f"best epoch by the {by}")
        plt.setp(ring, fillstyle="none", markeredgewidth=2)
    ax.set(xlabel="epoch", ylabel="test accuracy, %")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def lucky(ax: Axes, *, epochs: int, samples: int, changed: float) -> None:
    """By how much the best of all epochs exceeds the true accuracy, over simulated trainings.

    The true accuracy is 70 % in every epoch. From one epoch to the next a share `changed` of the
    `samples` test answers is drawn anew, so the measured accuracy is an autoregression.
    """
    draw = torch.Generator().manual_seed(0)
    spread = 100 * (RIGHT * (1 - RIGHT) / samples) ** 0.5
    now = torch.randn(RUNS, generator=draw)
    best = now
    for _ in range(epochs - 1):
        fresh = torch.randn(RUNS, generator=draw)
        now = (1 - changed) * now + (1 - (1 - changed) ** 2) ** 0.5 * fresh
        best = best.maximum(now)
    ax.hist((spread * best).numpy(), bins=np.linspace(*POINTS, 57).tolist(), color=_ORANGE)
    mean = round((spread * best).mean().item(), 1) + 0.0  # no -0.0
    ax.axvline(mean, color="black", linestyle="--")
    ax.axvline(0, color=_GREY, linewidth=1)
    ax.set(xlabel="best minus truth, points", ylabel="trainings", xlim=POINTS)
    many = "1 epoch" if epochs == 1 else f"{epochs} epochs"
    ax.set_title(f"{many}, {samples} samples\n{changed:.0%} changed: mean {mean:+.1f}")
