"""MMPareto's pure functions against numpy, scipy's search and TorchJD's MGDA."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch._subclasses.fake_tensor import FakeTensorMode
from torchjd.aggregation import MGDA

from mmlab.balancers.mmpareto import min_norm_weights, pareto_gradient

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def random_pairs(rows=200, length=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    g, u = torch.randn(2, rows, length, dtype=torch.float64, generator=generator)
    sizes = torch.randn(2, rows, 1, dtype=torch.float64, generator=generator).exp()
    return sizes[0] * g, sizes[1] * u


def conflicting_pairs(**options):
    g, u = random_pairs(**options)
    return g, u * -(g * u).sum(-1, keepdim=True).sign()


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=-1, eps=0)


def pareto_one(g, u, gamma, gamma_on_aligned):
    """The rule for one pair, min-norm point by search."""
    if g @ u >= 0:
        return (g + u) * (gamma if gamma_on_aligned else 1)
    size = np.linalg.norm(g) + np.linalg.norm(u)
    w = minimize_scalar(
        lambda w: np.sum((w * g / size + (1 - w) * u / size) ** 2),
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-12},
    ).x
    d = 2 * w * g + 2 * (1 - w) * u
    return gamma * np.linalg.norm(g + u) / np.linalg.norm(d) * d


def test_a_worked_example():
    # the foot of the perpendicular from 0 on the line through (2, 0) and (−1, 1)
    g, u = double(2.0, 0.0), double(-1.0, 1.0)
    torch.testing.assert_close(min_norm_weights(g, u), torch.tensor(0.4, dtype=torch.float64))
    # direction (.2, .6), magnitude 1.5 ‖(1, 1)‖
    expected = 1.5 * 2**0.5 * double(1.0, 3.0) / 10**0.5
    torch.testing.assert_close(pareto_gradient(g, u), expected)


def test_weights_equal_a_search_pair_by_pair():
    g, u = random_pairs()
    found = [
        minimize_scalar(
            lambda w, a=a, b=b: np.sum((w * a + (1 - w) * b) ** 2),
            bounds=(0, 1),
            method="bounded",
            options={"xatol": 1e-12},
        ).x
        for a, b in zip(g.numpy(), u.numpy(), strict=True)
    ]
    w = min_norm_weights(g, u).numpy()
    np.testing.assert_allclose(w, found, atol=1e-5)
    assert (w == 0).any() and (w == 1).any() and ((w > 0) & (w < 1)).any()


def test_the_min_norm_point_is_torchjds():
    mgda = MGDA(epsilon=1e-12, max_iters=10_000)
    for g, u in zip(*random_pairs(rows=50), strict=True):
        w = min_norm_weights(g, u)
        torch.testing.assert_close(w * g + (1 - w) * u, mgda(torch.stack([g, u])))


def test_the_direction_in_a_conflict_is_torchjds():
    mgda = MGDA(epsilon=1e-12, max_iters=10_000)
    for g, u in zip(*conflicting_pairs(rows=50), strict=True):
        assert cosine(pareto_gradient(g, u), mgda(torch.stack([g, u]))).item() == pytest.approx(1)


def test_the_derivative_of_the_norm_vanishes_at_an_inner_weight():
    g, u = conflicting_pairs()
    w = min_norm_weights(g, u).requires_grad_()
    squared = ((w[:, None] * g + (1 - w[:, None]) * u) ** 2).sum(-1)
    (slope,) = torch.autograd.grad(squared.sum(), w)
    assert (slope.abs() <= 1e-12 * ((g - u) ** 2).sum(-1)).all()


@pytest.mark.parametrize("gamma", [1.0, 1.5])
@pytest.mark.parametrize("gamma_on_aligned", [False, True])
def test_the_gradient_equals_the_rule_pair_by_pair(gamma, gamma_on_aligned):
    g, u = random_pairs()
    d = pareto_gradient(g, u, gamma=gamma, gamma_on_aligned=gamma_on_aligned)
    for row, a, b in zip(d.numpy(), g.numpy(), u.numpy(), strict=True):
        reference = pareto_one(a, b, gamma, gamma_on_aligned)
        np.testing.assert_allclose(row, reference, atol=1e-6 * np.linalg.norm(reference))


def test_the_defaults_are_the_papers():
    g, u = random_pairs()
    torch.testing.assert_close(
        pareto_gradient(g, u), pareto_gradient(g, u, gamma=1.5, gamma_on_aligned=True)
    )


@pytest.mark.parametrize("length", [2, 10])
def test_no_direction_opposes_either_gradient(length):
    g, u = conflicting_pairs(rows=100_000, length=length)
    assert ((g * u).sum(-1) < 0).all()
    d = pareto_gradient(g, u)
    assert ((d * g).sum(-1) > 0).all()
    assert ((d * u).sum(-1) > 0).all()
    torch.testing.assert_close(d.norm(dim=-1), 1.5 * (g + u).norm(dim=-1))
    assert (((g + u) * g).sum(-1) < 0).any()  # as the uniform sum does


@BOTH
@pytest.mark.parametrize("ratio", [1e-30, 1e-20, 1e-10, 1e10, 1e20, 1e30])
def test_no_direction_opposes_a_gradient_far_smaller_than_the_other(dtype, ratio):
    g, u = (x.to(dtype) for x in conflicting_pairs())
    d = pareto_gradient(ratio * g, u)
    tolerance = 100 * torch.finfo(dtype).eps
    assert (cosine(d.double(), g.double()) > -tolerance).all()
    assert (cosine(d.double(), u.double()) > -tolerance).all()


@BOTH
@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_the_scale_is_free(dtype, scale):
    g, u = (x.to(dtype) for x in random_pairs())
    torch.testing.assert_close(min_norm_weights(scale * g, scale * u), min_norm_weights(g, u))
    d = pareto_gradient(scale * g, scale * u)
    torch.testing.assert_close(d / scale, pareto_gradient(g, u), rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize("length", [1, 2, 10, 1000, 30_000])
def test_exactly_opposite_gradients_have_nothing_in_common(dtype, length):
    generator = torch.Generator().manual_seed(0)
    rows = 300 if length < 1000 else 20
    g = torch.randn(rows, length, dtype=torch.float64, generator=generator).to(dtype)
    c = torch.randn(rows, 1, dtype=torch.float64, generator=generator).mul(3).exp().to(dtype)
    for a, b in ((g, -c * g), (-c * g, g)):
        assert torch.equal(pareto_gradient(a, b), torch.zeros_like(g))
    torch.testing.assert_close(min_norm_weights(g, -c * g), (c / (1 + c))[:, 0])


@BOTH
def test_nearly_opposite_gradients_still_find_their_direction(dtype):
    for angle in (1e-2, 1e-3):
        g = torch.tensor([1.0, 0.0], dtype=dtype)
        u = torch.tensor([-2.0, 2 * angle], dtype=dtype)
        d = pareto_gradient(g, u)
        torch.testing.assert_close(d.norm(), 1.5 * (g + u).norm())
        assert d[1] > 0.99 * d.norm()


@BOTH
def test_zero_gradients(dtype):
    g = torch.randn(4, 3, dtype=dtype)
    zero = torch.zeros_like(g)
    torch.testing.assert_close(pareto_gradient(g, zero), 1.5 * g)
    torch.testing.assert_close(pareto_gradient(zero, g, gamma_on_aligned=False), g)
    assert torch.equal(pareto_gradient(zero, zero), zero)
    assert torch.equal(min_norm_weights(g, zero), torch.zeros(4, dtype=dtype))
    assert torch.equal(min_norm_weights(zero, g), torch.ones(4, dtype=dtype))
    assert torch.equal(min_norm_weights(zero, zero), torch.full((4,), 0.5, dtype=dtype))
    assert torch.equal(min_norm_weights(g, g), torch.full((4,), 0.5, dtype=dtype))


def test_orthogonal_gradients_do_not_conflict():
    d = pareto_gradient(double(3.0, 0.0), double(0.0, 1.0), gamma=2.0)
    torch.testing.assert_close(d, double(6.0, 2.0))


def test_g_and_u_change_places():
    g, u = random_pairs()
    torch.testing.assert_close(min_norm_weights(u, g), 1 - min_norm_weights(g, u))
    torch.testing.assert_close(pareto_gradient(u, g), pareto_gradient(g, u))


def test_a_rotation_turns_the_result():
    g, u = random_pairs()
    turn, _ = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))
    torch.testing.assert_close(min_norm_weights(g @ turn, u @ turn), min_norm_weights(g, u))
    torch.testing.assert_close(pareto_gradient(g @ turn, u @ turn), pareto_gradient(g, u) @ turn)


def test_leading_axes_broadcast():
    g, u = random_pairs(rows=12)
    g = g.reshape(3, 4, 6)
    d, w = pareto_gradient(g, u[0]), min_norm_weights(g, u[0])
    assert w.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            torch.testing.assert_close(d[i, j], pareto_gradient(g[i, j], u[0]))
            torch.testing.assert_close(w[i, j], min_norm_weights(g[i, j], u[0]))


def test_a_nan_is_not_hidden():
    broken = double(torch.nan, 1.0)
    assert pareto_gradient(broken, double(1.0, 1.0)).isnan().any()
    assert min_norm_weights(broken, double(1.0, 1.0)).isnan()


@BOTH
def test_dtype_is_kept(dtype):
    g, u = torch.randn(2, 3, 4, dtype=dtype)
    assert min_norm_weights(g, u).dtype == dtype
    assert pareto_gradient(g, u).dtype == dtype


def test_no_value_is_read_by_the_host():
    with FakeTensorMode():
        g, u = torch.rand(2, 3), torch.rand(2, 3)
        assert min_norm_weights(g, u).shape == (2,)
        assert pareto_gradient(g, u).shape == (2, 3)


@pytest.mark.parametrize("function", [min_norm_weights, pareto_gradient])
def test_shapes_that_do_not_fit_are_named(function):
    for g, u in [((5, 3), (5, 2)), ((5, 3), (4, 3)), ((), (3,)), ((2, 0), (2, 0))]:
        with pytest.raises(ValueError, match=r"Allowed are g \(…, P\), u \(…, P\)"):
            function(torch.rand(g), torch.rand(u))
