"""The dials: each does what its unit says, nested in strength, and leaves no sample bare."""

import pytest
import torch

from mmlab.datasets import Batch, drop, realised_rates
from mmlab.datasets.dials import add_noise, check_dial, hide, keep, occlude
from mmlab.seeds import generator


def make_batch(size=4000, modalities=("a", "b")):
    return Batch({m: torch.ones(size, 2, 3) for m in modalities}, torch.zeros(size).long())


def bare(batch):
    return (~torch.stack(list(batch.present.values())).any(0)).sum().item()


def test_noise_has_the_asked_sd_and_scales_the_same_draw():
    values = torch.full((20_000, 2), 3.0)
    weak = add_noise(values, 0.5, generator(0, "x")) - values
    strong = add_noise(values, torch.tensor([1.0, 2.0]), generator(0, "x")) - values
    assert weak.std(0).tolist() == pytest.approx([0.5, 0.5], rel=0.03)
    torch.testing.assert_close(strong, weak * torch.tensor([2.0, 4.0]), atol=1e-5, rtol=1e-5)


def test_occlusion_hides_one_block_of_an_image_at_any_place():
    hidden = occlude(torch.ones(5000, 8, 8), 0.25, generator(0, "x"), axes=2) == 0
    assert (hidden.sum((1, 2)) == 16).all()
    assert (hidden.any(2).sum(1) == 4).all() and (hidden.any(1).sum(1) == 4).all()
    corners = hidden.flatten(1).int().argmax(1)
    assert len(corners.unique()) == 25, "a 4 x 4 block fits at 25 places"


def test_occlusion_in_time_hides_all_coefficients():
    hidden = occlude(torch.ones(2000, 13, 24), 0.5, generator(0, "x"), axes=1) == 0
    assert (hidden.sum(2) == 12).all()
    assert (hidden == hidden[:, :1]).all()
    starts = hidden[:, 0].int().argmax(1)
    assert starts.min() == 0 and starts.max() == 12
    edges = hidden[:, 0].int().diff(dim=1).abs().sum(1)
    assert edges.max() <= 2, "the frames must be in one stretch"


@pytest.mark.parametrize(("fraction", "count"), [(0.0, 0), (1.0, 64)])
def test_occlusion_at_the_ends_of_its_scale(fraction, count):
    hidden = occlude(torch.ones(50, 8, 8), fraction, generator(0, "x"), axes=2) == 0
    assert (hidden.sum((1, 2)) == count).all()


def test_keep_leaves_exactly_that_many_samples():
    batch = keep(make_batch(), {"a": 0.1}, seed=1)
    assert batch.present["a"].sum() == 400
    assert batch.present["b"].all()
    assert (batch.inputs["a"][~batch.present["a"]] == 0).all()
    assert (batch.inputs["a"][batch.present["a"]] == 1).all()
    more = keep(make_batch(), {"a": 0.5}, seed=1)
    assert (more.present["a"] | ~batch.present["a"]).all(), "draws of one seed are nested"


def test_keep_is_independent_between_modalities():
    size = 40_000
    present = keep(make_batch(size, "abc"), {"a": 0.5, "b": 0.5}).present
    both = (present["a"] & present["b"]).double().mean().item()
    assert both == pytest.approx(0.25, abs=5 * (0.25 / size) ** 0.5)
    assert present["c"].all()


@pytest.mark.parametrize(("size", "fraction", "count"), [(10, 0.29, 3), (7, 0.5, 4), (9, 0.04, 0)])
def test_keep_rounds_to_the_nearest_whole_sample(size, fraction, count):
    assert keep(make_batch(size), {"a": fraction}).present["a"].sum() == count


def test_drop_hits_each_modality_at_the_documented_rate():
    size, rate = 40_000, 0.6
    batch = drop(make_batch(size), rate)
    rates = realised_rates(batch)
    expected = rate - rate**2 / 2
    for name in "ab":
        assert rates[name] == pytest.approx(expected, abs=5 * (0.25 / size) ** 0.5)
        assert (batch.inputs[name][~batch.present[name]] == 0).all()
    assert bare(batch) == 0


def test_drop_is_independent_between_modalities():
    size = 40_000
    present = drop(make_batch(size, "abc"), {"a": 0.5, "b": 0.5}).present
    both = (~present["a"] & ~present["b"]).double().mean().item()
    assert both == pytest.approx(0.25, abs=5 * (0.25 / size) ** 0.5)
    assert present["c"].all()


