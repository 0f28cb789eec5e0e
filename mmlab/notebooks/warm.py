"""The runner's side of a warm run: one process that has loaded everything, and forks on request.

A plain run starts each notebook from nothing, and spends seconds on the same imports again. Here
`warm_parent` pays for them once; each notebook gets a copy of it made by `fork`, which takes
milliseconds. What a notebook prints is the same; the plain run stays the reference for it.

All computation under a warm parent is in one thread, because a process with threads cannot be
forked safely. The kernels share the order in which this Python's sets of strings are walked
(PYTHONHASHSEED), which fresh processes draw anew.
"""

import os
import socket
import subprocess
import sys
from asyncio import StreamReader, StreamWriter, open_unix_connection
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Self

from mmlab.notebooks.catalogue import NotebookError
from mmlab.notebooks.processes import environment, kill_family

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
LARGEST = 2**30
"""Bytes of one message of a worker: a finished notebook comes as one line."""
GONE = "the warm parent is gone (killed, or out of memory); run without --warm"


class WarmParent:
    """A process from which workers are forked: ``with WarmParent() as parent: …``.

    Its workers and their kernels see the environment of the moment it was made. It ends with the
    block, and also when the process that made it ends in any way.

    Raises:
        NotebookError: on a system without `fork`, or if something cannot be loaded.
    """

    def __init__(self) -> None:
        if not hasattr(os, "fork"):
            raise NotebookError(
                f"--warm needs fork, which {sys.platform} lacks; run without --warm"
            )
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mmlab.notebooks.warm_parent", str(theirs.fileno())],
                env=environment(threads=1) | ONE_THREAD,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # and stderr is ours: it says what could not be loaded
                start_new_session=True,  # Ctrl-C is the runner's to handle
            )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        try:
            ready = self._control.recv(1)
        except BaseException:
            self.__exit__()
            raise
        if not ready:
            self.__exit__()
            raise NotebookError("the warm parent could not start (see above); run without --warm")
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        kill_family(self.pid)
        self._process.wait()

    @asynccontextmanager
    async def worker(self, mark: str) -> AsyncIterator[tuple[StreamWriter, StreamReader]]:
        """Fork a worker, which never outlives this block: where it reads, and what it writes.

        mark: what the environment of its notebook's processes tells.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [b"fork"], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise NotebookError(GONE) from error
        reader, writer = await open_unix_connection(sock=ours, limit=LARGEST)
        pid = None
        try:
            pid = await reader.readline()  # the first that a worker says
            if not pid:
                raise NotebookError(GONE)
            yield writer, reader
        finally:
            writer.close()  # if nothing else does, this ends the worker
            if pid:
                kill_family(int(pid), mark)
