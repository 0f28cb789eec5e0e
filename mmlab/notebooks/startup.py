"""How to import a package without an optional part of it that is slow to load."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without(name: str) -> Iterator[None]:
    """In this block, importing the module `name` fails, as if it were not installed.

    A module that is loaded already stays as it is. Python itself provides for this: None in
    `sys.modules` means "do not look any further".
    """
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
