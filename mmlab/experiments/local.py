"""Worker processes of this machine, which a sweep leaves to the next one: a start takes seconds.

Each has an executor of its own, so that if one process dies, the others go on. A process that has
been left is taken again only where a new one would be the same: by the same environment, and while
no file that it has imported has changed. Otherwise, and after a minute, it ends.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from joblib.externals.loky.process_executor import ProcessPoolExecutor

from mmlab.experiments.worker import Sent, work

TRIES = 3
"""After so many dead workers a task is given up."""

IDLE_SECONDS = 60.0
"""After so long a process that nobody wants ends."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Process:
    """A way to one process of this machine, which does one batch of tasks after the other."""

    deaths: tuple[type[BaseException], ...] = (BrokenExecutor,)
    tries = TRIES

    def __init__(self, sent: Sent) -> None:
        self._sent = sent
        self._start()

    def _start(self) -> None:
        self._surroundings = _surroundings(self._sent.threads)
        self._executor = _taken(self._surroundings) or _started(self._sent.threads)
        self._executor.submit(_receive, self._sent)

    def submit(self, places: list[int]) -> Future:
        """What becomes of the tasks with these numbers."""
        try:
            return self._executor.submit(_work, places)
        except BrokenExecutor:  # it died while it had nothing to do
            self.renew()
            return self._executor.submit(_work, places)

    def renew(self) -> None:
        """Another process in place of one that died."""
        self.close()
        self._start()

    def leave(self) -> None:
        """Leave the process to the next sweep; it has nothing to do."""
        try:
            self._executor.submit(_forget)
        except BrokenExecutor:
            self.close()
            return
        _leave(_Spare(self._executor, self._surroundings))

    def close(self) -> None:
        """End the process at once."""
        _end(self._executor)


def _started(threads: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=1,
        initializer=_watch,
        initargs=(os.getpid(),),
        env={name: os.environ.get(name, str(threads)) for name in THREADS},
    )


def _end(executor: ProcessPoolExecutor) -> None:
    executor.shutdown(wait=True, kill_workers=True)


# --- processes that nobody uses at the moment -----------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Spare:
    executor: ProcessPoolExecutor
    surroundings: tuple[Any, ...]


_spares: list[_Spare] = []
_one_at_a_time = threading.Lock()


def _surroundings(threads: int) -> tuple[Any, ...]:
    """What a process takes over from the one that starts it."""
    environment = tuple(sorted(os.environ.items()))
    return os.getpid(), threads, os.getcwd(), tuple(sys.path), environment


def _leave(spare: _Spare) -> None:
    with _one_at_a_time:
        _spares.append(spare)
    timer = threading.Timer(IDLE_SECONDS, _end_unwanted, [spare])
    timer.daemon = True
    timer.start()


def _end_unwanted(spare: _Spare) -> None:
    with _one_at_a_time:
        if spare not in _spares:
            return
        _spares.remove(spare)
    _end(spare.executor)


def _taken(surroundings: tuple[Any, ...]) -> ProcessPoolExecutor | None:
    """A process that is as a new one would be, if there is one; those that have aged end."""
    while True:
        with _one_at_a_time:
            found = next((one for one in _spares if one.surroundings == surroundings), None)
            if found is None:
                return None
            _spares.remove(found)
        try:
            if found.executor.submit(_is_current).result():
                return found.executor
        except BrokenExecutor:
            pass
        _end(found.executor)


# --- in the process -------------------------------------------------------------------------------

_received: list[Sent] = []


def _watch(parent: int) -> None:
    """What a process does first."""
    threading.Thread(target=_end_with, args=(psutil.Process(parent),), daemon=True).start()


def _end_with(parent: psutil.Process) -> None:
    """End this process when the one that started it is gone, however that ended."""
    while parent.is_running():
        time.sleep(1)
    os._exit(1)


def _receive(sent: Sent) -> None:
    _received[:] = [sent]


def _work(places: list[int]) -> tuple[float, list[bytes]]:
    return work(_received[0], places)


def _forget() -> None:
    """Give back the memory of the last sweep, which others may need."""
    _received.clear()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _is_current() -> bool:
    """Whether no file that this process has imported has changed since it began."""
    began = psutil.Process().create_time()
    files = [getattr(module, "__dict__", {}).get("__file__") for module in [*sys.modules.values()]]
    return all(os.path.getmtime(file) < began for file in files if file and os.path.exists(file))
