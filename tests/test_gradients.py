"""The arithmetic on lists of tensors is that of the flattened vectors."""

import pytest
import torch

from mmlab import gradients


def make(seed, dtype=torch.float64):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=draw, dtype=dtype) for shape in ((3, 4), (4,), (1,))]


def flat(grads):
    return torch.cat([g.flatten() for g in grads])


def test_dot_norm_and_cosine_are_those_of_the_whole_vector():
    a, b = make(1), make(2)
    assert torch.equal(gradients.flatten(a), flat(a))
    torch.testing.assert_close(gradients.dot(a, b), flat(a) @ flat(b))
    torch.testing.assert_close(gradients.norm(a), flat(a).norm())
    expected = torch.nn.functional.cosine_similarity(flat(a), flat(b), dim=0)
    torch.testing.assert_close(gradients.cosine(a, b), expected)


def test_the_gram_matrix_has_all_inner_products_a_replica():
    def expected(i):
        vectors = torch.stack([flat(make(i)), flat(make(i + 2))])
        return vectors @ vectors.T

    torch.testing.assert_close(gradients.gram(make(1), make(3)), expected(1))
    a, b = ([torch.stack(pair) for pair in zip(make(i), make(i + 1), strict=True)] for i in (1, 3))
    both = torch.stack([expected(1), expected(2)])
    torch.testing.assert_close(gradients.gram(a, b, lead=1), both)


def test_the_cosine_with_a_zero_gradient_is_zero():
    zero = [torch.zeros_like(g) for g in make(1)]
    assert gradients.cosine(make(1), zero) == 0 == gradients.cosine(zero, zero)


def test_scale_and_combine():
    a, b = make(1), make(2)
    torch.testing.assert_close(flat(gradients.scale(a, -2.5)), -2.5 * flat(a))
    weights = torch.tensor(0.3, dtype=torch.float64), torch.tensor(-2.0, dtype=torch.float64)
    expected = 0.3 * flat(a) - 2 * flat(b)
    torch.testing.assert_close(flat(gradients.combine(a, b, *weights)), expected)


def test_entry_std_is_each_tensors_own_and_tiny_for_one_entry():
    stds = gradients.entry_std(make(1))
    for std, g in zip(stds[:2], make(1)[:2], strict=True):
        assert std.item() == pytest.approx(g.numpy().std(ddof=1) + 1e-8)
    assert stds[2].item() == pytest.approx(1e-8)


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        gradients.dot(make(1), make(2)[:2])
