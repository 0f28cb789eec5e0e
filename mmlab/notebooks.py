"""The strict notebook runner.

``python -m mmlab.notebooks run [NN…] --profile smoke -p name=value``

What papermill lets pass is refused here: parameters are checked before anything runs, a notebook
has one deadline as a whole, and success is told by the process that executed it, never by the file
it left. Each failure is reported as notebook, cell number, source line, cause.

``run`` leaves ``NN-name.ipynb`` (only if all went well) and ``NN-name.json`` (what happened, with
which versions) in ``build/notebooks/`` and an HTML site in ``build/site/``.
"""

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import mmlab
from mmlab import site
from mmlab.files import UnwritableError, write_atomically
from mmlab.notebook_catalogue import (
    NOTEBOOKS,
    PROFILES,
    ROOT,
    Notebook,
    NotebookError,
    check_parameters,
    choose,
    collection,
    parse_assignment,
)
from mmlab.notebook_worker import kill_family


@dataclass
class Result:
    """How one notebook ran; this is also what its JSON record holds."""

    notebook: str
    title: str
    minutes: str | None
    parameters: dict[str, Any]
    ok: bool = False
    cells: int = 0
    cell: int | None = None  # 1-based, where it failed
    line: str = ""
    cause: str = ""
    detail: str = ""
    seconds: float = 0.0
    finished: str = ""
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.ok:
            return f"{self.notebook}: ok, {self.cells} cells in {self.seconds:.0f} s"
        where = f", cell {self.cell}" if self.cell else ""
        line = f", {self.line}" if self.line else ""
        return f"{self.notebook}{where}{line}: {self.cause}"


# ---------------------------------------------------------------- files


def _check_writable(folder: Path) -> None:
    """Raise UnwritableError now rather than after an hour of work."""
    probe = folder / ".probe"
    write_atomically(probe, "")
    probe.unlink()


def _forget(name: str, out: Path) -> None:
    """Remove what an earlier run left, so that it is not taken for this one's."""
    stale = [out / f"notebooks/{name}{suffix}" for suffix in (".ipynb", ".json")]
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
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


# ---------------------------------------------------------------- progress


class Progress:
    """Tells a person how far each running notebook is: live lines on a terminal or plain ones."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.live = stream.isatty()
        self.pause = 1.0 if self.live else 10.0  # seconds between two looks
        self.running: dict[str, tuple[Result, float]] = {}
        self._drawn = 0

    def draw(self) -> None:
        """Show a line for each notebook that runs, over those drawn before."""
        self._erase()
        for result, start in self.running.values():
            seconds = time.monotonic() - start
            place = f"cell {result.cell or 0}/{result.cells}"
            number, title = result.notebook[:2], result.title[:40]  # no line may wrap
            print(f"{number} {title}  {place}  {seconds:.0f} s", file=self.stream, flush=True)
        self._drawn = len(self.running)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self._erase()
        self._drawn = 0
        print(text, file=self.stream, flush=True)

    def _erase(self) -> None:
        if self.live and self._drawn:
            self.stream.write(f"\x1b[{self._drawn}F\x1b[J")

    async def keep_drawing(self) -> None:
        while True:
            await asyncio.sleep(self.pause)
            self.draw()


# ---------------------------------------------------------------- running


def _environment(threads: int) -> dict[str, str]:
    """The environment of a worker: our package first, its share of the cores, inline figures."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    ours = {"PYTHONPATH": path, "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONIOENCODING": "utf-8"}
    inline = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    return {"OMP_NUM_THREADS": str(threads), **os.environ, **ours, **inline}


async def _listen(worker: asyncio.subprocess.Process, result: Result) -> str | None:
    """Follow a worker to its end; the executed notebook, or None with the cause in ``result``."""
    async for line in worker.stdout:
        message = json.loads(line)
        match message.pop("event"):
            case "cell":
                result.cell, result.line = message["number"], message["line"]
            case "done":
                return message["notebook"]
            case "failed":
                for name, value in message.items():
                    setattr(result, name, value)
                return None
    result.cause = f"the process that executes it ended with exit code {await worker.wait()}"
    return None


async def _execute(notebook: Notebook, result: Result, timeout: float, threads: int) -> str | None:
    """Execute one notebook in a worker process, which never outlives this call."""
    job = {"path": str(notebook.path), "folder": str(notebook.path.parent)}
    worker = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mmlab.notebook_worker"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=_environment(threads),
        limit=2**30,  # a finished notebook comes as one line
        start_new_session=True,  # Ctrl-C is ours to handle
    )
    try:
        worker.stdin.write(f"{ {**job, 'parameters': result.parameters}!r}\n".encode())
        async with asyncio.timeout(timeout):
            return await _listen(worker, result)
    except TimeoutError:
        result.cause = f"the notebook passed its deadline of {timeout:g} s (--timeout)"
        return None
    finally:
        kill_family(worker.pid)
        await worker.wait()


