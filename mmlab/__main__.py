"""Set-up in one step: ``python3 -m mmlab run|test|lab|bench`` on a bare Python.

The first call makes ``.venv`` beside this package and installs the project into it; later calls
see from a stamp that nothing has changed and start at once. An activated environment that already
holds this checkout is used as it is. Standard library alone, since nothing else is there yet; and
no syntax newer than Python 3.8, so that an old Python can say that it is too old.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
INSTALL = ["-c", "constraints.txt", "-e", ".[dev]"]
COMMANDS = {
    "run": "execute the notebooks in order and write the site to build/",
    "test": "check the style and run the tests",
    "lab": "open JupyterLab on the notebooks",
    "bench": "time steps, runs and stacks, as ratios",
}
USAGE = "usage: python3 -m mmlab COMMAND [what the command takes]\n\n" + "\n".join(
    f"  {name:6}{purpose}" for name, purpose in COMMANDS.items()
)


class SetupError(Exception):
    """Something the user can mend; the message says how."""


def main(arguments: list[str]) -> int:
    """Set up what is missing, then become the command that was asked for; gives an exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"mmlab: unknown command {command!r}; choose one of these.\n{USAGE}", file=sys.stderr)
        return 2
    try:
        check_version(sys.version_info[:2])
        python = interpreter(ROOT)
    except SetupError as error:
        print(f"mmlab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nmmlab: stopped; the same command begins the set-up afresh.", file=sys.stderr)
        return 130
    return hand_over(command_line(command, python, rest, ROOT), ROOT)


def check_version(version: tuple) -> None:
    """Refuse a Python that cannot run the project."""
    if version < OLDEST:
        raise SetupError(
            "this is Python {}.{}, and the project needs {}.{} or newer. Call it with a newer one, "
            "such as `python3.11 -m mmlab ...`, or use conda with environment.yml.".format(
                *version, *OLDEST
            )
        )


# --- which Python ------------------------------------------------------------------------------


def interpreter(root: Path) -> str:
    """The Python that holds the project: the activated one, or that of `.venv`, set up if need be.

    Raises SetupError where the set-up cannot be finished.
    """
    if activated(root) and holds_project(root):
        return sys.executable
    if not is_ready(root):
        try:
            with only_one(root / ".venv.lock"):
                if not is_ready(root):  # another process may have finished it while we waited
                    set_up(root)
        except OSError as error:
            raise SetupError(
                f"cannot set up in {root}: {error}. Check that the folder may be written to and "
                "the disk is not full, or copy the project to a folder of your own; then run the "
                "same command again."
            ) from error
    return str(python_of(root))


def activated(root: Path) -> bool:
    """Is this Python one of an environment that the user made (and not our own `.venv`)?"""
    environment = sys.prefix != sys.base_prefix or Path(sys.prefix, "conda-meta").is_dir()
    return environment and Path(sys.prefix).resolve() != (root / ".venv").resolve()


def holds_project(root: Path) -> bool:
    """Are this checkout and everything it asks for installed here? Names only: it must be quick."""
    import tomllib  # new in Python 3.11
    from importlib.metadata import Distribution

    def installed(name: str) -> Distribution | None:
        return next(iter(Distribution.discover(name=name)), None)

    found = installed("mmlab")
    origin = json.loads((found and found.read_text("direct_url.json")) or "{}").get("url")
    if not origin or Path(url2pathname(urlparse(origin).path)).resolve() != root.resolve():
        return False  # another checkout would shadow this one in the notebooks' kernels
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["dev"]
    return all(installed(re.split(r"[^\w.-]", line)[0]) for line in needed)


def python_of(root: Path) -> Path:
    """The Python inside `.venv`."""
    return root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


# --- the stamp ---------------------------------------------------------------------------------


