"""Every fusion's contributions: they sum to the joint logits and are what Shapley's axioms say."""

import functools
import itertools
import math

import pytest
import torch
from torch import nn

from mmlab.models import FUSIONS, Fusion, fusion
from mmlab.models.fusion import MOST_EXACT, shapley_weights

WIDTHS = {2: {"a": 4, "b": 4}, 3: {"a": 4, "b": 4, "c": 4}}
GENERAL = ["film", "gated", "attention"]
CASES = list(itertools.product(FUSIONS, WIDTHS))


def make(name, n, outputs=3):
    torch.manual_seed(n)
    widths = WIDTHS.get(n) or dict.fromkeys("abcdefgh"[:n], 4)
    fusion = FUSIONS[name](widths, outputs).double().eval()
    for buffer in fusion.buffers():
        buffer.normal_()  # an absent modality is then not simply zero
    return fusion, {m: torch.randn(5, d, dtype=torch.float64) for m, d in widths.items()}


class PlainLinear(Fusion):
    """Concat's sum, but split by the general code."""

    def __init__(self, widths, n_outputs):
        super().__init__(widths, n_outputs)
        self.linear = nn.Linear(sum(widths.values()), n_outputs)

    def forward(self, features):
        return self.linear(torch.cat([features[m] for m in self.widths], dim=-1))


def over_orders(fusion, features):
    """Shapley values by their first definition: the mean over all orders of joining."""
    means = {m: getattr(fusion, f"mean_{m}").expand_as(features[m]) for m in features}

    @functools.cache
    def value(*there):
        return fusion.forward({m: (features if m in there else means)[m] for m in features})

    orders = list(itertools.permutations(features))
    parts = {m: value() / len(features) for m in features}
    for order in orders:
        for k, m in enumerate(order):
            gain = value(*sorted(order[: k + 1])) - value(*sorted(order[:k]))
            parts[m] = parts[m] + gain / len(orders)
    return parts


@pytest.mark.parametrize(("name", "n"), CASES)
def test_contributions_sum_to_the_joint_logits(name, n):
    fusion, features = make(name, n)
    parts = fusion.contributions(features)
    joint = fusion(features)
    assert list(parts) == list(features)
    assert all(part.shape == joint.shape == (5, 3) for part in parts.values())
    torch.testing.assert_close(sum(parts.values()), joint, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", WIDTHS)
def test_concat_splits_by_its_blocks_of_weights(n):
    fusion, features = make("concat", n)
    weight, bias = fusion.linear.weight, fusion.linear.bias
    for i, (m, part) in enumerate(fusion.contributions(features).items()):
        expected = features[m] @ weight[:, 4 * i : 4 * i + 4].T + bias / n
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-12)


def test_sum_splits_into_its_layers_with_their_biases():
    fusion, features = make("sum", 2)
    for m, part in fusion.contributions(features).items():
        layer = fusion.linears[m]
        torch.testing.assert_close(part, features[m] @ layer.weight.T + layer.bias)


def test_late_is_the_mean_of_the_heads_it_is_given():
    heads = nn.ModuleDict({m: nn.Linear(4, 3) for m in "ab"}).double()
    fusion = FUSIONS["late"](WIDTHS[2], 3, heads=heads)
    features = {m: torch.randn(5, 4, dtype=torch.float64) for m in "ab"}
    expected = (heads["a"](features["a"]) + heads["b"](features["b"])) / 2
    torch.testing.assert_close(fusion(features), expected)
    shared = FUSIONS["late"](WIDTHS[2], 3, heads=heads["a"])
    expected = (heads["a"](features["a"]) + heads["a"](features["b"])) / 2
    torch.testing.assert_close(shared(features), expected)


@pytest.mark.parametrize("n", WIDTHS)
def test_the_general_split_of_a_linear_fusion_is_the_linear_split(n):
    concat, features = make("concat", n)
    plain = PlainLinear(WIDTHS[n], 3).double()
    plain.linear = concat.linear
    for m, part in plain.contributions(features).items():
        expected = concat.contributions(features)[m]
        torch.testing.assert_close(part, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "n"), list(itertools.product(GENERAL, WIDTHS)))
