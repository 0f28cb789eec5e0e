"""Texts as token ids with their mask, as `SequenceGRU` and `SequenceTransformer` read them."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmlab.datasets.disk.pickles import read_array
from mmlab.datasets.disk.reader import Reader

WORD = re.compile(r"\w+|[^\w\s]")

Tokens = dict[str, np.ndarray]


@dataclass(frozen=True)
class Words(Reader):
    """A text as {"values": (length,) ids, "mask": (length,)}: a number from 1 on per word.

    The number is a hash of the word, so no vocabulary is needed, and two words may share one. What
    is longer is cut off; 0 stands where no word is.
    """

    length: int = 40
    vocabulary: int = 2**15

    def __call__(self, text: str) -> Tokens:
        words = WORD.findall(text.lower())[: self.length]
        ids = [1 + zlib.crc32(word.encode()) % (self.vocabulary - 1) for word in words]
        values = np.zeros(self.length, np.int64)
        values[: len(ids)] = ids
        return {"values": values, "mask": np.arange(self.length) < len(ids)}


@dataclass(frozen=True)
class TextFile(Words):
    """A file with a text, as `Words` reads it."""

    def __call__(self, path: Path) -> Tokens:  # type: ignore[override]
        return super().__call__(self.text(path))

    def text(self, path: Path) -> str:
        return read_text(path)


@dataclass(frozen=True)
class TokenFiles(Reader):
    """BERT's ids as MLA's code keeps them: NAME_token.npy (1, L), and NAME_pm.npy, 1 at a padding.

    The source is the first of the two.
    """

    def __call__(self, path: Path) -> Tokens:
        ids, padding = read_array(path), read_array(padding_of(path))
        if ids.size != padding.size or ids.dtype.kind not in "iu":
            raise ValueError(f"{ids.dtype} of shape {ids.shape} beside a mask of {padding.shape}")
        return {"values": ids.reshape(-1).astype(np.int64), "mask": padding.reshape(-1) == 0}

    def files(self, source: Path) -> list[Path]:
        return [source, padding_of(source)]


def padding_of(path: Path) -> Path:
    return path.with_name(path.name.replace("_token.npy", "_pm.npy"))


def read_text(path: Path) -> str:
    """A text file: UTF-8, with or without a byte order mark; else Latin-1, which any bytes are."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin1")
