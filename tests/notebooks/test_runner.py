"""The strict runner: what it refuses, how it reports each failure, and what it leaves behind."""

import ast
import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import psutil
import pytest
from small import SHARE_PID, SLEEP, start_run, wait_for, write_notebook

from mmlab.files import UnwritableError
from mmlab.notebooks import run
from mmlab.notebooks.__main__ import main
from mmlab.notebooks.catalogue import NotebookError, choose, parse_assignment, read
from mmlab.notebooks.progress import Progress
from mmlab.notebooks.result import Result
from mmlab.notebooks.runner import _execute, _run_one, _unrun
from mmlab.notebooks.warm import WarmParent


@pytest.fixture(params=["plain", "warm"])
def warm(request: pytest.FixtureRequest) -> WarmParent | None:
    """None for a plain run, or a process to fork from. What uses this must hold for both."""
    return request.getfixturevalue("warm_parent") if request.param == "warm" else None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "notebooks"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "build"


def pretend_earlier_success(out: Path, name: str) -> list[Path]:
    """Files as an earlier good run leaves them."""
    old = [out / f"notebooks/{name}.ipynb", out / f"site/{name}.html", out / "site/index.html"]
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("an old success")
    return old


# ---------------------------------------------------------------- what is refused at once


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"sed": 1}, "no parameter sed.*seed"),
        ({"seed": 1, "sed": 2}, "no parameter sed; it has: profile, seed"),
        ({"seed": 1.5}, "seed=1.5 is float.*int"),
        ({"seed": True}, "seed=True is bool.*int"),
        ({"seed": "one"}, "seed='one' is str.*int"),
        ({"rate": False}, "rate=False is bool.*float"),
        ({"flag": 1}, "flag=1 is int.*bool"),
        ({"device": 0}, "device=0 is int.*str"),
        ({"profile": "huge"}, "'huge'.*smoke, teach, full"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(folder, out, parameters, complaint):
    write_notebook(folder, "00-a", "1")
    with pytest.raises(NotebookError, match=complaint):
        run(parameters=parameters, folder=folder, out=out)
    assert not out.exists()


def test_a_parameter_must_be_known_to_every_chosen_notebook(folder, out):
    write_notebook(folder, "00-a", "1")
    write_notebook(folder, "01-b", "1", parameters='profile = "smoke"')
    with pytest.raises(NotebookError, match="01-b has no parameter seed"):
        run(parameters={"seed": 1}, folder=folder, out=out)


def test_parameters_must_be_literals(folder):
    path = write_notebook(folder, "00-a", parameters="import os\nseed = os.getpid()")
    with pytest.raises(NotebookError, match=r"00-a.*import os.*name = literal"):
        read(path)


def test_unknown_notebook_names_those_there_are(folder, capsys):
    write_notebook(folder, "00-a")
    write_notebook(folder, "03-b")
    assert main(["run", "07"], folder) == 2
    said = capsys.readouterr().err
    assert "unknown notebook 07; choose from 00, 03" in said and "mmlab list" in said


def test_an_empty_folder_is_an_error(folder):
    with pytest.raises(NotebookError, match="no notebook"):
        choose([], folder)


def test_numbers_in_any_spelling_come_in_order(folder):
    for name in ("00-a", "01-b", "12-c"):
        write_notebook(folder, name)
    assert [n.name for n in choose(["12", 1], folder)] == ["01-b", "12-c"]
    assert [n.number for n in choose([], folder)] == [0, 1, 12]


def test_broken_file_is_named(folder):
    folder.mkdir()
    (folder / "00-a.ipynb").write_text("{")
    with pytest.raises(NotebookError, match=r"00-a\.ipynb is not a readable notebook"):
        read(folder / "00-a.ipynb")


def test_command_line_values_follow_the_default(folder):
    notebooks = [read(write_notebook(folder, "00-a"))]
    assert parse_assignment("seed=3", notebooks) == ("seed", 3)
    assert parse_assignment("device=3", notebooks) == ("device", "3")
    assert parse_assignment("seed=three", notebooks) == ("seed", "three")
    with pytest.raises(NotebookError, match="name=value"):
        parse_assignment("seed", notebooks)
    without = read(write_notebook(folder, "01-b", parameters="seed = 0"))
    assert parse_assignment("device=3", [*notebooks, without]) == ("device", "3")


def test_output_folder_that_cannot_be_written(folder, tmp_path):
    write_notebook(folder, "00-a")
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableError, match=r"cannot write .*file.*--out"):
        run(folder=folder, out=tmp_path / "file" / "build")


