"""VGGSound: 10 s of a video from YouTube in which one hears what one sees."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from mmlab.datasets.disk.clips import audio_visual
from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.files import DamagedError
from mmlab.datasets.disk.found import Found, Sample
from mmlab.datasets.disk.lists import find, first_of, read_lines

CARD = """\
VGGSound: Chen, Xie, Vedaldi and Zisserman, ICASSP 2020, doi:10.1109/ICASSP40776.2020.9053174 (list:
CC BY 4.0; the videos are their makers', and part of them is gone). 309 classes, which are those of
the list, sorted: the released codes number them as they meet files, so that theirs depend on what
is missing."""


def find_vggsound(
    root: Path, *, sound: str = "vggsound", frames: int = 3, size: int = 224
) -> Found:
    """Audio (the recipe's shape), visual (frames, 3, size, size). Target: one of 309 sounds.

    sound:  a key of `RECIPES`, as of CREMA-D.
    frames: frames of each video, as of CREMA-D.
    """
    rows = list(_rows(find(root, "vggsound.csv")))
    classes = sorted({label for *_, label in rows})
    numbers = {name: number for number, name in enumerate(classes)}
    samples = [
        Sample(
            f"{video}_{start}",
            numbers[label],
            part,
            video,
            {
                "audio": _audio(root, part, video, start),
                "visual": _visual(root, part, video, start),
            },
        )
        for video, start, part, label in rows
    ]
    return audio_visual(samples, classes, CARD, sound, frames, size)


def _rows(path: Path) -> Iterator[tuple[str, int, str, str]]:
    """Video, start in seconds, part, label. Labels with commas are quoted; there is no header."""
    for row in csv.reader(line for _, line in read_lines(path)):
        if len(row) != 4 or not row[1].isdigit() or row[3] not in ("train", "test"):
            raise DamagedError(f"{path} has the row {row}; a row is `id,start,label,train or test`")
        yield row[0], int(row[1]), row[3], row[2]


def _names(video: str, start: int) -> tuple[str, str]:
    """As OGM-GE's code calls a piece, and as VGGSound's own files are called."""
    return f"{video}_{start}", f"{video}_{start:06d}"


def _audio(root: Path, part: str, video: str, start: int) -> Path:
    folders = (root / f"{part}-audios/{part}-set", root / "audio", root / "video")
    ends = (".wav", ".npy", ".mp4")
    return first_of(
        folder / f"{name}{end}"
        for folder in folders
        for name in _names(video, start)
        for end in ends
    )


def _visual(root: Path, part: str, video: str, start: int) -> Path:
    """A folder of pictures, which OGM-GE calls as the video, `.mp4`; or the video."""
    folders = (
        root / f"{part}-videos/{part}-set-img/Image-01-FPS",
        root / "visual",
        root / "video",
    )
    return first_of(
        folder / f"{name}{end}"
        for folder in folders
        for name in _names(video, start)
        for end in (".mp4", "")
    )


load_vggsound = DiskSet("vggsound", find_vggsound, ("video", "published"))
