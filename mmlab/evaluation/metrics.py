"""How right a prediction is: accuracy for a class, precision and F1 for several labels, errors and
correlation for real numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mmlab.checks import check_choice, check_mask
from mmlab.datasets.base import IGNORED, Batch, Split, task_of
from mmlab.datasets.splits import pieces
from mmlab.evaluation.arguments import check_run
from mmlab.evaluation.passes import forward
from mmlab.models.network import MultimodalNet
from mmlab.training import Run
from mmlab.training.passes import Reading


def accuracy(
    logits: Tensor, target: Tensor, mask: Tensor | None = None, *, what: str = "the logits"
) -> float:
    """Part of the samples whose largest logit is the target, 0 to 1; NaN where none counts.

    Args:
        logits: (…, B, C).
        target: classes (…, B), whole numbers; −100 for frames that do not count.
        mask: which samples count, booleans in the target's shape.
        what: how messages call the logits.

    Raises:
        ValueError: real-valued targets, or shapes that do not fit.
        FloatingPointError: logits of a sample that counts are not finite.
    """
    check_logits("accuracy", logits, target, what)
    if mask is not None:
        check_mask("mask", mask, target.shape)
    labelled = target != IGNORED
    mask = labelled if mask is None else mask & labelled
    check_finite(what, logits, mask)
    right = (logits.argmax(-1) == target).float()
    return ((right * mask).sum() / mask.sum()).item()


def macro_f1(logits: Tensor, target: Tensor) -> float:
    """Mean over the classes of F1, 0 to 1: a rare class counts as much as a frequent one.

    F1 of a class is 2 right / (samples of it + answers of it), the harmonic mean of precision and
    recall (van Rijsbergen 1979, chapter 7). Classes that neither occur nor are answered do not
    count, as in scikit-learn's ``f1_score(average="macro")``.

    Args:
        logits: (…, B, C).
        target: classes (…, B), whole numbers from 0 to C − 1; −100 for frames that do not count.

    Raises as `accuracy`.
    """
    check_logits("macro_f1", logits, target)
    logits, target = those_that_count(logits, target)
    check_finite("the logits", logits)
    classes, answers = logits.shape[-1], logits.argmax(-1)
    both, truly, said = (
        torch.bincount(labels.flatten(), minlength=classes).double()
        for labels in (target[answers == target], target, answers)
    )
    counted = truly + said > 0
    return (2 * both / (truly + said))[counted].mean().item()


def multilabel_metrics(logits: Tensor, target: Tensor) -> dict[str, float]:
    """What answers of several labels per sample are measured by; both tensors (B, C).

    mAP: the mean over the labels of average precision, of the ranking of the samples by the label's
    logit. F1 macro, F1 micro: of the labels whose probability is above 0.5, as the mean over the
    labels or of all answers at once. All are scikit-learn's, 0 to 1. A label that no sample has is
    left out of mAP; one that nobody answers either, of the F1 macro too. NaN where none is left, or
    no sample.

    Args:
        logits: log-odds of each label, (B, C).
        target: which labels are true, booleans (B, C).

    Raises:
        ValueError: targets of another type, or shapes that do not fit.
        FloatingPointError: logits that are not finite.
    """
    from sklearn.metrics import f1_score

    check_multilabel("multilabel_metrics", logits, target)
    check_finite("the logits", logits)
    if not len(target):
        return dict.fromkeys(("mAP", "F1 macro", "F1 micro"), math.nan)
    said = {"y_true": target.cpu().numpy(), "y_pred": (logits > 0).cpu().numpy()}
    macro = f1_score(**said, average="macro", zero_division=math.nan)
    micro = f1_score(**said, average="micro", zero_division=math.nan)
    scores = {"mAP": average_precision(logits, target), "F1 macro": macro, "F1 micro": micro}
    return {name: float(score) for name, score in scores.items()}


def average_precision(logits: Tensor, target: Tensor) -> float:
    """The mAP of `multilabel_metrics`, alone."""
    from sklearn.metrics import average_precision_score

    check_multilabel("average_precision", logits, target)
    check_finite("the logits", logits)
    occurs = target.any(0)
    if not occurs.any():
        return math.nan
    columns = (x[:, occurs].detach().cpu().numpy() for x in (target, logits))
    return float(average_precision_score(*columns, average="macro"))


def regression_metrics(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """What predictions of real numbers are measured by; both tensors (B,) or (B, 1), or (B, K).

    mae: mean absolute error. pearson: Pearson's r (NaN for a constant prediction). Of K numbers per
    sample both are the mean over the K: bring them to one scale. Of one number, as in sentiment
    regression with scores in [-3, 3], also accuracy 2: same side, negative or not; and accuracy 7:
    same whole number after clipping to [-3, 3]. All are NaN where there is no sample.

    Raises:
        ValueError: other shapes.
        FloatingPointError: predictions that are not finite.
    """
    shapes = [tuple(x.shape) for x in (prediction, target)]
    columns = [x[:, None] if x.ndim == 1 else x for x in (prediction, target)]
    if columns[0].ndim != 2 or columns[0].shape != columns[1].shape:
        raise ValueError(
            f"the predictions have the shape {shapes[0]}, the target has {shapes[1]}; give one "
            "number per sample, (B,) or (B, 1), or K numbers, (B, K), to both"
        )
    check_finite("the predictions", columns[0])
    prediction, target = (x.detach().cpu().double() for x in columns)
    pairs = [*zip(prediction.mT, target.mT, strict=True)]
    scores = {
        "mae": (prediction - target).abs().mean().item(),
        "pearson": sum(_correlation(*pair) for pair in pairs) / len(pairs),
    }
    if len(pairs) > 1:
        return scores
    whole = [x.clamp(-3, 3).round() for x in (prediction, target)]
    return scores | {
        "accuracy 2": ((prediction < 0) == (target < 0)).double().mean().item(),
        "accuracy 7": (whole[0] == whole[1]).double().mean().item(),
    }


def _correlation(one: Tensor, other: Tensor) -> float:
    """Pearson's r of two lists of numbers, (B,) each; NaN where one of them does not vary."""
    from scipy import stats

    if any(torch.equal(x, x[:1].expand_as(x)) for x in (one, other)):
        return math.nan
    return float(stats.pearsonr(one, other).statistic)


