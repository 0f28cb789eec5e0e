"""The cache of decoded samples: read once, keyed by content, whole or not at all."""

import shutil

import numpy as np
import pytest
from making import make_picture

from mmlab.datasets.disk.decoded import decoded
from mmlab.datasets.disk.files import Digests
from mmlab.datasets.disk.pictures import Picture
from mmlab.datasets.disk.reader import Reader
from mmlab.datasets.disk.text import Words
from mmlab.files import UnwritableError


class Counting(Picture):
    """Counts what it reads."""

    read = 0

    def __call__(self, path):
        Counting.read += 1
        return super().__call__(path)


@pytest.fixture
def pictures(tmp_path):
    files = [tmp_path / f"pictures/{i}.png" for i in range(4)]
    for i, file in enumerate(files):
        make_picture(file, 50 * i)
    return files


def test_nothing_is_read_twice(tmp_path, pictures):
    Counting.read = 0
    first = decoded(tmp_path / "cache", "it", Counting(4), pictures)
    again = decoded(tmp_path / "cache", "it", Counting(4), pictures)
    assert Counting.read == 4 and again == first and not first.damaged
    assert np.array_equal(again[2], Picture(4)(pictures[2]))


def test_the_key_is_of_the_content_and_the_settings_and_not_of_the_place(tmp_path, pictures):
    def key(reader, files):
        return decoded(tmp_path / "cache", "it", reader, files).key

    first = key(Picture(4), pictures)
    shutil.move(tmp_path / "pictures", tmp_path / "moved")
    moved = [tmp_path / "moved" / file.name for file in pictures]
    assert key(Picture(4), moved) == first != key(Picture(5), moved)
    make_picture(moved[0], 7)
    assert key(Picture(4), moved) != first


def test_texts_are_kept_in_two_files(tmp_path):
    kept = decoded(tmp_path, "it", Words(3), ["a b", "c"])
    other = decoded(tmp_path, "it", Words(3), ["a b", "d"])
    assert kept[0]["mask"].tolist() == [True, True, False] and kept.key != other.key


def test_damaged_and_unlike_samples_are_noted(tmp_path, pictures):
    pictures[1].write_bytes(b"no picture")
    kept = decoded(tmp_path / "cache", "it", Unlike(), pictures)
    assert set(kept.damaged) == {1, 2}
    assert "1.png cannot be read" in kept.damaged[1] and "of shape (3,)" in kept.damaged[2]


class Unlike(Reader):
    def __call__(self, path):
        found = Picture(4)(path)
        return found[:, 0, 0] if path.name == "2.png" else found


def test_a_file_of_the_cache_that_is_deleted_is_made_again(tmp_path, pictures):
    first = decoded(tmp_path / "cache", "it", Picture(4), pictures)
    next(iter(first.parts.values())).unlink()
    again = decoded(tmp_path / "cache", "it", Picture(4), pictures)
    assert again == first and np.array_equal(again[1], Picture(4)(pictures[1]))


def test_a_full_disk_is_an_error_before_anything_is_decoded(tmp_path, pictures, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(UnwritableError, match="No space left"):
        decoded(tmp_path / "cache", "it", Picture(4), pictures)
    assert not list((tmp_path / "cache").glob("*.npy"))


class Stopping(Picture):
    def __call__(self, path):
        raise KeyboardInterrupt


def test_what_is_stopped_leaves_nothing(tmp_path, pictures):
    with pytest.raises(KeyboardInterrupt):
        decoded(tmp_path / "cache", "it", Stopping(4), pictures)
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["digests.json"]


def test_only_a_changed_file_is_read_again(tmp_path, pictures, monkeypatch):
    note = tmp_path / "digests.json"
    digests = Digests(note)
    first = [digests.of(file) for file in pictures]
    digests.save()
    make_picture(pictures[3], 9)
    opened = []
    monkeypatch.setattr(
        "hashlib.file_digest", lambda stream, name: opened.append(stream.name) or Zero
    )
    again = [Digests(note).of(file) for file in pictures]
    assert again == [*first[:3], "0"] and opened == [str(pictures[3])]


class Zero:
    @staticmethod
    def hexdigest():
        return "0"


def test_a_folder_is_another_where_a_file_or_a_name_in_it_is(tmp_path):
    def digest():
        return Digests(tmp_path / "note.json").of(tmp_path / "clip")

    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "1.jpg").write_bytes(b"one")
    found = [digest()]
    (tmp_path / "clip" / "1.jpg").write_bytes(b"two")
    found.append(digest())
    (tmp_path / "clip" / "1.jpg").rename(tmp_path / "clip" / "2.jpg")
    found.append(digest())
    (tmp_path / "clip" / "3.jpg").write_bytes(b"two")
    found.append(digest())
    assert len({*found}) == 4 and digest() == found[-1]
