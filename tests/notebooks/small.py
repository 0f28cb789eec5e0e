"""What the tests of the runner share: small notebooks, and runs of their own."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import nbformat
from nbformat import v4

PARAMETERS = 'profile = "smoke"\nseed = 0\nrate = 0.5\nflag = False\ndevice = "cpu"'
SHARE_PID = "import os, pathlib\n_ = pathlib.Path('{}').write_text(str(os.getpid()))"
SLEEP = "import time\ntime.sleep(300)"


def write_notebook(folder: Path, name: str, *code: str, parameters: str = PARAMETERS) -> Path:
    """A notebook of a title, a parameters cell, and these code cells (the first is cell 3)."""
    cells = [v4.new_markdown_cell("# 00 · A title\n\nAbout 3 minutes on a CPU.")]
    cells.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells.extend(v4.new_code_cell(source) for source in code)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def outputs(path: Path) -> list[list[object]]:
    """What each code cell of an executed notebook shows: its text, its results, its figures.

    Printed text is joined, for where it is cut is chance. It is without the number of the process,
    which names the file of a cell in a warning.
    """
    text = re.sub(r"ipykernel_\d+", "ipykernel", path.read_text("utf-8"))
    cells = [c for c in nbformat.reads(text, as_version=4).cells if c.cell_type == "code"]
    return [
        [
            "".join(o.text for o in cell.outputs if o.output_type == "stream"),
            *(o.get("data", o) for o in cell.outputs if o.output_type != "stream"),
        ]
        for cell in cells
    ]


@contextmanager
def start_run(folder: Path, out: Path, options: Sequence[str] = ()) -> Iterator[subprocess.Popen]:
    """A run of all notebooks in a process of its own, which ends with the block."""
    code = f"""
import signal, sys
from pathlib import Path
from mmlab.notebooks.__main__ import main
# a shell's background job, and whatever it starts, is born deaf to Ctrl-C
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.exit(main(["run", "--out", {str(out)!r}, *{list(options)!r}], Path({str(folder)!r})))
"""
    words = [sys.executable, "-c", code]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    """Wait until something holds; fail if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
