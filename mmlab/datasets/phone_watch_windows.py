"""phone-watch in windows: both devices on one clock, cut, and kept for the next time."""

from __future__ import annotations

import hashlib
import io
import os
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mmlab.datasets import archives, downloads
from mmlab.datasets import phone_watch_tables as tables
from mmlab.datasets.phone_watch_tables import (
    ACTIVITIES,
    CHANNELS,
    DEVICES,
    FILES,
    POCKETS,
    Execution,
    Track,
)
from mmlab.files import UnwritableError, write_atomically

DOI = "10.5281/zenodo.8398688"
EXECUTIONS = 223  # in the published set
CONTENT_SHA256: str | None = None
"""Of the published numbers, once somebody has reported it; until then the first download is pinned.

It is not known here. The copy from which the numbers of the card were measured has 25 Hz in
float16, which does not determine the originals.
"""
CUT = 1  # counts up with the code that makes windows, so that kept ones are made anew

TICK = 20  # milliseconds: 50 Hz
WIDTH, STEP = 50, 25  # ticks: windows of 1 s, one every .5 s
SHARE = 0.8  # of a window that its label must cover


def read_windows(root: str | os.PathLike[str] | None = None) -> dict[str, np.ndarray]:
    """All windows: phone, watch (N, 6, 50) float32 in m/s² and rad/s; activity, subject, pocket.

    root: as for `load_phone_watch`. Windows of tables are kept in the cache and read from there as
          long as the files have the same places, sizes and times.
    """
    if not (root is None or isinstance(root, str | os.PathLike)):
        raise TypeError(f"root is {root!r}; give the path of a folder, a .zip or a .npz, or None")
    folder = downloads.cache("phone-watch")
    place = downloads.fetch_archive(DOI, folder) if root is None else Path(root)
    if place.suffix == ".npz":
        return read_kept(place)
    kept = folder / f"windows-{_fingerprint(place)}.npz"
    if kept.is_file():
        try:
            return read_kept(kept)
        except ValueError:  # damaged since: made anew
            pass
    executions = tables.read(place)
    if root is None:
        _check_published(folder, executions)
    arrays = windows(executions)
    _keep(kept, arrays)
    return arrays


def windows(executions: Mapping[str, Execution]) -> dict[str, np.ndarray]:
    """Both devices on one clock, cut into windows that show one activity.

    phone, watch (N, 6, 50) float32 in m/s² (first three) and rad/s; activity (N,), a number in
    ACTIVITIES; subject (N,); execution (N,), counted from 0; pocket (N,), one of POCKETS.
    Raises ValueError where no window is left.
    """
    parts = [_cut(execution) for execution in executions.values()]
    if not sum(len(activity) for *_, activity in parts):
        raise ValueError(
            f"no window of 1 s shows one activity for {SHARE:.0%} of its time in "
            f"{len(executions)} executions; give recordings of both devices that overlap in time"
        )
    counts = [len(activity) for *_, activity in parts]
    phone, watch, activity = (np.concatenate(column) for column in zip(*parts, strict=True))
    about = list(executions.values())
    return {
        "phone": phone,
        "watch": watch,
        "activity": activity.astype(np.uint8),
        "subject": np.repeat([e.person for e in about], counts).astype(np.uint8),
        "execution": np.repeat(np.arange(len(about)), counts).astype(np.uint16),
        "pocket": np.repeat([e.pocket for e in about], counts),
    }


# --- kept windows ---------------------------------------------------------------------------------


