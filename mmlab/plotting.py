"""One house style, one function per figure. Every figure has alt text and says what its bars are.

A name (a modality or a method) keeps one colour *and* one line style and marker in all figures, so
that colour-blind readers and grey prints lose nothing. The colours are those of Okabe and Ito 2008.
"""

from __future__ import annotations

import base64
import html
import io
import math
import os
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.ticker import MaxNLocator

from mmlab.balancers.registry import METHODS
from mmlab.experiments import Diagnosis, interval, share_interval
from mmlab.experiments.diagnosis import name_of
from mmlab.experiments.findings import ANSWERS
from mmlab.experiments.intervals import ENOUGH, enough
from mmlab.experiments.tables import unit_of
from mmlab.files import output_folder, write_atomically

if TYPE_CHECKING:
    import pandas as pd

    Ends = Callable[[pd.Series], tuple[float, float, float]]

SIZE = (8.0, 3.4)
"""Width and height of every figure, in inches; panels share it."""


class Look(NamedTuple):
    """How one name is drawn; `**look._asdict()` goes to any matplotlib line."""

    color: str
    linestyle: str | tuple
    marker: str | tuple


MODALITIES = {
    "audio": Look("#0072B2", "--", "s"),
    "image": Look("#D55E00", "-.", "^"),
    "text": Look("#009E73", ":", "D"),
}
LOOKS: dict[str, Look] = MODALITIES | {name: Look(*m.look) for name, m in METHODS.items()}
"""The looks that never change, whatever else a figure shows.

No two share a line style or a marker; modalities and joint training share no colour either. Of the
eight colours yellow cannot be seen on white, so methods share the rest, grey, and the green of the
text. But no two methods of one paper share a colour, and none has the uniform sum's. A notebook
with methods of its own may add them, so that they too look the same in all its figures.
"""

# the name of a class stands for the first method that it makes; Blend's are of many papers
_SAME = {m.kind: name for name, m in reversed(METHODS.items()) if m.kind != "Blend"}

ANSWER_LOOKS = (
    Look("#7F7F7F", "-", "D"),
    LOOKS["joint"],
    Look("#7F7F7F", "--", "d"),
    Look("#000000", "--", "X"),
)
"""Of what a diagnosis calls ANSWERS: black for joint training, grey for networks trained alone."""

_GREY = "#555555"
_SPARE = [
    Look(color, (0, dashes), marker=star)  # so many points, of style 1, turned by so many degrees
    for dashes, star in (((5, 2, 1, 2), (4, 1)), ((3, 2, 1, 1), (6, 1)), ((1, 3), (4, 1, 45)))
    for color in ("#CC79A7", "#56B4E9", "#E69F00", "#009E73")
]


def _known(name: str) -> str:
    return name if name in LOOKS else _SAME.get(name, name)


def looks(names: Iterable[str]) -> dict[str, Look]:
    """A look for each name, no two alike but for two names of one method.

    Names in `LOOKS` keep theirs. Any other takes the spare look at the place that its spelling
    gives, or the next one whose colour, then whose line, this figure shows less often.
    Raises ValueError for more unknown names than there are spare looks.
    """
    names = list(dict.fromkeys(names))
    found = {name: LOOKS[_known(name)] for name in names if _known(name) in LOOKS}
    unknown = sorted(name for name in names if name not in found)
    if len(unknown) > len(_SPARE):
        raise ValueError(
            f"{len(unknown)} names need a look of their own, {len(_SPARE)} are free; "
            "split the figure into panels"
        )
    for name in unknown:
        place = zlib.crc32(name.encode()) % len(_SPARE)
        free = [look for look in _SPARE[place:] + _SPARE[:place] if look not in found.values()]
        colors, lines, _ = zip(*found.values(), strict=True) if found else ((), (), ())
        found[name] = min(free, key=lambda k: (colors.count(k.color), lines.count(k.linestyle)))
    return {name: found[name] for name in names}


def style() -> None:
    """Set the house style for all figures of this process. Call it once, at the top."""
    plt.rcParams.update(
        {
            "figure.figsize": SIZE,
            "figure.dpi": 100,
            "savefig.dpi": 160,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#DDDDDD",
            "grid.linewidth": 0.6,
            "lines.linewidth": 1.8,
            "lines.markersize": 5,
            "legend.frameon": False,
            "svg.hashsalt": "mmlab",  # the same figure gives the same file
        }
    )


