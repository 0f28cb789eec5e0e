"""Pictures of adaptive tracking factors: where λ goes, hop by hop.

The losses are made up, so that a reader can turn one thing at a time: with the share λ_m of the
rate, the loss of modality m falls in each step to floor + (L_m − floor) exp(−speed · M λ_m).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from torch import Tensor

from mmlab import plotting
from mmlab.balancers.atf import ace_update, bdo_update

MODALITIES = ("audio", "image")
START = 2.3  # both losses before training: ln 10, a guess among ten digits
SPEEDS = (0.4, 0.1)
STEPS = 12
RULES = ("ace", "bdo", "bdo, sign turned")
SECOND_HOP = "#000000"


class Track(NamedTuple):
    """What λ and the losses do; M modalities, n steps.

    factors:     λ before each step and after the last, (n + 1, M), sum 1.
    preliminary: λ after hop 1 of each step, with which the parameters move, (n, M).
    losses:      as `factors`, (n + 1, M).
    """

    factors: Tensor
    preliminary: Tensor
    losses: Tensor


def track(rule: str, rate: float, floor: float, steps: int = STEPS) -> Track:
    """λ and the losses under a rule of RULES; the slow modality's loss cannot fall below `floor`.

    Raises ValueError for an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; allowed are {', '.join(map(repr, RULES))}")
    speeds = torch.tensor(SPEEDS, dtype=torch.float64)
    floors = torch.tensor([0.0, floor], dtype=torch.float64)
    losses = torch.full_like(speeds, START)
    factors = torch.full_like(speeds, 1 / len(speeds))
    rows, hops, curve = [factors], [], [losses]
    for _ in range(steps):
        factors = ace_update(factors, losses, rate)
        hops.append(factors)
        after = floors + (losses - floors) * (-speeds * len(speeds) * factors).exp()
        if rule == "bdo":
            factors = bdo_update(factors, losses, after, rate)
        elif rule == "bdo, sign turned":
            factors = bdo_update(factors, after, losses, rate)
        losses = after
        rows.append(factors)
        curve.append(losses)
    return Track(torch.stack(rows), torch.stack(hops), torch.stack(curve))


def hops(ax: Axes, rule: str = "ace", rate: float = 0.3, floor: float = 0.0) -> None:
    """λ of the quick and the slow modality over the steps; BDO's second hop in black.

    rule:  of RULES. rate: a ≥ 0, in 1/loss. floor: loss of the slow modality that no training
           takes away, 0 to START.
    """
    path = track(rule, rate, floor)
    looks = plotting.looks(MODALITIES)
    for m, name in enumerate(MODALITIES):
        ends, middle = path.factors[:, m].tolist(), path.preliminary[:, m].tolist()
        for step, (start, half, end) in enumerate(zip(ends, middle, ends[1:], strict=False)):
            ax.plot([step, step + 0.5], [start, half], color=looks[name].color)
            second = SECOND_HOP if rule != "ace" else looks[name].color
            ax.plot([step + 0.5, step + 1], [half, end], color=second)
        ax.plot(ends, looks[name].marker, color=looks[name].color, markersize=4, label=name)
    ax.set(ylim=(-0.02, 1.02), xlabel="step", ylabel="λ")
    ax.set_title(f"{rule}\na = {rate:g}, floor {floor:g}")
    ax.legend(loc="upper left", fontsize=8)
