"""Files that are there whole or not at all."""

import contextlib
import errno
import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


class UnwritableError(OSError):
    """A file could not be written; the message says which, why, and what to do."""


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file whole or not at all; text as UTF-8.

    Raises:
        UnwritableError: if the disk is full or the folder may not be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        fix = f"give yourself write permission on {path.parent}, or choose another folder (--out)"
        if error.errno == errno.ENOSPC:
            fix = "the disk is full: free some space and run again"
        raise UnwritableError(f"cannot write {path}: {error.strerror or error}; {fix}") from error


def output_folder(name: str, project: Path = PROJECT) -> Path:
    """Where what is made goes: into a checkout, else the current folder; never beside a package."""
    return project / name if (project / "pyproject.toml").is_file() else Path(name)
