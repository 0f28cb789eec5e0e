"""Code and notebooks are lint-free and formatted, and the types of the library hold together."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def complaints(tool: str, *arguments: str) -> str:
    """What a tool says of this checkout; nothing where it finds no fault."""
    words = [sys.executable, "-m", tool, *arguments]
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr if result.returncode else ""


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_has_nothing_to_say(command: list[str]) -> None:
    said = complaints("ruff", *command, "--quiet")
    assert not said, said


def test_mypy_has_nothing_to_say() -> None:
    said = complaints("mypy")
    assert not said, said
