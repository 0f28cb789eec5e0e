"""The reading times that the course plan prints are those of the notebooks as they are."""

import re
from pathlib import Path

import nbformat
import pytest

from mmlab.notebooks.catalogue import NOTEBOOKS, ROOT

PLAN = (ROOT / "docs/course/README.md").read_text(encoding="utf-8")
MARKUP = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|<[^>]+>|\]\([^)]*\)", re.DOTALL)
ROW = re.compile(r"^\| (\d\d) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", re.MULTILINE)


def counted(path: Path) -> list[int]:
    """Words before the exercises, lines of code, minutes to read, minutes of the exercises."""
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    lesson = text.partition("## Exercises")[0]
    words = len(re.findall(r"[A-Za-z][A-Za-z’'-]*", MARKUP.sub(" ", lesson)))
    lines = sum(bool(line.strip()) for line in code.splitlines())
    looks = len(re.findall(r"\*\*Figure \d+", lesson)) + lesson.count("$$") // 2
    practice = re.findall(r"\*\*Exercise \d+[^\n(]*\([^)]*?(\d+) minutes\)", text)
    return [words, lines, round(words / 120 + lines / 20 + looks), sum(map(int, practice))]


@pytest.mark.parametrize("number", [m[1] for m in ROW.finditer(PLAN)])
def test_the_plan_says_how_long_a_notebook_is(number):
    (path,) = NOTEBOOKS.glob(f"{number}-*.ipynb")
    (said,) = (list(map(int, m.groups()[1:])) for m in ROW.finditer(PLAN) if m[1] == number)
    words, lines, reading, practice = counted(path)
    assert said[0] == pytest.approx(words, rel=0.1)
    assert said[1] == pytest.approx(lines, rel=0.1)
    assert said[2] == pytest.approx(reading, abs=4)
    assert said[3] == practice


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.name[:2])
def test_a_notebook_says_how_long_its_exercises_take(path):
    opening = nbformat.read(path, as_version=4).cells[0].source
    (said,) = re.findall(r"(\d+) (?:min|more) for the exercises", opening)
    assert int(said) == pytest.approx(counted(path)[-1], abs=2)


def test_the_plan_has_every_lesson():
    names = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
    assert [m[1] for m in ROW.finditer(PLAN)] == [name[:2] for name in names]
