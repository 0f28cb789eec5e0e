"""OGM-GE: slow the encoder of the modality that is ahead, and make up for it with noise.

Peng, Wei, Deng, Wang, Hu, "Balanced Multimodal Learning via On-the-fly Gradient Modulation", CVPR
2022, arXiv 2203.15332.
"""

import math
from collections.abc import Iterator
from numbers import Integral

import torch
from torch import Tensor

from mmlab.balancers.scores import check_labels, mean_scores
from mmlab.checks import (
    check_choice,
    check_flag,
    check_number,
    check_several,
    check_shapes,
    check_values,
)
from mmlab.training.balancer import Balancer
from mmlab.training.step import Step


def discrepancy_ratios(scores: Tensor) -> Tensor:
    """How far each modality is ahead: its score over the mean score of the others.

    For two modalities ρ_m = s_m / s_other. Equal scores give exactly 1, whatever M, because k jumps
    there; 0/0 counts as 1, and a positive score over 0 is infinite.

    Args:
        scores: s, the summed probability of the true class from modality m's share of the joint
            logits, (…, M) with M ≥ 2, ≥ 0, no unit.

    Returns:
        ρ, (…, M), ≥ 0, no unit.

    Raises:
        ValueError: there is no axis of at least two modalities.

    Source: the paper, for M = 2; the mean of the others for more modalities is ours.
    """
    check_several("scores", scores)
    modalities = scores.shape[-1]
    if modalities == 2:
        other = scores.flip(-1)
        return (scores / other).masked_fill(scores == other, 1)
    # The reciprocal, mean_j s_j / s_m, neither cancels nor rounds for equal scores, as
    # (Σ_j s_j − s_m) / (M − 1) does.
    others, own = scores[..., None, :], scores[..., :, None]
    pairs = (others / own).masked_fill(others == own, 1)
    pairs.diagonal(dim1=-2, dim2=-1).zero_()
    return (modalities - 1) / pairs.sum(-1)


def modulation_coefficients(
    ratios: Tensor, alpha: float | Tensor, *, continuous: bool = False
) -> Tensor:
    """The factor k of each encoder's gradient: k = 1 − tanh(αρ) where ρ > 1, else 1.

    k jumps at ρ = 1, from 1 to 1 − tanh α. ``continuous`` takes 1 − tanh(α(ρ − 1)) instead, which
    does not. However large αρ, k stays above 0: a frozen encoder would never be released.

    Args:
        ratios: ρ, (…, M), ≥ 0; infinity is allowed.
        alpha: α ≥ 0, the strength, no unit; a number, or a tensor that broadcasts against (…, M).
        continuous: whether k falls from 1 without a jump.

    Returns:
        k, (…, M), in (0, 1], no unit.

    Raises:
        ValueError: ``ratios`` has no axis of modalities, or ``alpha`` is negative or NaN (a tensor
            on a GPU is not read).

    Source: the paper; ``continuous`` is a variant seen in public code of 2022.
    """
    check_shapes(ratios=(ratios, "M"))
    check_values("alpha", alpha, least=0)
    if not isinstance(alpha, Tensor) and alpha == 0:
        return torch.ones_like(ratios)  # 0 · ∞ would be NaN
    if isinstance(alpha, Tensor):
        ratios = ratios.clamp(max=torch.finfo(ratios.dtype).max)
    # 1 − tanh x = 2 sigmoid(−2x), which does not cancel to 0; beyond this x it would underflow
    least = math.log(torch.finfo(ratios.dtype).tiny)
    lead = ratios - 1 if continuous else ratios
    damped = 2 * (lead * (-2 * alpha)).clamp(min=least).sigmoid()
    return damped.masked_fill(ratios <= 1, 1)


