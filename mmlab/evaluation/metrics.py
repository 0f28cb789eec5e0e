"""How right a prediction is: accuracy for labels, errors and correlation for real numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmlab.checks import check_choice
from mmlab.datasets.base import Batch
from mmlab.datasets.splits import pieces
from mmlab.evaluation.passes import forward
from mmlab.models.network import MultimodalNet, Output
from mmlab.training import Run
from mmlab.training.passes import Reading, read


def accuracy(
    logits: Tensor, target: Tensor, mask: Tensor | None = None, *, what: str = "the logits"
) -> float:
    """Part of the samples whose largest logit is the target, 0 to 1; NaN where none counts.

    Args:
        logits: (…, B, C); target: (…, B).
        mask: which samples count, booleans in the target's shape.
        what: how messages call the logits.

    Raises:
        ValueError: real-valued targets, or shapes that do not fit.
        FloatingPointError: logits of a sample that counts are not finite.
    """
    check_logits("accuracy", logits, target, what)
    if mask is not None:
        check_mask("mask", mask, target)
    check_finite(what, logits, mask)
    right = (logits.argmax(-1) == target).float()
    if mask is None:
        return right.mean().item()
    return ((right * mask).sum() / mask.sum()).item()


def macro_f1(logits: Tensor, target: Tensor) -> float:
    """Mean over the classes of F1, 0 to 1: a rare class counts as much as a frequent one.

    F1 of a class is 2 right / (samples of it + answers of it), the harmonic mean of precision and
    recall (van Rijsbergen 1979, chapter 7). Classes that neither occur nor are answered do not
    count, as in scikit-learn's ``f1_score(average="macro")``.

    Args:
        logits: (…, B, C); target: (…, B), whole numbers from 0 to C − 1.

    Raises as `accuracy`.
    """
    check_logits("macro_f1", logits, target)
    check_finite("the logits", logits)
    classes, answers = logits.shape[-1], logits.argmax(-1)
    both, truly, said = (
        torch.bincount(labels.flatten(), minlength=classes).double()
        for labels in (target[answers == target], target, answers)
    )
    counted = truly + said > 0
    return (2 * both / (truly + said))[counted].mean().item()


def regression_metrics(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """What sentiment regression is measured by, for scores in [-3, 3]; both tensors (B,) or (B, 1).

    mae: mean absolute error. pearson: Pearson's r (NaN for a constant prediction).
    accuracy 2: same side, negative or not. accuracy 7: same whole number after clipping to [-3, 3].
    All are NaN where there is no sample.

    Raises:
        ValueError: other shapes.
        FloatingPointError: predictions that are not finite.
    """
    from scipy import stats

    shapes = [tuple(x.shape) for x in (prediction, target)]
    if any(shape[1:] not in ((), (1,)) for shape in shapes) or len({s[:1] for s in shapes}) > 1:
        raise ValueError(
            f"the predictions have the shape {shapes[0]}, the target has {shapes[1]}; give one "
            "number per sample, (B,) or (B, 1), to both"
        )
    check_finite("the predictions", prediction.reshape(-1, 1))
    prediction, target = (x.detach().cpu().double().reshape(-1) for x in (prediction, target))
    whole = [x.clamp(-3, 3).round() for x in (prediction, target)]
    constant = any(torch.equal(x, x[:1].expand_as(x)) for x in (prediction, target))
    return {
        "mae": (prediction - target).abs().mean().item(),
        "pearson": math.nan if constant else float(stats.pearsonr(prediction, target).statistic),
        "accuracy 2": ((prediction < 0) == (target < 0)).double().mean().item(),
        "accuracy 7": (whole[0] == whole[1]).double().mean().item(),
    }


def test_scores(run: Run, split: str = "test") -> dict[str, float]:
    """The balancer's own prediction: accuracy for labels, `regression_metrics` for real targets.

    Samples that it has no answer for (`Balancer.answers`) do not count.

    Raises:
        ValueError: no such split.
        FloatingPointError: predictions that are not finite.
    """
    prediction, target = _answers(run, split)
    if target.is_floating_point():
        return regression_metrics(prediction, target)
    return {"accuracy": accuracy(prediction, target)}


def test_accuracy(run: Run, split: str = "test") -> float:
    """Accuracy of the balancer's own prediction on a split; counts and raises as `test_scores`."""
    return accuracy(*_answers(run, split))


