"""Warm runs: a forked kernel is like a fresh one, and no process is left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from small import SHARE_PID, outputs, write_notebook

from mmlab.notebooks import run
from mmlab.notebooks.__main__ import main
from mmlab.notebooks.catalogue import NotebookError
from mmlab.notebooks.warm import ONE_THREAD, WarmParent

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

SURROUNDINGS = [
    "import os, sys, signal, threading\nprint(os.getcwd(), sys.argv[0], sys.argv[3:], sys.path)",
    "print(__name__, sys.modules['__main__'].__dict__ is globals(), sys.executable)",
    "OWN = {'JPY_PARENT_PID', 'MMLAB_RUN', 'PYTEST_CURRENT_TEST'}  # differ between any two runs\n"
    "print(sorted(item for item in os.environ.items() if item[0] not in OWN))",
    "print(sorted((s.name, str(signal.getsignal(s))[:12]) for s in signal.Signals))",
    "print(os.getpid() == os.getpgid(0), [os.readlink(f'/proc/self/fd/{n}') for n in (1, 2)]"
    " if sys.platform == 'linux' else '')",
    "print(sorted(thread.name for thread in threading.enumerate()))",
    "import matplotlib\nprint(matplotlib.get_backend(), matplotlib.rcParams['figure.dpi'])",
    "import matplotlib.pyplot as plt\n_ = plt.plot([1, 3, 2])",
    "import torch\ntorch.manual_seed(0)\nx = torch.randn(200, 200)\n"
    "print((x @ x).sum(), torch.get_num_threads())",
    "import numpy as np\nnp.random.seed(0)\nprint(np.random.normal(size=3), np.geterr())",
    "import pandas as pd\nprint(pd.get_option('display.max_columns'))",
    "from tqdm.auto import tqdm\nprint(tqdm.__module__)",
    "import ipywidgets\nprint(sorted(get_ipython().kernel.comm_manager.targets))",
    "import warnings\nwarnings.warn('mind', DeprecationWarning)",
]
LEAVE = """
import atexit, pathlib
unclosed = open("unclosed.txt", "w")
_ = unclosed.write("words")
_ = atexit.register(pathlib.Path("goodbye.txt").write_text, "words")
"""
DRAW = """
import random, numpy, torch
random.random(), numpy.random.random(), torch.rand(1).item()
"""
CHANGE = """
import os, numpy, matplotlib
os.environ["CHANGED"] = numpy.changed = matplotlib.rcParams["lines.color"] = "red"
"""
UNCHANGED = """
import os, numpy, matplotlib
assert "CHANGED" not in os.environ and not hasattr(numpy, "changed")
assert matplotlib.rcParams["lines.color"] != "red"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "notebooks"


def wait_until_gone(pid: int) -> None:
    end = time.monotonic() + 30
    while psutil.pid_exists(pid):
        assert time.monotonic() < end, "a process was left behind"
        time.sleep(0.05)


def test_a_forked_kernel_is_like_a_fresh_one(
    folder, tmp_path, warm_parent, no_network, monkeypatch
):
    for name, value in ONE_THREAD.items():
        monkeypatch.setenv(name, value)
    write_notebook(folder, "00-a", *SURROUNDINGS)
    seen = []
    for way, parent in (("plain", None), ("warm", warm_parent)):
        (result,) = run(folder=folder, out=tmp_path / way, warm=parent)
        assert result.ok, f"{result}\n{result.detail}"
        seen.append(outputs(tmp_path / way / "notebooks/00-a.ipynb"))
    for plain, warm in zip(*seen, strict=True):
        assert warm == plain
    assert any("image/png" in str(cell) for cell in seen[0])


def test_a_forked_kernel_ends_like_a_fresh_one(folder, tmp_path, warm_parent):
    write_notebook(folder, "00-a", LEAVE)
    (result,) = run(folder=folder, out=tmp_path / "build", warm=warm_parent)
    assert result.ok, result
    left = {path.name: path.read_text() for path in folder.glob("*.txt")}
    assert left == {"unclosed.txt": "words", "goodbye.txt": "words"}


def test_kernels_of_one_parent_share_nothing(folder, tmp_path, warm_parent):
    write_notebook(folder, "00-a", DRAW, CHANGE)
    write_notebook(folder, "01-b", DRAW, UNCHANGED)
    out = tmp_path / "build"
    results = run(folder=folder, out=out, warm=warm_parent, jobs=1)
    assert [result.cause for result in results] == ["", ""]
    first, second = (outputs(out / f"notebooks/{name}.ipynb")[1] for name in ("00-a", "01-b"))
    first, second = (eval(drawn[1]["text/plain"]) for drawn in (first, second))
    assert all(a != b for a, b in zip(first, second, strict=True))


def test_a_killed_worker_takes_its_kernel_along(folder, tmp_path, warm_parent):
    pid = tmp_path / "pid"
    death = "os.kill(os.getppid(), 9)\nimport time\ntime.sleep(60)"
    write_notebook(folder, "00-a", SHARE_PID.format(pid), death)
    (result,) = run(folder=folder, out=tmp_path / "build", warm=warm_parent)
    assert not result.ok and result.cell == 4
    assert "ended early" in result.cause
    wait_until_gone(int(pid.read_text()))


def test_a_parent_that_is_gone_is_reported(folder, tmp_path):
    write_notebook(folder, "00-a", "1")
    parent = WarmParent()
    psutil.Process(parent.pid).kill()
    (result,) = run(folder=folder, out=tmp_path / "build", warm=parent)
    assert not result.ok
    assert "warm parent is gone" in result.cause and "without --warm" in result.cause
    parent.__exit__()
    assert not psutil.pid_exists(parent.pid)


def test_a_parent_that_cannot_load_says_why(tmp_path, monkeypatch, capfd):
    (tmp_path / "papermill.py").write_text("raise ImportError('no such package here')")
    monkeypatch.setattr("mmlab.notebooks.processes.ROOT", tmp_path)
    with pytest.raises(NotebookError, match="could not start"), WarmParent():
        pass
    assert "no such package here" in capfd.readouterr().err


def test_a_process_with_threads_does_not_fork():
    code = """
import threading
from mmlab.notebooks import warm_parent
threading.Thread(target=threading.Event().wait, daemon=True).start()
warm_parent.MODULES = ["torch"]
warm_parent.load()
"""
    environment = os.environ | ONE_THREAD
    said = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert said.returncode == 1
    assert "cannot fork safely: the imports left 2 threads" in said.stderr


def test_the_parent_has_one_thread(warm_parent):
    assert psutil.Process(warm_parent.pid).num_threads() == 1


def test_warm_is_refused_where_nothing_forks(folder, tmp_path, monkeypatch, capsys):
    write_notebook(folder, "00-a", "1")
    monkeypatch.delattr("os.fork")
    assert main(["run", "--warm", "--out", str(tmp_path)], folder) == 2
    assert "--warm needs fork" in capsys.readouterr().err
