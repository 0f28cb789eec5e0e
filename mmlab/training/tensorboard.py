"""A training's history in TensorBoard, as it grows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from mmlab.training.checkpoint import path_fields, path_of, settings_of
from mmlab.training.processes import is_first
from mmlab.training.run import Run


class TensorBoard:
    """Observer: writes what the history has, after each epoch, by torch's own SummaryWriter.

    A value's tag is "metric/split/output", such as "loss/train/joint". Beside `Curves` and other
    measures it shows what these record. It needs the package tensorboard, an extra of this one.

    Args:
        folder: where the curves of this training go. "{method}", "{seed}" and "{run}" in it are
            replaced as in `Checkpoint`. Several trainings need folders of their own, such as
            "runs/{method}-{seed}-{run}"; `tensorboard --logdir runs` shows them all.

    Raises:
        ImportError: tensorboard is not installed.
        ValueError: the folder has an unknown name between braces.
    """

    only_looks = True
    keeps_nothing = True  # with or without it, a training goes on

    def __init__(self, folder: str | Path) -> None:
        self.path = str(folder)
        self.path_fields = path_fields(self.path)
        _summary_writer()  # what is missing shows now

    def on_start(self, run: Run) -> None:
        settings = settings_of(run) if "run" in self.path_fields else {}
        self._folder = path_of(self.path, run, settings)
        self._writer: Any = None
        self._written = 0

    def __call__(self, run: Run) -> None:
        self._write(run)

    def on_end(self, run: Run) -> None:
        self._write(run)  # what observers after it have recorded
        if self._writer is not None:
            self._writer.close()

    def _write(self, run: Run) -> None:
        if not is_first():
            return
        if self._writer is None:  # only now it is known whether the training goes on from a file
            self._writer = self._opened(run)
        for epoch, split, output, metric, value in run.rows[self._written :]:
            tag = "/".join(part for part in (metric, split, output) if part)
            self._writer.add_scalar(tag, value, epoch)
        self._written = len(run.rows)
        self._writer.flush()

    def _opened(self, run: Run) -> Any:
        """A writer for the whole history, which takes the place of what this training has written.

        Warns of curves of another training.
        """
        old = any(self._folder.glob("events.out.tfevents.*"))
        if old and run.epoch == 0:
            warnings.warn(
                f"{self._folder} has curves of an earlier training already, and "
                "TensorBoard draws both as one; give another folder, or delete this one",
                stacklevel=4,
            )
        first = 0 if old and run.epoch else None
        return _summary_writer()(str(self._folder), purge_step=first)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"TensorBoard needs the package tensorboard ({error}); install it: "
            "pip install -c constraints.txt -e '.[tensorboard]'"
        ) from error
    return SummaryWriter
