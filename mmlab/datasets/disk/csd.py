"""The .csd files of the CMU Multimodal SDK, brought to the words of each labelled segment.

A .csd is HDF5: /ROOT/data/VIDEO/features (n, d) and intervals (n, 2), in seconds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmlab.datasets.disk.extra import media
from mmlab.datasets.disk.files import DamagedError, fault

MOST_WORDS = 50


class Segments(NamedTuple):
    """Labelled segments, their words at the front.

    values:   modality -> (N, 50, d).
    mask:     (N, 50), where a word is.
    labels:   (N,) the sentiment, from −3 to 3.
    names:    "VIDEO[NUMBER]".
    left_out: names of those without words, or with a video that not all files have, as in the SDK.
    """

    values: dict[str, np.ndarray]
    mask: np.ndarray
    labels: np.ndarray
    names: list[str]
    left_out: list[str]


def read_segments(labels: Path, words: Path, others: Mapping[str, Path]) -> Segments:
    """Each segment as its first 50 words: their vectors, and the means of what is there meanwhile.

    A word counts where its middle lies in the segment. Words of zeros are pauses and are left out.
    others: modality -> file, such as voice and face.
    Raises DamagedError for what is no .csd file, or where nothing is left.
    """
    with ExitStack() as opened:
        files = {m: _data(opened, path) for m, path in {"text": words, **others}.items()}
        listed = [
            (f"{video}[{number}]", label, _segment(video, interval, files))
            for video, number, interval, label in _labelled(_data(opened, labels))
        ]
    found = [one for one in listed if one[2] is not None]
    if not found:
        raise DamagedError(f"no video of {labels} is in all of {words}, {[*others.values()]}")
    names, numbers, segments = zip(*found, strict=True)
    values = {m: np.stack([_padded(parts[m]) for parts in segments]) for m in files}
    left_out = [name for name, _, parts in listed if parts is None]
    lengths = np.array([min(len(parts["text"]), MOST_WORDS) for parts in segments])
    mask = np.arange(MOST_WORDS) < lengths[:, None]
    return Segments(values, mask, np.array(numbers, np.float32), list(names), left_out)


def _data(opened: ExitStack, path: Path) -> Any:
    """The group with the videos of a file."""
    h5py = media("h5py", "a .csd file")
    if problem := fault(path):
        raise DamagedError(f"{path} is {problem}; fetch it again")
    try:
        file = opened.enter_context(h5py.File(path, "r"))
        return file[next(iter(file))]["data"]
    except (OSError, KeyError, StopIteration) as error:
        raise DamagedError(
            f"{path} is no whole .csd file ({error}): an HDF5 file with ROOT/data/VIDEO; fetch it "
            "again"
        ) from error


def _labelled(data: Any) -> Iterator[tuple[str, int, np.ndarray, float]]:
    """Video, number in it, interval in seconds, and sentiment: the first of the label's columns."""
    for video in sorted(data):
        features, intervals = data[video]["features"][:], data[video]["intervals"][:]
        for number, (label, interval) in enumerate(zip(features, intervals, strict=True)):
            yield video, number, interval, float(label[0])


def _segment(
    video: str, interval: np.ndarray, files: Mapping[str, Any]
) -> dict[str, np.ndarray] | None:
    """The words of a segment, (words, d) for each modality; None where there are none."""
    if not all(video in data for data in files.values()):
        return None
    vectors, times = files["text"][video]["features"][:], files["text"][video]["intervals"][:]
    middle = times.mean(1)
    chosen = np.flatnonzero(
        (middle >= interval[0]) & (middle < interval[1]) & (vectors != 0).any(1)
    )[:MOST_WORDS]
    if not len(chosen):
        return None
    found = {"text": vectors[chosen].astype(np.float32)}
    for m, data in files.items():
        if m != "text":
            found[m] = np.stack([_mean(data[video], times[i]) for i in chosen])
    return found


def _mean(group: Any, interval: np.ndarray) -> np.ndarray:
    """The mean of the features in an interval, zeros where there are none; steps are in order."""
    starts, ends = group["intervals"][:, 0], group["intervals"][:, 1]
    inside = np.flatnonzero((ends > interval[0]) & (starts < interval[1]))
    if not len(inside):
        return np.zeros(group["features"].shape[1], np.float32)
    rows = group["features"][inside[0] : inside[-1] + 1]
    return np.nan_to_num(rows, nan=0, posinf=0, neginf=0).mean(0, dtype=np.float32)


def _padded(rows: np.ndarray) -> np.ndarray:
    return np.pad(rows, ((0, MOST_WORDS - len(rows)), (0, 0)))
