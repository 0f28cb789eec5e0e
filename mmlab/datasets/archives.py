"""Reading the files of a folder or a zip archive that may come from anywhere: with limits."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

# Far above what our sets need (3000 recordings of at most 2.3 s; 450 tables of .2 MB), and far
# below what a small archive could swell to.
MOST_FILES = 20_000
LONGEST = 2**20  # bytes of one file
MOST_BYTES = 2**28
MOST_SWELLING = 100

DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, OSError)
"""What reading an archive raises where it is damaged."""


def files(
    source: Path, name: re.Pattern[str], *, deep: bool = False
) -> Iterator[tuple[str, bytes]]:
    """Name (without folders) and content of the files whose names match.

    source: a folder or a zip archive; where there is nothing, nothing is found.
    deep:   also look into the folders of a folder; in an archive the folder never counts.

    Nothing is unpacked: files are read straight out of an archive, and no more than MOST_BYTES.
    Raises ValueError for what is neither folder nor archive, for an archive that is damaged or
    holds paths outside of it, and for more or larger files than allowed.
    """
    total = 0
    for found, content in _all_files(source, name, deep):
        total += len(content)
        if total > MOST_BYTES:
            raise ValueError(
                f"the files in {source} have more than {MOST_BYTES} bytes together; give a "
                "part of them at a time"
            )
        yield found, content


def check_members(source: Path, size: int, members: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse an archive by what it declares. It cannot give more: zipfile stops reading there.

    source: the archive's path, for messages.
    size: of the archive itself, in bytes.
    members: what the archive says of the files in it.

    Raises ValueError.
    """
    if len(members) > MOST_FILES:
        raise _refusal(source, f"holds {len(members)} files", f"at most {MOST_FILES}")
    total = sum(member.file_size for member in members)
    if total > MOST_BYTES:
        raise _refusal(source, f"unpacks to {total} bytes", f"at most {MOST_BYTES}")
    if total > MOST_SWELLING * size:
        raise _refusal(
            source, f"unpacks to {total // size} times its size", f"at most {MOST_SWELLING} times"
        )
    for member in members:
        if not inside(member.filename):
            raise _refusal(
                source, f"holds {member.filename!r}, which lies outside of it", "paths within it"
            )
        _check_packing(source, member)


def inside(name: str) -> bool:
    """Does a path stay within the folder that it is put in, on every system?"""
    paths = PurePosixPath(name), PureWindowsPath(name)
    return not any(path.anchor or ".." in path.parts for path in paths)


def _check_packing(source: Path, member: zipfile.ZipInfo) -> None:
    if member.flag_bits & 1:
        raise _refusal(source, f"holds {member.filename!r} under a password", "files without one")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        kind = f"holds {member.filename!r}, compressed by method {member.compress_type}"
        raise _refusal(source, kind, "stored or deflated files (methods 0 and 8)")


def _all_files(source: Path, name: re.Pattern[str], deep: bool) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        yield from _in_folder(source, name, deep)
    elif zipfile.is_zipfile(source):
        yield from _in_archive(source, name)
    elif source.exists():
        source.open("rb").close()  # what may not be read says so
        raise ValueError(
            f"{source} is neither a folder nor a zip archive; give one of the two, or delete it "
            "and fetch it again"
        )


def _in_folder(source: Path, name: re.Pattern[str], deep: bool) -> Iterator[tuple[str, bytes]]:
    for file in source.rglob("*") if deep else source.iterdir():
        if name.fullmatch(file.name):
            if not file.is_file():  # a pipe would keep us waiting
                raise ValueError(f"{file} is no file; move it out of the folder")
            with file.open("rb") as stream:
                yield file.name, _content(file.name, stream)


def _in_archive(source: Path, name: re.Pattern[str]) -> Iterator[tuple[str, bytes]]:
    size = source.stat().st_size
    if size > MOST_BYTES:
        raise _refusal(source, f"has {size} bytes", f"at most {MOST_BYTES}")
    try:
        with zipfile.ZipFile(source) as archive:
            check_members(source, size, archive.infolist())
            for member in archive.infolist():
                found = PurePosixPath(member.filename).name
                if name.fullmatch(found):
                    with archive.open(member) as stream:
                        yield found, _content(found, stream)
    except DAMAGE as error:
        raise ValueError(
            f"the archive {source} is damaged ({error}); delete it and fetch it again"
        ) from error


def _content(name: str, stream: IO[bytes]) -> bytes:
    content = stream.read(LONGEST + 1)
    if len(content) > LONGEST:
        raise ValueError(
            f"{name} has more than {LONGEST} bytes; allowed are files of at most that size: cut "
            "it, or leave it out"
        )
    return content


def _refusal(source: Path, found: str, allowed: str) -> ValueError:
    return ValueError(
        f"the archive {source} {found}; allowed are {allowed}. Fetch it again from a source that "
        "you trust, or pack what you need of it anew"
    )
