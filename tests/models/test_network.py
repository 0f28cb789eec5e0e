"""A network is set by its seed alone, and refuses what does not fit together."""

import pytest
import torch
from torch import nn

from mmlab.datasets import Batch, MultimodalData
from mmlab.datasets.synthetic import synthetic
from mmlab.models import FUSIONS, Concat, MultimodalNet, Output

DATA = synthetic(n=(40, 10, 10), dims=6)


def weights(module):
    return [p.detach().clone() for p in module.parameters()]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def images(shape):
    batch = Batch({"a": torch.randn(4, *shape)}, torch.tensor([0, 1, 2, 0]))
    return MultimodalData(batch, batch, batch)


@pytest.mark.parametrize("heads", ["own", "shared"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_encoders_start_the_same_whatever_follows_them(fusion, heads):
    plain = MultimodalNet.build(DATA, seed=3)
    net = MultimodalNet.build(DATA, fusion=fusion, heads=heads, seed=3)
    assert same(weights(plain.encoders), weights(net.encoders))
    assert not same(weights(plain.encoders), weights(MultimodalNet.build(DATA, seed=4).encoders))
    assert net.shared_head == (heads == "shared")
    out = net(DATA.test.inputs)
    assert out.joint.shape == out.unimodal["a"].shape == (10, 2)


def test_no_two_parts_start_alike():
    net = MultimodalNet.build(DATA)
    assert not same(weights(net.encoders["a"]), weights(net.encoders["b"]))
    assert not same(weights(net.heads["a"]), weights(net.heads["b"]))


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    MultimodalNet.build(DATA)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_weights_do_not_depend_on_the_global_generator():
    torch.manual_seed(1)
    first = weights(MultimodalNet.build(DATA))
    torch.manual_seed(2)
    assert same(first, weights(MultimodalNet.build(DATA)))


def test_heads_are_computed_once_and_only_when_read():
    net = MultimodalNet.build(DATA)
    calls = []
    for m in net.modalities:
        net.heads[m].register_forward_hook(lambda *_, m=m: calls.append(m))
    out = net(DATA.test.inputs)
    assert calls == []
    assert out.unimodal["b"] is out.unimodal["b"]
    assert calls == ["b"] and list(out.unimodal) == ["a", "b"] and len(out.unimodal) == 2


def test_the_late_fusion_is_the_mean_of_the_unimodal_logits():
    out = MultimodalNet.build(DATA, fusion="late")(DATA.test.inputs)
    torch.testing.assert_close(out.joint, (out.unimodal["a"] + out.unimodal["b"]) / 2)


def test_an_output_needs_its_fusion_for_contributions():
    net = MultimodalNet.build(DATA)
    out = net(DATA.test.inputs)
    torch.testing.assert_close(sum(out.contributions.values()), out.joint)
    with pytest.raises(ValueError, match=r"pass fusion=net\.fusion"):
        _ = Output(out.features, out.joint, out.unimodal).contributions


@pytest.mark.parametrize("shape", [(9,), (3, 9), (8, 8), (3, 8, 8)])
def test_cnns_fit_the_shape_and_hold_no_batch_statistics(shape):
    net = MultimodalNet.build(images(shape), encoders="cnn", width=8)
    assert net(images(shape).train.inputs).features["a"].shape == (4, 8)
    assert list(net.buffers()) == []
    expected = nn.Conv2d if shape in ((8, 8), (3, 8, 8)) else nn.Conv1d
    assert any(isinstance(module, expected) for module in net.modules())


def test_a_shape_that_no_convolution_fits_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 5\); allowed are .* Use encoders='mlp'"):
        MultimodalNet.build(images((2, 3, 4, 5)), encoders="cnn")


@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        ({"fusion": "contact"}, "unknown fusion 'contact'; allowed are 'concat', 'sum'"),
        ({"heads": "two"}, "unknown heads 'two'; allowed are 'own', 'shared'"),
        ({"encoders": "rnn"}, "unknown encoders 'rnn'; allowed are 'mlp', 'cnn'"),
        ({"encoders": {"a": nn.Linear(6, 64)}}, r"encoders name \['a'\], the data have \['a', 'b'"),
    ],
)
def test_unknown_choices_are_refused(choice, allowed):
    with pytest.raises(ValueError, match=allowed):
        MultimodalNet.build(DATA, **choice)


def test_parts_with_other_modalities_are_refused():
    encoders = {m: nn.Linear(6, 4) for m in "ab"}
    fusion = Concat({"a": 4, "b": 4}, 2)
    with pytest.raises(ValueError, match=r"fusion has the modalities \['a'\], encoders have"):
        MultimodalNet(encoders, Concat({"a": 4}, 2), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"heads has the modalities \['a', 'c'\]"):
        MultimodalNet(encoders, fusion, {m: nn.Linear(4, 2) for m in "ac"})


def test_what_makes_an_encoder_is_called_anew_at_every_seed():
    torch.manual_seed(0)
    given = {"a": lambda: nn.Linear(6, 64), "b": nn.Linear(6, 64)}
    before = torch.get_rng_state()
    one, again, other = (MultimodalNet.build(DATA, encoders=given, seed=s) for s in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert same(weights(one), weights(again))
    assert not same(weights(one.encoders["a"]), weights(other.encoders["a"]))
    assert same(weights(one.encoders["b"]), weights(other.encoders["b"]))
    stack = MultimodalNet.build(DATA, encoders=given, seed=3, replicas=2)
    assert same(weights(stack.replica(1).encoders["a"]), weights(other.encoders["a"]))
    with pytest.raises(TypeError, match=r"the encoder of 'a' is None; give an nn\.Module"):
        MultimodalNet.build(DATA, encoders={**given, "a": lambda: None})


def test_one_encoder_given_for_two_modalities_is_shared_and_still_a_copy():
    encoder = nn.Linear(6, 8)
    net = MultimodalNet.build(DATA, encoders={"a": encoder, "b": encoder}, width=8)
    assert net.encoders["a"] is net.encoders["b"] is not encoder


def test_unknown_modalities_are_refused():
    net = MultimodalNet.build(DATA)
    with pytest.raises(KeyError, match=r"unknown modality 'video'; this network has \['a', 'b'\]"):
        net.encode("video", torch.zeros(1, 6))
    with pytest.raises(ValueError, match=r"inputs are \['a'\]\. .* set Batch\.present"):
        net({"a": torch.zeros(1, 6)})


def test_what_a_subclass_adds_starts_from_the_seed():
    class Gated(MultimodalNet):
        def __init__(self, *parts):
            super().__init__(*parts)
            self.gate = nn.Linear(4, 2)

    one, other = Gated.build(DATA, seed=3), Gated.build(DATA, seed=3)
    assert same(weights(one), weights(other))
    assert not same(weights(one.gate), weights(Gated.build(DATA, seed=4).gate))
    assert same(weights(one.fusion), weights(MultimodalNet.build(DATA, seed=3).fusion))
