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
from reprlib import repr  # short: what a pickle holds may be long, or grow when it is written out
from typing import IO, Any

import numpy as np

from mmlab.checks import kind_of
from mmlab.datasets.disk.files import DamagedError, fault

PLAIN = (str, bytes, int, float, bool, complex, type(None))

SIMPLE = re.compile(r"[<>|=]?(?:[biuf?]\d*|[SU]\d+|O8?)")
"""Data types of plain numbers, texts and objects; records are none."""

DEEPEST = 100
"""Lists in lists: a sentence of a video of a split is about five deep."""

GROWTH = 4
"""A pickle may become so many times as large as its file: a thing that it only names again, such as
the content of an array, counts each time. Those that NumPy writes stay below 2."""

MOST_AXES = 32
"""Of an array; NumPy 1 has no more."""


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

    stream: binary, open to be read, at the first byte of the pickle.
    size: length of the pickle, in bytes.
    what: its name in messages.

    Raises DamagedError, as `read_pickle` does.
    """
    left = _Left(GROWTH * size)
    try:
        return _Finish(left).value(_Reader(_Bounded(stream, size), left).load())
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


class _Left:
    """How large a pickle may still become, in bytes of arrays and in other values."""

    def __init__(self, size: int) -> None:
        self.size = size

    def spend(self, size: int) -> None:
        self.size -= size
        if self.size < 0:
            raise pickle.UnpicklingError(
                f"it would become more than {GROWTH} times as large as its file"
            )


_Unpickler: Any = pickle._Unpickler  # its parts are no part of what is typed


class _Reader(_Unpickler):
    """The unpickler in Python: its table of what was seen is a dict, not an array of any length."""

    def __init__(self, stream: _Bounded, left: _Left) -> None:
        super().__init__(stream, encoding="latin1")
        self.stream, self.left = stream, left

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}"[:200])
        return _Allowed(ALLOWED[module, name], self.left)

    def get_extension(self, code: int) -> None:
        """Python would take it from a table of the process, without a look at its name."""
        raise pickle.UnpicklingError(f"it names the extension {code}")

    def load_bytearray(self) -> None:
        """As Python does, but it takes the memory after `read` has looked at the length."""
        self.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))

    def load_dict_items(self) -> None:
        self._set(self.pop_mark())

    def load_dict_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _set(self, items: list) -> None:
        """Keys are checked first: the hash of tuples in tuples takes for ever, or ends Python."""
        if not isinstance(self.stack[-1], dict):
            raise pickle.UnpicklingError("it sets items of what is no dict")
        self.stack[-1].update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def load_whole_dict(self) -> None:
        items = self.pop_mark()
        self.append(dict(zip(map(_key, items[::2]), items[1::2], strict=True)))

    dispatch = {
        code: load
        for code, load in _Unpickler.dispatch.items()
        if code not in b"".join((pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET))
    } | {
        pickle.BYTEARRAY8[0]: load_bytearray,
        pickle.SETITEMS[0]: load_dict_items,
        pickle.SETITEM[0]: load_dict_item,
        pickle.DICT[0]: load_whole_dict,
    }


def _key(value: Any) -> Any:
    """A key of a dict."""
    if not isinstance(value, (*PLAIN, _Single)):
        raise pickle.UnpicklingError(f"a dict whose key is {kind_of(value)}")
    return value


class _Allowed:
    """What a pickle may call. It has no attribute that the pickle could set."""

    __slots__ = ("left", "make")

    def __init__(self, make: Callable[..., Any], left: _Left) -> None:
        self.make, self.left = make, left

    def __call__(self, *arguments: Any) -> Any:
        made = self.make(*arguments)
        if isinstance(made, bytes):
            self.left.spend(len(made))
        return made

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes what it calls")


class _Type:
    """A data type of numbers or texts."""

    __slots__ = ("found",)

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if not isinstance(code, str) or not SIMPLE.fullmatch(code):
            raise pickle.UnpicklingError(f"an array of the type {repr(code)}")
        self.found = np.dtype(code)

    def __setstate__(self, state: Sequence[Any]) -> None:
        """(version, byte order, …): of plain types nothing else counts."""
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"an array of the byte order {repr(state[1])}")
        self.found = self.found.newbyteorder(state[1])


class _Array:
    """An array that is described piece by piece, and made in the end."""

    __slots__ = ("state",)

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """(version, shape, type, is it in Fortran's order, content)."""
        self.state = state[-4:]

    def made(self, left: _Left) -> Any:
        if self.state is None:
            raise pickle.UnpicklingError("an array without content")
        shape, kind, fortran, content = self.state
        left.spend(len(content))
        return _array(content, kind, shape, "F" if fortran else "C")


def _array(content: Any, kind: _Type, shape: Sequence[int], order: str) -> np.ndarray:
    """Values in order as an array; what does not fit together is refused before memory is taken."""
    if isinstance(content, str):  # Python 2 wrote bytes as text
        content = content.encode("latin1")
    if len(shape) > MOST_AXES or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
        raise pickle.UnpicklingError(f"an array of the shape {repr(shape)}")
    wanted, length = (
        (list, 1) if kind.found.hasobject else ((bytes, bytearray), kind.found.itemsize)
    )
    if not isinstance(content, wanted) or len(content) != math.prod(shape) * length:
        raise pickle.UnpicklingError(f"an array of the shape {repr(shape)} without its values")
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

    def made(self, left: _Left) -> Any:
        return super().made(left)[()]


def _encoded(text: str, encoding: str) -> bytes:
    """How protocols up to 2 write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes written as {repr(encoding)}")
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


class _Finish:
    """Makes every array that was described, each once."""

    def __init__(self, left: _Left) -> None:
        self.left = left
        self.seen: dict[int, tuple[Any, int, Any]] = {}

    def value(self, value: Any, depth: int = 0) -> Any:
        """A value with its arrays. What it holds again costs again: others may write it out."""
        if isinstance(value, PLAIN):
            self.left.spend(1)
            return value
        if depth > DEEPEST:
            raise pickle.UnpicklingError(f"it is more than {DEEPEST} deep")
        if id(value) in self.seen:
            made, cost, _ = self.seen[id(value)]
            self.left.spend(cost)
            return made
        before = self.left.size
        self.left.spend(1)
        made = self._made(value, depth + 1)
        self.seen[id(value)] = made, before - self.left.size, value  # it stays: its id is taken
        return made

    def _made(self, value: Any, depth: int) -> Any:
        if isinstance(value, _Array):
            made = value.made(self.left)
            if isinstance(made, np.ndarray) and made.dtype.hasobject:
                for place in np.ndindex(made.shape):  # objects may be arrays themselves
                    made[place] = self.value(made[place], depth)
            return made
        if isinstance(value, (list, tuple)):
            return type(value)(self.value(one, depth) for one in value)
        if isinstance(value, dict):
            return {self.value(k, depth): self.value(v, depth) for k, v in value.items()}
        raise pickle.UnpicklingError(f"it holds {kind_of(value)}")
