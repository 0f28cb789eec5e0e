"""Recordings are read and bad files are refused; MFCCs are those of an independent reference."""

import hashlib
import io
import wave
import zipfile

import numpy as np
import pytest
import scipy
import torch

from mmlab.datasets import archives, recordings
from mmlab.datasets.recordings import RATE, mfcc, raw_recordings


def wav(values, rate=RATE, channels=1):
    """The bytes of a 16-bit .wav file."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setnchannels(channels)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(np.asarray(values, "<i2").tobytes())
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "3_theo_10.wav").write_bytes(wav([1, -2, 3]))
    (tmp_path / "3_theo_2.wav").write_bytes(wav([16384, -32768]))
    (tmp_path / "0_lucas_7.wav").write_bytes(wav([0] * 5))
    (tmp_path / "notes.wav").write_bytes(b"not a recording of the set")
    return tmp_path


@pytest.fixture
def archive(folder):
    file = folder / "fsdd.zip"
    with zipfile.ZipFile(file, "w") as target:
        for sound in folder.glob("*.wav"):
            target.write(sound, f"fsdd/recordings/{sound.name}")
    return file


def chirp(seconds=0.5):
    """A tone that rises from 200 to 3000 Hz and fades, with a little noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * (200 * time + 1400 * time**2 / seconds)) * np.exp(-3 * time)
    return 0.5 * tone + 0.001 * np.random.default_rng(0).normal(size=len(time))


def reference_mfcc(samples):
    """The recipe written down a second time, step by step, with numpy and scipy in float64."""
    padded = np.pad(samples, 200, mode="reflect")
    frames = np.stack([padded[i : i + 400] for i in range(0, len(padded) - 399, 200)])
    power = np.abs(np.fft.rfft(frames * scipy.signal.get_window("hann", 400))) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 4000 / 700), 130) / 2595) - 1)
    bins = np.arange(201) * RATE / 400
    bands = [np.interp(bins, edges[i : i + 3], [0, 1, 0]) for i in range(128)]
    decibel = 10 * np.log10(np.maximum(power @ np.transpose(bands), 1e-10))
    decibel = np.maximum(decibel, decibel.max() - 80)
    return scipy.fft.dct(decibel, type=2, norm="ortho")[:, :13].T


@pytest.mark.parametrize(
    "sound",
    [chirp(), chirp(0.1), np.random.default_rng(1).normal(size=201), np.eye(1, 4000, 2000)[0]],
    ids=["chirp", "short chirp", "shortest", "click"],
)
def test_mfcc_is_that_of_an_independent_reference(sound):
    expected = reference_mfcc(sound)
    found = mfcc(torch.from_numpy(sound))
    assert found.shape == (13, 1 + len(sound) // 200)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-8)
    single = mfcc(torch.from_numpy(sound).float())
    np.testing.assert_allclose(single.numpy(), expected, atol=0.02)


def test_mfcc_shape_and_silence():
    assert mfcc(torch.randn(4000)).shape == (13, 21)
    silence = mfcc(torch.zeros(4000))
    torch.testing.assert_close(silence[0], torch.full((21,), -100 * 128**0.5))
    torch.testing.assert_close(silence[1:], torch.zeros(12, 21), atol=1e-3, rtol=0)


@pytest.mark.parametrize("source", ["folder", "archive"])
def test_recordings_are_read_in_order_from_a_folder_or_an_archive(source, request):
    found = raw_recordings(request.getfixturevalue(source))
    about = [(r.digit, r.speaker, r.take) for r in found]
    assert about == [(0, "lucas", 7), (3, "theo", 2), (3, "theo", 10)]
    assert found[1].samples.tolist() == [0.5, -1.0]


def test_reading_an_archive_unpacks_nothing(archive):
    before = sorted(archive.parent.parent.rglob("*"))
    raw_recordings(archive)
    assert sorted(archive.parent.parent.rglob("*")) == before


def test_no_recording_says_what_was_expected(tmp_path):
    for source in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match=r"7_jackson_32\.wav"):
            raw_recordings(source)


def test_unreadable_or_foreign_sound_is_refused_by_name(folder):
    (folder / "1_theo_0.wav").write_bytes(b"RIFF")
    with pytest.raises(ValueError, match=r"1_theo_0\.wav is not a readable"):
        raw_recordings(folder)
    (folder / "1_theo_0.wav").write_bytes(wav([1, 2], rate=44100, channels=2))
    with pytest.raises(ValueError, match=r"1_theo_0\.wav has .*\(2, 16, 44100\)"):
        raw_recordings(folder)


