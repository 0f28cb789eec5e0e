"""Two digits in one image: labels of what is seen, and rules that train different encoders."""

import pytest
import torch

from mmlab.datasets import load
from mmlab.teaching.tasks import learn, side_by_side


def test_the_left_half_is_the_digit_and_about_half_of_the_right_one_is_kept():
    split = load("av-digits", seed=0).test
    pair, (easy, hard) = side_by_side(split, torch.Generator().manual_seed(0))
    assert pair.shape == (len(split), 8, 16)
    assert torch.equal(pair[..., :8], split.inputs["image"]) and torch.equal(easy, split.target)
    draw = torch.Generator().manual_seed(0)
    other = torch.randperm(len(split), generator=draw)
    assert torch.equal(hard, split.target[other])
    same = (pair[..., 8:] == split.inputs["image"][other]).double().mean()
    assert 0.5 < same < 0.8  # many pixels are the same by chance: most are empty


def test_the_clean_digit_is_easier_and_a_task_alone_leaves_the_other_at_chance():
    found = learn("sum", seed=0, epochs=2)
    assert found["easy"] > found["hard"] + 0.1
    assert learn("easy alone", seed=0, epochs=2)["hard"] < 0.3


def test_each_rule_trains_in_its_own_way():
    plain = learn("sum", seed=0, epochs=1)
    assert learn("MMPareto", seed=0, epochs=1) != plain
    assert learn("MMPareto", seed=0, epochs=1, gamma=3.0) != learn("MMPareto", seed=0, epochs=1)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="MMPareto"):
        learn("product", seed=0, epochs=1)
