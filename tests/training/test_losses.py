"""A step's losses are the means written out by hand, each computed when it is first read."""

import functools

import pytest
import torch
from steps import (
    EVERYONE,
    MASK,
    NOBODY,
    assert_equal,
    gradients,
    make_batch,
    make_net,
    make_stack,
    make_step,
    trained,
)
from torch import nn
from torch.nn import functional as F

from mmlab import Step
from mmlab.models import FUSIONS, MultimodalNet, Output


def test_losses_are_the_means_over_all_samples():
    s = make_step()
    out, target = s.model(s.batch.inputs), s.batch.target
    assert list(s.losses) == ["joint", "a", "b"] and len(s.losses) == 3
    torch.testing.assert_close(s.losses["joint"], F.cross_entropy(out.joint, target))
    for m in "ab":
        torch.testing.assert_close(s.losses[m], F.cross_entropy(out.unimodal[m], target))


def test_a_unimodal_loss_is_the_mean_over_the_samples_that_have_the_modality():
    present = {"a": MASK, "b": torch.ones(6, dtype=torch.bool)}
    s = make_step(present=present)
    known = F.cross_entropy(s.out.unimodal["a"][MASK], s.batch.target[MASK])
    torch.testing.assert_close(s.losses["a"], known)
    assert not torch.isclose(s.losses["a"], F.cross_entropy(s.out.unimodal["a"], s.batch.target))
    torch.testing.assert_close(
        s.losses["joint"], F.cross_entropy(s.out.joint, s.batch.target)
    )  # over all samples


def test_a_modality_that_no_sample_has_costs_nothing_and_teaches_nothing():
    present = {"a": torch.zeros(6, dtype=torch.bool), "b": torch.ones(6, dtype=torch.bool)}
    s = make_step(present=present)
    assert s.losses["a"] == 0
    assert all(g.eq(0).all() for g in s.grad(s.losses["a"], "a"))


def test_regression_compares_number_with_number():
    net = make_net(outputs=1)
    s = Step(net, make_batch(regression=True))
    expected = sum(
        abs(p - t) for p, t in zip(s.out.joint[:, 0].tolist(), s.batch.target.tolist(), strict=True)
    )
    assert s.losses["joint"].item() == pytest.approx(expected / 6)


def test_a_loss_of_ones_own_takes_the_masks_too():
    def double(prediction, target, reduction="mean"):
        return 2 * F.cross_entropy(prediction, target, reduction=reduction)

    present = dict.fromkeys("ab", MASK)
    plain, doubled = (Step(make_net(), make_batch(present), loss=x) for x in (None, double))
    for key in plain.losses:
        torch.testing.assert_close(doubled.losses[key], 2 * plain.losses[key])


def test_an_unknown_loss_or_modality_is_named():
    s = make_step()
    with pytest.raises(KeyError, match=r"no loss 'video'; allowed are 'joint', 'a', 'b'"):
        s.losses["video"]
    with pytest.raises(KeyError, match=r"unknown modality 'video'; this model has \['a', 'b'\]"):
        s.grad(s.losses["joint"], "video")


def test_a_head_of_ones_own_is_read_by_every_loss():
    class Louder(MultimodalNet):
        def head(self, m):
            return nn.Sequential(super().head(m), nn.Tanh())

    net, batch = make_net(), make_batch()
    own = Louder(net.encoders, net.fusion, nn.Linear(4, 3).double())
    together, apart = Step(own, batch).losses.stack("a", "b"), Step(own, batch).losses
    torch.testing.assert_close(together, torch.stack([apart["a"], apart["b"]]))


def test_a_shared_head_that_mixes_samples_reads_one_modality_at_a_time():
    net = make_net()
    net.heads = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))
    net, whole = net.double(), make_batch()
    batch = whole[:4]  # as many samples as features: the axes could be mistaken for each other
    together, apart = Step(net, batch).losses.stack("a", "b"), Step(net, batch).losses
    torch.testing.assert_close(together, torch.stack([apart["a"], apart["b"]]))