def canvas(panels: int = 1, **options) -> tuple[Figure, list[Axes]]:
    """A figure of the one size with `panels` axes side by side; options: of plt.subplots."""
    figure, axes = plt.subplots(1, panels, figsize=SIZE, squeeze=False, **options)
    return figure, list(axes[0])


def comparison(
    table: pd.DataFrame, *, column: str = "accuracy", label: str | None = None, ax: Axes
) -> None:
    """One row per method: the mean with its 95 % interval, and every run as a pale mark below.

    Fewer than five runs have no interval: they show themselves. So do the others of a method where
    a run failed, and its name says it.

    table: of `compare`, with columns method, seed and `column`. Values are shares of 1, shown in %.

    Methods stand in the table's order, from the top.
    """
    rows = {name: group[column] for name, group in table.groupby("method", sort=False)}
    ends = share_interval if unit_of(table, column) == "%" else interval
    _rows(rows, ax, looks(rows), ends)
    ax.set_xlabel(label or f"{column}, %")


def differences(
    table: pd.DataFrame,
    *,
    baseline: str = "joint",
    column: str = "accuracy",
    label: str | None = None,
    ax: Axes,
) -> None:
    """One row per method: its paired differences to `baseline`, seed by seed, as `comparison`.

    A line stands at 0: an interval that leaves it out is a difference the seeds do not explain.
    """
    wide = table.pivot(index="seed", columns="method", values=column)
    names = [name for name in table["method"].unique() if name != baseline]
    _rows({name: wide[name] - wide[baseline] for name in names}, ax, looks(wide))
    ax.axvline(0, color="#555555", linewidth=1)
    ax.set_xlabel(label or f"{column} minus {baseline}, points")


