"""OGM's ratios and coefficients against plain Python, with the edges where k jumps or vanishes."""

import math
from itertools import permutations

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from mmlab.balancers.ogm import discrepancy_ratios, modulation_coefficients


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def random_scores(rows=40, modalities=3):
    generator = torch.Generator().manual_seed(0)
    return 10 * torch.rand(rows, modalities, dtype=torch.float64, generator=generator)


def ratio_one(scores):
    return [
        s / (sum(scores[:m] + scores[m + 1 :]) / (len(scores) - 1)) for m, s in enumerate(scores)
    ]


@pytest.mark.parametrize("modalities", [2, 3, 5])
def test_ratios_equal_the_rule_row_by_row(modalities):
    scores = random_scores(modalities=modalities)
    expected = double(*[ratio_one(row) for row in scores.tolist()])
    torch.testing.assert_close(discrepancy_ratios(scores), expected, rtol=1e-12, atol=0)


def test_two_modalities_are_compared_with_each_other():
    torch.testing.assert_close(discrepancy_ratios(double(6.0, 2.0)), double(3.0, 1 / 3))


@pytest.mark.parametrize("modalities", range(2, 12))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_scores_give_exactly_one_and_damp_nobody(modalities, dtype):
    scores = torch.rand(500, 1, dtype=dtype).expand(-1, modalities)
    ratios = discrepancy_ratios(scores)
    assert (ratios == 1).all()
    assert (modulation_coefficients(ratios, 0.8) == 1).all()


def test_a_dominant_score_does_not_cancel_the_others():
    scores = torch.tensor([1e8, 1.0, 3.0])
    torch.testing.assert_close(discrepancy_ratios(scores), torch.tensor([5e7, 1 / 5e7, 3 / 5e7]))


def test_scores_of_zero_give_no_nan():
    assert torch.equal(discrepancy_ratios(double(0, 0)), double(1, 1))
    assert torch.equal(discrepancy_ratios(double(0, 0, 0)), double(1, 1, 1))
    assert torch.equal(discrepancy_ratios(double(5, 0, 0)), double(math.inf, 0, 0))
    torch.testing.assert_close(discrepancy_ratios(double(0, 2, 4)), double(0, 1, 4))


def test_ratios_follow_a_permutation_and_not_the_scale():
    scores = random_scores()
    ratios = discrepancy_ratios(scores)
    for order in permutations(range(3)):
        torch.testing.assert_close(discrepancy_ratios(scores[:, order]), ratios[:, order])
    for scale in (1e-200, 1e200):
        torch.testing.assert_close(discrepancy_ratios(scale * scores), ratios)


def test_published_coefficients():
    k = modulation_coefficients(double(0.5, 1.0, 1.05, 2.0, 5.0), 0.8)
    torch.testing.assert_close(k, double(1.0, 1.0, 0.314, 0.078, 0.00067), atol=1e-3, rtol=0)


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.8, 2.0])
def test_coefficients_equal_the_rule_one_by_one(alpha, continuous):
    ratios = random_scores()
    expected = [
        1 - math.tanh(alpha * (rho - continuous)) if rho > 1 else 1.0
        for rho in ratios.flatten().tolist()
    ]
    k = modulation_coefficients(ratios, alpha, continuous=continuous)
    torch.testing.assert_close(k.flatten(), double(*expected), rtol=1e-9, atol=1e-15)


def test_only_the_continuous_rule_starts_at_one():
    just_above = double(1 + 1e-9)
    torch.testing.assert_close(
        modulation_coefficients(just_above, 0.8, continuous=True), double(1.0)
    )
    torch.testing.assert_close(modulation_coefficients(just_above, 0.8), double(1 - math.tanh(0.8)))


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coefficients_stay_above_zero_and_fall(dtype, continuous):
    ratios = torch.tensor([1.5, 10, 20, 40, 1e3, 1e30, torch.inf], dtype=dtype)
    k = modulation_coefficients(ratios, 0.8, continuous=continuous)
    assert (k > 0).all()
    assert (k < 1).all()
    assert (k.diff() <= 0).all()
    # where 1 − tanh is long 0 in floating point, the exact value is 2 e^(−2x)
    x = 0.8 * (20 - continuous)
    assert k[2].item() == pytest.approx(2 * math.exp(-2 * x), rel=1e-4, abs=0)


def test_alpha_zero_damps_nobody_however_far_ahead():
    ratios = double(0.1, 3.0, math.inf)
    for continuous in (False, True):
        k = modulation_coefficients(ratios, 0.0, continuous=continuous)
        assert torch.equal(k, double(1, 1, 1))


def test_many_alphas_are_one_call():
    ratios, alphas = random_scores()[0], double(0.1, 0.8, 2.0)
    k = modulation_coefficients(ratios, alphas[:, None])
    for i, alpha in enumerate(alphas.tolist()):
        torch.testing.assert_close(k[i], modulation_coefficients(ratios, alpha))


def test_a_nan_is_not_hidden():
    ratios = discrepancy_ratios(double(torch.nan, 1.0))
    assert modulation_coefficients(ratios, 0.8).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    scores = torch.rand(2, 3, dtype=dtype)
    assert discrepancy_ratios(scores).dtype == dtype
    assert modulation_coefficients(scores, 0.8).dtype == dtype


def test_no_value_is_read_by_the_host():
    with FakeTensorMode():
        scores, alpha = torch.rand(2, 3), torch.rand(())
        ratios = discrepancy_ratios(scores)
        assert modulation_coefficients(ratios, alpha).shape == (2, 3)
        with pytest.raises(DataDependentOutputException):  # so reading a value would be seen
            bool(scores.sum() > 0)


def test_what_is_not_allowed_is_named():
    with pytest.raises(ValueError, match=r"\(4, 1\); allowed is \(…, M\) with M ≥ 2"):
        discrepancy_ratios(torch.rand(4, 1))
    with pytest.raises(ValueError, match=r"scores has shape \(\); allowed is \(…, M\) with M ≥ 2"):
        discrepancy_ratios(torch.tensor(1.0))
    with pytest.raises(ValueError, match="alpha is -1; allowed"):
        modulation_coefficients(torch.rand(4, 2), -1)
    for alpha in (torch.tensor(-1.0), torch.tensor([[0.5], [-0.1]]), torch.tensor(torch.nan)):
        with pytest.raises(ValueError, match=r"alpha is tensor[\s\S]*; allowed is a number ≥ 0"):
            modulation_coefficients(torch.rand(2, 2), alpha)
