"""What the project says of itself: requirements, rooms, lazy names, and not where it was made."""

import ast
import graphlib
import importlib
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import mmlab
from mmlab import __main__ as bootstrap
from mmlab.__main__ import ANYWHERE, AT_ONCE, COMMANDS

ROOT = Path(mmlab.__file__).resolve().parent.parent
PINS = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()


def test_conda_installs_what_the_bootstrap_installs():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert " ".join(pip["pip"]).split() == bootstrap.INSTALL
    assert {re.split("[=<>]", line)[0] for line in conda} == {"python", "pip"}


def test_torch_is_pinned_without_a_local_tag():
    assert "torch==2.13.0" in PINS
    assert not any(re.search(r"==[^ ;]*\+", line) for line in PINS)


def test_packages_for_one_system_keep_their_markers():
    for line in PINS:
        if re.match(r"(nvidia|cuda|triton)", line):
            assert "sys_platform == 'linux'" in line
    assert any(line.startswith("pywinpty==") and "nt" in line for line in PINS)


def test_everything_asked_for_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = sum(project["optional-dependencies"].values(), project["dependencies"])
    pinned = {line.split("==")[0] for line in PINS}
    assert {re.match(r"[\w.-]+", line).group() for line in lines} <= pinned


def test_constraints_name_no_place():
    assert not any(re.search(r"://|--find-links|--index|^ *-|@", line) for line in PINS)


def test_importing_mmlab_loads_nothing_heavy():
    code = "import sys, mmlab; dir(mmlab); print({'torch', 'pandas'} & {*sys.modules})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "set()"


@pytest.mark.parametrize("name", mmlab.__all__)
def test_every_public_name_is_there(name):
    assert getattr(mmlab, name) is getattr(mmlab, name)
    assert name in dir(mmlab)


def test_an_unknown_name_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="module 'mmlab' has no attribute 'fitt'"):
        _ = mmlab.fitt
    assert not hasattr(mmlab, "nonsense")


def test_the_tree_names_no_machine():
    """No home folder, no package registry: the files mean the same everywhere."""
    place = re.compile(r"/(root|home|Users)/\w|/opt/\w|files\.pythonhosted|pypi\.(?:org|python)")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in listed.stdout.splitlines():
        if Path(name).suffix in (".py", ".md", ".toml", ".txt", ".yml", ".ipynb", ".cff", ""):
            path = ROOT / name
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            found += [(name, match.group()) for match in place.finditer(text)]
    found = [pair for pair in found if pair[0] != "tests/test_packaging.py"]
    assert found == []


def test_no_file_of_the_project_is_a_build_product():
    """What .gitignore leaves out is made by a run, which would change the checkout."""
    words = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    listed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert listed.stdout == ""


# --- rooms ----------------------------------------------------------------------------------------

ROOMS = (
    ("checks", "files", "gradients", "identity", "nested", "seeds"),
    ("models",),
    ("datasets",),
    ("training",),
    ("balancers",),
    ("evaluation",),
    ("experiments",),
    ("",),  # mmlab itself: its names
    (
        "plotting",
        "teaching",
        "bench",
        "course",
        "data_card",
        "diagnosis",
        "evidence",
        "notebooks",
        "originals",
        "completion",
        "__main__",
    ),
)
"""From the ground up: a room imports from its own row and from those above it in this list."""

FLOOR = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all modules of mmlab."""
    found = {}
    for path in sorted((ROOT / "mmlab").rglob("*.py")):
        *parents, last = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parents if last == "__init__" else [*parents, last])] = path
    return found


def imported(source: str, known: dict[str, Path]) -> set[str]:
    """The modules of mmlab that a file imports anywhere: in functions and for types, too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports in mmlab are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in known else node.module)
    return {name for name in found if name in known}


def graph() -> dict[str, set[str]]:
    known = modules()
    return {
        name: imported(path.read_text(encoding="utf-8"), known) - {name}
        for name, path in known.items()
    }


def room(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def test_every_module_is_in_a_room():
    assert {room(name) for name in modules()} == set(FLOOR)


def test_rooms_import_upward_only():
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if name != "mmlab" and FLOOR[room(other)] > FLOOR[room(name)]
    ]
    assert wrong == []


def test_rooms_of_one_row_do_not_lean_on_each_other_in_the_library():
    """The small modules stand alone; above, a row is one room."""
    for name, others in graph().items():
        if FLOOR[room(name)] == 0:
            assert others == set()