def stamp(root: Path) -> tuple[str, str]:
    """What `.venv` rests on (a change means anew), and a hash over what it holds (an update)."""
    base = f"Python {platform.python_version()} in {root}"  # scripts in .venv name their folder
    digest = hashlib.sha256(base.encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((root / name).read_bytes())
    return base, digest.hexdigest()


def read_stamp(root: Path) -> tuple[str, ...]:
    """The stamp of the last set-up that was finished, or () if there is none to build on."""
    path = root / ".venv" / "mmlab.stamp"
    if not (path.is_file() and python_of(root).exists()):
        return ()
    return tuple(path.read_text(encoding="utf-8").splitlines())


def is_ready(root: Path) -> bool:
    """Does `.venv` hold what the project now asks for?"""
    return read_stamp(root) == stamp(root)


# --- setting up --------------------------------------------------------------------------------


def set_up(root: Path) -> None:
    """Make `.venv`, or bring a finished one up to date. The stamp goes first and comes last."""
    uv = shutil.which("uv")
    venv, wanted = root / ".venv", stamp(root)
    fresh = read_stamp(root)[:1] != wanted[:1]
    if fresh and not uv:
        check_venv_module()
    (venv / "mmlab.stamp").unlink(missing_ok=True)
    if fresh and venv.exists():
        print("The .venv here is not a finished one for this Python and folder: making it anew.")
        shutil.rmtree(venv)
    print(
        f"Setting up .venv with {'uv' if uv else 'pip'}: about "
        f"{'a minute' if uv else 'three minutes'}, longer where torch must be downloaded.",
        flush=True,
    )
    started = time.monotonic()
    for line in setup_lines(root, uv, fresh):
        execute(line, uv_environment(os.environ), root)
    partial = venv / "mmlab.stamp.partial"
    partial.write_text("\n".join(wanted), encoding="utf-8")
    os.replace(partial, venv / "mmlab.stamp")
    print(f"Set up in {time.monotonic() - started:.0f} s.", flush=True)


def check_venv_module() -> None:
    """Say what to install where the system's Python comes without its venv module."""
    missing = [name for name in ("venv", "ensurepip") if not importlib.util.find_spec(name)]
    if missing:
        raise SetupError(
            f"this Python has no module {' and '.join(missing)}. On Debian or Ubuntu: "
            "`sudo apt install python3-venv`; elsewhere install uv, which does without."
        )


def setup_lines(root: Path, uv: str | None, fresh: bool) -> list[list[str]]:
    """The command lines that make `.venv` (where it is to be fresh) and fill it."""
    # From inside .venv, sys.executable is about to be deleted: begin from the Python under it.
    base = getattr(sys, "_base_executable", None) or sys.executable
    venv, inside = str(root / ".venv"), str(python_of(root))
    if uv:
        make = [uv, "venv", "--quiet", "--no-project", "--seed", "--python", base, venv]
        fill = [uv, "pip", "install", "--quiet", "--python", inside, *INSTALL]
    else:
        make = [base, "-m", "venv", venv]
        fill = [inside, "-m", "pip", "install", "-qq", *INSTALL]
    return [make, fill] if fresh else [fill]


def uv_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Hand on, in uv's words, what the environment tells pip: uv does not read pip's settings."""
    told = dict(environment)
    if "PIP_FIND_LINKS" in told:
        told.setdefault("UV_FIND_LINKS", ",".join(told["PIP_FIND_LINKS"].split()))
    if "PIP_INDEX_URL" in told:
        told.setdefault("UV_INDEX_URL", told["PIP_INDEX_URL"])
    if "PIP_EXTRA_INDEX_URL" in told:
        told.setdefault("UV_EXTRA_INDEX_URL", told["PIP_EXTRA_INDEX_URL"])
        told.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")  # as pip: any index will do
    return told


def execute(line: list[str], environment: dict[str, str], root: Path) -> None:
    """Run one step of the set-up quietly; if it fails, raise SetupError with its last words."""
    started = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            line,
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=30)
                    break
                print(f"  still at it after {time.monotonic() - started:.0f} s", flush=True)
        finally:
            if process.poll() is None:  # interrupted: leave nobody behind who writes into .venv
                process.kill()
                process.wait()
        if process.returncode:
            log.seek(0)
            words = log.read().decode(errors="replace").strip().splitlines()[-12:]
            raise SetupError(
                "the set-up failed (exit code {}) at\n  {}\nIts last words:\n{}\n"
                "Often the network is out of reach or the disk is full. Mend that and run the same "
                "command again.".format(
                    process.returncode, " ".join(line), "\n".join(f"  {word}" for word in words)
                )
            )


@contextlib.contextmanager
def only_one(path: Path):
    """Hold a lock file: of two set-ups at once, one waits. A killed process holds it no longer."""
    with open(path, "w") as file:
        waiting = False
        while is_held(file):
            if not waiting:
                print("Another set-up is at work here: waiting for it.", flush=True)
            waiting = True
            time.sleep(0.5)
        yield


def is_held(file) -> bool:
    """Try to lock a file for ourselves; True where another process has it."""
    try:
        if sys.platform == "win32":  # a spelling that type checkers understand
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # any other error comes from a file system without locks: go on without one
        return error.errno in (errno.EAGAIN, errno.EACCES)
    return False


# --- handing over ------------------------------------------------------------------------------


def command_line(command: str, python: str, rest: list[str], root: Path) -> list[str]:
    """What a command runs; `rest` goes to it."""
    words = {
        "run": ["mmlab.notebooks", "run"],
        "test": ["pytest"],
        "lab": [
            "jupyterlab",
            "--LabApp.default_url=/lab/tree/notebooks",
            f"--ServerApp.root_dir={root}",
        ],
        "bench": ["mmlab.bench"],
    }[command]
    return [python, "-m", *words, *rest]


def hand_over(line: list[str], root: Path) -> int:
    """Become the command line."""
    os.chdir(root)
    sys.stdout.flush()
    if os.name == "nt":  # there exec would return to the shell at once
        return subprocess.call(line)
    os.execv(line[0], line)  # so that signals and the exit code are the command's own


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
