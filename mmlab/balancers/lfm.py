"""LFM: first bring the modalities together, then classify more and more.

Yang, Wan, Jiang, Xu, "Facilitating Multimodal Classification via Dynamically Learning Modality
Gap", NeurIPS 2024.
"""

import copy
import itertools
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from mmlab.checks import check_choice, check_number, check_shapes
from mmlab.gradients import align_to, grams
from mmlab.models.fusion import directions
from mmlab.models.network import MultimodalNet, Output, joined_masks, masks_of
from mmlab.training.balancer import Balancer, Training, warn_without_run
from mmlab.training.step import Step

LEAST = 0.05
"""The smallest weight k₁ of the alignment loss, no unit."""

MOST = 0.95
"""The largest weight k₁ of the alignment loss, no unit."""

FIRST = 0.8
"""k₁ before anything is learnt: the released code's schedule begins with k₀ = 0.2."""

SAMPLES = 256
"""How many samples of each split the gradient of k₁ is computed from [ours]."""


def info_nce(
    features: Tensor, temperature: float | Tensor, present: Tensor | None = None
) -> Tensor:
    """How well a sample's features of one modality find those of the other: InfoNCE of cosines.

    Of two modalities, s_ij is the cosine of sample i in the one and sample j in the other, over the
    temperature. The loss is the mean over samples of −log softmax_j(s)_ii and −log softmax_i(s)_ii.

    Args:
        features: (…, M, B, D) with M ≥ 2; one shorter than 1e-6 counts as 0, which has the cosine 0
            with all others, and gets no gradient: of a direction it grows as 1 / length [ours].
        temperature: above 0, no unit; a number, or (…, 1).
        present: (…, M, B), booleans, which modalities a sample has; None: all. A sample that lacks
            one of the two does not count, and is nothing that others could find.

    Returns:
        (…), ≥ 0, in nats; of more than two modalities the mean over their pairs [ours], where a
        pair that no sample has counts as 0.

    Raises:
        ValueError: the shapes do not fit, or there is one modality alone.

    Source: the paper's contrastive loss, read at second hand.
    """
    check_shapes(features=(features, "MBD"))
    one, other = pairs(directions(features), dim=-3)
    cosines = one @ other.mT
    similarity = cosines / align_to(cosines, temperature)
    both = None if present is None else torch.logical_and(*pairs(present, dim=-2))
    if both is not None:  # who does not count finds itself alone: a loss of 0
        itself = torch.eye(both.shape[-1], dtype=torch.bool, device=both.device)
        found = (both.unsqueeze(-1) & both.unsqueeze(-2)) | itself
        similarity = similarity.masked_fill(~found, -torch.inf)
    ways = similarity.log_softmax(-1) + similarity.log_softmax(-2)
    return _mean_of_pairs(-ways.diagonal(dim1=-2, dim2=-1) / 2, both)


def js_divergence(
    logits: Tensor, present: Tensor | None = None, task: str = "classification"
) -> Tensor:
    """How far apart two predictions are: ½ KL(p‖m) + ½ KL(q‖m) with m = ½(p + q) (Jensen–Shannon).

    Args:
        logits: (…, M, B, C) with M ≥ 2.
        present: as for `info_nce`.
        task: for "multilabel", the mean over the labels of the divergence of yes and no [ours].

    Returns:
        (…), from 0 to log 2 nats, finite for any finite logits; of more than two modalities the
        mean over their pairs [ours].

    Raises:
        ValueError: the shapes do not fit, or there is one modality alone.

    Source: what the released code means to compute. There each KL has its arguments reversed, so
    that it is infinite where one modality rules out what another one predicts.
    """
    check_shapes(logits=(logits, "MBC"))
    if task == "multilabel":
        known = torch.stack([F.logsigmoid(logits), F.logsigmoid(-logits)], dim=-1)
    else:
        known = logits.log_softmax(-1).unsqueeze(-2)  # the one question: which class
    one, other = pairs(known, dim=-4)
    middle = torch.logaddexp(one, other) - math.log(2)
    each = one.exp() * (one - middle) + other.exp() * (other - middle)
    both = None if present is None else torch.logical_and(*pairs(present, dim=-2))
    return _mean_of_pairs(each.sum(-1).mean(-1) / 2, both)