def test_logits_that_have_been_read_stay_as_they_were():
    net = make_net()
    net.heads = nn.Linear(4, 3).double()
    s = Step(net, make_batch())
    before = s.losses["a"]
    net.heads.weight.data.zero_()  # an update, after which b meets the head
    losses = s.losses.stack("a", "b")
    assert losses[0] == before
    assert torch.equal(s.losses.of("again", s.out.unimodal["a"]), before)


# Laziness


def watched(*layers):
    """A step, and the names of the encoders, the fusion and the heads as they run."""
    s, calls = make_step(*layers), []
    parts = {**s.model.encoders, "fusion": s.model.fusion}
    parts |= {f"head {m}": head for m, head in s.model.heads.items()}
    for name, part in parts.items():
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
    return s, calls


def test_a_loss_runs_what_it_depends_on_and_nothing_else():
    s, calls = watched()
    assert list(s.losses) == ["joint", "a", "b"] and "a" in s.losses and list(s.out.features)
    assert calls == []
    _ = s.losses["b"]
    assert calls == ["b", "head b"]
    _ = s.losses["b"], s.losses["joint"]
    assert calls == ["b", "head b", "a", "fusion"]
    _ = s.losses.stack()
    assert calls == ["b", "head b", "a", "fusion", "head a"]


def test_a_loss_is_computed_once():
    s = make_step()
    assert s.losses["a"] is s.losses["a"] and s.losses is s.losses
    together = s.losses.stack("joint", "b")
    assert_equal(together, [s.losses["joint"], s.losses["b"]], rtol=0, atol=0)


# Several in one pass


@pytest.mark.parametrize("fusion", ["concat", "gated"])
@pytest.mark.parametrize("present", [None, {"a": MASK, "b": EVERYONE}, {"a": NOBODY, "b": MASK}])
@pytest.mark.parametrize("keys", [(), ("b", "joint"), ("a", "b"), ("b", "a")])
def test_losses_in_the_last_axis_are_those_read_one_by_one(keys, present, fusion):
    net, batch = make_net(fusion=FUSIONS[fusion]), make_batch(present)
    losses = Step(net, batch).losses
    stacked, one = losses.stack(*keys), Step(net, batch).losses
    names = keys or ("joint", "a", "b")
    torch.testing.assert_close(stacked, torch.stack([one[key] for key in names]))
    for key in names:
        torch.testing.assert_close(losses[key], one[key])
    together, apart = (gradient(x, net) for x in (stacked.sum(), sum(one[k] for k in names)))
    assert_equal(together, apart)


def gradient(loss, net):
    net.zero_grad()
    loss.backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in net.parameters()]


def test_an_unknown_loss_in_several_is_named():
    with pytest.raises(KeyError, match="no loss 'video'"):
        make_step().losses.stack("joint", "video")


class Silent(MultimodalNet):
    """It gives no unimodal logits."""

    def forward(self, inputs):
        features = {m: self.encoders[m](x) for m, x in inputs.items()}
        return Output(features, self.fusion(features), fusion=self.fusion)


def test_a_network_without_unimodal_logits_says_so():
    net = make_net()
    for read in (lambda losses: losses["a"], lambda losses: losses.stack("joint", "a")):
        losses = Step(Silent(net.encoders, net.fusion, net.heads), make_batch()).losses
        assert losses["joint"] > 0
        with pytest.raises(KeyError, match=r"Output has no logits for it; .* unimodal=\{m: "):
            read(losses)


def test_real_targets_are_averaged_per_modality_too():
    net, batch = make_net(outputs=1), make_batch({"a": MASK, "b": NOBODY}, regression=True)
    s = Step(net, batch)
    for losses in (Step(net, batch).losses.stack(), [s.losses[key] for key in s.losses]):
        error = (s.out.unimodal["a"][:, 0] - batch.target).abs()[MASK].mean()
        torch.testing.assert_close(losses[1], error)
        assert losses[2] == 0


def test_the_target_decides_the_loss():
    s = make_step()
    s.batch.target = torch.tensor([2, 2, 1, 0, 0, 1])
    torch.testing.assert_close(s.losses["a"], F.cross_entropy(s.out.unimodal["a"], s.batch.target))


# In a stack of networks


