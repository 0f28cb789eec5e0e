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

    root: the folder of the lists.
    kinds: name of a list -> part.

    Raises FileNotFoundError, which names them all, or those of the kind that are not there: their
    samples would go missing in silence.
    """
    for kind in kinds:
        lacking = [name for name in kind if not (root / name).is_file()]
        if len(lacking) < len(kind):
            if lacking:
                raise FileNotFoundError(
                    f"{root} has some lists of its kind and no {' or '.join(lacking)}; fetch all"
                )
            return [(root / name, part) for name, part in kind.items()]
    find(root, *(name for kind in kinds for name in kind))
    return []  # never: nothing is there


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a list that are not empty, with their numbers from 1; no byte order mark.

    Only a line feed ends a line: titles from the web hold the other ends that Unicode knows.

    Raises DamagedError for what is a Git LFS pointer or a web page.
    """
    if problem := fault(path):
        raise DamagedError(f"the list {path} is {problem}")
    for number, line in enumerate(read_text(path).split("\n"), 1):
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


def notes_of(parts: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """What published lists, name -> part, and the samples do not have of each other."""
    if not parts:
        return []
    unknown, unlisted = sorted(parts.keys() - set(names)), set(names) - parts.keys()
    notes = [f"{len(unlisted)} samples are in no published list: only in the clean split"]
    if unknown:
        first = ", ".join(unknown[:5])
        notes.append(f"{len(unknown)} names of the lists are none of the samples: {first}")
    return notes if unlisted else notes[1:]
