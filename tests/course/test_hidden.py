"""Hidden cases: two exercises per notebook; solutions pass for any seed, named mistakes do not."""

import re

import nbformat
import numpy as np
import pytest
import torch

from mmlab.course.grading import EXERCISE, exercises, shown
from mmlab.notebooks.catalogue import NOTEBOOKS
from mmlab.teaching.answers import call, difference

FOLDED = re.compile(r"<summary>Solution.*?```python\n(.*?)```", re.DOTALL)
PATHS = {f"nb{path.name[:2]}": path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
GRADED = [(book, name) for book in PATHS for name in exercises(book, 0)]


def solution(book: str, name: str):
    """The function that a notebook gives as the solution of an exercise."""
    cells = nbformat.read(PATHS[book], as_version=4).cells
    template = rf"^@exercise\(\*\*{book}\.{name}\)\ndef (\w+)\("
    (called,) = (m[1] for cell in cells for m in re.finditer(template, cell.source, re.MULTILINE))
    folded = [m[1] for cell in cells for m in FOLDED.finditer(cell.source)]
    (code,) = (text for text in folded if f"def {called}(" in text)
    space = {"torch": torch, "np": np}
    exec(code, space)
    return space[called]


@pytest.mark.parametrize("book", sorted({book for book, _ in GRADED}))
def test_two_exercises_of_a_notebook_are_graded(book):
    assert EXERCISE.findall(f"@exercise(**{book}.x)") == [book]
    assert len(exercises(book, 0)) == 2
    assert all(len(cases) >= 3 for cases in exercises(book, 0).values())


@pytest.mark.parametrize(("book", "name"), GRADED)
def test_solutions_are_right_and_mistakes_are_found(book, name):
    mine, exercise = solution(book, name), shown(book, name)
    tolerance = exercise.get("tolerance", 1e-5)

    def wrong(function, cases) -> int:
        count = 0
        for case in cases.values():
            try:
                count += bool(difference(call(function, case.arguments), case.expected, tolerance))
            except Exception:
                count += 1
        return count

    for seed in range(10):
        assert wrong(mine, exercises(book, seed)[name]) == 0, seed
    for mistake, function in exercise["mistakes"].items():
        assert wrong(function, exercises(book, 0)[name]) >= 1, mistake


@pytest.mark.parametrize(("book", "name"), [g for g in GRADED if g != ("nb12", "fault")])
def test_the_cases_are_not_those_of_the_notebook_and_follow_the_seed(book, name):
    def told(cases) -> set[str]:
        return {str((case.arguments, case.expected)) for case in cases.values()}

    one, two = (told(exercises(book, seed)[name]) for seed in (0, 1))
    assert one != two
    given = shown(book, name)["cases"]
    given = given.values() if isinstance(given, dict) else given
    public = {str(case if isinstance(case, tuple) else (case,)) for case in given}
    assert not public & {str(case.arguments) for case in exercises(book, 0)[name].values()}
