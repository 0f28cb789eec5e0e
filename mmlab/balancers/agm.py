"""AGM: damp the modality that is further ahead than it usually is, whatever the fusion.

Li, Li, Hu, Lei, Li, Zhang, "Boosting Multi-modal Model Performance with Adaptive Gradient
Modulation", ICCV 2023.
"""

import functools
from collections.abc import Iterator

import torch
from torch import Tensor

from mmlab.balancers.scores import check_labels, levelled, probabilities_of_truth
from mmlab.checks import check_number, check_several, check_shapes, check_values
from mmlab.models.fusion import shapley_weights
from mmlab.training.balancer import Balancer, Training
from mmlab.training.step import Step

MOST = 6
"""Modalities at most: a step fuses all their 2^M − 1 coalitions."""


def shapley_parts(values: Tensor) -> Tensor:
    """Each modality's part φ of the joint logits: its mean marginal gain over all orders.

    For two modalities φ_a = ½ (f(a, v) − f(0, v) + f(a, 0)). In general a coalition S without m
    counts with 1 / (M · C(M − 1, |S|)), and the logits of no modality at all, f(0, …, 0), as 0: so
    the parts add up to f of all modalities.

    Args:
        values: f of each coalition, (…, 2^M − 1, B, C): entry S − 1 is that of the modalities whose
            bits the number S has; the last one has all.

    Returns:
        φ, (…, M, B, C), in the unit of the logits.

    Raises:
        ValueError: the number of coalitions is not 2^M − 1 of M ≥ 2 modalities.

    Source: the paper for M = 2, the released code for M = 3 (weights 1/3, 1/6, 1/6, 1/3); more
    modalities are ours.
    """
    check_shapes(values=(values, "SBC"))
    count = (values.shape[-3] + 1).bit_length() - 1
    if values.shape[-3] != 2**count - 1 or count < 2:
        raise ValueError(
            f"values has {values.shape[-3]} coalitions; allowed are 2^M − 1 of M ≥ 2 modalities: "
            "of one alone nothing is ahead or behind, so train it under Joint"
        )
    weights = _weights(count, values.device, values.dtype)
    return torch.einsum("ms,...sbc->...mbc", weights, values)


