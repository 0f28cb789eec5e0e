"""A split of any size: networks see parts of it, and no number is another one."""

import pytest
import torch
from known import DATA, untrained
from measuring import lacking, measured
from torch import nn

from mmlab import evaluation
from mmlab.balancers import MLA, OGM, GradientBlending, Joint
from mmlab.datasets import Batch, MultimodalData, splits
from mmlab.models import MultimodalNet
from mmlab.training import fit, fit_seeds, stacked_run
from mmlab.training.passes import read

GAPS = MultimodalData(*(lacking(split) for split in DATA.splits.values()))


def all_of(data, balancer):
    """Every measure of one untrained network, and its curves."""
    net = MultimodalNet.build(data, **balancer.network, seed=4)
    run = untrained(net, data, balancer)
    run.loss = nn.CrossEntropyLoss(torch.tensor([1.0, 5.0]))  # no mean of parts is its mean
    evaluation.Curves(("train", "test"))(run)
    return measured(run) | {"curves": run.history["value"].tolist()}


@pytest.mark.parametrize("data", [DATA, GAPS], ids=["whole", "gaps"])
@pytest.mark.parametrize("balancer", [Joint(), MLA()], ids=["Joint", "MLA"])
def test_measures_are_the_same_in_pieces(data, balancer, monkeypatch):
    whole, seen = all_of(data, balancer), []
    monkeypatch.setattr(splits, "MOST", 7)
    encode = MultimodalNet.encode
    monkeypatch.setattr(
        MultimodalNet, "encode", lambda net, m, x: seen.append(len(x)) or encode(net, m, x)
    )
    parts = all_of(data, balancer)
    assert max(seen) == 7 and len(seen) > 100
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True), name


@pytest.mark.parametrize("data", [DATA, GAPS], ids=["whole", "gaps"])
def test_a_stack_reads_its_splits_in_pieces_too(data, monkeypatch):
    def blended(at_once):
        runs = fit_seeds(
            [data, other, data],
            GradientBlending,
            seeds=[0, 1, 2],
            epochs=1,
            device="cpu",
            at_once=at_once,
        )
        return [run.history["value"].tolist() for run in runs]

    mixed = [split[torch.arange(len(split)).flip(0)] for split in data.splits.values()]
    other = MultimodalData(*(Batch(s.inputs, s.target.flip(0), s.present) for s in mixed))
    alone = blended(at_once=False)
    monkeypatch.setattr(splits, "MOST", 7)
    for run, expected in zip(blended(at_once=True), alone, strict=True):
        assert run == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_networks_that_share_a_split_hold_it_once(monkeypatch):
    held, join = [], stacked_run.concatenate
    monkeypatch.setattr(
        stacked_run, "concatenate", lambda sets: held.append(len(sets)) or join(sets)
    )
    again = MultimodalData(DATA.train, DATA.test, DATA.holdout)
    data = [DATA, again, GAPS]
    fit_seeds(data, Joint, seeds=[0, 1, 2], epochs=1, device="cpu", at_once=True)
    assert held == [2]


def test_what_is_read_of_a_split_has_one_form():
    with pytest.raises(ValueError, match=r"some batches of the split say .* and others do not"):
        read(MultimodalNet.build(DATA), [DATA.test, GAPS.test], lambda _, out: {"z": out.joint})


def test_large_samples_go_in_small_pieces():
    def size(shape, dtype=torch.float32):
        return splits.piece_size(Batch({"a": torch.zeros(1, *shape, dtype=dtype)}, torch.zeros(1)))

    assert size((5,)) == splits.MOST
    assert size((1, 32, 32)) == 2048 and size((1, 32, 32), torch.float64) == 1024
    assert size((512,), torch.int64) == 16  # tokens: each becomes a row of numbers
    assert size((16, 3, 224, 224)) == splits.FEWEST


def test_the_message_of_a_prediction_tells_the_piece(monkeypatch):
    net = MultimodalNet.build(DATA, heads="shared")
    absent = {m: torch.arange(20) < 9 for m in "ab"}
    monkeypatch.setattr(splits, "MOST", 7)
    batch = Batch(DATA.test.inputs, DATA.test.target, absent)
    with pytest.raises(ValueError, match="sample 2 has no modality at all") as caught:
        untrained(net, balancer=MLA()).predict(batch)
    assert caught.value.__notes__ == ["in a piece of the split, which begins at its sample 7"]


def test_training_never_copies_more_than_a_batch(monkeypatch):
    taken, own = [], Batch.__getitem__

    def watched(batch, index):
        taken.append(len(found := own(batch, index)))
        return found

    monkeypatch.setattr(Batch, "__getitem__", watched)
    fit(MultimodalNet.build(DATA), DATA, OGM(), epochs=2, batch_size=8, device="cpu")
    assert max(taken) == 8 and sum(taken) >= 2 * len(DATA.train)