def test_no_import_goes_round_in_a_circle():
    """Not even one for types alone."""
    try:
        graphlib.TopologicalSorter(graph()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_anywhere_in_a_file_are_seen():
    known = dict.fromkeys(("mmlab", "mmlab.a", "mmlab.a.b", "mmlab.c", "mmlab.d", "mmlab.e"))
    source = """
import os, mmlab.c
from mmlab.a import b, nothing
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from mmlab.d import D
def later():
    from mmlab import e, fit
"""
    assert imported(source, known) == {*known}


def test_a_circle_would_be_seen():
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter({"a": {"b"}, "b": {"c"}, "c": {"a"}}).prepare()


# --- what is shipped ------------------------------------------------------------------------------


def build(kind: str, folder: Path, source: Path = ROOT) -> Path:
    """A wheel of a checkout, unpacked, as an installer leaves it: no network is needed."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(words, cwd=source, capture_output=True, check=True)
    [file] = folder.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture
def outside(site, tmp_path):
    """Runs Python with the wheel, in an empty folder outside of the checkout."""

    def run(*words):
        environment = {**os.environ, "PYTHONPATH": str(site)}
        environment.pop("MMLAB_FIGURES")
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_wheel_has_the_package_and_its_data(site):
    assert (site / "mmlab" / "py.typed").read_bytes() == b""
    assert (site / "mmlab" / "experiments" / "standing.json").is_file()
    sources = {str(path.relative_to(ROOT)) for path in modules().values()}
    assert sources == {str(path.relative_to(site)) for path in site.rglob("*.py")}
    scripts = {path.name for path in (ROOT / "data").glob("*.py")}
    assert names(site / "mmlab/data") == names(ROOT / "data") - scripts - {"sources", "__pycache__"}
    assert {"av-digits.npz", "README.md"} <= names(site / "mmlab/data")


def test_the_wheel_has_nothing_beside_the_package(site):
    assert {name for name in names(site) if not name.endswith(".dist-info")} == {"mmlab"}


LOAD_ALL = """
from pathlib import Path
import mmlab
from mmlab.datasets import DATASETS, embedded, load
from mmlab.datasets.disk import DISK_SETS
from mmlab.plotting import figures_folder

assert embedded.DATA == Path(mmlab.__file__).parent / "data"
for name in DATASETS:
    if name not in ("phone-watch", *DISK_SETS):  # which come with the library
        assert load(name).name == name
print(mmlab.__file__, figures_folder(), sep="\\n")
"""


def test_outside_of_a_checkout_the_data_come_from_the_wheel(outside, site):
    """And figures go into the current folder, never beside the package."""
    before = {*site.rglob("*")}
    said = outside("-B", "-c", LOAD_ALL)
    assert not said.returncode, said.stderr
    assert said.stdout.splitlines() == [str(site / "mmlab/__init__.py"), "figures"]
    assert {*site.rglob("*")} == before


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {*ANYWHERE}))
def test_outside_of_a_checkout_the_commands_say_that_they_need_one(outside, command):
    said = outside("-B", "-m", "mmlab", command)
    assert said.returncode == 1 and "is an installed package" in said.stderr
    assert "needs the project's checkout: run the same command in its folder" in said.stderr
    assert (
        "What works here: list, copy-notebooks, completion, bench, diagnose, data." in said.stderr
    )


def test_outside_of_a_checkout_the_help_offers_what_works_there(outside):
    said = outside("-B", "-m", "mmlab").stdout
    offered = re.findall(r"^  (\S+)", said, re.MULTILINE)
    assert offered == [*AT_ONCE, *ANYWHERE]
    assert "is an installed package" in said


@pytest.mark.parametrize("command", ANYWHERE)
def test_outside_of_a_checkout_a_command_runs_where_it_was_called(outside, command):
    said = outside("-B", "-m", "mmlab", command, "--help")
    assert said.returncode == 0 and "usage" in said.stdout, said.stderr


def test_outside_of_a_checkout_the_notebooks_come_from_the_wheel(outside, tmp_path):
    assert "Why joint training fails - " in outside("-B", "-m", "mmlab", "list").stdout
    outside("-B", "-m", "mmlab", "copy-notebooks", "mine")
    ours = {path.name: path.read_bytes() for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert ours == {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}


def test_the_source_archive_makes_the_same_wheel(site, tmp_path):
    """Who installs from it has the data, too."""
    words = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    again = build("wheel", tmp_path / "wheel", archive.with_suffix("").with_suffix(""))
    assert contents(again) == contents(site)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# --- the extra `notebooks` ------------------------------------------------------------------------

WITHOUT_NOTEBOOKS = """
import importlib, sys

class Missing:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


def without_notebooks(*names: str) -> subprocess.CompletedProcess:
    """Import these modules where nothing of that extra, nor what comes with it, is installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["optional-dependencies"]["notebooks"]
    asked = [re.match(r"[\w.-]+", line).group().replace("-", "_") for line in lines]
    missing = ",".join([*asked, "IPython", "jupyter_client", "traitlets", "bs4", "bleach"])
    words = [sys.executable, "-c", WITHOUT_NOTEBOOKS, missing, *names]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True)


def test_the_library_does_without_the_extra_for_the_notebooks():
    library = [name for name in modules() if room(name) not in ("notebooks", "course", "__main__")]
    said = without_notebooks(*(name for name in library if not name.endswith("__main__")))
    assert not said.returncode, said.stderr


def test_the_runner_without_its_extra_says_what_to_install():
    said = without_notebooks("mmlab.notebooks")
    assert said.returncode and "pip install -e '.[docs,notebooks]'" in said.stderr


def test_an_editable_install_copies_nothing(tmp_path):
    """It is a path to the checkout: a copy of the data would grow old."""
    site = build("wheel:editable", tmp_path)
    [path] = [name for name in names(site) if not name.endswith(".dist-info")]
    assert Path((site / path).read_text(encoding="utf-8").strip()) == ROOT


def test_nothing_that_is_shipped_is_ignored_by_git():
    """The wheel leaves out what git ignores, so a file that is ignored would be missing."""
    shipped = [ROOT / "mmlab/py.typed", *(ROOT / "data").glob("*.npz")]
    words = ["git", "check-ignore", *map(str, shipped)]
    assert subprocess.run(words, cwd=ROOT, capture_output=True).stdout == b""


PUBLIC = [name for name in modules() if name.count(".") == 1 and not name.endswith("__")]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_name_that_a_room_gives_is_there(name):
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(names) == len({*names})
    for public in names:
        assert hasattr(module, public), public
