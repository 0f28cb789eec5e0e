"""Execute notebooks strictly, each in a worker process, and keep their results."""

import asyncio
import json
import os
import platform
import subprocess
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import mmlab
from mmlab.files import UnwritableError, write_atomically
from mmlab.notebooks.catalogue import (
    NOTEBOOKS,
    ROOT,
    Notebook,
    NotebookError,
    check_parameters,
    choose,
)
from mmlab.notebooks.processes import environment, kill_family
from mmlab.notebooks.progress import Progress
from mmlab.notebooks.result import Result
from mmlab.notebooks.site import BODY
from mmlab.notebooks.site import build as build_site
from mmlab.notebooks.warm import WarmParent

ENDED = "the process that executes it ended early (killed, or out of memory)"
Worker = AbstractAsyncContextManager[tuple[StreamWriter, StreamReader]]
"""A process that executes one notebook: where it reads its job, and what it writes."""
Executed = tuple[str, str]
"""A notebook with its outputs, and the body of its page."""


def _check_writable(folder: Path) -> None:
    """Raise UnwritableError now rather than after an hour of work."""
    probe = folder / ".probe"
    write_atomically(probe, "")
    probe.unlink()


def _forget(name: str, out: Path) -> None:
    """Remove what an earlier run left, so that it is not taken for this one's."""
    stale = [out / f"notebooks/{name}{suffix}" for suffix in (".ipynb", BODY, ".json")]
    for path in [*stale, out / f"site/{name}.html", out / "site/index.html"]:
        path.unlink(missing_ok=True)


def _versions() -> dict[str, str]:
    """The versions of what decides the numbers."""
    packages = {name: metadata.version(name) for name in ("torch", "numpy")}
    return {"python": platform.python_version(), "mmlab": mmlab.__version__, **packages}


def _device(asked: str) -> str:
    """What ``device="auto"`` means on this machine; any other name as it is."""
    if asked != "auto":
        return asked
    from mmlab.training import find_device  # loads torch, which the runner does not need

    return str(find_device())


async def _listen(news: StreamReader, result: Result) -> Executed | None:
    """Follow a worker to its end; what it made, or None with the cause in ``result``."""
    async for line in news:
        message = json.loads(line)
        match message.pop("event"):
            case "cell":
                result.cell, result.line = message["number"], message["line"]
            case "done":
                return message["notebook"], message["body"]
            case "failed":
                for name, value in message.items():
                    setattr(result, name, value)
                return None
    result.cause = ENDED
    return None


