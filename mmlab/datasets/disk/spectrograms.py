"""Pictures of sound, as the papers' codes make them: each recipe under its name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

SILENCE = 1e-7


def log_stft(wave: Tensor, n_fft: int, hop: int) -> Tensor:
    """log(|STFT| + 1e-7), (n_fft / 2 + 1, 1 + T // hop), of a wave (T,): Hann window, centred.

    Zeros stand beyond the ends, as in librosa 0.10.
    """
    window = torch.hann_window(n_fft, dtype=wave.dtype)
    spectrum = torch.stft(wave, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    return torch.log(spectrum.abs() + SILENCE)


def log_power(wave: Tensor, rate: int, length: int, hop: int) -> Tensor:
    """log(power per Hz + 1e-7), standardised: scipy's `spectrogram`, with its own window."""
    from scipy.signal import spectrogram

    *_, power = spectrogram(wave.numpy(), rate, nperseg=length, noverlap=length - hop)
    found = torch.log(torch.from_numpy(power) + SILENCE)
    return (found - found.mean()) / found.std(correction=0)


def fbank(wave: Tensor, rate: int, bins: int = 128) -> Tensor:
    """Log energies in `bins` mel bands, (frames, bins): Kaldi's filter bank, as torchaudio has it.

    The wave (T,) loses its mean. Frames of 25 ms every 10 ms, each without its mean, pre-emphasis
    .97, a symmetric Hann window, power, triangles from 20 Hz to half of the rate; no dither.
    """
    length, shift = rate * 25 // 1000, rate * 10 // 1000
    frames = (wave - wave.mean()).unfold(0, length, shift)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    frames = (frames - 0.97 * before) * torch.hann_window(length, periodic=False, dtype=wave.dtype)
    padded = 1 << (length - 1).bit_length()
    power = torch.fft.rfft(frames, padded).abs().square()
    energies = power[:, :-1] @ triangles(padded // 2, rate, bins).T.to(wave.dtype)
    return energies.clamp(min=torch.finfo(torch.float32).eps).log()


def triangles(count: int, rate: int, bins: int) -> Tensor:
    """The weights (bins, count) of `count` frequencies from 0 to below rate / 2, in mel bands."""

    def mel(frequency: Tensor) -> Tensor:
        return 1127 * torch.log1p(frequency / 700)

    low, high = mel(torch.tensor([20.0, rate / 2], dtype=torch.float64))
    edges = torch.linspace(float(low), float(high), bins + 2, dtype=torch.float64)
    place = mel(torch.arange(count, dtype=torch.float64) * rate / (2 * count))
    up = (place - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - place) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(up, down).clamp(min=0)


def tiled(wave: Tensor, length: int) -> Tensor:
    """A wave repeated, or cut, to `length`."""
    return wave.repeat(-(-length // len(wave)))[:length]


def middle(wave: Tensor, length: int) -> Tensor:
    """The middle of a wave; a shorter one is repeated."""
    start = max(0, (len(wave) - length) // 2)
    return tiled(wave[start:], length)


def ogm_ge(wave: Tensor, rate: int) -> Tensor:
    return log_stft(tiled(wave, 3 * rate).clamp(-1, 1), 512, 353)


def pmr(wave: Tensor, rate: int) -> Tensor:
    return log_power(tiled(wave, 10 * rate).clamp(-1, 1), rate, 512, 512 - 353)


def vggsound(wave: Tensor, rate: int) -> Tensor:
    return log_stft(middle(wave, 5 * rate).clamp(-1, 1), 256, 128)


def scaled_fbank(wave: Tensor, rate: int, mean: float, divisor: float) -> Tensor:
    """(fbank − mean) / divisor of 1024 frames: later ones are cut off, missing ones 0 at first."""
    found = fbank(wave, rate)[:1024]
    whole = torch.nn.functional.pad(found, (0, 0, 0, 1024 - len(found)))
    return (whole - mean) / divisor


Recipe = Callable[[Tensor, int], Tensor]

RECIPES: dict[str, tuple[int | None, Recipe]] = {
    "ogm-ge": (22_050, ogm_ge),
    "pmr": (16_000, pmr),
    "vggsound": (16_000, vggsound),
    "mla": (None, partial(scaled_fbank, mean=-5.081, divisor=4.4849)),
    "mmpareto": (None, partial(scaled_fbank, mean=-4.503877, divisor=2 * 5.141276)),
}
"""Name -> the rate to which the wave is brought (None: its own), and wave, rate -> picture.

- "ogm-ge": 3 s, tiled; STFT 512, hop 353: (257, 188). OGM-GE's and ReconBoost's for CREMA-D.
- "pmr": 10 s, tiled; scipy's spectrogram 512, overlap 353, standardised: (257, 1004). PMR's.
- "vggsound": 5 s; STFT 256, hop 128: (129, 626). OGM-GE's for VGGSound, which takes the 5 s at
  random places, in the test too; here they are the middle ones.
- "mla": filter bank (1024, 128), with the mean and the s.d. of MLA's loader.
- "mmpareto": filter bank (1024, 128), with the mean and the s.d. of MMPareto and BalanceBenchmark,
  which make the numbers half as large.
"""


def describe(recipe: str) -> str:
    """The unit of a recipe's numbers."""
    unit = "log amplitude" if recipe in ("ogm-ge", "vggsound") else "scaled log energy"
    return f"{unit} (recipe {recipe!r})"


def spectrogram(recipe: str, wave: np.ndarray, rate: int) -> np.ndarray:
    """The picture (float32) of a wave (T,) that is at the recipe's rate. Raises ValueError."""
    if len(wave) < rate * 25 // 1000:
        raise ValueError(f"the sound has {len(wave)} values at {rate} Hz; 25 ms are the least")
    _, make = RECIPES[recipe]
    return make(torch.from_numpy(wave), rate).float().numpy()
