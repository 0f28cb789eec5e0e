"""Missing modalities in pictures: where one may act, which method fits which rate, gaps by kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmlab import plotting
from mmlab.experiments import difference, holm, p_value, share_interval
from mmlab.plotting import Arrow, Box

NAMES = {"both": "both", "audio": "audio alone", "image": "image alone"}
"""How each pattern is called: what a sample has left."""

Expected = Callable[..., pd.Series]
"""(table, rate of missing audio, rate of missing image, split) -> accuracy of each row."""


def network() -> Figure:
    """A network whose image is missing, and the three places where one can act."""
    boxes = {
        "audio": Box("audio", 0, 0, "audio"),
        "image": Box("image:\nzeros", 0, 1, "image"),
        "first": Box("encoder", 1, 0, "audio"),
        "second": Box("encoder", 1, 1, "image"),
        "mean": Box("mean feature", 1, 2),
        "fusion": Box("fusion", 2, 0.5),
        "answer": Box("answer", 3, 0.5),
    }
    arrows = [
        Arrow("audio", "first", of="audio"),
        Arrow("image", "second", "1", of="image"),
        Arrow("first", "fusion", of="audio"),
        Arrow("second", "fusion", "3", of="image"),
        Arrow("mean", "fusion", "2"),
        Arrow("fusion", "answer"),
    ]
    return plotting.diagram(boxes, arrows)


def over_rates(
    table: pd.DataFrame, accuracy: Callable[[pd.DataFrame, float], pd.Series]
) -> pd.DataFrame:
    """For `plotting.curves`: the table's runs at rates from 0 to 100 %.

    accuracy: (table, rate from 0 to 1) -> accuracy of each row. Columns: method, seed, rate (%),
    value.
    """
    runs = table[["method", "seed"]]
    rates = range(0, 101, 10)
    return pd.concat([runs.assign(rate=k, value=accuracy(table, k / 100)) for k in rates])


def _rates_axis(ax: Axes, table: pd.DataFrame) -> None:
    plotting.curves(table, x="rate", by="method", percent=True, ax=ax)
    ax.set(xlim=(0, 100), xticks=range(0, 101, 20))


def _end_inside(ax: Axes) -> None:
    """The last tick's label ends with the axis, so that it does not meet the next panel's first."""
    ax.get_xticklabels()[-1].set_horizontalalignment("right")


def question(table: pd.DataFrame, expected: Expected) -> Figure:
    """Joint training and the ensemble over the rate of one missing modality."""
    two = table[table["method"].isin(["joint", "ensemble"])]
    figure, axes = plotting.canvas(2, sharey=True)
    _rates_axis(axes[0], over_rates(two, lambda own, rate: expected(own, rate, 0)))
    _rates_axis(axes[1], over_rates(two, lambda own, rate: expected(own, 0, rate)))
    for ax, m in zip(axes, ("audio", "image"), strict=True):
        ax.set(xlabel=f"{m} missing in the test, %", ylim=(0, 1))
    axes[0].set_ylabel("test accuracy, %")
    axes[0].legend(loc="lower left")
    return figure


def rates(tables: Mapping[int, pd.DataFrame], expected: Expected, methods: Sequence[str]) -> Figure:
    """Some methods over the nominal rate in the test; one panel per rate in training, %."""
    figure, axes = plotting.canvas(len(tables), sharey=True)
    for ax, (rate, table) in zip(axes, tables.items(), strict=True):
        own = table[table["method"].isin(methods)]
        _rates_axis(ax, over_rates(own, lambda rows, both: expected(rows, both, both)))
        ax.set(title=f"training: {rate} %", xlabel="nominal rate in the test, %", ylim=(0.5, 1))
        _end_inside(ax)
    axes[0].set_ylabel("test accuracy, %")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    return figure


FILLINGS = {"zeros": "test", "mean input": "mean input", "mean feature": "mean feature"}
"""What stands in a gap, and how the columns of a table begin that have it."""


def filled(table: pd.DataFrame, left: str) -> pd.DataFrame:
    """Joint training with each filling where `left` is there alone, and the ensemble, tidy."""
    of = dict([*table.groupby("method")])
    parts = {name: of["joint"][f"{start} {left}"] for name, start in FILLINGS.items()}
    parts["ensemble"] = of["ensemble"][f"test {left}"]
    rows = [pd.DataFrame({"method": name, "value": runs}) for name, runs in parts.items()]
    found = pd.concat(rows, ignore_index=True)
    found.attrs["units"] = {"value": "%"}
    return found


def fillings(table: pd.DataFrame) -> Figure:
    """`filled` for the audio alone and for the image alone."""
    figure, axes = plotting.canvas(2, sharex=True)
    for ax, left in zip(axes, ("audio", "image"), strict=True):
        plotting.comparison(filled(table, left), column="value", label="test accuracy, %", ax=ax)
        ax.set_title(NAMES[left])
    _names_once(axes)
    return figure


def calibration(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Calibration error of some methods on the test, one panel per pattern."""
    figure, axes = plotting.canvas(3, sharex=True)
    rows = table[table["method"].isin(methods)]
    for ax, (left, name) in zip(axes, NAMES.items(), strict=True):
        column = f"test error {left}"
        rows.attrs["units"] = {column: "%"}
        plotting.comparison(rows, column=column, label="calibration error, %", ax=ax)
        ax.set_title(name)
    _names_once(axes)
    return figure