def answered_share(run: Run, split: str = "test") -> float:
    """Part of the samples of a split that the balancer has an answer for, 0 to 1."""
    check_choice("split", split, run.data.splits)
    masks = [_mask(run, some) for some in pieces(run.split(split))]
    return torch.cat(masks).float().mean().item()


def _answers(run: Run, split: str) -> tuple[Tensor, Tensor]:
    """Prediction and target of the samples that the balancer has an answer for."""
    check_choice("split", split, run.data.splits)
    found = predicted(run, run.split(split), split)
    mask = found.values["answered"]
    return found.values["prediction"][mask], found.target[mask]


def predicted(run: Run, split: Batch, where: str) -> Reading:
    """The balancer's "prediction", and whether it has an answer: "answered", booleans (B,).

    Raises FloatingPointError for predictions that are not finite where it has one.
    """

    def answer(some: Batch, out: Output) -> dict[str, Tensor]:
        prediction = run.balancer.fuse(out, some.present)
        return {"prediction": prediction, "answered": _mask(run, some)}

    found = read(run.model, pieces(split), answer)
    numbers = found.values["prediction"].reshape(len(found.target), -1)  # (B,) of a regression
    rows = not_finite(numbers, found.values["answered"])
    if len(rows):
        (first,) = split.batches(1, rows[:1, 0])
        broken = ", ".join(map(repr, _broken_outputs(run.model, first)))
        what = f"the predictions of {run.balancer.name} for {where} (of its outputs: {broken})"
        check_finite(what, numbers, found.values["answered"])
    return found


def _mask(run: Run, batch: Batch) -> Tensor:
    mask = answered(run, batch)
    return torch.ones(len(batch), dtype=torch.bool, device=run.device) if mask is None else mask


def answered(run: Run, batch: Batch) -> Tensor | None:
    """Which samples the balancer has an answer for, booleans (B,); None: all."""
    mask = run.balancer.answers(batch)
    if mask is not None:
        check_mask(f"{run.balancer.name}.answers(batch)", mask, batch.target)
    return mask


def _broken_outputs(model: MultimodalNet, batch: Batch) -> list[str]:
    """The outputs whose logits are not finite: it tells which modality to look into."""
    out = forward(model, batch)
    return [
        name
        for name, logits in {"joint": out.joint, **out.unimodal}.items()
        if not logits.isfinite().all()
    ]


for measure in (test_scores, test_accuracy):
    vars(measure)["__test__"] = False  # the names are no tests for pytest


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


def check_logits(who: str, logits: Tensor, target: Tensor, what: str = "the logits") -> None:
    """Raises ValueError for real-valued targets, or where logits (…, B, C) do not fit them."""
    check_labels(who, target)
    if not target.ndim or logits.shape[:-1] != target.shape:
        raise ValueError(
            f"{what} have the shape {tuple(logits.shape)}, the target has {tuple(target.shape)}; "
            "give logits (B, C) for a target (B,): for one column use target.squeeze(1)"
        )


def check_labels(who: str, target: Tensor) -> None:
    """Raises ValueError for real-valued targets."""
    if target.is_floating_point():
        raise ValueError(
            f"{who} needs class labels, and the targets are {target.dtype}; "
            "for regression use regression_metrics or test_scores"
        )


def check_mask(what: str, mask: object, target: Tensor) -> None:
    """Raises TypeError for what is no tensor, ValueError for other than one boolean per sample."""
    if not isinstance(mask, Tensor):
        raise TypeError(
            f"{what} is a {type(mask).__name__}; give a tensor of booleans, one per sample, or None"
        )
    if mask.dtype != torch.bool or mask.shape != target.shape:
        raise ValueError(
            f"{what} is {mask.dtype} of shape {tuple(mask.shape)}; it must be torch.bool of shape "
            f"{tuple(target.shape)}, as the target"
        )
