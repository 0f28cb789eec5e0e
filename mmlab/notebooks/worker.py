"""The child process that executes one notebook and tells its parent how it goes.

A process of its own makes a deadline simple: the parent kills it, and with it the kernel. The job
comes in as one line (a Python literal); what happens goes out as JSON lines, in a plain run through
stdin and stdout, in a warm one through a socket:

- ``{"event": "cell", "number": 3, "line": "loss.backward()"}`` as cell 3 starts, counted from 1,
- ``{"event": "note", "text": …}`` for what a reader should know though all went well,
- ``{"event": "unstarted"}`` if its kernel ended before it ran anything,
- ``{"event": "failed", "cause": …, "line": …, "detail": …}`` if a cell raised or the kernel died,
- ``{"event": "done", "notebook": …, "page": …}`` with the executed notebook and the source of its
  page if every cell ran.

Only the parent writes files, so a worker that is killed leaves nothing behind.
"""

import ast
import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from mmlab.notebooks.catalogue import NotebookError
from mmlab.notebooks.processes import MARK, adopt_orphans, end_strays, kill_family

ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
channel: TextIO


def tell(event: str, **facts: Any) -> None:
    """Send one JSON line to the parent."""
    channel.write(json.dumps({"event": event, **facts}) + "\n")
    channel.flush()


def first_line(source: str) -> str:
    """The first line of a cell that is code, not blank and not a comment."""
    lines = (line.strip() for line in source.splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")


def line_of_error(source: str, execution_count: int | None, traceback: str) -> str:
    """The line of a cell where its error arose, as ``line 3: x = 1 / 0``."""
    found = re.search(rf"Cell In\[{execution_count}\], line (\d+)", traceback)
    number = int(found[1]) if found else 1
    lines = source.splitlines()
    text = lines[number - 1].strip() if found and number <= len(lines) else first_line(source)
    return f"line {number}: {text}"


class ReportingEngine(NBClientEngine):
    """Papermill's engine, which says as each cell starts."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> None:
        start = nb_man.cell_start

        def cell_start(cell: Any, cell_index: int, **more: Any) -> None:
            earlier = nb_man.nb.cells[: cell_index + 1]
            # papermill adds a cell; a reader counts the cells of the file
            number = sum("injected-parameters" not in c.metadata.get("tags", []) for c in earlier)
            line = first_line(cell.source) if cell.cell_type == "code" else ""
            tell("cell", number=number, line=line)
            start(cell=cell, cell_index=cell_index, **more)

        nb_man.cell_start = cell_start
        super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


def strip_machine_state(notebook: nbformat.NotebookNode) -> None:
    """Drop what a page cannot show (widget state and views, papermill's notes); join text."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        if cell.cell_type == "code":
            shown = [o for o in cell.outputs if WIDGET_VIEW not in o.get("data", {})]
            cell.outputs = list(joined(shown))


def joined(outputs: Iterable[nbformat.NotebookNode]) -> Iterator[nbformat.NotebookNode]:
    """Outputs with printed text in one piece: where it was cut on its way is chance."""
    for stream, pieces in groupby(outputs, lambda output: output.get("name")):
        if stream is None:  # what is no stream has no name
            yield from pieces
        else:
            text = "".join(piece.text for piece in pieces)
            yield nbformat.v4.new_output("stream", name=stream, text=text)


def ended_early(notebook: nbformat.NotebookNode) -> bool:
    """Whether code was left unrun or a cell erred: ``sys.exit()`` does so without an alarm."""
    return any(
        cell.cell_type == "code"
        and cell.source.strip()
        and cell.metadata.papermill.status != "completed"
        for cell in notebook.cells
    ) or any(
        output.output_type == "error"
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def kernel_of(notebook: nbformat.NotebookNode) -> str:
    """The name of a notebook's kernel.

    Raises:
        NotebookError: it is not installed, or is not Python's.
    """
    name = notebook.metadata.get("kernelspec", {}).get("name")
    found = KernelSpecManager().get_all_specs()
    allowed = [key for key, kind in found.items() if kind["spec"]["language"] == "python"]
    if name not in allowed:
        raise NotebookError(
            f"its kernel is {name!r}; allowed are those of Python here: {', '.join(allowed)}. "
            "Choose one in JupyterLab (Kernel > Change Kernel) and save the notebook"
        )
    return str(name)


def execute(job: dict[str, Any]) -> None:
    """Execute the notebook of a job, and tell how it ended."""
    try:
        source = nbformat.read(job["path"], as_version=4)
        notebook = papermill.execute_notebook(
            source,  # not its path, in which papermill would fill in braces
            None,
            parameters=job["parameters"],
            engine_name="mmlab",
            kernel_name=kernel_of(source),
            language="python",
            cwd=job["folder"],
            progress_bar=False,
            extra_arguments=["--ext", "mmlab.notebooks.output_limit"],
            start_timeout=10**6,  # seconds; the notebook's deadline is the one limit
            iopub_timeout=10**6,
        )
    except PapermillExecutionError as error:
        detail = ANSI.sub("", "\n".join(error.traceback))
        line = line_of_error(error.source, error.exec_count, detail)
        cause = f"{error.ename}: {ANSI.sub('', error.evalue)}"
        tell("failed", cause=cause, line=line, detail=detail)
    except DeadKernelError:
        tell("failed", cause="the kernel died (killed, crashed, or out of memory)")
    except NotebookError as error:
        tell("failed", cause=str(error))
    except Exception as error:
        if "Kernel died before replying to kernel_info" in str(error):
            tell("unstarted")
        else:
            tell("failed", cause=f"{type(error).__name__}: {error}")
    else:
        for command in end_strays(job["mark"]):
            tell("note", text=f"what it had started was still running and was ended: {command}")
        _tell_result(notebook, Path(job["folder"]))


def _tell_result(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Tell what a notebook whose cells raised nothing has become."""
    if ended_early(notebook):
        tell("failed", cause="the notebook ended early (SystemExit): cells below were not run")
        return
    strip_machine_state(notebook)
    text = nbformat.writes(notebook)
    try:
        from mmlab.notebooks.pages.prepare import prepare  # the cells need not wait for its imports

        page, notes = prepare(notebook, folder)
    except Exception as error:
        cause = f"it ran, and cannot be shown as a page: {type(error).__name__}: {error}"
        tell("failed", cause=cause)
    else:
        for note in notes:
            tell("note", text=note)
        tell("done", notebook=text, page=page)


def end_with_parent(orders: TextIO, mark: str = "") -> None:
    """Wait until the parent is gone (its end of our line closes), then take the kernel along."""
    with suppress(ConnectionError):  # what a socket says if the parent left news of ours unread
        orders.read()
    kill_family(os.getpid(), mark)


def serve(orders: TextIO, news: TextIO) -> None:
    """Read the job from ``orders``, execute it, and write to ``news`` how it goes."""
    global channel
    channel = news
    if not (line := orders.readline()):
        return  # the parent was gone before it said what to do
    job = ast.literal_eval(line)
    os.environ[MARK] = job["mark"]  # the kernel inherits it, and all that it starts
    adopt_orphans()
    threading.Thread(target=end_with_parent, args=[orders, job["mark"]], daemon=True).start()
    papermill_engines.register("mmlab", ReportingEngine)
    try:
        execute(job)
    finally:
        end_strays(job["mark"], grace=0)  # the thread above does not outlive this one


def main() -> None:
    """Serve the parent that started us; keep stdout for it alone."""
    news = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a kernel prints past Jupyter goes to stderr, not between our lines
    serve(sys.stdin, news)


if __name__ == "__main__":
    main()
