"""MLA's projectors and fusion weights against numpy's inverse, explicit loops and their bounds."""

import math

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmlab.balancers.mla import entropy_weights, restarted_projector, rls_projector

BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def random_means(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def recursion(means, alpha):
    P = torch.eye(means.shape[-1], dtype=means.dtype)
    for h in means:
        P = rls_projector(P, h, alpha)
    return P


def inverse(means, alpha):
    """(I + Σ h hᵀ/α)⁻¹, what both projectors must equal."""
    total = np.eye(means.shape[-1])
    for h in means.numpy():
        total += np.outer(h, h) / alpha
    return np.linalg.inv(total)


@pytest.mark.parametrize("alpha", [0.01, 0.1, 10.0])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_both_projectors_equal_the_inverse(alpha, count):
    means = random_means(count, 7)
    expected = inverse(means, alpha)
    np.testing.assert_allclose(recursion(means, alpha).numpy(), expected, atol=1e-12)
    np.testing.assert_allclose(restarted_projector(means, alpha).numpy(), expected, atol=1e-12)


def test_more_means_than_dimensions():
    means = random_means(9, 4)
    np.testing.assert_allclose(
        restarted_projector(means, 0.1).numpy(), inverse(means, 0.1), atol=1e-12
    )


@BOTH
def test_projectors_are_symmetric_with_eigenvalues_between_zero_and_one(dtype):
    means = random_means(4, 12).to(dtype)
    for P in (recursion(means, 0.1), restarted_projector(means, 0.1)):
        assert torch.equal(P, P.mT)
        eigenvalues = torch.linalg.eigvalsh(P)
        assert (eigenvalues > 0).all()
        assert (eigenvalues <= 1 + 10 * torch.finfo(dtype).eps).all()
        # four directions are nearly gone, the other eight untouched
        assert (eigenvalues[:4] < 0.1).all()
        torch.testing.assert_close(eigenvalues[4:], torch.ones(8, dtype=dtype))


def test_a_projected_update_spares_the_means_and_still_descends():
    means, gradient = random_means(2, 12), random_means(3, 12, seed=1)
    P = restarted_projector(means, 1e-6)
    assert (gradient @ P @ means.mT).abs().max() < 1e-5
    assert ((gradient @ P) * gradient).sum() > 0
    soft = restarted_projector(means, 1e6)
    torch.testing.assert_close(gradient @ soft, gradient, atol=1e-3, rtol=0)


def test_the_recursion_shrinks_and_the_restart_does_not():
    means = random_means(50, 10)
    assert recursion(means, 0.1).trace() < 0.1
    assert restarted_projector(means[-1:], 0.1).trace() > 9


def test_a_feature_of_zero_takes_nothing_away():
    eye = torch.eye(5, dtype=torch.float64)
    zero = torch.zeros(5, dtype=torch.float64)
    assert torch.equal(rls_projector(eye, zero, 0.1), eye)
    torch.testing.assert_close(restarted_projector(zero.expand(2, 5), 0.1), eye)


@BOTH
def test_parallel_means_and_a_small_alpha(dtype):
    """Their Gram matrix is singular but for α, which rounding swallows."""
    h = random_means(8).to(dtype)
    P = restarted_projector(torch.stack([32 * h, 32 * h, 16 * h]), 1e-6)
    h, factor = h.double(), 32**2 + 32**2 + 16**2
    expected = torch.eye(8).double() - factor * torch.outer(h, h) / (1e-6 + factor * (h @ h))
    torch.testing.assert_close(P.double(), expected, atol=1e3 * torch.finfo(dtype).eps, rtol=0)


def test_projectors_broadcast():
    means, alphas = random_means(3, 2, 6), torch.tensor([0.1, 1.0], dtype=torch.float64)
    P = restarted_projector(means, alphas[:, None, None])
    assert P.shape == (2, 3, 6, 6)
    start = torch.eye(6, dtype=torch.float64)
    stepped = rls_projector(start, means[:, 0], alphas[:, None, None])
    assert stepped.shape == (2, 3, 6, 6)
    for a, alpha in enumerate(alphas.tolist()):
        for i in range(3):
            torch.testing.assert_close(P[a, i], restarted_projector(means[i], alpha))
            torch.testing.assert_close(stepped[a, i], rls_projector(start, means[i, 0], alpha))
    two = rls_projector(stepped[0], means[:, 1], 0.1)
    torch.testing.assert_close(two, P[0])


@BOTH
@pytest.mark.parametrize("count", [1, 2, 5])
def test_rows_are_projected_without_the_projector(count, dtype):
    means, rows = random_means(count, 7).to(dtype), random_means(3, 7, seed=1).to(dtype)
    tolerance = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(
        restarted_projector(means, 0.3, rows=rows),
        rows @ restarted_projector(means, 0.3),
        rtol=tolerance,
        atol=tolerance,
    )
    eye = torch.eye(7, dtype=dtype)
    torch.testing.assert_close(
        restarted_projector(means, 0.3, rows=eye),
        restarted_projector(means, 0.3),
        rtol=tolerance,
        atol=tolerance,
    )


@pytest.mark.parametrize("count", [1, 2])
def test_rows_means_and_alphas_broadcast(count):
    """Networks lead, as in a stack; each has an α of its own, (R, 1)."""
    means, rows = random_means(4, count, 6), random_means(4, 3, 6, seed=1)
    alphas = torch.tensor([0.1, 1.0, 2.0, 5.0], dtype=torch.float64)[:, None]
    P, projected = restarted_projector(means, alphas), restarted_projector(means, alphas, rows)
    assert P.shape == (4, 6, 6) and projected.shape == (4, 3, 6)
    shared = restarted_projector(means, alphas, rows[0])
    for r, alpha in enumerate(alphas[:, 0].tolist()):
        torch.testing.assert_close(P[r], restarted_projector(means[r], alpha))
        torch.testing.assert_close(projected[r], rows[r] @ P[r])
        torch.testing.assert_close(shared[r], rows[0] @ P[r])
    grid = restarted_projector(means[0], alphas)
    assert grid.shape == (4, 6, 6)
    torch.testing.assert_close(grid[2], restarted_projector(means[0], 2.0))


@pytest.mark.parametrize("alpha", [torch.tensor(0.3).double(), torch.tensor([0.3]).double()])
def test_an_alpha_may_be_a_tensor(alpha):
    means, eye = random_means(2, 6), torch.eye(6).double()
    torch.testing.assert_close(restarted_projector(means, alpha), restarted_projector(means, 0.3))
    torch.testing.assert_close(
        rls_projector(eye, means[0], alpha), rls_projector(eye, means[0], 0.3)
    )


def test_a_nan_is_not_hidden():
    means = random_means(2, 6)
    means[0, 0] = torch.nan
    assert restarted_projector(means, 0.1).isnan().any()
    assert restarted_projector(means[:1], 0.1, rows=torch.ones(3, 6).double()).isnan().any()
    assert rls_projector(torch.eye(6).double(), means[0], 0.1).isnan().any()


def test_the_order_of_the_means_does_not_matter():
    means = random_means(3, 6)
    torch.testing.assert_close(restarted_projector(means.flip(0), 0.1), recursion(means, 0.1))


def weights_one(logits, present):
    """The rule for one sample, modality by modality, in plain Python."""
    scores = []
    for row, there in zip(logits, present, strict=True):
        total = sum(math.exp(x) for x in row)
        entropy = -sum(math.exp(x) / total * math.log(math.exp(x) / total) for x in row)
        scores.append(math.exp(-entropy) if there else 0.0)
    return [s / sum(scores) for s in scores]


def random_logits(modalities=3, batch=20, classes=4):
    logits = 2 * random_means(modalities, batch, classes)
    present = random_means(modalities, batch, seed=1) > -0.5
    present[0] |= ~present.any(0)
    return logits, present


@pytest.mark.parametrize("masked", [False, True])
def test_fusion_weights_equal_the_rule_sample_by_sample(masked):
    logits, present = random_logits()
    present = present if masked else torch.ones_like(present)
    w = entropy_weights(logits, present if masked else None)
    for i in range(20):
        expected = weights_one(logits[:, i].tolist(), present[:, i].tolist())
        torch.testing.assert_close(w[:, i], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(w.sum(0), torch.ones(20, dtype=torch.float64))
    assert (w[~present] == 0).all()


def test_the_surer_modality_is_trusted_more():
    logits = torch.tensor([[[5.0, 0.0, 0.0]], [[0.1, 0.0, 0.0]]])
    w = entropy_weights(logits)
    assert w[0, 0] > 0.7 > 0.3 > w[1, 0]


def test_weights_belong_to_the_sample_and_not_to_the_batch():
    logits, _ = random_logits()
    whole = entropy_weights(logits)
    for i in range(20):
        torch.testing.assert_close(entropy_weights(logits[:, i : i + 1]), whole[:, i : i + 1])
    assert whole[0].std() > 0.05


def test_two_modalities_cannot_exceed_the_bound():
    for classes in (2, 6, 100):
        sure, unsure = torch.zeros(2, classes, dtype=torch.float64)
        sure[0] = 1e4
        w = entropy_weights(torch.stack([sure, unsure])[:, None])
        assert w[0, 0].item() == pytest.approx(classes / (classes + 1))


def test_one_modality_present_has_weight_one():
    logits, _ = random_logits()
    logits[0] = torch.nan  # what an absent modality's encoder makes of nothing must not matter
    present = torch.zeros(3, 20, dtype=torch.bool)
    present[1] = True
    w = entropy_weights(logits, present)
    assert torch.equal(w, present.double())


def test_no_modality_present_gives_zeros_and_no_nan():
    logits, present = random_logits()
    present[:, 4] = False
    w = entropy_weights(logits, present)
    assert torch.equal(w[:, 4], torch.zeros(3, dtype=torch.float64))
    assert not w.isnan().any()


@BOTH
@pytest.mark.parametrize("gap", [105.0, 1e4, 1e30])
def test_wide_logit_gaps_give_no_nan(dtype, gap):
    logits = torch.zeros(2, 1, 3, dtype=dtype)
    logits[0, 0, 0] = gap
    w = entropy_weights(logits)
    torch.testing.assert_close(w[:, 0], torch.tensor([0.75, 0.25], dtype=dtype))


@BOTH
def test_a_class_ruled_out_gives_no_nan(dtype):
    logits = torch.tensor([[[1.0, 1.0, -torch.inf]], [[1.0, 1.0, 1.0]]], dtype=dtype)
    w = entropy_weights(logits)
    torch.testing.assert_close(w[:, 0], torch.tensor([0.6, 0.4], dtype=dtype))


def test_fusion_weights_follow_permutations():
    logits, present = random_logits()
    w = entropy_weights(logits, present)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(entropy_weights(logits[order], present[order]), w[order])
    torch.testing.assert_close(entropy_weights(logits.flip(-1) + 7, present), w)


def test_fusion_weights_broadcast():
    logits, present = random_logits()
    logits = torch.stack([logits, 0.1 * logits])
    masks = torch.stack([present, torch.ones_like(present)])
    w = entropy_weights(logits, masks[:, None])
    assert w.shape == (2, 2, 3, 20)
    for i in range(2):
        torch.testing.assert_close(entropy_weights(logits, masks[i]), w[i])
        for j in range(2):
            torch.testing.assert_close(entropy_weights(logits[j], masks[i]), w[i, j])


@BOTH
def test_dtype_is_kept(dtype):
    means, logits = torch.rand(2, 4, dtype=dtype), torch.rand(2, 3, 4, dtype=dtype)
    assert rls_projector(torch.eye(4, dtype=dtype), means[0], 0.1).dtype == dtype
    assert restarted_projector(means, 0.1).dtype == dtype
    assert entropy_weights(logits).dtype == dtype
    assert entropy_weights(logits, torch.ones(2, 3, dtype=torch.bool)).dtype == dtype


def test_no_value_is_read_by_the_host():
    with FakeTensorMode():
        means, logits, alpha = torch.rand(2, 4), torch.rand(2, 3, 4), torch.rand(())
        assert rls_projector(torch.eye(4), means[0], alpha).shape == (4, 4)
        assert restarted_projector(means, alpha).shape == (4, 4)
        assert entropy_weights(logits, torch.rand(2, 3) > 0.5).shape == (2, 3)


def test_what_is_not_allowed_is_named():
    eye = torch.eye(4)
    with pytest.raises(ValueError, match=r"P \(4, 4\), h \(5,\).*Allowed"):
        rls_projector(eye, torch.rand(5), 0.1)
    with pytest.raises(ValueError, match=r"P \(4, 3\)"):
        rls_projector(eye[:, :3], torch.rand(3), 0.1)
    with pytest.raises(ValueError, match=r"means \(4,\)"):
        restarted_projector(eye[0], 0.1)
    with pytest.raises(ValueError, match=r"means \(0, 4\)"):
        restarted_projector(eye[:0], 0.1)
    for alpha in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"alpha is .*allowed is a number above 0"):
            restarted_projector(eye, alpha)
        with pytest.raises(ValueError, match=r"alpha is .*allowed is a number above 0"):
            rls_projector(eye, eye[0], alpha)
    with pytest.raises(ValueError, match=r"alpha has shape \(4,\).*alpha\[\.\.\., None\]"):
        restarted_projector(eye, torch.ones(4))
    with pytest.raises(ValueError, match=r"means \(4, 4\), rows \(3, 5\).*rows \(…, C, D\)"):
        restarted_projector(eye, 0.1, rows=torch.ones(3, 5))
    with pytest.raises(ValueError, match=r"logits \(2, 3, 4\), present \(3, 2\)"):
        entropy_weights(torch.rand(2, 3, 4), torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"dtype torch.float32; allowed is torch.bool"):
        entropy_weights(torch.rand(2, 3, 4), torch.ones(2, 3))
