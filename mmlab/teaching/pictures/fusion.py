"""Fusions beyond one linear layer: rows per fusion, shares before and after, parts of information.

Where a picture shows numbers, they are those of the library's own functions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from mmlab.datasets import MultimodalData, load
from mmlab.datasets.base import in_memory
from mmlab.evaluation import forward, shapley_shares
from mmlab.evaluation.information import information_parts
from mmlab.experiments import compare
from mmlab.experiments.arguments import MakeBalancer
from mmlab.models import FUSIONS
from mmlab.models.fusion import Fusion
from mmlab.plotting import LOOKS, Arrow, Box, canvas, comparison, diagram, differences, looks
from mmlab.teaching.tasks import TASKS
from mmlab.training.run import Run

_GREY = "#555555"

TARGETS: dict[str, Callable[[int, int], int]] = {
    "a": lambda a, b: a,
    "XOR": operator.xor,
    "AND": operator.and_,
}
"""What a target of two bits a and b may be, in `parts_of_two_bits`."""


def network() -> Figure:
    """A network of audio and image with any fusion: who asks it four times, and what is changed."""
    boxes = {
        "fusion": Box("fusion\n$f$", 2.6, 0.65),
        "loss": Box("$z$ and\nloss $L$", 3.7, 0.65),
        "sets": Box("4 questions:\n$f(∅)$ … $f(a, i)$", 2.6, 2.2),
        "shares": Box("shares\n$z^{(a)}, z^{(i)}$", 1.3, 2.2),
        "ratio": Box("ratio $\\rho$\nfactor $k$", 0, 2.2),
    }
    arrows = [
        Arrow("fusion", "loss"),
        Arrow("loss", "fusion", back=True),
        Arrow("fusion", "sets"),
        Arrow("sets", "shares"),
        Arrow("shares", "ratio"),
    ]
    for m, k, row in (("audio", "a", 0), ("image", "i", 1.3)):
        encoder = f"encoder {m}"
        boxes[m] = Box(f"{m}\n$x_{k}$", 0, row, m)
        boxes[encoder] = Box(f"encoder\n$\\varphi_{k}$", 1.0, row, m)
        arrows += [Arrow(m, encoder, of=m), Arrow(encoder, "fusion", of=m)]
        arrows.append(Arrow("fusion", encoder, f"$k_{k} g_{k}$", m, back=True))
    return diagram(boxes, arrows)


def loaded(name: str, samples: int | None = None) -> Callable[[int], MultimodalData]:
    """seed -> the data set with that seed, or its first samples per split."""
    return partial(_loaded, name, samples)


def _loaded(name: str, samples: int | None, seed: int) -> MultimodalData:
    whole = load(name, seed=seed)
    if samples is None:
        return whole
    few = {part: in_memory(split, "loaded").head(samples) for part, split in whole.splits.items()}
    return MultimodalData(few["train"], few["holdout"], few["test"], n_classes=whole.n_classes)


def compared(
    rows: Mapping[tuple[str, str], tuple[MakeBalancer, float]],
    data: Callable[[int], MultimodalData],
    *,
    encoders: str,
    **options: Any,
) -> pd.DataFrame:
    """`compare`, of pairs (fusion, method); its table, with the columns fusion and method.

    rows: pair -> what makes the balancer, and its learning rate.
    """
    settings = {
        " · ".join(row): {"lr": lr, "build": {"encoders": encoders, "fusion": row[0]}}
        for row, (_, lr) in rows.items()
    }
    makers = dict(zip(settings, (make for make, _ in rows.values()), strict=True))
    table = compare(makers, data, settings=settings, **options)
    names = table["method"].str.split(" · ", expand=True)
    return table.assign(fusion=names[0], method=names[1])


def answers(
    fusion: Fusion, h: Mapping[str, Tensor], base: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Logits of nobody, of the first, of the second and of both modalities: (4, B, C).

    base: what stands for the feature of an absent modality, (D,) each; by default the mean that the
        fusion has followed during training, and 0 where it adds and so follows none.
    """
    one, two = h
    if base is None:
        widths = fusion.widths.items()
        base = {m: getattr(fusion, f"mean_{m}", torch.zeros(width)) for m, width in widths}
    found = []
    for some in ((), (one,), (two,), (one, two)):
        mixed = {m: x if m in some else base[m].to(x).expand_as(x) for m, x in h.items()}
        found.append(fusion(mixed))
    return torch.stack(found)


