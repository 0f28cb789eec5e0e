"""How right a prediction is: accuracy for labels, errors and correlation for real numbers."""

from __future__ import annotations

import math

from torch import Tensor

from mmlab.training import Run


def accuracy(logits: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Part of the samples whose largest logit is the target, 0 to 1.

    mask: which samples count; NaN where none does. Raises ValueError for real-valued targets.
    """
    if target.is_floating_point():
        raise ValueError(
            f"accuracy needs class labels, and the targets are {target.dtype}; "
            "for regression use regression_metrics or test_scores"
        )
    right = (logits.argmax(-1) == target).float()
    if mask is None:
        return right.mean().item()
    return ((right * mask).sum() / mask.sum()).item()


def regression_metrics(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """What sentiment regression is measured by, for scores in [-3, 3]; both tensors (B,) or (B, 1).

    mae: mean absolute error. pearson: Pearson's r (NaN for a constant prediction).
    accuracy 2: same side, negative or not. accuracy 7: same whole number after clipping to [-3, 3].
    """
    from scipy import stats

    prediction, target = (x.detach().cpu().double().reshape(-1) for x in (prediction, target))
    whole = [x.clamp(-3, 3).round() for x in (prediction, target)]
    constant = prediction.std() == 0 or target.std() == 0
    return {
        "mae": (prediction - target).abs().mean().item(),
        "pearson": math.nan if constant else float(stats.pearsonr(prediction, target).statistic),
        "accuracy 2": ((prediction < 0) == (target < 0)).double().mean().item(),
        "accuracy 7": (whole[0] == whole[1]).double().mean().item(),
    }


def test_scores(run: Run, split: str = "test") -> dict[str, float]:
    """The balancer's own prediction: accuracy for labels, `regression_metrics` for real targets."""
    batch = run.split(split)
    if batch.target.is_floating_point():
        return regression_metrics(run.predict(batch), batch.target)
    return {"accuracy": test_accuracy(run, split)}


def test_accuracy(run: Run, split: str = "test") -> float:
    """Accuracy of the balancer's own prediction on a split."""
    batch = run.split(split)
    return accuracy(run.predict(batch), batch.target)


for measure in (test_scores, test_accuracy):
    vars(measure)["__test__"] = False  # the names are no tests for pytest
