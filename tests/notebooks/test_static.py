"""What a notebook's file must be before anyone runs it."""

import ast
import re
from pathlib import Path
from statistics import median

import nbformat
import pytest

from mmlab.notebooks.catalogue import NOTEBOOKS, read

METHODS = range(2, 7)  # the numbers of the notebooks that each teach one method
METHOD_TAGS = {"parameters", "derive", "implement", "verify", "experiment", "exercise"}
CJK = re.compile(r"[\u4e00-\u9fff]")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)[^)]*\)")
FETCH = re.compile(r"\b(requests|urllib|urlopen|urlretrieve|pooch|wget|curl)\b|https?://")


@pytest.fixture
def notebook(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def sources(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def tags(notebook: nbformat.NotebookNode) -> list[str]:
    return [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]


def lines(source: str) -> int:
    """Lines that are not blank."""
    return sum(bool(line.strip()) for line in source.splitlines())


def words(text: str) -> int:
    """Words of prose, without code, formulas and markup; a Chinese character is not one."""
    text = re.sub(r"```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|<[^>]+>|\]\([^)]*\)", " ", text, flags=re.S)
    return len(re.findall(r"[A-Za-z][A-Za-z’'-]*", text))


def test_there_are_notebooks():
    assert len(list(NOTEBOOKS.glob("*.ipynb"))) >= 2


def test_names_are_numbered_and_the_map_knows_which_are_still_to_come():
    names = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))
    assert all(re.fullmatch(r"\d\d-[a-z0-9-]+\.ipynb", name) for name in names)
    here = [int(name[:2]) for name in names]
    start = "\n".join(sources(nbformat.read(NOTEBOOKS / names[0], as_version=4), "markdown"))
    states = r"^\| (\d\d) \| .* \| (you are here|ready|in preparation) \|$"
    states = {int(number): state for number, state in re.findall(states, start, re.MULTILINE)}
    assert [*states] == list(range(len(states)))
    assert here == [number for number, state in states.items() if state != "in preparation"]


def test_format_is_valid_with_cell_ids(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)


def test_committed_stripped(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
    assert "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"


def test_one_cell_of_literal_parameters(path, notebook):
    assert tags(notebook).count("parameters") == 1
    defaults = read(path).defaults  # raises on anything but literals
    assert defaults["profile"] == "teach", "the text describes teach"
    assert type(defaults["seed"]) is int
    assert defaults["device"] == "auto"


def test_title_and_minutes_are_found(path):
    notebook = read(path)
    assert notebook.title and int(notebook.minutes) < 10, "to run; the minutes to read come later"


def test_links_lead_somewhere(path, notebook):
    targets = [link for text in sources(notebook, "markdown") for link in LINK.findall(text)]
    for target in targets:
        file = target.partition("#")[0]
        if file and ":" not in file:
            assert (path.parent / file).exists(), target


def test_links_to_the_notebooks_before_and_after(path, notebook):
    names = sorted(p.name for p in NOTEBOOKS.glob("*.ipynb"))
    at = names.index(path.name)
    targets = " ".join(LINK.findall("\n".join(sources(notebook, "markdown"))))
    for neighbour in names[max(at - 1, 0) : at] + names[at + 1 : at + 2]:
        assert neighbour in targets


def test_a_heading_is_bilingual(notebook):
    text = "\n".join(sources(notebook, "markdown"))
    assert any(CJK.search(line) for line in text.splitlines() if line.startswith("#"))


def test_code_cells_are_short(notebook):
    lengths = [lines(source) for source in sources(notebook, "code")]
    assert median(lengths) <= 8
    assert max(len(source.splitlines()) for source in sources(notebook, "code")) <= 25


def test_no_lesson_silences_the_linter(notebook):
    assert not any("noqa" in source for source in sources(notebook, "code"))


def test_length_is_that_of_a_lesson(path, notebook):
    assert 45 <= len(notebook.cells) <= 75
    assert 1800 <= sum(map(words, sources(notebook, "markdown"))) <= 3500
    assert 120 <= sum(map(lines, sources(notebook, "code"))) <= 300


def test_each_figure_has_a_numbered_caption(notebook):
    """The cell after a figure, or the next one of text, begins with it."""
    drawn, number = False, 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            drawn |= "plotting.show(" in cell.source
        elif drawn:
            number += 1
            assert cell.source.startswith(f"**Figure {number}.** *"), cell.source[:80]
            drawn = False
    assert number >= 4


def test_every_check_says_what_it_shows(notebook):
    for source in sources(notebook, "code"):
        tree = ast.parse(source)
        assert all(node.msg for node in ast.walk(tree) if isinstance(node, ast.Assert)), source


def test_exercises_rise_and_are_answered(notebook):
    text = "\n".join(sources(notebook, "markdown"))
    numbers = [int(n) for n in re.findall(r"\*\*Exercise (\d+)", text)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= 4
    minutes = [int(n) for n in re.findall(r"\*\*Exercise \d+[^\n(]*\([^)]*?(\d+) minutes\)", text)]
    assert len(minutes) == len(numbers) and minutes == sorted(minutes)
    assert re.search(r"## Questions to test yourself.*<details>", text, re.DOTALL)


def test_the_summary_has_five_lines_in_english_and_five_in_chinese(notebook):
    text = "\n".join(sources(notebook, "markdown"))
    english, chinese = re.search(
        r"^## Summary in five lines · 小结\n\n(.*?)\n\n\*\*本章小结\*\*\n\n(.*?)(?:\n\n|\n#|\Z)",
        text,
        re.DOTALL | re.MULTILINE,
    ).groups()
    for summary in (english, chinese):
        assert re.findall(r"^(\d)\. ", summary, re.MULTILINE) == list("12345")
    assert all(len(CJK.findall(line)) >= 10 for line in chinese.splitlines())


def test_a_method_has_all_its_parts(path, notebook):
    if int(path.stem[:2]) in METHODS:
        assert METHOD_TAGS - set(tags(notebook)) == set()


def test_code_fetches_nothing(notebook):
    for source in sources(notebook, "code"):
        assert not FETCH.search(source), source


def test_no_notebook_imports_another(notebook):
    code = "\n".join(sources(notebook, "code"))
    assert not re.search(r"%run|nbimporter|import_ipynb|\.ipynb", code)