class OGM(Balancer):
    """On-the-fly gradient modulation, with generalisation enhancement (OGM-GE) by default.

    After the backward pass of the joint loss, each encoder's gradient is multiplied by its
    coefficient k, then gets normal noise whose standard deviation is that of the entries of the
    unmodulated gradient tensor (the released code's; the paper asks for the covariance of the
    mini-batch gradient). The shares of the joint logits come from `Output.contributions`, so any
    fusion will do.

    Args:
        alpha: strength of the modulation, ≥ 0; the released code takes 0.8 on CREMA-D, 0.1 on
            VGGSound.
        enhance: add the noise (GE), to every encoder, the undamped one too.
        scope: "encoder" modulates all its parameters, as the paper says; "conv" only the 4-D
            tensors, as the released code does, and so not at all an MLP's.
        window: first and last epoch of modulation, counted from 0, both included.
        continuous: see `modulation_coefficients`.
        on: "gradient", as the paper says; or "update", which damps what the optimiser makes of the
            gradient, noise and all [ours]: Adam and the like divide a factor on the gradient out.

    Where a sample has several labels, the score is the mean over the labels of the probability that
    a modality's share gives to what is true of each, be it yes or no [ours]. Where most labels are
    rare, every modality is right about their absence: scores and their ratios are then near 1.

    Raises:
        ValueError: an argument out of range; in `step`: real-valued targets, because the score is
            the probability of a class.

    Source: the paper's algorithm 1 and its released code.

    >>> from mmlab import OGM, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = OGM(alpha=0.8)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> k = run.history.query("metric == 'coefficient'").set_index("output").value
    >>> bool(k.between(0, 1).all()), sorted(k.index)
    (True, ['audio', 'image'])
    """

    def __init__(
        self,
        alpha: float = 0.8,
        enhance: bool = True,
        scope: str = "encoder",
        window: tuple[int, int] = (0, 50),
        continuous: bool = False,
        on: str = "gradient",
    ) -> None:
        check_number("alpha", alpha, least=0)
        check_flag("enhance", enhance)
        check_flag("continuous", continuous)
        check_choice("scope", scope, ("encoder", "conv"))
        check_choice("on", on, ("gradient", "update"))
        if on == "update" and scope == "conv":
            raise ValueError(
                "on='update' damps an encoder's whole update, so scope must be 'encoder'; it is "
                "'conv'"
            )
        check_window(window)
        self.alpha, self.enhance, self.scope, self.on = alpha, enhance, scope, on
        self.window, self.continuous = window, continuous

    @property
    def lost_if_adaptive(self) -> str:
        if self.on == "update":
            return ""
        return "has almost no effect; use OGM(on='update'), or SGD"

    def step(self, s: Step) -> Iterator[None]:
        first, last = self.window
        loss = s.losses["joint"]  # first: the fusion's mean features, which shares go by, see it
        if not first <= s.epoch <= last:
            s.backward(loss)
        else:
            ratios = discrepancy_ratios(self.scores(s))
            k = modulation_coefficients(ratios, self.alpha, continuous=self.continuous)
            s.log(ratio=dict(s.each(ratios)), coefficient=dict(s.each(k)))
            self.modulate(s, k)
        yield

    def modulate(self, s: Step, k: Tensor) -> None:
        """The joint gradient, each encoder's times its k (…, M), then the noise."""
        joint = s.losses["joint"]
        if self.on == "gradient" and self.scope == "encoder" and not self.enhance:
            s.backward(joint, scale=k)  # the backward pass is linear: the same, cheaper
            return
        s.backward(joint)
        only = is_convolution if self.scope == "conv" else None
        for m, own in s.each(k):
            std = s.spread(m) if self.enhance else []  # of the gradient before it is damped
            if self.on == "gradient":
                s.scale_grad(m, own, only)
            if self.enhance:
                s.add_noise(m, std, only)
            if self.on == "update":
                s.scale_update(m, own)

    @torch.no_grad()
    def scores(self, s: Step) -> Tensor:
        """Mean probability of the truth from each modality's share of the joint logits, (…, M)."""
        check_labels(s.batch.target, "OGM")
        return mean_scores(s, s.out.contributions)


def check_window(window: tuple[int, int]) -> None:
    """Raise ValueError for what is no first and last epoch."""
    whole = isinstance(window, tuple | list) and all(
        isinstance(epoch, Integral) for epoch in window
    )
    if not whole or len(window) != 2 or not 0 <= window[0] <= window[1]:
        raise ValueError(
            f"window is {window!r}; allowed are a first epoch, counted from 0, and a last one that "
            "is not before it, such as (0, 50)"
        )


def is_convolution(shape: tuple[int, ...]) -> bool:
    """Whether a parameter of this shape is what the released code modulates."""
    return len(shape) == 4
