"""What a reader is told of the environment: what is there, missing, or too old."""

import subprocess
import sys
from importlib import metadata

from mmlab.teaching import environment, surroundings


def test_environment_shows_versions_device_and_threads(capsys):
    environment()
    text = capsys.readouterr().out
    assert f"torch                   {metadata.version('torch')}" in text
    assert "device" in text and "threads" in text
    assert text.endswith("All is there.\n")


def test_environment_hints_at_what_is_missing_or_old(monkeypatch, capsys):
    real = metadata.version

    def version(name):
        if name == "seaborn":
            raise metadata.PackageNotFoundError(name)
        return "1.2.3" if name == "pandas" else real(name)

    monkeypatch.setattr(surroundings.metadata, "version", version)
    environment()
    text = capsys.readouterr().out
    assert "seaborn is missing: set it up with" in text
    assert "pandas is 1.2.3, too old: at least 2.2" in text
    assert "All is there" not in text


def test_environment_asks_for_nothing_that_only_developers_need(monkeypatch, capsys):
    lines = ["torch>=2.1", 'pytest>=999; extra == "dev"']
    monkeypatch.setattr(surroundings.metadata, "requires", lambda name: lines)
    environment()
    text = capsys.readouterr().out
    assert "torch" in text and "pytest" not in text and text.endswith("All is there.\n")


def test_environment_says_where_mmlab_itself_is_not_installed(monkeypatch, capsys):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    for ask in ("requires", "version"):
        monkeypatch.setattr(surroundings.metadata, ask, missing)
    environment()
    text = capsys.readouterr().out
    assert "mmlab is missing: set it up with" in text and "All is there" not in text


def test_environment_works_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from importlib import metadata; real = metadata.version\n"
        "def version(name):\n"
        "    if name == 'torch': raise metadata.PackageNotFoundError(name)\n"
        "    return real(name)\n"
        "metadata.version = version\n"
        "from mmlab.teaching import environment; environment()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch is missing" in done.stdout
