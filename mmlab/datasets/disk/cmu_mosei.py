"""CMU-MOSEI: how much a speaker likes what he or she talks of; words, voice and face."""

from __future__ import annotations

from pathlib import Path

from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.found import Found
from mmlab.datasets.disk.sentiment import find_sentiment

CARD = """\
CMU-MOSEI: Zadeh, Liang, Poria, Cambria and Morency, ACL 2018, doi:10.18653/v1/P18-1208. 22 856
segments of 3228 videos, rated from −3 (negative) to 3. Research use: the videos are their makers'.
The published folds are of whole videos; 16 326 / 1871 / 4659 segments."""


def find_cmu_mosei(root: Path, *, aligned: bool = True, task: str = "regression") -> Found:
    """Text, audio and vision, each {"values": (T, d), "mask": (T,)}. Target: the rating.

    aligned: take the file in which voice and face are brought to the words.
    task:    "regression", or "classification": negative, neutral, positive.
    """
    return find_sentiment(root, "MOSEI", "mosei_senti", CARD, aligned=aligned, task=task)


load_cmu_mosei = DiskSet("cmu-mosei", find_cmu_mosei, ("video", "published"))