def _rows(
    values: Mapping[str, pd.Series],
    ax: Axes,
    of: Mapping[str, Look],
    ends: Ends = interval,
) -> None:
    for row, (name, runs) in enumerate(values.items()):
        mean, low, high = _of_whole(runs, ends)
        color, _, marker = of[name]
        ax.plot(
            runs,
            [row + 0.22] * len(runs),
            color=color,
            marker=marker,
            linestyle="none",
            alpha=0.4,
            markersize=4,
        )
        ax.errorbar(
            mean,
            row,
            xerr=[[mean - low], [high - mean]] if runs.notna().all() and enough(runs) else None,
            color=color,
            marker=marker,
            markersize=8,
            capsize=4,
        )
    names = [
        name if runs.notna().all() else f"{name} (a run failed)" for name, runs in values.items()
    ]
    ax.set_yticks(range(len(values)), names)
    ax.set_ylim(len(values) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_formatter(_percent)


def _of_whole(runs: pd.Series, ends: Ends) -> tuple[float, float, float]:
    """Mean and ends where every run has a value; else NaN, which is not drawn."""
    return ends(runs) if runs.notna().all() else (math.nan,) * 3


def curves(
    table: pd.DataFrame,
    *,
    x: str = "epoch",
    y: str = "value",
    by: str = "output",
    percent: bool = False,
    ax: Axes,
) -> None:
    """One line per name in column `by`: the mean over seeds, and its 95 % interval as a band.

    Fewer than five seeds have no interval: each is a thin line.

    table: tidy, one row per run (column "seed") and per value of `x`.
    percent: `y` is a share of 1, shown in %.
    """
    of = looks(table[by].unique())
    for name, group in table.groupby(by, sort=False):
        runs = group.pivot(index="seed", columns=x, values=y)
        ax.plot(
            runs.columns,
            runs.mean(),
            label=name,
            markevery=max(1, runs.shape[1] // 5),
            **of[name]._asdict(),
        )
        color = of[name].color
        if len(runs) < ENOUGH["seed"]:
            ax.plot(runs.columns, runs.T, color=color, alpha=0.3, linewidth=1, marker="")
        else:
            share = percent and group[y].between(0, 1).all()
            ends = share_interval if share else interval
            _, low, high = zip(*(_of_whole(runs[place], ends) for place in runs), strict=True)
            ax.fill_between(runs.columns, low, high, color=color, alpha=0.15, linewidth=0)
    ax.set_xlabel(x)
    if table[x].dtype.kind == "i":
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if percent:
        ax.yaxis.set_major_formatter(_percent)


def diagnosis(found: Diagnosis) -> Figure:
    """What `mmlab.experiments.diagnose` found: every answer's accuracy, and the three causes.

    Left: accuracy on the test (filled, with its 95 % interval) and on the holdout (hollow). Right:
    what each cause has of the loss; the grey band is what does not count.
    """
    figure, (left, right) = canvas(2, layout="constrained")
    test, holdout = found.scores["test"], found.scores["holdout"]
    of = looks([m for m in test if m not in ANSWERS])
    of |= dict(zip(ANSWERS, ANSWER_LOOKS, strict=True))
    named = {name_of(who): runs for who, runs in test.items()}
    _rows(named, left, {name_of(who): look for who, look in of.items()}, share_interval)
    for row, (m, runs) in enumerate(holdout.items()):
        color, _, marker = of[m]
        left.plot(runs.mean(), row - 0.22, color=color, marker=marker, fillstyle="none")
    left.set_xlabel("accuracy, %: test filled, holdout hollow")
    causes = {c: finding.values for c, finding in found.findings.items() if c != "drop"}
    _rows(causes, right, dict.fromkeys(causes, LOOKS["joint"]))
    right.axvspan(-found.margin, found.margin, color="#DDDDDD", zorder=0)
    right.axvline(0, color="#555555", linewidth=1)
    right.set_yticks(range(len(causes)), [f"{c}:\n{found.findings[c].verdict}" for c in causes])
    right.set_xlabel("speaks for the cause, points")
    return figure


def diagnoses(found: Mapping[str, Diagnosis]) -> Figure:
    """The map: one row per data set, one panel for the drop and for each cause.

    A mark is the mean with its 95 % interval, in points; filled where the verdict is "seen": of a
    cause only where there is a drop to explain. The grey band is what does not count. Fewer than
    five runs have no interval.

    Raises ValueError for no diagnosis.
    """
    if not found:
        raise ValueError("found is empty; the map needs at least one diagnosis")
    questions = list(next(iter(found.values())).findings)
    figure, axes = canvas(len(questions), sharey=True)
    for ax, question in zip(axes, questions, strict=True):
        for row, of in enumerate(found.values()):
            answer = of.findings[question]
            mean, low, high = interval(answer.values)
            seen = answer.verdict == "seen" and question in ("drop", *of.causes)
            ax.errorbar(
                mean,
                row,
                xerr=[[mean - low], [high - mean]] if enough(answer.values) else None,
                color=LOOKS["joint"].color if seen else "#888888",
                marker="o" if seen else "D",
                markerfacecolor=None if seen else "white",
                markersize=7,
                capsize=3,
            )
        margin = next(iter(found.values())).margin
        ax.axvspan(-margin, margin, color="#DDDDDD", zorder=0)
        ax.axvline(0, color=_GREY, linewidth=1)
        ax.set_title(question)
        ax.set_xlabel("points")
        ax.grid(axis="y", visible=False)
        ax.xaxis.set_major_formatter(_percent)
    axes[0].set_yticks(range(len(found)), list(found))
    axes[0].set_ylim(len(found) - 0.5, -0.5)
    return figure


class Box(NamedTuple):
    """A box of a `diagram`: its text, and its place on a grid; rows are counted from the top.

    of: the name (a modality, a method) whose colour frames it; None: grey.
    """

    text: str
    column: float
    row: float
    of: str | None = None


class Arrow(NamedTuple):
    """An arrow of a `diagram` from box to box, with a text beside it.

    of:   the name whose colour it has; None: grey.
    back: a gradient, dashed.
    """

    start: str
    end: str
    text: str = ""
    of: str | None = None
    back: bool = False


def diagram(boxes: Mapping[str, Box], arrows: Iterable[Arrow]) -> Figure:
    """Boxes and arrows: what a network is made of, and which gradient each part of it hears.

    Solid arrows lead forward, dashed ones carry a gradient back. A box is 0.7 of a column wide and
    half a row high.

    Raises ValueError for no box, or an arrow from or to a box that is not there.
    """
    if not boxes:
        raise ValueError("boxes is empty; a diagram needs at least one box")
    arrows = [*arrows]
    names = [box.of for box in boxes.values()] + [arrow.of for arrow in arrows]
    of = looks(name for name in names if name)
    figure, (ax,) = canvas()
    columns, rows = [b.column for b in boxes.values()], [b.row for b in boxes.values()]
    ax.set_xlim(min(columns) - 0.45, max(columns) + 0.45)
    ax.set_ylim(max(rows) + 0.5, min(rows) - 0.5)
    ax.axis("off")
    figure.draw_without_rendering()  # from here on the axes stay, and texts find their arrows
    patches = {name: _box(ax, box, of) for name, box in boxes.items()}
    for arrow in arrows:
        for end in (arrow.start, arrow.end):
            if end not in boxes:
                raise ValueError(f"an arrow names the box {end!r}; the boxes are {[*boxes]}")
        _arrow(ax, arrow, patches, of)
    return figure


def _box(ax: Axes, box: Box, of: Mapping[str, Look]) -> FancyBboxPatch:
    color = of[box.of].color if box.of else _GREY
    corner = (box.column - 0.33, box.row - 0.24)
    patch = FancyBboxPatch(
        corner, 0.66, 0.48, "round,pad=0.02", facecolor="white", edgecolor=color, linewidth=1.8
    )
    ax.add_patch(patch)
    ax.text(box.column, box.row, box.text, ha="center", va="center", fontsize=11)
    return patch


def _arrow(
    ax: Axes, arrow: Arrow, patches: Mapping[str, FancyBboxPatch], of: Mapping[str, Look]
) -> None:
    """The arrow keeps to the right of the line between the boxes: one that leads back has room."""
    color = of[arrow.of].color if arrow.of else _GREY
    boxes = [patches[end] for end in (arrow.start, arrow.end)]
    to_screen = ax.transData
    point = plt.rcParams["figure.dpi"] / 72
    a, b = to_screen.transform([(x.get_x() + x.get_width() / 2, _middle(x)) for x in boxes])
    right = np.array([b[1] - a[1], a[0] - b[0]]) / np.hypot(*(b - a)) * point
    ends = to_screen.inverted().transform([a + 6 * right, b + 6 * right])
    ax.add_patch(
        FancyArrowPatch(
            tuple(ends[0]),
            tuple(ends[1]),
            patchA=boxes[0],
            patchB=boxes[1],
            arrowstyle="-|>",
            linestyle="--" if arrow.back else "-",
            color=color,
            mutation_scale=14,
            linewidth=1.8,
            shrinkA=2,
            shrinkB=2,
        )
    )
    x, y = to_screen.inverted().transform((a + b) / 2 + 20 * right)
    ax.text(x, y, arrow.text, ha="center", va="center", fontsize=11, color=color)


def _middle(box: FancyBboxPatch) -> float:
    return box.get_y() + box.get_height() / 2


def _percent(share: float, _: float) -> str:
    """A tick of a share of 1, in %."""
    return f"{100 * share:.3g}".replace("-", "−")


def show(figure: Figure, name: str, alt: str) -> None:
    """Save `figure` as figures/<name>.png and .svg, and display it with its alt text.

    alt: what a reader who does not see the figure must know: what is drawn, and what it shows.
    Raises ValueError for an empty alt text or a name that is no plain file name, and OSError that
    names the file where it cannot be written.
    """
    from IPython.display import display

    if not alt.strip():
        raise ValueError(
            f"figure {name!r} has no alt text; say in a sentence or two what it draws and shows"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(
            f"figure name {name!r} is not allowed; use letters, digits, '-' and '_', "
            "without folder or suffix, such as '01-curves'"
        )
    if layout := figure.get_layout_engine():
        layout.execute(figure)  # once for both files
        figure.set_layout_engine("none")
    png = _rendered(figure, "png", {"Software": None})
    folder = figures_folder()
    write_atomically(folder / f"{name}.png", png)
    write_atomically(folder / f"{name}.svg", _rendered(figure, "svg", {"Date": None}))
    plt.close(figure)
    display(as_output(png, alt), metadata={"image/png": {"alt": alt}}, raw=True)


def figures_folder() -> Path:
    """Where `show` saves: `figures`, or the folder that the variable MMLAB_FIGURES names."""
    return Path(os.environ.get("MMLAB_FIGURES") or output_folder("figures"))


def as_output(png: bytes, alt: str) -> dict[str, str]:
    """The data of a notebook's output that shows a figure; alt: as `show` takes it.

    Both as PNG and as HTML, for nbconvert drops the alt text of a bare PNG.
    """
    data = base64.b64encode(png).decode("ascii")
    source = f"data:image/png;base64,{data}"
    page = f'<img src="{source}" alt="{html.escape(alt)}" style="width: 100%; max-width: 900px">'
    return {"text/html": page, "image/png": data, "text/plain": alt}


def _rendered(figure: Figure, kind: str, metadata: Mapping[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, metadata=metadata)
    return buffer.getvalue()
