"""Accuracy for each set of modalities, by hand."""

import math

import pytest
import torch
from known import make_known, untrained

from mmlab import Unimodal, evaluation
from mmlab.datasets import Batch, MultimodalData, Stream
from mmlab.datasets.dials import drop
from mmlab.evaluation import filled_in
from mmlab.models import MultimodalNet


def patchy():
    """Of 80 samples 40 have both, 24 only a, 16 only b, which tells nothing: then class 0 it is."""
    net, data = make_known()
    number = torch.arange(80)
    has = {"a": number < 64, "b": (number < 40) | (number >= 64)}
    inputs = {m: x * has[m][:, None] for m, x in data.test.inputs.items()}
    return net, Batch(inputs, data.test.target, has)


def test_accuracy_by_pattern_by_hand():
    net, batch = patchy()
    table = evaluation.accuracy_by_pattern(untrained(net), batch)
    assert table.samples.to_dict() == {"a + b": 40, "a": 24, "b": 16}
    assert table.accuracy.to_dict() == {"a + b": 1, "a": 1, "b": 0.25}
    assert [*table.index] == ["a + b", "a", "b"] and table.index.name == "pattern"


def test_complete_data_have_one_pattern():
    net, data = make_known()
    table = evaluation.accuracy_by_pattern(untrained(net), data.test)
    assert table.to_dict("index") == {"a + b": {"samples": 80, "accuracy": 1.0}}


def test_patterns_weighed_by_their_samples_make_up_the_accuracy():
    net, data = make_known()
    batch = drop(data.test, 0.6)
    run = untrained(net)
    table = evaluation.accuracy_by_pattern(run, batch)
    whole = evaluation.accuracy(run.predict(batch), batch.target)
    assert len(table) == 3
    assert (table.samples * table.accuracy).sum() / 80 == pytest.approx(whole)


def test_samples_without_an_answer_do_not_count():
    net, batch = patchy()
    table = evaluation.accuracy_by_pattern(untrained(net, balancer=Unimodal("a")), batch)
    assert table.samples.to_dict() == {"a + b": 40, "a": 24, "b": 0}
    assert math.isnan(table.accuracy["b"])


def test_a_sample_can_lack_everything():
    net, data = make_known()
    gone = evaluation.without(data.test, "a", "b")
    assert [*evaluation.accuracy_by_pattern(untrained(net), gone).index] == ["none"]


def test_without_a_modality():
    _, batch = patchy()
    less = evaluation.without(batch, "a")
    assert not less.inputs["a"].any() and less.inputs["b"] is batch.inputs["b"]
    assert not less.present["a"].any() and less.present["b"] is batch.present["b"]
    assert batch.inputs["a"].any() and batch.present["a"].any()
    with pytest.raises(ValueError, match="modality is 'c'; allowed are 'a', 'b'"):
        evaluation.without(batch, "c")


def test_means_of_the_training_samples_that_have_the_modality_fill_it_in():
    net, data = make_known()
    _, train = patchy()
    run = untrained(net, MultimodalData(train, data.holdout, data.test))
    has = run.data.train.has("a")
    found = filled_in(run, data.test, "a")
    x = run.data.train.inputs["a"][has].mean(0).expand_as(data.test.inputs["a"])
    with torch.no_grad():
        own = net({**data.test.inputs, "a": x}).joint
        h = net(run.data.train.inputs).features["a"][has].mean(0)
        features = net(data.test.inputs).features
        by_feature = net.fusion({**features, "a": h.expand_as(features["a"])})
    torch.testing.assert_close(found["mean input"], own)
    torch.testing.assert_close(found["mean feature"], by_feature)


def test_of_complete_training_samples_the_mean_is_of_all():
    net, data = make_known()
    run = untrained(net, data)
    x = run.data.train.inputs["b"].mean(0).expand_as(data.test.inputs["b"])
    own = net({**data.test.inputs, "b": x}).joint
    torch.testing.assert_close(filled_in(run, data.test, "b")["mean input"], own)
    with pytest.raises(ValueError, match="modality is 'c'"):
        filled_in(run, data.test, "c")


def test_a_mean_of_frames_is_over_those_that_count():
    draw = torch.Generator().manual_seed(0)

    def split(n):
        present = {"a": torch.arange(n) % 3 != 0, "b": torch.ones(n).bool()}
        x = {m: torch.randn(n, 4, 3, generator=draw) * present[m][:, None, None] for m in "ab"}
        target = torch.randint(2, (n, 4), generator=draw)
        target[:, 3] = -100
        return Batch(x, target, present)

    data = MultimodalData(split(12), split(6), split(6), n_classes=2, frames=True)
    net = MultimodalNet.build(data, width=8)
    found = filled_in(untrained(net, data), data.test, "a")["mean feature"]
    with torch.no_grad():
        own, other = (net(part.inputs).features for part in (data.train, data.test))
        counts, has = torch.arange(48) % 4 < 3, data.train.present["a"].repeat_interleave(4)
        h = own["a"][counts & has].mean(0)
        rows = {m: x[counts[:24]] for m, x in other.items()}
        known = net.fusion({**rows, "a": h.expand_as(rows["a"])})
    torch.testing.assert_close(found, known)


def test_a_stream_has_no_mean_input():
    net, data = make_known()
    rows = zip(data.train.inputs["a"], data.train.inputs["b"], data.train.target, strict=True)
    stream = Stream([({"a": a, "b": b}, y) for a, b, y in rows])
    read = MultimodalData(stream, data.holdout, data.test, n_classes=data.n_classes)
    with pytest.raises(ValueError, match=r"the training inputs of 'a' are no tensor .* in memory"):
        filled_in(untrained(net, read), data.test, "a")
