"""Files that are there whole or not at all."""

import contextlib
import errno
import os
from pathlib import Path


class UnwritableError(Exception):
    """A file could not be written; the message says which, why, and what to do."""


def write_atomically(path: Path, text: str) -> None:
    """Write a file whole or not at all.

    Raises:
        UnwritableError: if the disk is full or the folder may not be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        fix = "choose another folder with --out"
        if error.errno == errno.ENOSPC:
            fix = "the disk is full: free some space and run again, or " + fix
        raise UnwritableError(f"cannot write {path}: {error.strerror or error}; {fix}") from error
