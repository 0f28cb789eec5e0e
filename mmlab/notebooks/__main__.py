"""The command line of the runner: `python -m mmlab.notebooks run` and `list`."""

import argparse
import os
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from mmlab.files import UnwritableError
from mmlab.notebooks.catalogue import (
    NOTEBOOKS,
    PROFILES,
    ROOT,
    Notebook,
    NotebookError,
    choose,
    parse_assignment,
)
from mmlab.notebooks.progress import show
from mmlab.notebooks.result import Result
from mmlab.notebooks.runner import run
from mmlab.notebooks.site import SiteError
from mmlab.notebooks.warm import WarmParent


def _someone_is_there() -> bool:
    """Whether a person with a screen started this."""
    screen = sys.platform in ("win32", "darwin") or "DISPLAY" in os.environ
    return sys.stdout is not None and sys.stdout.isatty() and "CI" not in os.environ and screen


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
    add("--warm", action="store_true", help="fork the kernels: no imports, one thread; not Windows")
    add("--out", type=Path, default=ROOT / "build", help="folder for the results (build/)")
    add("--no-open", action="store_true", help="never open the browser")
    return parser.parse_args(argv)


def _run_command(args: argparse.Namespace, folder: Path) -> int:
    """Run, say where to look, and open it if somebody is there; 0 if all went well."""
    parameters = _parameters(args.parameters, choose(args.numbers, folder))
    lacks = ""
    try:
        with WarmParent() if args.warm else nullcontext() as warm:
            results: Sequence[Result] = run(
                args.numbers,
                profile=args.profile,
                parameters=parameters,
                jobs=args.jobs,
                timeout=args.timeout,
                out=args.out,
                folder=folder,
                warm=warm,
                library=folder == NOTEBOOKS,
            )
    except SiteError as error:
        results, lacks = error.results, str(error)
    failed = [result for result in results if not result.ok]
    index = args.out.resolve() / "site/index.html"
    read = "What there is to read" if failed or lacks else "Read them"
    ran = f"{len(results) - len(failed)} of {len(results)} notebooks ran"
    show(f"\n{ran}. {read}: {index}", sys.stdout)
    for result in failed:
        show(f"FAILED {result}", sys.stderr)
    if lacks:
        show(f"The site is not complete:\n{lacks}", sys.stderr)
    if failed or lacks:
        return 1
    if not args.no_open and _someone_is_there():
        webbrowser.open(index.as_uri())
    return 0


def _parameters(assignments: Sequence[str], notebooks: Sequence[Notebook]) -> dict[str, Any]:
    """What was given with -p, each name once."""
    parameters: dict[str, Any] = {}
    for text in assignments:
        name, value = parse_assignment(text, notebooks)
        if name in parameters:
            raise NotebookError(f"-p {text}: {name} is given twice; give it once")
        parameters[name] = value
    return parameters


def _list_command(folder: Path) -> int:
    """List the notebooks; 0 if all can be read."""
    notebooks = choose((), folder)
    for notebook in notebooks:
        settings = ", ".join(f"{k}={v!r}" for k, v in notebook.defaults.items())
        show(f"{notebook.number:02d} {notebook.title}  ({settings})", sys.stdout)
        if notebook.fault:
            show(f"error: {notebook.fault}", sys.stderr)
    return 1 if any(notebook.fault for notebook in notebooks) else 0


def main(argv: Sequence[str] | None = None, folder: Path = NOTEBOOKS) -> int:
    """The command line; 0 all ran, 1 a notebook failed, 2 bad request, 130 interrupted."""
    args = _arguments(argv)
    try:
        if args.command == "run":
            return _run_command(args, folder)
        return _list_command(folder)
    except (NotebookError, UnwritableError) as error:
        show(f"error: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt:
        show("\ninterrupted; what had not finished left no result", sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
