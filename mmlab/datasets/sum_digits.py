"""sum-digits: (spoken + written digit) mod 10. Each modality alone tells nothing. Made pairs.

Recordings, scans, splits and speaker folds are those of av-digits; only who meets whom differs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mmlab.datasets import av_digits, dials, embedded
from mmlab.datasets.base import MultimodalData, in_memory
from mmlab.seeds import generator

MODALITIES = av_digits.MODALITIES
CARD = """\
The data of av-digits in other pairs: the target is (spoken + written digit) mod 10, and every pair
of two digits is there equally often in every split. So either digit alone says nothing about the
target: one modality alone stays at chance (10 %), and so does a sum of logits, one part for each
modality, because under cross-entropy its best is to guess. What lies above is interaction: train
with fusion="film" or "attention", not "concat", "sum" or "late", and for 60 epochs rather than 15.
The pairs and the task are made; the inputs are real."""


def load_sum_digits(
    *,
    seed: int = 0,
    split: str = "speaker",
    noise: Mapping[str, float] | None = None,
    occlusion: Mapping[str, float] | None = None,
    keep: Mapping[str, float] | None = None,
    missing: float | Mapping[str, float] | None = None,
) -> MultimodalData:
    """Audio (B, 13, 24) and image (B, 8, 8) of two digits. Target: their sum mod 10.

    At one seed and split the recordings are those of av-digits, bit for bit, and so are the images
    of each split, in another order. Every image of a split is used about equally often, and none is
    in two splits. The options mean what they mean there; whoever lacks a modality cannot know the
    target.

    Raises ValueError for an unknown split, modality or value, TypeError for a seed or a setting of
    another type, FileNotFoundError or ValueError for a missing or damaged file.
    """
    keep = dials.check_dial("keep", keep, MODALITIES)
    missing = dials.check_missing(missing, MODALITIES)
    same = av_digits.load_av_digits(seed=seed, split=split, noise=noise, occlusion=occlusion)
    audio, image, target = {}, {}, {}
    for part, split_of in same.splits.items():
        batch = in_memory(split_of, "sum-digits")
        order = partners(batch.target, seed, part)
        audio[part] = batch.inputs["audio"]
        image[part] = batch.inputs["image"][order]
        target[part] = (batch.target + batch.target[order]) % 10
    return embedded.assemble(
        {"audio": audio, "image": image},
        target,
        keep=keep,
        missing=missing,
        seed=seed,
        n_classes=10,
        name="sum-digits",
        units=same.units,
        card=f"{CARD}\n{same.card}",
    )


def partners(digit: Tensor, seed: int, part: str) -> Tensor:
    """Whose image each sample gets, (B,): a permutation under which all pairs of digits are alike.

    digit: (B,) of samples that show one digit twice; each of the ten is there equally often, in a
           multiple of ten.
    part:  "train", "holdout" or "test": each draws from a stream of its own.

    The samples of each digit stand in a row of their own. Every column is turned by a number of
    rows, each number from 0 to 9 in a tenth of the columns, drawn by the seed.
    """
    table = torch.stack([(digit == k).nonzero()[:, 0] for k in range(10)])
    column = torch.arange(table.shape[1])
    turn = column[torch.randperm(len(column), generator=generator(seed, "sum-digits", part))] % 10
    image = torch.empty_like(digit)
    image[table] = table[(torch.arange(10)[:, None] + turn) % 10, column]
    return image
