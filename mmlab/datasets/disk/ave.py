"""AVE: an event that one sees and hears, in a 10 s video from YouTube."""

from __future__ import annotations

from pathlib import Path

from mmlab.datasets.disk.clips import audio_visual
from mmlab.datasets.disk.disk_set import DiskSet
from mmlab.datasets.disk.found import Found, Sample
from mmlab.datasets.disk.lists import first_of, lists_of, read_fields

LISTS = {"trainSet.txt": "train", "valSet.txt": "holdout", "testSet.txt": "test"}
CARD = """\
AVE: Tian, Shi, Li, Duan and Xu, ECCV 2018, doi:10.1007/978-3-030-01216-8_16. 4143 videos of
AudioSet with 28 kinds of events; the videos are their makers'. A video may have several lines: the
first one counts, as in the papers. The whole video is read, not only the event."""


def find_ave(root: Path, *, sound: str = "pmr", frames: int = 3, size: int = 224) -> Found:
    """Audio (the recipe's shape), visual (frames, 3, size, size). Target: one of 28 events.

    sound:  a key of `RECIPES`, as of CREMA-D.
    frames: frames of each video, as of CREMA-D.
    """
    rows: dict[str, tuple[str, str]] = {}
    again = 0
    for path, part in lists_of(root, LISTS):
        for event, video, *_ in read_fields(path, "&", 5):
            if (event, video) == ("Category", "VideoID"):
                continue  # a header
            again += video in rows
            rows.setdefault(video, (part, event))
    classes = sorted({event for _, event in rows.values()})
    samples = [
        Sample(
            video,
            classes.index(event),
            part,
            video,
            {
                "audio": first_of(root / place for place in _audio(video)),
                "visual": first_of(root / place for place in _visual(video)),
            },
        )
        for video, (part, event) in rows.items()
    ]
    notes = [f"{again} further lines of videos that have one are left out"] if again else []
    return audio_visual(samples, classes, CARD, sound, frames, size, notes=notes)


def _audio(video: str) -> list[str]:
    return [f"Audio-1004-SE/{video}.pkl", f"audio/{video}.wav", f"AVE/{video}.mp4"]


def _visual(video: str) -> list[str]:
    return [f"Image-01-FPS-SE/{video}", f"AVE/{video}.mp4"]


load_ave = DiskSet("ave", find_ave, ("video", "published"))
