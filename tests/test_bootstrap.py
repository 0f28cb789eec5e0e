"""The bootstrap, without the network: a stand-in does the installing."""

import contextlib
import errno
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from mmlab import __main__ as bootstrap
from mmlab import originals

HERE = Path(bootstrap.__file__).parent
posix = pytest.mark.skipif(os.name == "nt", reason="the stand-in for uv is a shell script")


@pytest.fixture
def root(tmp_path):
    """A checkout with nothing but what the bootstrap reads."""
    (tmp_path / "mmlab").mkdir()
    for name in ("__init__.py", "__main__.py"):
        shutil.copy(HERE / name, tmp_path / "mmlab" / name)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(HERE.parent / name, tmp_path / name)
    return tmp_path


class Installer:
    """Stands in for `execute`: makes an empty `.venv`, notes the calls, fails when told to."""

    def __init__(self):
        self.lines, self.environments, self.fail_at = [], [], None

    def __call__(self, line, environment, root):
        self.lines.append(line)
        self.environments.append(environment)
        if "venv" in line:
            python = bootstrap.python_of(root)
            python.parent.mkdir(parents=True)
            python.touch()
        if self.fail_at is not None and self.fail_at in line:
            raise bootstrap.SetupError("the network is down")

    def made_fresh(self):
        return any("venv" in line for line in self.lines)


@pytest.fixture
def installer(monkeypatch):
    stand_in = Installer()
    monkeypatch.setattr(bootstrap, "execute", stand_in)
    monkeypatch.setattr(bootstrap, "activated", lambda root: False)
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: None)
    return stand_in


def again(root, installer):
    """Ask for the interpreter once more, counting only the calls that this needs."""
    installer.lines.clear()
    return bootstrap.interpreter(root)


def test_a_second_call_installs_nothing(root, installer):
    python = bootstrap.interpreter(root)
    assert python == str(bootstrap.python_of(root))
    assert [line[1:] for line in installer.lines] == [
        ["-m", "venv", str(root / ".venv")],
        ["-m", "pip", "install", "-qq", *bootstrap.INSTALL],
    ]
    assert again(root, installer) == python
    assert installer.lines == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_is_installed_into_what_is_there(root, installer, name):
    bootstrap.interpreter(root)
    (root / ".venv" / "kept").touch()
    (root / name).write_text((root / name).read_text() + "# changed\n")
    again(root, installer)
    assert installer.lines and not installer.made_fresh()
    assert (root / ".venv" / "kept").exists()


def test_another_python_makes_it_anew(root, installer, monkeypatch):
    bootstrap.interpreter(root)
    (root / ".venv" / "old").touch()
    monkeypatch.setattr(bootstrap.platform, "python_version", lambda: "3.99.0")
    again(root, installer)
    assert installer.made_fresh()
    assert not (root / ".venv" / "old").exists()


def test_a_moved_checkout_makes_it_anew(root, installer, tmp_path_factory):
    bootstrap.interpreter(root)
    moved = tmp_path_factory.mktemp("elsewhere") / "mmlab"
    shutil.move(root, moved)
    again(moved, installer)
    assert installer.made_fresh()


def test_a_lost_interpreter_makes_it_anew(root, installer):
    bootstrap.interpreter(root)
    bootstrap.python_of(root).unlink()
    again(root, installer)
    assert installer.made_fresh()


@pytest.mark.parametrize("step", ["venv", "pip"])
def test_a_set_up_that_broke_is_done_again(root, installer, step):
    installer.fail_at = step
    with pytest.raises(bootstrap.SetupError):
        bootstrap.interpreter(root)
    assert not (root / ".venv").exists(), "a half-made one would fill the disk"
    installer.fail_at = None
    again(root, installer)
    assert installer.made_fresh()


def test_what_a_killed_set_up_left_is_removed(root, installer):
    (root / ".venv" / "bin").mkdir(parents=True)
    (root / ".venv" / "bin" / "half-written").touch()
    bootstrap.interpreter(root)
    assert installer.made_fresh()
    assert not (root / ".venv" / "bin" / "half-written").exists()


