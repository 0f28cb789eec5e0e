"""watch: shoulder exercises felt by one smartwatch. Naturally paired, real and embedded.

data/README.md tells where the file comes from and how it is rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmlab.datasets import dials, embedded
from mmlab.datasets.base import MultimodalData
from mmlab.seeds import generator

FILE = embedded.DATA / "watch.npz"
SHA256 = "043fa4ac7f9466ca094ae14093cffa8a2a93c21c32518a9558b13741d25a8344"
MODALITIES = ("accelerometer", "gyroscope")
SPLITS = ("arm", "person")
ARMS = ("left", "right")
CARD = """\
Recordings: 140 series of 10 healthy people, 7 shoulder exercises with either arm, from the Python
package seglearn 1.2.5 (BSD 3-clause); the whole study had 20 people.
Both sensors sit in one smartwatch and saw the same movement: the pairs are natural.
Windows of 2 s without overlap, 25 values per second. Windows of one recording resemble each other
and never cross a split.
Only 10 people, so read means over seeds. The watch on the other arm is a shift that the holdout,
which is of the training arm, cannot see.
The settings were looked at on the test splits: tune anything new on the holdout alone."""


def load_watch(
    *,
    seed: int = 0,
    split: str = "arm",
    train_arm: str | None = None,
    noise: Mapping[str, float] | None = None,
    keep: Mapping[str, float] | None = None,
    missing: float | Mapping[str, float] | None = None,
) -> MultimodalData:
    """Accelerometer and gyroscope, (B, 3, 50) each: 3 axes, 2 s. Target: one of 7 exercises.

    seed:      which people hold out or test, the order, and every random dial.
    split:     "arm": 8 people train with one arm, the other 2 hold out with the same arm, and all
               10 test with the other arm. "person": 5 people train, 2 hold out, 3 test, with both
               arms.
    train_arm: of split "arm": "right" (also where nothing is said) or "left".
    noise:     s.d. of Gaussian noise in all splits, in s.d. of each axis over the training windows.
    keep:      share of the *training* samples that have the modality.
    missing:   rate of missing modalities in all splits, one number or one per modality.

    Noise comes first, then each axis is standardised with statistics of the training split, then
    keep and missing hide.
    Raises ValueError for an unknown split, arm, modality or value, or an arm where the split is not
    by arm, TypeError for a seed or a setting of another type, FileNotFoundError or ValueError for a
    missing or damaged file.
    """
    settings = dials.check_dials(MODALITIES, noise, keep, missing)
    arrays = read()
    return embedded.from_rows(
        {m: (arrays[m], (0, 2)) for m in MODALITIES},
        windows(seed, split, train_arm, arrays),
        arrays["exercise"],
        settings,
        seed,
        n_classes=len(arrays["exercises"]),
        name="watch",
        units={
            m: f"s.d. of each axis of the {m} (3 axes x 50 values, 25 per second)"
            for m in MODALITIES
        },
        card=f"{_describe_split(split, train_arm)}\n{CARD}",
    )


def read(file: Path = FILE) -> dict[str, np.ndarray]:
    """The arrays of the embedded file.

    accelerometer in g and gyroscope in rad/s, (2369, 3, 50) each; exercise (number in `exercises`),
    person (1 to 10), arm (number in `arms`) and recording (0 to 139), each (2369,).
    Raises FileNotFoundError, or ValueError where the checksum does not hold.
    """
    return embedded.read_checked(file, SHA256, "build_watch.py")


def windows(
    seed: int,
    split: str = "arm",
    train_arm: str | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Tensor]:
    """Which rows of the file are in train, holdout and test, in shuffled order."""
    dials.check_seed(seed)
    dials.check_split(split, SPLITS)
    arrays = read() if arrays is None else arrays
    draw = generator(seed, "watch", "split")
    people = torch.randperm(10, generator=draw).numpy() + 1
    if split == "arm":
        test = arrays["arms"][arrays["arm"]] != _checked_arm(train_arm)
        holdout = np.isin(arrays["person"], people[:2]) & ~test
    elif train_arm is None:
        test = np.isin(arrays["person"], people[:3])
        holdout = np.isin(arrays["person"], people[3:5])
    else:
        raise ValueError(
            f"train_arm is {train_arm!r}, and split {split!r} trains with both arms; leave it out, "
            "or set split='arm'"
        )
    order = torch.randperm(len(test), generator=draw)
    members = {"train": ~(test | holdout), "holdout": holdout, "test": test}
    return {part: order[torch.from_numpy(member)[order]] for part, member in members.items()}


def _checked_arm(train_arm: str | None) -> str:
    if train_arm is None:
        return "right"
    if train_arm not in ARMS:
        raise ValueError(f"unknown train_arm {train_arm!r}{dials.among(train_arm, ARMS)}")
    return train_arm


def _describe_split(split: str, train_arm: str | None) -> str:
    if split == "person":
        return "Tested on 3 people, held out 2; the other 5 train, with both arms."
    arm = _checked_arm(train_arm)
    other = ARMS[1 - ARMS.index(arm)]
    return f"Trained on the {arm} arm of 8 people, held out that of 2; tested on the {other} arm."
