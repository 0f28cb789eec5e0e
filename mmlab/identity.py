"""What a run's result depends on, as a digest: equal digests, equal results.

A value is taken apart as pickle would. Code of the caller's own counts by what it is compiled to,
with its defaults, the values it closes over and the global names it reads: so comments and the
lines around a lambda do not matter, and a helper function does. Code of installed packages counts
by its name and the package's version, and mmlab by the source files that a run stands on, as they
were when this was loaded, and by what a program has put in the place of its functions (`patches`).
A class may say by `__identity__(self)` which values stand for one of its objects.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

PACKAGE = Path(__file__).parent

ABOVE = (
    *("__main__.py", "bench", "completion.py", "course", "notebooks", "originals.py"),
    *("plotting.py", "teaching", "data_card.py", "diagnosis.py", "evidence.py"),
)
"""What of mmlab no run stands on: it imports from the rooms of a run, and they not from it."""

LIBRARY = Path(sysconfig.get_path("stdlib"))

PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))

BOOKKEEPING = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__"),
    *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__"),
    *("__static_attributes__", "__dataclass_fields__", "__dataclass_params__", "__parameters__"),
    *("__orig_bases__", "__abstractmethods__", "_abc_impl"),
}
"""Entries of a class that change nothing of what it does."""


class UnknownIdentityError(TypeError):
    """Something cannot be told apart from what it may become; the message says what and where."""


def digest(value: object, what: str) -> str:
    """SHA-256 of a value, the same in every process.

    Args:
        what: the name of the value in messages.

    Raises:
        UnknownIdentityError: something in it, such as an open file, has no identity.
    """
    taken_apart = _Identity()
    taken_apart.add(value, what)
    return taken_apart.found.hexdigest()


@functools.cache
def code_version() -> str:
    """A digest of the source files that a run stands on, and of the versions of what is below."""
    found = hashlib.sha256(sys.implementation.cache_tag.encode())
    for name in ("torch", "numpy", "scipy", "scikit-learn"):
        found.update(f"{name} {metadata.version(name)} ".encode())
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if place.parts[0] not in ABOVE:
            found.update(f"\n{place.as_posix()} ".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


def patches() -> dict[str, object]:
    """Functions and classes of the caller's own that stand in rooms of a run, such as a new step.

    Values other than these, set from outside, are not seen.
    """
    found: dict[str, object] = {}
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] == PACKAGE.name and _is_installed(name):
            classes = [x for x in vars(module).values() if isinstance(x, type)]
            places: list[ModuleType | type] = [module]
            for place in places + [x for x in classes if x.__module__ == name]:
                for key, one in vars(place).items():
                    if isinstance(one, FunctionType | type) and not _came_along(one):
                        found[f"{name} {place.__name__}.{key}"] = one
    return found


class _Identity:
    """A digest that grows by values; what was seen before counts by its number."""

    def __init__(self) -> None:
        self.found = hashlib.sha256()
        self._seen: dict[int, tuple[int, object]] = {}  # the object itself: its id stays taken

    def say(self, *words: object) -> None:
        self.found.update("\x1f".join(map(str, words)).encode() + b"\x1e")

    def add(self, value: Any, where: str) -> None:
        """Take one value into the digest."""
        kind = type(value)
        if kind in PLAIN:
            return self.say(kind.__name__, repr(value))
        if kind not in (tuple, frozenset, CodeType):  # of which Python shares equal ones, or not
            if id(value) in self._seen:
                return self.say("seen", self._seen[id(value)][0])
            self._seen[id(value)] = len(self._seen), value
        if isinstance(value, Tensor):
            self._add_tensor(value, where)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self.say("array", value.dtype.str, value.shape)
            self.found.update(np.ascontiguousarray(value).data)
        elif kind in (list, tuple):
            self._add_all(kind.__name__, value, where)
        elif kind in (set, frozenset):
            self._add_all(kind.__name__, sorted(digest(one, where) for one in value), where)
        elif hasattr(kind, "__identity__"):
            self._add_all("identity", (kind, *value.__identity__()), where)
        elif kind is dict:
            self._add_all("dict", (pair for item in value.items() for pair in item), where)
        elif isinstance(value, type):
            self._add_class(value, where)
        elif isinstance(value, CodeType):
            self._add_code(value, where)
        elif isinstance(value, FunctionType):
            self._add_function(value, where)
        elif isinstance(value, MethodType):
            self._add_all("method", (value.__func__, value.__self__), where)
        elif isinstance(value, BuiltinFunctionType) and isinstance(
            value.__self__, ModuleType | type(None)
        ):
            self.say("builtin", value.__module__, value.__qualname__)
        elif isinstance(value, ModuleType):
            self._add_module(value, where)
        elif isinstance(value, staticmethod | classmethod):
            self._add_all(kind.__name__, (value.__func__,), where)
        elif isinstance(value, property):
            self._add_all("property", (value.fget, value.fset, value.fdel), where)
        elif isinstance(value, functools.cached_property):
            self._add_all("cached property", (value.func,), where)
        else:
            self._add_object(value, where)

    def _add_all(self, kind: str, values: Iterable[object], where: str) -> None:
        self.say(kind)
        for value in values:
            self.add(value, where)
        self.say("end")

    def _add_tensor(self, value: Tensor, where: str) -> None:
        if value.layout != torch.strided or value.is_quantized:
            raise _unknown(value, where)
        self.say("tensor", value.dtype, tuple(value.shape), value.requires_grad)
        flat = value.detach().cpu().contiguous().reshape(-1)
        self.found.update(flat.view(torch.uint8).numpy().data)

    def _add_class(self, value: type, where: str) -> None:
        self.say("class", value.__module__, value.__qualname__)
        if _came_along(value):
            return self.say(_version(value.__module__))
        own = {name: one for name, one in vars(value).items() if name not in BOOKKEEPING}
        self._add_all("bases", (type(value), *value.__bases__), where)
        for name in sorted(own):
            if not (name == "__slots__" or type(own[name]).__name__ in _DESCRIPTORS):
                self.say(name)
                self.add(own[name], f"{where}: {value.__name__}.{name}")

    def _add_function(self, value: FunctionType, where: str) -> None:
        self.say("function", value.__module__)
        installed = _came_along(value)
        if installed and "<" not in value.__qualname__:
            return self.say(value.__qualname__, _version(value.__module__))
        self.add(value.__code__, where)
        more = value.__defaults__, value.__kwdefaults__, vars(value)
        self._add_all("defaults and attributes", more, where)
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            self.say("closes over", name)
            if (content := _content(cell)) is not _EMPTY:
                self.add(content, f"{where}: {name}")
        if not installed:
            for name in sorted(_names(value.__code__) & value.__globals__.keys()):
                self.say("reads", name)
                self.add(value.__globals__[name], f"{where}: the global {name}")

    def _add_code(self, code: CodeType, where: str) -> None:
        self.say("code", code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount)
        self.say(code.co_flags, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self.found.update(code.co_code)
        self._add_all("constants", code.co_consts, where)

    def _add_module(self, value: ModuleType, where: str) -> None:
        self.say("module", value.__name__)
        if _is_installed(value.__name__):
            return self.say(_version(value.__name__))
        path = getattr(value, "__file__", None)
        if path is None or not Path(path).is_file():
            raise _unknown(value, where)
        self.found.update(Path(path).read_bytes())
        for name, one in sorted(vars(value).items()):  # what a program has set since
            plain = isinstance(one, bool | int | float | str | Tensor)
            replaced = isinstance(one, FunctionType) and one.__module__ != value.__name__
            if not name.startswith("__") and (plain or replaced):
                self.add((name, one), where)
        names = {getattr(one, "__module__", None) for one in vars(value).values()}
        names |= {one.__name__ for one in vars(value).values() if isinstance(one, ModuleType)}
        names.discard("__main__")  # it holds all sorts; what came from there was added above
        for name in sorted(name for name in names if isinstance(name, str)):
            if name in sys.modules and not _is_installed(name):
                self.add(sys.modules[name], f"{where}: {name}")

    def _add_object(self, value: object, where: str) -> None:
        """Any other object by what pickle would write of it; one around a function by that."""
        if (inside := getattr(value, "__wrapped__", None)) is not None:  # of functools.cache
            return self._add_all("wrapped", (type(value), inside), where)
        try:
            parts: Any = value.__reduce_ex__(4)
        except Exception as error:
            raise _unknown(value, where) from error
        if isinstance(parts, str) and _came_along(type(value)):
            return self.say("named", type(value).__module__, parts)
        if isinstance(parts, str):  # a name, which may stand for another object the next time
            raise _unknown(value, where)
        padded: list[Any] = [*parts] + [None] * (5 - len(parts))
        make, arguments, state, items, pairs, *rest = padded
        self._add_all("object", (make, *arguments), where)
        if isinstance(state, Mapping):
            self._add_state(state, where)
        else:
            self.add(state, where)
        self._add_all("items", items or (), where)
        self._add_all("pairs", pairs or (), where)
        self._add_all("more", rest, where)

    def _add_state(self, state: Mapping[Any, object], where: str) -> None:
        self.say("state")
        for name, one in state.items():
            self.add(name, where)
            self.add(one, f"{where}.{name}")
        self.say("end")


_DESCRIPTORS = ("getset_descriptor", "member_descriptor")
_READS = ("LOAD_GLOBAL", "LOAD_NAME")
_EMPTY = object()
_MADE_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE


def _content(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that is not set yet
        return _EMPTY


def _names(code: CodeType) -> set[str]:
    """The global names that a function may read, those of the functions inside it too."""
    inner = (_names(one) for one in code.co_consts if isinstance(one, CodeType))
    reads = (i.argval for i in dis.get_instructions(code) if i.opname in _READS)
    return {*reads}.union(*inner)


def _came_along(value: FunctionType | type) -> bool:
    """Whether code is installed. What `exec` makes without `__name__` says the module builtins."""
    if value.__module__ not in (None, "builtins"):
        return _is_installed(value.__module__)
    return isinstance(value, type) and not value.__flags__ & _MADE_IN_PYTHON


@functools.cache
def _is_installed(module: str | None) -> bool:
    """Whether a module is of an installed package, of Python, or of those of `code_version`."""
    top, *below = (module or "builtins").split(".")
    if top == PACKAGE.name:
        return not below or not {below[0], f"{below[0]}.py"} & {*ABOVE}
    if top == "__main__" or top in sys.stdlib_module_names:
        return top != "__main__"
    loaded = sys.modules.get(module or "") or sys.modules.get(top)
    path = Path(getattr(loaded, "__file__", None) or _place(top))
    return LIBRARY in path.parents or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


def _place(top: str) -> str:
    """The file of a package that was loaded once and is gone again, as in a forked kernel."""
    try:
        found = find_spec(top)
    except (ImportError, ValueError):
        found = None
    return (found and found.origin) or "unknown"


def _version(module: str | None) -> str:
    top = (module or "").partition(".")[0]
    return f"{top} {getattr(sys.modules.get(top), '__version__', '')}"


def _unknown(value: object, where: str) -> UnknownIdentityError:
    return UnknownIdentityError(
        f"{where} is or holds a {type(value).__name__} object, of which cannot be told whether it "
        "is the same the next time, so a cache or a checkpoint might give results of something "
        "else; use numbers, texts, tensors, functions and classes there, or leave these out"
    )


code_version()  # now: who changes a file from here on still runs what was loaded
