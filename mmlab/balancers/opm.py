"""OPM: drop features of the modality that is ahead, so that the others are needed.

Wei, Hu, Du, Wen, "On-the-fly Modulation for Balanced Multimodal Learning", TPAMI 2024.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmlab.balancers.ogm import discrepancy_ratios
from mmlab.balancers.scores import check_labels, mean_scores
from mmlab.checks import check_number, check_shapes, check_values, check_whole
from mmlab.models.network import joined_masks
from mmlab.training.balancer import Balancer
from mmlab.training.step import Step


def drop_probabilities(
    ratios: Tensor, q_base: float | Tensor = 0.5, lam: float | Tensor = 0.5
) -> Tensor:
    """How probably a feature vector is dropped: q = q_base (1 + λ tanh(ρ − 1)) where ρ > 1, else 0.

    Clipped to [0, 1]. q jumps at ρ = 1, from 0 to q_base. Whoever has the lowest score has ρ ≤ 1,
    and so is never dropped.

    Args:
        ratios: ρ of `discrepancy_ratios`, (…, M), ≥ 0; infinity is allowed.
        q_base: the probability of a modality that is ahead by a hair, ≥ 0; a number, or a tensor
            that broadcasts against (…, M).
        lam: λ ≥ 0, how much a larger lead adds, as a part of q_base.

    Returns:
        q, (…, M), in [0, 1].

    Raises:
        ValueError: ``ratios`` has no axis of modalities; a negative number or NaN (of a GPU
            unread).

    Source: the paper and its released code, for M = 2.
    """
    check_shapes(ratios=(ratios, "M"))
    check_values("q_base", q_base, least=0)
    check_values("lam", lam, least=0)
    dropped = q_base * (1 + lam * (ratios - 1).clamp(min=0).tanh())
    return dropped.clamp(0, 1).masked_fill(ratios <= 1, 0)


def dropped_share(q: Tensor, widths: Sequence[int]) -> Tensor:
    """θ = Σ d_m q_m / Σ d_m: the part of all features that is dropped, in the mean.

    Args:
        q: drop probabilities, (…, M).
        widths: d, the features of each modality.

    Returns:
        θ, (…), in [0, 1].

    Raises:
        ValueError: not one width per modality.

    Source: the paper and its released code.
    """
    check_shapes(q=(q, "M"))
    if len(widths) != q.shape[-1]:
        raise ValueError(
            f"got {len(widths)} widths for {q.shape[-1]} modalities; give one for each"
        )
    parts = [width * own for width, own in zip(widths, q.unbind(-1), strict=True)]
    return torch.stack(parts, dim=-1).sum(-1) / sum(widths)


def mean_of_kept(losses: Tensor, kept: Tensor) -> Tensor:
    """The mean loss of the samples that kept anything, (…); 0 where none did.

    Args:
        losses: one per sample, (…, B).
        kept: booleans (…, B).

    Source: the released code, which takes the others out of the batch; the 0 is ours.
    """
    return torch.where(kept, losses, 0).sum(-1) / kept.sum(-1).clamp(min=1)


class OPM(Balancer):
    """On-the-fly prediction modulation: the joint loss of features that are dropped at random.

    In some batches each sample loses the whole feature vector of a modality that is ahead, with its
    probability q; *all* features are multiplied by 1 / (1 − θ), so that their sum keeps its size in
    the mean (`dropped_share`). One factor for all is the paper's: the mean of the modality that is
    dropped shrinks, that of the others grows. At test time nothing is dropped and nothing scaled.

    The ratios are OGM's, by each modality's share of the joint logits (`Output.contributions`) of
    the features before anything is dropped; so any fusion will do, at the cost of a second pass of
    it. The history has the joint loss of these features too; "objective" is the loss that is
    trained on.

    Args:
        q_base: see `drop_probabilities`; 0 trains on the joint loss.
        lam: λ of `drop_probabilities`.
        p_exe: with which probability a batch drops features at all, in [0, 1].
        warmup: epochs at the start that drop nothing. The released code has six (epochs 0 to 5);
            how many the paper's runs had is not known to us, and 0 here is ours.

    Missing modalities: a score is the mean over the samples that have the modality. What a sample
    lacks cannot be kept either: a sample whose every modality is absent or dropped leaves the mean
    (without missing ones none does, because the modality with the lowest score is never dropped)
    [ours].

    Where a sample has several labels, scores are OGM's [ours]. With more than two modalities ρ
    compares with the mean of the others [ours].

    Raises:
        ValueError: an argument out of range; in `step`: real-valued targets, because the score is
            the probability of a class, or a loss that does not say what each sample's part is.

    Source: the paper and its released code.

    >>> from mmlab import OPM, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = OPM(q_base=0.5)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> q = run.history.query("metric == 'drop probability'").set_index("output").value
    >>> bool(q.between(0, 1).all()), sorted(q.index)
    (True, ['audio', 'image'])
    """

    def __init__(
        self, q_base: float = 0.5, lam: float = 0.5, p_exe: float = 0.7, warmup: int = 0
    ) -> None:
        check_number("q_base", q_base, least=0, most=1)
        check_number("lam", lam, least=0)
        check_number("p_exe", p_exe, least=0, most=1)
        check_whole("warmup", warmup)
        self.q_base, self.lam, self.p_exe, self.warmup = q_base, lam, p_exe, warmup

    def step(self, s: Step) -> Iterator[None]:
        check_labels(s.batch.target, "OPM")
        loss = s.losses["joint"]  # first: the fusion's mean features, which shares go by, see it
        if s.epoch >= self.warmup:
            with torch.no_grad():
                ratios = discrepancy_ratios(mean_scores(s, s.out.contributions))
            q = drop_probabilities(ratios, self.q_base, self.lam)
            s.log(**{"ratio": dict(s.each(ratios)), "drop probability": dict(s.each(q))})
            loss = self.dropped(s, q * s.bernoulli(self.p_exe, (1,)))
        s.backward(loss)
        yield

    def dropped(self, s: Step, q: Tensor) -> Tensor:
        """The mean joint loss where features are dropped with probabilities q (…, M)."""
        features = s.out.features
        widths = [features[m].shape[-1] for m in s.modalities]
        size = features[s.modalities[0]].shape[-2]
        kept = s.bernoulli(1 - q.unsqueeze(-1), (len(widths), size))
        factors = kept / (1 - dropped_share(q, widths))[..., None, None]
        rows = dict(zip(s.modalities, factors.unbind(-2), strict=True))
        logits = s.fuse({m: h * rows[m].unsqueeze(-1) for m, h in features.items()})
        has = joined_masks(s.batch.present, s.modalities)
        if has is not None:
            kept = kept & has
        return mean_of_kept(s.losses.samples(logits), kept.any(-2))
