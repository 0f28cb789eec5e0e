"""Tasks in worker processes, on this machine or on a Dask cluster: a killed worker costs one task.

Each process has an executor of its own, so that if one process dies, the others go on; joblib
brings both the processes (loky) and the way to a cluster (`joblib.parallel_config("dask")`). Each
worker gets the full list of tasks once; later only their numbers are sent.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any, Protocol

import cloudpickle
import joblib
import psutil
import torch
from joblib.externals.loky.process_executor import ProcessPoolExecutor
from joblib.parallel import get_active_backend

from mmlab.identity import code_version

Task = Callable[[], Any]

TRIES = 3
"""After so many dead workers a task is given up."""

BATCH_SECONDS = 0.2
"""Short tasks are sent in batches of about this length."""

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class WorkerDiedError(RuntimeError):
    """Every worker that tried a task died."""


@dataclass(frozen=True)
class Pool:
    """Where tasks run: in this process, in `size` others, or on the cluster of a Dask client."""

    size: int = 1
    client: Any = None

    @property
    def here(self) -> bool:
        """Whether tasks run in this process."""
        return self.size == 1 and self.client is None

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """Number and result of each task, as they end; a WorkerDiedError for a result if none is.

        Warnings of a worker are given here, each once. Processes end with the iterator.
        """
        if self.here or not tasks:
            yield from ((i, task()) for i, task in enumerate(tasks))
            return
        said: set[tuple[type[Warning], str]] = set()
        with self._lanes(tasks) as lanes:
            for place, result in _run(len(tasks), lanes):
                if isinstance(result, bytes):
                    result, warned = cloudpickle.loads(result)
                    for kind, text in dict.fromkeys(warned):
                        if (kind, text) not in said:
                            said.add((kind, text))
                            warnings.warn(f"in a worker: {text}", kind, stacklevel=3)
                yield place, result

    @contextlib.contextmanager
    def _lanes(self, tasks: Sequence[Task]) -> Iterator[list[_Lane]]:
        threads = max(1, joblib.cpu_count() // self.size)
        sent = _Sent(cloudpickle.dumps([*tasks]), code_version(), threads)
        count = min(self.size, len(tasks))
        lanes: list[_Lane] = []
        try:
            if self.client is None:
                lanes += [_Process(sent) for _ in range(count)]
            else:
                lanes += [_Seat(self.client, sent)] * count
            yield lanes
        finally:
            for lane in {*lanes}:
                lane.close()


def pool_of(parallel: int | str | None) -> Pool:
    """Where `parallel` says that jobs run.

    Raises TypeError, ValueError for anything but None, a whole number of at least 1, or "config".
    """
    allowed = (
        "give None (this process), the number of processes, or 'config' for what "
        "joblib.parallel_config says around the call"
    )
    if parallel is None:
        return Pool()
    if isinstance(parallel, bool) or not isinstance(parallel, int | str):
        raise TypeError(f"parallel is {parallel!r}; {allowed}")
    if isinstance(parallel, int):
        if parallel < 1:
            raise ValueError(f"parallel is {parallel}; {allowed}")
        return Pool(parallel)
    if parallel != "config":
        raise ValueError(f"parallel is {parallel!r}; {allowed}")
    backend, count = get_active_backend()
    kind = type(backend).__name__
    size = backend.effective_n_jobs(count) if count or kind != "LokyBackend" else 1
    if kind == "DaskDistributedBackend":
        return Pool(size, backend.client)
    if kind != "LokyBackend":
        raise ValueError(
            f"parallel is 'config', and joblib.parallel_config says {kind}; a training needs a "
            "process of its own: give parallel_config('loky', n_jobs=4) or parallel_config('dask')"
        )
    return Pool(size)


# --- here -----------------------------------------------------------------------------------------


def _run(count: int, lanes: Sequence[_Lane]) -> Iterator[tuple[int, Any]]:
    """Number and result of each task; one batch at a time in each lane."""
    waiting, idle, deaths, size = deque(range(count)), [*lanes], Counter[int](), 1
    running: dict[Future, tuple[_Lane, list[int]]] = {}
    found: list[tuple[int, Any]] = []
    while waiting or running:
        while idle and waiting:
            places = _next_batch(waiting, size, deaths)
            lane = idle.pop()
            running[lane.submit(places)] = lane, places
        yield from found  # whoever takes them need not hurry: the workers are busy
        found.clear()
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            lane, places = running.pop(future)
            idle.append(lane)
            try:
                seconds, results = future.result()
            except lane.deaths as error:
                lane.renew()
                deaths.update(places)
                lost = [i for i in places if len(places) == 1 and deaths[i] >= lane.tries]
                waiting.extendleft(i for i in reversed(places) if i not in lost)
                found += [(i, _died(error)) for i in lost]
                continue
            most = BATCH_SECONDS * len(places) / max(seconds, 1e-6)
            size = max(1, min(int(most), 2 * len(places), ceil(len(waiting) / len(lanes))))
            found += zip(places, results, strict=True)
    yield from found


def _next_batch(waiting: deque[int], size: int, deaths: Counter[int]) -> list[int]:
    """The next tasks; one that was in a worker's hands when it died goes alone."""
    places = [waiting.popleft()]
    while waiting and len(places) < size and not (deaths[places[0]] or deaths[waiting[0]]):
        places.append(waiting.popleft())
    return places


