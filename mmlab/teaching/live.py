"""A figure of a training's losses that grows while it runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmlab.teaching.screen import Screen
    from mmlab.training import Run


class Live:
    """Observer: in a notebook with a reader, one figure of the losses that grows.

    It shows the losses that the method reads, on the training split. Elsewhere, and where several
    networks train as one program, it shows nothing.

    Args:
        pause: least time between two drawings, in s: one takes about 0.2 s.

    Raises:
        TypeError, ValueError: a pause that is no number of at least 0.
    """

    only_looks = True
    keeps_nothing = True  # with or without it, a training goes on

    def __init__(self, pause: float = 1.0) -> None:
        from mmlab.checks import check_number

        check_number("pause", pause, least=0)
        self.pause = pause
        self._place: Any = None
        self._screen: Screen | None = None
        self._drawn = 0.0

    def on_start(self, run: Run) -> None:
        self._place = self._screen = None

    def __call__(self, run: Run) -> None:
        if time.monotonic() - self._drawn >= self.pause:
            self._draw(run)

    def on_end(self, run: Run) -> None:
        self._draw(run)

    def _draw(self, run: Run) -> None:
        from IPython.display import display

        from mmlab import plotting
        from mmlab.teaching.screen import Screen
        from mmlab.training.progress import in_read_notebook

        losses = run.history.query("metric == 'loss' and split == 'train'")
        if losses.empty or run.together > 1 or not in_read_notebook():
            return
        figure, (ax,) = plotting.canvas()
        plotting.curves(losses.assign(seed=run.seed), ax=ax)
        ax.set(xlim=(0, run.epochs), ylabel="training loss", title=run.balancer.name)
        ax.legend()
        self._screen = self._screen or Screen()
        picture = self._screen.output(figure, f"The training losses up to epoch {run.epoch}.")
        plotting.plt.close(figure)
        if self._place is None:
            self._place = display(picture, raw=True, display_id=True)
        else:
            self._place.update(picture, raw=True)
        self._drawn = time.monotonic()
