"""Spoken digits as sound, from an archive that is fetched or given, and the MFCCs of a sound."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmlab.checks import kind_of
from mmlab.datasets import archives

RATE = 8000  # samples per second
ARCHIVE = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.zip"
# Over the names and samples of all 3000 recordings: it holds however an archive is packed.
CONTENT_SHA256 = "ee2198da4d99d1de2f4cb76d378318b58113b2562ece8a00fe761ba76d4911c9"
NAME = re.compile(r"\d_[a-z]+_\d+\.wav")  # digit, speaker, take


@dataclass(frozen=True)
class Recording:
    """One spoken digit: samples (T,) between -1 and 1, RATE of them per second."""

    samples: Tensor
    digit: int
    speaker: str
    take: int


def raw_recordings(path: Path | str | None = None) -> list[Recording]:
    """Recordings in the order of digit, speaker and take.

    path: a folder or .zip of `{digit}_{speaker}_{take}.wav` (mono, 16 bit, 8 kHz). None fetches
          the official archive of 3000 into pooch's cache, once, and checks its content.

    Nothing is unpacked: files are read straight out of the archive, within limits (`archives`).
    Raises FileNotFoundError where there is no recording, ConnectionError where the archive cannot
    be fetched, ValueError for a file of another format, one recording twice, or an archive that
    is damaged, too large, or of another content.
    """
    if not (path is None or isinstance(path, str | os.PathLike)):
        raise TypeError(f"path is {path!r}; give the path of a folder or a .zip, or None")
    source = _fetch() if path is None else Path(path)
    found = _read_all(source)
    if not found:
        raise FileNotFoundError(
            f"no recording in {source}; expected files such as 7_jackson_32.wav"
        )
    if path is None:
        _check_content(source, found)
    return [Recording(_scale(found[key]), *key) for key in sorted(found)]


def _read_all(source: Path) -> dict[tuple[int, str, int], np.ndarray]:
    """The 16-bit samples of each digit, speaker and take."""
    found: dict[tuple[int, str, int], np.ndarray] = {}
    for name, content in archives.files(source, NAME):
        digit, speaker, take = name.removesuffix(".wav").split("_")
        key = int(digit), speaker, int(take)
        if key in found:
            raise ValueError(
                f"{source} holds the recording {name} twice (digit {digit}, speaker {speaker}, "
                f"take {int(take)}); leave one of them out"
            )
        found[key] = _read(name, content)
    return found


def mfcc(samples: Tensor) -> Tensor:
    """13 mel-frequency cepstral coefficients of a recording (T,), shape (13, 1 + T // 200).

    Power spectrum of 50 ms Hann windows every 25 ms (centred, mirrored ends), 128 mel bands (HTK
    scale, no normalisation), decibels down to 80 below the loudest, orthonormal DCT-II. The
    embedded features are these, stretched to 24 frames.

    Raises TypeError for what is no tensor, ValueError for another shape, whole numbers, or fewer
    than 201 samples: the ends are mirrored over 200.
    """
    if not isinstance(samples, Tensor):
        raise TypeError(f"samples is {kind_of(samples)}; give a tensor, such as recording.samples")
    if samples.ndim != 1 or len(samples) < 201 or not samples.is_floating_point():
        raise ValueError(
            f"samples are {samples.dtype} of shape {tuple(samples.shape)}; give at least 201 real "
            "numbers between -1 and 1 in one row"
        )
    window = torch.hann_window(400, dtype=samples.dtype, device=samples.device)
    spectrum = torch.stft(samples, 400, 200, window=window, return_complex=True).abs() ** 2
    power = _mel_bands().to(spectrum) @ spectrum
    decibel = 10 * power.clamp(min=1e-10).log10()
    decibel = decibel.clamp(min=decibel.max() - 80)
    return _cosines().to(spectrum) @ decibel


def _mel_bands(bands: int = 128, bins: int = 201) -> Tensor:
    """Triangles (bands, bins), evenly spaced on the HTK mel scale from 0 to RATE / 2."""
    frequency = torch.linspace(0, RATE / 2, bins, dtype=torch.float64)
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)
    low, centre, high = (edges[i : i + bands, None] for i in range(3))
    rising, falling = (frequency - low) / (centre - low), (high - frequency) / (high - centre)
    return torch.minimum(rising, falling).clamp(min=0)


def _cosines(coefficients: int = 13, bands: int = 128) -> Tensor:
    """The orthonormal DCT-II (coefficients, bands)."""
    k = torch.arange(coefficients, dtype=torch.float64)[:, None]
    basis = torch.cos(math.pi / bands * (torch.arange(bands, dtype=torch.float64) + 0.5) * k)
    basis[0] /= math.sqrt(2)
    return basis * math.sqrt(2 / bands)


def _fetch() -> Path:
    """The official archive, from pooch's cache or the network."""
    import pooch  # only a download needs it

    try:
        return Path(pooch.retrieve(ARCHIVE, known_hash=None, fname="fsdd-1.0.10.zip"))
    except OSError as error:
        raise ConnectionError(
            f"could not fetch {ARCHIVE} ({error}); fetch it elsewhere and give its path, or listen "
            "to stamps.listen(), which needs no network"
        ) from error


def _read(name: str, content: bytes) -> np.ndarray:
    """The 16-bit samples of a .wav file."""
    try:
        with wave.open(io.BytesIO(content)) as sound:
            form = (sound.getnchannels(), 8 * sound.getsampwidth(), sound.getframerate())
            frames = sound.readframes(sound.getnframes())
            declared = sound.getnframes()
    except (wave.Error, EOFError, RuntimeError) as error:  # the last for lengths that cannot be
        raise ValueError(f"{name} is not a readable .wav file: {error}") from error
    if form != (1, 16, RATE):
        raise ValueError(f"{name} has (channels, bits, rate) {form}; convert it to (1, 16, {RATE})")
    if not frames or len(frames) != 2 * declared:
        raise ValueError(
            f"{name} holds {len(frames)} bytes of sound and declares {2 * declared}; it must hold "
            "what it declares, and not nothing: fetch it again, or leave it out"
        )
    return np.frombuffer(frames, "<i2")


def _check_content(source: Path, found: dict[tuple[int, str, int], np.ndarray]) -> None:
    digest = hashlib.sha256()
    for key in sorted(found):
        digest.update(f"{key}{len(found[key])}".encode())
        digest.update(found[key].astype("<i2").tobytes())
    if digest.hexdigest() != CONTENT_SHA256:
        raise ValueError(
            f"the archive {source} holds {len(found)} recordings with SHA-256 "
            f"{digest.hexdigest()} instead of {CONTENT_SHA256}; delete it and fetch it again"
        )


def _scale(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32) / 32768)
