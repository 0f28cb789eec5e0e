"""Exercises that answer: a reader's function held against the library's, case by case.

torch loads on first use, as everywhere in `mmlab.teaching`.
"""

from __future__ import annotations

import copy
import dis
import inspect
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

UNWRITTEN = (None, ..., NotImplemented)
"""What a function returns whose body is still a stub."""

IDLE = {"RESUME", "NOP", "LOAD_CONST", "RETURN_CONST", "RETURN_VALUE"}
"""The bytecode of a body that computes nothing, such as `...`, `pass` or a docstring alone."""


def exercise(
    reference: Callable,
    cases: Sequence | Mapping[str, Any],
    *,
    mistakes: Mapping[str, Callable] | None = None,
    tolerance: float = 1e-5,
) -> Callable[[Callable], Callable]:
    """A decorator that holds a reader's function against `reference`, case by case.

    cases:     argument tuples, named if a mapping; anything but a tuple is the one argument.
    mistakes:  what may have gone wrong -> a function that goes wrong in this way.
    tolerance: absolute and relative, for every number.

    Not written yet (the body is `...`, `pass` or a docstring and no more, or it raises
    NotImplementedError itself, which may follow lines that are given): says so, and gives
    `reference`, so that the cells below run. Right: says so. Wrong: names the case, the worst entry
    and the likely mistake; raises AssertionError where MMLAB_STRICT=1, as in a run without a
    reader. Every call gets its own copy of the arguments and the same random numbers.
    Raises ValueError for no case.
    """
    named = dict(cases if isinstance(cases, Mapping) else enumerate(cases, start=1))
    if not named:
        raise ValueError("cases is empty; an exercise needs at least one case to be checked on")

    def check(mine: Callable) -> Callable:
        for passed, (case, given) in enumerate(named.items()):
            arguments = given if isinstance(given, tuple) else (given,)
            expected = call(reference, arguments)
            try:
                problem = _problem(mine, arguments, expected, mistakes or {}, tolerance)
            except NotImplementedError:
                print(f"{mine.__name__}: not written yet; going on with ours")
                return reference
            if problem:
                lines = [f"✗ {mine.__name__}, case {case!r}: {problem[0]}", *problem[1:]]
                message = "\n    ".join([*lines, f"passed before: {passed} of {len(named)}"])
                if os.environ.get("MMLAB_STRICT") == "1":
                    raise AssertionError(message)
                print(message)
                return mine
        print(f"✓ {mine.__name__}: right in {len(named)} case{'s' * (len(named) > 1)}")
        return mine

    return check


def _problem(
    mine: Callable, arguments: tuple, expected: Any, mistakes: Mapping, tolerance: float
) -> list[str]:
    """What is wrong with a reader's function, in lines; none if it is right.

    Raises NotImplementedError for a stub.
    """
    try:
        got = call(mine, arguments)
    except Exception as error:
        places = _places(error, mine)
        if isinstance(error, NotImplementedError) and places and places[-1]:
            raise
        own = [f"in the line: {place.line}" for place in places if place]
        return [f"{type(error).__name__}: {error}", *own[-1:]]
    if any(got is stub for stub in UNWRITTEN) and computes_nothing(mine):
        raise NotImplementedError
    lines = difference(got, expected, tolerance)
    if not lines:
        return []
    if got is None:
        lines.append("forgot `return`?")
    shown = [" ".join(repr(value).split()) for value in (got, expected)]
    if max(map(len, shown)) <= 150:
        lines += [f"got       {shown[0]}", f"expected  {shown[1]}"]
    return lines + likely(got, arguments, mistakes, tolerance)


def call(function: Callable, arguments: tuple) -> Any:
    """The result on copies of the arguments, from the same random numbers each time."""
    from mmlab.seeds import drawing

    with drawing(0, "exercise"):
        return function(*copy.deepcopy(arguments))


def computes_nothing(function: Callable) -> bool:
    """Whether the body is a stub. What has no bytecode (a builtin, a `partial`) is none."""
    code = _code(function)
    return code is not None and {step.opname for step in dis.get_instructions(code)} <= IDLE


