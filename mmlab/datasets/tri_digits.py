"""tri-digits: one digit said, written, and described by moments. Three modalities, real, embedded.

The recordings, speaker folds and splits are those of av-digits. The two handwritten views come
from one scan. data/README.md tells where the file comes from and how it is rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from mmlab.datasets import av_digits, dials, embedded, spoken
from mmlab.datasets.base import MultimodalData
from mmlab.datasets.spoken import Pairs

FILE = embedded.DATA / "tri-digits.npz"
SHA256 = "43ed1148fa5ac22b0d088b5d2ab4dc4fc186483507a01e81e2380c8bfd05f2f3"
MODALITIES = ("audio", "pixels", "zernike")
NOISE = MappingProxyType({"pixels": 1.0})
CARD = """\
Recordings: Free Spoken Digit Dataset, 3000 clips of 6 speakers (CC BY-SA 4.0).
Scans: UCI Multiple Features, 1994 handwritten digits in two views (CC BY 4.0).
The two views come from one scan; sound and scan are paired by class, by different people.
Scans never cross a split; within one, a scan meets several recordings.
Zernike moments do not see rotation: a 6 and a 9 look alike to them, whatever is learnt.
Only 6 speakers: test accuracy moves by many points from run to run, so read means over folds
(seed s uses fold s mod 3) and seeds, never one run. The noise on the pixels was chosen after
looking at these folds: tune anything new on the holdout alone."""


def load_tri_digits(
    *,
    seed: int = 0,
    split: str = "speaker",
    noise: Mapping[str, float] | None = NOISE,
    keep: Mapping[str, float] | None = None,
    missing: float | Mapping[str, float] | None = None,
    task: str = "classification",
) -> MultimodalData:
    """Audio (B, 13, 24), pixels (B, 1, 16, 15), Zernike moments (B, 47). Target: the digit.

    At one seed and split the audio and the targets are those of av-digits, bit for bit.

    seed:    the pairs, the fold (seed mod 3) and every random dial.
    split:   "speaker": 3 speakers train, 1 holds out, 2 test; "seen": random, balanced by class.
             1500 / 500 / 1000 samples either way.
    noise:   s.d. of Gaussian noise in all splits, in s.d. over the training samples of each MFCC
             coefficient (audio), of all pixels together, of each moment. 1 on the pixels unless
             said otherwise, so that no single view is enough; {} adds none.
    keep:    share of the *training* samples that have the modality.
    missing: rate of missing modalities in all splits, one number or one per modality.
    task:    "classification", or "regression" of the digit's value, scaled to -3 ... 3 as the
             scores of sentiment sets are: (digit - 4.5) / 1.5.

    Noise comes first, then all are standardised with statistics of the training split (audio per
    coefficient, pixels as a whole, each moment by itself), then keep and missing hide.
    Raises ValueError for an unknown split, modality or value, TypeError for a seed or a setting of
    another type, FileNotFoundError or ValueError for a missing or damaged file.
    """
    settings = dials.check_dials(MODALITIES, noise, keep, missing)
    speech, scans = av_digits.read(), read()
    rows = spoken.pair(seed, split, speech, scans["scan_digit"])
    clips = {name: part.clips for name, part in rows.items()}
    images = {name: part.images for name, part in rows.items()}
    views = {
        "audio": (speech["mfcc"], clips, (0, 2)),
        "pixels": (scans["pixels"], images, (0, 1, 2, 3)),
        "zernike": (scans["zernike"], images, (0,)),
    }
    inputs = {
        m: embedded.prepare(values, which, axes, settings.noise.get(m, 0), seed, m)
        for m, (values, which, axes) in views.items()
    }
    return spoken.assemble(
        inputs,
        rows,
        speech["digit"],
        task=task,
        keep=settings.keep,
        missing=settings.missing,
        seed=seed,
        split=split,
        name="tri-digits",
        units={
            "audio": "s.d. of each MFCC coefficient (13 coefficients x 24 frames)",
            "pixels": "s.d. of the pixels (1 channel x 16 rows x 15 columns)",
            "zernike": "s.d. of each of 47 Zernike moments",
        },
        card=CARD,
    )


def read(file: Path = FILE) -> dict[str, np.ndarray]:
    """The arrays of the embedded file.

    pixels (1994, 1, 16, 15) from 0 to 6, zernike (1994, 47), scan_digit (1994,).
    Raises FileNotFoundError, or ValueError where the checksum does not hold.
    """
    arrays = embedded.read_checked(file, SHA256, "build_tri_digits.py")
    return arrays | {"pixels": arrays["pixels"][:, None]}


def pairs(seed: int, split: str = "speaker") -> dict[str, Pairs]:
    """Which recording (a row of av-digits) meets which scan in train, holdout and test."""
    return spoken.pair(seed, split, av_digits.read(), read()["scan_digit"])
