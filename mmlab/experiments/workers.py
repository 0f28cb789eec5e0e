"""Tasks in worker processes, on this machine or on a Dask cluster: a killed worker costs one task.

joblib brings both the processes (loky) and the way to a cluster (`joblib.parallel_config("dask")`).
Each worker gets the full list of tasks once; later only their numbers are sent.
"""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from math import ceil
from typing import Any, Protocol

import cloudpickle
import joblib
from joblib.parallel import get_active_backend

from mmlab.experiments.local import Process
from mmlab.experiments.worker import Sent, Task, work
from mmlab.identity import code_version

BATCH_SECONDS = 0.2
"""Short tasks are sent in batches of about this length."""


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

        Warnings of a worker are given here, each once. Processes that have done all are left to the
        next sweep (`local`); where the iterator ends before, they end with it.
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
        sent = Sent(cloudpickle.dumps([*tasks]), code_version(), threads)
        count = min(self.size, len(tasks))
        lanes: list[_Lane] = []
        try:
            if self.client is None:
                lanes += [Process(sent) for _ in range(count)]
            else:
                lanes += [_Seat(self.client, sent)] * count
            yield lanes
        except BaseException:
            for lane in {*lanes}:
                lane.close()
            raise
        for lane in {*lanes}:
            lane.leave()


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
    leave: all tasks are done. close: they are not wanted any more.
    """

    deaths: tuple[type[BaseException], ...]
    tries: int

    def submit(self, places: list[int]) -> Future: ...

    def renew(self) -> None: ...

    def leave(self) -> None: ...

    def close(self) -> None: ...


class _Seat:
    """A place on a Dask cluster, whose scheduler gives the tasks of a dead worker to others."""

    deaths: tuple[type[BaseException], ...]
    tries = 1  # it has tried several workers itself

    def __init__(self, client: Any, sent: Sent) -> None:
        from distributed.scheduler import KilledWorker

        self.deaths = (KilledWorker,)
        self._executor = client.get_executor(pure=False)
        # the result of a task, which the scheduler makes anew where the worker that has it dies
        self._sent = client.submit(Sent, sent.content, sent.code, sent.threads, pure=False)

    def submit(self, places: list[int]) -> Future:
        return self._executor.submit(work, self._sent, places)

    def renew(self) -> None:
        pass

    def leave(self) -> None:
        self.close()

    def close(self) -> None:
        self._executor.shutdown(wait=False)
