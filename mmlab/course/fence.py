"""What keeps a student's code in: limits, no files outside one folder, no programs, no network.

Two fences. On Linux the kernel's Landlock refuses what leaves the folder, whoever asks for it. On
every system an audit hook of Python refuses it to Python code. The hook is no wall: native code
gets past it. Neither hides the files that the user may read.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

# --- limits ---------------------------------------------------------------------------------------


def limit(memory: int, file_size: int) -> None:
    """Limit this process, in bytes. Windows has no such limits, macOS none of the memory."""
    with contextlib.suppress(ImportError):
        import resource

        for kind, most in (
            (resource.RLIMIT_DATA, memory),
            (resource.RLIMIT_FSIZE, file_size),
            (resource.RLIMIT_CORE, 0),
        ):
            with contextlib.suppress(ValueError, OSError):  # a lower limit holds already
                resource.setrlimit(kind, (most, most))


# --- the audit hook -------------------------------------------------------------------------------

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = {
    *("os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"),
    *("os.setxattr", "os.symlink", "os.truncate", "os.utime", "sqlite3.connect"),
}
"""Events that change files, beside "open"; their first argument is the path."""
FORBIDDEN = (
    *("ctypes.dlopen", "ctypes.dlsym", "os.exec", "os.fork", "os.kill", "os.posix_spawn"),
    *("os.spawn", "os.startfile", "os.system", "pty.spawn", "signal.pthread_kill", "socket."),
    *("subprocess.", "sys.addaudithook", "winreg."),
)
"""How the names of events begin that have no place in an answer."""


def watch(folder: Path) -> None:
    """From now on Python code here writes in this folder alone, and starts and calls nobody."""
    inside = os.path.realpath(folder)

    def outside(path: Any) -> bool:
        if isinstance(path, int) or path == os.devnull:  # open already; nowhere
            return False
        real = os.path.realpath(os.fsdecode(path))
        return os.path.commonpath([inside, real]) != inside

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            # by an open folder a relative path would lead elsewhere than it seems to here
            refused = outside(path) if flags & WRITING else _is_path(path) and os.path.isdir(path)
        elif event in CHANGES:
            refused = any(map(outside, filter(_is_path, arguments)))
        else:
            refused = event.startswith(FORBIDDEN)
        if refused:
            raise PermissionError(f"{event} is not allowed in an answer")

    sys.addaudithook(hook)


def _is_path(argument: Any) -> bool:
    return isinstance(argument, str | bytes | os.PathLike)


# --- Landlock -------------------------------------------------------------------------------------

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # system calls, on every architecture
NO_NEW_PRIVILEGES = 38  # from linux/prctl.h
EXECUTE, WRITE_FILE = 1 << 0, 1 << 1  # from linux/landlock.h, as what follows
OF_FILES = {1: 0b1_1111_1111_0011, 2: 1 << 13, 3: 1 << 14}
"""What the versions of Landlock can refuse: all ways to execute, write, remove and make files."""
CONNECT_AND_BIND = 0b11  # TCP, from version 4
SIGNALS_AND_SOCKETS = 0b11  # to processes outside, from version 6


def wall(folder: Path) -> bool:
    """Let the kernel refuse all writing outside of this folder; False where it cannot.

    Also programs, and with a newer kernel TCP and signals to processes outside. It holds for
    threads that start later, so it must be called before there are others.
    """
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(CREATE_RULESET, None, 0, 1)
    if version < 1:
        return False
    files = sum(bits for since, bits in OF_FILES.items() if since <= version)
    rules = [files, CONNECT_AND_BIND, SIGNALS_AND_SOCKETS][: 1 + (version >= 4) + (version >= 6)]
    asked = struct.pack(f"={len(rules)}Q", *rules)
    ruleset = libc.syscall(CREATE_RULESET, asked, len(asked), 0)
    _allow(libc.syscall, ruleset, folder, files & ~EXECUTE)
    _allow(libc.syscall, ruleset, Path(os.devnull), WRITE_FILE)
    libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    return libc.syscall(RESTRICT_SELF, ruleset, 0) == 0


def _allow(syscall: Callable[..., int], ruleset: int, path: Path, what: int) -> None:
    """A rule: under this path, these are allowed."""
    opened = os.open(path, os.O_PATH)
    syscall(ADD_RULE, ruleset, 1, struct.pack("=Qi", what, opened), 0)
    os.close(opened)
