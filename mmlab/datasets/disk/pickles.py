"""Pickles of plain values and NumPy arrays, which can do no harm.

A pickle is a program: loading one of a stranger's runs what it names. This reader knows numbers,
texts, lists, dicts and arrays, under the names by which NumPy 1 and 2 and Python 2 and 3 write
them, and refuses every other name. What it calls instead of NumPy's functions is below, and
NumPy's own unpickling is never run: a crafted array could point anywhere in the memory.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from mmlab.datasets.disk.files import DamagedError, fault

SIMPLE = re.compile(r"[<>|=]?(?:[biuf?]\d*|[SU]\d+|O8?)")
"""Data types of plain numbers, texts and objects; records are none."""

DEEPEST = 100
"""Lists in lists: a sentence of a video of a split is about five deep."""


def read_pickle(path: Path) -> Any:
    """What a pickle holds: plain Python values and NumPy arrays. From Python 2: bytes as latin1.

    Raises FileNotFoundError, and DamagedError for a file that is cut off, that is no pickle, or
    that names anything but plain values and arrays (it says what).
    """
    problem = fault(path)
    if problem == "missing":
        raise FileNotFoundError(f"{path} is missing; fetch it, or say where it is")
    if problem:
        raise DamagedError(f"{path} is {problem}; fetch it again")
    with path.open("rb") as stream:
        return read_stream(stream, path.stat().st_size, str(path))


def read_stream(stream: IO[bytes], size: int, what: str) -> Any:
    """What the pickle in the first `size` bytes of a stream holds.

    what: its name in messages. Raises DamagedError, as `read_pickle` does.
    """
    try:
        return _finished(_Reader(_Bounded(stream, size)).load(), {}, 0)
    except Exception as error:  # a damaged pickle raises whatever its pieces lead to
        raise DamagedError(
            f"{what} cannot be read as a pickle of arrays ({type(error).__name__}: {error}); "
            "allowed are numbers, texts, lists, dicts and NumPy arrays of them. Fetch it again, "
            "and compare its checksum with that of its source"
        ) from error


def read_array(path: Path) -> np.ndarray:
    """An array of a .npy file, memory-mapped; one of objects is read as a pickle is, into memory.

    Raises FileNotFoundError, DamagedError.
    """
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, _, dtype = header(stream)
            if dtype.hasobject:
                found = read_stream(stream, path.stat().st_size, str(path))
                if not isinstance(found, np.ndarray) or found.shape != shape:
                    raise ValueError(f"its header says {shape}, and something else follows")
                return found
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, KeyError, EOFError) as error:
        if isinstance(error, DamagedError):
            raise
        problem = fault(path) or error
        raise DamagedError(f"{path} is no whole .npy file ({problem}); fetch it again") from error


class _Bounded:
    """A stream that gives no more than it has: a length in the file cannot ask for all memory."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self.stream, self.size = stream, size
        self.readline = stream.readline

    def read(self, count: int) -> bytes:
        if count > self.size:
            raise EOFError(f"{count} bytes are said to follow, and the file has {self.size}")
        return self.stream.read(count)

    def readinto(self, buffer: bytearray) -> int:
        content = self.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


class _Reader(pickle._Unpickler):
    """The unpickler in Python: its table of what was seen is a dict, not an array of any length."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _Allowed(ALLOWED[module, name])


class _Allowed:
    """What a pickle may call. It has no attribute that the pickle could set."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def __call__(self, *arguments: Any) -> Any:
        return self.make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes what it calls")


class _Type:
    """A data type of numbers or texts."""

    __slots__ = ("found",)

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or not SIMPLE.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of the type {code!r}")
        self.found = np.dtype(code)

    def __setstate__(self, state: Sequence[Any]) -> None:
        """(version, byte order, …): of plain types nothing else counts."""
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"an array of the byte order {state[1]!r}")
        self.found = self.found.newbyteorder(state[1])


