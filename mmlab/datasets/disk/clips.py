"""What the sets of clips with sound share."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmlab.checks import check_choice, check_whole
from mmlab.datasets.disk.found import Found, Sample
from mmlab.datasets.disk.pictures import UNITS, Frames, RandomCrop
from mmlab.datasets.disk.sound import Sound
from mmlab.datasets.disk.spectrograms import RECIPES, describe

PIECE = re.compile(r"(.{11})_\d+(_\d+)?")


def audio_visual(
    samples: Sequence[Sample],
    classes: Sequence[str],
    card: str,
    sound: str,
    frames: int,
    size: int,
    grouped: str = "videos",
    notes: Sequence[str] = (),
) -> Found:
    """Samples with "audio" and "visual": what their options mean.

    Raises ValueError for an unknown recipe or a wrong number.
    """
    check_choice("sound", sound, RECIPES)
    check_whole("frames", frames, least=1)
    check_whole("size", size, least=1)
    return Found(
        samples,
        classes,
        {"audio": Sound(sound), "visual": Frames(frames, size)},
        {"audio": describe(sound), "visual": UNITS},
        card,
        grouped,
        augment={"visual": RandomCrop()},
        notes=notes,
    )


def youtube(name: str) -> str:
    """The video of a piece: "ID_000058_000068", "ID_58" or "ID", whose ID has 11 characters."""
    found = PIECE.fullmatch(name)
    return found[1] if found else name