def _code(function: Callable) -> Any:
    return getattr(inspect.unwrap(function), "__code__", None)


def _places(error: Exception, mine: Callable) -> list[traceback.FrameSummary | None]:
    """Where the error passed through, from the outside in; None outside the reader's function."""
    frames = traceback.walk_tb(error.__traceback__)
    summaries = traceback.extract_tb(error.__traceback__)
    return [
        place if frame.f_code is _code(mine) else None
        for (frame, _), place in zip(frames, summaries, strict=True)
    ]


def likely(got: Any, arguments: tuple, mistakes: Mapping, tolerance: float) -> list[str]:
    """The mistakes that lead to just this result."""
    found = []
    for name, wrong in mistakes.items():
        try:
            if not difference(got, call(wrong, arguments), tolerance):
                found.append(f"likely mistake: {name}")
        except Exception:  # this mistake cannot be made on this case
            continue
    return found


def difference(got: Any, expected: Any, tolerance: float) -> list[str]:
    """In what two results differ, in lines; none if they agree. Looks into dicts and sequences."""
    from mmlab.checks import kind_of

    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping) or set(got) != set(expected):
            return [f"it should be a dict with the keys {list(expected)}"]
        pairs = [(f"[{key!r}]", got[key], expected[key]) for key in expected]
    elif isinstance(expected, tuple | list):
        if not isinstance(got, tuple | list) or len(got) != len(expected):
            return [f"it should be {kind_of(expected)} of {len(expected)}"]
        pairs = [(f"[{i}]", *pair) for i, pair in enumerate(zip(got, expected, strict=True))]
    elif isinstance(expected, str | None):
        return (
            [] if type(got) is type(expected) and got == expected else [f"it is not {expected!r}"]
        )
    else:
        return _difference_in_numbers(got, expected, tolerance)
    for place, one, other in pairs:
        if problem := difference(one, other, tolerance):
            return [f"in {place}: {problem[0]}", *problem[1:]]
    return []


def _difference_in_numbers(got: Any, expected: Any, tolerance: float) -> list[str]:
    """As `difference`, for what torch takes as numbers; names the worst entry."""
    import torch

    from mmlab.checks import kind_of

    try:
        mine, ours = (torch.as_tensor(x).detach().cpu().double() for x in (got, expected))
    except (TypeError, ValueError, RuntimeError):
        return [f"it is {kind_of(got)}, where {kind_of(expected)} should be"]
    if mine.shape != ours.shape:
        return [f"wrong shape: {tuple(mine.shape)} instead of {tuple(ours.shape)}"]
    wrong = ~torch.isclose(mine, ours, rtol=tolerance, atol=tolerance, equal_nan=True)
    if not wrong.any():
        return []
    gap = (mine - ours).abs().nan_to_num(nan=torch.inf, posinf=torch.inf)
    off = torch.where(wrong, gap, 0)
    worst = tuple((off == off.max()).nonzero()[0].tolist())
    entry = f"worst entry {list(worst)}: got {mine[worst]:.6g}, expected {ours[worst]:.6g}"
    return [f"right shape, {_in_words(mine, wrong, off.max())}", *[entry] * (mine.ndim > 0)]


def _in_words(values: Any, wrong: Any, off: Any) -> str:
    """How the entries marked in `wrong` are wrong; `off` is by how much at the worst."""
    for name, count, cause in (
        ("NaN", (wrong & values.isnan()).sum(), "0/0, ∞ − ∞, log or root of a number below 0?"),
        ("infinity", (wrong & values.isinf()).sum(), "a division by 0, log 0, a large exponent?"),
    ):
        if count:
            where = f" in {count} of {values.numel()} entries" if values.ndim else ""
            return f"but {name}{where} ({cause})"
    if off.isinf():
        return "wrong values (finite where they should not be)"
    return f"wrong values (off by up to {off:.3g})"