def test_a_fetched_archive_must_have_the_known_content(archive, monkeypatch):
    monkeypatch.setattr("pooch.retrieve", lambda *_, **__: str(archive))
    with pytest.raises(ValueError, match="3 recordings with SHA-256"):
        raw_recordings()
    found = {(r.digit, r.speaker, r.take): r for r in raw_recordings(archive)}
    monkeypatch.setattr(recordings, "CONTENT_SHA256", digest_of(found))
    assert len(raw_recordings()) == 3


# --- what comes from elsewhere is not trusted ---------------------------------------------------


def pack(file, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(file, "w", method) as target:
        for name, content in members:
            target.writestr(name, content)
    return file


NOISE = np.random.default_rng(0).integers(-9, 9, 400)


def test_what_a_refused_archive_is_compared_with(tmp_path):
    found = raw_recordings(pack(tmp_path / "a.zip", [("a/b/1_theo_1.wav", wav(NOISE))]))
    assert len(found) == 1 and len(found[0].samples) == 400


@pytest.mark.parametrize(
    ("limit", "value", "found"),
    [
        ("MOST_FILES", 2, r"holds 3 files; allowed are at most 2\."),
        ("MOST_BYTES", 2000, r"unpacks to 2532 bytes; allowed are at most 2000\."),
        ("MOST_BYTES", 100, r"has \d+ bytes; allowed are at most 100\."),
        ("LONGEST", 800, r"1_theo_0\.wav has more than 800 bytes; allowed .*cut it"),
    ],
)
def test_an_archive_has_limits(tmp_path, monkeypatch, limit, value, found):
    members = [(f"1_theo_{take}.wav", wav(NOISE)) for take in range(3)]
    file = pack(tmp_path / "large.zip", members)
    monkeypatch.setattr(archives, limit, value)
    with pytest.raises(ValueError, match=found):
        raw_recordings(file)


def test_a_folder_has_limits_too(folder, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 100)
    with pytest.raises(ValueError, match="more than 100 bytes together; give a part"):
        raw_recordings(folder)
    monkeypatch.setattr(archives, "LONGEST", 49)
    with pytest.raises(ValueError, match=r"_\d+\.wav has more than 49 bytes"):
        raw_recordings(folder)


def test_a_file_without_end_is_not_read_to_its_end():
    class Endless:
        def read(self, size=-1):
            assert 0 < size <= 2**21
            return bytes(size)

    with pytest.raises(ValueError, match=r"1_theo_1\.wav has more than 1048576 bytes"):
        archives._content("1_theo_1.wav", Endless())


def test_an_archive_that_swells_is_refused_before_it_is_read(tmp_path, monkeypatch):
    file = pack(tmp_path / "bomb.zip", [("1_theo_1.wav", wav(np.zeros(400_000)))])
    monkeypatch.setattr(archives, "_content", lambda *_: pytest.fail("this was read"))
    with pytest.raises(
        ValueError, match=r"unpacks to \d{3} times its size; allowed are at most 100"
    ):
        raw_recordings(file)


def test_an_archive_that_declares_too_little_gives_no_more_than_that(tmp_path, monkeypatch):
    """Its one recording declares 1000 bytes and has 800 044."""
    content = wav(np.zeros(400_000))
    packed = pack(tmp_path / "liar.zip", [("1_theo_1.wav", content)]).read_bytes()
    size, small = (n.to_bytes(4, "little") for n in (len(content), 1000))
    assert packed.count(size) == 2, "before the content and in the directory at the end"
    (tmp_path / "liar.zip").write_bytes(packed.replace(size, small))
    got = []
    read = archives._content
    monkeypatch.setattr(archives, "_content", lambda *given: got.append(read(*given)))
    with pytest.raises(ValueError, match=r"liar\.zip is damaged \(Bad CRC.*fetch it again"):
        raw_recordings(tmp_path / "liar.zip")
    assert got == []


@pytest.mark.parametrize(
    "name", ["../1_theo_1.wav", "/1_theo_1.wav", "a/../../1_theo_1.wav", "C:/1_theo_1.wav"]
)
def test_a_member_outside_of_the_archive_is_refused(tmp_path, name):
    file = pack(tmp_path / "a.zip", [(name, wav(NOISE))])
    with pytest.raises(ValueError, match="which lies outside of it; allowed are paths within"):
        raw_recordings(file)


@pytest.mark.parametrize(
    ("method", "found"),
    [(zipfile.ZIP_BZIP2, "compressed by method 12"), (zipfile.ZIP_LZMA, "compressed by method 14")],
)
def test_other_compressions_are_refused(tmp_path, method, found):
    """They would swell by far more than is asked of them at once."""
    file = pack(tmp_path / "a.zip", [("1_theo_1.wav", wav(NOISE))], method)
    with pytest.raises(ValueError, match=rf"{found}; allowed are stored or deflated"):
        raw_recordings(file)


def test_an_archive_under_a_password_is_refused(tmp_path):
    file = pack(tmp_path / "a.zip", [("1_theo_1.wav", wav(NOISE))])
    packed = bytearray(file.read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        packed[packed.index(mark) + flags] |= 1
    file.write_bytes(packed)
    with pytest.raises(ValueError, match="under a password; allowed are files without"):
        raw_recordings(file)


@pytest.mark.parametrize("place", range(0, 1000, 90))
def test_a_damaged_archive_is_told_from_a_good_one(tmp_path, place):
    """Wherever the damage is: the same recordings, or an error that says what to do."""
    file = pack(tmp_path / "a.zip", [(f"1_theo_{take}.wav", wav(NOISE)) for take in (1, 2)])
    good = [r.samples for r in raw_recordings(file)]
    packed = bytearray(file.read_bytes())
    place %= len(packed)
    packed[place] ^= 0xFF
    file.write_bytes(packed)
    try:
        found = [r.samples for r in raw_recordings(file)]
    except (ValueError, FileNotFoundError) as error:
        assert str(file) in str(error)
    else:
        assert all(map(torch.equal, found, good))


def test_an_archive_of_a_kind_that_is_yet_to_come_is_refused(tmp_path):
    file = pack(tmp_path / "a.zip", [("1_theo_1.wav", wav(NOISE))])
    packed = bytearray(file.read_bytes())
    packed[packed.index(b"PK\x01\x02") + 6] = 195
    file.write_bytes(packed)
    with pytest.raises(ValueError, match=r"a\.zip is damaged \(zip file version 19\.5\)"):
        raw_recordings(file)


def test_one_recording_twice_is_refused(tmp_path):
    members = [(f"{folder}/1_theo_1.wav", wav(NOISE)) for folder in "ab"]
    with pytest.raises(ValueError, match=r"1_theo_1\.wav twice \(digit 1, speaker theo, take 1\)"):
        raw_recordings(pack(tmp_path / "a.zip", members))
    for name in ("1_theo_1.wav", "1_theo_01.wav"):
        (tmp_path / name).write_bytes(wav(NOISE))
    with pytest.raises(ValueError, match=r"twice .*leave one of them out"):
        raw_recordings(tmp_path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (wav(NOISE)[:-10], "holds 790 bytes of sound and declares 800"),
        (wav(NOISE)[:-11], "holds 789 bytes of sound and declares 800"),
        (wav([]), "holds 0 bytes of sound"),
        (b"", r"is not a readable \.wav file"),
        (wav(NOISE)[:16] + b"\xff" * 4 + wav(NOISE)[20:], r"is not a readable \.wav file"),
    ],
)
def test_a_recording_that_is_cut_short_is_refused(tmp_path, content, found):
    (tmp_path / "1_theo_1.wav").write_bytes(content)
    with pytest.raises(ValueError, match=rf"1_theo_1\.wav {found}"):
        raw_recordings(tmp_path)


def test_a_file_that_is_no_archive_is_said(tmp_path):
    file = tmp_path / "fsdd.tar.gz"
    file.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"fsdd\.tar\.gz is neither a folder nor a zip archive"):
        raw_recordings(file)


