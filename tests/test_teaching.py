"""Exercises: what a reader is told, what the cells below get, and when it raises."""

import subprocess
import sys
from importlib import metadata

import pytest
import torch

from mmlab.teaching import environment, exercise, surroundings


def shares(x):
    return x / x.sum(-1, keepdim=True)


CASES = {"equal rows": torch.ones(2, 2), "uneven rows": torch.tensor([[1.0, 3.0], [2.0, 2.0]])}
MISTAKES = {
    "you sum over the wrong axis": lambda x: x / x.sum(0),
    "you sum over everything": lambda x: x / x.sum(),
}


@pytest.fixture(autouse=True)
def interactive(monkeypatch):
    monkeypatch.delenv("MMLAB_STRICT", raising=False)


@pytest.fixture
def strict(monkeypatch):
    monkeypatch.setenv("MMLAB_STRICT", "1")


def check(mine, reference=shares, cases=CASES, **options):
    return exercise(reference, cases, **options)(mine)


def test_right_is_said_and_kept(capsys):
    def mine(x):
        return (x.T / x.sum(1)).T

    assert check(mine) is mine
    assert capsys.readouterr().out == "✓ mine: right in 2 cases\n"


def nothing(x): ...


def todo(x):
    raise NotImplementedError


def stub(x):
    return ...


@pytest.mark.parametrize("mine", [nothing, todo, stub])
def test_not_written_goes_on_with_the_reference_and_never_raises(mine, strict, capsys):
    assert check(mine) is shares
    assert "not written yet" in capsys.readouterr().out


def test_wrong_names_case_results_and_mistake(capsys):
    def mine(x):
        return x / x.sum(0, keepdim=True)

    assert check(mine, mistakes=MISTAKES) is mine
    text = capsys.readouterr().out
    assert "✗ mine, case 'uneven rows': right shape, wrong values" in text  # the first one passes
    assert "got       tensor([[0.3333, 0.6000]" in text
    assert "expected  tensor([[0.2500, 0.7500]" in text
    assert "likely mistake: you sum over the wrong axis" in text
    assert "everything" not in text


def test_wrong_raises_where_nobody_reads(strict):
    with pytest.raises(AssertionError, match="case 'equal rows': right shape, wrong values"):
        check(lambda x: x)


def test_wrong_shape_is_told_from_wrong_values(capsys):
    check(lambda x: shares(x)[0])
    assert "wrong shape: (2,) instead of (2, 2)" in capsys.readouterr().out


def test_an_exception_is_told_with_its_line(capsys):
    def mine(x):
        y = x @ torch.ones(7)
        return y

    assert check(mine) is mine
    text = capsys.readouterr().out
    assert "case 'equal rows': RuntimeError" in text
    assert "in the line: y = x @ torch.ones(7)" in text


def test_none_after_a_right_case_is_wrong_not_unwritten(strict):
    with pytest.raises(AssertionError, match="case 'uneven rows': it is a NoneType"):
        check(lambda x: shares(x) if x.std() == 0 else None)


def test_a_mistake_that_cannot_be_made_is_passed_over(capsys):
    check(lambda x: x, mistakes={"impossible": lambda x: x @ torch.ones(9)})
    assert "likely" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("expected", "got", "said"),
    [
        ((1.0, 2.0), (1.0, 2.5), r"in \[1\]: right shape, wrong values"),
        ((1.0, 2.0), (1.0,), "a tuple of 2"),
        ({"a": 1.0}, {"b": 1.0}, r"keys \['a'\]"),
        ({"a": 1.0}, {"a": [2.0]}, r"in \['a'\]: wrong shape"),
        (1.0, "one", "it is a str, where a float"),
        (torch.tensor(float("nan")), torch.tensor(1.0), "wrong values"),
    ],
)
def test_results_of_every_kind_are_compared(expected, got, said, strict):
    check(lambda x: copy_of(expected), lambda x: expected, [0])
    with pytest.raises(AssertionError, match=said):
        check(lambda x: got, lambda x: expected, [0])


def copy_of(value):
    return list(value) if isinstance(value, tuple) else value


def test_the_tolerance_is_held(strict):
    check(lambda x: x + 0.05, lambda x: x, [1.0], tolerance=0.1)
    with pytest.raises(AssertionError):
        check(lambda x: x + 0.05, lambda x: x, [1.0], tolerance=0.01)


def test_nobody_sees_what_another_did_to_the_arguments(strict):
    given = torch.ones(2, 2)
    check(lambda x: x.mul_(2), lambda x: x.mul_(2), [given])
    assert torch.equal(given, torch.ones(2, 2))


def test_random_numbers_are_the_same_for_both_and_leave_the_rest_alone(strict):
    before = torch.get_rng_state()
    check(lambda n: torch.randn(n), lambda n: torch.randn(n), [3])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_tuple_is_several_arguments(strict):
    check(lambda x, y: x - y, lambda x, y: x - y, [(3, 1)])
    with pytest.raises(AssertionError, match="off by up to 4"):
        check(lambda x, y: y - x, lambda x, y: x - y, [(3, 1)])


def test_no_case_is_refused():
    with pytest.raises(ValueError, match="cases is empty"):
        exercise(shares, [])


def test_environment_shows_versions_device_and_threads(capsys):
    environment()
    text = capsys.readouterr().out
    assert f"torch                   {torch.__version__}" in text
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
