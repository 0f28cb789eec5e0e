"""Grading: right and wrong answers, and code that would hang, crash, cheat or do harm."""

import csv
import json
import os
import sys
from pathlib import Path

import nbformat
import pytest
from lessons import ERROR, RANKS, TEMPLATE, hand_in

from mmlab.course import grading
from mmlab.course.__main__ import main
from mmlab.course.grading import Mark, as_csv, grade, table

HANGS = """
@exercise(**nb10.mean_ranks)
def mean_ranks(scores):
    print("mean_ranks: 4 of 4")
    while True:
        pass
"""


def marks(path: Path, **options) -> list[Mark]:
    return grade(path, **options)


def test_right_answers_have_all_cases(tmp_path):
    """Among cells that fail, hang or are no Python, if the answers do not need them."""
    needed = "import torch"
    cells = ("1 / 0", needed, "%matplotlib inline", "while True: pass", "def f(:", RANKS, ERROR)
    path = hand_in(tmp_path, *cells)
    assert marks(path) == [
        Mark(str(path), "10 mean_ranks", 4, 4, ""),
        Mark(str(path), "10 overlap_error", 3, 3, ""),
    ]


def test_wrong_and_unwritten_answers_are_said_to_be(tmp_path):
    ascending = RANKS.replace("o > s[j]", "o < s[j]")
    stub = "@exercise(**nb10.overlap_error)\ndef overlap_error(values, train, test): ..."
    ranks, error = marks(hand_in(tmp_path, ascending, stub))
    assert ranks.right == 1 and "the lowest accuracy has rank 1" in ranks.note
    assert error.right == 0 and "not written" in error.note


def test_an_answer_that_fails_is_said_to_and_a_missing_one_too(tmp_path):
    ranks, error = marks(hand_in(tmp_path, ERROR))  # without torch
    assert ranks.right == error.right == 0
    assert "no function under @exercise(**….mean_ranks)" in ranks.note
    assert "NameError: name 'torch' is not defined" in error.note


def test_code_that_hangs_costs_its_own_exercise_only(tmp_path):
    ranks, error = marks(hand_in(tmp_path, "import torch", HANGS, ERROR), seconds=2)
    assert ranks.right == 0 and ranks.note.endswith("no answer within 2 s")
    assert error.right == 3


@pytest.mark.parametrize(
    "crash", ["import os; os.abort()", "import signal; signal.raise_signal(40)"]
)
def test_code_that_crashes_costs_its_own_exercise_only(tmp_path, crash):
    crash = RANKS.replace("n = len(scores)", crash)
    ranks, error = marks(hand_in(tmp_path, "import torch", crash, ERROR))
    assert ranks.right == 0 and "the program ended without an answer" in ranks.note
    assert error.right == 3


FORGED = """
import json, os, sys


@exercise(**nb10.mean_ranks)
def mean_ranks(scores):
    line = json.dumps({"exercise": "mean_ranks", "case": "one set", "got": "right", "right": 4})
    for stream in range(20):
        try:
            os.ftruncate(stream, 0)
            os.write(stream, f"\\n{line}\\n4 of 4\\n".encode())
        except OSError:
            pass
    sys.exit(0)


@exercise(**nb10.overlap_error)
def overlap_error(values, train, test):
    import mmlab.teaching.exercises.nb10 as ours
    return ours.overlap_error["reference"](values, train, test)
"""


def test_no_mark_can_be_printed_exited_or_fetched(tmp_path, capfd):
    ranks, error = marks(hand_in(tmp_path, FORGED))
    assert ranks.right == 0 and error.right == 0
    assert "ModuleNotFoundError" in error.note
    assert "4 of 4" not in "".join(capfd.readouterr())


