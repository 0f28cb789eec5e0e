"""Inputs of any kind: token ids beside a mask, values beside lengths, bytes and booleans.

They train as the same numbers do that are packed into one tensor of floats.
"""

import re

import pytest
import torch
from measuring import measured
from torch import nn

from mmlab import (
    Batch,
    Joint,
    MultimodalData,
    MultimodalNet,
    compare,
    diagnose,
    evaluation,
    fit,
    fit_seeds,
)
from mmlab.balancers import METHODS
from mmlab.datasets import drop
from mmlab.datasets.base import concatenate, stack_batches
from mmlab.evaluation import test_accuracy as accuracy_on_test
from mmlab.evaluation.missing import without
from mmlab.identity import digest

TOKENS, STEPS = 6, 4


def make_batch(size, seed=0, **options):
    """Text: ids and which of them are there. Sound: values and how many of them are there."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, STEPS + 1, (size,), generator=draw)
    mask = torch.rand(size, TOKENS, generator=draw) < 0.7
    ids = torch.randint(1, 9, (size, TOKENS), generator=draw) * mask
    inputs = {
        "text": {"ids": ids, "mask": mask},
        "sound": (torch.randn(size, STEPS, 3, generator=draw), lengths),
    }
    return Batch(inputs, torch.arange(size) % 3, **options)


def make_data(change=lambda batch: batch):
    return MultimodalData(*(change(make_batch(size, size)) for size in (20, 9, 10)))


class Text(nn.Module):
    """The mean embedding of the tokens that are there."""

    def __init__(self, width=8):
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 5), nn.Linear(5, width)

    def forward(self, text):
        kept = self.embed(text["ids"]) * text["mask"].unsqueeze(-1)
        return self.out(kept.sum(-2)).relu()


class Sound(nn.Module):
    """The mean of the steps that are there."""

    def __init__(self, width=8):
        super().__init__()
        self.out = nn.Linear(3, width)

    def forward(self, sound):
        values, lengths = sound
        there = torch.arange(STEPS, device=values.device) < lengths.unsqueeze(-1)
        return self.out((values * there.unsqueeze(-1)).sum(-2)).relu()


ENCODERS = {"text": Text, "sound": Sound}
BUILD = {"encoders": ENCODERS, "width": 8}


def flat(batch):
    """The same numbers, one tensor of floats for each modality."""
    text, (values, lengths) = batch.inputs["text"], batch.inputs["sound"]
    inputs = {
        "text": torch.cat([text["ids"].float(), text["mask"].float()], 1),
        "sound": torch.cat([values.flatten(1), lengths[:, None]], 1),
    }
    return Batch(inputs, batch.target, batch.present)


class FlatText(Text):
    def forward(self, x):
        return super().forward({"ids": x[:, :TOKENS].long(), "mask": x[:, TOKENS:].bool()})


class FlatSound(Sound):
    def forward(self, x):
        return super().forward((x[:, :-1].unflatten(1, (STEPS, 3)), x[:, -1]))


FLAT = {"text": FlatText, "sound": FlatSound}


def train(data, encoders, make, seed=0):
    balancer = make()
    net = MultimodalNet.build(data, encoders=encoders, width=8, seed=seed, **balancer.network)
    return fit(net, data, balancer, epochs=2, batch_size=8, lr=0.1, device="cpu", seed=seed)


# Training


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("method", METHODS)
def test_nested_inputs_train_as_the_same_numbers_in_one_tensor(method, missing):
    nested = make_data(lambda batch: drop(batch, missing))
    floats = make_data(lambda batch: flat(drop(batch, missing)))
    make = METHODS[method].make
    mine = train(nested, ENCODERS, make)
    theirs = train(floats, FLAT, make)
    pairs = zip(mine.model.state_dict().values(), theirs.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert mine.history.equals(theirs.history)
    assert torch.equal(mine.predict(nested.test), theirs.predict(floats.test))
    assert accuracy_on_test(mine) == accuracy_on_test(theirs)


@pytest.mark.parametrize("method", [m for m in METHODS if "own order" not in METHODS[m].needs])
def test_a_stack_of_networks_takes_nested_inputs(method):
    data = make_data(lambda batch: drop(batch, 0.3))
    options = {"build": BUILD, "device": "cpu", "batch_size": 8}
    options |= {"epochs": 1, "lr": 0.1, "seeds": [0, 1]}
    make = METHODS[method].make
    together = fit_seeds(data, make, at_once=True, **options)
    alone = fit_seeds(data, make, at_once=False, **options)
    for mine, theirs in zip(together, alone, strict=True):
        assert mine.together == 2
        for p, q in zip(mine.model.parameters(), theirs.model.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)


def test_bytes_and_booleans_reach_the_encoder_as_they_are():
    seen = []

    class Looks(nn.Linear):
        def forward(self, x):
            seen.append(x.dtype)
            return super().forward(x.float())

    inputs = {"pixels": torch.arange(12).byte().view(6, 2), "flags": torch.eye(6).bool()}
    batch = Batch(inputs, torch.arange(6) % 2)
    data = MultimodalData(batch, batch, batch)
    encoders = {"pixels": lambda: Looks(2, 8), "flags": lambda: Looks(6, 8)}
    net = MultimodalNet.build(data, encoders=encoders, width=8)
    fit(net, data, epochs=1, device="cpu")
    assert set(seen) == {torch.uint8, torch.bool}


def test_autocast_takes_nested_inputs():
    data = make_data()
    net = MultimodalNet.build(data, encoders=ENCODERS, width=8)
    seen = set()
    linear = net.encoders["text"].out
    linear.register_forward_hook(lambda part, given, out: seen.add(out.dtype))
    run = fit(net, data, epochs=1, device="cpu", precision="bfloat16")
    assert run.predict(data.test).dtype == torch.float32 and seen == {torch.bfloat16}


# Measures and tables


def test_every_measure_takes_nested_inputs():
    nested = make_data(lambda batch: drop(batch, 0.3))
    floats = make_data(lambda batch: flat(drop(batch, 0.3)))
    mine, theirs = train(nested, ENCODERS, Joint), train(floats, FLAT, Joint)
    assert measured(mine) == measured(theirs)
    conflicts = [evaluation.gradient_conflict(run.model, run.data.train) for run in (mine, theirs)]
    assert conflicts[0] == conflicts[1]


def test_comparisons_and_their_cache_take_nested_inputs(tmp_path):
    options = {"seeds": [0], "epochs": 1, "build": BUILD, "cache": tmp_path}
    first = compare({"joint": Joint}, make_data(), **options)
    again = compare({"joint": Joint}, make_data(), **options)
    assert first.accuracy.notna().all() and first.accuracy.equals(again.accuracy)
    files = set(tmp_path.rglob("*"))
    compare({"joint": Joint}, make_data(lambda batch: batch[1:]), **options)
    assert set(tmp_path.rglob("*")) > files


def test_a_diagnosis_scales_what_has_a_scale():
    def levels(batch):
        values, _ = batch.inputs["sound"]
        return Batch({"text": batch.inputs["text"], "level": values.mean(1)}, batch.target)

    build = {"encoders": {"text": Text, "level": lambda: nn.Linear(3, 8)}, "width": 8}
    found = diagnose(make_data(levels), epochs=1, scales=[0.5], build=build)
    assert {*found.runs.method} - {"ensemble, scaled"} == {"joint", "ensemble", "level × 0.5"}


# Batches


def test_a_batch_is_indexed_moved_and_printed_with_all_parts():
    batch = make_batch(5)
    text, (values, lengths) = batch.inputs["text"], batch.inputs["sound"]
    some = batch[torch.tensor([3, 1])]
    assert torch.equal(some.inputs["text"]["ids"], text["ids"][[3, 1]])
    assert torch.equal(some.inputs["text"]["mask"], text["mask"][[3, 1]])
    assert torch.equal(some.inputs["sound"][0], values[[3, 1]])
    assert some.inputs["sound"][1].tolist() == [lengths[3], lengths[1]]
    moved = batch.to("meta").inputs
    assert moved["text"]["mask"].is_meta and moved["sound"][1].is_meta
    assert repr(batch) == (
        "Batch(text {'ids': (5, 6), 'mask': (5, 6)}, sound ((5, 4, 3), (5,)), target (5,))"
    )


def test_batches_are_joined_part_by_part():
    one, other = make_batch(4, 0), make_batch(4, 1)
    stack, row = stack_batches([one, other]), concatenate([one, other])
    for r, batch in enumerate((one, other)):
        for key, x in batch.inputs["text"].items():
            assert torch.equal(stack.inputs["text"][key][r], x)
            assert torch.equal(row.inputs["text"][key][4 * r : 4 * r + 4], x)
        for k, x in enumerate(batch.inputs["sound"]):
            assert torch.equal(stack.inputs["sound"][k][r], x)
            assert torch.equal(row.inputs["sound"][k][4 * r : 4 * r + 4], x)
    assert stack_batches([one, one]).inputs["sound"][1].shape == (2, 4)


def test_what_is_taken_away_is_zero_in_all_parts():
    batch = drop(make_batch(40), 0.5, seed=1)
    for m, value in batch.inputs.items():
        parts = value.values() if isinstance(value, dict) else value
        absent = ~batch.present[m]
        assert absent.any()
        assert all(not part[absent].any() for part in parts)
        assert all(a.dtype == b.dtype for a, b in zip(parts, parts_of(m), strict=True))
    blind = without(batch, "sound").inputs
    assert not blind["sound"][0].any() and not blind["sound"][1].any()
    assert blind["text"] is batch.inputs["text"]


def parts_of(m):
    value = make_batch(2).inputs[m]
    return value.values() if isinstance(value, dict) else value


def test_data_know_the_shapes_of_all_parts():
    data = make_data()
    assert data.shape("text") == {"ids": (6,), "mask": (6,)}
    assert data.shape("sound") == ((4, 3), ())
    assert "modality text: ['ids'] 6, ['mask'] 6" in data.describe()
    assert "modality sound: [0] 4 x 3, [1] scalar" in data.describe()


def test_what_a_result_depends_on_is_every_part_and_its_kind():
    def of(change):
        return digest(make_data(change), "data")

    def renamed(batch):
        text = dict(zip(("ids", "there"), batch.inputs["text"].values(), strict=True))
        return Batch(batch.inputs | {"text": text}, batch.target)

    def unmasked(batch):
        text = batch.inputs["text"]
        text = text | {"mask": torch.ones_like(text["mask"])}
        return Batch(batch.inputs | {"text": text}, batch.target)

    def counted(batch):
        values, lengths = batch.inputs["sound"]
        return Batch(batch.inputs | {"sound": (values, lengths.int())}, batch.target)

    same = [of(lambda batch: batch) for _ in range(2)]
    assert len({*same}) == 1
    assert len({same[0], *map(of, (renamed, unmasked, counted))}) == 4


# What is refused


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({}, ValueError, r"'a' is \{\}; give a tensor, or a dict or a tuple of at least one"),
        ((), ValueError, r"'a' is \(\); give a tensor, or a dict"),
        ({"ids": [1, 2, 3]}, TypeError, r"'a'\['ids'\] is a list; .* use torch\.as_tensor"),
        ((torch.zeros(3), torch.zeros(2)), ValueError, r"'a'\[1\] has 2 samples, the target has 3"),
        ({"n": torch.tensor(3)}, ValueError, r"'a'\['n'\] is a single number"),
        ({"x": {"y": torch.zeros(3)}}, TypeError, r"'a'\['x'\] is a dict; .* a plain dict or"),
        ([[1, 2], [3]], TypeError, r"'a' is a list; .*unlike length with mmlab\.datasets\.pad"),
        ([torch.zeros(2)] * 3, TypeError, r"'a' is a list; .* use torch\.stack"),
        (
            nn.utils.rnn.pack_sequence([torch.zeros(2, 1), torch.zeros(1, 1)]),
            TypeError,
            r"'a' is a PackedSequence; .* a plain dict or tuple",
        ),
    ],
)
def test_a_modality_is_a_tensor_or_a_dict_or_a_tuple_of_them(value, error, message):
    with pytest.raises(error, match=message):
        Batch({"a": value}, torch.arange(3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (torch.tensor([0.0, torch.nan, 1.0]), r"'a'\['x'\] of train is not finite in 1 of 3 rows"),
        (torch.ones(3).half(), r"'a'\['x'\] of train is torch\.float16, .*\.float\(\)"),
        (torch.ones(3).to(torch.uint16), r"'a'\['x'\] of train is torch\.uint16, .*\.long\(\)"),
        (
            torch.nested.nested_tensor([torch.ones(i + 1) for i in range(3)], layout=torch.jagged),
            r"'a'\['x'\] of train is a nested tensor; use mmlab\.datasets\.pad\(",
        ),
    ],
)
def test_every_part_is_checked(values, message):
    split = Batch({"a": {"x": values}}, torch.arange(3))
    with pytest.raises(ValueError, match=message):
        MultimodalData(split, split, split)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3, 2), r"'a' of test is a Tensor, that of train a dict of \['x'\], \['y'\]"),
        ({"y": torch.zeros(3), "x": torch.zeros(3)}, r"is a dict of \['y'\], \['x'\], that of"),
        ({"x": torch.zeros(3, 2), "y": torch.zeros(3)}, r"'a'\['x'\] of test has .* \(2,\)"),
        (
            {"x": torch.zeros(3).long(), "y": torch.zeros(3)},
            r"'a'\['x'\] of test is torch\.int64, train is .*use \.to\(torch\.float32\)",
        ),
    ],
)
def test_splits_have_the_same_parts(value, message):
    good = Batch({"a": {"x": torch.zeros(3), "y": torch.zeros(3)}}, torch.arange(3))
    with pytest.raises(ValueError, match=message):
        MultimodalData(good, good, Batch({"a": value}, torch.arange(3)))


def test_a_part_that_is_not_0_where_the_sample_lacks_the_modality_is_warned_of():
    there = torch.tensor([True, False, True])
    value = {"x": torch.zeros(3, 2), "length": torch.tensor([1, 2, 1])}
    split = Batch({"a": value}, torch.arange(3), {"a": there})
    with pytest.warns(UserWarning, match=r"present\['a'\] of test .* at 1 samples"):
        MultimodalData(split, split, split)


@pytest.mark.parametrize("name", ["mlp", "cnn", "normalised"])
def test_encoders_by_name_are_for_one_tensor_of_real_numbers(name):
    data = make_data()
    message = (
        rf"the encoder '{name}' reads one tensor of real numbers, and the values of 'text' are a "
        r"dict of \['ids'\] torch\.int64, \['mask'\] torch\.bool; give another one, in a dict"
    )
    with pytest.raises(ValueError, match=message):
        MultimodalNet.build(data, encoders=name)


def test_whole_numbers_are_scaled_and_read_by_an_encoder_of_ones_own_alone():
    batch = Batch({"ids": torch.arange(12).view(6, 2)}, torch.arange(6) % 2)
    data = MultimodalData(batch, batch, batch)
    with pytest.raises(ValueError, match=r"the values of 'ids' are torch\.int64; .*\.float\(\)"):
        MultimodalNet.build(data)
    encoders = {"ids": lambda: nn.Sequential(nn.Embedding(12, 4), nn.Flatten())}
    with pytest.raises(ValueError, match=r"scale names 'ids', whose values are torch\.int64; a f"):
        MultimodalNet.build(data, encoders=encoders, width=8, scale={"ids": 0.5})
    assert fit(MultimodalNet.build(data, encoders=encoders, width=8), data, epochs=1).epoch == 1


def test_an_encoder_that_does_not_take_the_values_is_named_with_their_form():
    with pytest.raises(AttributeError) as caught:
        MultimodalNet.build(make_data(), encoders={**ENCODERS, "text": nn.Flatten}, width=8)
    assert (
        "The encoder of 'text' was tried on inputs of the shape {'ids': (2, 6)"
        in (caught.value.__notes__[0])
    )


def test_a_part_in_float64_is_named_where_the_network_is_not():
    parts = {"x": torch.zeros(6, 2).double(), "n": torch.arange(6)}
    batch = Batch({"a": parts}, torch.arange(6) % 2)
    data = MultimodalData(batch, batch, batch)

    class Narrow(nn.Linear):
        def forward(self, a):
            return super().forward(a["x"].float())

    net = MultimodalNet.build(data, encoders={"a": lambda: Narrow(2, 8)}, width=8)
    with pytest.raises(ValueError, match=r"modality 'a' is torch\.float64.*\.float\(\)"):
        fit(net, data, epochs=1)


@pytest.mark.parametrize("split", ["train", "holdout", "test"])
@pytest.mark.parametrize("number", [9, -1])
def test_a_token_that_an_embedding_has_no_row_for_is_found_before_the_training(split, number):
    data = make_data()
    data.splits[split].inputs["text"]["ids"][5, 2] = number
    ends = r"\['ids'\] from 0 to 9" if number > 0 else r"\['ids'\] from -1 to 8"
    with pytest.raises(IndexError) as caught:
        MultimodalNet.build(data, **BUILD)
    tried, told = caught.value.__notes__
    assert "The encoder of 'text' was tried" in tried
    assert re.search(rf"Whole numbers {ends}\. An embedding needs a row for each", told)


def test_an_index_error_of_floats_has_no_word_on_embeddings():
    class Flat(nn.Module):
        def forward(self, x):
            return x.flatten(3)

    data = make_data(lambda batch: Batch({"a": torch.ones(len(batch), 4)}, batch.target))
    with pytest.raises(IndexError) as caught:
        MultimodalNet.build(data, encoders={"a": Flat})
    assert not any("embedding" in note for note in caught.value.__notes__)
