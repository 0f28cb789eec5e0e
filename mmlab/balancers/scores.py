"""How right each modality is in a batch: the probability of the truth, which many methods go by."""

from collections.abc import Mapping

import torch
from torch import Tensor

from mmlab.training.step import Step


@torch.no_grad()
def mean_scores(s: Step, logits: Mapping[str, Tensor]) -> Tensor:
    """Mean probability of the truth from each modality's logits (…, B, C): (…, M).

    The mean is over the samples that have the modality; where all have all, ratios of means are the
    paper's ratios of sums. A modality that the whole batch lacks is neither ahead nor behind: it
    scores the mean of the others (which, for M ≥ 3, moves their ratios closer to 1). Where the
    batch lacks all, all score 0.
    """
    each = torch.stack([logits[m] for m in s.modalities], dim=-3)
    truth = probabilities_of_truth(s, each)
    scores = s.mean(truth.mean(-1) if truth.shape[-1] > 1 else truth[..., 0])
    if s.batch.present is None:
        return scores
    return levelled(scores, s.seen)


def levelled(values: Tensor, known: Tensor) -> Tensor:
    """The values (…, M), those that are not known at the mean of the others; 0 where none is."""
    total = torch.where(known, values, 0).sum(-1, keepdim=True)
    return torch.where(known, values, total / known.sum(-1, keepdim=True).clamp(min=1))


def check_labels(
    target: Tensor, who: str, why: str = "its score is the probability of the true class"
) -> None:
    """Raise ValueError for real-valued targets, which are of no class.

    target: the targets of a batch, any shape.
    who: the method that needs a class, for the message.
    why: what it needs the class for, for the message.
    """
    if target.is_floating_point():
        raise ValueError(
            f"{who} needs class labels, and the targets are {target.dtype}: {why}. For regression "
            "use ATF, MMPareto or GradientBlending"
        )


def probabilities_of_truth(s: Step, logits: Tensor) -> Tensor:
    """What logits (…, M, B, C) of each modality give to the truth: (…, M, B, 1).

    Where a sample has several labels, what they give to what is true of each, (…, M, B, C). In
    float32 at least: under autocast a CPU leaves them in 16 bits, where a small lead, or what a
    step adds to a running mean, is rounded away.
    """
    logits = logits.float() if logits.element_size() < 4 else logits
    target = s.batch.target.unsqueeze(s.batch.target.ndim - (s.batch.task == "multilabel") - 1)
    if s.batch.task == "multilabel":
        return probabilities_of_labels(logits, target)
    index = target.long().expand(logits.shape[:-1])[..., None]
    return logits.softmax(-1).gather(-1, index)


def probabilities_of_labels(logits: Tensor, target: Tensor) -> Tensor:
    """The probability that logits (…, C) give to what is true of each label, booleans (…, C)."""
    return torch.where(target, logits, -logits).sigmoid()
