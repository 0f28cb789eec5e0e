"""CML: a network that knows less may not be surer; where it is, it pays for the difference.

Ma, Zhang, Zhang, Wu, Fu, Zhou, Hu, "Calibrating Multimodal Learning", ICML 2023, arXiv 2306.01265.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from mmlab.balancers.scores import check_labels
from mmlab.checks import check_number, check_shapes
from mmlab.models.network import Output, joined_masks
from mmlab.training.balancer import Balancer
from mmlab.training.step import Step


def nested_subsets(order: Tensor, present: Tensor | None = None) -> Tensor:
    """Which modalities are left while they are removed one by one, in the order of each sample.

    The first subset is all that a sample has, and each further one has one modality less. The last
    modality stays: a sample with fewer than M of them repeats its last subset.

    Args:
        order: (…, M, B), numbers that differ within a sample; the largest is removed first.
        present: (…, M, B), booleans: which modalities a sample has; None: all.

    Returns:
        Booleans (…, M, M, B), by subset (the largest first), modality and sample.

    Raises:
        ValueError: the shapes do not fit.

    Source: the paper's subsets T ⊂ S; one chain per sample is the released code's.
    """
    have = torch.ones_like(order, dtype=torch.bool) if present is None else present
    check_shapes(order=(order, "MB"), present=(have, "MB"))
    longer = order.unsqueeze(-3) < order.unsqueeze(-2)  # [m, j]: j stays longer than m
    place = (longer & have.unsqueeze(-3)).sum(-2)
    removed = torch.arange(order.shape[-2], device=order.device)[:, None]
    left = (have.sum(-2).unsqueeze(-2) - removed).clamp(min=1)
    return (place.unsqueeze(-3) < left.unsqueeze(-2)) & have.unsqueeze(-3)


def confidence(logits: Tensor, task: str = "classification") -> Tensor:
    """How sure a prediction is: the largest probability.

    Args:
        logits: (…, B, C).
        task: for "multilabel", each label has a confidence of its own, the larger probability of
            yes and no [ours].

    Returns:
        (…, B), or for labels (…, B · C); from 1 / C (for labels ½) to 1, no unit.
    """
    if task == "multilabel":
        return logits.abs().sigmoid().flatten(-2)
    return logits.softmax(-1).amax(-1)


def confidence_penalty(confidence: Tensor) -> Tensor:
    """By how much a prediction is surer with less: Σ_{T ⊂ S} relu(Conf(T) − Conf(S)).

    Each sample pays for its own pairs. In a sum over samples, one that is surer with less would
    cancel against one that is less sure.

    Args:
        confidence: (…, K, B), of K nested subsets, the largest first.

    Returns:
        (…, B), ≥ 0, no unit; 0 where confidence never grows from one subset to the next.

    Raises:
        ValueError: the shape does not fit.

    Source: the paper. All pairs of the chain count; the released code takes neighbours alone, which
    is the same for two modalities.
    """
    check_shapes(confidence=(confidence, "KB"))
    rows = confidence.mT
    return (rows.unsqueeze(-2) - rows.unsqueeze(-1)).relu().triu(1).sum((-2, -1))


class CML(Balancer):
    """Calibrating multimodal learning: the loss of nested subsets, and a penalty on confidence.

    In every batch each sample loses its modalities one by one, in a random order that the run's
    seed sets, down to the last one. The loss is the mean cross-entropy of these subsets, plus λ
    times the mean penalty of a sample.

    What is removed has features of 0, under every fusion [ours; the released code, which is for
    models without an encoder per modality, fills in the mean input]. So each subset costs one more
    pass through the fusion, and none through an encoder. A modality that a sample lacks counts as
    removed, in training and in prediction: there it does not matter what the encoder says of an
    empty input.

    Args:
        lam: λ ≥ 0, weight of the penalty. The default, 1, is ours, and mild: the paper's is not
            known here. The released example takes 0.1 times the sum over a batch of 200, which is
            20 times the mean.

    The released code leaves a pair out where the prediction from S is wrong and that from T is
    right; where both are wrong, Conf(S) gets no gradient (file miwae/train.py). Here every pair
    counts, as in the paper. With several labels per sample, each label has a confidence and a
    penalty of its own [ours].

    The history has the mean "penalty", and "violation": the part of the samples (of the labels)
    that pay. `mmlab.evaluation.violation_share` measures the same after training.

    Raises:
        TypeError, ValueError: an argument out of range; in `step`: real-valued targets, because
            confidence is the probability of a class.

    Source: the paper's equations, under our reading of a subset.

    >>> from mmlab import CML, MultimodalNet, fit, load
    >>> data = load("av-digits", seed=0)
    >>> balancer = CML(lam=1.0)
    >>> net = MultimodalNet.build(data, **balancer.network, seed=0)
    >>> run = fit(net, data, balancer, epochs=1)
    >>> run.history.query("metric == 'loss'").output.tolist()
    ['joint', 'without 1']
    """

    def __init__(self, lam: float = 1.0) -> None:
        check_number("lam", lam, least=0)
        self.lam = lam

    def step(self, s: Step) -> Iterator[None]:
        check_labels(s.batch.target, "CML", "confidence is the probability of a class")
        logits = self.subset_logits(s)
        losses = [s.losses["joint"] if s.batch.present is None else s.losses.of("own", logits[0])]
        losses += [s.losses.of(f"without {k}", z) for k, z in enumerate(logits[1:], start=1)]
        penalty = confidence_penalty(confidence(torch.stack(logits, dim=-3), s.batch.task))
        s.log(penalty=penalty.mean(-1), violation=(penalty > 0).to(penalty).mean(-1))
        mean = torch.stack(losses, dim=-1).mean(-1, keepdim=True)
        s.backward(mean + self.lam * penalty.mean(-1, keepdim=True))
        yield

    def subset_logits(self, s: Step) -> list[Tensor]:
        """Joint logits (…, B, C) of M nested subsets, the largest first."""
        whole, features = s.out.joint, s.out.features
        shape = len(features), whole.shape[-2]
        # places in one permutation of all are in a random order within each sample, without ties
        order = s.permutation(shape[0] * shape[1]).unflatten(-1, shape)
        present = joined_masks(s.batch.present, features)
        masks = nested_subsets(order, present).unbind(-3)
        first = whole if present is None else s.fuse(features, masks[0])
        return [first, *(s.fuse(features, mask) for mask in masks[1:])]

    def fuse(self, out: Output, present: Mapping[str, Tensor] | None = None) -> Tensor:
        if present is None:
            return out.joint
        if out.fusion is None:
            raise ValueError("this Output was made without its fusion; pass fusion=net.fusion")
        return out.fusion({m: h * present[m].unsqueeze(-1) for m, h in out.features.items()})
