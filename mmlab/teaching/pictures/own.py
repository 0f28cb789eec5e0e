"""A method of one's own: its way to a row of the table, what it reads, and what it makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmlab.experiments import report
from mmlab.plotting import canvas, differences, looks
from mmlab.teaching.pictures.stages import stages

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

WAY = {
    "idea": "is it\nnew?",
    "pure\nrule": "float64\nby hand",
    "one\nstep": "gradient\nby hand",
    "many\nruns": "order,\nseeds",
    "one\nnumber": "holdout\nonly",
    "row": "controls",
}
"""The stages of a method, and below each what may send it back."""


ROWS = (
    *("joint", "ensemble", "joint, rate of audio", "PCGrad"),
    *("Brake", "Sidestep", "Hide", "Coin"),
)
"""What several figures show: `looks` of all of them tells them apart in each, and arrows, which
have no name beside them, by colour."""


def way() -> Figure:
    """From an idea to a row: the stages above, the check that each has to pass below."""
    return stages(WAY)


def gaps(histories: Mapping[str, pd.DataFrame]) -> Figure:
    """The loss of each share by epoch, a panel per run: a line on training, marks on holdout.

    The band between is the gap. histories: name -> the history of a run that has recorded the
    metric "share loss" of each modality on both splits.
    """
    figure, axes = canvas(len(histories), sharey=True)
    for ax, (name, history) in zip(axes, histories.items(), strict=True):
        losses = history[history["metric"] == "share loss"]
        for m, look in looks(losses["output"].unique()).items():
            wide = losses[losses["output"] == m].pivot(
                index="epoch", columns="split", values="value"
            )
            ax.plot(wide.index, wide["train"], color=look.color, linestyle=look.linestyle)
            ax.plot(wide.index, wide["holdout"], color=look.color, marker=look.marker, label=m)
            ax.fill_between(
                wide.index, wide["train"], wide["holdout"], color=look.color, alpha=0.15
            )
        ax.set(title=name, xlabel="epochs trained")
        ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=8)
    axes[0].set(ylabel="loss of the share, nats", ylim=(0, None))
    return figure


def beside_joint(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Paired differences of each method to joint training, a panel per data set.

    tables: name of the data set -> what `compare` returned, with a row "joint".
    """
    figure, axes = canvas(len(tables))
    for ax, (name, table) in zip(axes, tables.items(), strict=True):
        differences(table, ax=ax, label="test accuracy minus joint, points")
        ax.set_title(name)
    return figure


def last_gaps(history: pd.DataFrame) -> pd.Series:
    """Loss of each share on the holdout minus that on training, nats, at the last reading."""
    losses = history[history["metric"] == "share loss"]
    last = losses[losses["epoch"] == losses["epoch"].max()]
    wide = last.pivot(index="output", columns="split", values="value")
    return wide["holdout"] - wide["train"]


def board(table: pd.DataFrame, folds: int | None = None) -> pd.DataFrame:
    """The `report` of a table with its means on the holdout, the best there first.

    Sorted by the test it would be one more choice on the test.
    """
    shown = report(table, folds=folds)
    holdout = table.groupby("method")["holdout accuracy"].mean()
    shown.insert(0, "holdout, %", (100 * holdout).round(1))
    return shown.sort_values("holdout, %", ascending=False)
