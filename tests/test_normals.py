"""Noise: standard normal, from its own streams, the same for a replica as for a run alone."""

import pytest
import torch

from mmlab.normals import Normals


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_numbers_are_standard_normal_independent_and_of_their_own_stream():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two = Normals(draw(3)).like([torch.zeros(200, 200), torch.zeros(40_000)])
    assert torch.equal(torch.get_rng_state(), before)
    assert one.shape == (200, 200)
    assert one.mean().abs() < 0.02 and one.std().item() == pytest.approx(1, rel=0.02)
    assert torch.corrcoef(torch.stack([one.flatten(), two]))[0, 1].abs() < 0.02


@pytest.mark.parametrize("ahead", [0, 100, 10_000])
def test_a_replica_draws_what_it_would_draw_alone(ahead):
    shapes = [(5, 3), (7,), ()]
    stacked = Normals([draw(s) for s in (3, 4)], ahead)
    alone = [Normals(draw(s), ahead) for s in (3, 4)]
    for _ in range(9):
        together = stacked.like([torch.zeros(2, *shape) for shape in shapes])
        for r, one in enumerate(alone):
            for mine, theirs in zip(
                one.like([torch.zeros(s) for s in shapes]), together, strict=True
            ):
                assert torch.equal(mine, theirs[r])


def test_numbers_drawn_ahead_are_never_given_twice():
    normals = Normals(draw(0), ahead=64)
    drawn = torch.cat([normals.like([torch.zeros(20)])[0] for _ in range(10)])
    assert len(drawn.unique()) == len(drawn)


def test_numbers_take_the_type_of_what_they_are_for():
    normals = Normals(draw(0), ahead=100)
    for dtype in (torch.float32, torch.float64, torch.float32):
        assert normals.like([torch.zeros(3, dtype=dtype)])[0].dtype == dtype
