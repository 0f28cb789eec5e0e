"""A way in stages, and below each what it has to pass."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from matplotlib.figure import Figure

from mmlab.plotting import Arrow, Box, diagram


def stages(checks: Mapping[str, str]) -> Figure:
    """The stages in their order above, the check of each below. checks: stage -> its check."""
    boxes, arrows = {}, []
    for column, (stage, check) in enumerate(checks.items()):
        boxes[stage] = Box(stage, column, 0, "joint")
        boxes[check] = Box(check, column, 1)
        arrows.append(Arrow(check, stage))
    arrows += [Arrow(*pair, of="joint") for pair in itertools.pairwise(checks)]
    return diagram(boxes, arrows)
