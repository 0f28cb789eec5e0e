"""Real recordings: they are the ones behind the embedded features, and bad files are refused."""

import hashlib
import importlib.util
import io
import wave
import zipfile

import numpy as np
import pytest
import torch

from mmlab.datasets import recordings
from mmlab.datasets.av_digits import FILE, read
from mmlab.datasets.recordings import RATE, mfcc, raw_recordings, samples


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
            target.write(sound, f"../../fsdd/recordings/{sound.name}")
    return file


def test_samples_cover_all_digits_and_speakers():
    found = samples()
    assert [r.digit for r in found] == list(range(10))
    assert len({r.speaker for r in found}) == 6
    for r in found:
        assert r.samples.dtype == torch.float32 and 0.3 < len(r.samples) / RATE < 0.6
        assert 0.01 < r.samples.abs().max() <= 1


def test_mfcc_of_the_sound_is_the_embedded_feature():
    spec = importlib.util.spec_from_file_location("builder", FILE.parent / "build_av_digits.py")
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    arrays = read()
    for r in samples():
        row = np.flatnonzero(
            (arrays["speakers"][arrays["speaker"]] == r.speaker)
            & (arrays["digit"] == r.digit)
            & (arrays["take"] == r.take)
        )
        features = builder.resample(mfcc(r.samples).T.numpy())
        embedded = arrays["mfcc"][row.item()].astype(np.float64)
        np.testing.assert_allclose(embedded, features, rtol=2**-11, atol=1e-3)


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
    with pytest.raises(ConnectionError, match=r"no route.*give its path.*samples\(\)"):
        raw_recordings()
