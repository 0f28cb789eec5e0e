"""Build data/stamps.npz from its source, bit for bit.

    python data/build_stamps.py [--package FILE] [--output FILE]

Source: the pictures and the spoken descriptions of the Debian package tuxpaint-stamps-default
2022.06.04-1 (fetched with apt-get unless --package names a copy; it is never installed).
Sound and drawings are decoded by two Python packages: pip install -c constraints.txt -e .[data]
"""

from __future__ import annotations

import io
import re
from pathlib import Path, PurePosixPath

import numpy as np
import resvg_py
import soundfile
import torch
from building import deb, deb_files, main, resample
from PIL import Image
from scipy.signal import resample_poly

from mmlab.datasets import stamps
from mmlab.datasets.recordings import RATE, mfcc

PACKAGE = deb(
    "tuxpaint-stamps-default=2022.06.04-1",
    "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
)
FOLDER = "usr/share/tuxpaint/stamps/"
SPOKEN = re.compile(r"(?P<picture>.+)_desc(_(?P<language>[a-z]+))?\.ogg")
KINDS = {  # the first that fits; what fits none is left out: fewer than 35 pictures each
    "letter": ("symbols/alphabets/",),
    "symbol": ("symbols/",),
    "animal": ("animals/",),
    "food": ("food/",),
    "plant": ("plants/",),
    "clothes": ("clothes/",),
    "household": ("household/",),
    "season": ("seasonal/",),
    "town": ("town/",),
    "vehicle": ("vehicles/", "military/"),
}
LISTEN = (  # one of each kind, in nine languages
    "symbols/alphabets/english/filled/uppercase/B_filled_desc_ro.ogg",
    "symbols/math/7_desc_ru.ogg",
    "animals/mammals/cats/tiger_desc.ogg",
    "food/fruit/banana_desc_da.ogg",
    "plants/trees/birch_desc_el.ogg",
    "clothes/t_jacket_desc_ca.ogg",
    "household/dishes/glass_desc_fr.ogg",
    "seasonal/halloween/skull_desc_be.ogg",
    "town/roadsigns/hospital_desc_bg.ogg",
    "vehicles/cycle/motorbike_desc_ca.ogg",
)
FRAMES, SIDE, VISIBLE, LARGE = 24, 12, 48, 240


def kind_of(path: str) -> int | None:
    """The number of the kind in KINDS, by folder; None for a folder that is left out."""
    fits = (i for i, folders in enumerate(KINDS.values()) if path.startswith(folders))
    return next(fits, None)


def read_files(package: Path) -> dict[str, bytes]:
    """Pictures and recordings of the ten kinds by path within the folder of the stamps."""
    content = PACKAGE.read(package)

    def wanted(path: str) -> bool:
        inside = path.removeprefix(FOLDER)
        return inside.endswith((".png", ".svg", ".ogg")) and kind_of(inside) is not None

    return {p.removeprefix(FOLDER): file for p, file in deb_files(content, wanted).items()}


def spoken(files: dict[str, bytes]) -> list[tuple[str, str, str]]:
    """(recording, picture, language) of each description; of equal sounds only the first."""
    rows = {}
    for path, content in files.items():
        match = SPOKEN.fullmatch(path)
        if match and {f"{match['picture']}.png", f"{match['picture']}.svg"} & files.keys():
            rows.setdefault(packets(content), (path, match["picture"], match["language"] or "en"))
    return list(rows.values())


def packets(ogg: bytes) -> bytes:
    """What an Ogg file holds, without the headers of its pages: they number each file anew.

    A header has 27 bytes, of which the last counts the segments, then their sizes.
    """
    place, found = 0, []
    while place < len(ogg):
        start = place + 27 + ogg[place + 26]
        place = start + sum(ogg[place + 27 : start])
        found.append(ogg[start:place])
    return b"".join(found)


def sound(content: bytes) -> np.ndarray:
    """One channel of an Ogg file at RATE, (T,) in float64."""
    values, rate = soundfile.read(io.BytesIO(content), dtype="float64", always_2d=True)
    return resample_poly(values.mean(1), RATE, rate)


