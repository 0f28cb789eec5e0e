"""items: things of a game by text, picture and numbers. Three modalities, real, paired, embedded.

data/README.md tells where the file comes from and how it is rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from mmlab.datasets import dials, embedded
from mmlab.datasets.base import MultimodalData

FILE = embedded.DATA / "items.npz"
SHA256 = "84f8cfe140672462ce0927d64a2a51b0b4b10825954608b032c5fa8a9d2600c6"
MODALITIES = ("text", "sprite", "table")
SPLITS = ("word", "random")
SHARES = (0.6, 0.15, 0.25)  # of the items in train, holdout and test
WORDS = 512
COLUMNS = ("weight", "volume", "price", "price_postapoc", "to_hit", "bashing", "cutting")
CARD = """\
Items of the game Cataclysm: Dark Days Ahead, Debian package cataclysm-dda-data 0.F-3-9, with the
sprites of its set ChestHole16 (CC BY-SA 3.0, by many contributors).
Text, picture and numbers describe one thing: the pairs are natural.
Items whose names end with the same word never cross a split in split="word"; one sprite may show
several items and be in several splits.
The kind is the game's own type of the item; nothing was labelled for us.
A counter-example: here the modalities help each other, and joint training loses nothing.
Inputs have unequal widths: 512, 768 and 27.
The settings were looked at on the test splits: tune anything new on the holdout alone."""


def load_items(
    *,
    seed: int = 0,
    split: str = "word",
    noise: Mapping[str, float] | None = None,
    keep: Mapping[str, float] | None = None,
    missing: float | Mapping[str, float] | None = None,
) -> MultimodalData:
    """Text (B, 512), sprite (B, 3, 16, 16), table (B, 27). Target: one of 9 kinds of items.

    seed:    what is in each split, the order, and every random dial.
    split:   "word": items whose names end with the same word are in one split; "random": any item
             in any split. 60 / 15 / 25 % of the items, up to one group.
    noise:   s.d. of Gaussian noise in all splits, in s.d. over the training samples of each word
             number (text), of all pixels together (sprite), of each column (table).
    keep:    share of the *training* samples that have the modality.
    missing: rate of missing modalities in all splits, one number or one per modality.

    Noise comes first, then all are standardised with statistics of the training split (each word
    number, sprites as a whole, each column), then keep and missing hide.
    Raises ValueError for an unknown split, modality or value, TypeError for a seed or a setting of
    another type, FileNotFoundError or ValueError for a missing or damaged file.
    """
    settings = dials.check_dials(MODALITIES, noise, keep, missing)
    arrays = read()
    views = {
        "text": (arrays["text"], (0,)),
        "sprite": (arrays["sprite"][arrays["sprite_of"]], (0, 1, 2, 3)),
        "table": (arrays["table"], (0,)),
    }
    return embedded.from_rows(
        views,
        rows(seed, split, arrays),
        arrays["kind"],
        settings,
        seed,
        n_classes=len(arrays["kinds"]),
        name="items",
        units={
            "text": "s.d. of how often each of 512 word numbers is there",
            "sprite": "s.d. of the pixels (3 colours x 16 x 16)",
            "table": "s.d. of each of 27 columns",
        },
        card=f"{_describe_split(split)}\n{CARD}",
    )


def read(file: Path = FILE) -> dict[str, np.ndarray]:
    """The arrays of the embedded file.

    Items: text (N, 512) how often each word number is there, table (N, 27) with the names of its
    `columns`, kind (number in `kinds`), name, group, and sprite_of (row of the sprite), each (N,).
    Sprites: sprite (S, 3, 16, 16) from 0 to 255.
    Raises FileNotFoundError, or ValueError where the checksum does not hold.
    """
    arrays = embedded.read_checked(file, SHA256, "build_items.py")
    lengths = arrays.pop("lengths")
    text = np.zeros((len(lengths), WORDS), np.uint8)
    np.add.at(text, (np.repeat(np.arange(len(lengths)), lengths), arrays.pop("words")), 1)
    return arrays | {"text": text, "name": np.char.decode(arrays["name"], "utf-8")}


def rows(
    seed: int, split: str = "word", arrays: Mapping[str, np.ndarray] | None = None
) -> dict[str, Tensor]:
    """Which items of the file are in train, holdout and test, in shuffled order."""
    dials.check_seed(seed)
    dials.check_split(split, SPLITS)
    arrays = read() if arrays is None else arrays
    groups = arrays["group"] if split == "word" else np.arange(len(arrays["group"]))
    return embedded.shuffled(embedded.whole_groups(groups, SHARES, seed, "items"), seed, "items")


def _describe_split(split: str) -> str:
    if split == "word":
        return "Tested on items whose names end with words that were not in training."
    return "Tested on any items; some are named as others in training are."
