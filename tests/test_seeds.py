"""Every stream is its own, the same on every machine, and the global one is left alone."""

import torch

from mmlab.seeds import derive, drawing, generator


def test_derived_seeds_are_stable_and_distinct():
    assert derive(0, "order") == 5618756638689033999  # the same for ever, on every platform
    paths = [(0, "order"), (1, "order"), (0, "noise"), (0, "init", "a"), (0, "init", "b"), (0,)]
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
