"""The notebooks as they come: listed and copied by a bare Python, and never over anybody's work."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmlab
from mmlab import __main__ as bootstrap
from mmlab import completion, originals

PACKAGE = Path(mmlab.__file__).parent


@pytest.fixture
def folder(tmp_path):
    """Two notebooks, the first with a map of both."""
    folder = tmp_path / "originals"
    folder.mkdir()
    opening = (
        "# 00 · Start: here · 从这里开始\n\n**Time:** 90 s on a CPU to run, 40 minutes to read."
    )
    plan = "| 00 | start | what is here? | you are here |\n| 01 | [x](01-x.ipynb) | why? | ready |"
    write(folder / "00-start.ipynb", opening, plan)
    write(folder / "01-why.ipynb", "# 01 · Why\n\n**Time:** 2 min to run on a CPU, 45 min to read.")
    return folder


def write(path, *texts):
    cells = [{"cell_type": "markdown", "source": text.splitlines(True)} for text in texts]
    cells.append({"cell_type": "code", "source": "print('# 05 · no title')"})
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")


def test_the_list_has_times_titles_and_questions(folder):
    assert originals.table(folder).splitlines()[1:] == [
        "00   90 s    40 min   Start: here - what is here?",
        "01   2 min   45 min   Why - why?",
    ]


@pytest.mark.parametrize("content", [b"", b"\xff", b"{}", b"[]", b'{"cells": [1]}'])
def test_a_damaged_notebook_is_listed_by_its_name(folder, content):
    (folder / "02-other-name.ipynb").write_bytes(content)
    assert originals.table(folder).splitlines()[-1].split() == ["02", "other-name", "-"]


def test_all_of_ours_have_times_a_title_and_a_question():
    lines = originals.table().splitlines()[1:]
    assert len(lines) == len(originals.notebooks()) >= 13
    for line in lines:
        number, run, unit, read, minutes, *what = line.split()
        assert number.isdigit() and unit in ("s", "min") and minutes == "min", line
        assert run.isdigit() and read.isdigit()
        assert all(part.strip() for part in " ".join(what).split(" - ", 1)) and "-" in what, line
        assert line.isascii(), "a terminal may know no more"


def test_copies_are_whole_and_come_once(folder, tmp_path):
    to = tmp_path / "deep" / "mine"
    new, kept = originals.copy(to, folder)
    assert [path.name for path in new] == ["00-start.ipynb", "01-why.ipynb"] and kept == []
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in new)
    assert originals.copy(to, folder) == ([], [])
    assert {path.name for path in to.iterdir()} == {path.name for path in new}


def test_what_was_changed_is_kept_and_named(folder, tmp_path):
    (mine := tmp_path / "mine").mkdir()
    (mine / "01-why.ipynb").write_text("my work")
    new, kept = originals.copy(mine, folder)
    assert [path.name for path in new] == ["00-start.ipynb"]
    assert kept == [mine / "01-why.ipynb"] and kept[0].read_text() == "my work"


# --- the commands --------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path):
    """Calls the launcher of a checkout by a Python without any package: standard library alone."""
    root = tmp_path / "project"
    (root / "mmlab").mkdir(parents=True)
    for name in ("__init__.py", "__main__.py", "completion.py", "originals.py", "files.py"):
        shutil.copy(PACKAGE / name, root / "mmlab" / name)
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(PACKAGE.parent / name, root / name)
    shutil.copytree(originals.ORIGINALS, root / "notebooks")

    def call(*words):
        said = subprocess.run(
            [sys.executable, "-S", "-m", "mmlab", *words],
            cwd=root,
            env={**os.environ, "PYTHONPATH": "", "PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not (root / ".venv").exists(), "this set up"
        return said

    return call


def test_list_and_version_and_help_come_before_any_set_up(bare):
    listed = bare("list")
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "Why joint training fails - " in listed.stdout
    assert bare("--version").stdout == f"mmlab {mmlab.__version__}\n"
    assert "copy-notebooks" in bare("--help").stdout


@pytest.mark.parametrize("command", bootstrap.COMMANDS)
def test_the_help_of_a_command_sets_nothing_up(bare, command):
    said = bare(command, "--help")
    assert said.returncode == 0
    assert bootstrap.COMMANDS[command] in said.stdout and "sets up .venv" in said.stdout


def test_copy_notebooks_says_what_it_did_and_what_it_kept(bare, tmp_path):
    mine = tmp_path / "my notebooks"
    first = bare("copy-notebooks", str(mine))
    assert (
        first.returncode == 0 and f"{len(originals.notebooks())} notebooks copied" in first.stdout
    )
    changed = mine / originals.notebooks()[3].name
    changed.write_text("mine")
    second = bare("copy-notebooks", str(mine))
    assert second.returncode == 0 and changed.read_text() == "mine"
    assert second.stdout.count("is kept") == 1 and str(changed) in second.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("mmlab di", "diagnose"), ("mmlab run 1", "10 11 12 13"), ("mmlab list ", "")],
)
def test_the_tab_key_completes_commands_and_numbers(bare, typed, offered):
    words = " ".join(f'"{word}"' for word in typed.split(" "))
    tab = f"COMP_WORDS=({words}); COMP_CWORD={typed.count(' ')}; _mmlab; echo ${{COMPREPLY[@]}}"
    for shell in completion.SHELLS:
        script = bare("completion", shell).stdout.removeprefix(completion.ZSH)
        said = subprocess.run(["bash", "-c", f"{script}\n{tab}"], capture_output=True, text=True)
        assert (said.stdout.strip(), said.stderr) == (offered, "")


@pytest.mark.parametrize(
    "words", ["list 01", "copy-notebooks", "copy-notebooks -x", "completion", "completion fish"]
)
def test_what_they_do_not_take_is_refused(bare, words):
    said = bare(*words.split())
    assert said.returncode == 2
    assert f"{words.split()[0]} takes" in said.stderr


def test_a_file_in_the_place_of_the_folder_is_named(bare, tmp_path):
    (tmp_path / "file").touch()
    said = bare("copy-notebooks", str(tmp_path / "file"))
    assert said.returncode == 1 and "another folder" in said.stderr
    assert "Traceback" not in said.stderr
