"""What the embedded data sets share: a checked file, rows of splits, noise, standard units."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlab.datasets import dials
from mmlab.datasets.base import Batch, MultimodalData
from mmlab.seeds import derive, generator

PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries the files inside the package; a checkout has them at its top.
DATA = PACKAGE / "data" if (PACKAGE / "data").is_dir() else PACKAGE.parent / "data"


def read_checked(file: Path, sha256: str, script: str | None = None) -> dict[str, np.ndarray]:
    """The arrays of an embedded file.

    script: what in data/ rebuilds the file, if anything does.

    Raises FileNotFoundError or another OSError where it cannot be read, ValueError where the
    checksum does not hold; all say how to get it back.
    """
    remedy = f"restore it with: git checkout -- data/{file.name} (or fetch the project anew)"
    if script:
        remedy += f", or rebuild it with: python data/{script}"
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"the data file {file} is missing; {remedy}") from None
    except OSError as error:
        reason = error.strerror
        raise OSError(f"the data file {file} cannot be read ({reason}); {remedy}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(
            f"the data file {file} is damaged: SHA-256 {found} instead of {sha256} "
            f"({len(content)} bytes); {remedy}"
        )
    return dict(np.load(io.BytesIO(content), allow_pickle=False))


def select(values: np.ndarray, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of each split, in float32."""
    everything = torch.from_numpy(values.astype(np.float32))
    return {name: everything[row] for name, row in rows.items()}


def prepare(
    values: np.ndarray,
    rows: Mapping[str, Tensor],
    axes: tuple[int, ...],
    noise: float,
    seed: int,
    modality: str,
) -> dict[str, Tensor]:
    """The rows of each split with noise, standardised over `axes`.

    noise: in s.d. of the clean training rows over `axes`.
    """
    clean = select(values, rows)
    sd = clean["train"].std(axes, correction=0, keepdim=True)
    return standardise(noisy(clean, noise * sd, seed, modality), axes)


def noisy(
    splits: Mapping[str, Tensor], sd: Tensor | float, seed: int, modality: str
) -> dict[str, Tensor]:
    """Gaussian noise of `sd` on every split, from a stream of its own."""
    return {
        name: dials.add_noise(values, sd, generator(seed, "noise", modality, name))
        for name, values in splits.items()
    }


def standardise(splits: Mapping[str, Tensor], axes: tuple[int, ...]) -> dict[str, Tensor]:
    """Mean 0 and s.d. 1 over `axes` of the training split; the others follow its statistics."""
    sd, mean = torch.std_mean(splits["train"], axes, correction=0, keepdim=True)
    return {name: (values - mean) / sd for name, values in splits.items()}


def whole_groups(
    groups: np.ndarray, shares: tuple[float, float, float], seed: int, name: str
) -> dict[str, Tensor]:
    """Row numbers of train, holdout and test: every group lies in one split, drawn by the seed.

    groups: (N,) which group each row belongs to (a person, a word).
    shares: of the rows, adding up to 1; a split has its share up to one group.
    name:   of the data set, so that two sets draw from streams of their own.
    """
    names, member, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = torch.randperm(len(names), generator=generator(seed, name, "split")).numpy()
    middle = np.cumsum(sizes[order]) - sizes[order] / 2  # a group goes where its middle falls
    split = np.empty(len(names), dtype=int)
    split[order] = np.searchsorted(np.cumsum(shares)[:2] * len(groups), middle)
    return {
        part: torch.from_numpy(np.flatnonzero(split[member] == number))
        for number, part in enumerate(("train", "holdout", "test"))
    }


def shuffled(rows: Mapping[str, Tensor], seed: int, name: str) -> dict[str, Tensor]:
    """The rows of each split in an order drawn by the seed.

    rows: split -> which recordings it has, whole numbers.
    name: the name of the data set, on which the order depends too.
    """
    draw = generator(seed, name, "order")
    return {part: row[torch.randperm(len(row), generator=draw)] for part, row in rows.items()}


def from_rows(
    views: Mapping[str, tuple[np.ndarray, tuple[int, ...]]],
    rows: Mapping[str, Tensor],
    target: np.ndarray,
    settings: dials.Dials,
    seed: int,
    **about: Any,
) -> MultimodalData:
    """The data set of these rows of its file: noise first, then standard units, then what hides.

    views:  modality -> (values, one row per sample of the file; the axes over which they get mean 0
            and s.d. 1).
    rows:   split -> row numbers.
    target: (N,) the class of each row of the file.
    about:  what `MultimodalData` takes besides.
    """
    classes = torch.from_numpy(target.astype(np.int64))
    return assemble(
        {
            m: prepare(values, rows, axes, settings.noise.get(m, 0), seed, m)
            for m, (values, axes) in views.items()
        },
        {part: classes[row] for part, row in rows.items()},
        keep=settings.keep,
        missing=settings.missing,
        seed=seed,
        **about,
    )


def assemble(
    inputs: Mapping[str, Mapping[str, Tensor]],
    target: Mapping[str, Tensor],
    *,
    keep: Mapping[str, float],
    missing: Mapping[str, float],
    seed: int,
    **about: Any,
) -> MultimodalData:
    """The data set from its prepared inputs (modality -> split -> tensor); last, what hides some.

    target: split -> tensor.
    about: further arguments of `MultimodalData`, such as name and card.
    """
    splits = {
        part: Batch({m: values[part] for m, values in inputs.items()}, target[part])
        for part in target
    }
    splits["train"] = dials.keep(splits["train"], keep, seed)
    for part, batch in splits.items():
        splits[part] = dials.drop(batch, missing, derive(seed, "missing", part))
    return MultimodalData(splits["train"], splits["holdout"], splits["test"], **about)
