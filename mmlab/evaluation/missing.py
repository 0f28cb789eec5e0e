"""Samples that lack modalities: which patterns there are, and how right the answers are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmlab.checks import check_choice
from mmlab.datasets.base import Batch, Split
from mmlab.evaluation.arguments import check_run
from mmlab.evaluation.metrics import accuracy, check_labels, predicted
from mmlab.evaluation.passes import forward
from mmlab.models.modes import evaluating
from mmlab.nested import changed, is_real
from mmlab.training import Run
from mmlab.training.passes import Reading

if TYPE_CHECKING:
    import pandas as pd


def accuracy_by_pattern(run: Run, batch: Split) -> pd.DataFrame:
    """Accuracy of the balancer's own prediction for each set of modalities that samples have.

    One row per pattern that occurs, named as "audio + image", the most modalities first. Columns:
    samples (how many have it, and the balancer has an answer for), accuracy (0 to 1; NaN of none).
    The patterns differ in their samples, too; to compare them, `without` gives one set of samples
    in another pattern. For the interval of one accuracy see `mmlab.experiments.share_interval`.

    Raises ValueError for real-valued targets, FloatingPointError for predictions that are not
    finite.
    """
    import pandas as pd

    check_run(run)
    check_labels("accuracy_by_pattern", batch.head(1).target)
    found = predicted(run, batch.to(run.device), "this batch")
    prediction, answered = found.values["prediction"], found.values["answered"]
    code = sum(has.long() << k for k, has in enumerate(having(found, batch.modalities).values()))
    rows = {}
    for pattern in torch.as_tensor(code).unique().tolist():
        counts = (code == pattern) & answered
        names = [m for k, m in enumerate(batch.modalities) if pattern >> k & 1]
        right = accuracy(prediction, found.target, counts)
        rows[" + ".join(names) or "none"] = (len(names), int(counts.sum()), right)
    table = pd.DataFrame.from_dict(rows, "index", columns=["size", "samples", "accuracy"])
    table = table.sort_values("size", ascending=False, kind="stable").drop(columns="size")
    return table.rename_axis("pattern")


def without(batch: Batch, *modalities: str) -> Batch:
    """The batch as it would be if all its samples lacked these modalities: 0, and marked absent.

    Raises ValueError for an unknown modality.
    """
    for m in modalities:
        check_choice("modality", m, batch.modalities)
    inputs = {
        m: changed(torch.zeros_like, value) if m in modalities else value
        for m, value in batch.inputs.items()
    }
    present = {
        m: torch.zeros_like(mask) if m in modalities else mask
        for m, mask in having(batch, batch.modalities).items()
    }
    return replace(batch, inputs=inputs, present=present)


@torch.no_grad()
def filled_in(run: Run, batch: Batch, modality: str) -> dict[str, Tensor]:
    """Joint logits (B, C) if a mean stood in the place of one modality of all samples.

    "mean input": the mean of its inputs over the training samples that have it, entry by entry, as
    if it were an input; "mean feature": the mean of its features over the same samples. Of the
    fusion, whatever the balancer predicts by.

    Raises ValueError for an unknown modality, and for training inputs that are no tensor of real
    numbers, or a Stream's.
    """
    check_run(run)
    check_choice("modality", modality, batch.modalities)
    train, seen, batch = run.split("train"), run.reading("train"), batch.to(run.device)
    if not isinstance(train, Batch) or not is_real(train.inputs[modality]):
        raise ValueError(
            f"the training inputs of {modality!r} are no tensor of real numbers in memory, so "
            "their mean is not known; fill them in yourself"
        )
    x, features = batch.inputs[modality], forward(run.model, batch).features
    mean_x = _mean(train.inputs[modality], train.has(modality)).expand_as(x)
    mean_h = _mean(seen.values[modality], seen.has(modality)).expand_as(features[modality])
    filled = replace(batch, inputs={**batch.inputs, modality: mean_x})
    with evaluating(run.model.fusion):
        by_feature = run.model.fusion({**features, modality: mean_h})
    return {"mean input": forward(run.model, filled).joint, "mean feature": by_feature}


def _mean(values: Tensor, has: Tensor | None) -> Tensor:
    return (values if has is None else values[has]).mean(0)


def having(samples: Batch | Reading, modalities: Sequence[str]) -> dict[str, Tensor]:
    """Which samples have each modality, booleans (B,)."""
    everywhere = torch.ones(len(samples.target), dtype=torch.bool, device=samples.target.device)
    masks = {m: samples.has(m) for m in modalities}
    return {m: everywhere if mask is None else mask for m, mask in masks.items()}
