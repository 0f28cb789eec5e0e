"""How far a training is: a line in a terminal, a bar in a notebook, a line per epoch in a log."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Self

from mmlab.checks import check_number
from mmlab.training.processes import is_first
from mmlab.training.run import Observer, Run

SECONDS = 3.0
"""A training that is over sooner shows only what was asked for."""

_hidden: ContextVar[bool] = ContextVar("hidden", default=False)


class Progress:
    """Observer: shows the epochs done, the time per epoch, and the joint training loss.

    In a terminal it is one line that moves, in a notebook a bar, and elsewhere, such as in the log
    of a batch job, a line per epoch; all on stderr. `fit` and `fit_seeds` show it by themselves
    in a terminal or a notebook, where the training takes more than a few seconds. Under pytest, and
    in notebooks that run without a reader (MMLAB_STRICT=1), it is silent.

    Args:
        delay: seconds before the line or bar appears.

    Raises:
        TypeError, ValueError: a delay that is no number of at least 0.
    """

    only_looks = True
    keeps_nothing = True  # with or without it, a training goes on

    def __init__(self, delay: float = 0.0) -> None:
        check_number("delay", delay, least=0)
        self.delay = delay
        self._bar: Any = None
        self._shown, self._since = 0, 0.0

    def __deepcopy__(self, _: object) -> Self:
        return self  # the seeds of a stack share one line

    def on_start(self, run: Run) -> None:
        if self._bar is not None and run.together > 1 and self._shown == 0:
            return  # of another network in the same stack
        self.on_end(run)
        self._shown, self._since = 0, time.perf_counter()
        if someone_looks():
            from tqdm.auto import tqdm  # which loads the widgets, in a notebook

            self._bar = tqdm(
                desc=_name(run), total=run.epochs, unit="epoch", miniters=1, delay=self.delay
            )

    def __call__(self, run: Run) -> None:
        if run.epoch <= self._shown:
            return
        if self._bar is not None:
            self._move(run)
        elif not _silent():
            now = time.perf_counter()
            line = f"{_name(run)}: epoch {run.epoch} of {run.epochs}, {now - self._since:.1f} s"
            print(line, *_loss(run), sep=", ", file=sys.stderr, flush=True)
            self._since = now
        self._shown = run.epoch

    def on_end(self, run: Run) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _move(self, run: Run) -> None:
        bar = self._bar
        if self._shown == 0:  # a later epoch than the first, where it goes on from a checkpoint
            bar.initial = bar.n = bar.last_print_n = run.epoch - 1
        bar.set_postfix_str(", ".join(_loss(run)), refresh=False)
        bar.update(run.epoch - bar.n)


def with_progress(observers: Sequence[Any]) -> list[Observer]:
    """The observers, and before them a line for whoever watches, unless one was asked for."""
    asked = any(one is Progress or isinstance(one, Progress) for one in observers)
    hidden = asked or _hidden.get() or not someone_looks()
    return [*observers] if hidden else [Progress(delay=SECONDS), *observers]


@contextlib.contextmanager
def no_progress() -> Iterator[None]:
    """In this block trainings show nothing by themselves."""
    before = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(before)


def someone_looks() -> bool:
    """Whether there is a terminal or a notebook with a reader, to show a progress line in."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return in_read_notebook() or (terminal and not _silent())


def in_read_notebook() -> bool:
    """Whether this is a notebook with a reader."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell" and not _silent()


def _silent() -> bool:
    return (
        not is_first()
        or os.environ.get("MMLAB_STRICT") == "1"
        or "PYTEST_CURRENT_TEST" in os.environ
    )


def _name(run: Run) -> str:
    who = f"seed {run.seed}" if run.together == 1 else f"{run.together} seeds at once"
    return f"{run.balancer.name}, {who}"


def _loss(run: Run) -> list[str]:
    """The joint loss of the last epoch; of several networks at once, none of theirs."""
    last = [
        value
        for epoch, split, output, metric, value in run.rows[-1000:]
        if (epoch, split, output, metric) == (run.epoch, "train", "joint", "loss")
    ]
    return [f"loss {value:.3g}" for value in last if run.together == 1]
