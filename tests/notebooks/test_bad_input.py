"""What the command line and the runner are given by mistake: each is told by name, with its fix."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat import v4
from small import outputs, write_notebook

from mmlab.notebooks import SiteError, run
from mmlab.notebooks.__main__ import main
from mmlab.notebooks.catalogue import (
    NotebookError,
    check_parameters,
    collection,
    read,
)

LITERALS = 'profile = "smoke"\nrate = 0.5\nsizes = [1, 2]\ntable = {"a": 1}\nanything = None'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "notebooks"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "build"


# ---------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--timeout", "0"], "timeout=0.0; it must be a number of seconds above 0"),
        (["--timeout", "-3"], "timeout=-3.0; it must be"),
        (["--timeout", "nan"], "timeout=nan; it must be"),
        (["--jobs", "0"], "jobs=0; it must be a whole number of at least 1"),
        (["--profile", "huge"], "profile='huge'; choose from smoke, teach, full"),
        (["--profile", ""], "profile=''; choose from"),
        (["--profile", "full", "-p", "profile=teach"], "'full' and as 'teach'; give it once"),
        (["-p", "seed=1", "-p", "seed=2"], "seed is given twice; give it once"),
        (["-p", "=1"], "-p '=1': write it as name=value"),
        (["-p", "seed"], "-p 'seed': write it as name=value"),
        (["-p", "seed="], "seed='' is str; it must be int"),
        (["-p", "rate=1e999"], "rate=inf cannot be handed over; give text, a finite number"),
        (["-p", "rate=-1e999"], "rate=-inf cannot be handed over"),
        (["-p", "seed=" + "[" * 10_000], "is str; it must be int"),
        (["7"], "unknown notebook 07; choose from 00"),
        (["00-a.ipynb"], "unknown notebook 00-a.ipynb; choose from 00"),
    ],
)
def test_an_option_that_cannot_be_is_named(folder, out, capsys, options, words):
    write_notebook(folder, "00-a", "1")
    assert main(["run", *options, "--out", str(out)], folder) == 2
    assert words in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("options", [["--jobs", "two"], ["--timeout", "1h"], ["--no-such"]])
def test_an_option_of_another_kind_is_named(folder, capsys, options):
    with pytest.raises(SystemExit):
        main(["run", *options], folder)
    assert options[-1] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"jobs": 1.5}, "jobs=1.5; it must be a whole number"),
        ({"jobs": None}, "jobs=None; it must be a whole number"),
        ({"timeout": "60"}, "timeout='60'; it must be a number of seconds"),
    ],
)
def test_a_number_of_another_kind_is_refused(folder, out, options, words):
    write_notebook(folder, "00-a", "1")
    with pytest.raises(NotebookError, match=words):
        run(folder=folder, out=out, **options)


def test_results_never_replace_the_notebooks(folder, tmp_path, monkeypatch, capsys):
    source = write_notebook(folder, "00-a", "1").read_bytes()
    monkeypatch.chdir(folder)
    (tmp_path / "link").symlink_to(folder.parent, target_is_directory=True)
    for out in (str(tmp_path), "..", str(tmp_path / "link")):
        assert main(["run", "--out", out], folder) == 2
        assert "would replace the notebooks" in capsys.readouterr().err
    assert (folder / "00-a.ipynb").read_bytes() == source
    assert not (tmp_path / "site").exists()


def test_a_file_as_the_folder_for_results(folder, tmp_path, capsys):
    write_notebook(folder, "00-a", "1")
    (tmp_path / "file").write_text("kept")
    assert main(["run", "--out", str(tmp_path / "file")], folder) == 2
    assert "another folder (--out)" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_without_notebooks(folder, capsys):
    assert main(["run"], folder) == 2
    assert "no notebook (NN-name.ipynb)" in capsys.readouterr().err


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate", math.inf),
        ("rate", math.nan),
        ("sizes", [1, [math.nan]]),
        ("table", {"a": {"b": [-math.inf]}}),
        ("table", {1: 2}),
        ("anything", object()),
        ("anything", np.float64(1)),
        ("anything", (1, 2)),
        ("anything", b"bytes"),
        ("anything", {1, 2}),
        ("anything", 1j),
    ],
)
def test_what_cannot_be_handed_over_is_refused(folder, name, value):
    notebook = read(write_notebook(folder, "00-a", parameters=LITERALS))
    with pytest.raises(NotebookError, match=rf"{name}=.* cannot be handed over; give text"):
        check_parameters(notebook, {name: value})


def test_what_can_be_handed_over_arrives_as_it_is(folder, out, warm_parent):
    write_notebook(folder, "00-a", "print([rate, sizes, table, anything])", parameters=LITERALS)
    given = {
        "rate": 1e-300,
        "sizes": [[], [True, None, "q\"'\\\n开"], -5],
        "table": {"b c": [1.5]},
        "anything": {"k": "v"},
    }
    (result,) = run(folder=folder, out=out, parameters=given, warm=warm_parent)
    assert result.ok, result
    shown = outputs(out / "notebooks/00-a.ipynb")[-1][0]
    assert shown == f"{list(given.values())}\n"


def test_a_default_of_any_literal_is_recorded(folder, out, warm_parent):
    odd = "a = {1, 2}\nb = b'x'\nc = {(1, 2): 3}\nd = 1e999\ne = 1j"
    write_notebook(folder, "00-a", "1", parameters=odd)
    (result,) = run(folder=folder, out=out, warm=warm_parent)
    assert result.ok, result
    recorded = json.loads((out / "notebooks/00-a.json").read_text())["parameters"]
    assert recorded == {"a": "{1, 2}", "b": "b'x'", "c": "{(1, 2): 3}", "d": "inf", "e": "1j"}


def test_a_notebook_without_parameters_runs_and_takes_none(folder, out, warm_parent, capsys):
    path = write_notebook(folder, "00-a", "1")
    node = nbformat.read(path, as_version=4)
    del node.cells[1]
    nbformat.write(node, path)
    (result,) = run(folder=folder, out=out, warm=warm_parent)
    assert result.ok, result
    assert main(["run", "-p", "seed=1", "--out", str(out)], folder) == 2
    assert "00-a has no parameter seed; it has: none" in capsys.readouterr().err


# ---------------------------------------------------------------- damaged files

DAMAGE = {
    "nothing": ("", "not a readable notebook"),
    "an empty dict": ("{}", "not a readable notebook"),
    "a list": ("[]", "not a readable notebook"),
    "half a file": ('{"cells": [', "not a readable notebook"),
    "no text": (b"\xff\xfe\x00", "not a readable notebook"),
    "a far version": ('{"nbformat": 99, "cells": []}', "not a readable notebook"),
    "a cell without source": (
        '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [{"cell_type": "code"}]}',
        "not a readable notebook",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_notebook_is_named_with_a_fix(folder, damage):
    content, words = DAMAGE[damage]
    folder.mkdir()
    raw = content if isinstance(content, bytes) else content.encode()
    (folder / "00-a.ipynb").write_bytes(raw)
    with pytest.raises(NotebookError, match=rf"00-a\.ipynb is {words}: .*JupyterLab"):
        read(folder / "00-a.ipynb")


def test_a_folder_in_place_of_a_notebook(folder):
    (folder / "00-a.ipynb").mkdir(parents=True)
    with pytest.raises(NotebookError, match=r"00-a\.ipynb is not a readable notebook"):
        read(folder / "00-a.ipynb")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("seed = ", r"the parameters cell is no Python: .*only `name = literal`"),
        ("a, b = 1, 2", r"the parameters cell holds 'a, b = .*only `name = literal`"),
        ("%matplotlib inline", "the parameters cell is no Python"),
    ],
)
def test_a_parameters_cell_that_holds_something_else(folder, source, words):
    with pytest.raises(NotebookError, match=rf"00-a\.ipynb: {words}"):
        read(write_notebook(folder, "00-a", parameters=source))


def test_two_parameters_cells(folder):
    path = write_notebook(folder, "00-a", "1")
    node = nbformat.read(path, as_version=4)
    node.cells.append(v4.new_code_cell("seed = 1", metadata={"tags": ["parameters"]}))
    nbformat.write(node, path)
    with pytest.raises(NotebookError, match=r"00-a\.ipynb has 2 cells with the tag 'parameters'"):
        read(path)


def test_the_rest_runs_where_some_cannot(folder, out, capsys):
    """Damaged, twice one number, a syntax error; and a record from before that is damaged."""
    folder.mkdir()
    (folder / "00-a.ipynb").write_text("{}")
    write_notebook(folder, "01-b", parameters="seed = ")
    write_notebook(folder, "02-c", "1")
    write_notebook(folder, "02-d", "1")
    write_notebook(folder, "03-e", "print('ran')")
    (out / "notebooks").mkdir(parents=True)
    (out / "notebooks/09-z.json").write_text('{"notebook": "09-z"')
    assert main(["run", "--no-open", "--out", str(out), "-p", "seed=1"], folder) == 1
    printed = capsys.readouterr()
    assert "1 of 5 notebooks ran" in printed.out
    failed = [line for line in printed.err.splitlines() if line.startswith("FAILED")]
    assert [line.split()[1] for line in failed] == ["00-a:", "01-b:", "02-c:", "02-d:"]
    for line, words in zip(
        failed, ["not a readable notebook", "no Python", *["give each its own"] * 2], strict=True
    ):
        assert words in line
    assert "09-z.json is damaged" in printed.err and "run that notebook again" in printed.err
    assert "Traceback" not in printed.err
    assert (out / "site/03-e.html").exists()
    index = (out / "site/index.html").read_text()
    assert "03-e.html" in index and "not a readable notebook" in index
    assert main(["list"], folder) == 1
    assert "02-c.ipynb, 02-d.ipynb have one number" in capsys.readouterr().err


def test_a_damaged_notebook_does_not_stop_another_that_is_chosen(folder, out, warm_parent):
    write_notebook(folder, "01-b", "1")
    (folder / "00-a.ipynb").write_text("{}")
    (result,) = run([1], folder=folder, out=out, warm=warm_parent)
    assert result.ok, result
    assert [bool(notebook.fault) for notebook in collection(folder)] == [True, False]


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{}",
        "null",
        '{"notebook": "09-z"}',
        '{"notebook": "09-z", "ok": false}',
        '{"notebook": 1, "ok": true}',
        "\x00",
    ],
)
def test_a_damaged_record_is_told_after_the_run(folder, out, record):
    write_notebook(folder, "00-a", parameters="seed = ")  # which is told without a kernel
    (out / "notebooks").mkdir(parents=True)
    (out / "notebooks/09-z.json").write_text(record)
    with pytest.raises(SiteError, match=r"09-z\.json is damaged \(.*\); delete it") as raised:
        run(folder=folder, out=out)
    assert [result.notebook for result in raised.value.results] == ["00-a"]
    assert "00-a" in json.loads((out / "notebooks/00-a.json").read_text())["notebook"]
    assert (out / "site/index.html").exists()


# ---------------------------------------------------------------- kernels and folders


@pytest.mark.parametrize("kernel", ["no-such-kernel", ""])
def test_a_kernel_that_is_not_there(folder, out, warm_parent, kernel):
    path = write_notebook(folder, "00-a", "1")
    node = nbformat.read(path, as_version=4)
    node.metadata.kernelspec.name = kernel
    nbformat.write(node, path)
    (result,) = run(folder=folder, out=out, warm=warm_parent)
    assert not result.ok
    assert f"its kernel is {kernel!r}" in result.cause
    assert "allowed are those of Python here: python3" in result.cause
    assert "Change Kernel" in result.cause


def test_a_notebook_that_names_no_kernel_and_no_language(folder, out, warm_parent):
    path = write_notebook(folder, "00-a", "1")
    node = nbformat.read(path, as_version=4)
    del node.metadata["kernelspec"]
    nbformat.write(node, path)
    (result,) = run(folder=folder, out=out, warm=warm_parent)
    assert "its kernel is None" in result.cause


ODD = {
    "00-changes-its-folder": ("import os\nos.chdir('/')", ""),
    "01-closes-its-stdout": ("import os\nos.close(1)\nos.close(2)", ""),
    "02-closes-print": ("import sys\nsys.stdout.close()", "ValueError: I/O operation on closed"),
    "03-prints-what-is-no-text": (r"print('\ud800 \x00 \x1b[31m \x07')", ""),
    "04-cuts-the-line-to-us": ("import os\nos.closerange(3, 1000)", "the kernel died"),
    "05-forks": ("import os\npid = os.fork()", ""),
    "06-asks": ("input()", "StdinNotImplementedError"),
    "07-ends-its-worker": (
        "import os, time\nos.kill(os.getppid(), 15)\ntime.sleep(60)",
        "ended early",
    ),
    "08-is-good": ("1", ""),
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="these cells are for Unix")
def test_notebooks_that_do_odd_things_in_a_folder_with_an_odd_name(tmp_path, out, warm_parent):
    folder = tmp_path / "my {note} 100% #books 笔记"
    for name, (source, _) in ODD.items():
        write_notebook(folder, name, source, "print('went on')")
    results = run(folder=folder, out=out, warm=warm_parent)
    for result, (name, (_, cause)) in zip(results, ODD.items(), strict=True):
        assert result.notebook == name
        assert (result.ok, cause in result.cause) == (not cause, True), result
    index = (out / "site/index.html").read_text("utf-8")
    assert all(name in index for name, (_, cause) in ODD.items() if not cause)


def test_a_notebook_that_removes_its_folder(folder, out, warm_parent):
    remove = "import os, shutil\nshutil.rmtree(os.getcwd())"
    write_notebook(folder, "00-a", remove, "print('went on')")
    (result,) = run(folder=folder, out=out, warm=warm_parent)
    assert result.ok, result
    assert not folder.exists() and (out / "site/00-a.html").exists()


def test_names_that_look_like_html(folder, out, warm_parent):
    name = '00-"><script>x<'
    write_notebook(folder, name, "1")
    (result,) = run(folder=folder, out=out, warm=warm_parent)
    assert result.ok, result
    index = (out / "site/index.html").read_text()
    assert "<script>x" not in index and "00-%22%3E%3Cscript%3Ex%3C.html" in index


# ---------------------------------------------------------------- a stream that cannot take all


def say(code: str, folder: Path, **options) -> subprocess.CompletedProcess:
    """The command line in a process of its own."""
    program = f"""
