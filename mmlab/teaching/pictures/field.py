"""The wider field: a tree of the methods, gradients under five rules, costs, short trainings."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd
import torch
from matplotlib.lines import Line2D
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from mmlab.balancers import METHODS, Balancer
from mmlab.datasets import MultimodalData, load
from mmlab.datasets.base import in_memory
from mmlab.evaluation import joint_accuracy, share_accuracy
from mmlab.models import MultimodalNet
from mmlab.plotting import LOOKS, SIZE, Look, canvas, looks
from mmlab.teaching.pictures.mmpareto import plane
from mmlab.training import fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#555555"

SAMPLES, BATCH, EPOCHS, RATE = 512, 128, 4, 0.1
"""Of each training at play: 16 steps."""


class Branch(NamedTuple):
    """One way to change a step: its name, what it changes, and the methods that do so."""

    name: str
    changes: str
    methods: tuple[str, ...]


TREE = (
    Branch("loss weights", "which losses are added", ("uniform", "G-Blend", "PMR", "LFM", "CML")),
    Branch(
        "gradient scale",
        "how far encoders move",
        ("ACE", "BDO", "OGM", "OGM-GE", "AGM", "InfoReg", "DGL"),
    ),
    Branch(
        "gradient direction",
        "where encoders move",
        ("MMPareto", "PCGrad", "CAGrad", "IMTL-G", "Nash-MTL", "Aligned-MTL"),
    ),
    Branch("features dropped", "what the fusion reads", ("OPM",)),
    Branch("teachers", "what features aim at", ("UMT",)),
    Branch("turns and stages", "who learns when", ("MLA", "ReconBoost", "D&R")),
    Branch("data order", "which samples come", ("SMV",)),
    Branch("fusion", "how answers are added", ("MMCosine",)),
)
"""Every method of the library but joint training, on the branch of what it changes."""

KNOWN = ("uniform", "G-Blend", "ACE", "BDO", "OGM", "OGM-GE", "MMPareto", "MLA")
"""The methods of notebooks 00 to 06."""


def tree() -> Figure:
    """The family tree: one row per branch, its methods behind it with the marks of all figures."""
    figure, (ax,) = canvas()
    ax.set(xlim=(0, SIZE[0]), ylim=(len(TREE) - 0.4, -0.6))
    ax.axis("off")
    ax.text(0.12, (len(TREE) - 1) / 2, "one training step", rotation=90, va="center", fontsize=11)
    ax.plot([0.42, 0.42], [0, len(TREE) - 1], color=_GREY)
    figure.draw_without_rendering()  # from here on texts can be measured
    for row, branch in enumerate(TREE):
        ax.plot([0.42, 0.6], [row, row], color=_GREY)
        ax.text(0.66, row - 0.17, branch.name, va="center", fontsize=10.5, fontweight="bold")
        ax.text(0.66, row + 0.2, branch.changes, va="center", fontsize=9, color=_GREY)
        right = 2.4
        for name in branch.methods:
            right = _leaf(ax, name, right, row)
    return figure


def _leaf(ax: Axes, name: str, left: float, row: int) -> float:
    """A method's mark and name; returns where the next one begins."""
    look = LOOKS[name]
    ax.plot(left, row, marker=look.marker, linestyle="none", color=look.color, markersize=8)
    text = ax.text(left + 0.12, row, name, va="center", fontsize=10)
    text.set_color(_GREY if name in KNOWN else "black")
    return ax.transData.inverted().transform(text.get_window_extent())[1, 0] + 0.19


