"""Gradient-Blending's pure functions against numpy, scipy's search and the published theory."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch._subclasses.fake_tensor import FakeTensorMode

from mmlab.balancers.gblend import blend_weights, optimal_weights, overfit_and_gain

GAIN = np.array([1.0, 0.6, 0.3])
SPREAD = np.array([2.0, 0.8, 0.25])


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def objective(w, gain, moment):
    """The expected squared overfit of a blend for its squared gain."""
    return w @ moment @ w / (gain @ w) ** 2


def search(gain, moment):
    """The least objective that a search over blends of unit gain finds."""
    line = {"type": "eq", "fun": lambda w: gain @ w - 1}
    found = minimize(
        lambda w: w @ moment @ w, 1 / gain / len(gain), constraints=line, options={"ftol": 1e-15}
    )
    return found.x / found.x.sum()


def correlated(rho):
    correlation = np.full((3, 3), rho) + (1 - rho) * np.eye(3)
    return correlation * np.outer(SPREAD, SPREAD)


def blend_one(overfit, gain, floor, previous):
    """The robust rule for one row, in plain Python."""
    largest = max(abs(o) for o in overfit)
    gains = [max(g, 0.0) for g in gain]
    if sum(gains) == 0:
        return [1 / len(gain)] * len(gain) if previous is None else list(previous)
    if largest == 0:
        raw = gains
    else:
        raw = [g / max(abs(o), floor * largest) ** 2 for g, o in zip(gains, overfit, strict=True)]
    return [r / sum(raw) for r in raw]


def random_losses(rows=50, heads=4):
    generator = torch.Generator().manual_seed(0)
    overfit = torch.randn(rows, heads, dtype=torch.float64, generator=generator)
    gain = torch.randn(rows, heads, dtype=torch.float64, generator=generator)
    gain[:5] = -gain[:5].abs()
    overfit[3:8] = 0
    overfit[10:20, 0] = 0
    return overfit, gain


def test_overfit_and_gain_on_a_worked_example():
    # head 0 learns and overfits a little, head 1 gets worse on held-out data
    overfit, gain = overfit_and_gain(
        double(1.0, 1.0), double(1.1, 1.2), double(0.6, 0.5), double(0.9, 1.5)
    )
    torch.testing.assert_close(overfit, double(0.2, 0.8))
    torch.testing.assert_close(gain, double(0.2, -0.3))


def test_overfit_and_gain_are_first_order_inner_products():
    """ΔG ≈ ⟨∇L*, v⟩ and ΔO ≈ ⟨∇L^T − ∇L*, v⟩ for a small step along −v."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, 5, dtype=torch.float64, generator=generator)
    start, v = torch.randn(2, 5, dtype=torch.float64, generator=generator)

    def losses(x):
        return ((x - target) ** 4).sum(-1)

    train_gradient, holdout_gradient = torch.autograd.functional.jacobian(losses, start)
    step = 1e-6
    before, after = losses(start), losses(start - step * v)
    overfit, gain = overfit_and_gain(before[0], before[1], after[0], after[1])
    torch.testing.assert_close(gain / step, holdout_gradient @ v, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        overfit / step, (train_gradient - holdout_gradient) @ v, rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("floor", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("previous", [None, [0.1, 0.2, 0.3, 0.4]])
def test_blend_weights_equal_the_rule_row_by_row(floor, previous):
    overfit, gain = random_losses()
    w = blend_weights(
        overfit, gain, floor=floor, previous=None if previous is None else double(*previous)
    )
    expected = [
        blend_one(o, g, floor, previous)
        for o, g in zip(overfit.tolist(), gain.tolist(), strict=True)
    ]
    torch.testing.assert_close(w, double(*expected), rtol=1e-12, atol=0)
    torch.testing.assert_close(w.sum(-1), torch.ones(50, dtype=torch.float64))
    assert (w >= 0).all()


def test_a_head_whose_held_out_loss_rises_gets_nothing():
    w = blend_weights(double(0.5, 0.5, 0.5), double(0.2, -0.9, 0.1))
    torch.testing.assert_close(w, double(2 / 3, 0, 1 / 3))


def test_the_overfit_counts_squared_and_without_its_sign():
    w = blend_weights(double(0.1, -0.3), double(1.0, 1.0))
    torch.testing.assert_close(w, double(0.9, 0.1))


def test_the_default_floor_bounds_the_weight_of_a_head_that_did_not_overfit():
    w = blend_weights(double(0.0, 1.0), double(1.0, 1.0))
    torch.testing.assert_close(w, double(100 / 101, 1 / 101))


def test_without_floor_the_heads_that_did_not_overfit_share_all():
    w = blend_weights(double(0.0, 1.0, 0.0), double(1.0, 5.0, 3.0), floor=0)
    torch.testing.assert_close(w, double(0.25, 0.0, 0.75))
    # a zero overfit of a head that does not gain takes nothing from the others
    w = blend_weights(double(0.0, 1.0, 2.0), double(-1.0, 4.0, 4.0), floor=0)
    torch.testing.assert_close(w, double(0.0, 0.8, 0.2))


def test_where_nothing_gains_the_previous_weights_stay():
    overfit, gain = double(1.0, 2.0, 3.0), double(-1.0, 0.0, -2.0)
    torch.testing.assert_close(blend_weights(overfit, gain), double(1, 1, 1) / 3)
    previous = double(0.2, 0.3, 0.5)
    assert torch.equal(blend_weights(overfit, gain, previous=previous), previous)
    rows = blend_weights(overfit, torch.stack([gain, -gain]), previous=previous)
    assert torch.equal(rows[0], previous)
    assert not torch.equal(rows[1], previous)


def test_where_nothing_overfits_the_weights_follow_the_gains():
    w = blend_weights(double(0, 0, 0), double(1.0, 3.0, -1.0))
    torch.testing.assert_close(w, double(0.25, 0.75, 0.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("overfit_scale", [1e-30, 1e30])
@pytest.mark.parametrize("gain_scale", [1e-30, 1e30])
def test_blend_weights_do_not_depend_on_scales(dtype, overfit_scale, gain_scale):
    overfit, gain = (x.to(dtype) for x in random_losses())
    w = blend_weights(overfit * overfit_scale, gain * gain_scale)
    torch.testing.assert_close(w, blend_weights(overfit, gain))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gains_and_overfits_at_the_edge_of_the_range(dtype):
    edge = torch.finfo(dtype).max * torch.tensor([1.0, 1.0, 0.5], dtype=dtype)
    expected = torch.tensor([0.4, 0.4, 0.2], dtype=dtype)
    torch.testing.assert_close(blend_weights(torch.ones_like(edge), edge), expected)
    expected = torch.tensor([1.0, 1.0, 4.0], dtype=dtype) / 6
    torch.testing.assert_close(blend_weights(edge, torch.ones_like(edge)), expected)


def test_blend_weights_follow_a_permutation_of_the_heads():
    overfit, gain = random_losses()
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        blend_weights(overfit[:, order], gain[:, order]), blend_weights(overfit, gain)[:, order]
    )


def test_a_nan_estimate_is_not_hidden():
    assert blend_weights(double(1.0, 1.0), double(torch.nan, 1.0)).isnan().all()
    assert blend_weights(double(torch.nan, 1.0), double(1.0, 1.0)).isnan().all()


def test_the_closed_form_reaches_the_published_optimum():
    moment = np.diag(SPREAD**2)
    w = optimal_weights(torch.tensor(GAIN), torch.tensor(moment)).numpy()
    assert objective(w, GAIN, moment) == pytest.approx(0.444, abs=5e-4)
    assert min(objective(e, GAIN, moment) for e in np.eye(3)) == pytest.approx(0.694, abs=5e-4)
    assert objective(np.ones(3), GAIN, moment) == pytest.approx(1.302, abs=1e-3)
    # for uncorrelated heads it is the diagonal rule, estimated exactly and without the floor
    blend = blend_weights(torch.tensor(SPREAD), torch.tensor(GAIN), floor=0)
    np.testing.assert_allclose(blend.numpy(), w, rtol=1e-12)


def test_correlated_heads_need_the_whole_matrix():
    moment = correlated(0.6)
    w = optimal_weights(torch.tensor(GAIN), torch.tensor(moment)).numpy()
    diagonal = optimal_weights(torch.tensor(GAIN), torch.tensor(np.diag(SPREAD**2))).numpy()
    assert objective(w, GAIN, moment) == pytest.approx(0.650, abs=5e-4)
    assert objective(diagonal, GAIN, moment) == pytest.approx(0.887, abs=5e-4)


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_a_search_finds_no_better_blend(rho):
    moment = correlated(rho)
    w = optimal_weights(torch.tensor(GAIN), torch.tensor(moment)).numpy()
    np.testing.assert_allclose(w, search(GAIN, moment), atol=1e-4)


def random_moments(rows=20, heads=4):
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(rows, heads, 2 * heads, dtype=torch.float64, generator=generator)
    gain = torch.rand(rows, heads, dtype=torch.float64, generator=generator)
    return gain, root @ root.mT


def test_optimal_weights_equal_the_inverse_row_by_row():
    gain, moment = random_moments()
    expected = np.stack(
        [np.linalg.inv(m) @ g for g, m in zip(gain.numpy(), moment.numpy(), strict=True)]
    )
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(optimal_weights(gain, moment).numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(optimal_weights(gain, moment[0]).numpy()[0], expected[0], rtol=1e-9)


def test_the_gradient_of_the_objective_vanishes_at_the_optimum():
    gain, moment = random_moments()
    w = optimal_weights(gain, moment).requires_grad_()
    value = torch.einsum("ri,rij,rj->r", w, moment, w) / (gain * w).sum(-1) ** 2
    (gradient,) = torch.autograd.grad(value.sum(), w)
    assert gradient.abs().max() < 1e-9
    uniform = torch.full_like(w, 0.25).requires_grad_()
    value = torch.einsum("ri,rij,rj->r", uniform, moment, uniform) / (gain * uniform).sum(-1) ** 2
    (gradient,) = torch.autograd.grad(value.sum(), uniform)
    assert gradient.abs().max() > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_optimal_weights_keep_widely_different_heads_apart(dtype):
    spread = torch.tensor([1e-10, 1.0, 1e10], dtype=dtype)
    gain = spread**2 * torch.tensor([1.0, 2.0, 5.0], dtype=dtype)
    w = optimal_weights(gain, torch.diag(spread**2))
    torch.testing.assert_close(w, torch.tensor([0.125, 0.25, 0.625], dtype=dtype))


def test_a_singular_second_moment_takes_the_limit():
    w = optimal_weights(double(1.0, 3.0), torch.zeros(2, 2, dtype=torch.float64))
    torch.testing.assert_close(w, double(0.25, 0.75))
    w = optimal_weights(double(1.0, 1.0), torch.diag(double(0.0, 1.0)))
    torch.testing.assert_close(w, double(1.0, 0.0))
    # two heads that overfit identically share one head's weight
    moment = torch.block_diag(torch.ones(2, 2, dtype=torch.float64), double(1.0))
    torch.testing.assert_close(optimal_weights(double(1, 1, 1), moment), double(0.25, 0.25, 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    x = torch.rand(2, 3, dtype=dtype)
    assert {y.dtype for y in overfit_and_gain(x, x, x, x)} == {dtype}
    assert blend_weights(x, x).dtype == dtype
    assert blend_weights(x, -x, previous=x).dtype == dtype
    assert optimal_weights(x, torch.eye(3, dtype=dtype)).dtype == dtype


def test_no_value_is_read_by_the_host():
    with FakeTensorMode():
        x = torch.rand(2, 3)
        overfit_and_gain(x, x, x, x)
        assert blend_weights(x, x, previous=x).shape == (2, 3)
        assert optimal_weights(x, torch.rand(2, 3, 3)).shape == (2, 3)


def test_shapes_that_do_not_fit_are_named():
    x = torch.rand(5, 3)
    with pytest.raises(ValueError, match=r"overfit \(5, 3\), gain \(5, 2\).*Allowed.*\(…, K\)"):
        blend_weights(x, x[:, :2])
    with pytest.raises(ValueError, match=r"previous \(4,\)"):
        blend_weights(x, x, previous=torch.rand(4))
    with pytest.raises(ValueError, match=r"gain \(\)"):
        blend_weights(x, torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"\(5, 0\)"):
        blend_weights(x[:, :0], x[:, :0])
    with pytest.raises(ValueError, match=r"second_moment \(3, 2\)"):
        optimal_weights(x, torch.rand(3, 2))
    with pytest.raises(ValueError, match=r"second_moment \(4, 3, 3\)"):
        optimal_weights(x, torch.rand(4, 3, 3))
    with pytest.raises(ValueError, match=r"train_after \(2, 3\)"):
        overfit_and_gain(x, x, x[:2], x)


@pytest.mark.parametrize("floor", [-0.1, 1.5, float("nan")])
def test_a_floor_outside_its_range_is_named(floor):
    with pytest.raises(ValueError, match=r"floor is .*allowed"):
        blend_weights(torch.ones(2), torch.ones(2), floor=floor)