import sys
from pathlib import Path
from mmlab.notebooks.__main__ import main
sys.exit(main({code}, Path({str(folder)!r})))
"""
    return subprocess.run([sys.executable, "-c", program], check=False, timeout=300, **options)


@pytest.mark.parametrize("encoding", ["ascii:strict", "cp1252:strict", "utf-8"])
def test_text_that_stdout_cannot_show_is_replaced(folder, out, encoding):
    path = write_notebook(folder, "00-a", "raise ValueError('开 \\x1b]0;title\\x07')")
    text = path.read_text("utf-8").replace("A title", "A title · 开始")
    path.write_text(text, "utf-8")
    said = say(
        f"['run', '--out', {str(out)!r}]",
        folder,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert said.returncode == 1
    assert b"Traceback" not in said.stderr and b"\x1b" not in said.stdout + said.stderr
    mark = "开" if encoding == "utf-8" else "?"
    assert f"FAILED 00-a, cell 3, line 1: raise ValueError('{mark}" in said.stderr.decode()
    listed = say("['list']", folder, env=os.environ | {"PYTHONIOENCODING": encoding})
    assert listed.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device here")
def test_nobody_listening_does_not_end_a_run(folder, out):
    write_notebook(folder, "00-a", "1")
    with open("/dev/full", "w") as full:
        said = say(f"['run', '--out', {str(out)!r}]", folder, stdout=full, stderr=subprocess.PIPE)
    assert (said.returncode, said.stderr) == (0, b"")
    assert (out / "site/00-a.html").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such streams")
def test_a_closed_stdout_is_no_error(folder):
    write_notebook(folder, "00-a", "1")
    reader, writer = os.pipe()
    os.close(reader)
    said = say("['list']", folder, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (said.returncode, said.stderr) == (0, b"")
    said = say("['list']", folder, stderr=subprocess.PIPE, preexec_fn=lambda: os.close(1))
    assert (said.returncode, said.stderr) == (0, b"")
