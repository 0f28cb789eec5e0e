"""Pictures one after the other in the same place, each as fast as a hand on a slider expects."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from mmlab import plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

EDGE = 4
"""How many pixels at its edge a laid out figure leaves empty, at least."""


class Screen:
    """Keeps the axes of one picture where they stand for the next one.

    To lay a figure out takes about as long as to draw it, and where axes move with every picture
    it is hard to see what else has changed. A picture that reaches the edge is laid out anew: a
    label there may be cut.
    """

    def __init__(self) -> None:
        self._places: list[Bbox] = []

    def output(self, figure: Figure, alt: str) -> dict[str, str]:
        """The data of a notebook's output that shows a figure; alt: as `plotting.show` takes it."""
        pixels = self._kept(figure)
        if pixels is None:
            pixels = _pixels(figure)
        self._places = [ax.get_position(original=True) for ax in figure.axes]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png", compress_level=1)  # larger, but sooner
        return plotting.as_output(buffer.getvalue(), alt)

    def _kept(self, figure: Figure) -> np.ndarray | None:
        """The figure in the places of the last one, or None where it does not fit into them."""
        if len(figure.axes) != len(self._places):
            return None
        layout = figure.get_layout_engine()
        figure.set_layout_engine("none")
        for ax, place in zip(figure.axes, self._places, strict=True):
            ax.set_position(place)
        pixels = _pixels(figure)
        if not (_has_ink_at_edge(pixels) or _has_label_outside(figure)):
            return pixels
        figure.set_layout_engine(layout)
        for ax in figure.axes:
            ax.set_in_layout(True)  # set_position has taken it out
        return None


def _pixels(figure: Figure) -> np.ndarray:
    """The drawn figure, (height, width, 3) in 0 … 255, as fine as a saved one."""
    figure.set_dpi(plt.rcParams["savefig.dpi"])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.ascontiguousarray(np.asarray(canvas.buffer_rgba())[..., :3])


def _has_ink_at_edge(pixels: np.ndarray) -> bool:
    ground = pixels[0, 0]
    edges = (pixels[:EDGE], pixels[-EDGE:], pixels[:, :EDGE], pixels[:, -EDGE:])
    return any((edge != ground).any() for edge in edges)


def _has_label_outside(figure: Figure) -> bool:
    """Whether an axis label leaves the figure: the edge may run between two of its lines."""
    labels = [axis.label for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)]
    boxes = [label.get_window_extent() for label in labels if label.get_text()]
    return any(
        box.x0 < 0 or box.y0 < 0 or box.x1 > figure.bbox.x1 or box.y1 > figure.bbox.y1
        for box in boxes
    )