def test_an_update_that_broke_is_not_taken_for_a_good_one(root, installer):
    bootstrap.interpreter(root)
    (root / "constraints.txt").write_text("torch==9.9\n")
    installer.fail_at = "pip"
    with pytest.raises(bootstrap.SetupError):
        again(root, installer)
    assert bootstrap.python_of(root).exists(), "an update takes nothing away"
    installer.fail_at = None
    again(root, installer)
    assert installer.made_fresh()


def test_two_at_once_set_up_only_once(root, installer, monkeypatch):
    first_is_in, slow = threading.Event(), bootstrap.set_up

    def set_up(root):
        first_is_in.set()
        bootstrap.time.sleep(0.2)
        slow(root)

    monkeypatch.setattr(bootstrap, "set_up", set_up)
    first = threading.Thread(target=bootstrap.interpreter, args=(root,))
    first.start()
    assert first_is_in.wait(10)
    bootstrap.interpreter(root)
    first.join()
    assert sum("venv" in line for line in installer.lines) == 1


@pytest.fixture
def other_set_up(root, monkeypatch):
    """Another set-up holds the lock; it ends, as `at_the_end` says, when we have waited once."""
    file = open(root / ".venv.lock", "w")  # noqa: SIM115 (its end closes it)
    assert not bootstrap.is_held(file)

    class Other:
        waits = 0

        def at_the_end(self):
            pass

    other = Other()

    def sleep(seconds):
        other.waits += 1
        other.at_the_end()
        file.close()

    monkeypatch.setattr(bootstrap.time, "sleep", sleep)
    yield other
    file.close()


def test_nothing_is_installed_while_another_set_up_holds_the_lock(
    root, installer, other_set_up, capsys
):
    other_set_up.at_the_end = lambda: installer.lines.append("the other one ends")
    bootstrap.interpreter(root)
    assert installer.lines[0] == "the other one ends" and len(installer.lines) == 3
    assert other_set_up.waits == 1
    assert "Another set-up is at work here" in capsys.readouterr().out


def test_what_another_set_up_has_finished_is_used(root, installer, other_set_up):
    def finish():
        bootstrap.set_up(root)
        installer.lines.clear()

    other_set_up.at_the_end = finish
    assert bootstrap.interpreter(root) == str(bootstrap.python_of(root))
    assert installer.lines == []


@posix
def test_the_steps_hold_the_lock_too(root):
    """So that it is held as long as anything is at work, whatever has become of us."""
    lock = root / ".venv.lock"
    code = (
        "import os, sys; held = os.stat(sys.argv[1]); "
        "mine = [f'/dev/fd/{n}' for n in range(99) if os.path.exists(f'/dev/fd/{n}')]; "
        "sys.exit(not any(os.path.samestat(os.stat(name), held) for name in mine))"
    )
    with bootstrap.only_one(lock):
        bootstrap.execute([sys.executable, "-c", code, str(lock)], dict(os.environ), root)
    with pytest.raises(bootstrap.SetupError):
        bootstrap.execute([sys.executable, "-c", code, str(lock)], dict(os.environ), root)


