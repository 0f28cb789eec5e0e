"""Blend runs any rule from Gramians to weights; Nash-MTL's and CAGrad's, against searches."""

import functools

import numpy as np
import pytest
import torch
from by_hand import batch, mlp, network
from gradient_pairs import BOTH, blended, gram, pairs
from scipy.optimize import minimize_scalar, nnls
from torch._subclasses.fake_tensor import FakeTensorMode
from torchjd.aggregation import IMTLGWeighting, PCGradWeighting, UPGradWeighting
from torchjd.linalg import DualConeProjector

from mmlab import Blend, MMPareto, MultimodalNet, Step, Uniform, fit, load
from mmlab.balancers.blend import (
    aligned_weights,
    cagrad_weights,
    imtl_weights,
    nash_weights,
    pcgrad_weights,
)
from mmlab.balancers.mmpareto import pareto_weights
from mmlab.evaluation import test_accuracy as accuracy_on_test

OURS = {
    "nash": nash_weights,
    "cagrad": cagrad_weights,
    "cagrad, c = 0.9": functools.partial(cagrad_weights, c=0.9),
    "pcgrad": pcgrad_weights,
    "imtl-g": imtl_weights,
    "aligned-mtl": aligned_weights,
}


class Projector(DualConeProjector):
    """The weights w ≥ u with the shortest blend, by scipy; TorchJD's own wants a QP solver more."""

    def __call__(self, U, G):
        root = np.linalg.cholesky(G.double().numpy() + 1e-12 * np.eye(len(G)))
        rows = [u + nnls(root.T, -root.T @ u)[0] for u in U.double().numpy()]
        return torch.from_numpy(np.stack(rows)).to(U)


TORCHJD = {
    "PCGrad": PCGradWeighting,
    "IMTL-G": IMTLGWeighting,
    "UPGrad": lambda: UPGradWeighting(projector=Projector()),
}
every_rule_of_ours = pytest.mark.parametrize("rule", OURS.values(), ids=OURS)


# --- the balancer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TORCHJD, *OURS])
def test_a_rule_trains_the_digits(name):
    rule = TORCHJD[name]() if name in TORCHJD else OURS[name]
    data = load("av-digits", seed=0)
    net = MultimodalNet.build(data, seed=0)
    before = {key: p.detach().clone() for key, p in net.named_parameters()}
    run = fit(net, data, Blend(rule), epochs=1, device="cpu")
    for key, p in net.named_parameters():
        assert p.isfinite().all() and not torch.equal(p, before[key]), key
    assert run.history.value.map(np.isfinite).all()
    assert accuracy_on_test(run) > 0.3  # chance is 0.1
    assert sorted(run.history.query("metric == 'cosine'").output) == ["audio", "image"]


def gradients(net, m):
    return torch.cat([p.grad.flatten() for p in net.encoders[m].parameters()])


def stepped(balancer, encoder=mlp, **options):
    net, samples = network("avt", encoder=encoder), batch("avt")
    step = Step(net, samples, **options)
    next(balancer.step(step))
    return net, step


def test_an_encoder_gets_its_two_gradients_with_the_rules_weights_and_the_rest_the_plain_sum():
    rule = lambda gram: torch.stack([gram[0, 0], 2 * gram[0, 1] + gram[1, 1]])  # noqa: E731
    net, _ = stepped(Blend(rule))
    plain, _ = stepped(Uniform())
    fresh = Step(network("avt", encoder=mlp), batch("avt"))
    for m in "avt":
        g, u = (
            torch.cat([x.flatten() for x in fresh.grad(fresh.losses[key], m)])
            for key in ("joint", m)
        )
        expected = (g @ g) * g + (2 * (g @ u) + u @ u) * u
        torch.testing.assert_close(gradients(net, m), expected, rtol=1e-9, atol=1e-13)
    outside = [*net.fusion.parameters(), *net.heads.parameters()]
    theirs = [*plain.fusion.parameters(), *plain.heads.parameters()]
    for mine, other in zip(outside, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-9, atol=1e-13)


def test_the_rule_sees_one_gramian_at_a_time_the_joint_gradient_first():
    seen = []

    def rule(gram):
        seen.append(gram)
        return torch.ones(2)

    _, step = stepped(Blend(rule))
    assert [g.shape for g in seen] == [(2, 2)] * 3
    for m, found in zip("avt", seen, strict=True):
        g, u = (
            torch.cat([x.flatten() for x in step.grad(step.losses[key], m)]) for key in ("joint", m)
        )
        pair = torch.stack([g, u])
        torch.testing.assert_close(found, pair @ pair.T)
        torch.testing.assert_close(
            step.logged["cosine", m], torch.cosine_similarity(g, u, dim=0), rtol=1e-9, atol=1e-12
        )


