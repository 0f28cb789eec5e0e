"""What reads one modality of one sample from a user's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmlab.datasets.disk.files import DamagedError
from mmlab.nested import Nested

Stored = np.ndarray | dict[str, np.ndarray]
"""What is decoded of a sample, and may be kept: one array, or a dict of them."""


class Reader:
    """Reads a source: a file, a folder, or whatever a subclass takes. Its `repr` says its settings.

    All samples get arrays of one shape and type.
    """

    def __call__(self, source: Any) -> Stored:
        raise NotImplementedError

    def files(self, source: Any) -> list[Path]:
        """The files and folders that a source stands for."""
        return [source] if isinstance(source, Path) else []

    def part(self, source: Any) -> str:
        """What counts of a source beside the content of its files."""
        return source if isinstance(source, str) else ""

    def tensor(self, stored: Stored) -> Nested:
        """What a network reads of it."""
        if isinstance(stored, dict):
            return {part: torch.from_numpy(values) for part, values in stored.items()}
        return torch.from_numpy(stored)


def decode(reader: Reader, source: Any) -> Stored:
    """What a reader makes of a source.

    Raises ImportError for a package that is missing; for all else DamagedError, with the file.
    """
    try:
        return reader(source)
    except ImportError:
        raise
    except Exception as error:  # readers of media raise errors of many kinds
        where = ", ".join(map(str, reader.files(source))) or repr(source)
        raise DamagedError(f"{where} cannot be read ({type(error).__name__}: {error})") from error