class _Array:
    """An array that is described piece by piece, and made in the end."""

    __slots__ = ("state",)

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """(version, shape, type, is it in Fortran's order, content)."""
        self.state = state[-4:]

    def made(self) -> np.ndarray:
        if self.state is None:
            raise pickle.UnpicklingError("an array without content")
        shape, kind, fortran, content = self.state
        return _array(content, kind, shape, "F" if fortran else "C")


def _array(content: Any, kind: _Type, shape: Sequence[int], order: str) -> np.ndarray:
    """Values in order as an array; what does not fit together is refused before memory is taken."""
    if isinstance(content, str):  # Python 2 wrote bytes as text
        content = content.encode("latin1")
    if not all(type(size) is int and size >= 0 for size in shape) or order not in ("C", "F"):
        raise pickle.UnpicklingError(f"an array of the shape {shape!r} in the order {order!r}")
    wanted, length = (
        (list, 1) if kind.found.hasobject else ((bytes, bytearray), kind.found.itemsize)
    )
    if not isinstance(content, wanted) or len(content) != math.prod(shape) * length:
        raise pickle.UnpicklingError(f"an array of the shape {shape!r} without its values")
    if not content:
        flat = np.empty(0, kind.found)
    elif kind.found.hasobject:
        flat = np.empty(len(content), kind.found)
        for i, one in enumerate(content):  # all at once, lists of one length would be taken apart
            flat[i] = one
    else:
        flat = np.frombuffer(bytearray(content), kind.found)
    return flat.reshape(shape, order=order)  # type: ignore[call-overload]


class _FromBuffer(_Array):
    """An array as protocol 5 writes it: (content, type, shape, order)."""

    __slots__ = ()

    def __init__(self, content: Any, kind: _Type, shape: Sequence[int], order: str = "C") -> None:
        self.state = shape, kind, order == "F", content


class _Single(_Array):
    """One number or text of NumPy's."""

    __slots__ = ()

    def __init__(self, kind: _Type, content: Any = b"") -> None:
        self.state = (), kind, False, content

    def made(self) -> Any:
        return super().made()[()]


def _encoded(text: str, encoding: str) -> bytes:
    """How protocols up to 2 write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes written as {encoding!r}")
    return text.encode(encoding)


def _kind_of_array(*arguments: Any) -> Any:
    """`numpy.ndarray` itself stands in a pickle as an argument only."""
    raise pickle.UnpicklingError("it calls numpy.ndarray")


def _no_bytes() -> bytes:
    """And how they write none."""
    return b""


ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _kind_of_array,
    ("numpy", "dtype"): _Type,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _Single,
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
    ("_codecs", "encode"): _encoded,
    ("__builtin__", "bytes"): _no_bytes,
}


def _finished(value: Any, seen: dict[int, Any], depth: int) -> Any:
    """A value in which every array that was described is made, each once."""
    if isinstance(value, (str, bytes, int, float, bool, complex, type(None))):
        return value
    if depth > DEEPEST:
        raise pickle.UnpicklingError(f"it is more than {DEEPEST} deep")
    if id(value) not in seen:
        seen[id(value)] = _made(value, seen, depth + 1), value  # the value stays: its id is taken
    return seen[id(value)][0]


def _made(value: Any, seen: dict[int, Any], depth: int) -> Any:
    if isinstance(value, _Array):
        made = value.made()
        if isinstance(made, np.ndarray) and made.dtype.hasobject:
            for place in np.ndindex(made.shape):  # objects may be arrays themselves
                made[place] = _finished(made[place], seen, depth)
        return made
    if isinstance(value, (list, tuple, set, frozenset)):
        return type(value)(_finished(one, seen, depth) for one in value)
    if isinstance(value, dict):
        return {_finished(k, seen, depth): _finished(v, seen, depth) for k, v in value.items()}
    raise pickle.UnpicklingError(f"it holds a {type(value).__name__}")
