"""Set-up in one step: ``python3 -m mmlab run|test|lab|bench|diagnose|data`` on a bare Python.

The first call makes ``.venv`` beside this package and installs the project into it; later calls
see from a stamp that nothing has changed and start at once. An activated environment that already
holds this checkout is used as it is, and so is the one that a wheel was installed into. Standard
library alone, since nothing else is there yet; and no syntax newer than Python 3.8, so that an old
Python can say that it is too old.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TextIO
from urllib.parse import urlparse
from urllib.request import url2pathname

from mmlab import __version__

ROOT = Path(__file__).resolve().parent.parent
OLDEST = (3, 11)
EXTRAS = ("dev", "docs", "notebooks")
INSTALL = ["-c", "constraints.txt", "-e", ".[{}]".format(",".join(EXTRAS))]
AT_ONCE = {
    "list": "which notebooks there are: how long they take, what they ask",
    "copy-notebooks": "DIR: copy the notebooks into a folder of yours",
    "completion": "bash or zsh: what makes the Tab key complete the command `mmlab`",
}
"""What needs no set-up."""
COMMANDS = {
    "run": "execute the notebooks in order and write the site to build/",
    "test": "check the style and run the tests",
    "lab": "open JupyterLab on copies of the notebooks, in work/",
    "bench": "time steps, runs and stacks, as ratios",
    "diagnose": "say which drop a data set has: scale, competition or shift",
    "data": "check the files of a data set and print its card",
    "student": "write the notebooks without solutions and answers",
    "grade": "grade students' notebooks on hidden cases",
    "slides": "make slides of the executed notebooks",
}
SETS_UP = "The first call sets up .venv in the project's folder, and says how much it downloads."
IN_A_PACKAGE = (
    "This mmlab is an installed package. The tests and the pages need the project's checkout;\n"
    "copied notebooks run in any JupyterLab (the extra `notebooks` brings it)."
)
SMALL, LARGE = "0.5", "3"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""Where torch without CUDA is, for Linux; elsewhere it comes so by itself."""
INDEXES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX")
RESTORE = (
    "It says what to install: restore it (with git: `git checkout -- pyproject.toml "
    "constraints.txt`, else from a fresh copy of the project) and run the same command again."
)
FREE_SPACE = (
    "free some space (.venv takes 2 GB, with CUDA 7 GB, and for a while half of it again in the "
    "folder for temporary files, TMPDIR) and run the same command again."
)
WORK = "work"
"""Where `lab` copies the notebooks to, so that the checkout stays as it is."""
ANYWHERE = ("bench", "diagnose", "data")
"""What runs without a checkout, too."""


class SetupError(Exception):
    """Something the user can mend; the message says how."""


class Stopped(BaseException):
    """A signal asks us to end; its number is the argument."""


