"""Train, holdout and test of samples that belong to groups, and which groups are on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mmlab.datasets.disk.found import Sample
from mmlab.datasets.embedded import whole_groups
from mmlab.seeds import generator

PUBLISHED = "published"
HELD_OUT = 0.1  # of the published training samples, where the lists have no holdout


def choose(
    samples: Sequence[Sample],
    split: str,
    shares: tuple[float, float, float],
    seed: int,
    name: str,
) -> dict[str, Tensor]:
    """Row numbers of train, holdout and test.

    split: "published": as the lists say; where they have no holdout, whole groups of a tenth of
           their training samples are held out, drawn by the seed. Any other: no group is in two
           splits; they have their `shares` of the samples, up to one group, drawn by the seed.

    Raises ValueError where a split stays empty.
    """
    groups = np.array([sample.group for sample in samples])
    rows = (
        _published(samples, groups, seed, name)
        if split == PUBLISHED
        else whole_groups(groups, shares, seed, name)
    )
    if empty := [part for part, row in rows.items() if not len(row)]:
        raise ValueError(
            f"split={split!r} leaves no sample of {name} for {empty[0]}: {len(samples)} samples of "
            f"{len(np.unique(groups))} groups are there; give the files of more of them"
        )
    return rows


def _published(
    samples: Sequence[Sample], groups: np.ndarray, seed: int, name: str
) -> dict[str, Tensor]:
    parts = np.array([sample.part for sample in samples])
    rows = {
        part: torch.from_numpy(np.flatnonzero(parts == part))
        for part in ("train", "holdout", "test")
    }
    if len(rows["holdout"]) or not len(rows["train"]):
        return rows
    own = groups[rows["train"]]
    held = torch.from_numpy(np.isin(own, _held_out(own, seed, name)))
    return {"train": rows["train"][~held], "holdout": rows["train"][held], "test": rows["test"]}


def _held_out(groups: np.ndarray, seed: int, name: str) -> np.ndarray:
    """Groups drawn by the seed until they have a tenth of the samples; at least one."""
    names, sizes = np.unique(groups, return_counts=True)
    order = torch.randperm(len(names), generator=generator(seed, name, "holdout")).numpy()
    before = np.cumsum(sizes[order]) - sizes[order]
    return names[order[before < HELD_OUT * len(groups)]]


def overlap(samples: Sequence[Sample], rows: Mapping[str, Tensor]) -> tuple[int, int]:
    """How many groups of the test are also in train or holdout, and how many it has."""
    train, holdout, test = ({samples[i].group for i in row.tolist()} for row in rows.values())
    return len(test & (train | holdout)), len(test)
