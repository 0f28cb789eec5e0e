"""PMR: class prototypes say which modality is behind; it is pulled to them, the other is calmed.

Fan, Xu, Wang, Wang, Guo, "PMR: Prototypical Modal Rebalance for Multimodal Learning", CVPR 2023,
arXiv 2211.07089.

A modality's prototypes are the mean features of the classes. The distances to them make it a
classifier without a parameter, whose probability of the truth says how far the modality is.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mmlab.balancers.scores import check_labels, levelled
from mmlab.checks import check_number, check_several, check_shapes, check_whole
from mmlab.training.balancer import Balancer, Training, warn_without_run
from mmlab.training.step import Step


def truths(target: Tensor, classes: int, *, who: str = "a prototype") -> Tensor:
    """Which answer is true, for each question that a target answers.

    A class is one question with C answers. C labels are C questions with two answers, no and yes.

    Args:
        target: whole numbers (…, N), one class per sample; or booleans (…, N, C), several labels.
        classes: the number of classes, C. The number of labels is in their shape.
        who: the method that needs them, for the message.

    Returns:
        Booleans (…, N, Q, A), which are (…, N, 1, C) of classes and (…, N, C, 2) of labels.

    Raises:
        ValueError: real numbers, which are of no class.

    Source: the paper, for classes; labels are ours.
    """
    check_labels(target, who, "a number is of no class")
    if target.dtype == torch.bool:
        return torch.stack([~target, target], dim=-1)
    return (target[..., None] == torch.arange(classes, device=target.device))[..., None, :]


def class_means(features: Tensor, truth: Tensor, has: Tensor | None = None) -> Tensor:
    """Prototypes: for each answer the mean features of the samples for which it is true.

    Args:
        features: h, (…, N, D), in any unit.
        truth: booleans (…, N, Q, A), see `truths`.
        has: which samples have the modality, booleans (…, N); None: all.

    Returns:
        c, (…, Q, A, D), in the unit of the features; NaN where there is no sample.

    Raises:
        ValueError: the shapes do not fit.

    Source: the paper's definition of a prototype.
    """
    check_shapes(features=(features, "ND"), truth=(truth, "NQA"))
    counted = (truth if has is None else truth & has[..., None, None]).to(features)
    sums = torch.einsum("...nqa,...nd->...qad", counted, features)
    return sums / counted.sum(-3)[..., None]


def log_probabilities(features: Tensor, prototypes: Tensor) -> Tensor:
    """log p: the log-softmax of the negative distances −‖h − c‖₂ to the answers' prototypes.

    An answer without a prototype has p = 0. Where no answer has one, all are equally probable. The
    gradient of a distance of 0, which has no direction, is 0.

    Args:
        features: h, (…, B, D).
        prototypes: c, (…, Q, A, D), in the same unit; NaN where there is none.

    Returns:
        log p, (…, B, Q, A), ≤ 0, no unit.

    Raises:
        ValueError: the shapes do not fit.

    Source: the paper; the answers without a prototype are ours.
    """
    check_shapes(features=(features, "BD"), prototypes=(prototypes, "QAD"))
    lacking = prototypes.isnan().any(-1)  # (…, Q, A)
    lacking = lacking & ~lacking.all(-1, keepdim=True)
    points = prototypes.nan_to_num().flatten(-3, -2)
    # The formula with a matrix product would lose small distances between long vectors.
    distances = torch.cdist(features, points, compute_mode="donot_use_mm_for_euclid_dist")
    logits = -distances.unflatten(-1, lacking.shape[-2:])
    return logits.masked_fill(lacking.unsqueeze(-3), -torch.inf).log_softmax(-1)


def cross_entropies(log_p: Tensor, truth: Tensor) -> Tensor:
    """Each sample's cross-entropy: −log p of the truth, as a mean over the questions.

    A question whose true answer has no prototype counts as 0.

    Args:
        log_p: (…, B, Q, A), see `log_probabilities`.
        truth: booleans, in the same shape or one that broadcasts.

    Returns:
        (…, B), ≥ 0, in nats.

    Source: the paper's PCE; the mean over labels is ours.
    """
    return -torch.where(truth & log_p.isfinite(), log_p, 0).sum(-1).mean(-1)


def entropies(log_p: Tensor) -> Tensor:
    """Each sample's entropy H(p), as a mean over the questions.

    Args:
        log_p: (…, B, Q, A), see `log_probabilities`.

    Returns:
        (…, B), between 0 and log A, in nats.

    Source: the paper; the mean over labels is ours.
    """
    finite = log_p.masked_fill(log_p.isneginf(), 0)
    return -(log_p.exp() * finite).sum(-1).mean(-1)


def lag_and_lead(scores: Tensor) -> tuple[Tensor, Tensor]:
    """How far each modality is behind the one furthest on, and ahead of the one furthest behind.

    With ρ_m = s_m / min_j s_j: the lag is clip(max_j ρ_j / ρ_m − 1, 0, 1), the lead is
    clip(ρ_m − 1, 0, 1). Of two modalities with the ratio ρ = s_0 / s_1, the lag of the first is the
    paper's β = clip(1/ρ − 1, 0, 1), that of the second its γ = clip(ρ − 1, 0, 1), and the leads are
    the same two numbers the other way round: (γ, β). Scores that are all 0 are equal.

    Args:
        scores: s, (…, M), the mean probability of the truth, ≥ 0, no unit.

    Returns:
        The lags and the leads, (…, M) each, in [0, 1], no unit.

    Raises:
        ValueError: there is no axis of at least two modalities.

    Source: the paper, for M = 2; more modalities are ours: one between the others has a lag and a
    lead.
    """
    check_several("scores", scores)
    most, least = scores.amax(-1, keepdim=True), scores.amin(-1, keepdim=True)
    lag = (most / scores).masked_fill(scores == most, 1)  # not 0/0
    lead = (scores / least).masked_fill(scores == least, 1)
    return (lag - 1).clamp(max=1), (lead - 1).clamp(max=1)


class PMR(Balancer):
    """Prototypical modal rebalance: the modality that is behind gets a second loss.

    The loss is the joint one, plus α times each modality's lag times its cross-entropy by
    prototypes. In the first epochs it is minus μ times each modality's *lead* times the entropy of
    its prototypes' probabilities: the one that is ahead must not be sure too early. So for two
    modalities the entropy of one stands with the coefficient of the other's cross-entropy, as in
    the paper; the further modalities are in `lag_and_lead`.

    Before each epoch the prototypes become ε · old + (1 − ε) · new class means, in evaluation mode
    and without a gradient, from the samples that have the modality.

    Args:
        alpha: α ≥ 0, the weight of the cross-entropies, no unit; the paper takes 1 to 2.
        mu: μ ≥ 0, the weight of the entropies, no unit; the paper takes 0.01 or 0.001.
        entropy_epochs: how many epochs have the entropies, the paper's E_r, ≥ 0. We do not know the
            paper's number; this one is ours.
        momentum: ε, the share of the old prototypes, in [0, 1]; 0.2 in the released code.

    The new class means are of the whole training split [ours], and not of a tenth of it: in a small
    data set a tenth has few samples of a class, or none. This costs one forward pass per epoch.
    Where the network is driven by hand, without epochs, each batch gives the prototypes itself, and
    a warning says so [ours].

    The released code differs: its β and γ are 0 or 1, it has no entropy, and on two data sets its
    prototypes come from the validation or the test split.

    Several labels per sample have two prototypes each, one of "no" and one of "yes" [ours].

    Raises:
        TypeError, ValueError: an argument out of range; before the first epoch: real-valued
            targets, which are of no class.

    The history gets each modality's "score" (the mean probability of the truth), its lag as
    "coefficient", and its cross-entropy as "prototype loss".

    Source: the paper; what differs in its released code is said above.

    >>> from mmlab import PMR, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = PMR(alpha=1.0)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> behind = run.history.query("metric == 'coefficient'").set_index("output").value
    >>> bool(behind.between(0, 1).all()), sorted(behind.index)
    (True, ['audio', 'image'])
    """

    def __init__(
        self,
        alpha: float = 1.0,
        mu: float = 0.01,
        entropy_epochs: int = 10,
        momentum: float = 0.2,
    ) -> None:
        check_number("alpha", alpha, least=0)
        check_number("mu", mu, least=0)
        check_whole("entropy_epochs", entropy_epochs)
        check_number("momentum", momentum, least=0, most=1)
        self.alpha, self.mu, self.momentum = alpha, mu, momentum
        self.entropy_epochs = entropy_epochs
        self.prototypes: dict[str, Tensor] = {}

    def start(self, run: Training) -> None:
        self.prototypes = {}

    def epoch(self, run: Training) -> None:
        seen = run.reading("train")
        truth = truths(seen.target, int(seen.target.amax()) + 1, who="PMR")
        for m, features in seen.values.items():
            new = class_means(features, truth, seen.has(m))
            old = self.prototypes.get(m, new)
            self.prototypes[m] = self.momentum * old + (1 - self.momentum) * new

    def step(self, s: Step) -> Iterator[None]:
        joint = s.losses["joint"]
        if not self.prototypes:
            warn_without_run(
                "PMR computes its prototypes before an epoch", "it takes those of each batch"
            )
        prototypes = self.prototypes or self.of_batch(s)
        rows = [log_probabilities(s.out.features[m], prototypes[m]) for m in s.modalities]
        log_p = torch.stack(rows, dim=-4)  # (…, M, B, Q, A)
        truth = truths(s.batch.target, log_p.shape[-1]).unsqueeze(-4)
        scores = self.scores(s, log_p, truth)
        lag, lead = lag_and_lead(scores)
        own = torch.where(s.seen, s.mean(cross_entropies(log_p, truth)), 0)
        loss = self.alpha * lag * own
        if s.epoch < self.entropy_epochs:
            loss = loss - self.mu * lead * torch.where(s.seen, s.mean(entropies(log_p)), 0)
        s.backward(joint + loss.sum(-1))
        s.log(score=dict(s.each(scores)), coefficient=dict(s.each(lag)))
        s.log(**{"prototype loss": dict(s.each(own))})
        yield

    @torch.no_grad()
    def scores(self, s: Step, log_p: Tensor, truth: Tensor) -> Tensor:
        """Mean probability of the truth by the prototypes, (…, M), over who has the modality.

        A modality that the whole batch lacks is neither behind nor ahead: it scores the mean of the
        others.
        """
        right = torch.where(truth, log_p.exp(), 0).sum(-1).mean(-1)
        return levelled(s.mean(right), s.seen)

    def of_batch(self, s: Step) -> Mapping[str, Tensor]:
        """The prototypes of the batch alone."""
        truth = truths(s.batch.target, s.out.joint.shape[-1], who="PMR")
        features = {m: s.out.features[m].detach() for m in s.modalities}
        return {m: class_means(h, truth, s.batch.has(m)) for m, h in features.items()}