@pytest.mark.parametrize(
    ("rule", "twin"),
    [(pareto_weights, MMPareto()), (lambda gram: torch.ones(2), Uniform())],
    ids=["MMPareto", "Uniform"],
)
def test_a_rule_that_is_a_method_gives_the_methods_gradients(rule, twin):
    net, other = stepped(Blend(rule))[0], stepped(twin)[0]
    for mine, theirs in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-13)


def test_what_is_no_rule_is_refused():
    with pytest.raises(TypeError, match=r"weighting is 0\.5; give .*what makes weights \(2,\)"):
        Blend(0.5)
    with pytest.raises(RuntimeError, match="shape"):
        stepped(Blend(lambda gram: torch.ones(3)))


# --- Nash-MTL -------------------------------------------------------------------------------------


def test_nash_weights_solve_the_bargain():
    """Gα = 1/α, entry by entry, with α > 0."""
    G = gram(pairs())
    alpha = nash_weights(G)
    assert (alpha > 0).all()
    torch.testing.assert_close((G @ alpha[..., None])[..., 0], 1 / alpha, rtol=1e-9, atol=0)


def test_nash_weights_have_the_largest_product_of_gains():
    """The bargain's own words: over all steps of one length, ⟨g, d⟩ ⟨u, d⟩ is the largest."""
    draw = torch.Generator().manual_seed(1)
    for pair in pairs(rows=40, length=3):
        d = blended(nash_weights(gram(pair)), pair)
        assert d.norm().item() == pytest.approx(2**0.5)
        others = torch.randn(5000, 3, generator=draw, dtype=torch.float64)
        gains = 2**0.5 * others / others.norm(dim=-1, keepdim=True) @ pair.T
        product = torch.where((gains > 0).all(-1), gains.prod(-1), 0)
        assert product.max() <= (pair @ d).prod() * (1 + 1e-9)


@BOTH
def test_a_gradient_of_zero_is_no_player_and_opposite_ones_have_no_bargain(dtype):
    g = torch.tensor([3.0, 4.0], dtype=dtype)
    zero = torch.zeros_like(g)
    fifth = torch.tensor(0.2, dtype=dtype)
    torch.testing.assert_close(
        nash_weights(gram(torch.stack([g, zero]))), torch.stack([fifth, 0 * fifth])
    )
    torch.testing.assert_close(
        nash_weights(gram(torch.stack([zero, g]))), torch.stack([0 * fifth, fifth])
    )
    assert not nash_weights(torch.zeros(2, 2, dtype=dtype)).any()
    draw = torch.Generator().manual_seed(0)
    g = torch.randn(200, 40, generator=draw, dtype=dtype)
    for ratio in (1.0, 0.3, 1e-3):
        assert not nash_weights(gram(torch.stack([g, -ratio * g], dim=-2))).any()


# --- CAGrad ---------------------------------------------------------------------------------------


def dual(w, G, c):
    """⟨g_w, g_0⟩ + √φ ‖g_w‖ in numpy, from the Gramian."""
    w, mean = np.array([w, 1 - w]), np.array([0.5, 0.5])
    return w @ G @ mean + c * np.sqrt(mean @ G @ mean) * np.sqrt(max(w @ G @ w, 0))


@pytest.mark.parametrize("c", [0.1, 0.5, 0.9])
def test_cagrad_weights_equal_a_search_pair_by_pair(c):
    inner = 0
    for pair in pairs():
        G = gram(pair).numpy()
        options = {"xatol": 1e-13, "maxiter": 500}
        found = minimize_scalar(dual, args=(G, c), bounds=(0, 1), method="bounded", options=options)
        # the search never tries the ends themselves
        w = min((0.0, 1.0, found.x), key=lambda w, G=G: dual(w, G, c))
        inner += 0 < w < 1
        w, mean = np.array([w, 1 - w]), np.array([0.5, 0.5])
        expected = mean + c * np.sqrt(mean @ G @ mean) / np.sqrt(w @ G @ w) * w
        found = cagrad_weights(torch.from_numpy(G), c)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert 10 < inner < 290


