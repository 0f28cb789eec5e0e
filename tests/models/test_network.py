"""A network is set by its seed alone, and refuses what does not fit together."""

import pytest
import torch
from torch import nn

from mmlab.datasets import Batch, MultimodalData
from mmlab.datasets.synthetic import synthetic
from mmlab.models import FUSIONS, Concat, Fusion, Late, MultimodalNet, NetworkStack, Output
from mmlab.models.modes import evaluating, sparing_buffers, training_mode

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


def test_normalised_encoders_undo_a_factor_on_each_sample():
    x = images((2, 6)).train.inputs["a"]
    factors = torch.tensor([1.0, 4.0, 50.0, 1000.0]).reshape(4, 1, 1)
    for name, undone in (("normalised", True), ("mlp", False)):
        encoder = MultimodalNet.build(images((2, 6)), encoders=name, width=8).encoders["a"]
        assert encoder(x).shape == (4, 8)
        assert torch.allclose(encoder(factors * x), encoder(x), atol=1e-3) == undone


def test_a_shape_that_no_convolution_fits_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 5\); allowed are .* Use encoders='mlp'"):
        MultimodalNet.build(images((2, 3, 4, 5)), encoders="cnn")


@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        ({"fusion": "contact"}, "fusion is 'contact'; allowed are 'concat', 'sum'"),
        ({"heads": "two"}, "heads is 'two'; allowed are 'own', 'shared'"),
        ({"encoders": "rnn"}, "encoders is 'rnn'; allowed are 'mlp', 'normalised', 'cnn'"),
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
    stack = NetworkStack([one, other])
    assert same(weights(stack.replica(1).encoders["a"]), weights(other.encoders["a"]))
    with pytest.raises(TypeError, match=r"the encoder of 'a' is None; give an nn\.Module"):
        MultimodalNet.build(DATA, encoders={**given, "a": lambda: None})


def test_modalities_may_have_encoders_of_different_names():
    given = {"a": "normalised", "b": "mlp"}
    net = MultimodalNet.build(DATA, encoders=given, seed=3)
    for m, name in given.items():
        same_name = MultimodalNet.build(DATA, encoders=name, seed=3)
        assert same(weights(net.encoders[m]), weights(same_name.encoders[m]))
    with pytest.raises(ValueError, match="the encoder of 'b' is 'rnn'; allowed are 'mlp', 'norm"):
        MultimodalNet.build(DATA, encoders={**given, "b": "rnn"})


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


# Encoders of one's own


class Several(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


@pytest.mark.parametrize("make", [lambda: Several(6, 64), lambda: lambda: Several(6, 64)])
def test_an_encoder_that_gives_more_than_features_is_refused_by_its_modality(make):
    given = {"a": nn.Linear(6, 64), "b": make()}
    match = r"the encoder of 'b' gives a tuple; it must give one tensor \(B, 64\): wrap it"
    with pytest.raises(TypeError, match=match):
        MultimodalNet.build(DATA, encoders=given)


def test_encoders_that_do_not_fit_are_named():
    wrong = {"a": nn.Linear(6, 64), "b": nn.Linear(6, 32)}
    with pytest.raises(ValueError, match=r"of 'b' turns a batch of 2 into the shape \(2, 32\)"):
        MultimodalNet.build(DATA, encoders=wrong)
    with pytest.raises(RuntimeError) as caught:
        MultimodalNet.build(DATA, encoders={**wrong, "b": nn.Linear(5, 64)})
    assert "The encoder of 'b' was tried on inputs of the shape (2, 6)" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match=r"encoders is a Linear; give a dict with one nn\.Module"):
        MultimodalNet.build(DATA, encoders=nn.Linear(6, 64))


def test_to_try_an_encoder_leaves_no_trace():
    normed = nn.Sequential(nn.Linear(6, 64), nn.BatchNorm1d(64))
    net = MultimodalNet.build(DATA, encoders={"a": normed, "b": nn.Linear(6, 64)})
    assert net.encoders["a"][1].num_batches_tracked == 0 and net.encoders["a"].training


# Fusions of one's own


class Weighted(Fusion):
    def __init__(self, widths, n_outputs):
        super().__init__(widths, n_outputs)
        self.linear = nn.Linear(sum(widths.values()), n_outputs)

    def forward(self, features):
        return self.linear(torch.cat([features[m] for m in self.widths], dim=-1))


