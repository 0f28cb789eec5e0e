"""The reference of the library: one page per room, by autodoc; and how it reads our docstrings."""

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

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
    """Let a docstring's list of ``name: text`` be the section ``Args:`` that napoleon reads.

    Another line of the list goes on with the text above it; "Raises" ends the list.
    """
    known = _arguments(thing)
    new: list[str] = []
    inside, before = False, ""
    for line in lines:
        found = ARGUMENT.match(line)
        if found and not before.strip() and known.issuperset(found[1].split(", ")):
            inside = True  # a paragraph begins
            new.append("Args:")
        if inside and line.startswith("Raises "):
            inside = False
            new.append("")
        inside = inside and bool(line.strip())
        goes_on = not found and not line.startswith(" ")
        new.append(f"{'        ' if goes_on else '    '}{line}" if inside else line)
        before = line
    lines[:] = new


def write_dashes(app: Sphinx, document: nodes.document) -> None:
    """Write the dash between an argument's name and its text as one."""
    for fields in document.findall(nodes.field_list):
        for text in list(fields.findall(nodes.Text)):
            if text == " -- ":
                text.parent.replace(text, nodes.Text(" – "))


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


# --- which members there are, and how their values are written --------------------------------


def leave_out(
    app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """Skip what a class has no words of ours for; None leaves it to Sphinx.

    That is the fields of a NamedTuple, which the class lists, and functions of somebody else's or
    with their words. `forward` stays: its signature says what a network takes.
    """
    if what != "class":
        return None
    field = str(getattr(thing, "__doc__", "")).startswith("Alias for field number ")
    theirs = inspect.isfunction(thing) and not thing.__module__.startswith("mmlab.")
    return True if field or theirs or (_is_borrowed(thing) and name != "forward") else None


def drop_borrowed(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Leave out what somebody else says of a method that we override."""
    if _is_borrowed(thing):
        lines.clear()


def _is_borrowed(thing: Any) -> bool:
    """Whether this is a method of ours without words, and the words for it are somebody else's.

    Where a class of ours says what the methods of its kind do, these are ours.
    """
    if not inspect.isfunction(thing) or thing.__doc__ or "." not in thing.__qualname__:
        return False
    owner = getattr(sys.modules[thing.__module__], thing.__qualname__.partition(".")[0], None)
    bases = [base for base in getattr(owner, "__mro__", ()) if thing.__name__ in vars(base)]
    first = next((base for base in bases if vars(base)[thing.__name__].__doc__), None)
    return first is not None and not first.__module__.startswith("mmlab.")


OBJECT = re.compile(r"<(?:class|function|enum|ufunc) '?(?:\w+\.)*<?(\w+)>?'?>")
"""A class or function as Python shows it."""

HOME = re.compile(r"\b(?:collections\.abc|typing|(?:torch|mmlab)(?:\.\w+)*)\.(?=[A-Z])")
"""The module before the name of a type."""

LONGEST_VALUE = 160
"""Characters of the value of a constant, about two lines; a page shows no longer one."""


def name_defaults(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, gives: str
) -> tuple[str, str] | None:
    """Write the defaults of a dataclass so that its signature is read as Python."""
    if not signature:
        return None
    return OBJECT.sub(r"\1", signature).replace("<factory>", "..."), gives


def shorten_values(app: Sphinx, domain: str, kind: str, content: nodes.Element) -> None:
    """Name classes and functions in the value of a constant, and leave out a long one.

    What a long table holds is said in the words about it.
    """
    for part in list(content.parent.findall(addnodes.desc_annotation)):
        signs = [sign.astext() for sign in part.findall(addnodes.desc_sig_punctuation)]
        if signs != ["="]:
            continue
        text = HOME.sub("", OBJECT.sub(r"\1", part[-1].astext()))
        if len(text) > LONGEST_VALUE:
            part.parent.remove(part)
        else:
            part[-1] = nodes.Text(text)
