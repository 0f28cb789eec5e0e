"""ACE and BDO against plain Python and the moving average derived from the rule."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmlab.balancers.atf import ace_update, bdo_update


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def random_factors(rows=30, modalities=3):
    generator = torch.Generator().manual_seed(0)
    shape = (rows, modalities)
    factors = torch.rand(shape, dtype=torch.float64, generator=generator)
    before, after = torch.rand(2, *shape, dtype=torch.float64, generator=generator)
    return factors / factors.sum(-1, keepdim=True), before, after


def ace_one(factors, losses, rate):
    raw = [f + rate * x for f, x in zip(factors, losses, strict=True)]
    return [r / sum(raw) for r in raw]


def bdo_one(factors, before, after, rate):
    raw = [max(f + rate * (a - b), 0) for f, b, a in zip(factors, before, after, strict=True)]
    return [r / sum(raw) if sum(raw) else 1 / len(raw) for r in raw]


@pytest.mark.parametrize("rate", [0.0, 0.1, 3.0])
def test_updates_equal_the_rule_row_by_row(rate):
    factors, before, after = random_factors()
    rows = list(zip(factors.tolist(), before.tolist(), after.tolist(), strict=True))
    ace = ace_update(factors, before, rate)
    torch.testing.assert_close(ace, double(*[ace_one(f, b, rate) for f, b, _ in rows]))
    bdo = bdo_update(factors, before, after, rate)
    torch.testing.assert_close(bdo, double(*[bdo_one(f, b, a, rate) for f, b, a in rows]))
    for new in (ace, bdo):
        assert (new >= 0).all()
        torch.testing.assert_close(new.sum(-1), torch.ones(30, dtype=torch.float64))


def test_ace_is_a_moving_average_of_the_loss_shares():
    factors, losses, _ = random_factors()
    total = losses.sum(-1, keepdim=True)
    beta = 0.7 * total / (1 + 0.7 * total)
    expected = (1 - beta) * factors + beta * losses / total
    torch.testing.assert_close(ace_update(factors, losses, 0.7), expected)


def test_constant_losses_drive_ace_to_their_shares():
    factors, losses = double(0.8, 0.1, 0.1), double(0.2, 0.3, 0.5)
    for _ in range(200):
        factors = ace_update(factors, losses, 0.5)
    torch.testing.assert_close(factors, losses)


def test_losses_of_zero_leave_the_factors():
    factors, _, _ = random_factors()
    torch.testing.assert_close(ace_update(factors, torch.zeros_like(factors), 0.5), factors)
    same = torch.ones_like(factors)
    torch.testing.assert_close(bdo_update(factors, same, same, 0.5), factors)


def test_the_higher_loss_gets_the_higher_rate():
    factors = ace_update(double(0.5, 0.5), double(2.0, 1.0), 0.1)
    assert factors[0] > 0.5 > factors[1]


def test_the_modality_that_improved_gives_rate_away():
    factors = bdo_update(double(0.5, 0.5), double(1.0, 1.0), double(0.4, 1.0), 0.5)
    torch.testing.assert_close(factors, double(0.2 / 0.7, 0.5 / 0.7))


def test_a_large_improvement_stops_at_zero():
    factors = bdo_update(double(0.5, 0.5), double(9.0, 1.0), double(0.0, 1.0), 1.0)
    assert torch.equal(factors, double(0.0, 1.0))


def test_where_every_factor_would_be_zero_bdo_is_uniform():
    before = double(9.0, 9.0, 9.0, 9.0)
    factors = bdo_update(double(0.1, 0.2, 0.3, 0.4), before, torch.zeros_like(before), 1.0)
    assert torch.equal(factors, double(0.25, 0.25, 0.25, 0.25))


def test_updates_follow_a_permutation_of_the_modalities():
    factors, before, after = random_factors()
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(
        ace_update(factors[:, order], before[:, order], 0.3),
        ace_update(factors, before, 0.3)[:, order],
    )
    torch.testing.assert_close(
        bdo_update(factors[:, order], before[:, order], after[:, order], 0.3),
        bdo_update(factors, before, after, 0.3)[:, order],
    )


def test_many_rates_are_one_call():
    factors, before, after = (x[0] for x in random_factors())
    rates = double(0.1, 0.5, 2.0)
    ace = ace_update(factors, before, rates[:, None])
    bdo = bdo_update(factors, before, after, rates[:, None])
    for i, rate in enumerate(rates.tolist()):
        torch.testing.assert_close(ace[i], ace_update(factors, before, rate))
        torch.testing.assert_close(bdo[i], bdo_update(factors, before, after, rate))


def test_a_nan_loss_is_not_hidden():
    assert ace_update(double(0.5, 0.5), double(torch.nan, 1.0), 0.1).isnan().all()
    lost = double(torch.nan, 1.0)
    assert bdo_update(double(0.5, 0.5), double(1.0, 1.0), lost, 0.1).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    x = torch.rand(2, 3, dtype=dtype)
    assert ace_update(x, x, 0.1).dtype == dtype
    assert bdo_update(x, x, x, 0.1).dtype == dtype


def test_no_value_is_read_by_the_host():
    with FakeTensorMode():
        x, rate = torch.rand(2, 3), torch.rand(())
        assert ace_update(x, x, rate).shape == (2, 3)
        assert bdo_update(x, x, x, rate).shape == (2, 3)


def test_what_is_not_allowed_is_named():
    x = torch.rand(5, 3)
    with pytest.raises(ValueError, match=r"factors \(5, 3\), losses \(5, 2\).*Allowed.*\(…, M\)"):
        ace_update(x, x[:, :2], 0.1)
    with pytest.raises(ValueError, match=r"losses_after \(4, 3\)"):
        bdo_update(x, x, x[:4], 0.1)
    with pytest.raises(ValueError, match=r"rate is -0.1; allowed"):
        ace_update(x, x, -0.1)
    with pytest.raises(ValueError, match=r"rate is -0.1; allowed"):
        bdo_update(x, x, x, -0.1)
