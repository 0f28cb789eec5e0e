"""Build data/icons.npz from its source, bit for bit.

    python data/build_icons.py [--package FILE] [--output FILE]

Source: names, categories and drawings (SVG) of the npm package @tabler/icons 3.52.0 (fetched with
npm unless --package names a copy; the package itself is never installed). The drawings become
pictures by fontTools, which reads their paths, and matplotlib, which draws them.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from building import main, npm
from fontTools.pens.recordingPen import RecordingPen
from fontTools.svgLib.path import parse_path
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path as Outline
from matplotlib.transforms import Affine2D

from mmlab.datasets import icons

PACKAGE = npm(
    "@tabler/icons@3.52.0", "626620c7d42afd2f294fba167ce4653b5cb946336d186b4991c70b700e5616af"
)
CLASSES = 11
UNITS, SIDE = 24, 12  # the side of a drawing, and of the picture in pixels
SCALE = 4  # drawn with this many dots per unit, then averaged
CODES = {
    "moveTo": [Outline.MOVETO],
    "lineTo": [Outline.LINETO],
    "qCurveTo": [Outline.CURVE3] * 2,
    "curveTo": [Outline.CURVE4] * 3,
    "closePath": [Outline.CLOSEPOLY],
    "endPath": [],
}


def read_package(package: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The category and the SVG of each icon, by name."""
    content = io.BytesIO(PACKAGE.read(package))
    with tarfile.open(fileobj=content) as archive:
        files = {m.name: archive.extractfile(m).read().decode() for m in archive if m.isfile()}
    about = json.loads(files["package/icons.json"])
    drawings = {name: files[f"package/icons/outline/{name}.svg"] for name in about}
    return {name: entry["category"] for name, entry in about.items()}, drawings


def largest(category: Mapping[str, str]) -> list[str]:
    """The largest categories, largest first. Brand is none: a logo is what its owner wants."""
    sizes = Counter(kind for kind in category.values() if kind != "Brand")
    return [kind for kind, _ in sizes.most_common(CLASSES)]


def outline(path: str) -> Outline:
    """What matplotlib draws, from the path of an SVG."""
    pen = RecordingPen()
    parse_path(path, pen)
    points, codes = [], []
    for step, places in pen.value:
        points += places if step != "closePath" else [(0, 0)]
        codes += CODES[step]
    return Outline(points, codes)


def picture(svg: str) -> np.ndarray:
    """Ink from 0 to 255 in each pixel, (12, 12): lines two units wide with round ends and joins."""
    canvas = RendererAgg(UNITS * SCALE, UNITS * SCALE, dpi=72)
    pencil = canvas.new_gc()
    pencil.set_capstyle("round")
    pencil.set_joinstyle("round")
    pencil.set_snap(False)
    place = Affine2D().scale(SCALE, -SCALE).translate(0, UNITS * SCALE)
    for path in ElementTree.fromstring(svg):
        if path.get("fill") == "none":  # the empty square behind every icon
            continue
        pencil.set_linewidth(0 if path.get("stroke") == "none" else 2 * SCALE)
        filling = (0, 0, 0, 1) if path.get("fill") else None
        canvas.draw_path(pencil, outline(path.get("d")), place, filling)
    dots = UNITS * SCALE // SIDE
    ink = np.asarray(canvas.buffer_rgba())[..., 3].reshape(SIDE, dots, SIDE, dots)
    return ink.mean((1, 3)).round().astype(np.uint8)


def build(package: Path) -> dict[str, np.ndarray]:
    """Every array of the file; icons in the order of their names."""
    category, drawings = read_package(package)
    classes = largest(category)
    names = sorted(name for name, kind in category.items() if kind in classes)
    return {
        "name": np.array(names, "S34"),
        "picture": np.stack([picture(drawings[name]) for name in names]),
        "category": np.array([classes.index(category[name]) for name in names], np.uint8),
        "categories": np.array(classes, "<U10"),
    }


if __name__ == "__main__":
    main(build, PACKAGE, icons.FILE, icons.SHA256, __doc__.splitlines()[0])
