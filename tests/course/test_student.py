"""The student edition: the same lesson without a word of the answers, and nobody's work at risk."""

import re
from pathlib import Path

import nbformat
import pytest

from mmlab.course.__main__ import main
from mmlab.course.student import write
from mmlab.notebooks import run
from mmlab.notebooks.catalogue import NOTEBOOKS, NotebookError, read

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
DETAILS = re.compile(r"<details>(.*?)</details>", re.DOTALL)


def words(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def folded(text: str) -> list[tuple[str, str]]:
    """Summary and body of all that is folded."""
    parts = (part.partition("</summary>") for part in DETAILS.findall(text))
    return [(head.partition("<summary>")[2], body.strip()) for head, _, body in parts]


@pytest.fixture(scope="module")
def edition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("edition")
    assert [path.name for path in write(folder)] == [path.name for path in PATHS]
    return folder


@pytest.fixture(params=PATHS, ids=[path.stem for path in PATHS])
def both(request: pytest.FixtureRequest, edition: Path) -> tuple:
    """A notebook, and its student edition."""
    return tuple(
        nbformat.read(folder / request.param.name, as_version=4) for folder in (NOTEBOOKS, edition)
    )


def test_no_answer_is_left(both):
    full, mine = map(words, both)
    answers = [body for summary, body in folded(full) if not summary.startswith("Hint")]
    assert len(answers) >= 5
    assert [body for body in answers if body in mine] == []
    lines = {line for body in answers for line in body.splitlines() if len(line) > 40}
    assert [line for line in lines if line in mine] == []
    assert not re.search(r"<summary>(?!Hint)", mine)


def test_exercises_hints_and_questions_stay(both):
    full, mine = map(words, both)
    exercise = re.compile(r"\*\*Exercise \d+.*")
    assert exercise.findall(mine) == exercise.findall(full)
    hints = [pair for pair in folded(full) if pair[0].startswith("Hint")]
    assert folded(mine) == hints
    kinds = ("Hint", "Solution", "Answer")
    questions = [summary for summary, _ in folded(full) if not summary.startswith(kinds)]
    assert all(f"- {question}" in mine.splitlines() for question in questions)
    assert mine.count("*Your answer:*") == full.count("<summary>Answer")


def test_what_runs_is_what_runs_in_the_full_notebook(both):
    """So an edition runs as it is, unsolved, as `tests/notebooks/test_executed.py` shows for it."""
    full, mine = both
    nbformat.validate(mine)
    assert mine.metadata == full.metadata
    codes = [[cell for cell in each.cells if cell.cell_type == "code"] for each in both]
    assert codes[0] == codes[1]


def test_links_lead_to_files_of_the_edition(edition):
    link = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s#]+)")
    for path in edition.glob("*.ipynb"):
        targets = link.findall(words(nbformat.read(path, as_version=4)))
        local = [target for target in targets if "://" not in target]
        assert [target for target in local if not (edition / target).exists()] == []


def test_words_around_an_answer_stay(tmp_path):
    text = (
        "Before.\n\n<details><summary>Solution 1</summary>\n\nsecret\n\n</details>\n\n"
        "Between, [here](../docs/x.md), [01](01-a.ipynb), [$a$](https://example.org).\n\n"
        "<details><summary>Answer 2</summary>\nsecret</details>\n\nAfter."
    )
    lesson(tmp_path / "full", text)
    write(tmp_path / "mine", source=tmp_path / "full")
    got = words(nbformat.read(tmp_path / "mine/01-a.ipynb", as_version=4))
    assert got == (
        "Before.\n\nBetween, here, [01](01-a.ipynb), [$a$](https://example.org).\n\n"
        "*Your answer:*\n\nAfter."
    )


def lesson(folder: Path, text: str) -> None:
    folder.mkdir()
    cells = [nbformat.v4.new_markdown_cell(text)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "01-a.ipynb")


def test_a_notebook_of_the_edition_runs_unsolved(edition, tmp_path):
    (result,) = run([0], profile="smoke", folder=edition, out=tmp_path, timeout=300)
    assert result.ok, f"{result}\n{result.detail}"
    assert read(edition / PATHS[0].name).title == read(PATHS[0]).title


def test_work_is_never_overwritten(tmp_path, capsys):
    assert main(["student", str(tmp_path), "0"]) == 0
    (path,) = tmp_path.iterdir()
    path.write_text("an evening's work")
    assert main(["student", str(tmp_path)]) == 2
    assert path.read_text() == "an evening's work"
    assert [*tmp_path.iterdir()] == [path], "nothing was written beside it"
    said = capsys.readouterr().err
    assert path.name in said and "Name another folder" in said


def test_an_unknown_number_is_refused(tmp_path):
    with pytest.raises(NotebookError, match="unknown notebook 77"):
        write(tmp_path, [77])


def test_a_damaged_notebook_is_refused(tmp_path):
    lesson(tmp_path / "full", "Fine.")
    (tmp_path / "full/02-b.ipynb").write_text("{")
    with pytest.raises(NotebookError, match=r"02-b\.ipynb is not a readable notebook"):
        write(tmp_path / "mine", source=tmp_path / "full")
    assert not (tmp_path / "mine").exists()