@torch.no_grad()
def heard(run: Run) -> dict[str, float]:
    """Shapley shares on the test, and the part of interaction in what moves the true logit."""
    net, test = run.model, in_memory(run.data.test, "heard")
    none, a, i, both = answers(cast(Fusion, net.fusion), dict(net(test.inputs).features))
    moved = torch.stack([a - none, i - none, both - a - i + none])
    moved = moved - moved.mean(-1, keepdim=True)
    size = moved[:, range(len(test)), test.target].abs().mean(-1)
    found = {f"shapley {m}": x for m, x in shapley_shares(net, test).items()}
    return found | {"interaction": (size[2] / size.sum()).item()}


def shares(tables: Mapping[str, tuple[pd.DataFrame, str]], method: str) -> Figure:
    """One panel per data set: a modality's share under each fusion, joint and with a method.

    tables: data set -> (table with columns fusion, method, seed and "shapley NAME"; the name).
    """
    figure, axes = canvas(len(tables))
    for ax, (title, (table, m)) in zip(axes, tables.items(), strict=True):
        fusions = list(dict.fromkeys(table["fusion"]))
        of = looks(["joint", method])
        for step, name in enumerate(("joint", method)):
            color, _, marker = of[name]
            for row, fusion in enumerate(fusions):
                here = table[(table["fusion"] == fusion) & (table["method"] == name)]
                values, place = 100 * here[f"shapley {m}"], row + 0.26 * step - 0.13
                ax.plot(values, [place] * len(values), marker, color=color, alpha=0.35)
                label = name if row == 0 else None
                (mark,) = ax.plot(values.mean(), place, marker, color=color, label=label)
                mark.set(markersize=9, linestyle="none")
        ax.axvline(50, color=_GREY, linewidth=1, linestyle=":")
        ax.set(title=title, xlabel=f"share of {m}, %", xlim=(0, 100))
        ax.grid(axis="y", visible=False)
        ax.set_yticks(range(len(fusions)), fusions)
        ax.set_ylim(len(fusions) - 0.5, -0.5)
    axes[0].legend(loc="lower left", fontsize=9)
    return figure


KINDS = ("redundant", "unique", "synergistic")
"""The labels of `mmlab.datasets.bits` with one bit of each kind."""


def per_bit(run: Run) -> dict[str, float]:
    """Of a run on `bits`: how often the bit of each kind is right, and modality a's share of it.

    The share of a: how far its part of the logit moves between samples, over the same of both.
    """
    test = in_memory(run.data.test, "per_bit")
    out = forward(run.model, test)
    right = ((out.joint > 0).cpu() == test.target.cpu()).double().mean(0)
    size = {m: (z - z.mean(0)).abs().mean(0).cpu() for m, z in out.contributions.items()}
    share = size["a"] / (size["a"] + size["b"])
    found = {f"right {kind}": x.item() for kind, x in zip(KINDS, right, strict=True)}
    return found | {f"share {kind}": x.item() for kind, x in zip(KINDS, share, strict=True)}


