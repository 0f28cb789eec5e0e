"""Who wins, and when, in pictures: ranks, data set by data set, balance, mistakes, a decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from scipy import stats

from mmlab import plotting
from mmlab.experiments import difference, interval
from mmlab.experiments.leaderboard import BEST_ALONE, per_source, values_of
from mmlab.experiments.ranks import critical_difference, mean_ranks
from mmlab.plotting import Arrow, Box

Tables = Mapping[str, pd.DataFrame]
"""File -> its rows by the names that all data sets have (`leaderboard.common_rows`)."""


def against(tables: Tables, baseline: str = "joint") -> pd.DataFrame:
    """One row per file and method: its difference to the baseline, by the file's unit.

    Columns: file, method, mean, low, high (shares, 95 %), and units and overlap, for `p_value`.
    """
    rows = []
    for file, table in tables.items():
        for method in table["method"].unique():
            if method != baseline:
                values, overlap = values_of(file, difference(table, method, baseline))
                ends = interval(values, overlap=overlap)
                rows.append((file, method, *ends, values, overlap))
    return pd.DataFrame(rows, columns=["file", "method", "mean", "low", "high", "units", "overlap"])


def wide(tables: Tables, column: str = "accuracy") -> pd.DataFrame:
    """Mean over the seeds: one row per file, one column per method."""
    return pd.DataFrame({f: t.groupby("method")[column].mean() for f, t in tables.items()}).T


def ranking(tables: Tables) -> Figure:
    """Mean ranks, the best first: thick by repeating the training, thin by another data set.

    Thick: the 95 % interval of the mean rank, by a bootstrap of the seeds. Thin: half of Nemenyi's
    critical difference to each side: two methods differ where their thin bars do not meet. Files of
    one source share one vote.
    """
    scores = per_source(wide(tables))
    ranks = mean_ranks(scores)
    half = critical_difference(scores.shape[1], len(scores)) / 2
    ends = _resampled_ranks(tables, [*ranks.index]).quantile([0.025, 0.975])
    figure, axes = plotting.canvas(2, sharex=True)
    for ax, names in zip(axes, _halves(ranks.index), strict=True):
        for row, name in enumerate(names):
            ax.plot([ranks[name] - half, ranks[name] + half], [row] * 2, color="#999999", lw=0.8)
            ax.plot(ends[name], [row] * 2, color="#0072B2", lw=4)
            ax.plot(ranks[name], row, "o", color="black", markersize=4)
        _names(ax, names)
        ax.set(xlabel="mean rank (1 is best)", xlim=(1, len(ranks)))
    return figure


def _resampled_ranks(tables: Tables, methods: list[str], draws: int = 400) -> pd.DataFrame:
    """Mean ranks if the seeds of each file are drawn anew: one row per draw."""
    random = np.random.default_rng(0)
    drawn = {}
    for file, table in tables.items():
        runs = table.pivot(index="seed", columns="method", values="accuracy")[methods].to_numpy()
        means = runs[random.integers(len(runs), size=(draws, len(runs)))].mean(1)
        drawn[file] = means.ravel()
    votes = per_source(pd.DataFrame(drawn).T).to_numpy().reshape(-1, draws, len(methods))
    return pd.DataFrame(stats.rankdata(-votes, axis=-1).mean(0), columns=methods)


def per_set(found: pd.DataFrame) -> Figure:
    """What the ranks hide: the difference to joint training in points, per file and method.

    A number is bold where its own 95 % interval leaves out 0; they are not corrected for their
    number.
    """
    means = 100 * found.pivot(index="method", columns="file", values="mean")[found.file.unique()]
    sure = found.assign(sure=found.low * found.high > 0).pivot(
        index="method", columns="file", values="sure"
    )[means.columns]
    order = means.mean(axis=1).sort_values(ascending=False).index
    figure, axes = plotting.canvas(2)
    for ax, names in zip(axes, _halves(order), strict=True):
        block = means.loc[names].to_numpy()
        fields = ax.imshow(block, cmap="PuOr_r", vmin=-12, vmax=12, aspect="auto")
        for (row, column), value in np.ndenumerate(block):
            weight = "bold" if sure.loc[names].iloc[row, column] else "normal"
            letters = "white" if _is_dark(fields.to_rgba(value)) else "black"
            text = f"{round(value):+d}" if round(value) else "0"
            shown = ax.text(column, row, text, ha="center", va="center", fontsize=7, color=letters)
            shown.set_fontweight(weight)
        _names(ax, names)
        short = [name.replace("-normalised", "\nnorm.").replace("-", "\n", 1) for name in means]
        ax.set_xticks(range(len(short)), short, fontsize=6.5)
        ax.xaxis.tick_top()
        ax.grid(visible=False)
    return figure


def _is_dark(color: ArrayLike) -> bool:
    """Whether white letters stand out from a colour (red, green, blue, opacity) more than black."""
    luminance = np.asarray(color)[:3] ** 2.2 @ [0.2126, 0.7152, 0.0722]
    return bool(luminance < 0.18)  # there both have the same contrast, by WCAG's formula


def balance(tables: Tables, shortfalls: Tables) -> Figure:
    """Accuracy against the shortfall of the worst encoder: a panel per file, a mark per method."""
    figure, axes = plotting.canvas(len(tables))
    for ax, (file, table) in zip(axes, tables.items(), strict=True):
        together = table[table["method"] != BEST_ALONE]
        means = together.assign(gap=shortfalls[file]).groupby("method")[["gap", "accuracy"]].mean()
        for name, look in {"joint": "ko", "ensemble": "k^"}.items():
            ax.plot(
                *(100 * means.loc[name]), look, markersize=8, label=name, fillstyle="none", mew=2
            )
        ax.plot(100 * means["gap"], 100 * means["accuracy"], ".", color="#0072B2")
        ax.set_title(file, fontsize=9)
        ax.set_xlabel("worst encoder\nminus alone, points")
    axes[0].set_ylabel("test accuracy, %")
    axes[0].legend(loc="best", fontsize=8)
    return figure


def mistakes(counts: Mapping[str, pd.Series]) -> Figure:
    """What each mistake adds: a dot per method and file, in points of apparent gain over joint."""
    figure, (ax,) = plotting.canvas()
    random = np.random.default_rng(0)
    for row, gains in enumerate(counts.values()):
        ax.plot(100 * gains, row + random.uniform(-0.25, 0.25, len(gains)), ".", color="#56B4E9")
        ax.plot([100 * gains.median()] * 2, [row - 0.35, row + 0.35], color="black", lw=2.5)
    ax.axvline(0, color="#555555", lw=1)
    _names(ax, list(counts), 9)
    ax.set(xlabel="what is reported as the gain over joint training, points")
    return figure


def decision(answers: Mapping[str, str]) -> Figure:
    """Three questions, and what to use; a set and its interval in words for each branch.

    answers: keys "keep", "scale", "ensemble", "method".
    """
    boxes = {
        "drop": Box("Do you see joint\nbelow the best\nmodality alone?", 0, 0),
        "constant": Box("Does a constant\nchosen on the\nholdout mend it?", 1, 0),
        "cost": Box("Can you run\none network per\nmodality?", 2, 0),
        "keep": Box(f"keep joint,\ntune its rate\n{answers['keep']}", 0, 1.1),
        "scale": Box(f"use the constant\n{answers['scale']}", 1, 1.1),
        "ensemble": Box(f"networks alone,\naveraged\n{answers['ensemble']}", 2, 1.1),
        "method": Box(f"try MLA first,\non your holdout\n{answers['method']}", 3, 1.1),
    }
    arrows = [
        Arrow("drop", "keep", "no"),
        Arrow("drop", "constant", "yes"),
        Arrow("constant", "scale", "yes"),
        Arrow("constant", "cost", "no"),
        Arrow("cost", "ensemble", "yes"),
        Arrow("cost", "method", "no"),
    ]
    return plotting.diagram(boxes, arrows)


def _halves(names: Sequence[str]) -> tuple[list[str], list[str]]:
    middle = (len(names) + 1) // 2
    return list(names[:middle]), list(names[middle:])


def _names(ax: Axes, names: Sequence[str], size: float = 7) -> None:
    ax.set_yticks(range(len(names)), names, fontsize=size)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