async def _run_one(
    notebook: Notebook, result: Result, out: Path, timeout: float, threads: int, progress: Progress
) -> None:
    """Run one notebook and write its result and record."""
    start = time.monotonic()
    progress.running[notebook.name] = result, start
    try:
        executed = await _execute(notebook, result, timeout, threads)
    finally:
        del progress.running[notebook.name]
    result.seconds = round(time.monotonic() - start, 1)
    result.finished = datetime.now(UTC).isoformat(timespec="seconds")
    result.device = _device(str({**notebook.defaults, **result.parameters}.get("device", "cpu")))
    result.versions = _versions()
    try:
        if executed is not None:
            write_atomically(out / f"notebooks/{notebook.name}.ipynb", executed)
            result.ok, result.cell, result.line = True, None, ""
        write_atomically(
            out / f"notebooks/{notebook.name}.json", json.dumps(asdict(result), indent=1)
        )
    except UnwritableError as error:
        _forget(notebook.name, out)
        result.ok, result.cell, result.line, result.cause = False, None, "", str(error)
    progress.say(f"{result}\n{result.detail}".rstrip())


async def _run_all(
    notebooks: Sequence[Notebook], results: Sequence[Result], out: Path, timeout: float, jobs: int
) -> None:
    """Run notebooks, ``jobs`` at a time."""
    jobs = min(jobs, len(notebooks))
    threads = max(1, (os.cpu_count() or 1) // jobs)  # so that they do not fight for the cores
    progress, gate = Progress(sys.stdout), asyncio.Semaphore(jobs)

    async def when_free(notebook: Notebook, result: Result) -> None:
        async with gate:
            await _run_one(notebook, result, out, timeout, threads, progress)

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
    asyncio.run(_run_all(notebooks, results, out, timeout, jobs))
    site.build(out, folder)
    return results


# ---------------------------------------------------------------- command line


def _someone_is_there() -> bool:
    """Whether a person with a screen started this."""
    screen = sys.platform in ("win32", "darwin") or "DISPLAY" in os.environ
    return sys.stdout.isatty() and "CI" not in os.environ and screen


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mmlab.notebooks", description="Run the notebooks."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the notebooks and their parameters")
    run_ = commands.add_parser("run", help="execute notebooks and build the site")
    add = run_.add_argument
    add("numbers", nargs="*", metavar="NN", help="which notebooks; all if none is given")
    add("--profile", help=f"{', '.join(PROFILES)}; without it each notebook's own")
    add("-p", dest="parameters", action="append", default=[], metavar="name=value")
    add("--jobs", type=int, default=2, help="how many at a time (2)")
    add("--timeout", type=float, default=3600, help="seconds for one whole notebook (3600)")
    add("--out", type=Path, default=ROOT / "build", help="folder for the results (build/)")
    add("--no-open", action="store_true", help="never open the browser")
    return parser.parse_args(argv)


def _run_command(args: argparse.Namespace, folder: Path) -> int:
    """Run, say where to look, and open it if somebody is there; 0 if all went well."""
    notebooks = choose(args.numbers, folder)
    parameters = dict(parse_assignment(text, notebooks) for text in args.parameters)
    results = run(
        args.numbers,
        profile=args.profile,
        parameters=parameters,
        jobs=args.jobs,
        timeout=args.timeout,
        out=args.out,
        folder=folder,
    )
    failed = [result for result in results if not result.ok]
    index = args.out.resolve() / "site/index.html"
    print(f"\n{len(results) - len(failed)} of {len(results)} notebooks ran. Read them: {index}")
    for result in failed:
        print(f"FAILED {result}", file=sys.stderr)
    if not failed and not args.no_open and _someone_is_there():
        webbrowser.open(index.as_uri())
    return 1 if failed else 0


def main(argv: Sequence[str] | None = None, folder: Path = NOTEBOOKS) -> int:
    """The command line; 0 all ran, 1 a notebook failed, 2 bad request, 130 interrupted."""
    args = _arguments(argv)
    try:
        if args.command == "run":
            return _run_command(args, folder)
        for notebook in collection(folder):
            settings = ", ".join(f"{k}={v!r}" for k, v in notebook.defaults.items())
            print(f"{notebook.number:02d} {notebook.title}  ({settings})")
    except (NotebookError, UnwritableError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; what had not finished left no result", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
