"""The processes of a run: what they inherit, and how they end."""

import ctypes
import os
import sys
import time
from contextlib import suppress

import psutil

from mmlab.notebooks.catalogue import ROOT

MARK = "MMLAB_RUN"
"""The variable of the environment by which what a notebook started is known as its own."""
PR_SET_CHILD_SUBREAPER = 36  # from linux/prctl.h


def environment(threads: int) -> dict[str, str]:
    """The environment of a worker: our package first, its share of the cores, inline figures."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    ours = {"PYTHONPATH": path, "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONIOENCODING": "utf-8"}
    inline = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    strict = {"MMLAB_STRICT": "1"}  # nobody reads along: a wrong exercise is an error
    return {"OMP_NUM_THREADS": str(threads), **os.environ, **ours, **inline, **strict}


def adopt_orphans() -> None:
    """Become the parent of each descendant whose own parent ends, so that it stays in the family.

    Linux alone has this. Elsewhere only its mark tells whose such a process was.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def kill_family(pid: int, mark: str = "") -> None:
    """Kill a process with all its descendants (a kernel lives in a session of its own), and every
    process with this mark."""
    killed = _kill_all(pid, mark)
    with suppress(psutil.NoSuchProcess):
        psutil.Process(pid).kill()
    psutil.wait_procs(killed, timeout=5)  # the root is its own parent's to wait for


def end_strays(mark: str, grace: float = 2) -> list[str]:
    """End what a notebook has left running: descendants of this process, and those with the mark.

    Args:
        mark: the notebook's.
        grace: seconds in which they may end by themselves, as helpers of a closed pool do.

    Returns:
        The command lines of those that did not.
    """
    left = _family(os.getpid(), mark)
    names = {process: _command(process) for process in left}
    psutil.wait_procs(left, timeout=grace)
    return [names.get(process, "a process of theirs") for process in _kill_all(os.getpid(), mark)]


def _kill_all(pid: int, mark: str) -> list[psutil.Process]:
    """Kill the family of a process until nobody is left, not even who came while we looked."""
    killed: dict[psutil.Process, None] = {}
    end = time.monotonic() + 5  # a process that the system does not let go is not waited for
    while (alive := _family(pid, mark)) and time.monotonic() < end:
        killed.update(dict.fromkeys(alive))
        for process in alive:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.01)
    return list(killed)


def _family(pid: int, mark: str) -> list[psutil.Process]:
    """The living descendants of a process, and the living processes with this mark."""
    members: set[psutil.Process] = set()
    with suppress(psutil.NoSuchProcess):
        members.update(psutil.Process(pid).children(recursive=True))
    if mark:
        members.update(process for process in psutil.process_iter() if _mark_of(process) == mark)
    return [process for process in members if process.pid != pid and _is_alive(process)]


def _mark_of(process: psutil.Process) -> str:
    with suppress(psutil.Error, OSError):  # somebody else's, or gone
        return process.environ().get(MARK, "")
    return ""


def _command(process: psutil.Process) -> str:
    """The command line of a process, as much as fits on a line."""
    with suppress(psutil.Error):
        return " ".join(process.cmdline())[:80]
    return f"process {process.pid}"


def _is_alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
