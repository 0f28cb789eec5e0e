"""Worker processes of this machine, which a sweep leaves to the next one: a start takes seconds.

Each has an executor of its own, so that if one process dies, the others go on. A process that has
been left is taken again only by the same environment, while no file that it has imported has
changed and torch's settings are those that it began with. Otherwise, and after a minute, it ends.
What else a task leaves, such as an attribute that it sets on a class, the next sweep finds.
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

ANSWER_SECONDS = 30.0
"""So long a process may take to say whether it can be taken again."""

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
        self._executor = _taken(self._surroundings, self._sent) or _started(self._sent)

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


def _started(sent: Sent) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        max_workers=1,
        initializer=_begin,
        initargs=(os.getpid(), sent),
        env={name: os.environ.get(name, str(sent.threads)) for name in THREADS},
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


def _taken(surroundings: tuple[Any, ...], sent: Sent) -> ProcessPoolExecutor | None:
    """A process that was left and has taken the tasks over, if there is one; the aged ones end."""
    while True:
        with _one_at_a_time:
            found = next((one for one in _spares if one.surroundings == surroundings), None)
            if found is None:
                return None
            _spares.remove(found)
        try:
            if found.executor.submit(_take_over, sent).result(ANSWER_SECONDS):
                return found.executor
        except (BrokenExecutor, TimeoutError):  # it died; loky may lose what is asked just then
            pass
        _end(found.executor)


# --- in the process -------------------------------------------------------------------------------

_received: list[Sent] = []
_began_with: list[tuple[Any, ...]] = []


def _begin(parent: int, sent: Sent) -> None:
    """What a process does first."""
    _received[:], _began_with[:] = [sent], [_settings()]
    threading.Thread(target=_end_with, args=(psutil.Process(parent),), daemon=True).start()


def _end_with(parent: psutil.Process) -> None:
    """End this process when the one that started it is gone, however that ended."""
    while parent.is_running():
        time.sleep(1)
    os._exit(1)


def _take_over(sent: Sent) -> bool:
    """Receive the tasks of another sweep, unless this process has aged."""
    if not _is_current():
        return False
    _received[:] = [sent]
    return True


def _work(places: list[int]) -> tuple[float, list[bytes]]:
    return work(_received[0], places)


def _forget() -> None:
    """Give back the memory of the last sweep, which others may need."""
    _received.clear()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _settings() -> tuple[Any, ...]:
    """What a task may set for all that come after it."""
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
    )


def _is_current() -> bool:
    """Whether the settings, and all files that this process has imported, are as when it began."""
    began = psutil.Process().create_time()
    files = [getattr(module, "__dict__", {}).get("__file__") for module in [*sys.modules.values()]]
    changed = (_changed(file, began) for file in files if file and os.path.isabs(file))
    return _began_with == [_settings()] and not any(changed)


def _changed(file: str, began: float) -> bool:
    try:
        return os.path.getmtime(file) >= began
    except NotADirectoryError:  # it is in an archive
        return False
    except OSError:
        return True