def main(arguments: list[str]) -> int:
    """Set up what is missing, then become the command that was asked for; gives an exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage(ROOT))
        return 0 if arguments else 2
    command, *rest = arguments
    if command == "--version":
        print("mmlab", __version__)
        return 0
    if command not in {**AT_ONCE, **COMMANDS}:
        near = difflib.get_close_matches(command, offered(ROOT), 1)
        meant = f" Did you mean `{near[0]}`?" if near else ""
        wrong = f"mmlab: unknown command {command!r}; choose one of these.{meant}"
        print(f"{wrong}\n{usage(ROOT)}", file=sys.stderr)
        return 2
    try:
        check_version(sys.version_info[:2])
        if command in AT_ONCE:
            return at_once(command, rest)
        if not is_checkout(ROOT):
            check_works_outside(command, ROOT)
            return hand_over(command_line(command, sys.executable, rest, ROOT), Path.cwd())
        if {"-h", "--help"} & {*rest} and not ready_python(ROOT):
            print(f"{command}: {COMMANDS[command]}. {SETS_UP} Then this says what it takes.")
            return 0
        with stoppable():
            python = interpreter(ROOT)
        if command == "lab":
            _, kept = copies(ROOT / WORK)
            if kept:
                say(f"{len(kept)} notebooks in {WORK}/ are as you left them, and differ from ours.")
        return hand_over(command_line(command, python, rest, ROOT), ROOT)
    except SetupError as error:
        say(f"mmlab: {error}", sys.stderr)
        return 1
    except Stopped as stop:
        number = signal.Signals(stop.args[0])
        again = "the same command begins the set-up afresh."
        say(f"\nmmlab: stopped by {number.name}; {again}", sys.stderr)
        return 128 + number


def usage(root: Path) -> str:
    """How to call this, here."""
    lines = [f"  {name:16}{purpose}" for name, purpose in offered(root).items()]
    title = "usage: python3 -m mmlab COMMAND [what the command takes]"
    return "\n".join([title, "", *lines, "", SETS_UP if is_checkout(root) else IN_A_PACKAGE])


def offered(root: Path) -> dict[str, str]:
    """The commands that there are here, and what each is for."""
    return {**AT_ONCE, **{n: COMMANDS[n] for n in (COMMANDS if is_checkout(root) else ANYWHERE)}}


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line, also to a reader who may be gone: that alone is no reason to fail."""
    with contextlib.suppress(OSError):
        print(text, file=stream or sys.stdout, flush=True)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Meanwhile the signals that ask a program to end raise Stopped, so that it can clean up."""
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is not on Windows
    signals = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in signals}

    def stop(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # one is enough: the next would end the cleaning
        raise Stopped(number)

    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # under nohup, SIGHUP stays without effect
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def check_version(version: tuple) -> None:
    """Refuse a Python that cannot run the project."""
    if version < OLDEST:
        raise SetupError(
            "this is Python {}.{}, and the project needs {}.{} or newer. Call it with a newer one, "
            "such as `python3.11 -m mmlab ...`, or use conda with environment.yml.".format(
                *version, *OLDEST
            )
        )


def is_checkout(root: Path) -> bool:
    """Is the project around this package, or is it an installed one?"""
    return any((root / name).exists() for name in ("pyproject.toml", "constraints.txt"))


def check_works_outside(command: str, root: Path) -> None:
    """Refuse what needs the checkout that an installed package is without."""
    if command not in ANYWHERE:
        raise SetupError(
            "this mmlab is an installed package, in {}, and `{}` needs the project's checkout: run "
            "the same command in its folder. What works here: {}.".format(
                root / "mmlab", command, ", ".join([*AT_ONCE, *ANYWHERE])
            )
        )


# --- the notebooks -----------------------------------------------------------------------------


def at_once(command: str, rest: list[str]) -> int:
    """What needs no set-up; gives an exit code."""
    from mmlab.completion import SHELLS, completion
    from mmlab.originals import table

    if command == "list" and not rest:
        say(table())
        return 0
    if command == "completion" and len(rest) == 1 and rest[0] in SHELLS:
        say(completion(rest[0], offered(ROOT)))
        return 0
    if command != "copy-notebooks" or len(rest) != 1 or rest[0].startswith("-"):
        takes = {"list": "nothing", "completion": " or ".join(SHELLS)}
        words = takes.get(command, "DIR, the folder for the copies")
        say(f"mmlab: {command} takes {words}; this was {' '.join(rest) or 'nothing'!r}", sys.stderr)
        return 2
    new, kept = copies(Path(rest[0]))
    done = f"{len(new)} notebooks copied into" if new else "All notebooks are already in"
    say(f"{done} {rest[0]}. Open that folder in JupyterLab.")
    for path in kept:
        say(f"{path} differs from ours and is kept; to have ours, move it away and copy again.")
    return 0


def copies(folder: Path) -> tuple[list[Path], list[Path]]:
    """The notebooks copied into a folder, and those there that differ; raises SetupError."""
    from mmlab.originals import copy

    try:
        return copy(folder)
    except OSError as error:
        raise SetupError(f"cannot copy the notebooks into {folder}: {error}") from error


# --- which Python ------------------------------------------------------------------------------


def interpreter(root: Path) -> str:
    """The Python that holds the project: the activated one, or that of `.venv`, set up if need be.

    Raises SetupError where the set-up cannot be finished.
    """
    try:
        if not (python := ready_python(root)):
            with only_one(root / ".venv.lock"):
                if not is_ready(root):  # another process may have finished it while we waited
                    set_up(root)
    except OSError as error:
        raise SetupError(f"cannot set up in {root}: {error}. {remedy(error)}") from error
    return python or str(python_of(root))


def ready_python(root: Path) -> str:
    """The Python that holds the project, or nothing where it must be set up."""
    if activated(root) and holds_project(root):
        return sys.executable
    return str(python_of(root)) if is_ready(root) else ""


def remedy(error: OSError) -> str:
    """What to do about an error of the file system."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"The disk or your share of it is full: {FREE_SPACE}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            "Close what still runs from its .venv, give yourself the right to write there (what "
            "was made with sudo must be removed with sudo), or copy the project to a folder of "
            "your own; then run the same command again."
        )
    return (
        "Close what still runs from its .venv and move away what is in the way, or copy the "
        "project to a folder of your own; then run the same command again."
    )