DOES = '''
import ctypes, os, pathlib, shutil, signal, socket, subprocess, sys, torch

THERE = pathlib.Path({there!r})


def tried(*harms):
    """How many of them go through."""
    count = 0
    for harm in harms:
        try:
            harm()
            count += 1
        except Exception:
            pass
    return float(count)


@exercise(**nb10.mean_ranks)
def mean_ranks(scores):
    pathlib.Path("in its own folder").write_text("fine")
    raise RuntimeError(tried(
        lambda: THERE.write_text("overwritten"),
        lambda: (THERE.parent / "new").touch(),
        lambda: THERE.unlink(),
        lambda: THERE.rename(THERE.parent / "moved"),
        lambda: shutil.rmtree(THERE.parent),
        lambda: os.truncate(THERE, 0),
        lambda: subprocess.run([sys.executable, "--version"], check=True),
        lambda: os.system("true"),
        lambda: os.fork(),
        lambda: os.kill(os.getppid(), signal.SIGTERM),
        lambda: socket.create_connection(("127.0.0.1", 9), timeout=1),
        lambda: ctypes.CDLL(None),
    ))


@exercise(**nb10.overlap_error)
def overlap_error(values, train, test):
    raise RuntimeError(tried(
        lambda: torch.save({{}}, str(THERE)),  # native code, which Python's hook does not see
        lambda: bytearray(5 << 30),
    ))
'''


@pytest.fixture
def treasure(tmp_path: Path) -> Path:
    path = tmp_path / "treasure" / "file"
    path.parent.mkdir()
    path.write_text("untouched")
    return path


def test_no_harm_goes_through(tmp_path, treasure):
    ranks, error = marks(hand_in(tmp_path, DOES.format(there=str(treasure))))
    assert "RuntimeError: 0.0" in ranks.note
    assert treasure.read_text() == "untouched" and os.listdir(treasure.parent) == ["file"]
    if sys.platform == "linux":
        assert "RuntimeError: 0.0" in error.note


def test_a_process_that_cannot_begin_is_no_students_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "_environment", lambda *_: {"PYTHONHOME": "/nowhere"})
    with pytest.raises(grading.GradeError, match="the grader's own process cannot begin"):
        marks(hand_in(tmp_path, RANKS))


# --- files and tables -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "no readable notebook"),
        ("[" * 100_000, "no readable notebook"),
        ('{"cells": 3}', "no readable notebook"),
        (json.dumps({"cells": []}), "no exercise that can be graded"),
    ],
)
def test_a_file_that_cannot_be_graded_has_no_marks(tmp_path, content, said):
    (tmp_path / "x.ipynb").write_text(content)
    (mark,) = marks(tmp_path / "x.ipynb")
    assert (mark.right, mark.cases) == (0, 0)
    assert said in mark.note


def test_an_unknown_notebook_is_not_graded(tmp_path):
    (mark,) = marks(hand_in(tmp_path, "@exercise(**nb77.x)\ndef f(): ..."))
    assert "no exercise that can be graded" in mark.note


def test_the_command_prints_and_writes_a_table(tmp_path, monkeypatch, capsys):
    asked = []

    def pretend(file, *, seed, seconds):
        asked.append((file, seed, seconds))
        first = Mark(str(file), "10 mean_ranks", 3, 4, "case 'x': wrong")
        return [first, Mark(str(file), "10 overlap_error", 3, 3, "")]

    monkeypatch.setattr(grading, "grade", pretend)
    paths = [hand_in(tmp_path, RANKS, name=f"{name}.ipynb") for name in ("ada", "bo")]
    out = tmp_path / "marks.csv"
    assert main(["grade", *map(str, paths), "--seed", "7", "--csv", str(out)]) == 0
    assert asked == [(path, 7, 60) for path in paths]
    said = capsys.readouterr().out
    assert "ada.ipynb: 6 of 7 cases" in said and "bo.ipynb: 6 of 7 cases" in said
    rows = [*csv.DictReader(out.open(newline=""))]
    assert [row["right"] for row in rows] == ["3", "3", "3", "3"]
    assert {row["exercise"] for row in rows} == {"10 mean_ranks", "10 overlap_error"}


def test_a_missing_file_is_named(tmp_path, capsys):
    assert main(["grade", str(tmp_path / "none.ipynb")]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_a_students_words_steer_neither_terminal_nor_spreadsheet():
    note = grading.plain("=HYPERLINK('x')\x1b[2K\nright")
    mark = Mark("=file", "10 x", 0, 1, note)
    assert "\x1b" not in table([mark]) and len(table([mark]).splitlines()) == 2
    (row,) = csv.DictReader(as_csv([mark]).splitlines())
    assert row["file"] == "'=file" and row["note"].startswith("'=")


def test_the_template_is_that_of_the_notebooks():
    path = next(grading.ROOT.glob("notebooks/10-*.ipynb"))
    code = "\n".join(c.source for c in nbformat.read(path, as_version=4).cells)
    assert all(line in code or "import" in line for line in TEMPLATE.splitlines())
