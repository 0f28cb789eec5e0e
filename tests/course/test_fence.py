"""Each fence by itself: what it refuses, and that it lets work go on inside the folder."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

TRIES = """
import os, pathlib, shutil, signal, socket, subprocess, sys
from mmlab.course import fence

there, inside = map(pathlib.Path, sys.argv[1:3])
os.chdir(inside)
harms = {
    "write": lambda: there.write_text("overwritten"),
    "append": lambda: open(there, "a").write("more"),
    "descriptor": lambda: os.open(there, os.O_WRONLY),
    "make": lambda: (there.parent / "new").touch(),
    "folder": lambda: (there.parent / "folder").mkdir(),
    "remove": lambda: there.unlink(),
    "rename": lambda: there.rename(there.parent / "moved"),
    "into": lambda: os.rename(there, inside / "stolen"),
    "link": lambda: os.symlink(there, there.parent / "link"),
    "truncate": lambda: os.truncate(there, 0),
    "rmtree": lambda: shutil.rmtree(there.parent),
    "by folder": lambda: os.unlink("file", dir_fd=os.open(there.parent, os.O_RDONLY)),
    "run": lambda: subprocess.run([sys.executable, "--version"], check=True),
    "kill": lambda: os.kill(os.getppid(), signal.SIGURG),
    "connect": lambda: socket.create_connection(("127.0.0.1", int(sys.argv[4])), timeout=5),
}
free = {
    "own": lambda: pathlib.Path("own").write_text("fine"),
    "own folder": lambda: os.makedirs("a/b"),
    "own removal": lambda: (pathlib.Path("own").unlink(), os.removedirs("a/b")),
    "read": lambda: there.read_text(),
    "nowhere": lambda: open(os.devnull, "w").write("x"),
}
assert getattr(fence, sys.argv[3])(inside) is not False
for kind in (harms, free):
    done = []
    for name, act in kind.items():
        try:
            act()
            done.append(name)
        except OSError:
            pass
    print(*done, sep=",")
"""


@pytest.mark.parametrize(
    "fence",
    ["watch", pytest.param("wall", marks=pytest.mark.skipif(sys.platform != "linux", reason="no"))],
)
def test_a_fence_keeps_in_what_it_says(tmp_path: Path, fence: str) -> None:
    there, inside = tmp_path / "treasure/file", tmp_path / "inside"
    there.parent.mkdir()
    inside.mkdir()
    there.write_text("untouched")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        words = [sys.executable, "-c", TRIES, str(there), str(inside), fence, port]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    if fence == "wall" and "assert getattr" in done.stderr:
        pytest.skip("this kernel has no Landlock")
    through, allowed = done.stdout.splitlines()
    newer = {"kill", "connect"} if fence == "wall" else set()  # what older kernels cannot refuse
    assert set(through.split(",")) - {""} <= newer
    assert allowed.split(",") == ["own", "own folder", "own removal", "read", "nowhere"]
    assert there.read_text() == "untouched" and [*there.parent.iterdir()] == [there]
