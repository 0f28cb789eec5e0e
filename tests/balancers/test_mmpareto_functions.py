"""MMPareto's pure functions against numpy, scipy's search and TorchJD's MGDA."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch._subclasses.fake_tensor import FakeTensorMode
from torchjd.aggregation import MGDA

from mmlab.balancers import mmpareto
from mmlab.balancers.mmpareto import (
    min_norm_pulls,
    min_norm_weights,
    pareto_gradient,
    pareto_weights,
    released_weights,
)

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
    # the weights come from the Gramian: its rounding meets the square of the angle to opposite
    square = 1 - cosine(g, u) ** 2
    error = (d.norm(dim=-1) / (1.5 * (g + u).norm(dim=-1)) - 1).abs()
    assert (error <= 1e-14 + 16 * torch.finfo(d.dtype).eps / square).all()
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
    gram = gram_of(g, u)
    assert pareto_weights(gram).dtype == dtype
    assert released_weights(gram).dtype == dtype
    assert mmpareto.cosine(gram).dtype == dtype


def test_no_value_is_read_by_the_host():
    with FakeTensorMode():
        g, u = torch.rand(2, 3), torch.rand(2, 3)
        assert min_norm_weights(g, u).shape == (2,)
        assert pareto_gradient(g, u).shape == (2, 3)
        assert pareto_weights(torch.rand(3, 2, 2), torch.rand(3)).shape == (3, 2)
        assert released_weights(torch.rand(3, 2, 2), torch.rand(3)).shape == (3, 2)


@pytest.mark.parametrize("function", [min_norm_weights, pareto_gradient])
def test_shapes_that_do_not_fit_are_named(function):
    for g, u in [((5, 3), (5, 2)), ((5, 3), (4, 3)), ((), (3,)), ((2, 0), (2, 0))]:
        with pytest.raises(ValueError, match=r"Allowed are g \(…, P\), u \(…, P\)"):
            function(torch.rand(g), torch.rand(u))


# --- the weights, from Gramians -------------------------------------------------------------------


def gram_of(g, u):
    pair = torch.stack([g, u], dim=-2)
    return pair @ pair.mT


def weights_one(gram, gamma, gamma_on_aligned):
    """The rule for one Gramian in numpy: the min-norm weight by search, then the length."""
    if gram[0, 1] >= 0:
        return np.full(2, gamma if gamma_on_aligned else 1.0)
    lengths = np.sqrt(np.diag(gram))
    square = lambda w: np.array([w, 1 - w]) @ gram @ np.array([w, 1 - w])  # noqa: E731
    w = minimize_scalar(
        lambda w: square(w) / lengths.sum() ** 2,
        bounds=(0, 1),
        method="bounded",
        options={"xatol": 1e-12},
    ).x
    return gamma * np.sqrt(gram.sum() / square(w)) * np.array([w, 1 - w])


@pytest.mark.parametrize("gamma", [0.5, 1.5])
@pytest.mark.parametrize("gamma_on_aligned", [False, True])
def test_the_weights_equal_the_rule_gramian_by_gramian(gamma, gamma_on_aligned):
    gram = gram_of(*random_pairs())
    assert 50 < (gram[:, 0, 1] < 0).sum() < 150
    found = pareto_weights(gram, gamma, gamma_on_aligned=gamma_on_aligned).numpy()
    for row, one in zip(found, gram.numpy(), strict=True):
        np.testing.assert_allclose(row, weights_one(one, gamma, gamma_on_aligned), rtol=2e-5)


def test_the_weights_defaults_are_the_papers():
    gram = gram_of(*random_pairs())
    expected = pareto_weights(gram, 1.5, gamma_on_aligned=True)
    assert torch.equal(pareto_weights(gram), expected)


@BOTH
@pytest.mark.parametrize("gamma_on_aligned", [False, True])
def test_the_gradient_is_the_weights_applied(dtype, gamma_on_aligned):
    g, u = (x.to(dtype) for x in random_pairs())
    weights = pareto_weights(gram_of(g, u), 2.0, gamma_on_aligned=gamma_on_aligned)
    d = pareto_gradient(g, u, gamma=2.0, gamma_on_aligned=gamma_on_aligned)
    expected = weights[:, :1] * g + weights[:, 1:] * u
    tolerance = 1e4 * torch.finfo(dtype).eps
    torch.testing.assert_close(d, expected, rtol=tolerance, atol=tolerance)


def test_the_gradient_asks_the_weights(monkeypatch):
    """One statement of the rule: where it is another, so is the gradient."""
    g, u = random_pairs(rows=5)
    monkeypatch.setattr(mmpareto, "pareto_weights", lambda gram, gamma, **_: gram[..., 0])
    scale = torch.stack([g, u]).abs().amax((0, 2))[:, None]
    expected = ((g * g).sum(-1, keepdim=True) * g + (g * u).sum(-1, keepdim=True) * u) / scale**2
    torch.testing.assert_close(pareto_gradient(g, u), expected)


def test_gamma_broadcasts_against_the_leading_axes():
    gram = gram_of(*random_pairs(rows=12)).view(3, 4, 2, 2)
    gamma = double(0.5, 1.0, 2.0)[:, None]
    for on_aligned in (False, True):
        weights = pareto_weights(gram, gamma, gamma_on_aligned=on_aligned)
        assert weights.shape == (3, 4, 2)
        for i, own in enumerate(gamma[:, 0].tolist()):
            expected = pareto_weights(gram[i], own, gamma_on_aligned=on_aligned)
            torch.testing.assert_close(weights[i], expected)
    tensors = gram_of(*random_pairs(rows=24)).view(3, 8, 2, 2)
    for on_aligned in (False, True):
        weights = released_weights(tensors, gamma, gamma_on_aligned=on_aligned)
        for i, own in enumerate(gamma[:, 0].tolist()):
            expected = released_weights(tensors[i], own, gamma_on_aligned=on_aligned)
            torch.testing.assert_close(weights[i], expected)


@pytest.mark.parametrize("place", [(0, 0), (1, 1), (0, 1)])
def test_a_nan_in_the_gramian_shows_in_the_weights(place):
    for inner in (0.5, -0.5):
        gram = double(1.0, inner, inner, 2.0).view(2, 2)
        gram[place] = gram[place[::-1]] = torch.nan
        assert pareto_weights(gram).isnan().all()
        assert pareto_weights(gram, gamma_on_aligned=False).isnan().all()
        both = torch.stack([gram, torch.eye(2).double()])
        assert released_weights(both).isnan().all()
        assert mmpareto.cosine(gram).isnan()


def test_within_the_rounding_of_opposite_there_is_nothing_in_common():
    angle = 1e-2
    gram = gram_of(double(1.0, 0.0), double(-2.0, 2 * angle))
    assert pareto_weights(gram).min() > 0
    assert pareto_weights(gram, rounding=0.1 * angle**2).min() > 0
    assert not pareto_weights(gram, rounding=10 * angle**2).any()
    for angle, common in ((1e-2, True), (1e-3, False)):
        gram = gram_of(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, angle]))
        assert bool(pareto_weights(gram).any()) == common
        assert pareto_weights(gram, rounding=0.0).any() or not common


@pytest.mark.parametrize("scale", [1e-15, 1e-9, 1e9, 1e15])
def test_the_weights_do_not_hang_on_the_scale_of_the_gradients(scale):
    pair = torch.tensor([[1.0, 0.2, 0.0], [-0.6, 0.3, 0.1]])
    gram = pair @ pair.T
    assert pareto_weights(gram).min() > 0
    torch.testing.assert_close(pareto_weights(scale**2 * gram), pareto_weights(gram))
    torch.testing.assert_close(mmpareto.cosine(scale**2 * gram), mmpareto.cosine(gram))
    tensors = torch.stack([gram, 0.3 * gram.flip(0, 1)])
    torch.testing.assert_close(released_weights(scale**2 * tensors), released_weights(tensors))


def test_weights_of_opposite_gradients_are_zero_and_not_rounding_noise():
    draw = torch.Generator().manual_seed(0)
    for ratio in (1.0, 0.3, 1e-3):
        g = torch.randn(200, 40, generator=draw)
        gram = gram_of(g, -ratio * g)
        assert not pareto_weights(gram).any()
        assert not released_weights(gram[:, None]).any()


def test_weights_leave_what_is_aligned_alone_if_told_so():
    gram = torch.tensor([[1.0, 0.2], [0.2, 4.0]])
    assert pareto_weights(gram, 1.5, gamma_on_aligned=False).tolist() == [1, 1]
    assert pareto_weights(gram, 1.5, gamma_on_aligned=True).tolist() == [1.5, 1.5]


def test_the_cosine_is_that_of_the_angle_and_0_beside_a_gradient_of_0():
    pair = torch.tensor([[3.0, 0.0], [-1.0, 1.0]])
    assert mmpareto.cosine(pair @ pair.T).item() == pytest.approx(-(0.5**0.5))
    assert mmpareto.cosine(torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == 0
    assert mmpareto.cosine(torch.zeros(3, 2, 2)).tolist() == [0, 0, 0]


def test_the_pulls_are_the_weights_times_the_distance():
    g, u = random_pairs()
    pulls = min_norm_pulls(gram_of(g, u))
    square = ((g - u) ** 2).sum(-1)
    w = min_norm_weights(g, u)
    inner = (w > 0) & (w < 1)
    torch.testing.assert_close(pulls[inner, 0], (w * square)[inner])
    torch.testing.assert_close(pulls[inner, 1], ((1 - w) * square)[inner])
    assert (pulls[w == 0, 0] == 0).all() and (pulls[w == 1, 1] == 0).all()


@pytest.mark.parametrize("function", [pareto_weights, released_weights])
def test_what_is_no_gramian_of_two_is_named(function):
    with pytest.raises(ValueError, match=r"Allowed are gram \(…, "):
        function(torch.rand(4, 2, 3))
    with pytest.raises(ValueError, match=r"Allowed are gram \(…, "):
        function(torch.rand(2))


# --- the released code's rule ---------------------------------------------------------------------


def released_one(g, u, gamma=1.5, gamma_on_aligned=True):
    """The released code's rule in words, in numpy: lists of tensors in, one list out."""
    whole_g, whole_u = np.concatenate(g), np.concatenate(u)
    if whole_g @ whole_u > 0:  # a cosine of 0 or below is a conflict
        return [(gamma if gamma_on_aligned else 1.0) * (x + y) for x, y in zip(g, u, strict=True)]
    squares = whole_g @ whole_g, whole_u @ whole_u
    if whole_g @ whole_u >= squares[0]:
        w = 0.999
    elif whole_g @ whole_u >= squares[1]:
        w = 0.001
    else:
        square = lambda w: np.sum((w * whole_g + (1 - w) * whole_u) ** 2) / max(squares)  # noqa: E731
        options = {"xatol": 1e-13, "maxiter": 500}
        w = minimize_scalar(square, bounds=(0, 1), method="bounded", options=options).x
    parts = []
    for x, y in zip(g, u, strict=True):
        d = 2 * w * x + 2 * (1 - w) * y
        size = np.linalg.norm(d)
        # the code would give NaN; the search is exact to 1e-7
        nothing = size <= 1e-7 * (np.linalg.norm(x) + np.linalg.norm(y))
        parts.append(0 * d if nothing else gamma * max(1, np.linalg.norm(x + y) / size) * d)
    return parts