@pytest.mark.parametrize("modalities", ["ab", "abc"])
def test_drop_of_everything_leaves_one_modality_each(modalities):
    batch = drop(make_batch(6000, modalities), 1.0)
    there = torch.stack(list(batch.present.values())).sum(0)
    assert (there == 1).all()
    for rate in realised_rates(batch).values():
        assert rate == pytest.approx(1 - 1 / len(modalities), abs=0.035)


def test_drop_never_brings_back_what_was_missing_before():
    first = keep(make_batch(), {"a": 0.3})
    second = drop(first, 1.0)
    assert (first.present["a"] | ~second.present["a"]).all()
    assert bare(second) == 0
    assert second.present["a"].any() and not second.present["b"].all()


def test_a_sample_that_had_nothing_stays_bare():
    nothing = torch.zeros(50, dtype=torch.bool)
    batch = Batch(make_batch(50).inputs, torch.zeros(50).long(), {"a": nothing, "b": nothing})
    assert bare(drop(batch, 0.5)) == 50


def test_drop_is_seeded_and_leaves_its_argument_alone():
    batch = make_batch()
    one, same, other = drop(batch, 0.5, seed=1), drop(batch, 0.5, seed=1), drop(batch, 0.5, seed=2)
    assert torch.equal(one.present["a"], same.present["a"])
    assert not torch.equal(one.present["a"], other.present["a"])
    assert not torch.equal(one.present["a"], one.present["b"])
    assert batch.present is None and (batch.inputs["a"] == 1).all()


def test_what_saves_a_sample_is_drawn_with_the_seed_and_for_each_dial():
    batch = make_batch()
    saved = [drop(batch, 1.0, seed=1), drop(batch, 1.0, seed=2)]
    saved.append(keep(batch, {"a": 0.0, "b": 0.0}, seed=1))
    for one, other in ((0, 1), (0, 2)):
        same = saved[one].present["a"] == saved[other].present["a"]
        assert same.double().mean().item() == pytest.approx(0.5, abs=0.04)


def test_nothing_dropped_is_the_batch_itself():
    batch = make_batch(5)
    assert drop(batch, 0.0) is batch
    assert realised_rates(batch) == {"a": 0.0, "b": 0.0}


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        (0.5, TypeError, "which modality"),
        ({"video": 0.5}, ValueError, "'video'; allowed: a, b"),
        ({"a": 1.5}, ValueError, "1.5; give a number from 0 to 1"),
        ({"a": -0.1}, ValueError, "-0.1"),
        ({"a": float("nan")}, ValueError, "nan"),
        ({"a": "half"}, ValueError, "half"),
        ({"a": True}, ValueError, "True"),
    ],
)
def test_bad_settings_are_refused_by_name_and_value(setting, error, message):
    with pytest.raises(error, match=message):
        check_dial("keep", setting, ("a", "b"))


def test_bad_rates_are_refused():
    with pytest.raises(ValueError, match=r"missing\['a'\] is 1.2"):
        drop(make_batch(5), 1.2)
    with pytest.raises(ValueError, match="unknown modality 'c'"):
        drop(make_batch(5), {"c": 0.2})


def test_hide_follows_its_masks_and_leaves_no_sample_bare():
    batch = make_batch(4)
    gaps = {"a": torch.tensor([True, True, False, False]), "b": torch.tensor([False, True] * 2)}
    hidden = hide(batch, gaps)
    assert bare(hidden) == 0
    assert hidden.present["a"][[0, 2, 3]].tolist() == [False, True, True]
    assert hidden.present["b"][[0, 2, 3]].tolist() == [True, True, False]
    assert hidden.present["a"][1] != hidden.present["b"][1], "one of the two is kept"
    for m, mask in hidden.present.items():
        assert (hidden.inputs[m] != 0).flatten(1).all(1).tolist() == mask.tolist()
    assert batch.present is None and batch.inputs["a"].all()


def test_hide_refuses_what_is_no_mask():
    with pytest.raises(ValueError, match="unknown modality 'c'"):
        hide(make_batch(4), {"c": torch.ones(4).bool()})
    with pytest.raises(ValueError, match=r"missing\['a'\] is torch.bool of shape \(3,\)"):
        hide(make_batch(4), {"a": torch.ones(3).bool()})
    with pytest.raises(TypeError, match="hide takes a Batch"):
        hide({}, {})