# ---------------------------------------------------------------- what goes well


def test_a_good_run_leaves_result_record_and_page(folder, out, capsys):
    widget = "import ipywidgets\nipywidgets.IntSlider()"
    where = "import os\nprint(os.getcwd(), seed + 1, rate * 2, profile)"
    write_notebook(folder, "00-a", where, widget)
    argv = ["run", "0", "--profile", "full", "-p", "seed=41", "-p", "rate=2", "--no-open"]
    assert main([*argv, "--out", str(out)], folder) == 0
    assert "site/index.html" in capsys.readouterr().out
    notebook = nbformat.read(out / "notebooks/00-a.ipynb", as_version=4)
    texts = [o.get("text", "") for c in notebook.cells for o in c.get("outputs", [])]
    assert f"{folder} 42 4.0 full\n" in texts
    assert "widgets" not in notebook.metadata
    assert "widget-view" not in (out / "notebooks/00-a.ipynb").read_text()
    assert str(out) not in (out / "notebooks/00-a.ipynb").read_text()
    record = json.loads((out / "notebooks/00-a.json").read_text())
    assert record["ok"] and record["cells"] == 4 and record["device"] == "cpu"
    assert record["parameters"]["seed"] == 41 and record["minutes"] == "3"
    assert set(record["versions"]) == {"python", "mmlab", "torch", "numpy"}
    assert (out / "site/00-a.html").exists()
    left = {path.name for path in (out / "notebooks").iterdir()}
    assert left == {"00-a.ipynb", "00-a.page", "00-a.json"}


def run_alone(folder: Path, out: Path, **parameters) -> tuple[dict, dict]:
    """The record of a run without a kernel, and the job that its worker got."""
    notebook, orders = read(write_notebook(folder, "00-a", "1")), Orders()
    said = (
        b'{"event": "cell", "number": 3, "line": "1"}\n'
        b'{"event": "done", "notebook": "{}", "page": "{}"}\n'
    )
    worker, progress = speaking(said, orders), Progress(None)
    asyncio.run(_run_one(notebook, _unrun(notebook, parameters), out, 60, worker, progress))
    (job,) = orders.lines
    record = json.loads((out / "notebooks/00-a.json").read_text())
    return record, ast.literal_eval(job.decode())


def test_a_record_says_when_and_on_which_device_it_ran(folder, out, monkeypatch):
    record, _ = run_alone(folder, out, device="mps")
    assert record["ok"] and record["device"] == "mps"
    assert (record["cell"], record["line"]) == (None, "")  # they say where it failed
    when = datetime.fromisoformat(record["finished"])
    assert when.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=1)
    monkeypatch.setattr("mmlab.training.find_device", lambda: "cuda:1")
    record, _ = run_alone(folder, out, device="auto")
    assert record["device"] == "cuda:1"


def test_a_worker_is_told_what_differs_from_the_notebook_s_own(folder, out):
    record, job = run_alone(folder, out, seed=0, rate=2)
    assert job["parameters"] == {"rate": 2.0}  # a cell with them stands on the page
    assert (job["path"], job["folder"]) == (str(folder / "00-a.ipynb"), str(folder))
    assert (record["parameters"]["seed"], record["parameters"]["rate"]) == (0, 2.0)


def test_what_cannot_be_shown_as_a_page_is_told(folder, out):
    svg = "{'image/svg+xml': '<svg/>'}, metadata={'image/svg+xml': {'alt': 3}}, raw=True"
    write_notebook(folder, "00-a", f"from IPython.display import display\ndisplay({svg})")
    (result,) = run(folder=folder, out=out)
    assert not result.ok and "cannot be shown as a page: AttributeError" in result.cause
    assert not (out / "notebooks/00-a.ipynb").exists()