def activated(root: Path) -> bool:
    """Is this Python one of an environment that the user made (and not our own `.venv`)?"""
    environment = sys.prefix != sys.base_prefix or Path(sys.prefix, "conda-meta").is_dir()
    return environment and Path(sys.prefix).resolve() != (root / ".venv").resolve()


def holds_project(root: Path) -> bool:
    """Are this checkout and everything it asks for installed here? Names only: it must be quick."""
    from importlib.metadata import Distribution

    def installed(name: str) -> Distribution | None:
        return next(iter(Distribution.discover(name=name)), None)

    found = installed("mmlab")
    try:
        origin = json.loads((found and found.read_text("direct_url.json")) or "{}").get("url")
    except ValueError:  # damaged: so is what it belongs to
        origin = None
    if not origin or Path(url2pathname(urlparse(origin).path)).resolve() != root.resolve():
        return False  # another checkout would shadow this one in the notebooks' kernels
    return all(installed(re.split(r"[^\w.-]", line)[0]) for line in requirements(root))


def requirements(root: Path) -> list[str]:
    """What pyproject.toml asks for; raises SetupError where it cannot be read."""
    import tomllib  # new in Python 3.11

    path = root / "pyproject.toml"
    try:
        project = tomllib.loads(read(path).decode())["project"]
        extras = [project["optional-dependencies"][name] for name in EXTRAS]
        return sum(extras, project["dependencies"])
    except (ValueError, KeyError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise SetupError(f"cannot make sense of {path}: {problem}. {RESTORE}") from error


def read(path: Path) -> bytes:
    """A file that says what to install; raises SetupError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(f"cannot read {path}: {error.strerror}. {RESTORE}") from error


def python_of(root: Path) -> Path:
    """The Python inside `.venv`."""
    return root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


# --- the stamp ---------------------------------------------------------------------------------


def stamp(root: Path) -> tuple[str, str]:
    """What `.venv` rests on (a change means anew), and a hash over what it holds (an update)."""
    base = f"Python {platform.python_version()} in {root}"  # scripts in .venv name their folder
    digest = hashlib.sha256(base.encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update(read(root / name))
    return base, digest.hexdigest()


def read_stamp(root: Path) -> tuple[str, ...]:
    """The stamp of the last set-up that was finished, or () if there is none to build on."""
    path = root / ".venv" / "mmlab.stamp"
    if not (path.is_file() and python_of(root).exists()):
        return ()
    return tuple(path.read_text(encoding="utf-8", errors="replace").splitlines())


def is_ready(root: Path) -> bool:
    """Does `.venv` hold what the project now asks for?"""
    return read_stamp(root) == stamp(root)


# --- setting up --------------------------------------------------------------------------------


def set_up(root: Path) -> None:
    """Make `.venv`, or bring a finished one up to date. The stamp goes first and comes last.

    What fails leaves no half-made `.venv` behind; what is killed may, and the next call removes it.
    """
    uv = shutil.which("uv")
    venv, wanted = root / ".venv", stamp(root)
    requirements(root)  # before anything is removed
    fresh = read_stamp(root)[:1] != wanted[:1]
    if fresh and not uv:
        check_venv_module()
    if fresh:
        clear(venv)
    else:
        (venv / "mmlab.stamp").unlink()
    minutes = "a minute" if uv else "three minutes"
    say(f"Setting up .venv with {'uv' if uv else 'pip'}: about {minutes}, and the time to download")
    say(download(sys.platform, os.environ) if fresh else "what is new.")
    started = time.monotonic()
    try:
        for line in setup_lines(root, uv, fresh):
            execute(line, uv_environment(os.environ), root)
        partial = venv / "mmlab.stamp.partial"
        partial.write_text("\n".join(wanted), encoding="utf-8")
        os.replace(partial, venv / "mmlab.stamp")
    except (SetupError, OSError):
        if fresh:  # else it would fill a full disk for nothing
            shutil.rmtree(venv, ignore_errors=True)
        raise
    say(f"Set up in {time.monotonic() - started:.0f} s.")


def download(system: str, environment: Mapping[str, str]) -> str:
    """About how much a set-up downloads, and how to download less."""
    told = " ".join(text for name, text in environment.items() if name in INDEXES)
    if system != "linux" or "/cpu" in told:
        return f"about {SMALL} GB."
    return (
        f"about {LARGE} GB, most of it CUDA. Without an NVIDIA GPU {SMALL} GB do: stop (Ctrl-C),\n"
        f"and say the same command with this before it:\n  PIP_EXTRA_INDEX_URL={CPU_INDEX}"
    )


def clear(venv: Path) -> None:
    """Remove a `.venv` that is not finished; raises SetupError for what no set-up has made."""
    if venv.is_symlink() or venv.is_file():
        kind = f"a link to {os.readlink(venv)}" if venv.is_symlink() else "a file"
        raise SetupError(
            f"{venv} is {kind}, and the set-up makes a folder of that name. Move it away or "
            "delete it, and run the same command again."
        )
    if venv.exists():
        say("The .venv here is not a finished one for this Python and folder: making it anew.")
        (venv / "mmlab.stamp").unlink(missing_ok=True)
        shutil.rmtree(venv)


def check_venv_module() -> None:
    """Say what to install where the system's Python comes without its venv module."""
    missing = [name for name in ("venv", "ensurepip") if not importlib.util.find_spec(name)]
    if missing:
        raise SetupError(
            f"this Python ({sys.executable}) has no module {' and '.join(missing)}. On Debian or "
            "Ubuntu: `sudo apt install python3-venv`; elsewhere install uv, which does without."
        )


def base_python() -> str:
    """The Python under this one. From inside .venv, sys.executable is about to be deleted."""
    base = getattr(sys, "_base_executable", None) or sys.executable
    if not base:
        raise SetupError(
            "this Python does not know where it is, because PATH does not lead to it. Call it by "
            "its full path, such as `/usr/bin/python3 -m mmlab ...`."
        )
    return base


def setup_lines(root: Path, uv: str | None, fresh: bool) -> list[list[str]]:
    """The command lines that make `.venv` (where it is to be fresh) and fill it."""
    base, venv, inside = base_python(), str(root / ".venv"), str(python_of(root))
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


GUARD = """
import os, signal, subprocess, sys, threading

def end_with_parent():
    os.read(0, 1)  # nothing is ever written: it returns when the parent is gone
    if os.name == "nt":
        child.kill()
    else:
        os.killpg(0, signal.SIGKILL)

child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, close_fds=False)
threading.Thread(target=end_with_parent, daemon=True).start()
code = child.wait()
sys.exit(code if code >= 0 else 128 - code)
"""
"""Runs a command line as one group of processes that ends, to the last child, with its parent.

However the parent goes, be it by SIGKILL, the system closes its end of the pipe.
"""


def execute(line: list[str], environment: dict[str, str], root: Path) -> None:
    """Run one step of the set-up quietly; if it fails, raise SetupError with its last words."""
    with open_log() as log:
        code = guarded(line, environment, root, log)
        if code:
            log.seek(0)
            words = log.read().decode(errors="replace").strip().splitlines()[-12:]
            raise SetupError(
                "the set-up failed (exit code {}) at\n  {}\nIts last words:\n{}\n{}".format(
                    code,
                    " ".join(line),
                    "\n".join(f"  {word}" for word in words),
                    advice(code, "\n".join(words)),
                )
            )


def guarded(line: list[str], environment: dict[str, str], root: Path, log: IO[bytes]) -> int:
    """The exit code of a command line that cannot outlive us; what it says goes to `log`."""
    started = time.monotonic()
    with subprocess.Popen(
        [base_python(), "-I", "-S", "-c", GUARD, *line],
        cwd=root,
        env=environment,
        stdin=subprocess.PIPE,  # closed when this block is left, or with this process
        stdout=log,
        stderr=subprocess.STDOUT,
        close_fds=False,  # the lock goes along: it is held as long as any of this runs
        start_new_session=True,
    ) as process:
        while True:
            try:
                return process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                say(f"  still at it after {time.monotonic() - started:.0f} s")


def open_log() -> IO[bytes]:
    """A file without a name for what a step says."""
    try:
        return tempfile.TemporaryFile()
    except FileNotFoundError as error:
        raise SetupError(
            f"{error.strerror}. Free some space in one of them, or set TMPDIR to a folder with "
            "4 GB free that you may write to; then run the same command again."
        ) from error


def advice(code: int, words: str) -> str:
    """What to do about a step that failed."""
    if re.search("no space left|quota exceeded|disk is full", words, re.IGNORECASE):
        return f"The disk or your share of it is full: {FREE_SPACE}"
    if code in (-9, 128 + 9):  # the guard, or what it guards
        return (
            "It was killed, as a system short of memory does: close other programs, and run the "
            "same command again."
        )
    return "Often the network is out of reach. Mend that and run the same command again."


@contextlib.contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock file: of two set-ups at once, one waits. Killed processes hold it no longer.

    The steps of the set-up inherit it, so that nobody starts while one of them still ends.
    """
    with open(path, "w") as file:
        os.set_inheritable(file.fileno(), True)
        waiting = False
        while is_held(file):
            if not waiting:
                say("Another set-up is at work here: waiting for it.")
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


IN_PARALLEL = ("-n", "logical", "--maxprocesses", "4", "--dist", "worksteal")
"""How pytest-xdist shares out the tests; worth its start where all of them run."""


def command_line(command: str, python: str, rest: list[str], root: Path) -> list[str]:
    """What a command runs; `rest` goes to it."""
    words = {
        "run": ["mmlab.notebooks", "run"],
        "test": ["pytest", *(() if rest else IN_PARALLEL)],
        "lab": [
            "jupyterlab",
            f"--LabApp.default_url=/lab/tree/{WORK}",
            f"--ServerApp.root_dir={root}",
        ],
        "bench": ["mmlab.bench"],
        "diagnose": ["mmlab.diagnosis"],
        "data": ["mmlab.data_card"],
        **{name: ["mmlab.course", name] for name in ("student", "grade", "slides")},
    }[command]
    return [python, "-m", *words, *rest]


def hand_over(line: list[str], root: Path) -> int:
    """Become the command line; raises SetupError where it cannot be started."""
    os.chdir(root)
    environment = keeping_memory(os.environ, platform.libc_ver()[0])
    try:
        if os.name == "nt":  # there exec would return to the shell at once
            return subprocess.call(line, env=environment)
        os.execve(line[0], line, environment)  # so that signals and the exit code are its own
    except OSError as error:
        raise SetupError(
            f"cannot start {line[0]}: {error.strerror}. If it is broken, delete the folder "
            f"{root / '.venv'} and run the same command again: that makes it anew."
        ) from error


def keeping_memory(environment: Mapping[str, str], libc: str) -> dict[str, str]:
    """The environment, and in it that glibc keeps the memory of freed tensors for the next ones.

    By itself it gives much of it back to the system in every step and fetches it again page by
    page: on one thread, a joint step of the benchmark's small convolutions took 219 ms of CPU and
    18 000 page faults, and so takes 155 ms and 100 (medians of ten processes each, in turns).
    The peak of memory is the same within 5 %. Values that are set already stay.
    """
    ours = {"MALLOC_MMAP_THRESHOLD_": 32 << 20, "MALLOC_TRIM_THRESHOLD_": 512 << 20}
    kept = {name: str(size) for name, size in ours.items()} if libc == "glibc" else {}
    return {**kept, **environment}


def script() -> int:
    """The command `mmlab` of an environment that holds the project."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(script())
