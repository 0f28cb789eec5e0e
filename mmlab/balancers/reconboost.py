"""ReconBoost: modalities take turns as the learners of a boosting, and their logits are added up.

Hua, Xu, Bao, Yang, Huang, "ReconBoost: Boosting Can Achieve Modality Reconcilement", ICML 2024,
arXiv 2405.09321.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from mmlab.balancers.joint import take_values, trained_alone
from mmlab.balancers.scores import check_labels, probabilities_of_truth
from mmlab.checks import check_number, check_shapes, check_whole
from mmlab.models.network import MultimodalNet, Output, joined_masks, masks_of
from mmlab.training.balancer import Balancer, Training, warn_without_run
from mmlab.training.step import Step


def boosting_weights(truth: Tensor, classes: int, own: float, others: float) -> Tensor:
    """The weight of each sample's loss: the more, the less the other modalities know it.

    (w₁ − w₂ p)/C. With the defaults of `ReconBoost` it lies between 4/C and 5/C: nearly the plain
    loss times a constant.

    Args:
        truth: p, the probability that the others give to the truth, (…, B).
        classes: the number of classes, C, at least 1.
        own: w₁, the weight times C of a sample that the others do not know at all (p = 0), no unit.
        others: w₂, how much of w₁ is taken away where the others are sure of the truth (p = 1), no
            unit.

    Returns:
        (…, B), no unit.

    Raises:
        ValueError: ``truth`` has no axis of samples, or ``classes`` is below 1.

    Source: the released code, whose loss is a mean over classes too: hence the C.
    """
    check_shapes(truth=(truth, "B"))
    check_whole("classes", classes, least=1)
    return (own - others * truth) / classes


def alignment_gaps(logits: Tensor, earlier: Tensor, task: str = "classification") -> Tensor:
    """How far the predictions of two modalities are apart: the mean square over the classes.

    The gradient of a cross-entropy with respect to its logits is p − y, so a difference of
    probabilities is one of gradients: "gradient alignment".

    Args:
        logits: (…, B, C), of the modality that learns.
        earlier: (…, B, C), logits of the modality of the stage before.
        task: for "multilabel" each label has a probability of its own.

    Returns:
        (…, B), from 0 to 1, no unit.

    Raises:
        ValueError: the shapes do not fit.

    Source: the released code, which detaches both: there it has no gradient, and changes nothing.
    """
    check_shapes(logits=(logits, "BC"), earlier=(earlier, "BC"))
    pair = (logits, earlier)
    p, q = (z.sigmoid() if task == "multilabel" else z.softmax(-1) for z in pair)
    return (p - q).square().mean(-1)


def added(logits: Tensor, masks: Tensor | None = None) -> Tensor:
    """The sum of the modalities' logits (…, M, B, C) over those that a sample has: (…, B, C).

    masks: (…, M, B); None: all have all.
    """
    return (logits if masks is None else torch.where(masks[..., None], logits, 0)).sum(-3)


class Boost(nn.Module):
    """The boosting rate b, which multiplies the sum: learnt, from 1."""

    def __init__(self) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.ones(()))

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.rate


class ReconBoost(Balancer):
    """Boosting over modalities: stages rotate through them; the prediction is b Σ_m z_m.

    A stage belongs to one modality k and has two phases. In the first, encoder k and the head learn
    from (1/C)(w₁ − w₂ p) CE_k + α GA, where p is what the other modalities' b Σ z_j gives to the
    truth, and GA the gap to the prediction of the modality of the stage before; nothing else does.
    In the second, everything learns from CE(b Σ_m z_m). Each phase begins with a fresh optimiser.

    Args:
        alpha: α ≥ 0, weight of GA, no unit. *In the authors' code GA has no gradient*, so what it
            trains is alpha=0; here the gradient is live, but in the first stage, which has none.
        own: w₁ of `boosting_weights`, no unit; own ≥ others keeps every weight ≥ 0.
        others: w₂ of `boosting_weights`, no unit; 0 gives every sample the same weight.
        epochs_per_stage: epochs of each phase, so a stage takes twice as many. None: the paper's 4;
            fewer, down to 1, where the run is too short to give each modality a stage [ours].
        pretrain: epochs that each modality is trained alone first, in copies with heads of their
            own, as `Unimodal`; each epoch costs one of joint training. The authors start from such
            encoders; 0 does not, and what the method gains is then its own. Run both.

    All modalities are in the sum from the start; the code, where it has no pretrained encoders,
    lets each join in its first stage. What a sample lacks is left out of every sum and mean; a
    batch without modality k teaches nothing in k's first phase. With several labels per sample, p
    is the mean over the labels, and GA compares the probability of each [ours].

    Raises:
        TypeError, ValueError: an argument out of range; in `step`: real-valued targets, because the
            weight is made of the probability of a class.
        FloatingPointError: the training of a modality alone fails.

    The history gets "weight" and "gap" of the modality whose turn it is, and the loss "boosted".

    Source: the released code; the live gradient of GA is ours.

    >>> from mmlab import MultimodalNet, ReconBoost, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = ReconBoost(epochs_per_stage=1)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=4)
    >>> run.history.query("metric == 'weight'").output.tolist()
    ['audio', 'image']
    """

    heads = "shared"
    fusion = "late"

    def __init__(
        self,
        alpha: float = 0.5,
        own: float = 5.0,
        others: float = 1.0,
        epochs_per_stage: int | None = None,
        pretrain: int = 0,
    ) -> None:
        check_number("alpha", alpha, least=0)
        check_number("others", others, least=0)
        check_number("own", own, above=0, least=others)
        if epochs_per_stage is not None:
            check_whole("epochs_per_stage", epochs_per_stage, least=1)
        check_whole("pretrain", pretrain, least=0)
        self.alpha, self.own, self.others = alpha, own, others
        self.epochs_per_stage, self.pretrain = epochs_per_stage, pretrain
        self.phase = epochs_per_stage or 4  # epochs
        self.begun = False
        self.boost = Boost()

    def modules(self, model: MultimodalNet) -> nn.Module:
        self.boost = Boost()
        return self.boost

    def start(self, run: Training) -> None:
        count, self.begun = len(run.model.modalities), False
        if count < 2:
            raise ValueError(
                f"ReconBoost lets modalities take turns, and the data have {run.model.modalities}; "
                "give at least two, or train one under Joint"
            )
        self.phase = self.epochs_per_stage or min(4, max(1, run.epochs // (2 * count)))
        warn_if_short(run.epochs, count, self.phase)

    def epoch(self, run: Training) -> None:
        self.begun = True
        if run.epoch == 0 and self.pretrain:
            for m, encoder in trained_alone(run, self.pretrain).items():
                take_values(run.model.encoders[m], encoder)
        if run.epoch % self.phase == 0:
            run.reset_momentum()

    def step(self, s: Step) -> Iterator[None]:
        check_labels(s.batch.target, self.name)
        if not self.begun:
            warn_without_run(
                "ReconBoost empties the momentum before each phase, and pretrains if asked to",
                "it does neither",
            )
        stage, place = divmod(s.epoch, 2 * self.phase)
        if place < self.phase:
            s.backward(self.turn(s, stage))
        else:
            s.backward(s.losses.of("boosted", self.boost(sum_of(s, s.modalities))))
        yield

    def turn(self, s: Step, stage: int) -> Tensor:
        """The loss of the modality whose stage it is, (…,); 0 where nobody has it."""
        k, before = (s.modalities[i % len(s.modalities)] for i in (stage, stage - 1))
        z = s.out.unimodal[k]
        with torch.no_grad():
            rest = self.boost(sum_of(s, [m for m in s.modalities if m != k]))
            truth = probabilities_of_truth(s, rest.unsqueeze(-3)).mean(-1)[..., 0, :]
        weights = boosting_weights(truth, z.shape[-1], self.own, self.others)
        gaps = alignment_gaps(z, s.out.unimodal[before].detach(), s.batch.task)
        has = s.batch.has(before)
        gaps = gaps if has is None else torch.where(has, gaps, 0)
        alpha = self.alpha if stage > 0 else 0.0
        values = torch.stack([weights * s.losses.samples(z) + alpha * gaps, weights, gaps], dim=-2)
        seen = s.seen[..., s.modalities.index(k), None]
        loss, weight, gap = torch.where(seen, s.mean(values, of=k), 0).unbind(-1)
        s.log(weight={k: weight}, gap={k: gap})
        return loss

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        logits = torch.stack([*out.unimodal.values()], dim=-3)
        return self.boost(added(logits, masks_of(out, present)))


def sum_of(s: Step, modalities: Sequence[str]) -> Tensor:
    """The sum of some modalities' logits over those that a sample has, (…, B, C)."""
    logits = torch.stack([s.out.unimodal[m] for m in modalities], dim=-3)
    return added(logits, joined_masks(s.batch.present, modalities))


def warn_if_short(epochs: int, count: int, phase: int) -> None:
    """Say so where a run ends before each of `count` modalities has had a stage."""
    if epochs < 2 * count * phase:
        fix = f"epochs_per_stage={max(1, epochs // (2 * count))}"
        more = f" and epochs={2 * count} or more" if epochs < 2 * count else ""
        warnings.warn(
            f"a stage of ReconBoost takes 2 · {phase} epochs, and {epochs} epochs have no stage "
            f"for each of {count} modalities; give {fix}{more}",
            stacklevel=3,
        )