def _died(error: BaseException) -> WorkerDiedError:
    first = str(error).partition("\n")[0]
    return WorkerDiedError(
        f"every worker that tried this died, perhaps for want of memory, or killed from outside; "
        f"the last one said: {type(error).__name__}: {first}"
    )


class _Lane(Protocol):
    """A way to a worker that does one batch after the other.

    deaths: the errors that say that a worker died. tries: after so many of them a task is given up.
    """

    deaths: tuple[type[BaseException], ...]
    tries: int

    def submit(self, places: list[int]) -> Future: ...

    def renew(self) -> None: ...

    def close(self) -> None: ...


class _Process:
    """One process of this machine."""

    deaths: tuple[type[BaseException], ...] = (BrokenExecutor,)
    tries = TRIES

    def __init__(self, sent: _Sent) -> None:
        self._sent = sent
        self._start()

    def _start(self) -> None:
        self._executor = ProcessPoolExecutor(
            max_workers=1,
            initializer=_receive,
            initargs=(self._sent, os.getpid()),
            env={name: os.environ.get(name, str(self._sent.threads)) for name in THREADS},
        )

    def submit(self, places: list[int]) -> Future:
        try:
            return self._executor.submit(_work_here, places)
        except BrokenExecutor:  # it died while it had nothing to do
            self.renew()
            return self._executor.submit(_work_here, places)

    def renew(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        self._executor.shutdown(wait=True, kill_workers=True)


class _Seat:
    """A place on a Dask cluster, whose scheduler gives the tasks of a dead worker to others."""

    deaths: tuple[type[BaseException], ...]
    tries = 1  # it has tried several workers itself

    def __init__(self, client: Any, sent: _Sent) -> None:
        from distributed.scheduler import KilledWorker

        self.deaths = (KilledWorker,)
        self._executor = client.get_executor(pure=False)
        # the result of a task, which the scheduler makes anew where the worker that has it dies
        self._sent = client.submit(_Sent, sent.content, sent.code, sent.threads, pure=False)

    def submit(self, places: list[int]) -> Future:
        return self._executor.submit(_work, self._sent, places)

    def renew(self) -> None:
        pass

    def close(self) -> None:
        self._executor.shutdown(wait=False)


# --- there ----------------------------------------------------------------------------------------


class _Sent:
    """All tasks of a sweep, as they travel; a worker unpacks them once."""

    def __init__(self, content: bytes, code: str, threads: int) -> None:
        self.content, self.code, self.threads = content, code, threads

    def __reduce__(self) -> tuple[type[_Sent], tuple[bytes, str, int]]:
        return _Sent, (self.content, self.code, self.threads)

    @cached_property
    def tasks(self) -> list[Task]:
        if code_version() != self.code:
            raise RuntimeError(
                "a worker has another version of mmlab, torch, numpy or Python than the process "
                "that sends the jobs, or mmlab's files were changed meanwhile; start both anew, "
                "from one installation"
            )
        return cloudpickle.loads(self.content)


_one_at_a_time = threading.Lock()
"""A worker of a cluster may have several threads, and a training draws from global generators."""

_received: list[_Sent] = []


def _receive(sent: _Sent, parent: int) -> None:
    """What a process does first."""
    _received[:] = [sent]
    threading.Thread(target=_end_with, args=(psutil.Process(parent),), daemon=True).start()


def _end_with(parent: psutil.Process) -> None:
    """End this process when the one that started it is gone, however that ended."""
    while parent.is_running():
        time.sleep(1)
    os._exit(1)


def _work_here(places: list[int]) -> tuple[float, list[bytes]]:
    return _work(_received[0], places)


def _work(sent: _Sent, places: list[int]) -> tuple[float, list[bytes]]:
    """How long some tasks took in seconds; result and warnings of each, pickled."""
    with _one_at_a_time:
        tasks, before = sent.tasks, torch.get_num_threads()
        torch.set_num_threads(min(before, sent.threads))
        since = time.monotonic()
        try:
            results = [_told(tasks[i]) for i in places]
        finally:
            torch.set_num_threads(before)
        return time.monotonic() - since, results


def _told(task: Task) -> bytes:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        result = task()
    texts = [(_known(warning.category), str(warning.message)) for warning in said]
    return cloudpickle.dumps((result, texts))


def _known(kind: type[Warning]) -> type[Warning]:
    return kind if kind.__module__ == "builtins" else UserWarning
