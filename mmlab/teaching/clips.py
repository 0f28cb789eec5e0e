"""Small clips that are drawn and hummed by a formula, as files in CREMA-D's layout.

Nobody's face and nobody's voice: they are for learning how files become a training.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mmlab.datasets.disk.crema_d import EMOTIONS
from mmlab.datasets.disk.extra import media

SIZE, FRAMES, PER_SECOND, RATE = 48, 8, 10, 16_000
MOUTHS = {"ANG": -8, "DIS": -14, "FEA": 4, "HAP": 16, "NEU": 10, "SAD": -2}
"""How far the ends of the mouth stand above its middle, pixels."""

PITCHES = {"ANG": 470, "DIS": 310, "FEA": 550, "HAP": 390, "NEU": 230, "SAD": 150}
"""Of the voice, Hz; each actor speaks a little higher or lower, and so does each clip."""


def make_crema_d(root: Path, actors: int = 12, seed: int = 0) -> list[str]:
    """Write lists, sounds (.wav) and videos (.flv); the names of the clips, six per actor.

    Every fourth clip is in test.csv, so all actors are on both sides, as in the published lists.
    Raises ImportError without PyAV and soundfile.
    """
    draw = np.random.default_rng(seed)
    lists: dict[str, list[str]] = {"train.csv": [], "test.csv": []}
    pairs = itertools.product(range(1001, 1001 + actors), EMOTIONS)
    for number, (actor, emotion) in enumerate(pairs):
        clip = f"{actor}_DFA_{emotion}_XX"
        lists["test.csv" if number % 4 == 3 else "train.csv"].append(f"{clip},{emotion}\n")
        write_wav(root / f"AudioWAV/{clip}.wav", voice(emotion, actor, draw))
        write_flv(root / f"VideoFlash/{clip}.flv", face(emotion, actor, draw))
    for name, rows in lists.items():
        (root / name).write_text("".join(rows), encoding="utf-8")
    return sorted(file.stem for file in (root / "AudioWAV").iterdir())


def voice(emotion: str, actor: int, draw: np.random.Generator) -> np.ndarray:
    """A second of a falling tone with overtones and noise, (RATE,)."""
    time = np.arange(RATE) / RATE
    start = PITCHES[emotion] + 8 * (actor % 5) + draw.normal(0, 20)
    phase = 2 * np.pi * start * (time - time**2 / 8)
    tone = sum(np.sin(k * phase) / k for k in (1, 2, 3))
    return 0.25 * tone + draw.normal(0, 0.02, RATE)


def face(emotion: str, actor: int, draw: np.random.Generator) -> list[Image.Image]:
    """Frames of a face whose mouth moves towards the emotion, on a ground of the actor's colour."""
    ground = tuple(np.random.default_rng(actor).integers(60, 200, 3).tolist())
    x, y = draw.integers(-3, 4, 2).tolist()
    frames = []
    for frame in range(FRAMES):
        picture = Image.new("RGB", (SIZE, SIZE), ground)
        pen, bend = ImageDraw.Draw(picture), MOUTHS[emotion] * (frame + 1) / FRAMES
        pen.ellipse((8 + x, 4 + y, 40 + x, 44 + y), fill=(230, 200, 170))
        for eye in (17, 31):
            pen.ellipse((eye - 2 + x, 16 + y, eye + 2 + x, 20 + y), fill="black")
        ends, middle = 33 + y - bend / 2, 33 + y + bend / 2
        mouth = [(16 + x, ends), (24 + x, middle), (32 + x, ends)]
        pen.line(mouth, fill=(150, 30, 30), width=4, joint="curve")
        frames.append(picture)
    return frames


def write_wav(path: Path, wave: np.ndarray) -> None:
    """A file of sound, RATE samples per second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    media("soundfile", "sound").write(path, wave, RATE)


def write_flv(path: Path, frames: Sequence[Image.Image]) -> None:
    """A video in Flash's format, as CREMA-D has them."""
    av = media("av", "video")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("flv1", rate=PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
