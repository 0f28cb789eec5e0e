"""What the exercises of notebook 13 are checked with: reference, cases, and likely slips.

Each is what `exercise(**...)` takes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# --- the mean of the steps that are there ---------------------------------------------------------


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    total = (values * mask[..., None]).sum(1)
    return total / mask.sum(1, keepdim=True).clamp(min=1)


def _over_all_places(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask[..., None]).mean(1)


def _padding_added(values: Tensor, mask: Tensor) -> Tensor:
    return values.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


def _nothing_over_nothing(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def _steps(*lengths: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(sum(lengths))
    values = torch.randn(len(lengths), 4, 3, generator=draw, dtype=torch.float64)
    return values, torch.arange(4) < torch.tensor(lengths)[:, None]


masked_mean: dict[str, Any] = {
    "reference": _masked_mean,
    "cases": {
        "all steps are there": _steps(4, 4),
        "texts of unlike length": _steps(4, 1, 2),
        "a text without a word": _steps(3, 0),
    },
    "mistakes": {
        "divide by the steps that are there, not by all places": _over_all_places,
        "what stands in the padding was added": _padding_added,
        "0 / 0: a text without a word needs a finite answer": _nothing_over_nothing,
    },
}


# --- the mean of all samples from the means of parts ----------------------------------------------


def _whole_mean(means: Tensor, counts: Tensor) -> Tensor:
    weights = counts.to(means.dtype)[:, None]
    return (means.nan_to_num() * weights).sum(0) / weights.sum()


def _mean_of_means(means: Tensor, counts: Tensor) -> Tensor:
    return means.nan_to_num().mean(0)


def _mean_of_those_with_some(means: Tensor, counts: Tensor) -> Tensor:
    return means[counts > 0].mean(0)


def _nan_kept(means: Tensor, counts: Tensor) -> Tensor:
    weights = counts.to(means.dtype)[:, None]
    return (means * weights).sum(0) / weights.sum()


def _over_processes(means: Tensor, counts: Tensor) -> Tensor:
    return (means.nan_to_num() * counts[:, None]).sum(0) / len(counts)


def _parts(*counts: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(sum(counts))
    means = torch.randn(len(counts), 2, generator=draw, dtype=torch.float64)
    found = torch.tensor(counts)
    means[found == 0] = torch.nan
    return means, found


whole_mean: dict[str, Any] = {
    "reference": _whole_mean,
    "cases": {
        "equal parts": _parts(4, 4),
        "unequal parts": _parts(5, 1, 2),
        "a part without a sample": _parts(3, 0, 1),
    },
    "mistakes": {
        "the mean of means: a part of one sample counts as much as a part of five": _mean_of_means,
        "an empty part is left out, and the others still count alike": _mean_of_those_with_some,
        "0 times NaN is NaN: an empty part must add 0": _nan_kept,
        "divide by the samples, not by the processes": _over_processes,
    },
}
