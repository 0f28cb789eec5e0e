"""Lists of samples, as text files: read with their traps, and every wrong line named."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mmlab.datasets.disk.files import DamagedError, fault
from mmlab.datasets.disk.text import read_text


def find(root: Path, *names: str) -> Path:
    """The first of these files or folders, relative to the root, that is there.

    Raises FileNotFoundError, which names them all.
    """
    for name in names:
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(
        f"{root} has no {' or '.join(names)}; docs/papers-data.md has the layout"
    )


def first_of(places: Iterable[Path]) -> Path:
    """The first of some places where there is something; where nothing is, the first one."""
    places = list(places)
    return next((place for place in places if place.exists()), places[0])


def lists_of(root: Path, *kinds: Mapping[str, str]) -> list[tuple[Path, str]]:
    """The lists of the first kind of which one is there, each with its part.

    kinds: name of a list -> part. Raises FileNotFoundError, which names them all.
    """
    for kind in kinds:
        if there := [(root / name, part) for name, part in kind.items() if (root / name).is_file()]:
            return there
    find(root, *(name for kind in kinds for name in kind))
    return []  # never: nothing is there


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a list that are not empty, with their numbers from 1; no byte order mark.

    Raises DamagedError for what is a Git LFS pointer or a web page.
    """
    if problem := fault(path):
        raise DamagedError(f"the list {path} is {problem}")
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def read_fields(path: Path, separator: str, count: int) -> Iterator[list[str]]:
    """The fields of each line of a list, `count` or more, without spaces at their ends.

    Raises DamagedError for a line with fewer.
    """
    for number, line in read_lines(path):
        fields = [field.strip() for field in line.split(separator)]
        if len(fields) < count:
            raise DamagedError(
                f"{path}, line {number}: {line!r} has {len(fields)} fields; wanted are {count}, "
                f"with {separator!r} between them"
            )
        yield fields


def read_table(path: Path, *columns: str) -> Iterator[dict[str, str]]:
    """The rows of a .csv with a header, which has these columns.

    Raises DamagedError for a table without them.
    """
    rows = csv.DictReader(line for _, line in read_lines(path))
    if lacking := [name for name in columns if name not in (rows.fieldnames or ())]:
        raise DamagedError(f"{path} has no column {lacking[0]!r}; it has {rows.fieldnames}")
    yield from rows


def number_of(path: Path, names: Sequence[str], found: str) -> int:
    """The number of a class by its name. Raises DamagedError for an unknown one."""
    if found not in names:
        raise DamagedError(f"{path} names the class {found!r}; allowed are {', '.join(names)}")
    return names.index(found)
