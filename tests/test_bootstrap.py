"""The bootstrap, without the network: a stand-in does the installing."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mmlab import __main__ as bootstrap

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
    (root / ".venv" / "half-written").touch()
    installer.fail_at = None
    again(root, installer)
    assert installer.made_fresh()
    assert not (root / ".venv" / "half-written").exists()


def test_an_update_that_broke_is_not_taken_for_a_good_one(root, installer):
    bootstrap.interpreter(root)
    (root / "constraints.txt").write_text("torch==9.9\n")
    installer.fail_at = "pip"
    with pytest.raises(bootstrap.SetupError):
        again(root, installer)
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
    assert "'tset'" in said
    assert all(f"\n  {command}" in said for command in ("run", "test", "lab", "bench"))


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


# --- handing over ------------------------------------------------------------------------------


def test_further_arguments_go_to_the_command_line(root):
    def line(command):
        return bootstrap.command_line(command, "py", ["-k", "a b"], root)

    assert line("run") == ["py", "-m", "mmlab.notebooks", "run", "-k", "a b"]
    assert line("bench") == ["py", "-m", "mmlab.bench", "-k", "a b"]
    assert line("test") == ["py", "-m", "pytest", "-k", "a b"]
    assert f"--ServerApp.root_dir={root}" in line("lab")
    assert "--LabApp.default_url=/lab/tree/notebooks" in line("lab")


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
