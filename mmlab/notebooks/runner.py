"""Execute notebooks strictly, each in a worker process, and keep their results."""

import asyncio
import json
import os
import platform
import secrets
import subprocess
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from threading import Thread
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
    is_literal,
)
from mmlab.notebooks.pages.records import PAGE
from mmlab.notebooks.processes import environment, kill_family
from mmlab.notebooks.progress import Progress
from mmlab.notebooks.result import Result
from mmlab.notebooks.site import SiteError
from mmlab.notebooks.site import build as build_site
from mmlab.notebooks.warm import LARGEST, WarmParent

ENDED = "the process that executes it ended early (killed, or out of memory)"
UNSTARTED = "its kernel ended as it started, twice; `python -m ipykernel_launcher` may say why"
Worker = Callable[[str], AbstractAsyncContextManager[tuple[StreamWriter, StreamReader]]]
"""Given the notebook's mark, a process that executes it: where it reads, and what it writes."""
Executed = tuple[str, str]
"""A notebook with its outputs, and the source of its page."""


def _check_writable(folder: Path) -> None:
    """Raise UnwritableError now rather than after an hour of work."""
    probe = folder / ".probe"
    write_atomically(probe, bytes(2**24))  # as much as the pages' own files; a full disk takes none
    _remove(probe)


def _remove(path: Path) -> None:
    """Remove a file if it is there."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UnwritableError(
            f"cannot remove {path}: {error.strerror}; remove it yourself, or choose another folder "
            "(--out)"
        ) from error


def _forget(name: str, out: Path) -> None:
    """Remove what an earlier run left, so that it is not taken for this one's."""
    stale = [out / f"notebooks/{name}{suffix}" for suffix in (".ipynb", PAGE, ".json")]
    for path in [*stale, out / f"site/{name}.html"]:
        _remove(path)


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
        if not line.endswith(b"\n"):  # it was killed as it spoke
            break
        message = json.loads(line)
        match message.pop("event"):
            case "cell":
                result.cell, result.line = message["number"], message["line"]
            case "note":
                result.notes.append(message["text"])
            case "done":
                return message["notebook"], message["page"]
            case "unstarted":
                result.cause = UNSTARTED
                return None
            case "failed":
                for name, value in message.items():
                    setattr(result, name, value)
                return None
    result.cause = ENDED
    return None


@asynccontextmanager
async def _fresh_worker(
    threads: int, mark: str
) -> AsyncIterator[tuple[StreamWriter, StreamReader]]:
    """Start a worker, which never outlives this block: where it reads, and what it writes."""
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mmlab.notebooks.worker"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(threads),
        limit=LARGEST,
        start_new_session=True,  # Ctrl-C is ours to handle
    )
    try:
        assert worker.stdin is not None and worker.stdout is not None  # both are pipes
        yield worker.stdin, worker.stdout
    finally:
        kill_family(worker.pid, mark)
        await worker.wait()


async def _execute(
    notebook: Notebook, result: Result, worker: Worker, timeout: float
) -> Executed | None:
    """Execute one notebook in this worker; what it made, or None with the cause in ``result``."""
    changed = {k: v for k, v in result.parameters.items() if notebook.defaults.get(k) != v}
    mark = secrets.token_hex(16)  # told by the environment of whatever the notebook starts
    job = {
        "path": str(notebook.path),
        "folder": str(notebook.path.parent),
        "parameters": changed,  # those alone show up on the page, in a cell of their own
        "mark": mark,
    }
    deadline = asyncio.get_running_loop().time() + timeout
    try:
        for _ in range(2):  # between the choice of a kernel's ports and its start one may be taken
            result.cause = ""
            async with worker(mark) as (orders, news), asyncio.timeout_at(deadline):
                orders.write(f"{job!r}\n".encode())
                executed = await _listen(news, result)
            if result.cause != UNSTARTED:
                return executed
    except ValueError:  # what asyncio says of a line above the limit
        result.cause = f"it ran, and its result is above {LARGEST >> 20} MiB; print and show less"
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
    executed, result.cause = None, notebook.fault
    try:
        if not notebook.fault:
            executed = await _execute(notebook, result, worker, timeout)
    finally:
        del progress.running[notebook.name]
    result.seconds = round(time.monotonic() - start, 1)
    result.finished = datetime.now(UTC).isoformat(timespec="seconds")
    result.device = _device(str({**notebook.defaults, **result.parameters}.get("device", "cpu")))
    result.versions = _versions()
    try:
        if executed is not None:
            for suffix, text in zip((".ipynb", PAGE), executed, strict=True):
                write_atomically(out / f"notebooks/{notebook.name}{suffix}", text)
            result.ok, result.cell, result.line = True, None, ""
        write_atomically(out / f"notebooks/{notebook.name}.json", _record(result))
    except UnwritableError as error:
        with suppress(UnwritableError):
            _forget(notebook.name, out)
        result.ok, result.cell, result.line, result.cause = False, None, "", str(error)
    progress.say(f"{result}\n{result.detail}".rstrip())


