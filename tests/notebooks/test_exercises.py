"""Exercises: each folded solution is right in its stub's place, each named mistake is found out.

Only what an exercise needs is executed: the cells that are untagged or tagged `parameters` or
`implement`, in order, in the smoke profile, with a wrong answer raising. So those cells may not
need what an `experiment` has made. (That the stubs themselves never raise, and all that the other
cells do, is what `test_executed` shows.)
"""

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from mmlab import plotting, teaching
from mmlab.notebooks import run

DETAILS = re.compile(r"<details>.*?</details>", re.DOTALL)
SOLUTION = re.compile(r"<summary>Solution.*?```python\n(.*?)```", re.DOTALL)
NEEDED = {"parameters", "implement"}


def stub(source: str) -> ast.FunctionDef | None:
    """The function that waits under `@exercise(...)`, if there is one."""
    for node in ast.parse(source).body:
        for decorator in getattr(node, "decorator_list", []):
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "exercise":
                return node
    return None


def solutions(notebook: nbformat.NotebookNode) -> list[str]:
    folded = [
        part
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for part in DETAILS.findall(cell.source)
    ]
    return [match[1] for match in map(SOLUTION.search, folded) if match]


def solved(source: str, known: list[str]) -> str:
    """The cell with the solution that defines its function in the stub's place."""
    function = stub(source)
    (solution,) = (text for text in known if f"def {function.name}(" in text)
    lines = source.splitlines()
    lines[function.lineno - 1 : function.end_lineno] = solution.splitlines()
    return "\n".join(lines)


Exercise = tuple[str, tuple, dict[str, Any]]


@pytest.fixture
def solve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[Exercise]]:
    """Execute a notebook with its solutions; what its exercises gave to `exercise`."""
    monkeypatch.setenv("MMLAB_STRICT", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    monkeypatch.setattr(plotting, "LOOKS", dict(plotting.LOOKS))  # a notebook may add its own
    real, found = teaching.exercise, []

    def spy(*arguments: Any, **options: Any) -> Callable:
        def check(mine: Callable) -> Callable:
            found.append((mine.__name__, arguments, options))
            return real(*arguments, **options)(mine)

        return check

    def execute(path: Path) -> list[Exercise]:
        notebook = nbformat.read(path, as_version=4)
        known, space = solutions(notebook), {"__name__": "__main__"}
        for number, cell in enumerate(notebook.cells, start=1):
            tags = set(cell.metadata.get("tags", []))
            if cell.cell_type != "code" or not (tags <= NEEDED or "exercise" in tags):
                continue
            if "exercise" in tags and not stub(cell.source):
                continue  # open: nothing checks it
            source = solved(cell.source, known) if "exercise" in tags else cell.source
            exec(compile(source, f"{path.name}, cell {number}", "exec"), space)
        return list(found)

    monkeypatch.setattr(teaching, "exercise", spy)
    return execute


def test_solutions_are_right_and_mistakes_are_named(path, solve, monkeypatch, capsys):
    exercises = solve(path)
    printed = capsys.readouterr().out
    assert len(exercises) >= 2
    for name, arguments, options in exercises:
        assert f"✓ {name}: right in " in printed
        for mistake, wrong in (options.get("mistakes") or {}).items():
            with pytest.raises(AssertionError, match=f"likely mistake: {re.escape(mistake)}"):
                teaching.exercise(*arguments, **options)(wrong)


@pytest.mark.parametrize(("body", "ok"), [("x + 2", False), ("...", True)])
def test_a_run_without_a_reader_fails_on_a_wrong_one_only(body: str, ok: bool, tmp_path: Path):
    source = "from mmlab.teaching import exercise\n\n\n@exercise(lambda x: x + 1, {'one': 1.0})\n"
    cell = nbformat.v4.new_code_cell(f"{source}def add(x):\n    return {body}")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    (tmp_path / "notebooks").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks/00-add.ipynb")
    (result,) = run(folder=tmp_path / "notebooks", out=tmp_path / "build")
    assert result.ok is ok
    assert ok or "AssertionError: ✗ add, case 'one': right shape, wrong values" in result.cause