def test_uv_is_told_what_pip_would_know(root, installer, monkeypatch):
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name: "/tools/uv")
    for name in ("UV_FIND_LINKS", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL", "UV_INDEX_STRATEGY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels more-wheels")
    monkeypatch.setenv("PIP_INDEX_URL", "file:///index")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///extra")
    bootstrap.interpreter(root)
    assert {line[0] for line in installer.lines} == {"/tools/uv"}
    assert installer.lines[-1][-4:] == bootstrap.INSTALL
    told = installer.environments[-1]
    assert told["UV_FIND_LINKS"] == "wheels,more-wheels"
    assert told["UV_INDEX_URL"] == "file:///index"
    assert told["UV_EXTRA_INDEX_URL"] == "file:///extra"
    assert told["UV_INDEX_STRATEGY"] == "unsafe-best-match"


def test_a_set_up_says_beforehand_how_much_it_downloads(root, installer, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap.sys, "platform", "linux")
    for name in bootstrap.INDEXES:
        monkeypatch.delenv(name, raising=False)
    bootstrap.interpreter(root)
    said = capsys.readouterr().out
    assert f"about {bootstrap.LARGE} GB" in said
    assert "the same command with this before it:" in said
    assert said.splitlines()[-2] == f"  PIP_EXTRA_INDEX_URL={bootstrap.CPU_INDEX}"
    (root / "constraints.txt").write_text("torch==9.9\n")
    again(root, installer)
    assert "GB" not in capsys.readouterr().out, "an update fetches little"


@pytest.mark.parametrize("system", ["darwin", "win32", "linux"])
def test_without_cuda_it_downloads_less(system):
    environment = {"UV_INDEX_URL": bootstrap.CPU_INDEX} if system == "linux" else {}
    assert bootstrap.download(system, environment) == f"about {bootstrap.SMALL} GB."


def test_what_uv_was_told_itself_stands():
    told = bootstrap.uv_environment({"PIP_FIND_LINKS": "a", "UV_FIND_LINKS": "b"})
    assert told["UV_FIND_LINKS"] == "b"
    assert "UV_INDEX_URL" not in told


# --- an activated environment ------------------------------------------------------------------


@pytest.fixture
def site(root, monkeypatch):
    """An activated environment that holds this checkout and all it asks for."""
    site = root / "site"
    lines = importlib.metadata.requires("mmlab")
    names = {bootstrap.re.match(r"[\w.-]+", line).group() for line in lines}
    for name in (*names, "mmlab"):
        info = site / f"{name.replace('-', '_')}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    origin(site, root)
    monkeypatch.setattr(sys, "path", [str(site)])
    monkeypatch.setattr(sys, "prefix", str(root / "their-environment"))
    return site


def origin(site, folder):
    text = f'{{"url": "{folder.as_uri()}", "dir_info": {{"editable": true}}}}'
    (site / "mmlab-1.0.dist-info" / "direct_url.json").write_text(text)


@pytest.fixture
def no_installing(monkeypatch):
    monkeypatch.setattr(bootstrap, "set_up", lambda root: pytest.fail("this set up"))


def test_an_activated_environment_is_used_as_it_is(root, site, no_installing):
    assert bootstrap.interpreter(root) == sys.executable
    assert not (root / ".venv").exists()


def test_a_conda_environment_is_used_as_it_is(root, site, no_installing, monkeypatch):
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)
    Path(sys.prefix, "conda-meta").mkdir(parents=True)
    assert bootstrap.interpreter(root) == sys.executable


def spoil_nothing_activated(root, site, monkeypatch):
    monkeypatch.setattr(sys, "base_prefix", sys.prefix)


def spoil_missing_package(root, site, monkeypatch):
    shutil.rmtree(site / "papermill-1.0.dist-info")


def spoil_missing_tool(root, site, monkeypatch):
    shutil.rmtree(site / "pytest-1.0.dist-info")  # which only `test` needs


def spoil_missing_project(root, site, monkeypatch):
    shutil.rmtree(site / "mmlab-1.0.dist-info")


def spoil_other_checkout(root, site, monkeypatch):
    origin(site, root.parent / "another")


def spoil_our_own(root, site, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(root / ".venv"))


@pytest.mark.parametrize(
    "spoil",
    [
        spoil_nothing_activated,
        spoil_missing_package,
        spoil_missing_tool,
        spoil_missing_project,
        spoil_other_checkout,
        spoil_our_own,
    ],
)
def test_an_environment_that_lacks_something_is_not_used(root, site, monkeypatch, spoil):
    calls = []
    monkeypatch.setattr(bootstrap, "set_up", calls.append)
    spoil(root, site, monkeypatch)
    assert bootstrap.interpreter(root) == str(bootstrap.python_of(root))
    assert calls == [root]


# --- what a user can get wrong -----------------------------------------------------------------


