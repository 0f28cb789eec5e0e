"""A cache of decoded samples: one memory-mapped .npy file per modality, keyed by content.

The key is a hash over the content of all files and the settings of their reader. So a file that
changes makes a new one, and a folder that moves does not. A file is whole or not there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlab.datasets.disk.files import DamagedError, Digests
from mmlab.datasets.disk.reader import Reader, Stored, decode
from mmlab.files import UnwritableError, write_atomically

VERSION = 1
"""Raise it when a reader gives other numbers for the same file and settings."""


@dataclass(frozen=True)
class Decoded:
    """All samples of a modality, decoded.

    key:     of its content, a hash.
    parts:   part -> its file, (N, …); "" where a sample is one array.
    damaged: row -> why it could not be decoded.
    """

    key: str
    parts: dict[str, Path]
    damaged: dict[int, str]

    def __getitem__(self, row: int) -> Stored:
        found = {part: np.array(_opened(file)[row]) for part, file in self.parts.items()}
        return found.get("", found)


@functools.cache
def _opened(file: Path) -> np.ndarray:
    """Opened once in each process; what is in the file never changes."""
    return np.load(file, mmap_mode="r", allow_pickle=False)


def decoded(folder: Path, what: str, reader: Reader, sources: Sequence[Any]) -> Decoded:
    """All sources as a reader decodes them: from `folder`, where they are since the first time.

    what: the name of the data set and the modality, for the progress line.

    Raises UnwritableError for a full disk.
    """
    key = _key(folder, reader, sources)
    note = folder / f"{key}.json"
    if not _whole(note):
        parts, damaged = _write(folder, key, what, reader, sources)
        write_atomically(note, json.dumps({"parts": parts, "damaged": damaged}))
    known = json.loads(note.read_text(encoding="utf-8"))
    return Decoded(
        key,
        {part: folder / name for part, name in known["parts"].items()},
        {int(row): why for row, why in known["damaged"].items()},
    )


def _whole(note: Path) -> bool:
    """Is the note there, and are its files, of which somebody may have deleted one?"""
    if not note.is_file():
        return False
    names = json.loads(note.read_text(encoding="utf-8"))["parts"].values()
    return all((note.parent / name).is_file() for name in names)


def _key(folder: Path, reader: Reader, sources: Sequence[Any]) -> str:
    digests = Digests(folder / "digests.json")
    found = hashlib.sha256(f"{VERSION} {reader!r}".encode())
    for source in sources:
        files = " ".join(map(digests.of, reader.files(source)))
        found.update(f"\n{files} {reader.part(source)!r}".encode())
    digests.save()
    return found.hexdigest()[:32]


def _write(
    folder: Path, key: str, what: str, reader: Reader, sources: Sequence[Any]
) -> tuple[dict[str, str], dict[int, str]]:
    """Decode everything into new files: part -> name of its file, row -> why it is damaged."""
    from tqdm import tqdm

    arrays: dict[str, np.memmap] = {}
    names: dict[str, str] = {}
    damaged: dict[int, str] = {}
    try:
        for row, source in enumerate(tqdm(sources, desc=f"decoding {what}", leave=False)):
            try:
                found = decode(reader, source)
            except DamagedError as error:
                damaged[row] = str(error)
                continue
            for part, values in (found if isinstance(found, dict) else {"": found}).items():
                if part not in arrays:
                    names[part] = f"{key}.{part or 'values'}.npy"
                    shape = (len(sources), *values.shape)
                    file = _partial(folder / names[part])
                    arrays[part] = np.lib.format.open_memmap(file, "w+", values.dtype, shape)
                    _take(file)
                if values.shape != arrays[part].shape[1:] or values.dtype != arrays[part].dtype:
                    damaged[row] = _unlike(reader, source, values, arrays[part])
                    break
                arrays[part][row] = values
        for part, array in arrays.items():
            array.flush()
            os.replace(_partial(folder / names[part]), folder / names[part])
    except OSError as error:
        raise UnwritableError(
            f"cannot keep decoded samples in {folder}: {error}; choose another folder: cache=..."
        ) from error
    finally:
        for name in names.values():
            _partial(folder / name).unlink(missing_ok=True)
    return names, damaged


def _take(file: Path) -> None:
    """Take the room of a mapped file now: a disk that is full later would end Python."""
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, file.stat().st_size)


def _partial(file: Path) -> Path:
    return file.with_name(f".{file.name}.{os.getpid()}.partial")


def _unlike(reader: Reader, source: Any, values: np.ndarray, others: np.ndarray) -> str:
    where = ", ".join(map(str, reader.files(source)))
    return (
        f"{where} gives {values.dtype} of shape {values.shape}, and others {others.dtype} of shape "
        f"{others.shape[1:]}"
    )
