"""The notebooks as they come with mmlab: a list of them, and copies to work in.

Standard library alone: the launcher calls this before anything is set up.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

from mmlab.files import write_atomically

PACKAGE = Path(__file__).resolve().parent
SHIPPED = PACKAGE / "notebooks/originals"  # in a wheel
ORIGINALS = SHIPPED if SHIPPED.is_dir() else PACKAGE.parent / "notebooks"

TITLE = re.compile(r"# \d\d · ([^\n·]+?)(?: ·|\n|$)")
MINUTES = re.compile(r"\*\*Time:\*\* (\d+ \w+)[^,]* to run[^,]*, (\d+ min)")
QUESTION = re.compile(r"^\| (\d\d) \| .+? \| (.+) \| [\w ]+ \|$", re.MULTILINE)
"""A row of the map in notebook 00."""


class Copied(NamedTuple):
    """The notebooks that were written, and those that were there and differ: they are kept."""

    new: list[Path]
    kept: list[Path]


def notebooks(folder: Path = ORIGINALS) -> list[Path]:
    """The files of the notebooks, in order."""
    return sorted(folder.glob("[0-9][0-9]-*.ipynb"))


def table(folder: Path = ORIGINALS) -> str:
    """A line per notebook: number, time to run and to read, title, question."""
    texts = {path: _text(path) for path in notebooks(folder)}
    questions = dict(QUESTION.findall("\n".join(texts.values())))
    lines = [f"no.  {'to run':8}{'to read':9}notebook - question"]
    for path, text in texts.items():
        title = TITLE.match(text)
        run, read = minutes.groups() if (minutes := MINUTES.search(text)) else ("", "")
        what = f"{title[1] if title else path.stem[3:]} - {questions.get(path.name[:2], '')}"
        lines.append(f"{path.name[:2]}   {run:8}{read:9}{what}")
    return "\n".join(lines)


def _text(path: Path) -> str:
    """What a notebook says beside its code; nothing where the file is no notebook."""
    try:
        cells = json.loads(path.read_bytes())["cells"]
        return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    except (ValueError, LookupError, TypeError):
        return ""


def copy(to: Path, folder: Path = ORIGINALS) -> Copied:
    """Copy the notebooks into a folder; a file that is there stays as it is.

    Raises:
        UnwritableError: where the folder cannot be written.
    """
    copied = Copied([], [])
    for path in notebooks(folder):
        target = to / path.name
        if not target.exists():
            write_atomically(target, path.read_bytes())
            copied.new.append(target)
        elif target.read_bytes() != path.read_bytes():
            copied.kept.append(target)
    return copied
