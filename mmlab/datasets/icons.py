"""icons: the name and the picture of an icon. Naturally paired, real and embedded.

data/README.md tells where the file comes from and how it is rebuilt.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from mmlab.datasets import dials, embedded
from mmlab.datasets.base import MultimodalData

FILE = embedded.DATA / "icons.npz"
SHA256 = "f43d105b17affdf8ad477d30ab2be711f5befd007abc655a3d850e07a3671828"
MODALITIES = ("name", "picture")
SPLITS = ("random", "word")
SHARES = (0.6, 0.1, 0.3)
FEATURES = 256
CARD = """\
Icons: Tabler Icons 3.52.0 (MIT), the 3481 outline icons of the 11 largest categories but Brand.
Name and picture are of one icon, by one maker: the pairs are natural. The name is most of the
answer.
The category is what the makers filed an icon under; a quarter are in System, which has no topic.
Many icons are variants of one another (file, file-off, file-plus). The random split has variants on
both sides and is easy; the split by word keeps the icons of one first word together and is hard:
a kind may be all but new to the training, or absent from the holdout.
The settings were looked at on the test splits: tune anything new on the holdout alone."""


def load_icons(
    *,
    seed: int = 0,
    split: str = "random",
    noise: Mapping[str, float] | None = None,
    keep: Mapping[str, float] | None = None,
    missing: float | Mapping[str, float] | None = None,
) -> MultimodalData:
    """Name (B, 256): hashed pieces of the text. Picture (B, 1, 12, 12). Target: one of 11 kinds.

    seed:    the split, the order, and every random dial.
    split:   "random": any icon anywhere. "word": all icons whose names begin with the same word are
             in one split. 60 / 10 / 30 % of the 3481 icons train, hold out and test (up to one word
             where they are split by word).
    noise:   s.d. of Gaussian noise in all splits, in s.d. of all features of the modality over the
             training icons.
    keep:    share of the *training* samples that have the modality.
    missing: rate of missing modalities in all splits, one number or one per modality.

    Noise comes first, then each modality is standardised as a whole with statistics of the training
    split, then keep and missing hide.
    Raises ValueError for an unknown split, modality or value, TypeError for a seed or a setting of
    another type, FileNotFoundError or ValueError for a missing or damaged file.
    """
    settings = dials.check_dials(MODALITIES, noise, keep, missing)
    arrays = read()
    views = {
        "name": (hashed(arrays["name"]), (0, 1)),
        "picture": (arrays["picture"], (0, 1, 2, 3)),
    }
    return embedded.from_rows(
        views,
        icons(seed, split, arrays),
        arrays["category"],
        settings,
        seed,
        n_classes=len(arrays["categories"]),
        name="icons",
        units={
            "name": f"s.d. of all features ({FEATURES} counts of pieces of the name)",
            "picture": "s.d. of all pixels (1 channel x 12 rows x 12 columns)",
        },
        card=f"Split: {split}.\n{CARD}",
    )


def read(file: Path = FILE) -> dict[str, np.ndarray]:
    """The arrays of the embedded file.

    name (3481,) text, such as 'file-off'; picture (3481, 1, 12, 12) from 0 (paper) to 255 (ink);
    category (3481,), a number in `categories`.
    Raises FileNotFoundError, or ValueError where the checksum does not hold.
    """
    arrays = embedded.read_checked(file, SHA256, "build_icons.py")
    return arrays | {"name": arrays["name"].astype(str), "picture": arrays["picture"][:, None]}


def icons(
    seed: int, split: str = "random", arrays: Mapping[str, np.ndarray] | None = None
) -> dict[str, Tensor]:
    """Which rows of the file are in train, holdout and test, in shuffled order."""
    dials.check_seed(seed)
    dials.check_split(split, SPLITS)
    names = (read() if arrays is None else arrays)["name"]
    groups = names if split == "random" else np.array([name.split("-")[0] for name in names])
    return embedded.shuffled(embedded.whole_groups(groups, SHARES, seed, "icons"), seed, "icons")


def hashed(names: Sequence[str] | np.ndarray) -> np.ndarray:
    """Counts of the pieces of each name, (N, 256).

    A name stands between ^ and $. Every run of 2, 3 or 4 characters in it, as often as it is there,
    counts 1 in the feature whose number is the CRC-32 of its bytes (`zlib.crc32`) mod 256. So
    pieces share features, and the same name has the same features everywhere.
    """
    return np.stack([np.bincount(_pieces(name), minlength=FEATURES) for name in names])


def _pieces(name: str) -> list[int]:
    """The number of the feature of each piece."""
    text = f"^{name}$".encode()
    return [
        zlib.crc32(text[start : start + length]) % FEATURES
        for length in (2, 3, 4)
        for start in range(len(text) - length + 1)
    ]
