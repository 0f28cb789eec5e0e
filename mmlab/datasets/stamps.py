"""stamps: pictures and their spoken descriptions in many languages. Real, paired, embedded.

data/README.md tells where the file comes from and how it is rebuilt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlab.datasets import dials, embedded
from mmlab.datasets.base import MultimodalData
from mmlab.datasets.recordings import RATE
from mmlab.seeds import generator

FILE = embedded.DATA / "stamps.npz"
SHA256 = "85e29544441d925814738f305906831767d13c04f82b7f0286be77e0944575cb"
MODALITIES = ("picture", "speech")
SPLITS = ("stamp", "language")
SHARES = (0.6, 0.15, 0.25)  # of the recordings in train, holdout and test
SOURCE = """\
Pictures and spoken descriptions: Tux Paint's stamps, Debian package tuxpaint-stamps-default
2022.06.04 (GPL-2, by many volunteers)."""
TUNED = "The settings were looked at on the test splits: tune anything new on the holdout alone."
CARD = f"""\
{SOURCE}
A recording describes its picture in one of 13 languages: the pairs are natural. One row is one
recording, so a picture has up to 11 rows, and languages cover different pictures.
Stamps of one kind whose names begin with the same word never cross a split in split="stamp".
Few people speak each language, and they are in all splits there; the file does not name them.
In split="language" the test has the pictures of training, so picture alone is nearly perfect.
{TUNED}"""
GAPS_CARD = f"""\
{SOURCE}
One row is one picture, with its description in one language: the pairs are natural.
Stamps of one kind whose names begin with the same word never cross a split.
Few people speak the language, and they are in all splits; the file does not name them.
{TUNED}"""


@dataclass(frozen=True)
class Described:
    """A picture to look at and its description to listen to.

    samples: the sound, (T,), between -1 and 1.
    rate: samples per second.
    picture: (48, 48, 3), whole numbers from 0 to 255.
    """

    samples: Tensor
    rate: int
    kind: str
    language: str
    name: str
    picture: np.ndarray


def load_stamps(
    *,
    seed: int = 0,
    split: str = "stamp",
    noise: Mapping[str, float] | None = None,
    keep: Mapping[str, float] | None = None,
    missing: float | Mapping[str, float] | None = None,
) -> MultimodalData:
    """Picture (B, 3, 12, 12) and speech (B, 13, 24), MFCCs over stretched time. Target: 10 kinds.

    seed:    what is in each split, the order, and every random dial.
    split:   "stamp": new stamps in holdout and test, whole groups of like names in one split;
             "language": every language in one split. 60 / 15 / 25 % of the recordings, up to one
             group or language.
    noise:   s.d. of Gaussian noise in all splits, in s.d. over the training samples of all pixels
             together (picture), of each MFCC coefficient (speech).
    keep:    share of the *training* samples that have the modality.
    missing: rate of missing modalities in all splits, one number or one per modality.

    Noise comes first, then both are standardised with statistics of the training split (pictures as
    a whole, speech per coefficient), then keep and missing hide.
    Raises ValueError for an unknown split, modality or value, TypeError for a seed or a setting of
    another type, FileNotFoundError or ValueError for a missing or damaged file.
    """
    settings = dials.check_dials(MODALITIES, noise, keep, missing)
    arrays = read()
    recordings = rows(seed, split, arrays)
    card = f"{_describe_split(recordings, split, arrays)}\n{CARD}"
    return _from_recordings(recordings, arrays, settings, seed, card)


def _from_recordings(
    recordings: Mapping[str, Tensor],
    arrays: Mapping[str, np.ndarray],
    settings: dials.Dials,
    seed: int,
    card: str,
) -> MultimodalData:
    """The data set of these rows of the file."""
    picture_of = arrays["picture_of"]
    views = {
        "picture": (arrays["picture"][picture_of], (0, 1, 2, 3)),
        "speech": (arrays["speech"], (0, 2)),
    }
    return embedded.from_rows(
        views,
        recordings,
        arrays["kind"][picture_of],
        settings,
        seed,
        n_classes=len(arrays["kinds"]),
        name="stamps",
        units={
            "picture": "s.d. of the pixels (3 colours x 12 x 12)",
            "speech": "s.d. of each MFCC coefficient (13 coefficients x 24 frames)",
        },
        card=card,
    )


def read(file: Path = FILE) -> dict[str, np.ndarray]:
    """The arrays of the embedded file.

    Recordings: speech (N, 13, 24), language (number in `languages`) and picture_of (row of the
    picture), each (N,). Pictures: picture (P, 3, 12, 12) from 0 to 255, kind (number in `kinds`),
    name and group, each (P,). To hear and see: heard (10,) rows of recordings, their sound in a row
    (16 bit, 8000 per second), lengths (10,), seen (10, 3, 48, 48).
    Raises FileNotFoundError, or ValueError where the checksum does not hold.
    """
    arrays = embedded.read_checked(file, SHA256, "build_stamps.py")
    speech = arrays.pop("speech") * arrays.pop("scale") + arrays.pop("centre")
    return arrays | {"speech": speech, "name": arrays["name"].astype(str)}


def rows(
    seed: int, split: str = "stamp", arrays: Mapping[str, np.ndarray] | None = None
) -> dict[str, Tensor]:
    """Which recordings of the file are in train, holdout and test, in shuffled order."""
    dials.check_seed(seed)
    dials.check_split(split, SPLITS)
    arrays = read() if arrays is None else arrays
    groups = {"stamp": arrays["group"][arrays["picture_of"]], "language": arrays["language"]}
    members = embedded.whole_groups(groups[split], SHARES, seed, "stamps")
    return embedded.shuffled(members, seed, "stamps")


def load_gaps(
    *, seed: int = 0, language: str = "ca", like: str | None = "da", at_random: bool = False
) -> MultimodalData:
    """The stamps with one recording per picture, which is missing where another language has none.

    The gaps are real: volunteers of the language `like` did not describe these pictures. They are
    not random: whole kinds lack a recording, so that a gap tells something of the target.

    language:  whose recordings these are; a picture without one in it is left out.
    like:      whose gaps; None: all recordings are there.
    at_random: in each split as many gaps as `like` has, but of pictures drawn at random.

    Splits by stamp, as those of `load_stamps` at the same seed. Both modalities are standardised
    with the statistics of the training split, before any recording is hidden.
    Raises ValueError for an unknown language.
    """
    arrays = read()
    own = torch.from_numpy(arrays["language"] == _number(language, arrays))
    recordings = {part: row[own[row]] for part, row in rows(seed, arrays=arrays).items()}
    settings = dials.check_dials(MODALITIES, None, None, None)
    card = f"{_describe_gaps(language, like, at_random)}\n{GAPS_CARD}"
    data = _from_recordings(recordings, arrays, settings, seed, card)
    if like is None:
        return data
    described = _described(like, arrays)
    hidden: dict[str, Any] = {}
    for part, row in recordings.items():
        gap = torch.from_numpy(~described[arrays["picture_of"][row]])
        if at_random:
            gap = gap[torch.randperm(len(gap), generator=generator(seed, "gaps", part))]
        hidden[part] = dials.hide(getattr(data, part), {"speech": gap}, seed)
    return replace(data, **hidden)


def coverage(language: str) -> dict[str, float]:
    """Share of the pictures of each kind that a language describes: kind -> 0 to 1.

    Raises ValueError for an unknown language.
    """
    arrays = read()
    described = _described(language, arrays)
    return {
        str(kind): float(described[arrays["kind"] == number].mean())
        for number, kind in enumerate(arrays["kinds"])
    }


def _described(language: str, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which pictures have a recording in a language, booleans (P,)."""
    own = arrays["language"] == _number(language, arrays)
    return np.isin(np.arange(len(arrays["kind"])), arrays["picture_of"][own])


