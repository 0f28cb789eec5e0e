"""What a student's functions answer to the hidden cases: a program of its own, behind a fence.

`mmlab.course.grading` starts it in an empty folder, as ``python -m mmlab.course.answering``. It
reads on its input which code, which exercises and which seed, and writes one line of JSON per case.
It has no reference: whether an answer is right is decided by the process that started it.
"""

from __future__ import annotations

import ast
import faulthandler
import json
import os
import symtable
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from mmlab.checks import kind_of
from mmlab.course import fence

MEMORY, ANSWERS = 4 << 30, 8 << 20  # bytes
READY = "now the student's code begins"
"""The last words on stderr, which is closed then: what goes wrong later is no fault of ours."""


def main() -> None:
    asked, here = json.loads(sys.stdin.read()), Path.cwd()
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    fence.limit(MEMORY, ANSWERS)
    fence.wall(here)
    cases = _cases(**asked["exercises"])  # imports torch, which the hook would not let it do
    print(READY, file=sys.stderr, flush=True)
    _silence()
    sys.modules["mmlab.teaching.exercises"] = None  # type: ignore[assignment]
    fence.watch(here)
    for exercise, named in cases.items():
        faulthandler.dump_traceback_later(asked["seconds"], exit=True, file=out)
        for case, answer in _answers(asked["cells"], exercise, named):
            print(json.dumps({"exercise": exercise, "case": case, **answer}), file=out, flush=True)


def _silence() -> None:
    """From now on what is printed goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)


def _cases(notebook: str, names: list[str], seed: int) -> dict[str, dict[str, Any]]:
    from mmlab.seeds import generator

    hidden = import_module(f"mmlab.course.hidden.{notebook}")
    draws = {name: generator(seed, "hidden", notebook, name) for name in names}
    return {name: getattr(hidden, name)(draw) for name, draw in draws.items()}


Answer = dict[str, Any]
"""{"got": …} or {"problem": …}."""


def _answers(cells: list[str], exercise: str, cases: Mapping) -> Iterator[tuple[str, Answer]]:
    """Each case with its answer."""
    from mmlab.teaching.answers import computes_nothing

    try:
        function = _function(cells, exercise)
        problem = "not written" if computes_nothing(function) else ""
    except Exception as error:
        problem = _said(error)
    for case, given in cases.items():
        yield case, {"problem": problem} if problem else _answer(function, given)


def _answer(function: Callable, given: Any) -> Answer:
    from mmlab.teaching.answers import call

    try:
        return {"got": _plain(call(function, given if isinstance(given, tuple) else (given,)))}
    except Exception as error:
        return {"problem": _said(error)}


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _plain(value: Any) -> Any:
    """A result as JSON has it; raises TypeError for what it has no word for."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str | int | float | None):
        return value
    if hasattr(value, "tolist"):  # a tensor or an array
        return _plain(value.tolist())
    raise TypeError(f"it gives {kind_of(value)}, which is no number, tensor, list or text")


# --- the function, and what it needs --------------------------------------------------------------


def _function(cells: list[str], exercise: str) -> Callable:
    """The function under ``@exercise(**nbNN.NAME)``, made of it and what it needs alone.

    So a cell that fails or trains for minutes does no harm where the function does not use it.

    Raises LookupError where there is none, and what the function's own definition raises.
    """
    statements = [statement for cell in cells for statement in _statements(cell)]
    functions = [each for each in statements if isinstance(each, ast.FunctionDef)]
    marked = [function for function in functions if exercise in _taken_off(function)]
    if not marked:
        raise LookupError(f"no function under @exercise(**….{exercise}), or its cell is no Python")
    space: dict[str, Any] = {"__name__": "__main__"}
    for statement in _needed(statements, marked[-1]):
        module = ast.Module([statement], [])
        try:
            exec(compile(module, "the notebook", "exec"), space)
        except Exception:
            if statement is marked[-1]:
                raise
    return space[marked[-1].name]


def _statements(cell: str) -> list[ast.stmt]:
    """The statements of a cell without its magic lines; none if it is no Python."""
    lines = ("" if line.startswith(("%", "!")) else line for line in cell.splitlines())
    try:
        return ast.parse("\n".join(lines)).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _taken_off(function: ast.FunctionDef) -> list[str]:
    """Take the decorators `exercise` off a function; gives the names of the exercises."""
    names = []
    for decorator in [*function.decorator_list]:
        match decorator:
            case ast.Call(
                ast.Name("exercise"), keywords=[ast.keyword(None, ast.Attribute(attr=name))]
            ):
                function.decorator_list.remove(decorator)
                names.append(name)
    return names


def _needed(statements: list[ast.stmt], wanted: ast.stmt) -> list[ast.stmt]:
    """A statement and all that bind what it reads, and what they read, in the notebook's order."""
    symbols = {each: _symbols(each) for each in statements}
    needed, grown = {wanted}, True
    while grown:
        names = {name for each in needed for name in symbols[each][1]}
        more = {each for each, (bound, _) in symbols.items() if bound & names} - needed
        needed, grown = needed | more, bool(more)
    return [each for each in statements if each in needed]


def _symbols(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """The global names that a statement binds, and those that it reads, in its functions too."""
    top = symtable.symtable(ast.unparse(statement), "a cell", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    read, tables = {s.get_name() for s in top.get_symbols() if s.is_referenced()}, [top]
    while tables:
        inner = tables.pop().get_children()
        read |= {s.get_name() for each in inner for s in each.get_symbols() if s.is_global()}
        tables += inner
    return bound, read


if __name__ == "__main__":
    main()
