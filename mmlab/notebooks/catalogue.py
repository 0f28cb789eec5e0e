"""The collection's notebooks: which there are, and which parameters each takes."""

import ast
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmlab.notebooks.startup import without

# The checks of JSON under nbformat build a grammar of web addresses as they are imported, 1.7 s of
# work in every process. It is optional there, and no notebook's schema asks for it.
with without("rfc3987_syntax"):
    import nbformat

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
PROFILES = ("smoke", "teach", "full")


class NotebookError(Exception):
    """Something a caller asked for that cannot be done: says what, what is allowed, and the fix."""


@dataclass(frozen=True)
class Notebook:
    """One notebook of the collection, as its file says; or what is wrong with that file."""

    path: Path
    title: str
    minutes: str | None
    cells: int
    defaults: dict[str, Any]
    fault: str = ""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def number(self) -> int:
        return int(self.name[:2])


def read(path: Path) -> Notebook:
    """Read a notebook's title, minutes and default parameters.

    Raises:
        NotebookError: if the file is no notebook or its parameters are not literals.
    """
    node = _node(path)
    opening = next((c.source for c in node.cells if c.cell_type == "markdown"), "")
    heading = re.search(r"^#\s+(.+)$", opening, re.MULTILINE)
    title = re.sub(r"^\d+\s*[·.:–—-]?\s*", "", heading[1]) if heading else path.stem[3:]
    minutes = re.search(r"(\d+(?:\s*[–-]\s*\d+)?)\s*min", opening)
    cells = [c for c in node.cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) > 1:
        raise NotebookError(
            f"{path.name} has {len(cells)} cells with the tag 'parameters'; only one may have it"
        )
    defaults = _literals(cells[0].source, path.name) if cells else {}
    return Notebook(path, title, minutes[1] if minutes else None, len(node.cells), defaults)


def _node(path: Path) -> nbformat.NotebookNode:
    """The notebook in a file."""
    try:
        node = nbformat.read(path, as_version=4)
        nbformat.validate(node)
    except Exception as error:  # nbformat trips over damaged files in many ways
        what = str(error).partition("\n")[0] or type(error).__name__
        raise NotebookError(
            f"{path} is not a readable notebook: {what}; open it in JupyterLab and save it anew, "
            "or take an earlier version of it"
        ) from error
    return node


def _literals(source: str, name: str) -> dict[str, Any]:
    """The ``name = literal`` lines of a parameters cell, as a dict."""
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise NotebookError(
            f"{name}: the parameters cell is no Python: {error}; only `name = literal` may stand "
            "there"
        ) from error
    values = {}
    for statement in statements:
        try:
            match statement:
                case ast.Assign(targets=[ast.Name(id=key)], value=value):
                    values[key] = ast.literal_eval(value)
                case _:
                    raise ValueError("no assignment to one name")
        except ValueError as error:
            text = ast.unparse(statement)
            message = (
                f"{name}: the parameters cell holds {text!r}; only `name = literal` may stand there"
            )
            raise NotebookError(message) from error
    return values


def collection(folder: Path = NOTEBOOKS) -> list[Notebook]:
    """All notebooks of a folder (``NN-name.ipynb``), in order; each damaged one with its fault."""
    notebooks = [_read_anyhow(path) for path in sorted(folder.glob("[0-9][0-9]-*.ipynb"))]
    uses = Counter(notebook.number for notebook in notebooks)
    return [
        notebook if uses[notebook.number] == 1 else replace(notebook, fault=_twin(notebook, folder))
        for notebook in notebooks
    ]


def _read_anyhow(path: Path) -> Notebook:
    """A notebook, or what its name alone tells and why it cannot be read."""
    try:
        return read(path)
    except NotebookError as error:
        return Notebook(path, path.stem[3:], None, 0, {}, fault=str(error))


def _twin(notebook: Notebook, folder: Path) -> str:
    """What is wrong where two notebooks have one number."""
    names = sorted(path.name for path in folder.glob(f"{notebook.name[:2]}-*.ipynb"))
    return f"{', '.join(names)} have one number; give each its own"


def choose(numbers: Iterable[int | str], folder: Path = NOTEBOOKS) -> list[Notebook]:
    """The notebooks with these numbers, in order; all of them if no number is given.

    Raises:
        NotebookError: a number that no notebook has, or no notebook at all.
    """
    notebooks = collection(folder)
    if not notebooks:
        raise NotebookError(
            f"no notebook (NN-name.ipynb) in {folder}; they come with the project's checkout and "
            "not with an installed package: run this in the folder of the checkout"
        )
    there = sorted({notebook.name[:2] for notebook in notebooks})
    wanted = {str(number).zfill(2) for number in numbers} or set(there)
    if unknown := sorted(wanted.difference(there)):
        raise NotebookError(
            f"unknown notebook {', '.join(unknown)}; choose from {', '.join(there)} "
            "(`python3 -m mmlab list` says what each asks)"
        )
    return [notebook for notebook in notebooks if notebook.name[:2] in wanted]


def check_parameters(notebook: Notebook, given: Mapping[str, Any]) -> dict[str, Any]:
    """Hold parameters against the notebook's own: names known, types those of the defaults.

    An int passes for a float, a bool never for a number; a default of None takes anything that
    can be written as a literal: text, finite numbers, True, False, None, and lists and dicts of
    them.

    Raises:
        NotebookError: naming the parameter, what was allowed, and the notebook.
    """
    if unknown := sorted(set(given) - set(notebook.defaults)):
        allowed = ", ".join(notebook.defaults) or "none"
        raise NotebookError(
            f"{notebook.name} has no parameter {', '.join(unknown)}; it has: {allowed}"
        )
    checked = {name: _cast(notebook, name, value) for name, value in given.items()}
    if checked.get("profile", PROFILES[0]) not in PROFILES:
        raise NotebookError(f"profile={checked['profile']!r}; choose from {', '.join(PROFILES)}")
    return checked


def _cast(notebook: Notebook, name: str, value: Any) -> Any:
    """The value in the type of its default, or an error."""
    default = notebook.defaults[name]
    if not is_literal(value):
        raise NotebookError(
            f"{notebook.name}: {name}={value!r} cannot be handed over; give text, a finite number, "
            "True, False, None, or a list or dict (with text as keys) of them"
        )
    if default is None or type(value) is type(default):
        return value
    if isinstance(default, float) and type(value) is int:
        return float(value)
    wanted = f"{type(default).__name__}, like its default {default!r}"
    got = f"{name}={value!r} is {type(value).__name__}"
    raise NotebookError(f"{notebook.name}: {got}; it must be {wanted}")


def is_literal(value: Any) -> bool:
    """Whether a parameters cell can hold this value as it is."""
    match value:
        case float():
            return type(value) is float and math.isfinite(value)
        case list():
            return all(map(is_literal, value))
        case dict():
            return all(type(key) is str for key in value) and is_literal(list(value.values()))
    return value is None or type(value) in (str, int, bool)


def parse_assignment(text: str, notebooks: Sequence[Notebook]) -> tuple[str, Any]:
    """Parse ``name=value`` from the command line: text if the default is text, else a literal.

    Raises:
        NotebookError: it has no name or no equals sign.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise NotebookError(f"-p {text!r}: write it as name=value, such as -p seed=1")
    if any(isinstance(notebook.defaults.get(name), str) for notebook in notebooks):
        return name, value
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # the last two: nested too deep
        return name, value  # a string, which the check of types then judges
