"""The processes of a run: what they inherit, and how they end."""

import os

import psutil

from mmlab.notebooks.catalogue import ROOT


def environment(threads: int) -> dict[str, str]:
    """The environment of a worker: our package first, its share of the cores, inline figures."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    ours = {"PYTHONPATH": path, "JUPYTER_PREFER_ENV_PATH": "1", "PYTHONIOENCODING": "utf-8"}
    inline = {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    strict = {"MMLAB_STRICT": "1"}  # nobody reads along: a wrong exercise is an error
    return {"OMP_NUM_THREADS": str(threads), **os.environ, **ours, **inline, **strict}


def kill_family(pid: int) -> None:
    """Kill a process and all its descendants (a kernel lives in a session of its own)."""
    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family[:-1], timeout=5)  # the root is its own parent's to wait for
