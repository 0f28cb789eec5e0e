"""Every embedded file: checked before it is read, described in data/README.md, from one source."""

import hashlib
from types import ModuleType

import pytest

from mmlab.datasets import av_digits, icons, items, stamps, tri_digits, watch

SETS = (av_digits, tri_digits, watch, stamps, icons, items)
every_set = pytest.mark.parametrize("module", SETS, ids=[m.FILE.stem for m in SETS])


def script_of(module: ModuleType) -> str:
    return f"build_{module.FILE.stem.replace('-', '_')}"


@every_set
def test_a_missing_file_says_where_and_how(module, tmp_path):
    name = module.FILE.name
    with pytest.raises(FileNotFoundError, match=rf"{name} is missing.*{script_of(module)}\.py"):
        module.read(tmp_path / name)


@every_set
def test_a_damaged_file_is_refused(module, tmp_path):
    content = bytearray(module.FILE.read_bytes())
    content[len(content) // 2] ^= 1
    file = tmp_path / module.FILE.name
    file.write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(ValueError, match=rf"damaged: SHA-256 {found} .*{script_of(module)}\.py"):
        module.read(file)


@every_set
def test_readme_gives_size_and_checksum(module):
    file = module.FILE
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert digest == module.SHA256
    size = f"{file.stat().st_size:,}"
    text = (file.parent / "README.md").read_text(encoding="utf-8")
    assert f"| `{file.name}` | {size} | `{digest}` |" in text


@every_set
def test_the_build_script_refuses_another_package(module, script, tmp_path):
    try:
        builder = script(script_of(module))
    except ModuleNotFoundError as error:
        pytest.skip(f"the script needs {error.name}: pip install -e .[data]")
    package = tmp_path / "package"
    package.write_bytes(b"something else")
    tool = builder.PACKAGE.command[0]
    with pytest.raises(SystemExit, match=rf"SHA-256 .*leave --package out.*{tool}"):
        builder.build(package)
