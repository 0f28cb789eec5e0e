"""What OGM-GE does: the coefficient over the ratio, and a race that the coefficient steers.

Both pictures take their k from `mmlab.balancers.ogm`, so they cannot drift from the method.
"""

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from torch import Tensor

from mmlab.balancers.ogm import discrepancy_ratios, modulation_coefficients
from mmlab.plotting import looks

RIGHT_END = 3.0
"""The largest ratio ρ that `coefficient` shows."""


def coefficient(ax: Axes, ratios: Mapping[str, Tensor], *, alpha: float, continuous: bool) -> None:
    """The coefficient k over the ratio ρ, and the steps of a real run on it.

    ratios: ρ at each step of a run, (T,) a modality. alpha, continuous: as for `OGM`. The legend
    gives the mean k that each encoder's gradient would have had at these ratios.
    """
    for left, right in ((0.0, 1.0), (1.0 + 1e-6, RIGHT_END)):
        rho = torch.linspace(left, right, 200, dtype=torch.float64)
        k = modulation_coefficients(rho[:, None], alpha, continuous=continuous)
        ax.plot(rho, k, color="#555555", zorder=1)
    for m, look in looks(ratios).items():
        rho = ratios[m].double().cpu()
        k = modulation_coefficients(rho[:, None], alpha, continuous=continuous)[:, 0]
        label = f"{m}: mean k {k.mean():.2f}"
        ax.plot(rho, k, look.marker, color=look.color, alpha=0.4, markersize=4, label=label)
    ax.axvline(1, color="#555555", linewidth=0.8, linestyle=":")
    ax.set(xlim=(0, RIGHT_END), ylim=(0, 1.08), xlabel="ratio ρ", ylabel="coefficient k")
    ax.set_title(f"α = {alpha:g}, {'continuous' if continuous else 'with the jump'}")
    ax.legend(loc="upper right", fontsize=8)


def race(ax: Axes, *, loudness: float, alpha: float, continuous: bool) -> None:
    """The quieter feature's part of the margin while two features learn, with k and without.

    Notebook 01's smallest example: two classes, one fixed perfect feature a modality, one
    coefficient each. loudness: the louder feature over the quieter one, ≥ 1.
    """
    for name, strength, style in (("joint", 0.0, "--"), ("modulated", alpha, "-")):
        time, part = quiet_part(loudness, strength, continuous)
        ax.plot(time, part, style, color="#000000", label=name)
    ax.axhline(0.5, color="#555555", linewidth=0.8, linestyle=":")
    ax.set(xscale="log", ylim=(0, 0.6), xlabel="time, steps × rate", ylabel="quiet feature's part")
    rule = "continuous" if continuous else "with the jump"
    ax.set_title(f"{loudness:g} times as loud\nα = {alpha:g}, {rule}")
    ax.legend(loc="lower right", fontsize=8)


def quiet_part(
    loudness: float, alpha: float, continuous: bool, steps: int = 2000, rate: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Gradient descent on the example of `race`: (time, part of the margin), both (steps,).

    The score of a feature is the probability of the true class from its own part of the margin.
    """
    feature = torch.tensor([loudness, 1.0], dtype=torch.float64)
    weight = torch.zeros_like(feature)
    part = torch.empty(steps, dtype=torch.float64)
    for step in range(steps):
        ratios = discrepancy_ratios((weight * feature).sigmoid())
        k = modulation_coefficients(ratios, alpha, continuous=continuous)
        weight = weight + rate * k * feature * (-weight @ feature).sigmoid()
        part[step] = weight[1] * feature[1] / (weight @ feature)
    return rate * torch.arange(1, steps + 1, dtype=torch.float64), part
