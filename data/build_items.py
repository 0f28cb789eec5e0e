"""Build data/items.npz from its source, bit for bit.

    python data/build_items.py [--package FILE] [--output FILE]

Source: the items and one set of sprites of the game Cataclysm: Dark Days Ahead, as the Debian
package cataclysm-dda-data 0.F-3-9 carries them (fetched with apt-get unless --package names a copy;
it is never installed).
"""

from __future__ import annotations

import io
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from building import deb, deb_files, main
from PIL import Image

from mmlab.datasets import items

PACKAGE = deb(
    "cataclysm-dda-data=0.F-3-9",
    "cd0c097169fe364fdb6bcdab77663d24920a063387ce2fbf1b5d3be01c141105",
)
FOLDER = "usr/share/games/cataclysm-dda"
DEFINITIONS = f"{FOLDER}/json/items/"
SPRITES = f"{FOLDER}/gfx/ChestHole16Tileset/tiles.png"
PLACES = f"{FOLDER}/gfx/ChestHole16Tileset/tile_config.json"
KINDS = {  # our nine kinds, and the types of the game in each
    "food": ("COMESTIBLE",),
    "clothes": ("ARMOR",),
    "gear": ("TOOL_ARMOR",),
    "tool": ("TOOL",),
    "book": ("BOOK",),
    "gun": ("GUN",),
    "gun part": ("GUNMOD", "MAGAZINE"),
    "ammunition": ("AMMO",),
    "other": ("GENERIC",),
}
KIND_OF = {kind: i for i, kinds in enumerate(KINDS.values()) for kind in kinds}
UNITS = {"": 1, "mg": 1e-3, "g": 1, "kg": 1e3, "ml": 1, "L": 1e3}  # of grams and millilitres
SIDE, MATERIALS = 16, 20

Item = dict[str, Any]


def read_items(files: dict[str, bytes]) -> dict[str, Item]:
    """The items of the nine kinds by their key, with what they take over from another one."""
    found: dict[str, Item] = {}
    for path, content in files.items():
        if path.startswith(DEFINITIONS):
            for item in json.loads(content):
                if item["type"] in KIND_OF:
                    found[item.get("id") or item["abstract"]] = item

    def whole(item: Item) -> Item:
        parent = found.get(item.get("copy-from"), item)
        return item if parent is item else whole(parent) | item

    return {key: whole(item) for key, item in found.items() if "id" in item}


def read_places(files: dict[str, bytes]) -> dict[str, int]:
    """Which sprite of the first sheet shows each item; the game counts them row by row."""
    sheet = json.loads(files[PLACES])["tiles-new"][0]
    places: dict[str, int] = {}
    for tile in sheet["tiles"]:
        for name in [tile["id"]] if isinstance(tile["id"], str) else tile["id"]:
            places.setdefault(name, tile.get("fg"))
    return places


def cut(sheet: bytes) -> np.ndarray:
    """The sprites of a sheet on white, (N, 3, SIDE, SIDE)."""
    image = Image.open(io.BytesIO(sheet)).convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    pixels = np.asarray(Image.alpha_composite(white, image).convert("RGB"))
    rows, columns = image.height // SIDE, image.width // SIDE
    grid = pixels.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return grid.reshape(rows * columns, 3, SIDE, SIDE)


def name_of(item: Item) -> str:
    name = item.get("name", "")
    return name if isinstance(name, str) else name.get("str") or name.get("str_sp", "")


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def last_word(name: str) -> str:
    """What kind of thing a name says, without remarks such as "(on)"."""
    return (words(re.sub(r"\(.*?\)", "", name)) or words(name) or [name])[-1]


def hashed(item: Item) -> list[int]:
    """The words of name and description, each as one of items.WORDS numbers."""
    text = words(f"{name_of(item)} {item['description']}")
    return [crc32(word.encode("ascii")) % items.WORDS for word in text]


def amount(value: object) -> float:
    """In grams, millilitres or cents: "1.5 kg" is 1500. What is no amount counts as 0."""
    found = re.fullmatch(r"(-?[\d.]+) *(\w*)", str(value))
    return float(found[1]) * UNITS[found[2]] if found else 0.0


def materials_of(item: Item) -> list[str]:
    materials = item.get("material", [])
    materials = [materials] if isinstance(materials, str) else materials
    return [m if isinstance(m, str) else m["type"] for m in materials]


def numbers(item: Item, materials: list[str]) -> list[float]:
    """One row of the table: seven amounts as log10(1 + amount) with their sign, and materials."""
    amounts = [amount(item.get(key)) for key in items.COLUMNS]
    made_of = materials_of(item)
    return [
        *(math.copysign(math.log10(1 + abs(x)), x) for x in amounts),
        *(made_of.count(m) / max(len(made_of), 1) for m in materials),
    ]


def chosen(files: dict[str, bytes], count: int) -> tuple[list[Item], np.ndarray]:
    """The items with name, description and one of `count` sprites, and the number of the sprite."""
    places, rows = read_places(files), {}
    for key, item in read_items(files).items():
        text = name_of(item), item.get("description")
        place = places.get(key)
        shown = isinstance(place, int) and place < count
        if shown and all(isinstance(x, str) and x for x in text):
            rows.setdefault(text, (item, place))
    return [item for item, _ in rows.values()], np.array([place for _, place in rows.values()])


def build(package: Path) -> dict[str, np.ndarray]:
    """Every array of the file; items in the order of their files, of equal texts only the first."""
    content = PACKAGE.read(package)
    files = deb_files(content, lambda p: p.startswith(DEFINITIONS) or p in (SPRITES, PLACES))
    sprites = cut(files[SPRITES])
    found, places = chosen(files, len(sprites))
    counts = Counter(m for item in found for m in materials_of(item))
    materials = sorted(counts, key=lambda m: (-counts[m], m))[:MATERIALS]
    text = [hashed(item) for item in found]
    names = [name_of(item) for item in found]
    unique, sprite_of = np.unique(sprites[places], axis=0, return_inverse=True)
    return {
        "words": np.concatenate(text).astype("<u2"),
        "lengths": np.array([len(numbers) for numbers in text], "<u2"),
        "sprite": unique,
        "sprite_of": sprite_of.astype("<u2"),
        "table": np.array([numbers(item, materials) for item in found], "<f2"),
        "columns": np.array([*items.COLUMNS, *materials]),
        "kind": np.array([KIND_OF[item["type"]] for item in found], np.uint8),
        "kinds": np.array(list(KINDS)),
        "name": np.char.encode(names, "utf-8"),
        "group": np.unique([last_word(name) for name in names], return_inverse=True)[1].astype(
            "<u2"
        ),
    }


if __name__ == "__main__":
    main(build, PACKAGE, items.FILE, items.SHA256, __doc__.splitlines()[0])
