"""The folded solutions are right: each stands in its stub's place, and the notebook runs.

The whole notebook runs, since what an exercise needs may stand in any cell above it. That the stubs
themselves never raise is what `test_executed` shows.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from mmlab.notebooks import run

DETAILS = re.compile(r"<details>.*?</details>", re.DOTALL)
SOLUTION = re.compile(r"<summary>Solution.*?```python\n(.*?)```", re.DOTALL)
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def exercises(notebook: nbformat.NotebookNode) -> dict[int, str]:
    """Place of each exercise's cell -> the solution folded below it, before the next exercise."""
    found = {}
    for place, cell in enumerate(notebook.cells):
        if "exercise" in cell.metadata.get("tags", []):
            found[place] = ""
        elif cell.cell_type == "markdown" and found:
            folded = (SOLUTION.search(part) for part in DETAILS.findall(cell.source))
            codes = [match[1] for match in folded if match]
            found[max(found)] = found[max(found)] or "".join(codes[:1])
    return found


def stub(source: str) -> ast.FunctionDef | None:
    """The function that waits under `@exercise(...)`; None in an open exercise."""
    for node in ast.parse(source).body:
        for decorator in getattr(node, "decorator_list", []):
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "exercise":
                return node
    return None


def solved(source: str, solution: str) -> str:
    """The cell with the solution for its stub; an open exercise is replaced as a whole."""
    function = stub(source)
    if function is None:
        return solution
    lines = source.splitlines()
    lines[function.lineno - 1 : function.end_lineno] = solution.splitlines()
    return "\n".join(lines)


def printed(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def test_every_checked_exercise_has_a_solution(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    found = exercises(notebook)
    checked = [place for place in found if stub(notebook.cells[place].source)]
    assert len(checked) >= 2
    for place in checked:
        name = stub(notebook.cells[place].source).name
        assert f"def {name}(" in found[place], f"no folded solution for {name}"


def test_solutions_are_right(path: Path, tmp_path: Path, no_network: None) -> None:
    notebook = nbformat.read(path, as_version=4)
    for place, solution in exercises(notebook).items():
        if solution:
            cell = notebook.cells[place]
            cell.source = solved(cell.source, solution)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    nbformat.write(notebook, folder / path.name)
    (result,) = run(profile="smoke", folder=folder, out=tmp_path / "build", timeout=300)
    assert result.ok, f"{result}\n{result.detail}"
    executed = nbformat.read(tmp_path / "build/notebooks" / path.name, as_version=4)
    for cell in executed.cells:
        if "exercise" in cell.metadata.get("tags", []):
            assert "not written yet" not in printed(cell)
            if function := stub(cell.source):
                assert f"✓ {function.name}: right in " in printed(cell)


@pytest.mark.parametrize(("body", "ok"), [("x + 1", True), ("x + 2", False)])
def test_a_wrong_solution_fails_the_run(body: str, ok: bool, tmp_path: Path) -> None:
    source = "from mmlab.teaching import exercise\n\n\n@exercise(lambda x: x + 1, {'one': 1.0})\n"
    cell = solved(f"{source}def add(x): ...", f"def add(x):\n    return {body}")
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = v4.new_notebook(cells=[v4.new_code_cell(cell)], metadata={"kernelspec": KERNEL})
    nbformat.write(notebook, folder / "00-add.ipynb")
    (result,) = run(folder=folder, out=tmp_path / "build")
    assert result.ok is ok
    if not ok:
        assert "AssertionError: ✗ add, case 'one': right shape, wrong values" in result.cause
