"""The program that `WarmParent` starts: load everything once, then fork for each notebook.

::

    warm parent   has loaded torch, pandas, matplotlib, papermill, …
      └ worker    drives one notebook with papermill, as in a plain run
          └ kernel    executes the cells of that notebook

A fork copies the thread that calls it and no other, yet also the locks which the others held. So a
process forks safely only while it has one thread. The parent never gets a second one, and a worker
forks its kernel before all else, because papermill starts threads.
"""

import gc
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib import import_module

import psutil

from mmlab.notebooks import warm_kernel, worker
from mmlab.notebooks.processes import adopt_orphans, kill_family

MODULES = (
    "matplotlib.pyplot",
    "mmlab.bench",
    "mmlab.notebooks.pages.prepare",
    "mmlab.plotting",
    "mmlab.teaching",
    "pandas",
    "scipy.stats",
    "seaborn",
    "sklearn.linear_model",
    "sklearn.neural_network",
    "sklearn.pipeline",
    "torch",
    "torch._dynamo",  # what the first optimiser of torch loads
)
"""What notebooks and workers import, directly or not. Anything else they load by themselves.

Not `ipykernel.kernelapp`: it reads the number of its parent process as it is imported.
"""


def load() -> None:
    """Import what notebooks need, and make sure that this process may fork."""
    for name in MODULES:
        import_module(name)
    threads = psutil.Process().num_threads()
    if threads > 1 or sys.modules["torch"].cuda.is_initialized():
        sys.exit(f"cannot fork safely: the imports left {threads} threads, or they started CUDA")
    gc.freeze()  # the collector leaves alone what is here now, so that it stays shared memory


def bury(*_: object) -> None:
    """Let go of the workers that have ended, and count their time as ours."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def fork_on_request(control: socket.socket) -> socket.socket:
    """Fork whenever the runner asks. Returns in the forked processes, with their line to it."""
    signal.signal(signal.SIGCHLD, bury)
    while True:
        request, fds, *_ = socket.recv_fds(control, 4, 1)
        if not request:
            kill_family(os.getpid())  # the runner is gone
        line = socket.socket(fileno=fds[0])
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            return line
        line.close()


def main() -> None:
    """The parent's life; and a worker's and a kernel's, from where each was forked."""
    control = socket.socket(fileno=int(sys.argv[1]))
    environment = dict(os.environ)
    load()
    adopt_orphans()  # what a worker leaves that was killed
    control.sendall(b"!")
    line = fork_on_request(control)
    os.environ.clear()  # some packages set variables as they are imported
    os.environ.update(environment)
    os.dup2(1, 2)  # nobody reads what a kernel prints past Jupyter
    if not warm_kernel.fork(line):
        return  # we were the kernel
    news = line.makefile("w", encoding="utf-8")
    print(os.getpid(), file=news, flush=True)
    worker.serve(line.makefile("r", encoding="utf-8"), news)


if __name__ == "__main__":
    main()
