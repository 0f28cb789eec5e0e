"""A kernel that is forked, not started: a process that waits beside its worker until it is needed.

Jupyter starts kernels through a *provisioner*. Ours does all that the usual one does, but where
that one starts a process, it tells the waiting one to go on as the kernel.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import partialmethod
from importlib.metadata import EntryPoint
from subprocess import Popen
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from IPython import get_ipython
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

LAUNCHER = "ipykernel_launcher"
LOOK_AROUND = ("ipywidgets", "tqdm")
"""Packages that look for a notebook around them as they are imported, and papermill imports."""


class SpareKernel:
    """The waiting process, with what `LocalProvisioner` asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, orders: socket.socket) -> None:
        self.pid = pid
        self._orders = orders
        self._returncode: int | None = None

    def start(self, command: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
        """Let it become the kernel that this command would start."""
        order = {"command": command, "environment": dict(environment), "folder": folder}
        self._orders.sendall(f"{json.dumps(order)}\n".encode())

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self._returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self._returncode

    wait = poll  # which the provisioner calls once it has ended

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    kill = partialmethod(send_signal, signal.SIGKILL)
    terminate = partialmethod(send_signal, signal.SIGTERM)


class WarmProvisioner(LocalProvisioner):
    """Jupyter's usual provisioner, with the spare kernel of this process."""

    spare: SpareKernel

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        if LAUNCHER not in cmd:
            raise ValueError(f"a warm kernel is Python's own, not {cmd}; run without --warm")
        environment = {**kwargs["env"], "JPY_PARENT_PID": str(os.getpid())}
        self.spare.start(cmd, environment, kwargs.get("cwd") or os.getcwd())
        self.process = cast(Popen, self.spare)  # it answers all that is asked of one
        self.pid = self.pgid = self.spare.pid
        return self.connection_info


def fork(line: socket.socket) -> bool:
    """Fork the spare kernel. True in the worker; False in the kernel, after its whole life.

    line: the worker's connection to the runner. The kernel must not hold it open as well.
    """
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        line.close()
        if order := theirs.makefile(encoding="utf-8").readline():
            become_kernel(**json.loads(order))
        return False
    theirs.close()
    os.setpgid(pid, pid)  # a group of its own: a signal to the kernel's group spares the worker
    WarmProvisioner.spare = SpareKernel(pid, ours)
    factory = KernelProvisionerFactory.instance()
    place = f"{__name__}:{WarmProvisioner.__name__}"
    factory.provisioners["warm"] = EntryPoint("warm", place, factory.GROUP_NAME)
    factory.default_provisioner_name = "warm"
    return True


def become_kernel(command: Sequence[str], environment: Mapping[str, str], folder: str) -> None:
    """Go on as the kernel which that command, environment and working folder describe.

    What a fork copies and a fresh Python would not have is set right first.
    """
    np.random.seed()  # from the system's noise; Python's own `random` does this by itself
    torch.default_generator.seed()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for name in [name for name in sys.modules if name.split(".")[0] in LOOK_AROUND]:
        del sys.modules[name]
    pd.set_option("display.max_columns", 20)  # what pandas takes if imported in a notebook
    if not sys.flags.safe_path:
        sys.path[0] = os.getcwd()  # as `python -m` has it; the launcher takes it away again
    sys.argv[1:] = command[command.index(LAUNCHER) + 1 :]
    atexit.register(end_at_once)  # before all that the kernel registers, so it comes after them
    runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)


def end_at_once() -> None:
    """Drop what the notebook made, so that its files close; the rest need not be taken apart.

    Python ends by freeing every module, here all those of the parent: half the work of a fork.
    """
    if shell := get_ipython():
        shell.user_ns.clear()
        gc.collect()
    os._exit(0)