def released_parts(g, u, **options):
    gram = torch.stack([gram_of(x, y) for x, y in zip(g, u, strict=True)])
    weights = released_weights(gram, options.pop("gamma", 1.5), **options)
    return [w[0] * x + w[1] * y for w, x, y in zip(weights, g, u, strict=True)]


def random_tensors(seed):
    """Three tensors of unlike sizes, and gradients of unlike lengths."""
    draw = np.random.default_rng(seed)
    return [[draw.normal(size=n) * np.exp(draw.normal()) for n in (2, 7, 1)] for _ in range(2)]


def assert_released(g, u, **options):
    expected = released_one(g, u, **options)
    found = released_parts(*([torch.from_numpy(x) for x in grads] for grads in (g, u)), **options)
    scale = sum(np.linalg.norm(x) for x in (*g, *u))
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6 * scale)
    return expected


def test_by_tensor_is_the_released_codes_rule():
    """Conflicts and none; in conflicts some tensors are lengthened, others left as they are."""
    conflicts, raised, kept = 0, 0, 0
    for seed in range(200):
        g, u = random_tensors(seed)
        expected = assert_released(g, u, gamma=1.5)
        assert_released(g, u, gamma=0.7, gamma_on_aligned=False)
        if np.concatenate(g) @ np.concatenate(u) > 0:
            continue
        conflicts += 1
        for d, x, y in zip(expected, g, u, strict=True):
            longer = np.linalg.norm(d) / np.linalg.norm(x + y) / 1.5
            raised += longer < 1 + 1e-9
            kept += longer > 1 + 1e-3  # the factor would be below 1: the code leaves it out
    assert conflicts > 50 and raised > 30 and kept > 30


