"""What OGM-GE does: where it acts, its coefficient over the ratio, and the lead in a run.

The coefficient is `mmlab.balancers.ogm`'s own, so the picture cannot drift from the method.
"""

from collections.abc import Mapping

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from mmlab.balancers.ogm import modulation_coefficients
from mmlab.plotting import Arrow, Box, canvas, diagram, looks

RIGHT_END = 3.0
"""The largest ratio ρ that `coefficient` shows."""


def network() -> Figure:
    """The joint network of audio and image, and where OGM-GE changes a gradient."""
    boxes = {
        "sum": Box("logits $z =$\n$z^{(a)} + z^{(i)}$", 4.0, 0.8),
        "loss": Box("loss\n$L$", 5.0, 0.8),
        "ratio": Box("ratio $\\rho$\nfactor $k$", 2.0, 0.8),
    }
    arrows = [Arrow("sum", "loss"), Arrow("loss", "sum", back=True)]
    for m, k, row in (("audio", "a", 0), ("image", "i", 1.6)):
        encoder, block = f"encoder {m}", f"block {m}"
        boxes[m] = Box(f"{m}\n$x_{k}$", 0, row, m)
        boxes[encoder] = Box(f"encoder\n$\\varphi_{k}$", 1.0, row, m)
        boxes[block] = Box(f"block\n$W_{k}$", 3.0, row, m)
        arrows += [Arrow(m, encoder, of=m), Arrow(encoder, block, of=m), Arrow(block, "sum", of=m)]
        arrows += [Arrow("sum", block, of=m, back=True), Arrow(block, "ratio", f"$s_{k}$")]
        text = f"$g_{k}$ becomes $k_{k} g_{k} + \\xi_{k}$"
        arrows.append(Arrow(block, encoder, text, m, back=True))
    return diagram(boxes, arrows)


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
    ax.set(xlabel="step", ylabel="ratio ρ", yscale="log", ylim=(1 / 12, 12))
    ax.set_yticks([1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8], ["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    ax.minorticks_off()
    ax.legend(loc="upper right", fontsize=8, ncols=len(ratios))
    ax.label_outer()


def traces(runs: Mapping[str, Mapping[str, Tensor]]) -> Figure:
    """`trace` of several runs by name, a panel each; the title says how often the lead switches."""
    figure, axes = canvas(len(runs), sharey=True)
    for ax, (name, ratios) in zip(axes, runs.items(), strict=True):
        trace(ax, ratios)
        ax.set_title(f"{name}: {switches(ratios):.0%} switches")
    return figure


def switches(ratios: Mapping[str, Tensor]) -> float:
    """The part of the steps at which the lead changes; ratios: ρ, (T,) per modality."""
    leader = torch.stack(list(ratios.values())).argmax(0)
    return (leader[1:] != leader[:-1]).double().mean().item()