@torch.no_grad()
def costs(counts: Iterable[int], samples: int = 64) -> pd.DataFrame:
    """What shares of a fusion by attention cost, per number of modalities M.

    "rows": those that its last layer sees per sample. "all sets": 2^M. "error": the standard error
    of the shares over their size, of one fusion with weights drawn at random.
    """
    rows = {}
    for count in counts:
        draw, seen = torch.Generator().manual_seed(0), list[int]()
        names = [f"m{k}" for k in range(count)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fusion = FUSIONS["attention"](dict.fromkeys(names, 8), 10)
        h = {m: torch.randn(samples, 8, generator=draw) for m in names}

        def note(_: nn.Module, __: object, output: Tensor, seen: list[int] = seen) -> None:
            seen.append(len(output))

        fusion.get_submodule("linear").register_forward_hook(note)
        parts, error = fusion.contributions(h), fusion.contribution_error(h)
        sizes = [torch.stack([*x.values()]).square().mean().sqrt() for x in (error, parts)]
        rows[count] = (seen[0] // samples, 2**count, (sizes[0] / sizes[1]).item())
    return pd.DataFrame.from_dict(rows, orient="index", columns=["rows", "all sets", "error"])


def per_fusion(table: pd.DataFrame) -> Figure:
    """One panel per fusion: differences of all methods to joint training; table: as `shares`'."""
    fusions = list(dict.fromkeys(table["fusion"]))
    figure, axes = canvas(len(fusions), sharex=True)
    rows = list(dict.fromkeys(table["method"]))[1:]
    for ax, fusion in zip(axes, fusions, strict=True):
        here = table[table["fusion"] == fusion]
        differences(here, ax=ax, label="minus joint, points")
        names = [label.get_text() for label in ax.get_yticklabels()]
        ax.set_yticks(range(len(names)), [name.replace(" of ", "\nof ") for name in names])
        ax.tick_params(axis="y", labelsize=8)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_title(fusion)
    return figure


def coupling() -> Figure:
    """Information of two sources on a target with a part of each kind, over how they belong."""
    t = np.linspace(-0.9999, 0.9999, 201)
    heads = (1 + t) / 2
    told = 3 + heads * np.log2(heads) + (1 - heads) * np.log2(1 - heads)
    figure, (ax,) = canvas()
    ax.plot(t, told, color=LOOKS["audio"].color)
    ax.plot([1], [3], "o", color=LOOKS["image"].color, label="the true distribution")
    ax.plot([0], [2], "s", color=_GREY, label="the worst one: no synergy")
    ax.set(xlabel="$t$: how $s_a$ and $s_b$ belong together", ylabel="$I_q(y; a, b)$, bits")
    ax.set(ylim=(1.9, 3.1), yticks=[2, 2.5, 3])
    ax.legend(loc="upper center")
    return figure


def kinds(table: pd.DataFrame, names: Sequence[str] = KINDS) -> Figure:
    """How often each kind of bit is right under each fusion, and the share of modality a.

    table: columns method (the fusion), seed, and for each kind in `names` "right KIND" and
    "share KIND".
    """
    figure, axes = canvas(2, sharey=True)
    for ax, what in zip(axes, ("right", "share"), strict=True):
        of = looks(dict.fromkeys(table["method"]))
        for step, (fusion, look) in enumerate(of.items()):
            here = table[table["method"] == fusion]
            places = np.arange(len(names)) + 0.16 * (step - (len(of) - 1) / 2)
            for kind, place in zip(names, places, strict=True):
                runs = 100 * here[f"{what} {kind}"]
                label = fusion if kind == names[0] else "_"
                for x, size, alpha in ((runs, 5, 0.3), ([runs.mean()], 8, 1.0)):
                    (mark,) = ax.plot(x, [place] * len(x), color=look.color)
                    mark.set(linestyle="none", marker=look.marker, markersize=size, alpha=alpha)
                mark.set_label(label)
        ax.axvline(50, color=_GREY, linewidth=1, linestyle=":")
        ax.grid(axis="y", visible=False)
    axes[0].set(xlabel="bits that are right, %", ylim=(len(names) - 0.5, -0.5))
    axes[0].set_yticks(range(len(names)), names)
    axes[1].set(xlabel="share of modality a, %", xlim=(0, 100))
    axes[0].legend(loc="upper left", fontsize=8)
    return figure


def tasks(table: pd.DataFrame) -> Figure:
    """One panel per task: MMPareto, and this task alone, minus the plain sum of both losses.

    table: of `mmlab.teaching.tasks`.
    """
    figure, axes = canvas(2)
    for ax, task in zip(axes, TASKS, strict=True):
        named = table.assign(method=table["method"].replace(f"{task} alone", "this task alone"))
        here = named[named["method"].isin(["sum", "MMPareto", "this task alone"])]
        label = f"{task} task: minus sum, points"
        differences(here, baseline="sum", column=task, label=label, ax=ax)
    axes[1].set_yticklabels([])
    return figure


def against_chance(table: pd.DataFrame, chance: float) -> Figure:
    """Test accuracy of each method, and a dotted line at chance."""
    figure, (ax,) = canvas()
    comparison(table, ax=ax, label="test accuracy, %")
    ax.axvline(chance, color=_GREY, linestyle=":")
    return figure


def two_bits(target: str, alike: float) -> Tensor:
    """The distribution (Y, A, B) of a target in TARGETS of two fair bits; alike: P(a = b).

    Raises ValueError for a probability out of range, KeyError for an unknown target.
    """
    if not 0 <= alike <= 1:
        raise ValueError(f"alike is {alike!r}; a probability lies between 0 and 1")
    p = torch.zeros(2, 2, 2, dtype=torch.float64)
    for a in (0, 1):
        for b in (0, 1):
            p[TARGETS[target](a, b), a, b] = (alike if a == b else 1 - alike) / 2
    return p


def parts_of_two_bits(ax: Axes, *, target: str, alike: float) -> None:
    """The four parts of the information that two bits have on a target, as bars."""
    found = information_parts(two_bits(target, alike), steps=100)
    values = [max(value, 0.0) for value in found.values()]  # exact to 0.001
    ax.barh(range(len(found)), values, color=LOOKS["image"].color, height=0.6)
    for row, value in enumerate(values):
        ax.text(value + 0.03, row, f"{value:.2f}", va="center", fontsize=10)
    ax.set_yticks(range(len(found)), list(found))
    ax.set(ylim=(len(found) - 0.5, -0.5), xlim=(0, 1.3), xlabel="information, bits")
    ax.set_title(f"y = {target if target == 'a' else f'a {target} b'}, P(a = b) = {alike:g}")
    ax.grid(axis="y", visible=False)
    ax.label_outer()