@pytest.mark.parametrize("own", [False, True])
def test_in_a_stack_each_network_has_its_own(own):
    def scaled(prediction, target, reduction="mean"):
        return 2 * F.cross_entropy(prediction, target, reduction=reduction)

    masks = [{"a": MASK, "b": EVERYONE}, {"a": NOBODY, "b": MASK}, {"a": EVERYONE, "b": ~MASK}]
    for present in (None, masks):
        nets, batches, s = make_stack(present=present)
        loss = scaled if own else None
        s = Step(s.model, s.batch, loss=loss)
        alone = [Step(n, b, loss=loss).losses for n, b in zip(nets, batches, strict=True)]
        for key in s.losses:
            torch.testing.assert_close(s.losses[key], torch.stack([x[key] for x in alone]))
        fresh = Step(s.model, s.batch, loss=loss).losses.stack()
        torch.testing.assert_close(fresh, torch.stack([x.stack() for x in alone]))
        logits = s.fuse(s.out.features)
        torch.testing.assert_close(s.losses.of("second", logits), s.losses["joint"])
        torch.testing.assert_close(s.losses.samples(logits).mean(-1), s.losses["joint"])


# Losses of other logits


def test_the_loss_of_other_logits_is_recorded_under_its_name():
    s = make_step()
    logits = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    loss = s.losses.of("masked", logits)
    torch.testing.assert_close(loss, F.cross_entropy(logits, s.batch.target))
    assert s.losses.computed["masked"] is loss and s.losses["masked"] is loss
    assert list(s.losses) == ["joint", "a", "b"]  # the step's own ones are what they were
    assert loss.requires_grad


@pytest.mark.parametrize("name", ["joint", "a", "masked"])
def test_a_name_that_is_taken_is_refused(name):
    s = make_step()
    logits = torch.zeros(6, 3, dtype=torch.float64)
    before = s.losses.of("masked", logits)
    taken = f"'{name}' is the name of another loss .* 'joint', 'a', 'b', 'masked'$"
    with pytest.raises(ValueError, match=taken):
        s.losses.of(name, logits + 1)
    assert s.losses["masked"] is before


def test_samples_have_a_loss_each_and_none_is_recorded():
    s = make_step(present={"a": MASK, "b": EVERYONE})
    each = s.losses.samples(s.out.unimodal["a"])
    expected = F.cross_entropy(s.out.unimodal["a"], s.batch.target, reduction="none")
    torch.testing.assert_close(each, expected)
    assert not s.losses.computed
    torch.testing.assert_close(s.mean(each, of="a"), s.losses["a"])
    both = s.losses.samples(torch.stack([s.out.unimodal[m] for m in "ab"]))
    torch.testing.assert_close(s.mean(both), torch.stack([s.losses["a"], s.losses["b"]]))


def test_samples_of_real_targets():
    s = Step(make_net(outputs=1), make_batch(regression=True))
    expected = (s.out.joint[:, 0] - s.batch.target).abs()
    torch.testing.assert_close(s.losses.samples(s.out.joint), expected)


def test_a_loss_of_several_outputs_is_averaged_over_them():
    def squared(prediction, target, reduction="mean"):
        return F.mse_loss(prediction, F.one_hot(target, 3).double(), reduction=reduction)

    s = Step(make_net(), make_batch({"a": MASK, "b": EVERYONE}), loss=squared)
    torch.testing.assert_close(s.losses.samples(s.out.joint).mean(), s.losses["joint"])
    torch.testing.assert_close(
        s.losses["a"], squared(s.out.unimodal["a"][MASK], s.batch.target[MASK])
    )


# Any loss


WEIGHT = torch.tensor([1.0, 9.0, 0.2], dtype=torch.float64)


def weighted(prediction, target):
    return F.cross_entropy(prediction, target, weight=WEIGHT)


OWN = {
    "class weights": weighted,
    "bound class weights": functools.partial(F.cross_entropy, weight=WEIGHT),
    "a module with class weights": nn.CrossEntropyLoss(weight=WEIGHT),
    "a sum": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
    "of all samples at once": lambda z, y: (z.logsumexp(-1).square().mean() - z.std()) * len(y),
}