def test_scores(run: Run, split: str = "test") -> dict[str, float]:
    """How right the balancer's own prediction is.

    Accuracy for a class, `multilabel_metrics` for several labels per sample, `regression_metrics`
    for real numbers. Samples that it has no answer for (`Balancer.answers`) do not count.

    Raises:
        ValueError: no such split.
        FloatingPointError: predictions that are not finite.
    """
    prediction, target = _answers(run, split)
    return SCORERS[task_of(target)](prediction, target)


SCORERS: dict[str, Callable[[Tensor, Tensor], dict[str, float]]] = {
    "classification": lambda logits, target: {"accuracy": accuracy(logits, target)},
    "multilabel": multilabel_metrics,
    "regression": regression_metrics,
}
"""The scores of a prediction by task; a choice on the holdout goes by the first one."""


def test_accuracy(run: Run, split: str = "test") -> float:
    """Accuracy of the balancer's own prediction on a split; counts and raises as `test_scores`."""
    return accuracy(*_answers(run, split))


def answered_share(run: Run, split: str = "test") -> float:
    """Part of the samples of a split that the balancer has an answer for, 0 to 1."""
    check_run(run)
    check_choice("split", split, run.data.splits)
    masks = [run.answered(some) for some in pieces(run.split(split))]
    return torch.cat(masks).float().mean().item()


def _answers(run: Run, split: str) -> tuple[Tensor, Tensor]:
    """Prediction and target of the samples that the balancer has an answer for."""
    check_run(run)
    check_choice("split", split, run.data.splits)
    found = predicted(run, run.split(split), split)
    mask = found.values["answered"]
    return found.values["prediction"][mask], found.target[mask]


def predicted(run: Run, split: Split, where: str) -> Reading:
    """The balancer's "prediction", and whether it has an answer: "answered", booleans (B,).

    Raises FloatingPointError for predictions that are not finite where it has one.
    """
    found = run.answers(split)
    numbers = found.values["prediction"].reshape(len(found.target), -1)  # (B,) of a regression
    rows = not_finite(numbers, found.values["answered"])
    if len(rows):
        some = pieces(split) if run.model.frames else split.batches(1, rows[:1, 0])
        outputs = next(filter(None, (_broken_outputs(run.model, one) for one in some)), [])
        broken = ", ".join(map(repr, outputs))
        what = f"the predictions of {run.balancer.name} for {where} (of its outputs: {broken})"
        check_finite(what, numbers, found.values["answered"])
    return found


def _broken_outputs(model: MultimodalNet, batch: Batch) -> list[str]:
    """The outputs whose logits are not finite: it tells which modality to look into."""
    out = forward(model, batch)
    return [
        name
        for name, logits in {"joint": out.joint, **out.unimodal}.items()
        if not logits.isfinite().all()
    ]


for _measure in (test_scores, test_accuracy):
    vars(_measure)["__test__"] = False  # the names are no tests for pytest


def not_finite(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Indices (n, …) of the samples of values (…, D) that are not finite, and count."""
    bad = ~values.isfinite().all(-1)
    return (bad if mask is None else bad & mask).nonzero()


def check_finite(what: str, values: Tensor, mask: Tensor | None = None) -> None:
    """Raises FloatingPointError where values (…, D) of a sample that counts are not finite.

    The largest of NaNs is class 0, so that a score of them would be a number, and mean nothing.
    """
    rows = not_finite(values, mask)
    if len(rows):
        first = rows[0].tolist()
        raise FloatingPointError(
            f"{what} are not finite in {len(rows)} of {values[..., 0].numel()} samples, first in "
            f"row {first[0] if len(first) == 1 else tuple(first)}; lower lr, or look for NaN in "
            "the inputs"
        )


def those_that_count(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, C) and target (N,) without the frames that do not count."""
    labelled = target != IGNORED
    return logits[labelled], target[labelled]


def check_logits(who: str, logits: Tensor, target: Tensor, what: str = "the logits") -> None:
    """Raises ValueError for real-valued targets, or where logits (…, B, C) do not fit them."""
    check_labels(who, target)
    if not target.ndim or logits.shape[:-1] != target.shape:
        raise ValueError(
            f"{what} have the shape {tuple(logits.shape)}, the target has {tuple(target.shape)}; "
            "give logits (B, C) for a target (B,): for one column use target.squeeze(1)"
        )


def check_labels(who: str, target: Tensor) -> None:
    """Raises ValueError for targets other than class labels."""
    task = task_of(target)
    if task != "classification":
        metrics = {"multilabel": multilabel_metrics, "regression": regression_metrics}[task]
        raise ValueError(
            f"{who} needs class labels, and the targets are {target.dtype}; "
            f"for task={task!r} use {metrics.__name__} or test_scores"
        )


def check_multilabel(who: str, logits: Tensor, target: Tensor) -> None:
    """Raises ValueError for targets other than booleans (B, C), and for logits unlike them."""
    if target.dtype != torch.bool or target.ndim != 2 or logits.shape != target.shape:
        raise ValueError(
            f"{who} got logits {tuple(logits.shape)} and {target.dtype} targets "
            f"{tuple(target.shape)}; give (B, C) to both, the targets as booleans: target.bool()"
        )
