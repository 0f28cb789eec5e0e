"""Bigger in pictures: the way from a folder to many GPUs, two processes, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from mmlab.experiments import share_interval
from mmlab.plotting import LOOKS, Arrow, Box, canvas, diagram
from mmlab.teaching.pictures.stages import stages

WAY = {
    "files": "missing,\ndamaged?",
    "texts": "padding\nread?",
    "features": "encoded\ntwice?",
    "seeds": "luck?",
    "one long\nrun": "killed?",
    "several\nGPUs": "each for\nitself?",
}
"""What grows, and below each what can go wrong in silence."""


def way() -> Figure:
    """From a folder to several GPUs: the stages above, below each what may go wrong."""
    return stages(WAY)


def clip(frames: Tensor, sound: Tensor) -> Figure:
    """One clip as the network gets it. frames: (T, 3, H, W), any scale; sound: (bands, steps)."""
    figure, axes = canvas(len(frames) + 1, width_ratios=[1] * len(frames) + [2])
    low, high = frames.min(), frames.max()
    for number, (ax, frame) in enumerate(zip(axes, frames, strict=False), start=1):
        ax.imshow(((frame - low) / (high - low)).permute(1, 2, 0).numpy())
        ax.set(title=f"frame {number}", xticks=[], yticks=[])
        ax.grid(False)
    axes[-1].imshow(sound[:100].numpy(), aspect="auto", origin="lower")
    axes[-1].set(title="sound", xlabel="time, windows of 16 ms", ylabel="frequency, bands of 43 Hz")
    axes[-1].grid(False)
    return figure


def narrowing(runs: Mapping[str, Sequence[float]], least: int = 5) -> Figure:
    """Mean and 95 % interval of the first n runs over n, in %, a panel per method."""
    figure, axes = canvas(len(runs), sharey=True)
    for ax, (name, values) in zip(axes, runs.items(), strict=True):
        counts = range(least, len(values) + 1)
        ends = [share_interval(pd.Series(values[:n])) for n in counts]
        mean, low, high = (100 * np.array(x) for x in zip(*ends, strict=True))
        look = LOOKS[name]
        ax.plot(range(1, len(values) + 1), 100 * np.array(values), ".", color=look.color, alpha=0.4)
        ax.plot(counts, mean, color=look.color, linestyle=look.linestyle)
        ax.fill_between(counts, low, high, color=look.color, alpha=0.15, linewidth=0)
        ax.set(title=name, xlabel="seeds")
    axes[0].set_ylabel("test accuracy, %")
    return figure


def processes() -> Figure:
    """What two processes do in a step: each encodes its own samples, both decide by all."""
    boxes = {}
    for row, own in enumerate(("samples\n0 to 7", "samples\n8 to 15")):
        boxes[f"own {row}"] = Box(own, 0, row)
        boxes[f"encoders {row}"] = Box("encoders", 1, row)
        boxes[f"all {row}"] = Box("features\nof all 16", 2, row, "joint")
        boxes[f"method {row}"] = Box("losses,\nmethod", 3, row, "joint")
    arrows = []
    for row in (0, 1):
        arrows += [
            Arrow(f"own {row}", f"encoders {row}"),
            Arrow(f"encoders {row}", f"all {row}"),
            Arrow(f"encoders {row}", f"all {1 - row}"),
            Arrow(f"all {row}", f"method {row}", of="joint"),
        ]
    arrows += [
        Arrow("encoders 0", "encoders 1", back=True),
        Arrow("encoders 1", "encoders 0", "      mean", back=True),
    ]
    return diagram(boxes, arrows)


def costs(table: pd.DataFrame) -> Figure:
    """The estimate over the number of GPUs: left the parts of a joint step, right the efficiency.

    table: index GPUs; columns "encoders", "features", "gradients", "fusion" (ms, of joint training)
    and "joint", "MMPareto" (efficiency, shares of 1).
    """
    figure, (left, right) = canvas(2)
    places, bottom = np.arange(len(table)), np.zeros(len(table))
    parts = {
        "encoders": ("#999999", ""),
        "features": ("#0072B2", "//"),
        "gradients": ("#D55E00", ".."),
        "fusion": ("#009E73", "xx"),
    }
    for name, (color, hatch) in parts.items():
        left.bar(places, table[name], 0.6, bottom, color=color, hatch=hatch, label=name)
        bottom += table[name]
    left.set_xticks(places, [f"{n}" for n in table.index])
    left.set(xlabel="GPUs", ylabel="a joint step, ms")
    left.legend(fontsize=8)
    for name in ("joint", "MMPareto"):
        right.plot(table.index, 100 * table[name], label=name, **LOOKS[name]._asdict())
    right.set_xscale("log", base=2)
    right.set_xticks(table.index, [f"{n}" for n in table.index])
    right.set(xlabel="GPUs", ylabel="efficiency, %", ylim=(0, 105))
    right.legend()
    return figure