def numbers(*rows):
    return [np.array(row, dtype=float) for row in rows]


EDGES = {
    "exactly orthogonal": (numbers([1, 2], [3, 0]), numbers([-1, 2], [-1, 5])),
    "orthogonal tensor by tensor": (numbers([1, 0], [0, 2]), numbers([0, 3], [1, 0])),
    "g = 0": (numbers([0, 0], [0]), numbers([1, 2], [-3])),
    "u = 0": (numbers([1, 2], [-3]), numbers([0, 0], [0])),
    "both 0": (numbers([0, 0], [0]), numbers([0, 0], [0])),
    "one tensor opposite": (numbers([1, 0], [2, 1]), numbers([-1, 0], [-2, 3])),
    "opposite and cancelled": (numbers([1, 0], [1, 1]), numbers([-1, 0], [-1, 1])),
    "a tensor of zeros": (numbers([0, 0], [1, 2]), numbers([0, 0], [-3, 1])),
    "a tensor without g": (numbers([0, 0], [1, 2]), numbers([2, 1], [-3, 1])),
    "a factor below 1": (numbers([4, 0], [1, 1]), numbers([-5, 1], [-1, 1])),
    "u far longer": (numbers([1, 0], [0, 1]), numbers([-100, 0], [0, -90])),
    "aligned": (numbers([1, 0], [2, 1]), numbers([-1, 0], [2, 3])),
}