def speech(content: bytes) -> np.ndarray:
    """The MFCCs of an Ogg file over stretched time, (13, FRAMES)."""
    return resample(mfcc(torch.from_numpy(sound(content))).T.numpy(), FRAMES)


def picture(files: dict[str, bytes], stem: str, side: int = SIDE) -> np.ndarray:
    """The stamp on white, in the middle of a square, as means of its areas: (3, side, side)."""
    if f"{stem}.png" in files:
        content = files[f"{stem}.png"]
    else:
        content = drawn(files[f"{stem}.svg"].decode("utf-8"))
    image = Image.open(io.BytesIO(content)).convert("RGBA")
    square = Image.new("RGBA", (max(image.size),) * 2, "white")
    corner = tuple((square.width - side) // 2 for side in image.size)
    square.alpha_composite(image, corner)
    small = square.convert("RGB").resize((side, side), Image.Resampling.BOX)
    return np.asarray(small).transpose(2, 0, 1)


def drawn(svg: str) -> bytes:
    """A drawing as a .png, LARGE pixels wide; text is left out, as fonts differ by machine."""
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=LARGE, dpi=96, skip_system_fonts=True))


def whole_numbers(values: np.ndarray) -> dict[str, np.ndarray]:
    """(N, C, T) from -127 to 127: value = number * scale + centre, with both by channel (C, 1)."""
    low, high = (f(values, axis=(0, 2), keepdims=True)[0] for f in (np.min, np.max))
    scale, centre = ((high - low) / 254).astype("<f4"), ((high + low) / 2).astype("<f4")
    return {
        "speech": np.rint((values - centre) / scale).astype(np.int8),
        "scale": scale,
        "centre": centre,
    }


def described(rows: list[tuple[str, str, str]]) -> dict[str, np.ndarray]:
    """What recordings and pictures are, without their sound and pixels."""
    stems = sorted({stem for _, stem, _ in rows})
    kinds = [kind_of(stem) for stem in stems]
    names = [PurePosixPath(stem).name.lower() for stem in stems]
    groups = [
        f"{kind} {re.split('[_-]', name)[0]}" for kind, name in zip(kinds, names, strict=True)
    ]
    languages, language = np.unique([row[2] for row in rows], return_inverse=True)
    return {
        "picture_of": np.searchsorted(stems, [stem for _, stem, _ in rows]).astype("<u2"),
        "language": language.astype(np.uint8),
        "languages": languages.astype("<U2"),
        "kind": np.array(kinds, np.uint8),
        "kinds": np.array(list(KINDS), "<U9"),
        "name": np.array(names, "S"),
        "group": np.unique(groups, return_inverse=True)[1].astype("<u2"),
    }


def heard(files: dict[str, bytes], rows: list[tuple[str, str, str]]) -> dict[str, np.ndarray]:
    """What a reader can hear and see: the recordings LISTEN as sound, their pictures larger."""
    number = {path: i for i, (path, _, _) in enumerate(rows)}
    sounds = [sound(files[path]) for path in LISTEN]
    stems = [rows[number[path]][1] for path in LISTEN]
    return {
        "heard": np.array([number[path] for path in LISTEN], "<u2"),
        "sound": np.rint(np.concatenate(sounds) * 32767).clip(-32767, 32767).astype("<i2"),
        "lengths": np.array([len(x) for x in sounds], "<u2"),
        "seen": np.stack([picture(files, stem, VISIBLE) for stem in stems]),
    }


def build(package: Path) -> dict[str, np.ndarray]:
    """Every array of the file; recordings and pictures in the order of their paths."""
    files = read_files(package)
    rows = spoken(files)
    return {
        **whole_numbers(np.stack([speech(files[path]) for path, _, _ in rows])),
        **described(rows),
        "picture": np.stack([picture(files, stem) for stem in sorted({row[1] for row in rows})]),
        **heard(files, rows),
    }


if __name__ == "__main__":
    main(build, PACKAGE, stamps.FILE, stamps.SHA256, __doc__.splitlines()[0])