def _record(result: Result) -> str:
    """A result as JSON, which lacks some of what a default may be, such as a set."""
    facts = asdict(result)
    for name, value in result.parameters.items():
        facts["parameters"][name] = value if is_literal(value) else repr(value)
    return json.dumps(facts, indent=1)


async def _aside(build: Callable[[], object]) -> None:
    """Build the site in a thread that ends with this process, however far it is."""
    loop, built = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        try:
            with suppress(SiteError):  # which is said at the end
                build()
        finally:
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(built.set)

    Thread(target=work, daemon=True).start()
    await built.wait()


async def _run_all(
    notebooks: Sequence[Notebook],
    results: Sequence[Result],
    out: Path,
    timeout: float,
    jobs: int,
    warm: WarmParent | None,
    build: Callable[..., object],
) -> None:
    """Run notebooks, ``jobs`` at a time, and build the site anew as each ends."""
    jobs = min(jobs, len(notebooks))
    threads = max(1, (os.cpu_count() or 1) // jobs)  # so that they do not fight for the cores
    progress, gate = Progress(sys.stdout), asyncio.Semaphore(jobs)
    worker = warm.worker if warm else partial(_fresh_worker, threads)

    building, unshown = asyncio.Lock(), {""}

    async def show(name: str) -> None:
        """What is done is there to read, come what may. One build serves all that wait for it."""
        async with building:
            if name in unshown:
                unshown.clear()
                await _aside(partial(build, whole=not name))

    async def when_free(notebook: Notebook, result: Result) -> None:
        async with gate:
            await _run_one(notebook, result, out, timeout, worker, progress)
        unshown.add(notebook.name)
        await show(notebook.name)

    drawing = asyncio.create_task(progress.keep_drawing())
    async with asyncio.TaskGroup() as group:
        group.create_task(show(""))  # what earlier runs have left
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
    library: bool = False,
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
        library: whether the site also has the docs and the reference of the library.

    Raises:
        NotebookError: before anything runs, for an unknown notebook, an unknown or ill-typed
            parameter, a number out of range, or an ``out`` that would replace the notebooks. A
            notebook that fails or cannot be read raises nothing: its ``Result`` says where and why.
        UnwritableError: before anything runs, if ``out`` cannot be written.
        SiteError: after all has run, if a page could not be written or the record of an earlier run
            is damaged. Its ``results`` are what would have been returned.
    """
    _check_numbers(jobs, timeout)
    notebooks = choose(numbers, folder)
    if (out / "notebooks").resolve() == folder.resolve():
        raise NotebookError(
            f"{out} as the folder for results would replace the notebooks in it; "
            "choose another one (--out)"
        )
    given = _given(profile, parameters or {})
    results = [_unrun(notebook, given) for notebook in notebooks]
    _make_room(notebooks, out)
    build = partial(build_site, out, folder, library=library)
    asyncio.run(_run_all(notebooks, results, out, timeout, jobs, warm, build))
    try:
        build()
    except SiteError as error:
        error.results = results
        raise
    return results


def _check_numbers(jobs: int, timeout: float) -> None:
    if not (isinstance(jobs, int) and jobs >= 1):
        raise NotebookError(f"jobs={jobs!r}; it must be a whole number of at least 1 (--jobs)")
    if not (isinstance(timeout, int | float) and timeout > 0):  # NaN is not either
        raise NotebookError(
            f"timeout={timeout!r}; it must be a number of seconds above 0 (--timeout)"
        )


def _given(profile: str | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters, the profile among them."""
    if profile is None:
        return dict(parameters)
    if parameters.get("profile", profile) != profile:
        raise NotebookError(
            f"the profile is given as {profile!r} and as {parameters['profile']!r}; give it once"
        )
    return {**parameters, "profile": profile}


def _unrun(notebook: Notebook, given: Mapping[str, Any]) -> Result:
    """The result of a notebook that has not run yet, with its checked parameters."""
    values = {} if notebook.fault else check_parameters(notebook, given)
    parameters = {**notebook.defaults, **values}
    return Result(notebook.name, notebook.title, notebook.minutes, parameters, cells=notebook.cells)


def _make_room(notebooks: Sequence[Notebook], out: Path) -> None:
    """Remove what these notebooks left, once it is sure that there can be something new."""
    _check_writable(out / "notebooks")
    _check_writable(out / "site")
    for notebook in notebooks:
        _forget(notebook.name, out)
