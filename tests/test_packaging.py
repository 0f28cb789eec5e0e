"""What the project says of itself: requirements, lazy names, and nothing of where it was made."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import mmlab
from mmlab import __main__ as bootstrap

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
    lines = project["dependencies"] + project["optional-dependencies"]["dev"]
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