@pytest.mark.parametrize("path", [5, True, ["a"], 1.5])
def test_a_path_is_a_path(path):
    with pytest.raises(TypeError, match=r"path is .*; give the path of a folder or a"):
        raw_recordings(path)


def test_what_is_no_file_is_said(tmp_path):
    (tmp_path / "1_theo_1.wav").mkdir()
    with pytest.raises(ValueError, match=r"1_theo_1\.wav is no file; move it out"):
        raw_recordings(tmp_path)


@pytest.mark.parametrize(
    "samples",
    [torch.zeros(200), torch.zeros(2, 4000), torch.zeros(4000).short(), torch.zeros(())],
)
def test_mfcc_needs_a_row_of_real_numbers(samples):
    with pytest.raises(ValueError, match=r"samples are torch\..*shape .*at least 201 real numbers"):
        mfcc(samples)


def test_mfcc_needs_a_tensor():
    with pytest.raises(TypeError, match=r"samples is an ndarray; give a tensor"):
        mfcc(np.zeros(4000))


def digest_of(found):
    """The content checksum, written down a second time."""
    text = b""
    for key in sorted(found):
        values = (found[key].samples * 32768).to(torch.int16).numpy().astype("<i2")
        text += f"{key}{len(values)}".encode() + values.tobytes()
    return hashlib.sha256(text).hexdigest()


def test_no_network_says_what_to_do_instead(monkeypatch):
    def fail(*_, **__):
        raise ConnectionRefusedError("no route")

    monkeypatch.setattr("pooch.retrieve", fail)
    with pytest.raises(ConnectionError, match=r"no route.*give its path.*stamps\.listen\(\)"):
        raw_recordings()
