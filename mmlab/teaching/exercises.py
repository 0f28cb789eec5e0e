"""Exercises that answer: a reader's function held against the library's, case by case.

torch loads on first use, as everywhere in `mmlab.teaching`.
"""

from __future__ import annotations

import copy
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

UNWRITTEN = (None, ..., NotImplemented)
"""What a function returns whose body is still a stub."""


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

    Not written yet (it returns None, or raises NotImplementedError): says so, and gives
    `reference`, so that the cells below run. Right: says so. Wrong: names the case and the likely
    mistake; raises AssertionError where MMLAB_STRICT=1, as in a run without a reader.
    Every call gets its own copy of the arguments and the same random numbers.
    Raises ValueError for no case.
    """
    named = dict(cases if isinstance(cases, Mapping) else enumerate(cases, start=1))
    if not named:
        raise ValueError("cases is empty; an exercise needs at least one case to be checked on")

    def check(mine: Callable) -> Callable:
        for count, (case, given) in enumerate(named.items()):
            arguments = given if isinstance(given, tuple) else (given,)
            expected = _call(reference, arguments)
            try:
                got = _call(mine, arguments)
                if count == 0 and any(got is stub for stub in UNWRITTEN):
                    raise NotImplementedError
                problem = _difference(got, expected, tolerance)
                if problem is None:
                    continue
                lines = [problem, f"got       {_short(got)}", f"expected  {_short(expected)}"]
                lines += _likely(got, arguments, mistakes or {}, tolerance)
            except NotImplementedError:
                print(f"{mine.__name__}: not written yet (it returns nothing); going on with ours")
                return reference
            except Exception as error:
                lines = [f"{type(error).__name__}: {error}", *_line_of(error, mine)]
            message = "\n    ".join([f"✗ {mine.__name__}, case {case!r}: {lines[0]}", *lines[1:]])
            if os.environ.get("MMLAB_STRICT") == "1":
                raise AssertionError(message)
            print(message)
            return mine
        print(f"✓ {mine.__name__}: right in {len(named)} case{'s' * (len(named) > 1)}")
        return mine

    return check


def _call(function: Callable, arguments: tuple) -> Any:
    """The result on copies of the arguments, from the same random numbers each time."""
    from mmlab.seeds import drawing

    with drawing(0, "exercise"):
        return function(*copy.deepcopy(arguments))


def _likely(got: Any, arguments: tuple, mistakes: Mapping, tolerance: float) -> list[str]:
    """The mistakes that lead to just this result."""
    found = []
    for name, wrong in mistakes.items():
        try:
            if _difference(got, _call(wrong, arguments), tolerance) is None:
                found.append(f"likely mistake: {name}")
        except Exception:  # this mistake cannot be made on this case
            continue
    return found


def _difference(got: Any, expected: Any, tolerance: float) -> str | None:
    """In what two results differ; None if they agree. Looks into dicts, tuples and lists."""
    import torch

    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping) or set(got) != set(expected):
            return f"it should be a dict with the keys {list(expected)}"
        pairs = [(f"[{key!r}]", got[key], expected[key]) for key in expected]
    elif isinstance(expected, tuple | list):
        if not isinstance(got, tuple | list) or len(got) != len(expected):
            return f"it should be a {type(expected).__name__} of {len(expected)}"
        pairs = [(f"[{i}]", *pair) for i, pair in enumerate(zip(got, expected, strict=True))]
    else:
        pairs = []
        try:
            mine, ours = (torch.as_tensor(x).detach().cpu().double() for x in (got, expected))
        except (TypeError, ValueError, RuntimeError):
            return f"it is a {type(got).__name__}, where a {type(expected).__name__} should be"
        if mine.shape != ours.shape:
            return f"wrong shape: {tuple(mine.shape)} instead of {tuple(ours.shape)}"
        if not torch.allclose(mine, ours, rtol=tolerance, atol=tolerance, equal_nan=True):
            return f"right shape, wrong values (off by up to {(mine - ours).abs().max():.3g})"
    for place, one, other in pairs:
        if problem := _difference(one, other, tolerance):
            return f"in {place}: {problem}"
    return None


def _short(value: Any, width: int = 150) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= width else f"{text[: width - 2]} …"


def _line_of(error: Exception, mine: Callable) -> list[str]:
    """The line of the reader's function where the error arose."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.name == mine.__name__]
    return [f"in the line: {own[-1].line}"] if own else []
