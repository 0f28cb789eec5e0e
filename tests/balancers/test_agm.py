"""AGM against numpy: its parts, its ratios, its sign, and a whole step's gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from by_hand import (
    ByHand,
    array,
    assert_gradients,
    batch,
    data,
    logged,
    mlp,
    network,
    normal,
    softmax,
    take_step,
)
from torch import nn

from mmlab import AGM, Batch, Joint, MultimodalNet, Step, fit
from mmlab.balancers.agm import (
    lead_ratios,
    modulated_logits,
    modulation_factors,
    shapley_parts,
)
from mmlab.models import Fusion
from mmlab.models.modes import differs_in_training

# --- the pure functions ---------------------------------------------------------------------------


def test_two_modalities_share_as_the_paper_says():
    only_a, only_v, both = values = normal(3, 5, 4)
    parts = shapley_parts(values)
    torch.testing.assert_close(parts[0], 0.5 * (both - only_v + only_a))
    torch.testing.assert_close(parts[1], 0.5 * (both - only_a + only_v))


def test_three_modalities_share_with_a_third_and_two_sixths():
    a, v, av, t, at, vt, avt = values = normal(7, 5, 4)
    parts = shapley_parts(values)
    torch.testing.assert_close(parts[0], (avt - vt) / 3 + (av - v) / 6 + (at - t) / 6 + a / 3)
    torch.testing.assert_close(parts[2], (avt - av) / 3 + (at - a) / 6 + (vt - v) / 6 + t / 3)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_parts_are_means_over_all_orders_and_add_up(count):
    values = normal(2, 2**count - 1, 3, 4)
    known = np.zeros((2, count, 3, 4))
    of = {0: np.zeros((2, 3, 4))} | {s + 1: values[:, s].numpy() for s in range(2**count - 1)}
    for order in itertools.permutations(range(count)):
        there = 0
        for m in order:
            known[:, m] += (of[there | 1 << m] - of[there]) / math.factorial(count)
            there |= 1 << m
    parts = shapley_parts(values)
    assert parts.dtype == torch.float64
    np.testing.assert_allclose(parts.numpy(), known, atol=1e-12)
    torch.testing.assert_close(parts.sum(1), values[:, -1])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_coalitions_that_no_modalities_have_are_refused(count):
    with pytest.raises(ValueError, match=rf"values has {count} coalitions; allowed are 2\^M − 1"):
        shapley_parts(normal(count, 5, 4))


@pytest.mark.parametrize("count", [2, 3, 5])
def test_a_ratio_compares_with_the_mean_of_the_others(count):
    losses = normal(4, count).abs()
    s = losses.numpy()
    known = np.exp([[np.delete(row, m).mean() - row[m] for m in range(count)] for row in s])
    np.testing.assert_allclose(lead_ratios(losses).numpy(), known)
    with pytest.raises(ValueError, match=r"M ≥ 2"):
        lead_ratios(losses[:, :1])


def test_who_is_further_ahead_than_usual_is_damped():
    """The sign: a version that reinforces who is ahead fails here."""
    ratios = torch.tensor([2.0, 0.5], dtype=torch.float64)
    usual = torch.tensor([1.0, 1.0], dtype=torch.float64)
    ahead, behind = modulation_factors(ratios, usual, 1.5)
    assert ahead.item() == pytest.approx(math.exp(-1.5))
    assert behind.item() == pytest.approx(math.exp(0.75))
    less = modulation_factors(ratios, torch.tensor([3.0, 1 / 3]).double())
    assert less[0] > 1 > less[1]  # ahead, but less than usual: reinforced
    assert modulation_factors(ratios, ratios).tolist() == [1, 1]


def test_the_cap_holds_what_is_behind_and_not_what_is_ahead():
    far = torch.tensor([20.0, -20.0]).double()
    k = modulation_factors(-far, torch.zeros(2).double(), 0.5, 3.0)
    assert k.tolist() == pytest.approx([math.exp(1.5), math.exp(-10)])
    free = modulation_factors(-far, torch.zeros(2).double(), 0.5, math.inf)
    assert free[0].item() == pytest.approx(math.exp(10))
    tensors = modulation_factors(
        torch.zeros(2, 2).double(), torch.ones(2, 2).double(), torch.tensor([[1.0], [2.0]])
    )
    assert tensors[:, 0].tolist() == pytest.approx([math.e, math.e**2])
    with pytest.raises(ValueError, match=r"alpha is -1.* ≥ 0"):
        modulation_factors(far, far, -1)


def test_the_gradient_of_each_part_is_multiplied_and_the_value_stays():
    parts = normal(2, 5, 4).requires_grad_()
    k, target = torch.tensor([0.3, 4.0]).double(), torch.arange(5) % 4
    mixed, plain = modulated_logits(parts, k), parts.sum(0)
    torch.testing.assert_close(mixed, plain)
    found, known = (
        torch.autograd.grad(nn.functional.cross_entropy(z, target), parts) for z in (mixed, plain)
    )
    torch.testing.assert_close(found[0], k[:, None, None] * known[0])


# --- a step by hand -------------------------------------------------------------------------------


class AgmByHand(ByHand):
    """Linear encoders and concat: f(S) = Σ W_m h_m + b, of whom h_m is the bias where m ∉ S."""

    def __init__(self, net, samples):
        super().__init__(net, samples)
        self.names = list(net.modalities)
        self.zero = {m: array(net.encoders[m].bias)[None] for m in self.names}
        self.bias = array(net.fusion.linear.bias)

    def weights(self, m):
        """Coalition -> its weight in the part of m."""
        count, found = len(self.names), {}
        others = [x for x in self.names if x != m]
        for size in range(count):
            for some in itertools.combinations(others, size):
                weight = 1 / (count * math.comb(count - 1, size))
                found[frozenset((*some, m))] = weight
                if some:
                    found[frozenset(some)] = -weight
        return found

    def value(self, coalition):
        return (
            sum(
                (self.features[m] if m in coalition else self.zero[m]) @ self.blocks[m].T
                for m in self.names
            )
            + self.bias
        )

    def losses(self):
        found = {}
        for m in self.names:
            part = sum(w * self.value(c) for c, w in self.weights(m).items())
            right = (softmax(part) * self.target).sum(1).clip(1e-8)
            mask = np.ones(len(right))
            if self.samples.present is not None:
                mask = self.samples.present[m].numpy().astype(float)
            found[m] = (-np.log(right) * mask).sum() / max(mask.sum(), 1)
        return found

    def gradients(self, k):
        """∂L/∂φ_m times k_m, carried to every parameter."""
        error = (softmax(self.logits["joint"]) - self.target) / len(self.target)
        of = {}  # coalition -> its total weight
        for m in self.names:
            for c, w in self.weights(m).items():
                of[c] = of.get(c, 0) + k[m] * w
        found = {}
        blocks = []
        for m in self.names:
            there = sum(w for c, w in of.items() if m in c)
            gone = sum(w for c, w in of.items() if m not in c)
            block = error.T @ (there * self.features[m] + gone * self.zero[m])
            blocks.append(block)
            back = error @ self.blocks[m]
            encoder = self.net.encoders[m]
            found[encoder.weight] = torch.from_numpy(there * back.T @ self.x[m])
            found[encoder.bias] = torch.from_numpy((there + gone) * back.sum(0))
        fusion = self.net.fusion.linear
        found[fusion.weight] = torch.from_numpy(np.concatenate(blocks, axis=1))
        found[fusion.bias] = torch.from_numpy(sum(of.values()) * error.sum(0))
        return found


def ratios_by_hand(losses):
    return {
        m: math.exp(np.mean([x for n, x in losses.items() if n != m]) - loss)
        for m, loss in losses.items()
    }


@pytest.mark.parametrize("modalities", ["av", "avt"])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 2.5])
def test_the_first_step_is_that_by_hand(modalities, alpha):
    net, samples = network(modalities), batch(modalities)
    hand = AgmByHand(net, samples)
    k = {m: math.exp(alpha * (1 - r)) for m, r in ratios_by_hand(hand.losses()).items()}
    step = take_step(AGM(alpha), net, samples)
    assert_gradients(net, hand.gradients(k))
    assert logged(step, "coefficient") == pytest.approx(k)
    assert logged(step, "usual_ratio") == dict.fromkeys(modalities, 1)
    assert step.losses["modulated"].item() == pytest.approx(hand.loss["joint"])
    if alpha == 0:  # all factors are 1: joint training
        assert_gradients(net, hand.gradient("joint"))
    else:
        assert max(abs(x - 1) for x in k.values()) > 0.05  # else this would prove nothing


def test_the_running_mean_is_of_all_steps_before_this_one():
    net, balancer, before = network("avt"), AGM(1.5), []
    for seed in range(4):
        net.zero_grad()
        samples = batch("avt", seed=seed)
        step = take_step(balancer, net, samples)
        losses = AgmByHand(net, samples).losses()
        means = {m: np.mean([x[m] for x in before]) if before else 0.0 for m in "avt"}
        usual, ratios = ratios_by_hand(means), ratios_by_hand(losses)
        k = {m: math.exp(1.5 * (usual[m] - ratios[m])) for m in "avt"}
        assert logged(step, "coefficient") == pytest.approx(k)
        assert_gradients(net, AgmByHand(net, samples).gradients(k))
        before.append(losses)


def test_a_new_run_forgets_the_last_one():
    balancer, nets = AGM(), [network(), network()]
    runs = [fit(net, data(), balancer, epochs=2, batch_size=8, device="cpu") for net in nets]
    assert runs[0].rows == runs[1].rows
    assert balancer.steps.tolist() == [6, 6]


def test_a_modality_that_pulls_ahead_learns_less_than_in_joint_training():
    """A version with the other sign fails here, in the direction of a real step."""
    net, samples, balancer = network(seed=3), batch(size=12, seed=5), AGM(2.0)
    usual = logged(take_step(balancer, net, samples), "ratio")["a"]
    net.zero_grad()
    take_step(Joint(), net, samples)
    with torch.no_grad():  # its encoder alone goes on
        for p in net.encoders["a"].parameters():
            p -= 5 * p.grad
    grads = {}
    for method in (Joint(), balancer):
        net.zero_grad()
        step = take_step(method, net, samples)
        grads[method.name] = net.encoders["a"].weight.grad.clone()
    assert logged(step, "ratio")["a"] > usual + 0.1
    k = logged(step, "coefficient")["a"]
    assert k < 0.9
    torch.testing.assert_close(grads["AGM"], k * grads["Joint"])


@pytest.mark.parametrize("loud", [1, 1e4])
def test_of_several_labels_the_loss_is_the_mean_over_them_of_at_most_18_nats(loud):
    """Not the log of the mean probability; and −log 1e-8 where one is all but impossible."""
    net, samples = network(), batch()
    samples.target = normal(6, 3, seed=4) > 0
    with torch.no_grad():
        for p in net.fusion.parameters():
            p *= loud
    balancer = AGM()
    step = take_step(balancer, net, samples)
    parts = array(shapley_parts(balancer.values(step)))
    right = 1 / (1 + np.exp(np.where(samples.target.numpy(), -parts, parts).clip(-700, 700)))
    s = -np.log(right.clip(1e-8)).mean((1, 2))
    assert balancer.running.tolist() == pytest.approx(s.tolist())
    assert (right < 1e-8).any() == (loud > 1)
    assert [*logged(step, "ratio").values()] == pytest.approx([*np.exp(s[::-1] - s)])


# --- zero inputs, modes ---------------------------------------------------------------------------


@pytest.mark.parametrize("fusion", ["sum", "late", "film", "gated", "attention"])
def test_an_absent_input_is_zero_and_not_its_feature(fusion):
    net, samples = network(fusion=fusion, encoder=mlp), batch()
    step = Step(net, samples)
    found = step.out.without("a")
    zeroed = Batch(samples.inputs | {"a": torch.zeros_like(samples.inputs["a"])}, samples.target)
    torch.testing.assert_close(found, net.eval()(zeroed.inputs).joint)
    assert found.requires_grad
    features = dict(step.out.features) | {"a": torch.zeros(6, 4).double()}
    assert not torch.allclose(found, net.fusion(features))


def noisy(size, width):
    return nn.Sequential(nn.Linear(size, width), nn.BatchNorm1d(width), nn.Dropout(0.5))


def test_masked_passes_are_in_evaluation_mode_with_a_graph():
    net, samples = network(encoder=noisy), batch()
    take_step(Joint(), net, samples)  # statistics move
    before = {name: x.clone() for name, x in net.named_buffers()}
    step = Step(net, samples)
    found = step.out.without("v")
    assert {name: x.equal(before[name]) for name, x in net.named_buffers()} == dict.fromkeys(
        before, True
    )
    assert all(part.training for part in net.modules())
    gradient = torch.autograd.grad(found.sum(), net.encoders["a"][0].weight)[0]
    zeroed = samples.inputs | {"v": torch.zeros_like(samples.inputs["v"])}
    net.eval()
    plain = net(zeroed).joint
    torch.testing.assert_close(found, plain)
    known = torch.autograd.grad(plain.sum(), net.encoders["a"][0].weight)[0]
    torch.testing.assert_close(gradient, known)


class DropsOut(Fusion):
    def __init__(self, widths, n_outputs):
        super().__init__(widths, n_outputs)
        self.linear, self.dropout = nn.Linear(sum(widths.values()), n_outputs), nn.Dropout(0.5)

    def forward(self, features):
        return self.linear(self.dropout(torch.cat([*features.values()], -1)))


def test_the_fusion_is_in_evaluation_mode_too():
    plain = network()
    net = MultimodalNet(plain.encoders, DropsOut({"a": 4, "v": 4}, 3).double(), plain.heads)
    step = Step(net, batch())
    zeroed = batch().inputs | {"v": torch.zeros(6, 4).double()}
    torch.testing.assert_close(step.out.without("v"), net.eval()(zeroed).joint)
    assert not net.fusion.mean_a.any()  # its running means are left alone


def test_the_loss_is_that_of_the_pass_in_training_mode():
    """Of all coalitions, the one of everybody alone is not in evaluation mode."""
    net = network(encoder=lambda a, b: nn.Sequential(mlp(a, b), Mode()))
    step = take_step(AGM(), net, batch())
    trained = nn.functional.cross_entropy(net(batch().inputs).joint, batch().target)
    torch.testing.assert_close(step.losses.computed["modulated"], trained)


def test_masked_passes_are_the_same_in_pieces():
    grads = []
    for piece in (None, 2):
        net, samples = network(encoder=lambda a, b: nn.Sequential(mlp(a, b), Mode())), batch()
        torch.manual_seed(0)
        take_step(AGM(), net, samples, piece=piece)
        grads.append([p.grad for p in net.encoders.parameters()])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


class Mode(nn.Module):
    def forward(self, x):
        return 2 * x if self.training else x


@pytest.mark.parametrize(
    ("module", "differs"),
    [
        (nn.Linear(2, 2), False),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), True),
        (nn.Dropout(0.0), False),
        (nn.Dropout(0.1).eval(), False),
        (nn.BatchNorm1d(2), True),
        (nn.RReLU(), True),
        (nn.LayerNorm(2), False),
        (nn.GRU(2, 2), False),
        (nn.GRU(2, 2, 2, dropout=0.1), True),
        (nn.TransformerEncoderLayer(4, 2), True),
        (nn.TransformerEncoderLayer(4, 2, dropout=0.0), False),
        (Mode(), True),
        (mlp(2, 2), False),
    ],
)
def test_which_modules_differ_in_training(module, differs):
    assert differs_in_training(module) == differs


def test_an_encoder_without_modes_sees_the_batch_once_and_one_row_of_zeros():
    seen = []

    class Looks(nn.Linear):
        def forward(self, x):
            seen.append(tuple(x.shape))
            return super().forward(x)

    take_step(AGM(), network(encoder=Looks), batch())
    assert sorted(seen) == [(1, 3), (1, 4), (6, 3), (6, 4)]


def test_an_encoder_with_modes_sees_the_batch_once_more_and_its_statistics_move_once():
    seen = []

    class Looks(nn.Sequential):
        def forward(self, x):
            seen.append((self.training, len(x)))
            return super().forward(x)

    net = network(encoder=lambda *sizes: Looks(*noisy(*sizes)))
    take_step(AGM(), net, batch())
    assert sorted(seen) == sorted([(True, 6), (False, 6), (False, 1)] * 2)
    assert [net.encoders[m][1].num_batches_tracked.item() for m in "av"] == [1, 1]
    assert all(p.grad.isfinite().all() for p in net.encoders.parameters())


def test_tokens_and_nested_inputs_are_zero_in_every_part():
    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 4)

        def forward(self, text):
            seen.append(text)
            return (self.embed(text["ids"]) * text["mask"][..., None]).sum(-2)

    seen, mask = [], torch.ones(6, 3, dtype=torch.bool)
    text = {"ids": torch.arange(18).view(6, 3) % 5, "mask": mask}
    samples = Batch({"text": text, "a": normal(6, 3).float()}, torch.arange(6) % 3)
    net = MultimodalNet(
        {"text": Reads(), "a": nn.Linear(3, 4)},
        network().float().fusion.__class__({"text": 4, "a": 4}, 3),
        nn.Linear(4, 3),
    )
    take_step(AGM(), net, samples)
    first, zeros = seen
    assert first is text
    assert zeros["ids"].dtype == torch.int64 and zeros["ids"].tolist() == [[0, 0, 0]]
    assert zeros["mask"].dtype == torch.bool and not zeros["mask"].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_running_mean_keeps_float32_under_autocast(dtype):
    """In 16 bits what a late step adds to S is rounded away, and 1e-8 is 0."""
    net, balancer = network(fusion="film").float(), AGM()
    samples = Batch({m: x.float() for m, x in batch().inputs.items()}, batch().target)
    with torch.no_grad():
        net.fusion.linear.bias.copy_(torch.tensor([60.0, -60.0, 0.0]))
    with torch.autocast("cpu", dtype):
        step = take_step(balancer, net, samples)
    assert step.out.joint.dtype == dtype
    assert balancer.running.dtype == torch.float32 and balancer.running.isfinite().all()


# --- missing modalities ---------------------------------------------------------------------------


def test_a_loss_is_the_mean_over_the_samples_that_have_the_modality():
    present = {"a": [1, 1, 1, 0, 1, 0], "v": [1, 0, 1, 1, 1, 1], "t": [0, 0, 1, 1, 1, 1]}
    net, samples = network("avt"), batch("avt", present=present)
    hand = AgmByHand(net, samples)
    k = {m: math.exp(1 - r) for m, r in ratios_by_hand(hand.losses()).items()}
    step = take_step(AGM(), net, samples)
    assert logged(step, "coefficient") == pytest.approx(k)
    assert_gradients(net, hand.gradients(k))


def test_a_modality_that_a_whole_batch_lacks_moves_nothing():
    net, balancer = network("avt"), AGM()
    take_step(balancer, net, batch("avt"))
    before = balancer.running.clone()
    gone = {"a": [1] * 6, "v": [0] * 6, "t": [1] * 6}
    step = take_step(balancer, net, batch("avt", seed=4, present=gone))
    assert logged(step, "coefficient")["v"] == pytest.approx(1, abs=1e-12)
    assert balancer.running[1] == before[1] and balancer.steps.tolist() == [2, 1, 2]
    assert (balancer.running[[0, 2]] != before[[0, 2]]).all()
    alone = take_step(
        balancer, net, batch("avt", present={"a": [1] * 6, "v": [0] * 6, "t": [0] * 6})
    )
    assert [*logged(alone, "coefficient").values()] == pytest.approx([1, 1, 1], abs=1e-12)


def test_a_modality_that_comes_late_meets_no_running_mean_of_its_own():
    net, balancer = network(), AGM()
    take_step(balancer, net, batch(present={"a": [1] * 6, "v": [0] * 6}))
    step = take_step(balancer, net, batch())
    assert [*logged(step, "usual_ratio").values()] == pytest.approx([1, 1], abs=1e-12)
    assert 1 not in logged(step, "ratio").values()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"alpha": -1}, ValueError, r"alpha is -1; allowed is a number ≥ 0"),
        ({"alpha": math.nan}, ValueError, r"alpha is nan"),
        ({"cap": 0}, ValueError, r"cap is 0; allowed is a number above 0"),
        ({"alpha": [1.0, 2.0]}, TypeError, r"give a number\. For several values at once"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        AGM(**options)


def test_regression_and_a_forward_pass_of_ones_own_are_refused():
    with pytest.raises(ValueError, match=r"AGM needs class labels.*For regression use"):
        take_step(AGM(), network(outputs=1), batch(regression=True))

    class Own(MultimodalNet):
        def forward(self, inputs):
            return super().forward(inputs)

    plain = network()
    own = Own(dict(plain.encoders), plain.fusion, plain.heads)
    with pytest.raises(ValueError, match="Own has a forward pass of its own, so what it gives"):
        take_step(AGM(), own, batch())
    with pytest.raises(ValueError, match="this Output does not know the inputs"):
        plain(batch().inputs).without("a")


def test_seven_modalities_are_too_many():
    names = "abcdefg"
    encoders = {m: nn.Linear(2, 4) for m in names}
    fusion = type(network().fusion)(dict.fromkeys(names, 4), 3)
    net = MultimodalNet(encoders, fusion, nn.Linear(4, 3))
    samples = Batch({m: torch.randn(6, 2) for m in names}, torch.arange(6) % 3)
    with pytest.raises(ValueError, match=r"AGM fuses all 2\^M − 1 .* there are 7; .* at most 6"):
        take_step(AGM(), net, samples)
