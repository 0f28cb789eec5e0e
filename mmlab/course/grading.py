"""Grading: the functions of students' notebooks on cases that no notebook shows.

A student's code runs in a process of its own (`mmlab.course.answering`), in an empty folder, with
limits of time and memory, and answers with plain JSON. The comparison takes place here, so nothing
that the code does there can change a mark.
"""

from __future__ import annotations

import csv
import functools
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from mmlab.course.answering import ANSWERS, READY
from mmlab.notebooks.catalogue import ROOT
from mmlab.notebooks.processes import MARK, kill_family
from mmlab.seeds import generator
from mmlab.teaching.answers import call, difference, likely

START = 120
"""Seconds for a process to import what it needs: no student's fault."""
LARGEST = 30 << 20
"""Bytes of a notebook that is read."""
EXERCISE = re.compile(r"^@exercise\(\*\*(nb\d\d)\.\w+", re.MULTILINE)


class GradeError(Exception):
    """What keeps all files from being graded; the message says what to do."""


class UnreadableError(Exception):
    """A file that cannot be graded, and why."""


@dataclass(frozen=True)
class Mark:
    """What one exercise of one file is worth: how many hidden cases are right, and what is wrong.

    A file that cannot be graded has one mark, of no exercise and no cases.
    """

    file: str
    exercise: str
    right: int
    cases: int
    note: str


def grade(file: Path, *, seed: int = 0, seconds: float = 60) -> list[Mark]:
    """Two marks of a notebook; one, with a word, where it cannot be read.

    seed:    of the hidden cases.
    seconds: that one exercise may take.

    Raises GradeError where the grading itself does not work.
    """
    try:
        cells = _cells(file)
        return [*_marks(str(file), cells, _notebook(cells), seed, seconds)]
    except UnreadableError as error:
        return [Mark(str(file), "", 0, 0, plain(str(error)))]


# --- a student's file -----------------------------------------------------------------------------


def _cells(file: Path) -> list[str]:
    """The code of a notebook, cell by cell. Raises UnreadableError."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"it is larger than {LARGEST >> 20} MB; clear its outputs")
        cells = [cell for cell in json.loads(content)["cells"] if cell["cell_type"] == "code"]
        return ["".join(cell["source"]) for cell in cells]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnreadableError(f"no readable notebook: {type(error).__name__}: {error}") from error


def _notebook(cells: list[str]) -> str:
    """The notebook that a file is an edition of, such as "nb04". Raises UnreadableError."""
    found = Counter(EXERCISE.findall("\n".join(cells))).most_common(1)
    if not found or not find_spec(f"mmlab.course.hidden.{found[0][0]}"):
        raise UnreadableError(
            "no exercise that can be graded: it has no line such as @exercise(**nb04.coefficients)"
        )
    return found[0][0]


# --- right answers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One hidden case: its arguments and the right result."""

    arguments: tuple
    expected: Any


@functools.cache
def exercises(notebook: str, seed: int) -> dict[str, dict[str, Case]]:
    """The graded exercises of a notebook, such as "nb04": name -> case -> what is right."""
    hidden = import_module(f"mmlab.course.hidden.{notebook}")
    return {
        name: _with_answers(made(generator(seed, "hidden", notebook, name)), shown(notebook, name))
        for name, made in inspect.getmembers(hidden, inspect.isfunction)
        if made.__module__ == hidden.__name__ and not name.startswith("_")
    }


def shown(notebook: str, name: str) -> dict[str, Any]:
    """What the notebook gives to `exercise`: reference, mistakes, tolerance."""
    return getattr(import_module(f"mmlab.teaching.exercises.{notebook}"), name)


def _with_answers(cases: Mapping[str, Any], exercise: Mapping[str, Any]) -> dict[str, Case]:
    found = {}
    for name, given in cases.items():
        arguments = given if isinstance(given, tuple) else (given,)
        found[name] = Case(arguments, call(exercise["reference"], arguments))
    return found


# --- marks ----------------------------------------------------------------------------------------


def _marks(file: str, cells: list[str], notebook: str, seed: int, seconds: float) -> Iterator[Mark]:
    known = exercises(notebook, seed)
    answers, ends = _answers(cells, notebook, known, seed, seconds)
    for name, cases in known.items():
        faults = []
        for case, right in cases.items():
            answer = answers.get((name, case), {"problem": ends.get(name, "no answer")})
            if fault := _fault(answer, right, shown(notebook, name)):
                faults.append(f"case {case!r}: {fault}")
        note = plain(faults[0]) if faults else ""
        yield Mark(file, f"{notebook[2:]} {name}", len(cases) - len(faults), len(cases), note)


