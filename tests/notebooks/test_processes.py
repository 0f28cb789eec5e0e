"""Nothing that a notebook starts outlives its run, however it hides."""

import os
import secrets
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from small import SLEEP, start_run, wait_for, write_notebook

from mmlab.notebooks import run
from mmlab.notebooks.processes import MARK, kill_family

OWN_SESSION = """
import pathlib, subprocess
child = subprocess.Popen(["sleep", "300"], start_new_session=True)
_ = pathlib.Path({!r}).write_text(str(child.pid))
"""
WITHOUT_ENVIRONMENT = """
import pathlib, subprocess
child = subprocess.Popen(["/bin/sh", "-c", "exec sleep 300"], start_new_session=True, env={{}})
_ = pathlib.Path({!r}).write_text(str(child.pid))
"""
DAEMON = """
import os, pathlib, time
middle = os.fork()
if middle == 0:
    os.setsid()
    if os.fork() == 0:
        _ = pathlib.Path({!r}).write_text(str(os.getpid()))
        time.sleep(300)
    os._exit(0)
_ = os.waitpid(middle, 0)
while not pathlib.Path({!r}).exists():
    time.sleep(0.05)
"""
KILL_WORKER = "import os, time\nos.kill(os.getppid(), 9)\ntime.sleep(60)"

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux alone lets a process adopt")


def wait_until_gone(pid: int) -> None:
    wait_for(lambda: not psutil.pid_exists(pid))


def hidden(folder: Path) -> tuple[list[str], list[Path]]:
    """Cells that each start a process which hides, and the files that tell its number."""
    files = [folder / f"pid{n}" for n in range(3)]
    cells = [OWN_SESSION.format(str(files[0])), WITHOUT_ENVIRONMENT.format(str(files[1]))]
    return [*cells, DAEMON.format(str(files[2]), str(files[2]))], files


@linux
@pytest.mark.parametrize("way", ["plain", "warm"])
@pytest.mark.parametrize("ending", ["print('well')", "1 / 0"])
def test_what_hides_is_ended_with_the_notebook(tmp_path, way, ending, request):
    warm = request.getfixturevalue("warm_parent") if way == "warm" else None
    cells, files = hidden(tmp_path)
    write_notebook(tmp_path / "notebooks", "00-a", *cells, ending)
    (result,) = run(folder=tmp_path / "notebooks", out=tmp_path / "build", warm=warm)
    for file in files:
        wait_until_gone(int(file.read_text()))
    if ending == "1 / 0":
        assert "ZeroDivisionError" in result.cause
    else:
        assert result.ok, f"{result}\n{result.detail}"
        assert len(result.notes) == 3
        assert all("still running and was ended" in note for note in result.notes)
        assert sum("sleep 300" in note for note in result.notes) == 2
        assert "sleep 300" in str(result)
        assert "sleep 300" in (tmp_path / "build/site/index.html").read_text()


@linux
def test_what_hides_is_ended_with_a_killed_run(tmp_path):
    cells, files = hidden(tmp_path)
    write_notebook(tmp_path / "notebooks", "00-a", *cells, SLEEP)
    with start_run(tmp_path / "notebooks", tmp_path / "build"):
        wait_for(lambda: files[-1].exists() and files[-1].read_text())
    for file in files:
        wait_until_gone(int(file.read_text()))


def test_what_a_killed_worker_leaves_is_ended(tmp_path):
    file = tmp_path / "pid"
    write_notebook(tmp_path / "notebooks", "00-a", OWN_SESSION.format(str(file)), KILL_WORKER)
    (result,) = run(folder=tmp_path / "notebooks", out=tmp_path / "build")
    assert "ended early" in result.cause
    wait_until_gone(int(file.read_text()))


def start_orphan(mark: str) -> int:
    """A process with this mark whose parent has ended."""
    code = "import subprocess as s; print(s.Popen(['sleep', '300'], stdout=s.DEVNULL).pid)"
    environment = os.environ | {MARK: mark}
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        start_new_session=True,
        check=True,
    )
    return int(said.stdout)


def test_the_mark_tells_whose_an_orphan_is():
    mark, other = secrets.token_hex(), start_orphan(secrets.token_hex())
    pid = start_orphan(mark)
    kill_family(2**30, mark)  # a number that no process has
    wait_until_gone(pid)
    assert psutil.pid_exists(other)
    psutil.Process(other).kill()


def test_who_ends_by_himself_is_not_spoken_of():
    code = """
import subprocess, sys
from mmlab.notebooks.processes import end_strays
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
child.stdin.close()
print(end_strays("no such mark", grace=60))
child = subprocess.Popen(["sleep", "300"], stdout=subprocess.DEVNULL)
print(end_strays("no such mark", grace=0))
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout.splitlines() == ["[]", "['sleep 300']"]
