"""Exercises: what a reader is told, what the cells below get, and when it raises."""

import functools

import numpy as np
import pytest
import torch

from mmlab.teaching import exercise


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


def test_one_case_is_said_to_be_one(capsys):
    check(shares, cases=[torch.ones(2, 2)])
    assert capsys.readouterr().out == "✓ shares: right in 1 case\n"


def nothing(x): ...


def described(x):
    """x, each row divided by its sum."""


def passed(x):
    pass


def todo(x):
    raise NotImplementedError


def begun(x):
    total = x.sum(-1, keepdim=True)
    raise NotImplementedError(f"divide by {total}")


def stub(x):
    return ...


without_source = eval("lambda x: None")


@pytest.mark.parametrize("mine", [nothing, described, passed, todo, begun, stub, without_source])
def test_not_written_goes_on_with_the_reference_and_never_raises(mine, strict, capsys):
    assert check(mine) is shares
    assert "not written yet" in capsys.readouterr().out


def test_a_decorated_stub_is_not_written_either(strict, capsys):
    assert check(torch.no_grad()(nothing)) is shares
    assert "not written yet" in capsys.readouterr().out


def no_return(x):
    x / x.sum(-1, keepdim=True)


def half_a_return(x):
    if x.std() > 1e9:
        return x


@pytest.mark.parametrize("mine", [no_return, half_a_return])
def test_a_body_that_returns_nothing_is_wrong_and_asked_for_its_return(mine, strict):
    with pytest.raises(AssertionError, match="case 'equal rows': it is None") as raised:
        check(mine)
    assert "\n    forgot `return`?\n    got       None\n" in str(raised.value)


def test_what_has_no_bytecode_is_no_stub(strict):
    mine = functools.wraps(print)(functools.partial(print, end=""))
    with pytest.raises(AssertionError, match=r"✗ print, .*it is None, where"):
        check(mine)


def test_what_hands_on_its_argument_is_no_stub(strict):
    with pytest.raises(AssertionError, match="it is None, where a float"):
        check(lambda x: x, lambda x: 1.0, [None])


def test_a_constant_may_be_the_answer(strict, capsys):
    check(lambda x: 2.0, lambda x: x.ndim, [torch.ones(2, 2)])
    assert "✓" in capsys.readouterr().out


def unwritten_helper(x):
    raise NotImplementedError("not for this kind of tensor")


def test_not_implemented_further_down_is_an_error_of_ones_own(strict):
    def mine(x):
        return unwritten_helper(x)

    with pytest.raises(AssertionError, match="NotImplementedError: not for this kind") as raised:
        check(mine)
    assert "in the line: return unwritten_helper(x)" in str(raised.value)


def test_the_reference_may_not_be_unwritten():
    with pytest.raises(NotImplementedError):
        check(shares, reference=todo)


def test_wrong_names_case_results_and_mistake(capsys):
    def mine(x):
        return x / x.sum(0, keepdim=True)

    assert check(mine, mistakes=MISTAKES) is mine
    text = capsys.readouterr().out
    assert "✗ mine, case 'uneven rows': right shape, wrong values" in text  # the first one passes
    assert "got       tensor([[0.3333, 0.6000]" in text
    assert "expected  tensor([[0.2500, 0.7500]" in text
    assert "(off by up to 0.167)\n    worst entry [1, 0]: got 0.666667, expected 0.5\n" in text
    assert "likely mistake: you sum over the wrong axis" in text
    assert "everything" not in text
    assert text.endswith("passed before: 1 of 2\n")


def test_wrong_raises_where_nobody_reads(strict):
    with pytest.raises(AssertionError, match="case 'equal rows': right shape, wrong values"):
        check(lambda x: x)


def test_of_a_large_result_the_worst_entry_is_shown_alone(capsys):
    def mine(x):
        x[3, 1, 7] += 0.5
        return x

    check(mine, lambda x: x, {"large": torch.zeros(4, 5, 9)})
    assert capsys.readouterr().out.splitlines() == [
        "✗ mine, case 'large': right shape, wrong values (off by up to 0.5)",
        "    worst entry [3, 1, 7]: got 0.5, expected 0",
        "    passed before: 0 of 1",
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.0, float("nan"), float("inf")], "but NaN in 1 of 3 entries (0/0"),
        ([0.0, 2.0, float("-inf")], "but infinity in 1 of 3 entries (a division by 0"),
    ],
)
def test_what_is_no_number_is_said_in_words(values, said, capsys):
    check(lambda x: torch.tensor(values), lambda x: x, [torch.zeros(3)])
    text = capsys.readouterr().out
    assert f"right shape, {said}" in text
    worst = values.index(next(v for v in values if v not in (0.0, 2.0)))
    assert f"worst entry [{worst}]: got {values[worst]}, expected 0\n" in text
    assert "off by" not in text


def test_a_single_nan_counts_no_entries(capsys):
    check(lambda x: x / x, lambda x: x, [torch.tensor(0.0)])
    assert "right shape, but NaN (0/0" in capsys.readouterr().out


def test_nan_and_infinity_are_right_where_they_are_expected(strict):
    expected = torch.tensor([float("nan"), float("inf"), 1.0])
    check(lambda x: expected.clone(), lambda x: expected, [0])
    with pytest.raises(AssertionError, match="finite where they should not be"):
        check(lambda x: torch.tensor([float("nan"), 1.0, 1.0]), lambda x: expected, [0])
    with pytest.raises(AssertionError, match=r"right shape, wrong values \(off by up to 1\)"):
        check(lambda x: torch.tensor([float("nan"), float("inf"), 2.0]), lambda x: expected, [0])


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


def test_of_its_own_lines_the_innermost_is_shown(capsys):
    def mine(x):
        if x.ndim:
            return mine(x[0])
        return x @ x

    check(mine)
    text = capsys.readouterr().out
    assert "in the line: return x @ x" in text and "return mine(" not in text


def test_none_after_a_right_case_is_wrong_not_unwritten(strict):
    with pytest.raises(AssertionError, match="case 'uneven rows': it is None"):
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
        ({"a": 1.0}, {"a": 1.0, "b": 2.0}, r"keys \['a'\]"),
        ({"a": 1.0}, {"a": [2.0]}, r"in \['a'\]: wrong shape"),
        (1.0, "one", "it is a str, where a float"),
        ({"a": "one"}, {"a": "two"}, r"in \['a'\]: it is not 'one'"),
        ("one", np.array(["one", "two"]), "it is not 'one'"),
        ({"a": torch.zeros(2)}, {"a": torch.ones(2)}, r"worst entry \[0\]: got 1, expected 0"),
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


def test_unless_said_otherwise_five_digits_count(strict):
    """Enough for float32, and a wrong constant is no rounding."""
    check(lambda x: x * (1 + 5e-6), lambda x: x, [1.0, 1000.0])
    with pytest.raises(AssertionError, match=r"off by up to 0\.0001"):
        check(lambda x: x + 1e-4, lambda x: x, [1.0])


def test_numbers_of_double_precision_are_compared_in_it(strict):
    one = torch.ones(1, dtype=torch.float64)
    with pytest.raises(AssertionError, match=r"off by up to 1e-09"):
        check(lambda x: x + 1e-9, lambda x: x, [one], tolerance=1e-12)


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
    with pytest.raises(AssertionError, match=r"case 1: .* by up to 4"):
        check(lambda x, y: y - x, lambda x, y: x - y, [(3, 1)])


def test_no_case_is_refused():
    with pytest.raises(ValueError, match="cases is empty"):
        exercise(shares, [])
