"""CMU-MOSI: how much a speaker likes what he or she talks of; words, voice and face."""

from __future__ import annotations

from pathlib import Path

from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.found import Found
from mmlab.datasets.disk.sentiment import find_sentiment

CARD = """\
CMU-MOSI: Zadeh, Zellers, Pincus and Morency, 2016, arXiv:1606.06259. 2199 segments of 93 videos of
one speaker each, rated from −3 (negative) to 3. Research use: the videos are their makers'.
The published folds are of whole videos: 1284 / 229 / 686 segments, by the SDK 1283 / 214 / 686."""


def find_cmu_mosi(root: Path, *, aligned: bool = True, task: str = "regression") -> Found:
    """Text, audio and vision, each {"values": (T, d), "mask": (T,)}. Target: the rating.

    aligned: take the file in which voice and face are brought to the words.
    task:    "regression", or "classification": negative, neutral, positive.
    """
    return find_sentiment(root, "MOSI", "mosi", CARD, aligned=aligned, task=task)


load_cmu_mosi = DiskSet("cmu-mosi", find_cmu_mosi, ("video", "published"))
