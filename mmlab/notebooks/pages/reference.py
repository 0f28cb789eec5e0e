"""The reference of the library: one page per room, by autodoc; and how it reads our docstrings."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmlab

ROOMS = (
    "models",
    "datasets",
    "datasets.disk",
    "training",
    "balancers",
    "evaluation",
    "experiments",
    "plotting",
    "diagnosis",
    "evidence",
    "data_card",
    "teaching",
    "bench",
)
"""What somebody who uses the library may call, from the ground up; see CONTRIBUTING.md."""

INDEX = """Reference
=========

What each part of the library offers, from the ground up. The names that most programs need come
from ``mmlab`` itself: ``from mmlab import fit, load, compare``.

.. toctree::
   :maxdepth: 1

"""

ARGUMENT = re.compile(r"(\w+(?:, \w+)*): +\S")
"""A line ``name: text``, as our docstrings list what a function takes or an object holds."""


def reference_pages() -> Iterator[tuple[str, str]]:
    """Names and sources of the pages, in reStructuredText."""
    yield "reference/index.rst", INDEX + "".join(f"   mmlab.{room}\n" for room in ROOMS)
    for room in ROOMS:
        yield f"reference/mmlab.{room}.rst", _page(f"mmlab.{room}")


def _page(name: str) -> str:
    """A room: what it says of itself, then each of its files."""
    text = f"{name}\n{'=' * len(name)}\n{_members(name)}"
    for module in _modules(name):
        short = module.removeprefix(f"{name}.")
        text += f"\n{short}\n{'-' * len(short)}\n{_members(module)}"
    return text


def _members(module: str) -> str:
    """What is defined in a file, not what it imports."""
    return f"\n.. automodule:: {module}\n   :members:\n   :ignore-module-all:\n"


def _modules(name: str) -> list[str]:
    """The files of a room, without those that are private or programs; none for a file."""
    folder = Path(mmlab.__file__).parent / name.removeprefix("mmlab.").replace(".", "/")
    return [f"{name}.{file.stem}" for file in sorted(folder.glob("[!_]*.py"))]


MARKS = re.compile(r"(`[^`]*`|(?<!\S)\*\w[^*`]*\w\*(?!\w))|([|*]|(?<=\w)_(?!\w))")
"""Code or emphasis; or else what means something to reStructuredText and nothing to us."""


def keep_marks(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Let what is no code in a docstring be read as it is written, as in ``|S|`` or ``clip_``."""
    if inspect.isroutine(thing) and not str(thing.__module__).startswith("mmlab"):
        lines.clear()  # a default of somebody else's, with its own words
    literal = -1  # how far in the text stands of which what follows is code
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        inside = len(line) - len(line.lstrip())
        if not (-1 < literal < inside or line.lstrip().startswith((">>>", "... "))):
            literal = inside if line.endswith("::") else -1
            lines[number] = MARKS.sub(lambda m: m[1] or f"\\{m[2]}", line)


def list_arguments(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Let a docstring's list of ``name: text`` be the section ``Args:`` that napoleon reads."""
    known = _arguments(thing)
    new: list[str] = []
    inside, before = False, ""
    for line in lines:
        found = None if before.strip() else ARGUMENT.match(line)  # a paragraph begins
        if found and known.issuperset(found[1].split(", ")):
            inside = True
            new.append("Args:")
        inside = inside and bool(line.strip())
        new.append(f"    {line}" if inside else line)
        before = line
    lines[:] = new


def _arguments(thing: Any) -> set[str]:
    """What a function takes, or an object's fields and what makes it."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return set()
    try:
        parameters = set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        parameters = set()
    return parameters | set(getattr(thing, "__annotations__", {}))


def keep_sentence(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Undo that napoleon takes what stands before a colon for a type: ours are in the code."""
    for number, line in enumerate(lines):
        if what in ("attribute", "data", "property") and line.startswith(":type: "):
            lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"
            del lines[number]
            return