@pytest.mark.parametrize("gamma_on_aligned", [False, True])
@pytest.mark.parametrize("case", EDGES)
def test_by_tensor_at_the_edges(case, gamma_on_aligned):
    assert_released(*EDGES[case], gamma=1.5, gamma_on_aligned=gamma_on_aligned)


def test_by_tensor_an_angle_of_90_degrees_is_a_conflict():
    """‖g‖ = 2‖u‖, so u has four times the weight; and γ applies, whatever gamma_on_aligned says."""
    g, u = [double(2.0, 0.0)], [double(0.0, 1.0)]
    (d,) = released_parts(g, u, gamma=1.5, gamma_on_aligned=False)
    direction = double(2 * 0.2 * 2, 2 * 0.8 * 1)
    factor = 5**0.5 / direction.norm()
    assert factor > 1
    torch.testing.assert_close(d, 1.5 * factor * direction)


def test_by_tensor_beside_a_gradient_of_zero_is_gamma_times_the_other():
    for g, u in ((double(3.0, 4.0), double(0.0, 0.0)), (double(0.0, 0.0), double(3.0, 4.0))):
        (d,) = released_parts([g], [u], gamma=1.5, gamma_on_aligned=False)
        torch.testing.assert_close(d, 1.5 * double(3.0, 4.0))


def test_by_tensor_can_oppose_an_objective_and_one_factor_for_all_cannot():
    opposed = 0
    for seed in range(300):
        g, u = ([torch.from_numpy(x) for x in grads] for grads in random_tensors(seed))
        d = torch.cat(released_parts(g, u))
        g, u = torch.cat(g), torch.cat(u)
        opposed += bool(min(d @ g / g.norm(), d @ u / u.norm()) < -1e-9 * d.norm())
        d = pareto_gradient(g, u)
        assert min(d @ g / g.norm(), d @ u / u.norm()) > -1e-9 * d.norm()
    assert opposed > 3
