"""The tables of `scaling` as a figure."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mmlab.bench.tables import MODALITIES, SCALED
from mmlab.bench.timing import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from mmlab.plotting import Look


def draw_scaling(tables: Mapping[str, Table], name: str = "cost") -> None:
    """The tables of `scaling` as figures/<name>.png and .svg, medians with quartiles."""
    from mmlab import plotting

    plotting.style()
    figure, axes = plotting.canvas(len(tables), sharey=True)
    looks = plotting.looks(SCALED)
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        for method in SCALED:
            draw_method(ax, method, table, looks[method])
        name_axis(ax, title.rpartition(" ")[2])
    axes[0].set_ylabel("time of a step, joint training = 1")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    with contextlib.redirect_stdout(sys.stderr):  # stdout may be read by a program
        plotting.show(
            figure,
            name,
            "Time of a step of each method over one of joint training, against the number of "
            "modalities, of parameters and of samples in a batch; medians with quartiles.",
        )


def draw_method(ax: Axes, method: str, table: Table, look: Look) -> None:
    """One method's medians as a line, the quartiles as a band around it."""
    rows = {int(k.rpartition(" ")[2]): r for k, r in table.items() if k.startswith(method + ",")}
    low, middle, high = (
        [row[key] for row in rows.values()]
        for key in ("lower quartile", "median", "upper quartile")
    )
    ax.plot(list(rows), middle, label=method, **look._asdict())
    ax.fill_between(list(rows), low, high, color=look.color, alpha=0.15, lw=0)


def name_axis(ax: Axes, what: str) -> None:
    """The axis of what grows, in powers of two, or of ten for parameters."""
    ax.set_xscale("log", base=2 if what != "parameters" else 10)
    ax.set_xlabel({"batch": "samples in a batch"}.get(what, what))
    if what == "modalities":
        ax.set_xticks(MODALITIES, map(str, MODALITIES))
