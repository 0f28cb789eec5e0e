"""What the sets with spoken digits share: speakers split in folds, scans paired to them by class.

The recordings are those of data/av-digits.npz, so one seed gives the same sound in every set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmlab.datasets import dials, embedded
from mmlab.datasets.base import MultimodalData
from mmlab.seeds import generator

SPLITS = ("speaker", "seen")
# (test speakers, holdout speaker); the other three train. Seed s uses fold s mod 3.
FOLDS = (
    (("theo", "nicolas"), "lucas"),
    (("george", "jackson"), "theo"),
    (("lucas", "yweweler"), "george"),
)


@dataclass(frozen=True)
class Pairs:
    """Row numbers in the files: sample i joins recording clips[i] and scan images[i]."""

    clips: Tensor
    images: Tensor


def pair(
    seed: int, split: str, speech: Mapping[str, np.ndarray], scanned: np.ndarray
) -> dict[str, Pairs]:
    """Which recording meets which scan in train, holdout and test, in shuffled order.

    speech:  digit, speaker and speakers of the recordings, as in data/av-digits.npz.
    scanned: the digit on each scan, (N,).

    Every scan of a split is used about equally often, and none is in two splits.
    Raises ValueError for an unknown split, TypeError or ValueError for what is no seed.
    """
    dials.check_seed(seed)
    dials.check_split(split, SPLITS)
    clips = _clips_by_speaker(seed, speech) if split == "speaker" else _clips_seen(seed, speech)
    images = _split_by_class(scanned, (0.6, 0.1, 0.3), seed, "image")
    rows = {}
    for name in ("train", "holdout", "test"):
        draw = generator(seed, "av-digits", "pairs", name)
        clip = clips[name][torch.randperm(len(clips[name]), generator=draw)]
        digit = torch.from_numpy(speech["digit"])[clip]
        image_digit = torch.from_numpy(scanned)[images[name]]
        image = torch.empty_like(clip)
        for k in range(10):
            pool = images[name][image_digit == k]
            pool = pool[torch.randperm(len(pool), generator=draw)]
            wanted = digit == k
            image[wanted] = pool[torch.arange(int(wanted.sum())) % len(pool)]
        rows[name] = Pairs(clip, image)
    return rows


def assemble(
    inputs: Mapping[str, Mapping[str, Tensor]],
    rows: Mapping[str, Pairs],
    digit: np.ndarray,
    *,
    task: str,
    keep: Mapping[str, float],
    missing: Mapping[str, float],
    seed: int,
    split: str,
    name: str,
    units: Mapping[str, str],
    card: str,
) -> MultimodalData:
    """The data set of digits from its prepared inputs (modality -> split -> tensor).

    digit: what is said in each recording; for regression scaled to -3 ... 3.
    """
    spoken = torch.from_numpy(digit).long()
    target = spoken if task == "classification" else (spoken.float() - 4.5) / 1.5
    return embedded.assemble(
        inputs,
        {part: target[pairs.clips] for part, pairs in rows.items()},
        keep=keep,
        missing=missing,
        seed=seed,
        task=task,
        n_classes=10 if task == "classification" else None,
        name=name,
        units=units,
        card=f"{_describe_split(seed, split)}\n{card}",
    )


def _describe_split(seed: int, split: str) -> str:
    if split == "seen":
        return "Every speaker is in every split."
    test, holdout = FOLDS[seed % len(FOLDS)]
    return f"Tested on {' and '.join(test)}, held out {holdout}; the other three speakers train."


def _clips_by_speaker(seed: int, speech: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    test, holdout = FOLDS[seed % len(FOLDS)]
    train = [name for name in speech["speakers"] if name not in (*test, holdout)]
    speaker = speech["speakers"][speech["speaker"]]
    members = {"train": train, "holdout": [holdout], "test": list(test)}
    return {
        name: torch.from_numpy(np.flatnonzero(np.isin(speaker, people)))
        for name, people in members.items()
    }


def _clips_seen(seed: int, speech: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    return _split_by_class(speech["digit"], (1 / 2, 1 / 6, 1 / 3), seed, "audio")


def _split_by_class(
    labels: np.ndarray, shares: tuple[float, float, float], seed: int, name: str
) -> dict[str, Tensor]:
    """Row numbers of each split, drawn within every class in the proportion of `shares`."""
    draw = generator(seed, "av-digits", "split", name)
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for k in np.unique(labels):
        rows = torch.from_numpy(np.flatnonzero(labels == k))
        rows = rows[torch.randperm(len(rows), generator=draw)]
        first = round(shares[0] * len(rows))
        second = first + round(shares[1] * len(rows))
        for part, chosen in zip(parts, rows.tensor_split((first, second)), strict=True):
            part.append(chosen)
    return {
        split: torch.cat(part)
        for split, part in zip(("train", "holdout", "test"), parts, strict=True)
    }