def read_kept(file: Path) -> dict[str, np.ndarray]:
    """The windows in a .npz. Raises FileNotFoundError, or ValueError where it is not as it must."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}; give a folder, a .zip or a .npz")
    try:
        with zipfile.ZipFile(file) as packed:
            archives.check_members(file, file.stat().st_size, packed.infolist())
        arrays = dict(np.load(file, allow_pickle=False))
    except (*archives.DAMAGE, ValueError, MemoryError) as error:
        raise ValueError(f"{file} is not a readable .npz of windows: {error}") from error
    _check_windows(file, arrays)
    return arrays


def _check_windows(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    names = (*DEVICES, "activity", "subject", "pocket")
    if lacks := [name for name in names if name not in arrays]:
        raise ValueError(f"{file} has no array {lacks[0]!r}; needed are {', '.join(names)}")
    size = arrays["activity"].size
    shape = size, len(CHANNELS), *arrays["phone"].shape[2:3]
    for name in names:
        if arrays[name].shape != (shape if name in DEVICES else (size,)):
            raise ValueError(
                f"{file}: {name} has shape {arrays[name].shape}; phone and watch must be (N, 6, T) "
                "of one T, the others (N,)"
            )
    allowed = {"activity": [*range(len(ACTIVITIES))], "pocket": [*POCKETS]}
    for name, values in allowed.items():
        if not np.isin(arrays[name], np.array(values)).all():
            raise ValueError(f"{file}: {name} must be one of {', '.join(map(str, values))}")


def _check_published(folder: Path, executions: Mapping[str, Execution]) -> None:
    """Is the download the set that we know?"""
    if len(executions) != EXECUTIONS:
        raise ValueError(
            f"the download in {folder} has {len(executions)} executions instead of {EXECUTIONS}; "
            "delete the folder and load it again, or give what you trust as root='FOLDER'"
        )
    found = tables.content_sha256(executions)
    if CONTENT_SHA256 is None:
        downloads.check_pin(folder, "phone-watch", found)
    elif found != CONTENT_SHA256:
        raise ValueError(
            f"the download in {folder} has the content SHA-256 {found} instead of "
            f"{CONTENT_SHA256}; delete the folder and load it again"
        )


def _fingerprint(place: Path) -> str:
    """A short hash over place, size and time of each file that counts, and of how we cut them."""
    files = [f for f in place.rglob("*.csv") if FILES.fullmatch(f.name)]
    digest = hashlib.sha256(f"{CUT}".encode())
    for file in sorted(files) if place.is_dir() else [place]:
        about = file.stat() if file.exists() else None
        size_and_time = (about.st_size, about.st_mtime_ns) if about else None
        digest.update(f"{file.resolve()} {size_and_time}\n".encode())
    return digest.hexdigest()[:16]


def _keep(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write windows for the next time; where that cannot be, say so and go on."""
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]  # none of them is called allow_pickle
    try:
        write_atomically(file, packed.getvalue())
    except UnwritableError as error:
        warnings.warn(f"windows are not kept for the next time: {error}", stacklevel=4)


# --- cutting --------------------------------------------------------------------------------------


def _cut(execution: Execution) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The windows of an execution: phone and watch (n, 6, 50), activity (n,)."""
    devices = execution.phone, execution.watch
    first = max(track.time[0] for track in devices)
    last = min(track.time[-1] for track in devices)
    clock = np.arange(first, last + 1, TICK)
    if len(clock) < WIDTH:
        nothing = np.empty((0, len(CHANNELS), WIDTH), np.float32)
        return nothing, nothing, np.empty(0, int)
    label, one = _clear(_sliding(_label_at(clock, execution.phone)[None])[:, 0])
    phone, watch = (_sliding(_on(clock, track))[one] for track in devices)
    return phone, watch, label[one]


def _on(clock: np.ndarray, track: Track) -> np.ndarray:
    """The channels (6, ticks) on a clock, linear between samples; of two at one time the last."""
    columns = [np.interp(clock, track.time, channel) for channel in track.values.T]
    return np.stack(columns).astype(np.float32)


def _label_at(clock: np.ndarray, track: Track) -> np.ndarray:
    """The label of the latest sample at each tick."""
    return track.label[np.searchsorted(track.time, clock, side="right") - 1]


def _sliding(values: np.ndarray) -> np.ndarray:
    """(channels, ticks) -> windows (n, channels, WIDTH), one every STEP ticks."""
    found = np.lib.stride_tricks.sliding_window_view(values, WIDTH, axis=1)
    return np.moveaxis(found[:, ::STEP], 0, 1)


def _clear(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent label of each window (n, WIDTH), and where it covers enough of it."""
    counts = np.stack([(labels == number).sum(1) for number in range(len(ACTIVITIES))], 1)
    return counts.argmax(1), counts.max(1) >= SHARE * WIDTH
