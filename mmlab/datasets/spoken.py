"""What the sets with spoken digits share: speakers split in folds, scans paired to them by class.

The recordings are those of data/av-digits.npz, so one seed gives the same sound in every set.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmlab.datasets import dials
from mmlab.datasets.base import Batch, MultimodalData
from mmlab.seeds import derive, generator

DATA = Path(__file__).resolve().parents[2] / "data"
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
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}{dials.among(split, SPLITS)}")
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
    """The data set from its prepared inputs (modality -> split -> tensor); last, what hides some.

    digit: what is said in each recording; for regression scaled to -3 ... 3.
    """
    spoken = torch.from_numpy(digit).long()
    target = spoken if task == "classification" else (spoken.float() - 4.5) / 1.5
    splits = {
        part: Batch({m: values[part] for m, values in inputs.items()}, target[pairs.clips])
        for part, pairs in rows.items()
    }
    splits["train"] = dials.keep(splits["train"], keep, seed)
    for part, batch in splits.items():
        splits[part] = dials.drop(batch, missing, derive(seed, "missing", part))
    return MultimodalData(
        **splits,
        task=task,
        n_classes=10 if task == "classification" else None,
        name=name,
        units=units,
        card=f"{_describe_split(seed, split)}\n{card}",
    )


def select(values: np.ndarray, rows: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of each split, in float32."""
    everything = torch.from_numpy(values.astype(np.float32))
    return {name: everything[row] for name, row in rows.items()}


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
