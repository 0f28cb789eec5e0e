"""The pictures of the README, from those that the notebooks save: small, and in few colours.

`python3 -m mmlab run 01 04 05 06 09 10`, and then, with the Python of `.venv`,
`python figures/gallery/make.py`.
"""

from pathlib import Path

from PIL import Image

HERE = Path(__file__).resolve().parent
NAMES = ("phenomenon", "04-network", "05-play", "06-gate", "09-tree", "10-decision", "10-mistakes")
WIDTH = 1000
"""Pixels: a page is 850 wide, and screens show more than one pixel per point."""


def small(file: Path) -> Image.Image:
    """A picture on white, at most WIDTH wide, in 64 colours."""
    drawn = Image.open(file).convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    picture = Image.alpha_composite(white, drawn).convert("RGB")
    picture.thumbnail((WIDTH, WIDTH), Image.Resampling.LANCZOS)
    return picture.quantize(64, dither=Image.Dither.NONE)


if __name__ == "__main__":
    for name in NAMES:
        file = HERE.parent / f"{name}.png"
        if not file.exists():
            raise SystemExit(f"{file} is missing: run notebook {name[:2]} first")
        small(file).save(HERE / file.name, optimize=True)
