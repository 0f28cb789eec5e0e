"""AV-MNIST: a written digit, and a spoken one of the same class."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmlab.datasets.disk.arrays import Rows
from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.files import DamagedError
from mmlab.datasets.disk.found import Found, Sample
from mmlab.datasets.disk.lists import find
from mmlab.datasets.disk.pickles import read_array

FORMS = {"image": (784,), "audio": (112, 112)}
HELD_OUT = 12  # one of so many training samples: the last 5000 of 60 000
CARD = """\
AV-MNIST: Vielzeuf, Lechervy, Pateux and Jurie, ECCV Workshops 2018, arXiv:1808.07275; the files
are MultiBench's. MNIST reduced by a projection, and spoken digits under noise: pairs are made by
class. 60 000 and 10 000 samples; the last 5000 of the first are the holdout."""


def find_av_mnist(root: Path) -> Found:
    """Image (1, 28, 28) and audio (1, 112, 112), each from 0 to 1. Target: the digit."""
    values: dict[str, list[np.ndarray]] = {m: [] for m in FORMS}
    samples: list[Sample] = []
    for part in ("train", "test"):
        labels = read_array(find(root, f"{part}_labels.npy"))
        for m, shape in FORMS.items():
            path = find(root, f"{m}/{part}_data.npy")
            array = read_array(path)
            if array.shape != (len(labels), *shape):
                raise DamagedError(f"{path} is {array.shape}, wanted is {(len(labels), *shape)}")
            values[m].append(array.astype(np.float32))
        first_held = len(labels) - len(labels) // HELD_OUT
        for i, label in enumerate(labels.tolist()):
            where = "holdout" if part == "train" and i >= first_held else part
            name = f"{part} {i}"
            samples.append(
                Sample(name, int(label), where, name, dict.fromkeys(FORMS, len(samples)))
            )
    sides = {"image": (1, 28, 28), "audio": (1, 112, 112)}
    whole = {m: _to_one(np.concatenate(values[m])).reshape(-1, *sides[m]) for m in FORMS}
    return Found(
        samples,
        [str(digit) for digit in range(10)],
        {m: Rows(whole[m]) for m in FORMS},
        {"image": "ink, from 0 to 1", "audio": "energy, from 0 to 1"},
        CARD,
        "samples",
        arrays=True,
    )


def _to_one(values: np.ndarray) -> np.ndarray:
    """Bytes and floats from 0 to 255 as 0 to 1."""
    return values / 255 if values.max() > 1 else values


load_av_mnist = DiskSet("av-mnist", find_av_mnist, ("published",))
