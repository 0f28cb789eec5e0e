"""What is wrong with a file that somebody downloaded, as far as its first bytes tell."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from mmlab.files import write_atomically

POINTER = b"version https://git-lfs"
PAGES = (b"<!doctype", b"<html")


class DamagedError(ValueError):
    """A file that is there and cannot be read; the message names it and what to do."""


def fault(path: Path) -> str | None:
    """Why a file, or a folder of files, cannot be what it should be; None: nothing is seen.

    A file that was cut off further on passes: only reading it tells.
    """
    if path.is_dir():
        inside = files_of(path)
        return next(filter(None, map(fault, inside)), None) if inside else "an empty folder"
    try:
        with path.open("rb") as stream:
            first = stream.read(len(POINTER))
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"unreadable ({error.strerror})"
    if not first:
        return "an empty file"
    if first == POINTER:
        return "a Git LFS pointer: run `git lfs pull` where you cloned it"
    if first.lower().startswith(PAGES):
        return "a web page: its download failed"
    return None


def files_of(path: Path) -> list[Path]:
    """A file; or the files of a folder, without hidden ones: frame_9 before frame_10."""
    if not path.is_dir():
        return [path]
    inside = (file for file in path.iterdir() if file.is_file() and file.name[0] != ".")
    return sorted(inside, key=lambda file: (_numbers(file.name), file.name))


def _numbers(name: str) -> list[int]:
    return [int(x) for x in re.findall(r"\d+", name)]


class Digests:
    """SHA-256 of files. A file whose path, size and time stay as they were is not read again.

    note: where the digests are kept.
    """

    def __init__(self, note: Path) -> None:
        self.note = note
        self._known: dict[str, list] = {}
        if note.is_file():
            self._known = json.loads(note.read_text(encoding="utf-8"))

    def of(self, path: Path) -> str:
        """Of a file, or of all files of a folder with their names."""
        if path.is_dir():
            parts = (f"{file.name} {self.of(file)}" for file in files_of(path))
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()
        status = path.stat()
        key, state = str(path.absolute()), [status.st_size, status.st_mtime_ns]
        known = self._known.get(key)
        if known is None or known[:2] != state:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            known = self._known[key] = [*state, found]
        return known[2]

    def save(self) -> None:
        write_atomically(self.note, json.dumps(self._known))