def test_an_unknown_command_is_refused_before_anything_is_set_up(capsys, no_installing):
    assert bootstrap.main(["tset"]) == 2
    said = capsys.readouterr().err
    assert "'tset'" in said and "Did you mean `test`?" in said
    assert all(f"\n  {command}" in said for command in ("run", "test", "lab", "bench", "list"))


def test_a_command_like_no_other_is_no_guess(capsys):
    assert bootstrap.main(["xyz"]) == 2
    assert "mean" not in capsys.readouterr().err


def test_notebooks_that_are_copied_already_are_said_to_be_there(tmp_path, capsys):
    new = f"{len(originals.notebooks())} notebooks copied into"
    for said in (new, "All notebooks are already in"):
        assert bootstrap.main(["copy-notebooks", str(tmp_path)]) == 0
        assert capsys.readouterr().out.startswith(f"{said} {tmp_path}")


def test_help_and_a_bare_call_list_the_commands(capsys):
    assert (bootstrap.main(["--help"]), bootstrap.main([])) == (0, 2)
    assert capsys.readouterr().out.count("open JupyterLab") == 2


def test_an_old_python_is_told_so():
    with pytest.raises(bootstrap.SetupError, match=r"this is Python 3\.10.* needs 3\.11 or newer"):
        bootstrap.check_version((3, 10))
    bootstrap.check_version((3, 11))


@pytest.mark.parametrize("name", ["__init__.py", "__main__.py"])
def test_an_old_python_can_read_as_far_as_the_message(name):
    import ast

    text = (HERE / name).read_text(encoding="utf-8")
    ast.parse(text, feature_version=(3, 8))
    assert "from __future__ import annotations" in text


def test_a_python_without_its_venv_module_is_told_what_to_install(root, installer, monkeypatch):
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bootstrap.SetupError, match=r"ensurepip.*python3-venv"):
        bootstrap.interpreter(root)
    assert not (root / ".venv").exists()


def test_a_python_without_its_venv_module_takes_nothing_away(root, installer, monkeypatch):
    bootstrap.interpreter(root)
    monkeypatch.setattr(bootstrap.platform, "python_version", lambda: "3.99.0")
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(bootstrap.SetupError, match="ensurepip"):
        bootstrap.interpreter(root)
    assert bootstrap.python_of(root).exists()


@pytest.mark.parametrize(
    "error", [PermissionError(13, "Permission denied"), OSError(28, "No space")]
)
def test_a_folder_that_cannot_be_written_is_named(root, installer, monkeypatch, capsys, error):
    def refuse(*arguments):
        raise error

    monkeypatch.setattr(bootstrap, "ROOT", root)
    monkeypatch.setattr(bootstrap, "only_one", refuse)
    assert bootstrap.main(["test"]) == 1
    said = capsys.readouterr().err
    assert str(root) in said and error.strerror in said


def test_a_failing_step_is_reported_with_its_last_words(root):
    code = (
        "print('\\n'.join(f'line {i}' for i in range(99))); print('no route'); raise SystemExit(3)"
    )
    with pytest.raises(bootstrap.SetupError) as caught:
        bootstrap.execute([sys.executable, "-c", code], dict(os.environ), root)
    said = str(caught.value)
    assert "exit code 3" in said and "no route" in said and "line 98" in said
    assert "line 1\n" not in said
    assert "run the same command again" in said


@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        ("OSError: [Errno 28] No space left on device", 1, "free some space"),
        ("error: Disk quota exceeded (os error 122)", 2, "free some space"),
        ("", 137, "killed, as a system short of memory does: close other programs"),
        ("Temporary failure in name resolution", 1, "network is out of reach"),
    ],
)
def test_a_failing_step_gets_the_advice_that_fits(root, words, code, fix):
    step = [sys.executable, "-c", f"print({words!r}); raise SystemExit({code})"]
    with pytest.raises(bootstrap.SetupError) as caught:
        bootstrap.execute(step, dict(os.environ), root)
    assert fix in str(caught.value)
    assert ("network" in str(caught.value)) == ("network" in fix)