def _fault(answer: Mapping[str, Any], right: Case, exercise: Mapping[str, Any]) -> str:
    """What is wrong with an answer; nothing if it is right."""
    if "got" not in answer:
        return str(answer.get("problem"))
    got, tolerance = answer["got"], exercise.get("tolerance", 1e-5)
    try:
        lines = difference(got, right.expected, tolerance)
        if lines:
            lines += likely(got, right.arguments, exercise.get("mistakes", {}), tolerance)
    except Exception as error:  # it is no number, and too strange even to say so
        lines = [f"it cannot be compared: {type(error).__name__}"]
    return "; ".join(lines)


def plain(text: str) -> str:
    """A student's words on one line, short, and without what steers a terminal."""
    line = " ".join(text.split())
    return "".join(c if c.isprintable() else "?" for c in line)[:200]


# --- the process of a student's code --------------------------------------------------------------

Answers = dict[tuple[str, str], dict[str, Any]]


def _answers(
    cells: list[str], notebook: str, known: Mapping, seed: int, seconds: float
) -> tuple[Answers, dict[str, str]]:
    """The answers by exercise and case; and for each exercise that ended its process, how.

    After such an end another process goes on with the next exercise.
    """
    answers: Answers = {}
    ends: dict[str, str] = {}
    left = [*known]
    while left:
        asked = {"notebook": notebook, "names": left, "seed": seed}
        text, end = _run({"cells": cells, "exercises": asked, "seconds": seconds}, seconds)
        answers |= _read(text)
        without = [n for n in left if any((n, case) not in answers for case in known[n])]
        ends.update(dict.fromkeys(without[:1], end))
        left = without[1:]
    return answers, ends


def _run(request: Mapping[str, Any], seconds: float) -> tuple[str, str]:
    """What the process wrote, and how it ended. Raises GradeError where it could not begin."""
    mark, most = uuid4().hex, START + seconds * len(request["exercises"]["names"])
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "mmlab.course.answering"],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=errors,
            cwd=folder,
            env=_environment(folder, mark),
            start_new_session=True,
        ) as process,
    ):
        try:
            process.communicate(json.dumps(request).encode(), timeout=most)
        except subprocess.TimeoutExpired:
            pass
        finally:
            late = process.poll() is None
            kill_family(process.pid, mark)
            process.wait()
        text, said = map(_content, (out, errors))
        if READY not in said:
            raise GradeError(f"the grader's own process cannot begin: {said[-500:]}")
    if late or "Timeout (" in text:
        return text, f"no answer within {seconds:g} s"
    return text, f"the program ended without an answer ({_in_words(process.returncode)})"


def _content(file: Any) -> str:
    file.seek(0)
    return file.read(ANSWERS).decode(errors="replace")


def _in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    return str(signal.strsignal(-code))


def _environment(folder: str, mark: str) -> dict[str, str]:
    """As little as Python needs: a home in the folder, no tokens, no files beside the sources."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    homes = dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP"), folder)
    ours = {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", MARK: mark}
    return {**kept, **homes, **ours, "MPLBACKEND": "agg", "PYTHONIOENCODING": "utf-8"}


def _read(text: str) -> Answers:
    """The answers in what a process wrote; a line that is none is left out."""
    found: Answers = {}
    for line in text.splitlines():
        try:
            answer = json.loads(line)
            found[answer["exercise"], answer["case"]] = answer
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return found


# --- tables ---------------------------------------------------------------------------------------


def table(marks: Iterable[Mark]) -> str:
    """The marks of one file, as lines."""
    rows = [*marks]
    right, cases = sum(row.right for row in rows), sum(row.cases for row in rows)
    lines = [f"{plain(rows[0].file)}: {right} of {cases} cases"]
    for row in rows:
        lines.append(f"  {row.exercise:22}{row.right:3} of {row.cases}   {row.note}".rstrip())
    return "\n".join(lines)


def as_csv(marks: Iterable[Mark]) -> str:
    """One row per file and exercise. No cell is a formula, whatever a student wrote."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(field.name for field in fields(Mark))
    for mark in marks:
        writer.writerow(
            f"'{cell}" if str(cell).startswith(("=", "+", "-", "@")) else cell
            for cell in astuple(mark)
        )
    return text.getvalue()
