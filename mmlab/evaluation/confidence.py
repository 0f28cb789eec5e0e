"""How sure a prediction is, and whether it should be: calibration, and what a modality adds to it.

Confidence is the largest of the predicted probabilities. All raise ValueError for real-valued
targets, FloatingPointError for predictions that are not finite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmlab.checks import check_whole
from mmlab.datasets.base import Batch, Split
from mmlab.datasets.splits import pieces
from mmlab.evaluation.arguments import check_run
from mmlab.evaluation.metrics import (
    check_finite,
    check_labels,
    check_logits,
    those_that_count,
)
from mmlab.evaluation.missing import having, without
from mmlab.training import Run


def calibration_error(logits: Tensor, target: Tensor, bins: int = 15) -> float:
    """Expected calibration error, 0 to 1: the gap between confidence and accuracy.

    Samples are put into `bins` bins of equal width by their confidence; the result is the mean of
    |accuracy − mean confidence| over the bins, each weighed by its samples (Guo et al., ICML 2017,
    equation 3). The estimate depends on the bins, and is above 0 for few samples of any network.

    Args:
        logits: (…, B, C). Log-probabilities are logits, too.
        target: classes (…, B), whole numbers; −100 for frames that do not count.
        bins: number of bins, at least 1.

    Raises ValueError for shapes that do not fit, or no whole number of bins.
    """
    check_logits("calibration_error", logits, target)
    logits, target = those_that_count(logits, target)
    check_finite("the logits", logits)
    check_whole("bins", bins, least=1)
    sure = _confidence(logits).flatten()
    gap = (logits.argmax(-1) == target).flatten().to(sure) - sure
    place = (sure * bins).ceil().long().clamp(1, bins) - 1  # the bins are open below
    sums = torch.zeros(bins).to(sure).index_add_(0, place, gap)
    return (sums.abs().sum() / len(sure)).item()


def violation_share(run: Run, batch: Split) -> dict[str, float]:
    """Part of the samples whose confidence grows when a modality is taken away, per modality.

    To know less should not make surer (Ma et al., Calibrating Multimodal Learning, ICML 2023: the
    violating ratio). Confidence is that of the balancer's own prediction; the modality's input is
    set to 0 and marked as absent. Samples count that have this modality and another one, and that
    the balancer has an answer for both times; NaN where there are none.
    """
    check_run(run)
    check_labels("violation_share", batch.head(1).target)
    grown: dict[str, list[Tensor]] = {m: [] for m in batch.modalities}
    for some in pieces(batch.to(run.device)):
        for m, found in grown.items():
            found.append(_grown(run, some, m))
    return {m: torch.cat(found).double().mean().item() for m, found in grown.items()}


def _grown(run: Run, batch: Batch, m: str) -> Tensor:
    """Whether the confidence grows without m, booleans, for the samples that count."""
    has = having(batch, batch.modalities)
    counts = has[m] & (sum(mask.long() for mask in has.values()) > 1)
    if not counts.any():
        return counts[:0]
    whole = batch[counts]
    less = without(whole, m)
    found = [run.answers(one).values for one in (whole, less)]
    both = found[0]["answered"] & found[1]["answered"]
    before, after = (values["prediction"] for values in found)
    check_finite(f"the predictions of {run.balancer.name}", before, both)
    check_finite(f"the predictions of {run.balancer.name} without {m!r}", after, both)
    return (_confidence(after) > _confidence(before))[both]


def _confidence(logits: Tensor) -> Tensor:
    """Largest probability, (…, B, C) to (…, B)."""
    return logits.detach().double().softmax(-1).amax(-1)