@pytest.mark.parametrize("name", OWN)
def test_under_a_mask_any_loss_sees_the_samples_that_are_there(name):
    loss, target = OWN[name], make_batch().target
    for present in ({"a": MASK, "b": EVERYONE}, {"a": MASK, "b": ~MASK}):
        s = Step(make_net(), make_batch(present), loss=loss)
        for m in "ab":
            expected = loss(s.out.unimodal[m][present[m]], target[present[m]])
            torch.testing.assert_close(s.losses[m], expected, rtol=0, atol=0)
        torch.testing.assert_close(s.losses["joint"], loss(s.out.joint, target), rtol=0, atol=0)


@pytest.mark.parametrize("name", OWN)
def test_a_mask_of_everyone_changes_no_loss(name):
    everyone = {"a": EVERYONE, "b": EVERYONE}
    plain, masked = (Step(make_net(), make_batch(p), loss=OWN[name]) for p in (None, everyone))
    for key in plain.losses:
        assert torch.equal(plain.losses[key], masked.losses[key])
    assert torch.equal(plain.losses.stack(), masked.losses.stack())


def test_under_a_mask_of_nobody_a_loss_of_ones_own_is_0_and_moves_nothing():
    s = Step(make_net(), make_batch({"a": NOBODY, "b": EVERYONE}), loss=weighted)
    assert s.losses["a"] == 0
    assert all(not g.any() for g in gradients(s.losses["a"], trained(s, "a")))
    value, there = s.losses.recorded()["loss", "a"]
    assert value == 0 and not there


def test_in_a_stack_each_network_picks_its_own_samples():
    masks = [{"a": MASK, "b": EVERYONE}, {"a": NOBODY, "b": MASK}, {"a": EVERYONE, "b": ~MASK}]
    nets, batches, s = make_stack(present=masks)
    s = Step(s.model, s.batch, loss=weighted)
    alone = [Step(n, b, loss=weighted).losses for n, b in zip(nets, batches, strict=True)]
    for key in s.losses:
        torch.testing.assert_close(s.losses[key], torch.stack([x[key] for x in alone]))


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda z, y: F.cross_entropy(z, y, reduction="none"), r"a Tensor of shape \(6,\)"),
        (lambda z, y: F.cross_entropy(z, y).item(), "a float"),
        (lambda z, y: None, "None"),
    ],
)
def test_a_loss_that_is_not_one_number_is_refused(loss, what):
    s = Step(make_net(), make_batch(), loss=loss)
    with pytest.raises(ValueError, match=rf"the loss of 6 samples is .*{what}.*must give one"):
        _ = s.losses["joint"]


@pytest.mark.parametrize("name", ["bound class weights", "a module with class weights"])
def test_weights_stay_in_the_loss_of_each_sample(name):
    s = Step(make_net(), make_batch(), loss=OWN[name])
    expected = F.cross_entropy(s.out.joint, s.batch.target, weight=WEIGHT, reduction="none")
    torch.testing.assert_close(s.losses.samples(s.out.joint), expected)
    if isinstance(OWN[name], nn.Module):
        assert OWN[name].reduction == "mean"  # the user's own is left as it was


def test_a_loss_without_parts_has_none_for_a_sample():
    s = Step(make_net(), make_batch(), loss=weighted)
    with pytest.raises(ValueError, match=r"weighted has no argument `reduction`.*takes 'none'"):
        s.losses.samples(s.out.joint)

    def ignores(prediction, target, reduction=None):
        return F.cross_entropy(prediction, target)

    s = Step(make_net(), make_batch(), loss=ignores)
    with pytest.raises(ValueError, match=r"of shape \(\) for 6 samples; it must give one number"):
        s.losses.samples(s.out.joint)


@pytest.mark.parametrize("present", [None, {"a": MASK, "b": EVERYONE}])
def test_a_stack_of_losses_is_known_and_a_sum_of_them_is_not(present):
    s = make_step(present=present)
    losses = s.losses.stack()
    assert s.losses.knows(losses) and s.losses.knows(s.losses["a"])
    assert not s.losses.knows(losses.sum())