def pairs(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The first and the second of every pair along an axis; pairs of three are 01, 02, 12.

    Raises:
        ValueError: the axis has one entry.
    """
    if values.shape[dim] < 2:
        raise ValueError(
            f"shape {tuple(values.shape)}: LFM aligns modalities with each other, and there is one "
            "alone; allowed are M ≥ 2"
        )
    first, second = zip(*itertools.combinations(values.unbind(dim), 2), strict=True)
    return torch.stack(first, dim), torch.stack(second, dim)


def _mean_of_pairs(values: Tensor, both: Tensor | None) -> Tensor:
    """Mean over pairs of the mean over the samples that have both, (…, P, B) to (…)."""
    if both is None:
        return values.mean((-2, -1))
    return (torch.where(both, values, 0).sum(-1) / both.sum(-1).clamp(min=1)).mean(-1)


def mean_logits(logits: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean over the modalities that a sample has, (…, M, B, C) to (…, B, C).

    logits: (…, M, B, C).
    present: which modalities a sample has, booleans (…, M, B); None: all.
    """
    if present is None:
        return logits.mean(-3)
    masks = present.unsqueeze(-1)
    return torch.where(masks, logits, 0).sum(-3) / masks.sum(-3).clamp(min=1)


def alignment_weight(epoch: int, decay: float | Tensor) -> Tensor:
    """The schedule k₁ = clip(e^(−decay · epoch), 0.05, 0.95); epochs count from 0.

    A heuristic after the released code, in which k₀ = 1 − k₁ grows from 0.20 to 0.92 over 200
    epochs. The form is "second hand".

    Args:
        decay: ≥ 0, per epoch; a number, or a tensor, whose shape is that of k₁.
    """
    given = decay if isinstance(decay, Tensor) else torch.tensor(decay, dtype=torch.float64)
    return (-given * epoch).exp().clamp(LEAST, MOST)


def weight_gradient(gram: Tensor, rate: float) -> Tensor:
    """∂L_holdout/∂k₁, where k₁ acts through one step θ′ = θ − rate ∇(k₀ L_cls + k₁ L_align)(θ).

    As k₀ = 1 − k₁, θ′ moves with k₁ by −rate ∇(L_align − L_cls)(θ), and by the chain rule the
    result is −rate ⟨∇L_cls^holdout(θ′), ∇(L_align − L_cls)^train(θ)⟩.

    Args:
        gram: (…, 3, 3), inner products of ∇L_cls^holdout(θ′), ∇L_cls^train(θ) and
            ∇L_align^train(θ), in this order.
        rate: η ≥ 0.

    Returns:
        (…), in the loss's unit.

    Raises:
        ValueError: the shape does not fit.

    Source: derived. What the released code calls a hyper-gradient is the mean of one parameter
    tensor of a Hessian-vector product, which is no derivative with respect to k₁.
    """
    check_shapes(gram=(gram, "KK"))
    return -rate * (gram[..., 0, 2] - gram[..., 0, 1])


class LFM(Balancer):
    """Learning the modality gap: 2 (k₀ L_cls + k₁ L_align), with k₀ = 1 − k₁.

    L_cls is the loss of the mean of the unimodal logits, which also predicts; with fusion="late"
    that is the joint output. L_align draws the modalities together. Samples that lack modalities
    average over those that they have, and align the pairs that they have.

    Args:
        align: "contrastive" (the paper's) compares features, so all encoders need one width; "js"
            (what the released code is meant to do) compares predictions.
        weight: "schedule": k₁ falls as `alignment_weight` says. "learned": before each epoch, k₁
            goes down the derivative of the classification loss on the **holdout**, which is then no
            longer free to choose anything else by; the test split is never read.
        temperature: of the contrastive loss, above 0. The default is ours, from SimCLR: the paper's
            is not known here.
        decay: of the schedule, per epoch, ≥ 0.
        weight_rate: of the learnt weight, ≥ 0: k₁ ← k₁ − weight_rate · ∂L_holdout/∂k₁, kept within
            0.05 and 0.95. The default is ours.

    The learnt weight looks one step of plain SGD ahead, at the optimiser's rate, in evaluation
    mode, on copies, with 256 samples of each split [ours]. That is two more forward and three
    more backward passes of so few samples per epoch. Many seeds then train one after the other.

    In regression L_cls is the loss of the mean prediction [ours].

    The history has "alignment" (L_align), the "weight" of both losses, and of a learnt one its
    "slope", ∂L_holdout/∂k₁.

    Raises:
        TypeError, ValueError: an argument out of range; in `step`: one modality alone; under
            "contrastive" features of different widths; under "js" real-valued targets.

    Source: the paper at second hand, and its released code; what differs is named above.

    >>> from mmlab import LFM, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = LFM(align="contrastive")
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=2)
    >>> run.history.query("metric == 'weight' and output == 'alignment'").value.round(2).tolist()
    [0.95, 0.74]
    """

    fusion = "late"

    def __init__(
        self,
        align: str = "contrastive",
        weight: str = "schedule",
        temperature: float = 0.5,
        decay: float = 0.3,
        weight_rate: float = 10.0,
    ) -> None:
        check_choice("align", align, ("contrastive", "js"))
        check_choice("weight", weight, ("schedule", "learned"))
        check_number("temperature", temperature, above=0)
        check_number("decay", decay, least=0)
        check_number("weight_rate", weight_rate, least=0)
        self.align, self.weight, self.weight_rate = align, weight, weight_rate
        self.temperature, self.decay, self.k = temperature, decay, torch.tensor(FIRST)
        self.learnt = False

    def start(self, run: Training) -> None:
        self.k, self.learnt = torch.tensor(FIRST), False

    def epoch(self, run: Training) -> None:
        if self.weight == "learned":
            self.learn(run, 2 * run.optimizer.param_groups[0]["lr"])

    def learn(self, run: Training, rate: float) -> None:
        """One step of k₁; rate: that of a step along k₀ L_cls + k₁ L_align, half of the loss."""
        model = copy.deepcopy(run.model).eval()
        trained = [p for p in model.parameters() if p.requires_grad]

        def gradient(loss: Tensor) -> tuple[Tensor, ...]:
            return torch.autograd.grad(loss, trained, retain_graph=True, materialize_grads=True)

        classify, align = map(gradient, self.losses(self.some(run, model, "train")))
        self.k = self.k.to(trained[0])
        with torch.no_grad():
            for p, c, a in zip(trained, classify, align, strict=True):
                p.sub_(rate * torch.lerp(c, a, self.k))
        ahead = gradient(self.losses(self.some(run, model, "holdout"))[0])
        slope = weight_gradient(grams([ahead, classify, align]).sum(-3), rate)
        run.record("holdout", "", "slope", slope)
        self.k, self.learnt = (self.k - self.weight_rate * slope).clamp(LEAST, MOST), True

    def some(self, run: Training, model: MultimodalNet, split: str) -> Step:
        """Other samples of a split in every epoch, in front of a copy of the network."""
        draw = torch.Generator().manual_seed(run.epoch)
        order = torch.randperm(len(run.data.splits[split]), generator=draw)
        batch = next(run.split(split).batches(SAMPLES, order.to(next(model.parameters()).device)))
        return Step(model, batch, loss=run.loss)

    def step(self, s: Step) -> Iterator[None]:
        losses = torch.stack(self.losses(s), dim=-1)
        learned = self.weight == "learned"
        if learned and not self.learnt:
            warn_without_run("LFM learns its weight before an epoch", "it stays as it is")
        k = self.k.to(losses) if learned else alignment_weight(s.epoch, self.decay)
        weight = k.squeeze(-1).to(losses.dtype)  # Apple's GPUs have no float64
        s.log(alignment=losses[..., 1], weight={"classification": 1 - weight, "alignment": weight})
        s.backward(2 * ((1 - k) * losses[..., :1] + k * losses[..., 1:]))
        yield

    def losses(self, s: Step) -> tuple[Tensor, Tensor]:
        """L_cls and L_align of a batch, (…) each."""
        present = joined_masks(s.batch.present, s.modalities)
        logits = torch.stack([s.out.unimodal[m] for m in s.modalities], dim=-3)
        classify = s.losses.of("mean of the modalities", mean_logits(logits, present))
        if self.align == "contrastive":
            return classify, info_nce(stacked_features(s), self.temperature, present)
        if s.batch.task == "regression":
            raise ValueError(
                f"LFM(align='js') needs class labels, and the targets are {s.batch.target.dtype}: "
                "it compares probabilities. For regression use LFM(align='contrastive')"
            )
        return classify, js_divergence(logits, present, s.batch.task)

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        logits = torch.stack([*out.unimodal.values()], dim=-3)
        return mean_logits(logits, masks_of(out, present))


def stacked_features(s: Step) -> Tensor:
    """(…, M, B, D). Raises ValueError for encoders of different widths."""
    features = [s.out.features[m] for m in s.modalities]
    widths = {m: h.shape[-1] for m, h in zip(s.modalities, features, strict=True)}
    if len({*widths.values()}) > 1:
        raise ValueError(
            f"the encoders give features of the widths {widths}, and LFM(align='contrastive') "
            "compares them entry by entry; give all encoders one width, or take align='js'"
        )
    return torch.stack(features, dim=-3)