@pytest.mark.parametrize("c", [0.2, 0.5, 0.95])
def test_no_step_in_the_ball_serves_the_worse_better(c):
    """The problem that the rule answers: the largest least ⟨g_k, d⟩ over ‖d − g_0‖ ≤ c ‖g_0‖."""
    draw = torch.Generator().manual_seed(1)
    for pair in pairs(rows=60, length=3):
        mean = pair.mean(0)
        d = blended(cagrad_weights(gram(pair), c), pair)
        assert (d - mean).norm() <= c * mean.norm() * (1 + 1e-9)
        others = torch.randn(5000, 3, generator=draw, dtype=torch.float64)
        others = mean + c * mean.norm() * others / others.norm(dim=-1, keepdim=True)
        best = (others @ pair.T).amin(-1).max()
        assert best <= (pair @ d).min() + 1e-9 * mean.norm() * pair.norm()
        assert (pair @ d).min() >= (pair @ mean).min()


def test_without_room_it_is_the_mean():
    assert torch.equal(cagrad_weights(gram(pairs()), c=0), torch.full((300, 2), 0.5).double())


@BOTH
def test_cagrad_weights_beside_gradients_of_zero_equal_and_opposite(dtype):
    g = torch.tensor([3.0, 4.0], dtype=dtype)
    zero, half = torch.zeros_like(g), torch.full((2,), 0.5, dtype=dtype)
    for pair in ((g, zero), (zero, g), (zero, zero), (g, -g)):
        assert torch.equal(cagrad_weights(gram(torch.stack(pair))), half)
    for pair in ((g, g), (g, 2 * g), (2 * g, g), (g, -2 * g), (g, -0.5 * g)):
        pair = torch.stack(pair)
        d = blended(cagrad_weights(gram(pair), c=0.5), pair)
        mean = pair.mean(0)
        # along one line the best step is the longest that helps, or the shortest
        helps = pair[0] @ pair[1] > 0
        torch.testing.assert_close(d, mean * (1.5 if helps else 0.5))


@pytest.mark.parametrize("c", [-0.1, 1.0, 2, float("nan")])
def test_a_ball_that_holds_zero_is_refused(c):
    with pytest.raises(ValueError, match=r"c is .*; allowed is a number ≥ 0 and below 1"):
        cagrad_weights(torch.eye(2), c)


# --- all ------------------------------------------------------------------------------------------


@every_rule_of_ours
def test_the_rules_broadcast_and_keep_the_dtype(rule):
    G = gram(pairs(rows=12)).view(3, 4, 2, 2)
    weights = rule(G)
    assert weights.shape == (3, 4, 2)
    for i in range(3):
        for j in range(4):
            torch.testing.assert_close(weights[i, j], rule(G[i, j]), rtol=1e-12, atol=0)
    single = rule(G.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), weights, rtol=1e-3, atol=1e-4)


@every_rule_of_ours
@BOTH
@pytest.mark.parametrize("scale", [1e-15, 1e-9, 1e9, 1e15])
def test_the_direction_does_not_hang_on_the_scale(rule, dtype, scale):
    G = gram(pairs(rows=50)).to(dtype)
    expected, found = rule(G), rule(scale**2 * G)
    share = lambda w: w / w.sum(-1, keepdim=True)  # noqa: E731
    torch.testing.assert_close(share(found), share(expected), rtol=1e-3, atol=1e-4)
    power = 0 if rule is not nash_weights else 1  # the bargain's weights have a unit
    torch.testing.assert_close(found * scale**power, expected, rtol=1e-3, atol=1e-4)


@every_rule_of_ours
def test_the_gradients_may_change_places(rule):
    pair = pairs()
    torch.testing.assert_close(rule(gram(pair.flip(-2))), rule(gram(pair)).flip(-1))


@every_rule_of_ours
def test_a_nan_is_not_hidden(rule):
    lengths_alone = [(0, 0), (1, 1)]  # what IMTL-G reads of two
    for place in lengths_alone if rule is imtl_weights else [*lengths_alone, (0, 1)]:
        G = torch.eye(2).double()
        G[place] = G[place[::-1]] = torch.nan
        assert rule(G).isnan().all()


@every_rule_of_ours
def test_no_value_is_read_by_the_host(rule):
    with FakeTensorMode():
        assert rule(torch.rand(4, 2, 2)).shape == (4, 2)


@every_rule_of_ours
@pytest.mark.parametrize("shape", [(3, 3), (5, 4, 4), (1, 1)])
def test_other_numbers_of_gradients_are_refused_where_the_rule_is_for_two(rule, shape):
    if rule in (pcgrad_weights, imtl_weights):
        assert rule(torch.eye(shape[-1]).expand(shape)).shape == shape[:-1]
        return
    with pytest.raises(ValueError, match=r"gram has shape .*allowed is \(…, 2, 2\)"):
        rule(torch.rand(shape))


@every_rule_of_ours
def test_what_is_no_gramian_is_refused(rule):
    with pytest.raises(ValueError, match=r"Allowed are gram \(…, K, K\)"):
        rule(torch.rand(2, 3))