@functools.cache  # to send them to a GPU at every step would make the host wait
@torch.inference_mode(False)
def _weights(count: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Shapley's weights (M, 2^M − 1) of the coalitions that are not empty."""
    return shapley_weights(count)[:, 1:].to(device, dtype)


def lead_ratios(losses: Tensor) -> Tensor:
    """How far each modality is ahead: r_m = exp(mean loss of the others − its own).

    That is exp(M / (M − 1) · (mean_j s_j − s_m)). Above 1: ahead.

    Args:
        losses: s, each modality's −log probability of the truth, (…, M) with M ≥ 2, in nats.

    Returns:
        r, (…, M), above 0, no unit.

    Raises:
        ValueError: there is no axis of at least two modalities.

    Source: the paper.
    """
    check_several("losses", losses)
    count = losses.shape[-1]
    return (count / (count - 1) * (losses.mean(-1, keepdim=True) - losses)).exp()


def modulation_factors(
    ratios: Tensor, usual: Tensor, alpha: float | Tensor = 1.0, cap: float | Tensor = 10.0
) -> Tensor:
    """The factor of each part's gradient: k_m = exp(α · min(τ_m − r_m, cap)).

    Below 1 where a modality is further ahead than usual, r > τ; above 1 where it is less so.

    Args:
        ratios: r of this step, (…, M).
        usual: τ, the same ratios of the running mean losses, (…, M).
        alpha: α ≥ 0, the strength; a number, or a tensor that broadcasts against (…, M).
        cap: the largest difference that counts; infinity for none.

    Returns:
        k, (…, M), ≥ 0, no unit.

    Raises:
        ValueError: the shapes do not fit; ``alpha`` is negative or NaN (of a GPU unread).

    Source: the paper; the cap is the released code's.
    """
    check_shapes(ratios=(ratios, "M"), usual=(usual, "M"))
    check_values("alpha", alpha, least=0)
    return (alpha * (usual - ratios).clamp(max=cap)).exp()


def modulated_logits(parts: Tensor, k: Tensor) -> Tensor:
    """The joint logits Σ_m φ_m, (…, B, C), whose gradient reaches φ_m times k_m.

    Args:
        parts: φ, (…, M, B, C).
        k: factors (…, M).

    Source: the paper multiplies ∂L/∂φ_m, L the loss of Σ φ; the form Σ [k φ + (1 − k) φ.detach()]
    is derived.
    """
    fixed = parts.detach()
    return (fixed + k[..., None, None] * (parts - fixed)).sum(-3)


class AGM(Balancer):
    """Adaptive gradient modulation: the gradient of each modality's part of the logits gets k.

    The parts are Shapley values of the joint logits, where an absent modality's *input* is zero
    (`shapley_parts`): so any fusion will do, and no unimodal head is trained. r compares the
    modalities in the batch, τ does so by S, the mean of their losses over all steps before this
    one: a modality is damped while it is further ahead than it usually is, and reinforced while it
    is less so (`modulation_factors`). At the first step S is 0 for all, and so τ = 1.

    Each encoder sees one more row, of zeros, and the fusion is asked once per coalition. These
    passes are in evaluation mode with a graph, as in the released code. An encoder with dropout,
    batch statistics or the like goes through the whole batch a second time for them; any other
    gives the features that it has given for the joint logits.

    The released code clips the gradient to a norm of 1 in some steps; give `fit(clip=1.0)`, which
    does so in all. Without it a large alpha with a large cap can make k huge: a modality that is
    behind by far gets up to exp(alpha · cap).

    Args:
        alpha: α ≥ 0, the strength; 1 by default, and in the authors' runs 1.5 (CREMA-D), 2.5, 4.
        cap: the largest τ − r that counts, above 0; 10, 7 or none (math.inf) in the released code.

    Missing modalities: the input of an absent one is zero already, so its part says nothing of the
    sample; s is the mean over the samples that have it, S that over the steps that had it [ours]. A
    modality that the whole batch lacks stands at the mean of the others, in r and in τ: its k is 1
    [ours].

    Where a sample has several labels, s is the mean over the labels of −log probability of what is
    true of each [ours]. Of tokens, and of a dict or tuple, zero is zero in every part: make 0 the
    padding.

    Raises:
        ValueError: an argument out of range; in `step`: real-valued targets, because the score is
            the probability of a class; more than 6 modalities; a forward pass of one's own.

    Source: the paper and its released code; more than three modalities are ours.

    >>> from mmlab import AGM, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = AGM(alpha=1.0)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> k = run.history.query("metric == 'coefficient'").set_index("output").value
    >>> bool((k > 0).all()), sorted(k.index)
    (True, ['audio', 'image'])
    """

    lost_if_adaptive = "keeps of its factors only how they change from step to step; use SGD"

    def __init__(self, alpha: float = 1.0, cap: float = 10.0) -> None:
        check_number("alpha", alpha, least=0)
        check_number("cap", cap, above=0)
        self.alpha, self.cap = alpha, cap
        self.running: Tensor | None = None
        self.steps: Tensor | None = None

    def start(self, run: Training) -> None:
        self.running = self.steps = None

    def step(self, s: Step) -> Iterator[None]:
        check_labels(s.batch.target, "AGM")
        parts = shapley_parts(self.values(s))
        k = self.factors(s, parts)
        s.log(coefficient=dict(s.each(k)))
        _ = s.losses["joint"]  # the same number, under the name that all histories have
        s.backward(s.losses.of("modulated", modulated_logits(parts, k)))
        yield

    def values(self, s: Step) -> Tensor:
        """The joint logits of all coalitions, (…, 2^M − 1, B, C)."""
        names = s.modalities
        if len(names) > MOST:
            raise ValueError(
                f"AGM fuses all 2^M − 1 coalitions of M modalities at every step, and there are "
                f"{len(names)}; allowed are at most {MOST}. Use OGM, or join some modalities"
            )
        some = range(1, 2 ** len(names) - 1)
        absent = [[m for i, m in enumerate(names) if not bits >> i & 1] for bits in some]
        return torch.stack([*(s.out.without(*these) for these in absent), s.out.joint], dim=-3)

    @torch.no_grad()
    def factors(self, s: Step, parts: Tensor) -> Tensor:
        """k (…, M); then this step's losses enter their running mean S."""
        truth = probabilities_of_truth(s, parts).clamp(min=1e-8)
        losses = s.mean(-truth.log().mean(-1))
        if self.running is None or self.steps is None:
            self.running, self.steps = torch.zeros_like(losses), torch.zeros_like(losses)
        ratios = lead_ratios(levelled(losses, s.seen))
        usual = lead_ratios(levelled(self.running, s.seen & (self.steps > 0)))
        s.log(ratio=dict(s.each(ratios)), usual_ratio=dict(s.each(usual)))
        self.steps = self.steps + s.seen
        change = torch.where(s.seen, losses - self.running, 0)
        self.running = self.running + change / self.steps.clamp(min=1)
        return modulation_factors(ratios, usual, self.alpha, self.cap)