def make_weighted(widths, n_outputs):
    assert widths == {"a": 64, "b": 64} and n_outputs == 2
    return Weighted(widths, n_outputs)


@pytest.mark.parametrize("fusion", [Weighted, make_weighted])
def test_what_makes_a_fusion_is_called_anew_at_every_seed(fusion):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, again, other = (MultimodalNet.build(DATA, fusion=fusion, seed=s) for s in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert type(one.fusion) is Weighted
    assert same(weights(one.fusion), weights(again.fusion))
    assert not same(weights(one.fusion), weights(other.fusion))
    plain = MultimodalNet.build(DATA, seed=3)
    assert same(weights(one.encoders), weights(plain.encoders))
    assert same(weights(one.heads), weights(plain.heads))
    assert one(DATA.test.inputs).joint.shape == (10, 2)


def test_a_fusion_that_is_given_is_copied():
    given = Weighted({"a": 64, "b": 64}, 2)
    one, other = (MultimodalNet.build(DATA, fusion=given, seed=s) for s in (3, 4))
    assert one.fusion is not given and one.fusion.linear.weight is not given.linear.weight
    assert same(weights(one.fusion), weights(given)) and same(weights(other.fusion), weights(given))


def test_the_class_of_a_fusion_is_as_good_as_its_name():
    named, made = (MultimodalNet.build(DATA, fusion=f, seed=3) for f in ("gated", FUSIONS["gated"]))
    assert same(weights(named), weights(made))
    late = MultimodalNet.build(DATA, fusion="late", heads="shared")
    assert isinstance(late.fusion, Late) and late.fusion.heads is late.heads


@pytest.mark.parametrize("make", [lambda widths, n_outputs: None, lambda *given: given])
def test_what_makes_no_module_is_refused(make):
    with pytest.raises(TypeError, match=r"fusion made (None|a tuple); give a name of .* or"):
        MultimodalNet.build(DATA, fusion=make)


def test_a_fusion_of_other_modalities_is_refused():
    with pytest.raises(ValueError, match=r"fusion has the modalities \['a', 'c'\], encoders have"):
        MultimodalNet.build(DATA, fusion=Weighted({"a": 64, "c": 64}, 2))


@pytest.mark.parametrize("seed", [[0, 1], 0.5, True, None])
def test_a_seed_is_one_whole_number(seed):
    with pytest.raises(TypeError, match=r"seed is .*; give a whole number"):
        MultimodalNet.build(DATA, seed=seed)


# A forward pass of one's own


class Frames(MultimodalNet):
    """Its encoders give a feature per frame, and its fusion wants them."""

    def forward(self, inputs):
        frames = {m: self.encoders[m](x) for m, x in inputs.items()}
        means = {m: h.mean(1) for m, h in frames.items()}
        heads = {m: self.head(m)(h) for m, h in means.items()}
        return Output(means, self.fusion(means), heads, self.fusion)


def test_a_forward_pass_that_does_not_fit_its_parts_is_refused_by_build():
    match = (
        r"Frames\.forward fails on two samples: .*Its parts are encoders='mlp', fusion=your own, "
        r"heads='own', width=16; change these arguments.*build=\{"
    )
    with pytest.raises(ValueError, match=match):
        Frames.build(DATA, fusion=Concat, width=16)


def test_whatever_a_forward_pass_fails_by_is_told_by_build():
    class Gives(MultimodalNet):
        def forward(self, inputs):
            raise KeyError("c")

    with pytest.raises(ValueError, match=r"Gives\.forward fails on two samples: 'c'"):
        Gives.build(DATA)


def test_trying_a_forward_pass_leaves_no_trace():
    class Normal(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(6)

        def forward(self, x):
            return self.norm(x + torch.rand_like(x))

    torch.manual_seed(0)
    before = torch.get_rng_state()
    net = Doubled.build(DATA, encoders=dict.fromkeys("ab", Normal), width=6)
    assert torch.equal(torch.get_rng_state(), before)
    assert net.training and net.encoders["a"].norm.num_batches_tracked == 0


# What runs when


class Doubled(MultimodalNet):
    def forward(self, inputs):
        return super().forward({m: 2 * x for m, x in inputs.items()})


class Halved(MultimodalNet):
    def encode(self, m, x):
        return super().encode(m, x) / 2


def test_a_lazy_pass_is_the_pass_when_it_is_read():
    net = MultimodalNet.build(DATA, seed=3)
    out, plain = net.lazily(DATA.test.inputs), net(DATA.test.inputs)
    assert list(out.features.computed) == [] and not out.fused
    assert "a" in out.features and "c" not in out.features and len(out.features) == 2
    with torch.no_grad():  # where it is read does not matter
        assert torch.equal(out.unimodal["b"], plain.unimodal["b"])
        assert out.unimodal["b"].requires_grad
    assert list(out.features.computed) == ["b"]
    assert torch.equal(out.joint, plain.joint) and out.fused and plain.fused
    assert out.features["a"] is out.features["a"]
    assert isinstance(plain.features, dict)


def test_a_lazy_pass_wants_an_output_and_the_next_pass_is_whole():
    class Wrong(MultimodalNet):
        def forward(self, inputs):
            return {}

    net = MultimodalNet.build(DATA)
    with pytest.raises(TypeError, match=r"Wrong\.forward gives a dict; it must give an Output"):
        Wrong(net.encoders, net.fusion, net.heads).lazily(DATA.test.inputs)
    with pytest.raises(ValueError, match="this network has the modalities"):
        net.lazily({"a": torch.zeros(1, 6)})
    assert net(DATA.test.inputs).fused
    own = Doubled(net.encoders, net.fusion, net.heads)
    twice = net({m: 2 * x for m, x in DATA.test.inputs.items()})
    assert torch.equal(own.lazily(DATA.test.inputs).joint, twice.joint)


def test_whether_a_network_fuses_what_its_encoders_give():
    class Encoded(MultimodalNet):
        def encoded(self, m, x):
            return super().encoded(m, x) / 2

    class More(MultimodalNet):
        extra = 1

    net = MultimodalNet.build(DATA)
    parts = net.encoders, net.fusion, net.heads
    assert net.plain_forward and More(*parts).plain_forward
    assert NetworkStack([net, net]).plain_forward
    for kind in (Doubled, Halved, Encoded):
        assert not kind(*parts).plain_forward


def test_a_shared_head_reads_all_modalities_at_once_or_one_by_one_alike():
    net = MultimodalNet.build(DATA, heads="shared")
    together = net(DATA.test.inputs).unimodal.together()
    for m, logits in net(DATA.test.inputs).unimodal.items():
        torch.testing.assert_close(together[m], logits)


def test_under_autocast_features_stay_in_float32():
    net = MultimodalNet.build(DATA)
    plain = net(DATA.test.inputs).features["a"]
    net.autocast = torch.bfloat16
    features = net(DATA.test.inputs).features["a"]
    assert features.dtype == torch.float32 and not torch.equal(features, plain)
    torch.testing.assert_close(features, plain, rtol=0.1, atol=0.1)


# States for a moment


def test_modes_and_buffers_come_back_whatever_happens():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()))
    net[1].eval()
    modes, buffers = [part.training for part in net.modules()], list(net.buffers())
    values = [b.clone() for b in buffers]
    with pytest.raises(ZeroDivisionError), evaluating(net):
        assert not any(part.training for part in net.modules())
        _ = 1 / 0
    assert [part.training for part in net.modules()] == modes
    with pytest.raises(ZeroDivisionError), sparing_buffers(net):
        net(torch.randn(4, 3))
        assert not torch.equal(net[0].running_mean, values[0])
        _ = 1 / 0
    assert all(new is old for new, old in zip(net.buffers(), buffers, strict=True))
    assert all(torch.equal(new, old) for new, old in zip(buffers, values, strict=True))


def test_a_fusion_that_cannot_be_split_says_so():
    class Whole(nn.Module):
        def forward(self, features):
            return sum(features.values())

    net = MultimodalNet({m: nn.Linear(3, 2) for m in "ab"}, Whole(), nn.Linear(2, 2))
    out = net({m: torch.zeros(4, 3) for m in "ab"})
    assert out.joint.shape == (4, 2)
    with pytest.raises(ValueError, match=r"Whole does not say .* derive it from mmlab\.models\.F"):
        _ = out.contributions


# Modes


def test_frozen_parts_in_evaluation_mode_stay_in_it():
    net = nn.Sequential(
        nn.Sequential(nn.Linear(2, 2), nn.Dropout()), nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2)
    )
    net[0].requires_grad_(False)
    net[3].requires_grad_(False)
    net.eval()
    net[3].train()
    training_mode(net)
    assert [part.training for part in net] == [False, True, True, True]
    assert not any(part.training for part in net[0])
