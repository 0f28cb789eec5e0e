"""What a worker does: it unpacks the tasks of a sweep once, and does those that it is told to."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable
from functools import cached_property
from typing import Any

import cloudpickle
import torch

from mmlab.identity import code_version

Task = Callable[[], Any]


class Sent:
    """All tasks of a sweep, as they travel; a worker unpacks them once."""

    def __init__(self, content: bytes, code: str, threads: int) -> None:
        self.content, self.code, self.threads = content, code, threads

    def __reduce__(self) -> tuple[type[Sent], tuple[bytes, str, int]]:
        return Sent, (self.content, self.code, self.threads)

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


def work(sent: Sent, places: list[int]) -> tuple[float, list[bytes]]:
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