def _number(language: str, arrays: Mapping[str, np.ndarray]) -> int:
    languages = arrays["languages"].tolist()
    if language not in languages:
        raise ValueError(f"unknown language {language!r}{dials.among(language, languages)}")
    return languages.index(language)


def listen() -> list[Described]:
    """Ten stamps, one of each kind, with the original sound of their descriptions, at 8 kHz.

    Raises FileNotFoundError, or ValueError where the checksum does not hold.
    """
    arrays = read()
    sounds = np.split(arrays["sound"], np.cumsum(arrays["lengths"])[:-1])
    return [
        Described(
            samples=torch.from_numpy(sound.astype(np.float32) / 32768),
            rate=RATE,
            kind=str(arrays["kinds"][arrays["kind"][arrays["picture_of"][row]]]),
            language=str(arrays["languages"][arrays["language"][row]]),
            name=str(arrays["name"][arrays["picture_of"][row]]),
            picture=seen.transpose(1, 2, 0),
        )
        for row, sound, seen in zip(arrays["heard"], sounds, arrays["seen"], strict=True)
    ]


def _describe_gaps(language: str, like: str | None, at_random: bool) -> str:
    said = f"Tested on new stamps, described in {language!r}."
    if like is None:
        return f"{said} No recording is missing."
    if at_random:
        return f"{said} In each split as many recordings are missing as {like!r} lacks, at random."
    return f"{said} A recording is missing where {like!r} has none: real gaps, not random ones."


def _describe_split(
    recordings: Mapping[str, Tensor], split: str, arrays: Mapping[str, np.ndarray]
) -> str:
    if split == "stamp":
        return "Tested on new stamps, in languages that were heard in training."
    spoken = {
        part: ", ".join(arrays["languages"][np.unique(arrays["language"][row])])
        for part, row in recordings.items()
    }
    return (
        f"Tested on {spoken['test']}, held out {spoken['holdout']}, trained on {spoken['train']}."
    )
