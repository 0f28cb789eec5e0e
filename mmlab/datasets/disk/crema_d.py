"""CREMA-D: an actor says a sentence in one of six emotions; voice and face.

docs/papers-data.md has the files, their licence and how the papers read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mmlab.datasets.disk.clips import audio_visual
from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.files import DamagedError
from mmlab.datasets.disk.found import Found, Sample
from mmlab.datasets.disk.lists import first_of, lists_of, number_of, read_fields, read_table
from mmlab.datasets.disk.sound import MADE

EMOTIONS = ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")
CLIP = re.compile(r"(10\d\d)_[A-Z]{3}_([A-Z]{3})_(XX|LO|MD|HI|X)")
LISTS = {"train.csv": "train", "test.csv": "test"}
MLA_LISTS = {"my_train_cre.txt": "train", "my_test_cre.txt": "test"}
TABLE = {"processedResults/summaryTable.csv": ""}
SOUNDS = ("AudioWAV", "audio/train_fbank", "audio/test_fbank", "Audio-1004", "Audio-299", "audio")
FRAMES = ("Image-01-FPS", "visual/Image-01-FPS", "VideoFlash")
CARD = """\
CREMA-D: Cao, Cooper, Keutmann, Gur, Nenkova and Verma, IEEE Transactions on Affective Computing
2014, doi:10.1109/TAFFC.2014.2336244 (Open Database License). 7442 clips of 91 actors, who say 12
sentences in six emotions. The target is the emotion that the actor was to show.
The lists in common use (6698 and 744 clips) have all 91 actors on both sides."""


def find_crema_d(root: Path, *, sound: str = "ogm-ge", frames: int = 3, size: int = 224) -> Found:
    """Voice (the recipe's shape) and face (frames, 3, size, size). Target: one of 6 emotions.

    sound:  a key of `RECIPES`; files with spectrograms (.pkl, .npy, .pt) are taken as they are.
    frames: of each clip, evenly spread over its pictures, or over the video itself.
    """
    samples = [_sample(root, *row) for row in _listed(root)]
    return audio_visual(samples, EMOTIONS, CARD, sound, frames, size, "actors")


def _listed(root: Path) -> Iterator[tuple[Path, str, str]]:
    """List, part and clip: of `clip,EMO`, of MLA's `clip.flv Anger`, or of the official table.

    The name of a clip tells its emotion; the official table has no parts.
    """
    for path, part in lists_of(root, LISTS, MLA_LISTS, TABLE):
        if not part:
            yield from ((path, part, row["FileName"]) for row in read_table(path, "FileName"))
            continue
        for clip, *_ in read_fields(path, " " if path.suffix == ".txt" else ",", 2):
            yield path, part, clip.removesuffix(".flv")


def _sample(root: Path, path: Path, part: str, clip: str) -> Sample:
    found = CLIP.fullmatch(clip)
    if not found:
        raise DamagedError(f"{path} names {clip!r}; a clip is called such as 1001_DFA_ANG_XX")
    actor, emotion, _ = found.groups()
    sounds = (root / place / f"{clip}{end}" for place in SOUNDS for end in (".wav", *MADE))
    faces = (root / place / f"{clip}{end}" for place in FRAMES for end in ("", ".flv"))
    return Sample(
        clip,
        number_of(path, EMOTIONS, emotion),
        part,
        actor,
        {"audio": first_of(sounds), "visual": first_of(faces)},
    )


load_crema_d = DiskSet("crema-d", find_crema_d, ("speaker", "published"))
