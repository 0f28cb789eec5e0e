"""Build data/watch.npz from its source, bit for bit.

    python data/build_watch.py [--package FILE] [--output FILE]

Source: the 140 series of shoulder exercises that the wheel seglearn 1.2.5 carries (fetched with pip
unless --package names a copy; the package itself is never installed or imported). They are pickled,
and a pickle can call anything, so it is read here alone, by a reader that makes arrays only.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from building import main, wheel
from numpy._core.multiarray import _reconstruct

from mmlab.datasets import watch

PACKAGE = wheel(
    "seglearn==1.2.5", "ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd"
)
MEMBER = "seglearn/data/watch_dataset.npy"
WINDOW = 100  # values of the source, 50 per second: 2 s


def as_bytes(text: str, encoding: str) -> bytes:
    """What the pickle calls `_codecs.encode` for: bytes that were written as text."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"the text is in {encoding}, not in latin1")
    return text.encode("latin1")


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): as_bytes,
}


class ArrayReader(pickle.Unpickler):
    """Reads numpy arrays in plain containers. Raises UnpicklingError for anything else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which is no array")
        return ALLOWED[module, name]


def read_series(package: Path) -> dict[str, Any]:
    """The wheel's data: X, a list of 140 arrays (T, 6), and y, side and subject of each."""
    with zipfile.ZipFile(io.BytesIO(PACKAGE.read(package))) as archive:
        file = io.BytesIO(archive.read(MEMBER))
    np.lib.format.read_magic(file)
    np.lib.format.read_array_header_1_0(file)
    return ArrayReader(file, encoding="latin1").load().item()


def cut(series: np.ndarray) -> np.ndarray:
    """(T, 6) at 50 per second to windows (T // 100, 6, 50): the mean of every two values."""
    count = len(series) // WINDOW
    pairs = series[: count * WINDOW].reshape(count, WINDOW // 2, 2, 6)
    return pairs.mean(2).transpose(0, 2, 1)


def build(package: Path) -> dict[str, np.ndarray]:
    """Every array of the file; windows in the order of the source."""
    source = read_series(package)
    parts = [cut(series) for series in source["X"]]
    recording = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    motion = np.concatenate(parts).astype("<f2")
    return {
        "accelerometer": motion[:, :3],
        "gyroscope": motion[:, 3:],
        "exercise": source["y"][recording].astype(np.uint8),
        "exercises": np.array(source["y_labels"], "<U4"),
        "person": source["subject"][recording].astype(np.uint8),
        "arm": source["side"][recording].astype(np.uint8),
        "arms": np.array(watch.ARMS, "<U5"),
        "recording": recording.astype(np.uint8),
    }


if __name__ == "__main__":
    main(build, PACKAGE, watch.FILE, watch.SHA256, __doc__.splitlines()[0])