def rules(
    weightings: Mapping[str, Callable[[Tensor], Tensor]], angles: tuple[float, ...], ratio: float
) -> Figure:
    """One panel per angle: two gradients, their bisector, and the step that each rule makes.

    weightings: name -> rule from Gramians (…, 2, 2) to weights (…, 2).
    angles: between g and u, degrees. ratio: ‖u‖ / ‖g‖.
    """
    figure, axes = canvas(len(angles))
    marks = _distinct_looks(weightings)
    for ax, angle in zip(axes, angles, strict=True):
        pair = ratio * torch.stack(plane(angle, ratio))  # ‖g‖ = 1
        for name, tip in zip("gu", pair, strict=True):
            _arrow(ax, tip, _GREY, 3.0)
            x, y = (tip + 0.06).tolist()
            ax.text(x, y, f"${name}$", fontsize=12)
        tips = {name: rule(pair @ pair.mT) @ pair for name, rule in weightings.items()}
        for name in sorted(tips, key=lambda name: -tips[name].norm()):  # a short one lies on top
            _arrow(ax, tips[name], marks[name].color, 1.6)
        for name, look in marks.items():
            tip = tips[name][:, None].tolist()
            mark = Line2D(*tip, color=look.color, marker=look.marker, label=name)
            mark.set(linestyle="none", markersize=9, markeredgewidth=2)
            ax.add_line(mark)
        half = math.radians(angle / 2)
        ax.plot([0, 2.2 * math.cos(half)], [0, 2.2 * math.sin(half)], "--", color=_GREY, lw=0.8)
        ax.set(aspect="equal", title=f"{angle:.0f}°: {'a' if angle > 90 else 'no'} conflict")
        ax.set(xlim=(-1.3, 2.3), ylim=(-0.2, 2.2))
        ax.axis("off")
    axes[-1].legend(loc="upper left", bbox_to_anchor=(0.72, 1.0))
    return figure


def _distinct_looks(names: Iterable[str]) -> dict[str, Look]:
    """The house's looks; a free colour where an earlier name has the same one, as arrows touch."""
    free = ["#D55E00", "#0072B2"]
    found: dict[str, Look] = {}
    for name, look in looks(names).items():
        taken = look.color in [other.color for other in found.values()]
        found[name] = look._replace(color=free.pop(0)) if taken else look
    return found


def _arrow(ax: Axes, tip: Tensor, color: str, width: float) -> None:
    style = {"arrowstyle": "-|>", "color": color, "linewidth": width, "shrinkA": 0, "shrinkB": 0}
    x, y = tip.tolist()
    ax.annotate("", (x, y), (0, 0), arrowprops=style | {"mutation_scale": 12})


def first(data: MultimodalData, count: int) -> MultimodalData:
    """The first samples of each split, in float64: short trainings, whose ends can be compared."""
    train, holdout, test = (split.head(count) for split in data.splits.values())
    for part in (train, holdout, test):
        part.inputs = {m: x.double() for m, x in part.inputs.items()}
    return MultimodalData(train, holdout, test, n_classes=data.n_classes)


def trained(balancer: Balancer, data: MultimodalData, epochs: int, seed: int) -> MultimodalNet:
    """The network after a training in the type of the data."""
    net = MultimodalNet.build(data, **balancer.network, seed=seed).to(_type(data))
    fit(net, data, balancer, epochs=epochs, seed=seed, device="cpu")
    return net


def apart(one: nn.Module, other: nn.Module) -> float:
    """The largest difference of a parameter between two modules that are built alike."""
    first, second = (parameters_to_vector(net.parameters()).detach() for net in (one, other))
    return float((first - second).abs().max())


def _type(data: MultimodalData) -> torch.dtype:
    return next(iter(in_memory(data.train, "trainings").inputs.values())).dtype