@posix
def test_a_step_that_was_killed_counts_as_killed(root):
    step = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
    with pytest.raises(bootstrap.SetupError, match=r"exit code 137[^$]*close other programs"):
        bootstrap.execute(step, dict(os.environ), root)


@pytest.mark.parametrize("kind", ["a file", "a link"])
def test_a_dot_venv_that_no_set_up_has_made_is_left_alone(root, installer, kind, tmp_path_factory):
    theirs = tmp_path_factory.mktemp("theirs")
    (theirs / "work.txt").write_text("a year of it")
    if kind == "a file":
        (root / ".venv").write_text(str(theirs))
    else:
        (root / ".venv").symlink_to(theirs)
    with pytest.raises(bootstrap.SetupError, match=rf"\.venv is {kind}.*[Mm]ove it away or delete"):
        bootstrap.interpreter(root)
    assert (root / ".venv").exists() and (theirs / "work.txt").exists()
    assert installer.lines == []


def test_a_link_to_a_finished_one_is_used(root, installer):
    bootstrap.interpreter(root)
    shutil.move(root / ".venv", root / "on-a-larger-disk")
    (root / ".venv").symlink_to(root / "on-a-larger-disk")
    again(root, installer)
    assert installer.lines == []


def test_a_damaged_stamp_makes_it_anew(root, installer):
    bootstrap.interpreter(root)
    (root / ".venv" / "mmlab.stamp").write_bytes(b"\xff\xfe\x00")
    again(root, installer)
    assert installer.made_fresh()


def remove_it(path):
    path.unlink()


def make_it_a_folder(path):
    path.unlink()
    path.mkdir()


def cut_it(path):
    path.write_text("[project\n")


def empty_it(path):
    path.write_text("")


def garble_it(path):
    path.write_bytes(b"\xff" * 9)


@pytest.mark.parametrize(
    ("name", "spoil", "found"),
    [
        ("pyproject.toml", remove_it, "No such file"),
        ("pyproject.toml", make_it_a_folder, "Is a directory|Permission denied"),
        ("pyproject.toml", cut_it, "at line 1"),
        ("pyproject.toml", empty_it, "no 'project'"),
        ("pyproject.toml", garble_it, "can't decode byte 0xff"),
        ("constraints.txt", remove_it, "No such file"),
    ],
)
def test_a_list_of_what_to_install_that_cannot_be_read(root, installer, capsys, name, spoil, found):
    """It is said before anything is removed."""
    bootstrap.interpreter(root)
    installer.lines.clear()
    spoil(root / name)
    with pytest.raises(bootstrap.SetupError, match=rf"{name}: .*({found}).*git checkout"):
        bootstrap.interpreter(root)
    assert installer.lines == []
    assert (root / ".venv" / "mmlab.stamp").exists()


def test_an_activated_environment_does_not_hide_that(root, site, no_installing):
    (root / "pyproject.toml").write_text("[project\n")
    with pytest.raises(bootstrap.SetupError, match=r"pyproject\.toml: .*at line 1"):
        bootstrap.interpreter(root)


def test_no_folder_for_temporary_files_is_said(root, monkeypatch):
    def refuse():
        raise FileNotFoundError(2, "No usable temporary directory found in ['/full', '/too']")

    monkeypatch.setattr(bootstrap.tempfile, "TemporaryFile", refuse)
    with pytest.raises(bootstrap.SetupError, match=r"'/full', '/too'.*set TMPDIR to a folder"):
        bootstrap.execute([sys.executable, "-c", ""], dict(os.environ), root)


def test_a_python_that_does_not_know_where_it_is(monkeypatch):
    monkeypatch.setattr(sys, "_base_executable", "", raising=False)
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(bootstrap.SetupError, match=r"PATH.*full path, such as `/usr/bin/python3"):
        bootstrap.base_python()


