"""What OGM-GE does: its coefficient over the ratio, the lead in a run, the directions of its noise.

The coefficient is `mmlab.balancers.ogm`'s own, so the picture cannot drift from the method.
"""

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from torch import Tensor

from mmlab.balancers.ogm import modulation_coefficients
from mmlab.plotting import looks

RIGHT_END = 3.0
"""The largest ratio ρ that `coefficient` shows."""


def coefficient(ax: Axes, ratios: Mapping[str, Tensor], *, alpha: float, continuous: bool) -> None:
    """The coefficient k over the ratio ρ, and the steps of a real run on it.

    ratios: ρ at each step of a run, (T,) per modality. alpha, continuous: as for `OGM`. The title
    gives the mean k that each encoder's gradient would have had at these ratios.
    """
    for left, right in ((0.0, 1.0), (1.0 + 1e-6, RIGHT_END)):
        rho = torch.linspace(left, right, 200, dtype=torch.float64)
        k = modulation_coefficients(rho[:, None], alpha, continuous=continuous)
        ax.plot(rho, k, color="#555555", zorder=1)
    means = []
    for m, (color, _, marker) in looks(ratios).items():
        rho = ratios[m].double().cpu()
        k = modulation_coefficients(rho[:, None], alpha, continuous=continuous)[:, 0]
        ax.plot(
            rho,
            k,
            color=color,
            label=m,
            marker=marker,
            linestyle="none",
            markerfacecolor="none",
            alpha=0.5,
        )
        means.append(f"{m} {k.mean():.2f}")
    ax.axvline(1, color="#555555", linewidth=0.8, linestyle=":")
    ax.set(xlim=(0, RIGHT_END), ylim=(0, 1.08), xlabel="ratio ρ", ylabel="coefficient k")
    rule = "continuous" if continuous else "with the jump"
    ax.set_title(f"α = {alpha:g}, {rule}\nmean k: {', '.join(means)}")
    ax.legend(loc="lower left", fontsize=8)
    ax.label_outer()


def trace(ax: Axes, ratios: Mapping[str, Tensor]) -> None:
    """The ratio of each modality at every step of a run; ratios: ρ, (T,) per modality.

    The axis is logarithmic, on which the ratios of two modalities mirror each other.
    """
    for m, look in looks(ratios).items():
        ax.plot(ratios[m].cpu(), color=look.color, linestyle=look.linestyle, linewidth=1, label=m)
    ax.axhline(1, color="#555555", linewidth=0.8)
    ax.set(xlabel="step", ylabel="ratio ρ", yscale="log", ylim=(0.2, 6))
    ax.set_yticks([0.25, 0.5, 1, 2, 4], ["0.25", "0.5", "1", "2", "4"])
    ax.minorticks_off()
    ax.legend(loc="upper right", fontsize=8, ncols=len(ratios))
    ax.label_outer()


def switches(ratios: Mapping[str, Tensor]) -> float:
    """The part of the steps at which the lead changes; ratios: ρ, (T,) per modality."""
    leader = torch.stack(list(ratios.values())).argmax(0)
    return (leader[1:] != leader[:-1]).double().mean().item()


def spectrum(ax: Axes, parts: Mapping[str, Tensor], directions: int = 40) -> None:
    """The part of the variance that lies in the strongest directions, cumulated.

    parts: the part of each direction, (N,) in falling order and of sum 1, per name.
    """
    for name, look in looks(parts).items():
        share = parts[name][:directions].cumsum(0).cpu()
        places = range(1, len(share) + 1)
        ax.plot(places, 100 * share, label=name, markevery=8, **look._asdict())
    ax.set(xlabel="strongest directions", ylabel="variance in them, %", ylim=(0, 103))
    ax.legend(loc="lower right", fontsize=8)
    ax.label_outer()
