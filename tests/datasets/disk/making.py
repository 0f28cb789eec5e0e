"""Tiny files of every kind: sound, pictures, videos with and without sound; and what is wrong."""

from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"


def tone(pitch: float, seconds: float, rate: int) -> np.ndarray:
    """A sine, at half of the loudest."""
    time = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * pitch * time)).astype(np.float32)


def write(path: Path, content: str | bytes, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding) if isinstance(content, str) else content)


def make_array(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values, allow_pickle=values.dtype == object)


def make_wav(path: Path, pitch: float = 440, seconds: float = 0.5, rate: int = 16_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, tone(pitch, seconds, rate), rate)


def make_picture(path: Path, light: int = 128, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), light, np.uint8)).save(path)


def make_video(
    path: Path, lights: list[int], codec: str, pitch: float | None = None, rate: int = 16_000
) -> None:
    """A video with a frame of each grey, ten per second; with a tone, where a pitch is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        pictures = container.add_stream(codec, rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 32, 32, "yuv420p"
        sound = pitch and container.add_stream("aac", rate=rate, layout="mono")
        for light in lights:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), light, np.uint8), "rgb24")
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if sound:
            wave = tone(pitch, len(lights) / 10, rate)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate = rate
            container.mux(sound.encode(frame))
            container.mux(sound.encode())