@asynccontextmanager
async def _fresh_worker(threads: int) -> AsyncIterator[tuple[StreamWriter, StreamReader]]:
    """Start a worker, which never outlives this block: where it reads, and what it writes."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mmlab.notebooks.worker"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(threads),
        limit=2**30,  # a finished notebook comes as one line
        start_new_session=True,  # Ctrl-C is ours to handle
    )
    try:
        assert worker.stdin is not None and worker.stdout is not None  # both are pipes
        yield worker.stdin, worker.stdout
    finally:
        kill_family(worker.pid)
        await worker.wait()


async def _execute(
    notebook: Notebook, result: Result, worker: Worker, timeout: float
) -> Executed | None:
    """Execute one notebook in this worker; what it made, or None with the cause in ``result``."""
    changed = {k: v for k, v in result.parameters.items() if notebook.defaults.get(k) != v}
    job = {
        "path": str(notebook.path),
        "folder": str(notebook.path.parent),
        "parameters": changed,  # those alone show up on the page, in a cell of their own
    }
    try:
        async with worker as (orders, news), asyncio.timeout(timeout):
            orders.write(f"{job!r}\n".encode())
            return await _listen(news, result)
    except TimeoutError:
        result.cause = f"the notebook passed its deadline of {timeout:g} s (--timeout)"
    except ConnectionError:
        result.cause = ENDED
    except NotebookError as error:
        result.cause = str(error)
    return None


async def _run_one(
    notebook: Notebook,
    result: Result,
    out: Path,
    timeout: float,
    worker: Worker,
    progress: Progress,
) -> None:
    """Run one notebook and write its result and record."""
    start = time.monotonic()
    progress.running[notebook.name] = result, start
    try:
        executed = await _execute(notebook, result, worker, timeout)
    finally:
        del progress.running[notebook.name]
    result.seconds = round(time.monotonic() - start, 1)
    result.finished = datetime.now(UTC).isoformat(timespec="seconds")
    result.device = _device(str({**notebook.defaults, **result.parameters}.get("device", "cpu")))
    result.versions = _versions()
    try:
        if executed is not None:
            for suffix, text in zip((".ipynb", BODY), executed, strict=True):
                write_atomically(out / f"notebooks/{notebook.name}{suffix}", text)
            result.ok, result.cell, result.line = True, None, ""
        write_atomically(
            out / f"notebooks/{notebook.name}.json", json.dumps(asdict(result), indent=1)
        )
    except UnwritableError as error:
        _forget(notebook.name, out)
        result.ok, result.cell, result.line, result.cause = False, None, "", str(error)
    progress.say(f"{result}\n{result.detail}".rstrip())


async def _run_all(
    notebooks: Sequence[Notebook],
    results: Sequence[Result],
    out: Path,
    timeout: float,
    jobs: int,
    warm: WarmParent | None,
) -> None:
    """Run notebooks, ``jobs`` at a time."""
    jobs = min(jobs, len(notebooks))
    threads = max(1, (os.cpu_count() or 1) // jobs)  # so that they do not fight for the cores
    progress, gate = Progress(sys.stdout), asyncio.Semaphore(jobs)

    async def when_free(notebook: Notebook, result: Result) -> None:
        async with gate:
            worker = warm.worker() if warm else _fresh_worker(threads)
            await _run_one(notebook, result, out, timeout, worker, progress)

    drawing = asyncio.create_task(progress.keep_drawing())
    async with asyncio.TaskGroup() as group:
        for notebook, result in zip(notebooks, results, strict=True):
            group.create_task(when_free(notebook, result))
    drawing.cancel()


def run(
    numbers: Iterable[int | str] = (),
    *,
    profile: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    jobs: int = 2,
    timeout: float = 3600,
    out: Path = ROOT / "build",
    folder: Path = NOTEBOOKS,
    warm: WarmParent | None = None,
) -> list[Result]:
    """Execute notebooks headlessly and build the site; all of them if no number is given.

    Args:
        numbers: which notebooks, such as ``[0, 1]`` or ``["01"]``.
        profile: one of ``PROFILES``; None keeps each notebook's own.
        parameters: values for the notebooks' ``parameters`` cells.
        jobs: how many run at a time.
        timeout: seconds that one notebook may take as a whole.
        out: the folder for ``notebooks/`` and ``site/``.
        folder: where the notebooks lie; their kernels work there, as in JupyterLab.
        warm: a process to fork the kernels from; without it each starts from nothing.

    Raises:
        NotebookError: before anything runs, for an unknown notebook, an unknown or ill-typed
            parameter, or a number out of range. A notebook that fails raises nothing:
            its ``Result`` says where and why.
        UnwritableError: if ``out`` cannot be written.
    """
    if jobs < 1 or timeout <= 0:
        raise NotebookError(f"jobs={jobs}, timeout={timeout:g}: both must be above 0")
    given = {**({"profile": profile} if profile else {}), **(parameters or {})}
    notebooks = choose(numbers, folder)
    checked = [check_parameters(notebook, given) for notebook in notebooks]
    _check_writable(out / "notebooks")
    results = [
        Result(n.name, n.title, n.minutes, {**n.defaults, **values}, cells=n.cells)
        for n, values in zip(notebooks, checked, strict=True)
    ]
    for notebook in notebooks:
        _forget(notebook.name, out)
    asyncio.run(_run_all(notebooks, results, out, timeout, jobs, warm))
    build_site(out, folder)
    return results