def real_gaps(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Networks that learnt real gaps, on real and on random ones; and what the vote of gaps adds.

    tables: "real" and "random", the gaps in training, -> table.
    """
    panels = (
        ("real", "on real", "learnt real, test real"),
        ("real", "on random", "learnt real, test random"),
        ("random", "on real, vote", "learnt random, and vote"),
    )
    figure, axes = plotting.canvas(3, sharex=True)
    for ax, (kind, column, title) in zip(axes, panels, strict=True):
        rows = tables[kind].copy()
        rows.attrs["units"] = {column: "%"}
        plotting.comparison(rows, column=column, label="test accuracy, %", ax=ax)
        ax.set_title(title)
    _names_once(axes)
    return figure


def _names_once(axes: Sequence[Axes]) -> None:
    """The rows are the same in all panels: name them in the first one alone."""
    for ax in axes[1:]:
        ax.set_yticklabels([])


def chosen(
    table: pd.DataFrame, expected: Expected, rate: float, control: str
) -> tuple[str, float, float]:
    """The method that the holdout prefers at a rate, its mean gain over a control on the test, and
    the p value of this gain; NaN of the control itself, and of too few seeds.
    """
    rows = table.assign(
        holdout=expected(table, rate, rate, "holdout"), test=expected(table, rate, rate)
    )
    best = rows.groupby("method", sort=False)["holdout"].mean().idxmax()
    gain = difference(rows, best, control, "test")
    tested = best != control and plotting.enough(gain)
    return best, gain.mean(), p_value(gain) if tested else math.nan


def winners(
    tables: Mapping[int, pd.DataFrame],
    expected: Expected,
    control: str,
    rates: Sequence[int] = (0, 20, 40, 60, 80),
) -> Figure:
    """Which method for which rate: rows are rates in training, columns rates in the test, in %.

    A cell has the colour and name of the method that the holdout prefers, and its gain over the
    control on the test, in points. A thick frame and bold letters: the gain is not 0 by a paired
    test at 5 %, corrected by Holm for the number of cells.
    """
    cells = {
        (i, j): chosen(table, expected, rate / 100, control)
        for i, table in enumerate(tables.values())
        for j, rate in enumerate(rates)
    }
    of = plotting.looks(name for name, *_ in cells.values())
    sure = holm([p for *_, p in cells.values()]) < 0.05
    figure, (ax,) = plotting.canvas()
    for ((i, j), (name, gain, _)), bold in zip(cells.items(), sure, strict=True):
        color = of[name].color
        frame = plotting.plt.Rectangle((j - 0.45, i - 0.43), 0.9, 0.86)
        frame.set(facecolor=(color, 0.2), edgecolor=color, linewidth=3 if bold else 0)
        ax.add_patch(frame)
        points = "" if name == control else f"\n{100 * gain:+.1f}".replace("-", "−")
        text = name.replace(", ", ",\n", 1) + points
        weight = "bold" if bold else "normal"
        ax.text(j, i, text, ha="center", va="center", fontsize=10, weight=weight)
    ax.set_xticks(range(len(rates)), [*map(str, rates)])
    ax.set_yticks(range(len(tables)), [*map(str, tables)])
    ax.set(xlim=(-0.5, len(rates) - 0.5), ylim=(len(tables) - 0.5, -0.5))
    ax.set(xlabel="nominal rate in the test, %", ylabel="nominal rate in training, %")
    ax.grid(False)
    return figure


def gaps(shares: Mapping[str, Mapping[str, float]]) -> Figure:
    """How many pictures of each kind a language describes: language -> kind -> share."""
    figure, axes = plotting.canvas(len(shares), sharey=True)
    for ax, (language, own) in zip(axes, shares.items(), strict=True):
        ax.barh(list(own), [100 * share for share in own.values()], color="#56B4E9")
        ax.set(title=language, xlabel="pictures with a recording, %", xlim=(0, 100))
        ax.set_xticks(range(0, 101, 20))
        _end_inside(ax)
        ax.grid(axis="y", visible=False)
    axes[0].invert_yaxis()
    return figure


def at_rates(
    ax: Axes,
    *,
    tables: Mapping[int, pd.DataFrame],
    expected: Expected,
    trained: int,
    audio: float,
    image: float,
) -> None:
    """Accuracy of each method at given rates of missing audio and image, with its interval.

    tables: rate in training, % -> table; trained: one of these rates; audio, image: rates, %.
    """
    table = tables[trained].copy()
    table["value"] = expected(table, audio / 100, image / 100)
    # the rows of all tables, so that they are the same in all panels
    names = [*dict.fromkeys(name for one in tables.values() for name in one["method"])]
    of = plotting.looks(names)
    for name, runs in table.groupby("method")["value"]:
        row = names.index(name)
        mean, low, high = share_interval(runs)
        bar = [[100 * (mean - low)], [100 * (high - mean)]] if plotting.enough(runs) else None
        look = of[name]
        ax.errorbar(100 * mean, row, xerr=bar, color=look.color, marker=look.marker, capsize=3)
    first = ax is ax.figure.axes[0]
    ax.set_yticks(range(len(names)), names if first else [""] * len(names))
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(xlim=(0, 100), xlabel="test accuracy, %")
    ax.grid(axis="y", visible=False)
    ax.set_title(f"training {trained} %\naudio {audio:g} %, image {image:g} %", fontsize=9)
