"""Sound of a file, as the picture that a recipe makes of it; or as somebody has made it before."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmlab.datasets.disk.extra import media
from mmlab.datasets.disk.pickles import read_array, read_pickle
from mmlab.datasets.disk.reader import Reader
from mmlab.datasets.disk.spectrograms import RECIPES, spectrogram

MADE = (".pkl", ".npy", ".pt")
"""Endings of files that hold pictures of sound already."""


def read_wave(path: Path) -> tuple[np.ndarray, int]:
    """The mean of the channels, (T,) float32 from −1 to 1, and the samples per second.

    A .wav, .flac or .ogg is read by soundfile, the sound of a video by PyAV.
    Raises ImportError without them, and what they raise for a damaged file.
    """
    if path.suffix.lower() in (".wav", ".flac", ".ogg"):
        values, rate = media("soundfile", "sound").read(path, dtype="float32", always_2d=True)
        return values.mean(1), rate
    av = media("av", "the sound of a video")
    with av.open(str(path)) as container:
        if not container.streams.audio:
            raise ValueError("it has no sound")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="flt", layout="mono", rate=stream.rate)
        parts = [
            part.to_ndarray()[0]
            for frame in [*container.decode(stream), None]  # the last gives what was kept back
            for part in resampler.resample(frame)
        ]
    return np.concatenate(parts), stream.rate


def resampled(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """A wave at another rate, by scipy's polyphase filter (librosa's differs in the 3rd digit)."""
    if rate == wanted:
        return wave
    from scipy.signal import resample_poly

    ratio = Fraction(wanted, rate)
    return resample_poly(wave, ratio.numerator, ratio.denominator).astype(np.float32)


@dataclass(frozen=True)
class Sound(Reader):
    """A file of sound as the picture (float32) that `recipe` makes of it.

    A .pkl, .npy or .pt holds such a picture and is taken as it is, without pickle's dangers.
    """

    recipe: str

    def __call__(self, path: Path) -> np.ndarray:
        if path.suffix in MADE:
            return read_made(path)
        wanted, _ = RECIPES[self.recipe]
        wave, rate = read_wave(path)
        if wanted is not None:
            wave, rate = resampled(wave, rate, wanted), wanted
        return spectrogram(self.recipe, wave, rate)


def read_made(path: Path) -> np.ndarray:
    """An array of floats, (H, W), from a file that somebody's code has made.

    Raises ValueError for what is none.
    """
    if path.suffix == ".pt":
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        found = loaded.numpy() if isinstance(loaded, Tensor) else loaded
    else:
        found = read_pickle(path) if path.suffix == ".pkl" else read_array(path)
    if not isinstance(found, np.ndarray) or found.dtype.kind != "f" or found.ndim != 2:
        raise ValueError(
            f"it holds {type(found).__name__}, and an array of floats (H, W) is wanted"
        )
    return np.array(found, np.float32)