def test_shapley_values_are_the_mean_over_all_orders(name, n):
    fusion, features = make(name, n)
    expected = over_orders(fusion, features)
    parts = fusion.contributions(features)
    assert parts["a"].abs().max() > 1e-3
    for m in features:
        torch.testing.assert_close(parts[m], expected[m], rtol=0, atol=1e-10)


def test_shapley_weights_by_hand():
    half = [[-0.5, 0.5, -0.5, 0.5], [-0.5, -0.5, 0.5, 0.5]]
    torch.testing.assert_close(shapley_weights(2), torch.tensor(half, dtype=torch.float64))
    four = shapley_weights(4)
    torch.testing.assert_close(four.sum(1), torch.zeros(4, dtype=torch.float64))
    assert four[0, 0b1111] == 1 / 4 and four[0, 0b0111] == pytest.approx(1 / 12)


@pytest.mark.parametrize("n", WIDTHS)
def test_film_scales_and_shifts_by_hand(n):
    fusion, features = make("film", n)
    hidden = features["a"]
    for m in list(features)[1:]:
        weight, bias = fusion.modulators[m].weight, fusion.modulators[m].bias
        gamma = features[m] @ weight[:4].T + bias[:4]
        beta = features[m] @ weight[4:].T + bias[4:]
        hidden = gamma * hidden + beta
    expected = hidden @ fusion.linear.weight.T + fusion.linear.bias
    torch.testing.assert_close(fusion(features), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n", WIDTHS)
def test_gates_share_out_every_hidden_unit_among_the_modalities_by_hand(n):
    fusion, features = make("gated", n)
    joined = torch.cat(list(features.values()), dim=-1)
    scores = (joined @ fusion.gate.weight.T + fusion.gate.bias).exp().split(64, dim=-1)
    total = sum(scores)
    hidden = 0
    for m, score in zip(features, scores, strict=True):
        projection = fusion.projections[m]
        value = (features[m] @ projection.weight.T + projection.bias).tanh()
        hidden = hidden + score / total * value
    expected = hidden @ fusion.linear.weight.T + fusion.linear.bias
    torch.testing.assert_close(fusion(features), expected, rtol=0, atol=1e-12)


def test_attention_tells_the_modalities_apart_by_their_places():
    fusion, features = make("attention", 2)
    fusion.tokens["b"].load_state_dict(fusion.tokens["a"].state_dict())
    swapped = {"a": features["b"], "b": features["a"]}
    difference = fusion(features) - fusion(swapped)
    assert difference.abs().max() > 1e-6
    with torch.no_grad():
        fusion.places.zero_()  # without places the tokens are a set
    torch.testing.assert_close(fusion(features), fusion(swapped), rtol=0, atol=1e-12)


class Product(Fusion):
    """The product of all modalities that are named in `reads`: as far from additive as can be."""

    reads = ("a", "b", "c")

    def forward(self, features):
        return math.prod(features[m] for m in self.reads)


def test_symmetric_modalities_share_equally():
    features = dict.fromkeys("abc", torch.full((1, 1), 2.0, dtype=torch.float64))
    parts = Product(dict.fromkeys("abc", 1), 1).contributions(features)
    assert [part.item() for part in parts.values()] == pytest.approx([8 / 3] * 3)


def test_a_modality_that_changes_nothing_gets_its_part_of_the_empty_coalition_alone():
    fusion = Product(dict.fromkeys("abc", 1), 1)
    fusion.reads = ("a", "b")
    fusion.mean_a.fill_(3.0)
    fusion.mean_b.fill_(1.0)
    features = {m: torch.full((1, 1), 5.0) for m in "abc"}
    parts = fusion.contributions(features)
    assert parts["c"].item() == pytest.approx(3 / 3)
    assert sum(parts.values()).item() == pytest.approx(25)


@pytest.mark.parametrize("n", WIDTHS)
def test_contributions_cost_one_call_of_the_fusion(n):
    fusion, features = make("gated", n)
    sizes = []
    forward = fusion.forward
    fusion.forward = lambda mixed: sizes.append(len(mixed["a"])) or forward(mixed)
    fusion.contributions(features)
    assert sizes == [5 * 2**n]


def test_the_running_mean_moves_in_training_with_a_graph_and_nowhere_else():
    fusion = FUSIONS["gated"]({"a": 2, "b": 2}, 3)
    features = {m: torch.full((4, 2), 2.0) for m in "ab"}
    fusion.train()(features)
    torch.testing.assert_close(fusion.mean_a, torch.full((2,), 0.2))
    fusion(features)
    torch.testing.assert_close(fusion.mean_b, torch.full((2,), 0.2 + 0.1 * 1.8))
    before = fusion.mean_a.clone()
    fusion.contributions(features)
    with torch.no_grad():
        fusion(features)
    fusion.eval()(features)
    assert torch.equal(fusion.mean_a, before)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_names_the_modalities_it_misses(name):
    fusion, features = make(name, 2)
    for call in (fusion, fusion.contributions):
        with pytest.raises(ValueError, match=r"built for the modalities \['a', 'b'\]; .*\['a'\]"):
            call({"a": features["a"]})


def test_a_fusion_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one modality and one output"):
        FUSIONS["concat"]({}, 3)
    with pytest.raises(ValueError, match="n_outputs=0"):
        FUSIONS["sum"]({"a": 2}, 0)


@pytest.mark.parametrize("name", GENERAL)
def test_above_four_modalities_sampled_values_sum_to_the_logits_and_state_their_error(name):
    fusion, features = make(name, MOST_EXACT + 2)
    fusion.eval()
    parts, errors = fusion.contributions(features), fusion.contribution_error(features)
    torch.testing.assert_close(sum(parts.values()), fusion(features), rtol=0, atol=1e-12)
    exact = over_orders(fusion, features)
    off = torch.stack([(parts[m] - exact[m]) / errors[m].clamp(min=1e-12) for m in features])
    assert 0.3 < off.square().mean().sqrt() < 3, "the stated error is not the size of the error"
    assert max(e.max() for e in errors.values()) > 1e-4


@pytest.mark.parametrize("name", ["concat", "gated"])
def test_exact_contributions_have_no_error(name):
    fusion, features = make(name, 3)
    for error in fusion.contribution_error(features).values():
        assert error.shape == (len(features["a"]), fusion.n_outputs) and not error.any()


def test_contributions_can_be_trained_on_after_inference():
    for cached in (fusion._coalitions, fusion._coalitions_on):
        cached.cache_clear()
    features = {m: torch.randn(5, 3, requires_grad=True) for m in "abc"}
    gated = FUSIONS["gated"](dict.fromkeys("abc", 3), 4)
    with torch.inference_mode():
        gated.contributions(features)
    gated.contributions(features)["a"].sum().backward()
    assert features["b"].grad.abs().sum() > 0


def test_sampled_orders_are_the_same_ones_whatever_the_global_generator_says():
    drawn = []
    for seed in (1, 2):
        fusion._coalitions.cache_clear()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        drawn.append(fusion._coalitions(6)[1])
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*drawn)


class Random(Fusion):
    def __init__(self, widths, n_outputs):
        super().__init__(widths, n_outputs)
        layers = nn.Linear(sum(widths.values()), 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5)
        self.layers = nn.Sequential(*layers, nn.Linear(8, n_outputs))

    def forward(self, features):
        return self.layers(torch.cat([features[m] for m in self.widths], dim=-1))


def test_in_training_random_layers_are_split_as_at_test_time_and_left_alone():
    torch.manual_seed(0)
    fusion = Random(WIDTHS[2], 3)
    features = {m: torch.randn(5, d) for m, d in WIDTHS[2].items()}
    fusion(features)  # moves the running statistics and means
    before = {name: value.clone() for name, value in fusion.state_dict().items()}
    fusion.layers[1].eval()
    parts = sum(fusion.contributions(features).values())
    assert [part.training for part in fusion.layers] == [True, False, True, True, True]
    assert all(torch.equal(value, before[name]) for name, value in fusion.state_dict().items())
    torch.testing.assert_close(parts, fusion.eval()(features))
