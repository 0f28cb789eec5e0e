"""Every stream is its own, the same on every machine, and the global one is left alone."""

import pytest
import torch

from mmlab.seeds import Draws, derive, drawing, generator, seeded


def test_derived_seeds_are_stable_and_distinct():
    assert derive(0, "order") == 5618756638689033999  # the same for ever, on every platform
    paths = [(0, "order"), (1, "order"), (0, "noise"), (0, "init", "a"), (0, "init", "b"), (0,)]
    paths += [(0, "a", "init"), (0, 1, 2), (0, 2, 1), (0, 12)]
    seeds = {derive(*path) for path in paths}
    assert len(seeds) == len(paths) and all(0 <= seed < 2**63 for seed in seeds)


def test_generators_of_one_name_agree_and_of_two_names_do_not():
    first, again, other = (
        torch.rand(4, generator=generator(0, name)) for name in ("order", "order", "noise")
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_drawing_seeds_the_global_generator_and_puts_it_back():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    with drawing(3, "dropout"):
        inside = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(inside, torch.rand(4, generator=generator(3, "dropout")))


def test_what_is_built_from_a_seed_has_a_stream_of_its_own():
    def build() -> torch.nn.Linear:
        return torch.nn.Linear(2, 2)

    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, again, other = (seeded(3, name, build=build).weight for name in ("a", "a", "b"))
    assert torch.equal(one, again) and not torch.equal(one, other)
    with drawing(3, "init", "a"):
        assert torch.equal(build().weight, one)
    assert torch.equal(torch.get_rng_state(), before)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_for_all(seed: int) -> Draws:
    return Draws(lambda kind: draw(seed))


def test_normals_are_standard_independent_and_of_their_own_stream():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two = one_for_all(3).normals([torch.zeros(200, 200), torch.zeros(40_000)])
    assert torch.equal(torch.get_rng_state(), before)
    assert one.shape == (200, 200)
    assert one.mean().abs() < 0.02 and one.std().item() == pytest.approx(1, rel=0.02)
    assert torch.corrcoef(torch.stack([one.flatten(), two]))[0, 1].abs() < 0.02


@pytest.mark.parametrize("ahead", [0, 100, 10_000])
def test_a_stack_draws_what_each_network_would_draw_alone(ahead):
    shapes, like = [(5, 3), (7,), ()], torch.zeros((), dtype=torch.float64)
    stacked = Draws(lambda kind: [draw(s) for s in (3, 4)], ahead)
    alone = [Draws(lambda kind, s=s: draw(s), ahead) for s in (3, 4)]
    for _ in range(9):
        together = stacked.normals([torch.zeros(2, *shape) for shape in shapes])
        coins, order = stacked.uniforms((2, 3), like), stacked.permutation(9, like.device)
        assert [x.shape for x in together] == [(2, *shape) for shape in shapes]
        assert coins.shape == (2, 2, 3) and order.shape == (2, 9)
        for r, one in enumerate(alone):
            mine = one.normals([torch.zeros(s) for s in shapes])
            for x, theirs in zip(mine, together, strict=True):
                assert torch.equal(x, theirs[r])
            assert torch.equal(one.uniforms((2, 3), like), coins[r])
            assert torch.equal(one.permutation(9, like.device), order[r])


def test_a_stack_of_one_has_its_axis():
    draws, like = Draws(lambda kind: [draw(0)]), torch.zeros(1, 3)
    assert draws.normals([like])[0].shape == (1, 3)
    assert draws.uniforms((4,), like).shape == (1, 4)
    assert draws.permutation(5, like.device).shape == (1, 5)


def test_numbers_drawn_ahead_are_never_given_twice():
    draws = Draws(lambda kind: draw(0), ahead=64)
    drawn = torch.cat([draws.normals([torch.zeros(20)])[0] for _ in range(10)])
    assert len(drawn.unique()) == len(drawn)


def test_numbers_drawn_ahead_are_whole_requests_and_follow_each_other():
    draws, source = Draws(lambda kind: draw(0), ahead=64), draw(0)
    mine = [draws.normals([torch.zeros(20)])[0] for _ in range(4)]
    block, more = torch.randn(60, generator=source), torch.randn(60, generator=source)
    assert torch.equal(torch.cat(mine), torch.cat([block, more])[:80])


def test_normals_take_the_type_of_what_they_are_for():
    draws = Draws(lambda kind: draw(0), ahead=100)
    for dtype in (torch.float32, torch.float64, torch.float32):
        assert draws.normals([torch.zeros(3, dtype=dtype)])[0].dtype == dtype
        assert draws.uniforms((3,), torch.zeros((), dtype=dtype)).dtype == dtype


def test_each_kind_is_a_stream_that_is_made_once_and_when_it_is_needed():
    made = []

    def source(kind: str) -> torch.Generator:
        made.append(kind)
        return draw({"normals": 1, "uniforms": 2, "permutations": 3}[kind])

    draws, like = Draws(source), torch.zeros(4)
    assert made == []
    order = draws.permutation(30, like.device)
    assert made == ["permutations"]
    coins, noise = draws.uniforms((4,), like), draws.normals([like])[0]
    assert torch.equal(order, torch.randperm(30, generator=draw(3)))
    assert torch.equal(coins, torch.rand(4, generator=draw(2)))
    assert torch.equal(noise, torch.randn(4, generator=draw(1)))
    assert not torch.equal(draws.permutation(30, like.device), order)
    assert not torch.equal(draws.uniforms((4,), like), coins)
    assert not torch.equal(draws.normals([like])[0], noise)
    assert made == ["permutations", "uniforms", "normals"]


def test_the_global_generator_serves_by_default():
    draws, like = Draws(), torch.zeros(4)
    torch.manual_seed(5)
    mine = draws.normals([like])[0], draws.uniforms((4,), like), draws.permutation(9, like.device)
    torch.manual_seed(5)
    for drawn, expected in zip(
        mine, (torch.randn(4), torch.rand(4), torch.randperm(9)), strict=True
    ):
        assert torch.equal(drawn, expected)


def test_uniforms_lie_between_0_and_1_and_a_permutation_is_one():
    draws = one_for_all(0)
    drawn = draws.uniforms((100, 100), torch.zeros(()))
    assert drawn.min() >= 0 and drawn.max() < 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
    assert draws.permutation(50, drawn.device).sort().values.tolist() == list(range(50))