def test_two_run_at_a_time_and_share_the_cores(folder, out, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    meet = """
import os, pathlib, time
pathlib.Path('{mine}').touch()
while not pathlib.Path('{other}').exists():
    time.sleep(0.05)
assert os.environ["OMP_NUM_THREADS"] == "1"
"""
    a, b = tmp_path / "a", tmp_path / "b"
    write_notebook(folder, "00-a", meet.format(mine=a, other=b))
    write_notebook(folder, "01-b", meet.format(mine=b, other=a))
    results = run(folder=folder, out=out, jobs=2, timeout=60)
    assert [result.cause for result in results] == ["", ""]


# ---------------------------------------------------------------- each way to fail


def test_an_error_is_named_by_notebook_cell_line_and_cause(folder, out, capsys):
    helper = "def divide(x):\n    return 1 / x"
    write_notebook(folder, "00-a", helper, "ready = True\n\n# a remark\ndivide(0)", "after = 1")
    write_notebook(folder, "01-b", "1")
    old = pretend_earlier_success(out, "00-a")
    assert main(["run", "--no-open", "--out", str(out)], folder) == 1
    expected = "FAILED 00-a, cell 4, line 4: divide(0): ZeroDivisionError: division by zero"
    printed = capsys.readouterr()
    assert expected in printed.err
    assert "return 1 / x" in printed.out  # the traceback
    assert not old[0].exists() and not old[1].exists()
    assert not json.loads((out / "notebooks/00-a.json").read_text())["ok"]
    assert (out / "notebooks/01-b.ipynb").exists()  # the others run all the same
    index = (out / "site/index.html").read_text()
    assert "an old success" not in index and "ZeroDivisionError" in index


@pytest.mark.parametrize("death", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_kernel_death_is_a_failure(folder, out, death, warm):
    write_notebook(folder, "00-a", "import os", f"# the end\n{death}", "after = 1")
    (result,) = run(folder=folder, out=out, warm=warm)
    assert not result.ok
    assert (result.cell, result.line) == (4, death)
    assert "kernel died" in result.cause
    assert not (out / "notebooks/00-a.ipynb").exists()


def test_a_kernel_that_ended_as_it_started_is_tried_once_more(folder, out, tmp_path):
    """As it does where another program took a port of its own meanwhile."""
    write_notebook(folder, "00-a", "print('ran')")
    tried = tmp_path / "tried"
    (tmp_path / "kernels/python3").mkdir(parents=True)
    launch = f"""
import os, runpy, sys
with open({str(tried)!r}, "a") as file:
    print("once", file=file)
if len(open({str(tried)!r}).readlines()) < int(os.environ["STARTS_AT"]):
    sys.exit(1)
runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)
"""
    (tmp_path / "launch.py").write_text(launch)
    argv = [sys.executable, str(tmp_path / "launch.py"), "-f", "{connection_file}"]
    kernel = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (tmp_path / "kernels/python3/kernel.json").write_text(json.dumps(kernel))
    for starts_at, ok in ((2, True), (4, False)):
        tried.unlink(missing_ok=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("JUPYTER_PATH", str(tmp_path))
            patch.setenv("STARTS_AT", str(starts_at))
            (result,) = run(folder=folder, out=out)
        assert tried.read_text().split() == ["once"] * 2
        assert result.ok == ok and ("ended as it started, twice" in result.cause) == (not ok)


class Orders:
    """Notes what a worker is told."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.lines.append(line)


def speaking(said: bytes, orders: Orders | None = None):
    """A worker that says this and ends."""

    @asynccontextmanager
    async def worker(mark: str):
        news = asyncio.StreamReader(limit=1000)
        news.feed_data(said)
        news.feed_eof()
        yield orders or Orders(), news

    return worker


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (b'{"event": "cell", "num', "ended early"),
        (b"", "ended early"),
        (b'{"event": "done", "notebook": "%s"}' % (b"x" * 5000), "print and show less"),
    ],
)
def test_what_a_worker_did_not_say_whole_is_a_failure(folder, said, cause):
    """It was killed as it spoke, or has more to say than the runner takes."""
    notebook = read(write_notebook(folder, "00-a", "1"))
    result = Result("00-a", "A title", None, {})

    assert asyncio.run(_execute(notebook, result, speaking(said), 60)) is None
    assert cause in result.cause


def test_a_notebook_that_exits_early_has_not_succeeded(folder, out, warm):
    write_notebook(folder, "00-a", "import sys\nsys.exit(0)", "after = 1")
    (result,) = run(folder=folder, out=out, warm=warm)
    assert not result.ok and result.cell == 3
    assert "SystemExit" in result.cause


def let_time_pass(monkeypatch, condition) -> None:
    """Let the deadline come once something holds: how fast a kernel starts is chance."""

    def timeout_at(_: float) -> asyncio.Timeout:
        timeout = asyncio.timeout(None)

        async def watch() -> None:
            while not condition():
                await asyncio.sleep(0.05)
            timeout.reschedule(0)

        timeout.watching = asyncio.ensure_future(watch())  # which must not be collected
        return timeout

    monkeypatch.setattr("asyncio.timeout_at", timeout_at)


def test_deadline_within_a_cell_leaves_no_kernel(folder, out, tmp_path, warm, monkeypatch):
    pid = tmp_path / "pid"
    sleep = f"open({str(tmp_path / 'in')!r}, 'w')\n{SLEEP}"
    write_notebook(folder, "00-a", SHARE_PID.format(pid), sleep)
    let_time_pass(monkeypatch, (tmp_path / "in").exists)
    (result,) = run(folder=folder, out=out, timeout=10, warm=warm)
    assert not result.ok
    assert result.cell == 4 and result.line.startswith("open(")
    assert "deadline of 10 s" in result.cause
    assert not psutil.pid_exists(int(pid.read_text()))
    assert not (out / "notebooks/00-a.ipynb").exists()


def test_deadline_holds_for_the_whole_notebook(folder, out):
    cells = ["import time\ntime.sleep(2)"] * 20  # no cell is slow, all together are
    write_notebook(folder, "00-a", *cells)
    (result,) = run(folder=folder, out=out, timeout=20)
    assert not result.ok
    assert result.cell is not None and 3 <= result.cell <= 22
    assert "deadline" in result.cause


def test_a_full_disk_leaves_nothing_half_written(folder, out, monkeypatch):
    write_notebook(folder, "00-a", "1")
    whole = Path.write_bytes

    def half(path: Path, content: bytes) -> int:
        if "00-a.ipynb" not in path.name:
            return whole(path, content)
        whole(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    (result,) = run(folder=folder, out=out)
    assert not result.ok
    assert "No space left on device; the disk is full" in result.cause
    assert list((out / "notebooks").iterdir()) == []


def refuse(monkeypatch, name: str, number: int) -> None:
    """Let writing to a file or folder of this name fail, as root is never refused in earnest.

    An empty file finds room on a full disk.
    """
    whole = Path.write_bytes

    def write(path: Path, content: bytes) -> int:
        if content and name in (
            path.parent.name,
            path.name.removeprefix(".").partition(".html")[0],
        ):
            raise OSError(number, os.strerror(number))
        return whole(path, content)

    monkeypatch.setattr(Path, "write_bytes", write)


@pytest.mark.parametrize(
    ("place", "number", "fix"),
    [
        ("site", errno.EACCES, "give yourself write permission on"),
        ("notebooks", errno.EROFS, "choose another folder (--out)"),
        ("notebooks", errno.ENOSPC, "the disk is full: free some space and run again"),
        ("site", errno.ENOSPC, "the disk is full: free some space and run again"),
    ],
)
def test_what_cannot_be_written_is_told_before_anything_is_removed(
    folder, out, monkeypatch, capsys, place, number, fix
):
    write_notebook(folder, "00-a", "1")
    old = pretend_earlier_success(out, "00-a")
    refuse(monkeypatch, place, number)
    assert main(["run", "--no-open", "--out", str(out)], folder) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith("error: cannot write ") and fix in told
    assert [path.read_text() for path in old] == ["an old success"] * 3


def test_what_cannot_be_removed_is_named(folder, out):
    write_notebook(folder, "00-a", "1")
    (out / "site/00-a.html").mkdir(parents=True)
    with pytest.raises(UnwritableError, match=r"cannot remove .*00-a\.html: .*\(--out\)"):
        run(folder=folder, out=out)


def test_a_page_that_cannot_be_written_leaves_the_others(folder, out, monkeypatch, capsys):
    for name in ("00-a", "01-b", "02-c"):
        write_notebook(folder, name, parameters="seed = ")  # told without a kernel
        pretend_page(out, name.replace("0", "1", 1))
    refuse(monkeypatch, "11-b", errno.ENOSPC)
    assert main(["run", "--no-open", "--out", str(out)], folder) == 1
    told = capsys.readouterr().err
    assert told.count("FAILED") == 3
    assert told.count("cannot write") == 1 and "11-b.html" in told and "the disk is full" in told
    assert {path.name for path in (out / "site").glob("*.html")} == {
        "10-a.html",
        "12-c.html",
        "index.html",
        "search.html",
    }


def pretend_page(out: Path, name: str) -> None:
    """The record and page of an earlier good run."""
    result = Result(name, "A title", "3", {}, ok=True)
    (out / "notebooks").mkdir(parents=True, exist_ok=True)
    (out / f"notebooks/{name}.json").write_text(json.dumps(asdict(result)))
    cells = [nbformat.v4.new_markdown_cell("# A title")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), out / f"notebooks/{name}.page")


# ---------------------------------------------------------------- a run that is killed


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_run_keeps_what_is_finished_with_an_index(folder, out, tmp_path, how):
    """Pages of this run, and of one before."""
    write_notebook(folder, "00-a", "1")
    write_notebook(folder, "01-b", SHARE_PID.format(tmp_path / "pid"), SLEEP)
    pretend_page(out, "09-z")
    with start_run(folder, out, ["--jobs", "1"]) as process:
        wait_for((tmp_path / "pid").exists)
        index = out / "site/index.html"
        wait_for(lambda: index.exists() and index.read_text("utf-8").count("✓ ok") == 2)
        process.send_signal(how)
        _, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    pages = {path.name for path in (out / "site").glob("*.html")}
    assert pages - {"search.html"} == {"00-a.html", "09-z.html", "index.html"}
    index = (out / "site/index.html").read_text("utf-8")
    assert [f'<a href="{name}.html"' in index for name in ("00-a", "01-b", "09-z")] == [
        True,
        False,
        True,
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("unread", [b"", b"news"])
def test_a_worker_ends_with_its_parent_whatever_is_unread(unread):
    """A socket whose other end closes with data in it says so by an error, not by an end."""
    ours, theirs = socket.socketpair()
    code = f"""
import socket
from mmlab.notebooks.worker import end_with_parent
line = socket.socket(fileno={theirs.fileno()})
line.sendall({unread!r})
print("ready", flush=True)
end_with_parent(line.makefile("r", encoding="utf-8"))
"""
    worker = subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdout=subprocess.PIPE
    )
    theirs.close()
    assert worker.stdout and worker.stdout.readline() == b"ready\n"
    ours.close()
    worker.communicate(timeout=60)
    assert worker.returncode == -signal.SIGKILL  # its whole family was killed, itself last


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize(
    ("how", "options"),
    [
        (signal.SIGKILL, []),
        (signal.SIGINT, []),
        (signal.SIGTERM, []),
        (signal.SIGKILL, ["--warm"]),
        (signal.SIGINT, ["--warm"]),
    ],
)
def test_a_killed_run_leaves_neither_process_nor_result(folder, out, tmp_path, how, options):
    pid = tmp_path / "pid"
    write_notebook(folder, "00-a", SHARE_PID.format(pid), SLEEP)
    pretend_earlier_success(out, "00-a")
    with start_run(folder, out, options) as process:
        wait_for(lambda: pid.exists() and pid.read_text())
        family = psutil.Process(process.pid).children(recursive=True)
        assert int(pid.read_text()) in [member.pid for member in family]
        process.send_signal(how)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    assert ("interrupted" in errors) == (how == signal.SIGINT)
    wait_for(lambda: not any(member.is_running() for member in family))
    assert list((out / "notebooks").iterdir()) == []
    assert {path.name for path in (out / "site").glob("*.html")} <= {"index.html", "search.html"}
    assert "00-a" not in (out / "site/index.html").read_text()
