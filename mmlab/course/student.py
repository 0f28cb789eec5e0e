"""The student edition: the notebooks without their solutions and answers.

Exercises keep their checks, hints and minutes, and questions stay as questions. What is taken away
is what a notebook folds under "Solution" or "Answer".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import nbformat

from mmlab.files import write_atomically
from mmlab.notebooks.catalogue import NOTEBOOKS, Notebook, NotebookError, choose

FOLDED = re.compile(r"<details>\s*<summary>(.*?)</summary>.*?</details>\n*", re.DOTALL)
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")
ROOM_TO_ANSWER = "*Your answer:*\n\n"


def write(folder: Path, numbers: Iterable[int | str] = (), source: Path = NOTEBOOKS) -> list[Path]:
    """Write the student edition into a folder; gives the files, in order.

    numbers: which notebooks; all of them if none is given.

    Raises NotebookError for a number that no notebook has, for a damaged notebook, and where a file
    is in the way: it may hold a student's work, so nothing is written then.
    """
    notebooks = choose(numbers, source)
    _refuse(folder, notebooks)
    names = {notebook.path.name for notebook in notebooks}
    pages = [_edition(nbformat.read(each.path, as_version=4), names) for each in notebooks]
    paths = [folder / notebook.path.name for notebook in notebooks]
    for path, page in zip(paths, pages, strict=True):
        write_atomically(path, nbformat.writes(page) + "\n")
    return paths


def _refuse(folder: Path, notebooks: list[Notebook]) -> None:
    """Raise NotebookError for what must not be read or written over."""
    if faults := [notebook.fault for notebook in notebooks if notebook.fault]:
        raise NotebookError("; ".join(faults))
    if there := [each.path.name for each in notebooks if (folder / each.path.name).exists()]:
        raise NotebookError(
            f"{folder} already holds {', '.join(there)}, perhaps with somebody's work: nothing was "
            "written. Name another folder, or move these files away"
        )


def _edition(node: nbformat.NotebookNode, names: set[str]) -> nbformat.NotebookNode:
    """A notebook without answers, whose links lead to the other files of the edition alone.

    node: is changed in place.
    names: the files of the edition.
    """
    for cell in node.cells:
        if cell.cell_type == "markdown":
            asked = FOLDED.sub(_without_answer, cell.source)
            cell.source = LINK.sub(lambda link: _within(link, names), asked).strip()
    node.cells = [cell for cell in node.cells if cell.source]
    return node


def _without_answer(folded: re.Match[str]) -> str:
    """What stays of a folded text: hints as they are, room for an answer, or the question."""
    summary = folded[1]
    if summary.startswith("Hint"):
        return folded[0]
    if summary.startswith("Solution"):
        return ""
    return ROOM_TO_ANSWER if summary.startswith("Answer") else f"- {summary}\n\n"


def _within(link: re.Match[str], names: set[str]) -> str:
    """A link to a file of the edition as it is; of any other file only its words."""
    return link[0] if link[2] in names else link[1]