def costs(data: MultimodalData, names: Iterable[str], epochs: int) -> pd.DataFrame:
    """What a whole training of each method sends through the encoders, beside its floor.

    Per training sample, epoch and encoder: how often a sample goes "forward" and a gradient comes
    "backward". "in joint steps": (forward + 2 backward) / 3. "floor": the registry's, of one step.
    """
    rows = {}
    for name in names:
        balancer, passes = METHODS[name].make(), Counter[str]()
        net = MultimodalNet.build(data, **balancer.network, seed=0)
        for m, encoder in net.encoders.items():
            net.encoders[m] = _Counted(encoder, passes)
        fit(net.to(_type(data)), data, balancer, epochs=epochs, seed=0, device="cpu")
        whole = len(data.train) * len(net.modalities) * epochs
        forward, backward = (passes[way] / whole for way in ("forward", "backward"))
        rows[name] = (forward, backward, (forward + 2 * backward) / 3, METHODS[name].floor)
    columns = ["forward", "backward", "in joint steps", "floor"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def bars(found: pd.DataFrame) -> Figure:
    """What `costs` found, in joint steps: forward and backward stacked, and the floor as a mark."""
    figure, (ax,) = canvas()
    rows = range(len(found))
    forward, backward = found["forward"] / 3, 2 * found["backward"] / 3
    ax.barh(rows, forward, color="#BBBBBB", label="forward")
    ax.barh(rows, backward, left=forward, color="#666666", label="backward")
    ax.plot(found["floor"], rows, "|", color="#D55E00", markersize=9, markeredgewidth=2.5)
    ax.plot([], [], "|", color="#D55E00", markeredgewidth=2.5, label="floor of a step")
    ax.set_yticks(rows, list(found.index), fontsize=8)
    ax.set(ylim=(len(found) - 0.4, -0.6), xlabel="cost of a training, in joint trainings")
    ax.grid(axis="y", visible=False)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return figure


class _Counted(nn.Module):
    """An encoder that counts the samples which go forward and the gradients which come back."""

    def __init__(self, encoder: nn.Module, passes: Counter[str]) -> None:
        super().__init__()
        self.encoder, self.passes = encoder, passes

    def __deepcopy__(self, memo: dict) -> _Counted:
        """A copy, such as a trial or a teacher, adds to the same count."""
        return _Counted(copy.deepcopy(self.encoder, memo), self.passes)

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        self.passes["forward"] += len(h)
        if h.requires_grad:
            h.register_hook(self._back)
        return h

    def _back(self, gradient: Tensor) -> None:
        self.passes["backward"] += len(gradient)


def short_trainings(
    methods: Mapping[str, Callable[[], Balancer]],
    *,
    loudness: Sequence[float],
    noise: Sequence[float],
) -> pd.DataFrame:
    """Train each method on 512 digits at each setting, with one seed.

    Args:
        loudness: factors on the audio input.
        noise: on the scans, in units of full scale.

    Returns:
        Accuracy on the holdout: one row per (loudness, noise, method), with the columns "network",
        "audio" and "image", the latter two of each modality's share.
    """
    rows = {}
    for loud, noisy in product(loudness, noise):
        data = load("av-digits", seed=0, noise={"image": noisy})
        data.train = data.train.head(SAMPLES)
        for split in (data.train, data.holdout):
            inputs = in_memory(split, "short trainings").inputs
            inputs["audio"] = loud * inputs["audio"]
        for name, make in methods.items():
            balancer = make()
            net = MultimodalNet.build(data, **balancer.network, seed=0)
            fit(net, data, balancer, epochs=EPOCHS, batch_size=BATCH, lr=RATE, device="cpu")
            right = {"network": joint_accuracy(net, data.holdout)}
            rows[loud, noisy, name] = right | share_accuracy(net, data.holdout)
    found = pd.DataFrame.from_dict(rows, orient="index")
    found.index = pd.MultiIndex.from_tuples(rows, names=["loudness", "noise", "method"])
    return found


def side_by_side(ax: Axes, found: pd.DataFrame, *, loudness: float, noise: float) -> None:
    """Per method of `short_trainings` at one setting, the accuracy of network and shares."""
    at = found.loc[(loudness, noise)]
    shown = looks(["audio", "image"])
    for row, (_, right) in enumerate((100 * at).iterrows()):
        for m, look in shown.items():
            ax.plot(right[m], row, look.marker, color=look.color, markersize=7)
        ax.plot(right["network"], row, "o", color="black", fillstyle="none", markersize=12, mew=2)
    ax.set_yticks(range(len(at)), list(at.index))
    ax.set(ylim=(len(at) - 0.5, -0.5), xlim=(0, 102), xlabel="right on the holdout, %")
    ax.set_title(f"audio × {loudness:g}, noise {noise:g}")
