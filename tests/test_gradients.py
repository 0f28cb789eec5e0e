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


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_gram_matrices_have_all_inner_products_per_tensor_and_network(count):
    def expected(first):
        parts = zip(*(make(first + k) for k in range(count)), strict=True)
        rows = [torch.stack([g.flatten() for g in tensors]) for tensors in parts]
        return torch.stack([x @ x.T for x in rows])

    alone = [make(1 + k) for k in range(count)]
    torch.testing.assert_close(gradients.grams(alone), expected(1))
    whole = torch.stack([flat(g) for g in alone])
    torch.testing.assert_close(gradients.grams(alone).sum(-3), whole @ whole.T)
    networks = [[make(first + k) for k in range(count)] for first in (1, 5)]
    stacked = [
        [torch.stack(pair) for pair in zip(a, b, strict=True)]
        for a, b in zip(*networks, strict=True)
    ]
    both = torch.stack([expected(1), expected(5)])
    assert both.shape == (2, 3, count, count)
    torch.testing.assert_close(gradients.grams(stacked, lead=1), both)


def test_gram_matrices_of_numbers():
    one, two = [torch.tensor(2.0)], [torch.tensor(3.0)]
    assert gradients.grams([one, two]).tolist() == [[[4.0, 6.0], [6.0, 9.0]]]
    a, b = [torch.tensor([2.0, 3.0])], [torch.tensor([5.0, 7.0])]
    of_networks = [[[[4.0, 10.0], [10.0, 25.0]]], [[[9.0, 21.0], [21.0, 49.0]]]]
    assert gradients.grams([a, b], lead=1).tolist() == of_networks


def test_flattening_comes_back():
    a = make(1)
    for mine, theirs in zip(gradients.unflatten(flat(a), a), a, strict=True):
        assert torch.equal(mine, theirs)
    stacked = [torch.stack(pair) for pair in zip(a, make(2), strict=True)]
    rows = gradients.flatten(stacked, lead=1)
    assert torch.equal(rows, torch.stack([flat(a), flat(make(2))]))
    for mine, theirs in zip(gradients.unflatten(rows, stacked), stacked, strict=True):
        assert torch.equal(mine, theirs)


def test_a_factor_is_aligned_to_the_leading_axes():
    x = torch.ones(2, 3, 4, dtype=torch.float64)
    assert gradients.align_to(x, 0.5) == 0.5
    number = torch.tensor(0.5)
    assert gradients.align_to(x, number) is number
    k = gradients.align_to(x, torch.tensor([1.0, 2.0]))
    assert k.shape == (2, 1, 1) and k.dtype == torch.float64
    assert (x * k)[:, 0, 0].tolist() == [1.0, 2.0]
    assert gradients.align_to(x, torch.zeros(2, 3)).shape == (2, 3, 1)
    assert gradients.align_to(x[:, 0, 0], torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_the_cosine_with_a_zero_gradient_is_zero():
    zero = [torch.zeros_like(g) for g in make(1)]
    assert gradients.cosine(make(1), zero) == 0 == gradients.cosine(zero, zero)


def test_entry_std_is_each_tensors_own_and_tiny_for_one_entry():
    stds = gradients.entry_std(make(1))
    for std, g in zip(stds[:2], make(1)[:2], strict=True):
        assert std.item() == pytest.approx(g.numpy().std(ddof=1) + 1e-8)
    assert stds[2].item() == pytest.approx(1e-8)


def test_lists_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        gradients.dot(make(1), make(2)[:2])
    with pytest.raises(ValueError, match="shorter"):
        gradients.grams([make(1), make(2)[:2]])


def test_the_spread_of_each_network_is_its_own():
    stacked = [torch.stack(pair) for pair in zip(make(1), make(2), strict=True)]
    for std, one, two in zip(
        gradients.entry_std(stacked, lead=1),
        gradients.entry_std(make(1)),
        gradients.entry_std(make(2)),
        strict=True,
    ):
        torch.testing.assert_close(std, torch.stack([one, two]))


@pytest.mark.parametrize("lead", [0, 1])
def test_the_spread_of_large_tensors_is_that_of_small_ones(lead, monkeypatch):
    grads = [torch.randn(3, 50, 40, dtype=torch.float64) + 7, torch.full((3, 9), 2.0).double()]
    whole = gradients.entry_std(grads, lead)
    monkeypatch.setattr(gradients, "LARGE", 8)
    for large, expected in zip(gradients.entry_std(grads, lead), whole, strict=True):
        torch.testing.assert_close(large, expected, rtol=1e-12, atol=1e-14)
