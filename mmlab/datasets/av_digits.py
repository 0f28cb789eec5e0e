"""av-digits: spoken and handwritten digits, paired by class, split by speaker. Real and embedded.

data/README.md tells where the file comes from and how it is rebuilt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from mmlab.datasets import dials, embedded, spoken
from mmlab.datasets.base import MultimodalData
from mmlab.datasets.spoken import FOLDS, Pairs
from mmlab.seeds import generator

__all__ = ["CARD", "FILE", "FOLDS", "MODALITIES", "SHA256", "load_av_digits", "pairs", "read"]

FILE = embedded.DATA / "av-digits.npz"
SHA256 = "f4a4d52be34a9c0873f0075a006712e65b7f06a82ed6dc7ce2b170710b388f0b"
MODALITIES = ("audio", "image")
CARD = """\
Recordings: Free Spoken Digit Dataset, 3000 clips of 6 speakers (CC BY-SA 4.0).
Images: UCI optical recognition of handwritten digits, 1797 scans of 8 x 8 (CC BY 4.0).
The pairs are made by class: a recording and an image of the same digit, by different people.
Images never cross a split; within one, an image meets several recordings.
Only 6 speakers: test accuracy moves by up to 15 points from run to run, so read means over folds
(seed s uses fold s mod 3) and seeds, never one run. The default settings were chosen after
looking at these folds: tune anything new on the holdout alone."""


def load_av_digits(
    *,
    seed: int = 0,
    split: str = "speaker",
    noise: Mapping[str, float] | None = None,
    occlusion: Mapping[str, float] | None = None,
    keep: Mapping[str, float] | None = None,
    missing: float | Mapping[str, float] | None = None,
    task: str = "classification",
) -> MultimodalData:
    """Audio (B, 13, 24): MFCCs over stretched time. Image (B, 8, 8). Target: the digit, 0 to 9.

    seed:      the pairs, the fold (seed mod 3) and every random dial.
    split:     "speaker": 3 speakers train, 1 holds out, 2 test; "seen": random, balanced by class.
               1500 / 500 / 1000 samples either way.
    noise:     s.d. of Gaussian noise in all splits: for the image in units of full scale
               (white = 1), for audio in s.d. of each MFCC coefficient over the training clips.
    occlusion: share of the time (audio) or area (image) of every sample, in all splits, that is
               hidden in one block; hidden values take the training mean.
    keep:      share of the *training* samples that have the modality.
    missing:   rate of missing modalities in all splits, one number or one per modality.
    task:      "classification", or "regression" of the digit's value, scaled to -3 ... 3 as the
               scores of sentiment sets are: (digit - 4.5) / 1.5.

    Noise comes first, then both are standardised with statistics of the training split (audio per
    coefficient, images as a whole), then occlusion, keep and missing hide.
    Raises ValueError for an unknown split, modality or value, TypeError for a seed or a setting of
    another type, FileNotFoundError or ValueError for a missing or damaged file.
    """
    noise = dials.check_dial("noise", noise, MODALITIES, high=math.inf)
    occlusion = dials.check_dial("occlusion", occlusion, MODALITIES)
    keep = dials.check_dial("keep", keep, MODALITIES)
    missing = dials.check_missing(missing, MODALITIES)
    arrays = read()
    rows = pairs(seed, split, arrays)
    clips = {name: pair.clips for name, pair in rows.items()}
    images = {name: pair.images for name, pair in rows.items()}
    audio = embedded.prepare(arrays["mfcc"], clips, (0, 2), noise.get("audio", 0), seed, "audio")
    image = embedded.select(arrays["image"] / 16, images)
    image = embedded.noisy(image, noise.get("image", 0), seed, "image")
    image = embedded.standardise(image, (0, 1, 2))
    return spoken.assemble(
        {
            "audio": _occluded(audio, occlusion.get("audio", 0), seed, "audio", axes=1),
            "image": _occluded(image, occlusion.get("image", 0), seed, "image", axes=2),
        },
        rows,
        arrays["digit"],
        task=task,
        keep=keep,
        missing=missing,
        seed=seed,
        split=split,
        name="av-digits",
        units={
            "audio": "s.d. of each MFCC coefficient (13 coefficients x 24 frames)",
            "image": "s.d. of the pixels (8 x 8)",
        },
        card=CARD,
    )


def read(file: Path = FILE) -> dict[str, np.ndarray]:
    """The arrays of the embedded file.

    mfcc (3000, 13, 24), digit, speaker (number in `speakers`) and take, each (3000,);
    image (1797, 8, 8) from 0 to 16, image_digit (1797,).
    Raises FileNotFoundError, or ValueError where the checksum does not hold.
    """
    return embedded.read_checked(file, SHA256, "build_av_digits.py")


def pairs(
    seed: int, split: str = "speaker", arrays: Mapping[str, np.ndarray] | None = None
) -> dict[str, Pairs]:
    """Which recording meets which image in train, holdout and test, in shuffled order.

    Every image of a split is used about equally often.
    """
    arrays = read() if arrays is None else arrays
    return spoken.pair(seed, split, arrays, arrays["image_digit"])


def _occluded(
    splits: Mapping[str, Tensor], fraction: float, seed: int, modality: str, *, axes: int
) -> dict[str, Tensor]:
    return {
        name: dials.occlude(
            values, fraction, generator(seed, "occlusion", modality, name), axes=axes
        )
        for name, values in splits.items()
    }