@pytest.mark.parametrize(
    ("error", "fix"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (OSError(errno.EROFS, "Read-only file system"), "a folder of your own"),
        (OSError(errno.ENOTEMPTY, "Directory not empty"), "Close what still runs"),
    ],
)
@pytest.mark.parametrize("place", ["rmtree", "replace"])
def test_whatever_cannot_be_written_gets_the_remedy_that_fits(
    root, installer, monkeypatch, error, fix, place
):
    def refuse(*arguments, **options):
        if not options:  # cleaning up ignores errors
            raise error

    (root / ".venv").mkdir()  # so that there is something to remove
    monkeypatch.setattr(
        *{"rmtree": (bootstrap.shutil, "rmtree"), "replace": (os, "replace")}[place], refuse
    )
    with pytest.raises(bootstrap.SetupError) as caught:
        bootstrap.interpreter(root)
    said = str(caught.value)
    assert str(root) in said and error.strerror in said and fix in said
    assert "same command again" in said


def test_a_full_disk_leaves_nothing_half_made(root, installer, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(bootstrap.SetupError, match="No space left"):
        bootstrap.interpreter(root)
    assert not (root / ".venv").exists()


def test_a_lock_that_is_a_folder_is_named(root, installer):
    (root / ".venv.lock").mkdir()
    with pytest.raises(bootstrap.SetupError, match=r"\.venv\.lock'.*move away what is in the way"):
        bootstrap.interpreter(root)


def test_a_file_system_without_locks_does_without(root, installer, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def refuse(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    bootstrap.interpreter(root)
    assert installer.made_fresh()


def test_a_finished_one_in_a_folder_that_cannot_be_written_starts(root, installer, monkeypatch):
    def refuse(*arguments):
        raise OSError(errno.EROFS, "Read-only file system")

    bootstrap.interpreter(root)
    monkeypatch.setattr(bootstrap, "only_one", refuse)
    assert again(root, installer) == str(bootstrap.python_of(root))


def test_a_python_that_cannot_be_started_says_how_to_replace_it(root, installer, monkeypatch):
    python = bootstrap.interpreter(root)  # the stand-in makes an empty file of it
    monkeypatch.chdir(root)
    with pytest.raises(bootstrap.SetupError, match=r"cannot start .*python.*delete the folder"):
        bootstrap.hand_over(bootstrap.command_line("test", python, [], root), root)


def test_a_reader_who_is_gone_is_no_reason_to_fail(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(sys, "stdout", Gone())
    bootstrap.say("still at it")


# --- signals -----------------------------------------------------------------------------------


FAKE_VENV = """
import os, pathlib, sys
place = pathlib.Path(sys.argv[1], "bin")
place.mkdir(parents=True)
os.symlink(sys.executable, place / "python")
"""

FAKE_PIP = '''
import os, pathlib, subprocess, sys, time
write = """
import contextlib, time
until = time.monotonic() + 60
while time.monotonic() < until:
    with contextlib.suppress(OSError):
        open(f".venv/{time.monotonic_ns() % 99}", "w").close()
"""
if os.path.exists("slow"):
    os.remove("slow")
    child = subprocess.Popen([sys.executable, "-c", write])
    pathlib.Path("pids.part").write_text(f"{os.getpid()} {child.pid}")
    os.rename("pids.part", "pids")
    time.sleep(600)
'''

# a shell's background job, and whatever it starts, is born deaf to Ctrl-C
HEARING = """
import os, signal, sys
for name in {"SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"} & {s.name for s in signal.Signals}:
    signal.signal(signal.Signals[name], signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""

FAKE_PYTEST = "import os; print('ran in', os.getcwd()); raise SystemExit(5)"


@pytest.fixture
def bare(root, tmp_path_factory):
    """How to call the bootstrap where venv, pip and pytest are stand-ins and PATH is empty."""
    place = tmp_path_factory.mktemp("bücher und größe") / "my project"
    shutil.copytree(root, place)
    modules = tmp_path_factory.mktemp("modules")
    fakes = {"venv": FAKE_VENV, "ensurepip": "", "pip": FAKE_PIP, "pytest": FAKE_PYTEST}
    for name, code in fakes.items():
        (modules / f"{name}.py").write_text(code)
    environment = {"PATH": "", "HOME": str(root / "nowhere"), "PYTHONPATH": str(modules)}

    made, hearing = [], [] if os.name == "nt" else [sys.executable, "-c", HEARING]

    def call(*before):
        process = subprocess.Popen(
            [*(before or hearing), sys.executable, "-S", "-m", "mmlab", "test"],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        made.append(process)
        return process

    call.place = place
    yield call
    for process in made:
        process.kill()


@posix
def test_it_works_with_an_empty_path_no_home_and_odd_letters_in_the_folder(bare):
    process = bare()
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (5, "")
    assert f"ran in {bare.place}" in said


def begin(bare, *before):
    """A set-up that is installing, and the two processes that do it."""
    (bare.place / "slow").touch()
    process = bare(*before)
    while not (bare.place / "pids").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process, [psutil.Process(int(n)) for n in (bare.place / "pids").read_text().split()]


def have_ended(processes):
    """Wait until they have; one that nobody has buried yet has ended, too."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with contextlib.suppress(psutil.NoSuchProcess):
            if any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes):
                time.sleep(0.02)
                continue
        return True
    return False


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGKILL"])
def test_a_signal_leaves_nothing_running_and_the_next_call_ends_well(bare, name):
    number = signal.Signals[name]
    process, installing = begin(bare)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    second = bare()  # at once
    said, more = second.communicate(timeout=60)
    assert have_ended(installing)
    assert (second.returncode, more) == (5, "")
    assert "making it anew" in said and "ran in" in said
    if name in ("SIGQUIT", "SIGKILL"):
        assert process.returncode == -number
    else:
        assert process.returncode == 128 + number
        assert f"stopped by {name}; the same command begins the set-up afresh" in errors


@posix
def test_under_nohup_a_closed_terminal_does_not_end_it(bare):
    ignoring = "import os, signal, sys; signal.signal(1, 1); os.execv(sys.argv[1], sys.argv[1:])"
    process, installing = begin(bare, sys.executable, "-c", ignoring)
    process.send_signal(signal.SIGHUP)
    for each in installing:
        each.kill()  # as a system short of memory does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "exit code 137" in errors


def test_signals_mean_afterwards_what_they_meant_before():
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(bootstrap.Stopped), bootstrap.stoppable():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def heeded():
    """Ctrl-C raises KeyboardInterrupt, also in a background job, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_signal_does_not_end_the_cleaning(heeded):
    cleaned = []
    with pytest.raises(bootstrap.Stopped) as caught, bootstrap.stoppable():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGINT)
            cleaned.append(True)
    assert caught.value.args == (signal.SIGTERM,) and cleaned == [True]


# --- handing over ------------------------------------------------------------------------------


def test_further_arguments_go_to_the_command_line(root):
    def line(command):
        return bootstrap.command_line(command, "py", ["-k", "a b"], root)

    assert line("run") == ["py", "-m", "mmlab.notebooks", "run", "-k", "a b"]
    assert line("bench") == ["py", "-m", "mmlab.bench", "-k", "a b"]
    assert line("test") == ["py", "-m", "pytest", "-k", "a b"]
    assert f"--ServerApp.root_dir={root}" in line("lab")
    assert "--LabApp.default_url=/lab/tree/work" in line("lab")


def test_all_tests_run_on_all_cores_and_chosen_ones_start_at_once(root):
    whole = bootstrap.command_line("test", "py", [], root)
    assert whole == ["py", "-m", "pytest", *bootstrap.IN_PARALLEL]
    assert "-n" not in bootstrap.command_line("test", "py", ["tests/test_seeds.py"], root)


def test_freed_memory_is_kept_where_the_c_library_is_glibc():
    told = bootstrap.keeping_memory({"A": "1"}, "glibc")
    assert told.pop("A") == "1"
    assert set(told) == {"MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    # above 32 MiB an older glibc refuses the first; the second must be larger to be of use
    assert int(told["MALLOC_MMAP_THRESHOLD_"]) <= 2**25 < int(told["MALLOC_TRIM_THRESHOLD_"])


@pytest.mark.parametrize("libc", ["", "musl"])
def test_elsewhere_the_environment_stays_as_it_is(libc):
    assert bootstrap.keeping_memory({"A": "1"}, libc) == {"A": "1"}


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"])
def test_what_the_user_has_set_stays(name):
    assert bootstrap.keeping_memory({name: "65536"}, "glibc")[name] == "65536"


def test_lab_opens_copies_and_keeps_what_was_done_in_them(root, installer, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "ROOT", root)
    monkeypatch.setattr(bootstrap, "hand_over", lambda line, place: 0)
    assert bootstrap.main(["lab"]) == 0
    copies = sorted((root / "work").iterdir())
    assert [path.name for path in copies] == [path.name for path in originals.notebooks()]
    assert "as you left them" not in capsys.readouterr().out
    copies[1].write_text("mine")
    assert bootstrap.main(["lab"]) == 0
    assert copies[1].read_text() == "mine"
    assert "1 notebooks in work/ are as you left them" in capsys.readouterr().out


def test_what_is_set_up_tells_its_own_help(root, installer, monkeypatch):
    lines = []
    monkeypatch.setattr(bootstrap, "ROOT", root)
    monkeypatch.setattr(bootstrap, "hand_over", lambda line, place: lines.append(line) or 0)
    bootstrap.interpreter(root)
    assert bootstrap.main(["run", "--help"]) == 0
    assert [line[-2:] for line in lines] == [["run", "--help"]]


def test_a_folder_for_the_copies_that_cannot_be_made_is_named(root, installer, monkeypatch, capsys):
    monkeypatch.setattr(bootstrap, "ROOT", root)
    (root / "work").touch()
    assert bootstrap.main(["lab"]) == 1
    assert f"cannot copy the notebooks into {root / 'work'}" in capsys.readouterr().err


@posix
@pytest.mark.parametrize("command", bootstrap.COMMANDS)
def test_every_command_starts_with_that_environment(root, monkeypatch, command):
    class Became(Exception):
        pass

    def become(path, line, environment):
        raise Became(environment)

    monkeypatch.setattr(os, "execve", become)
    monkeypatch.setattr(bootstrap.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.chdir(root)
    with pytest.raises(Became) as caught:
        bootstrap.hand_over(bootstrap.command_line(command, "py", [], root), root)
    assert "MALLOC_TRIM_THRESHOLD_" in caught.value.args[0]


PRETEND_UV = """#!/bin/sh
# `uv venv … FOLDER` makes an interpreter that answers with its arguments and exit code 5
echo "$@" >> "{log}"
if [ "$1" = venv ]; then
    for folder; do :; done
    mkdir -p "$folder/bin"
    cd "$folder/bin"
    printf '#!/bin/sh\\necho "ran $*"\\ncase "$*" in *pytest*) exit 5;; esac\\n' > python
    chmod +x python
fi
"""


@posix
def test_from_a_bare_python_to_the_closing_line(root, tmp_path):
    """The whole way in its own process, without any site-packages: standard library alone."""
    tools, log = tmp_path / "tools", tmp_path / "uv.log"
    tools.mkdir()
    (tools / "uv").write_text(PRETEND_UV.format(log=log))
    (tools / "uv").chmod(0o755)
    path = os.pathsep.join([str(tools), os.environ["PATH"]])

    def call(*arguments):
        return subprocess.run(
            [sys.executable, "-S", "-m", "mmlab", *arguments],
            cwd=root,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )

    first, second = call("test", "-x"), call("test", "-x")
    assert first.returncode == second.returncode == 5
    assert "Setting up .venv with uv" in first.stdout
    assert second.stdout.splitlines()[-1] == "ran -m pytest -x"
    assert "Setting up" not in second.stdout
    assert len(log.read_text().splitlines()) == 2
