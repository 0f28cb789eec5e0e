"""A split that is read trains and measures as the same samples in memory do."""

import doctest
import os
import pickle
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from measuring import lacking, measured
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, WeightedRandomSampler

from mmlab import evaluation
from mmlab.balancers import METHODS, Balancer, Joint
from mmlab.datasets import Batch, MultimodalData, Stream, drop, stream, synthetic
from mmlab.identity import UnknownIdentityError, digest
from mmlab.models import MultimodalNet, UnstackableError
from mmlab.seeds import derive
from mmlab.training import fit, fit_seeds

DATA = synthetic(n=(40, 20, 20), dims=5)
WHOLE = {"epochs": 2, "batch_size": 16, "device": "cpu"}


GAPS = MultimodalData(*(lacking(split) for split in DATA.splits.values()))


class Rows(Dataset):
    """The samples of a batch, one by one; it notes which were asked for."""

    def __init__(self, batch):
        self.batch, self.asked = batch, []

    def __len__(self):
        return len(self.batch)

    def __getitem__(self, i):
        self.asked.append(i)
        target = self.batch.target[i]
        target = target if target.ndim else int(target)
        sample = {m: x[i] for m, x in self.batch.inputs.items()}, target
        masks = self.batch.present
        return sample if masks is None else (*sample, {m: bool(x[i]) for m, x in masks.items()})


def streamed(data, **options):
    splits = (Stream(Rows(split), **options) for split in data.splits.values())
    return MultimodalData(*splits, n_classes=data.n_classes)


def trained(data, balancer=None, encoders="mlp", **options):
    balancer = balancer or Joint()
    net = MultimodalNet.build(data, **{**balancer.network, "encoders": encoders}, seed=1)
    return fit(net, data, balancer, **{**WHOLE, **options})


@pytest.mark.parametrize("data", [DATA, GAPS], ids=["whole", "gaps"])
@pytest.mark.parametrize("method", ["Joint", *METHODS])
def test_every_method_trains_as_in_memory(method, data):
    make = METHODS[method].make if method in METHODS else Joint
    held, read = (trained(splits, make()) for splits in (data, streamed(data)))
    assert held.history.equals(read.history)
    for name, value in held.model.state_dict().items():
        assert torch.equal(read.model.state_dict()[name], value), name


@pytest.mark.parametrize("data", [DATA, GAPS], ids=["whole", "gaps"])
def test_every_measure_is_as_in_memory(data):
    observers = [evaluation.Curves(), evaluation.GradientWatch(16)]
    runs = [trained(d, observers=observers) for d in (data, streamed(data))]
    assert runs[0].history.equals(runs[1].history)
    held, read = map(measured, runs)
    for name, value in held.items():
        assert read[name] == pytest.approx(value, nan_ok=True, abs=1e-7), name


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_targets_of_several_numbers_are_as_in_memory(task):
    def several(split):
        target = torch.stack([split.target, 1 - split.target, split.target], dim=1).float()
        return Batch(split.inputs, target)

    held = MultimodalData(*(several(split) for split in DATA.splits.values()), task=task)
    splits = (Stream(Rows(several(split))) for split in DATA.splits.values())
    read = MultimodalData(*splits, task=task)
    assert held.n_outputs == read.n_outputs == 3
    runs = [trained(data, observers=[evaluation.Curves()]) for data in (held, read)]
    assert runs[0].history.equals(runs[1].history)
    assert evaluation.test_scores(runs[0]) == evaluation.test_scores(runs[1])
    assert read.train.head(1).task == task


def test_workers_change_nothing_and_leave_dropout_its_numbers():
    class Dropping(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Linear(5, 64), nn.Dropout(0.5))

    runs = [
        trained(data, encoders=dict.fromkeys("ab", Dropping))
        for data in (DATA, streamed(DATA), streamed(DATA, workers=2))
    ]
    assert runs[0].history.equals(runs[1].history) and runs[0].history.equals(runs[2].history)


class Augmented(Rows):
    """Noise from all three global generators."""

    def __getitem__(self, i):
        inputs, target = super().__getitem__(i)
        noise = [torch.rand(()).item(), np.random.rand(), random.random()]
        return {"a": torch.tensor(noise), "b": inputs["b"]}, target


def drawn(size=8, workers=0, seed=3, order=None):
    if order is None:
        order = torch.arange(40).flip(0)
    stream, noise = Stream(Augmented(DATA.train), workers=workers), torch.empty(40, 3)
    for batch in stream.batches(size, order, seed):
        noise[batch.index] = batch.inputs["a"]
    return noise


def test_random_samples_are_seeded_each_for_itself():
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    noise = drawn()
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[2]
    assert (np.random.get_state()[1] == states[1]).all()
    assert len(noise.flatten().unique()) == 120  # every sample its own
    assert torch.equal(noise, drawn(size=7, order=torch.arange(40)))
    assert torch.equal(noise, drawn(workers=2))
    assert (noise != drawn(seed=4)).all()


class Seldom(Dataset):
    """Samples that draw where `rare` says so: even ones from Python's generator, odd: NumPy's."""

    def __init__(self, rare):
        self.rare, self.read = rare, []

    def __len__(self):
        return 40

    def __getitem__(self, i):
        self.read.append(i)
        draw = np.random.normal if i % 2 else random.random
        found = draw() if self.rare(i) else 0.0
        return {"a": torch.tensor([found, torch.initial_seed()], dtype=torch.float64)}, 0


def one_by_one(rare, seed):
    """Each sample under a seed of its own, by a plain loop."""
    rows = []
    for i in range(40):
        own = (derive(seed, "samples") + i * stream.STEP) % 2**32
        random.seed(own)
        np.random.seed(own)
        torch.manual_seed(own)
        rows.append(Seldom(rare)[i][0]["a"])
    return torch.stack(rows)


RARELY = {
    "never": lambda i: False,
    "always": lambda i: True,
    "late": lambda i: i in (21, 35),
    "late, of Python's": lambda i: i == 22,
    "first": lambda i: i == 0,
    "last of a batch": lambda i: i == 15,
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("case", RARELY)
def test_each_sample_draws_from_its_seed_however_seldom_samples_draw(case, workers):
    rare = RARELY[case]
    known = one_by_one(rare, 3)
    for size in (8, 1) if workers == 0 else (8,):
        split = Stream(Seldom(rare), workers=workers)
        found = torch.cat([batch.inputs["a"] for batch in split.batches(size, seed=3)])
        assert torch.equal(found, known)


def test_samples_are_read_once_and_one_batch_twice_where_few_of_them_draw():
    reads = {}
    for case, rare in RARELY.items():
        dataset = Seldom(rare)
        assert len([*Stream(dataset).batches(8, seed=3)]) == 5
        reads[case] = len(dataset.read)
    again = {"late", "late, of Python's", "last of a batch"}
    assert reads == {case: 48 if case in again else 40 for case in RARELY}


def test_numpy_is_seeded_per_batch_where_no_sample_draws(monkeypatch):
    seeded, seed = [], np.random.seed
    monkeypatch.setattr(np.random, "seed", lambda own: (seeded.append(own), seed(own)))
    list(Stream(Seldom(RARELY["never"])).batches(8))
    assert len(seeded) == 8 * 2 + 4 * 2  # the first batch looks after each sample
    seeded.clear()
    list(Stream(Seldom(RARELY["always"])).batches(8))
    assert len(seeded) == 40 + 1  # it has looked once


def test_reading_leaves_the_generators_as_they_were():
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    for case in ("never", "late", "always"):
        batches = Stream(Seldom(RARELY[case])).batches(8)
        np.random.normal()  # one of a pair: the other one is kept
        next(batches)
        before, kept = states(), np.random.get_state()[3:]
        for _ in batches:
            assert states() == before and np.random.get_state()[3:] == kept


def test_each_epoch_of_a_training_draws_anew_and_a_second_one_draws_the_same():
    def epochs(seed):
        seen = []

        class Notes(Joint):
            def step(self, s):
                seen.append(s.batch.inputs["a"][s.batch.index == 7])
                yield from super().step(s)

        data = MultimodalData(*[Stream(Augmented(DATA.train))] * 3, n_classes=2)
        trained(data, Notes(), seed=seed)
        return torch.cat(seen)

    first = epochs(0)
    assert first.shape == (2, 3) and (first[0] != first[1]).all()
    assert torch.equal(first, epochs(0)) and (first != epochs(1)).all()


def test_an_order_of_the_method_s_own_reads_no_other_sample():
    class Two(Balancer):
        def order(self, run):
            return [5, 9, 5]

    data = streamed(DATA)
    data.train.dataset.asked.clear()
    trained(data, Two())
    assert data.train.dataset.asked == [5, 9, 5] * 2


def test_values_may_be_dicts_and_tuples_and_padded_by_the_collate():
    class Ragged(Rows):
        def __getitem__(self, i):
            inputs, target = super().__getitem__(i)
            b = {"x": inputs["b"], "y": i}
            return {"a": inputs["a"][: 1 + i % 5], "b": b}, target

    def pad(samples):
        rows = [inputs["a"] for inputs, _ in samples]
        others = {
            name: torch.stack([torch.as_tensor(inputs["b"][name]) for inputs, _ in samples])
            for name in ("x", "y")
        }
        lengths = torch.tensor([len(row) for row in rows])
        values = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        targets = torch.tensor([target for _, target in samples])
        return {"a": (values, lengths), "b": others}, targets

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(1, 64)

        def forward(self, value):
            values, lengths = value
            return self.out(values.sum(1, keepdim=True) / lengths[:, None])

    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(5, 64)

        def forward(self, value):
            return self.out(value["x"])

    stream = Stream(Ragged(DATA.train), collate=pad)
    data = MultimodalData(stream, stream, stream, n_classes=2)
    run = trained(data, encoders={"a": Mean, "b": One})
    assert 0 < evaluation.test_accuracy(run) <= 1
    with pytest.raises(RuntimeError) as caught:
        Stream(Ragged(DATA.train)).head(2)
    assert (
        "pad them, such as by Stream(..., collate=mmlab.datasets.Padded('text'))"
        in caught.value.__notes__[0]
    )


class Spoilt(Rows):
    """One sample, far from the first ones, is another one."""

    def __init__(self, batch, spoil):
        super().__init__(batch)
        self.spoil = spoil

    def __getitem__(self, i):
        return self.spoil(*super().__getitem__(i)) if i == 30 else super().__getitem__(i)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda x, y: (x, 9), ValueError, "label 9 in train is out of range"),
        (
            lambda x, y: ({**x, "b": x["b"] / 0}, y),
            ValueError,
            "modality 'b' of train is not finite",
        ),
        (lambda x, y: x, TypeError, "the dataset gives a dict; a sample is .inputs, target"),
        (lambda x, y: (x["a"], y), TypeError, "inputs that are a Tensor; a sample is"),
    ],
)
def test_a_sample_of_another_form_ends_the_training(spoil, error, message):
    data = streamed(DATA)
    data = MultimodalData(Stream(Spoilt(DATA.train, spoil)), data.holdout, data.test, n_classes=2)
    with pytest.raises(error, match=message):
        trained(data)


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        (Endless(), TypeError, "got an Endless; it takes a map-style torch Dataset"),
        (None, TypeError, "got None; it takes a map-style"),
        ([], ValueError, "holds 0 samples"),
    ],
)
def test_what_is_no_map_style_dataset_is_refused(dataset, error, message):
    with pytest.raises(error, match=message):
        Stream(dataset)


def kept(samples):
    return samples


WEIGHTED = WeightedRandomSampler([1.0] * 40, 40)


@pytest.mark.parametrize(
    ("loader", "fix"),
    [
        (DataLoader(Rows(DATA.train)), "use Stream(loader.dataset), fit(..., batch_size=1)"),
        (
            DataLoader(Rows(DATA.train), 32, num_workers=2, collate_fn=kept, drop_last=True),
            "use Stream(loader.dataset, workers=2, collate=loader.collate_fn), "
            "fit(..., batch_size=32, drop_last=True)",
        ),
        (
            DataLoader(Rows(DATA.train), 8, sampler=WEIGHTED),
            "use Stream(loader.dataset), MultimodalData(..., sampler=loader.sampler), "
            "fit(..., batch_size=8)",
        ),
        (DataLoader(Endless()), "a map-style torch Dataset, .* an Endless, has one order only"),
    ],
)
def test_a_loader_is_refused_with_what_to_write_in_its_place(loader, fix):
    message = "makes the loader itself, .*" + (fix if ".*" in fix else re.escape(fix))
    with pytest.raises(TypeError, match=message):
        Stream(loader)
    with pytest.raises(TypeError, match="holdout is a DataLoader, .*" + message):
        MultimodalData(DATA.train, loader, DATA.test)


def test_where_a_stream_cannot_stand_the_message_has_the_fix():
    stream = Stream(Rows(DATA.train))
    with pytest.raises(ValueError, match=r"the labels of a Stream are not known .* give n_classes"):
        MultimodalData(stream, stream, stream)
    with pytest.raises(TypeError, match=r"train is a Rows; give .* a Stream\(dataset\)"):
        MultimodalData(Rows(DATA.train), stream, stream)
    with pytest.raises(AttributeError, match=r"does not hold its target; .* split\.head\(64\)"):
        _ = stream.target
    with pytest.raises(TypeError, match=r"of a Stream, .*: split\.head\(len\(split\)\)"):
        drop(stream, {"a": 0.5}, seed=0)
    assert repr(stream) == "Stream(Rows, 40 samples)"
    whole = stream.head(len(stream))
    assert torch.equal(whole.inputs["b"], DATA.train.inputs["b"]) and whole.index is None


def test_seeds_train_one_by_one():
    data = streamed(DATA)
    runs = fit_seeds(data, Joint, seeds=[0, 1], **WHOLE)
    assert [run.together for run in runs] == [1, 1]
    with pytest.raises(UnstackableError, match="train is a Stream, and every network of a stack"):
        fit_seeds(data, Joint, seeds=[0, 1], at_once=True, **WHOLE)


def test_a_checksum_stands_for_the_data_and_without_one_there_is_no_identity():
    named = [digest(streamed(DATA, checksum=text), "data") for text in ("1", "1", "2")]
    assert named[0] == named[1] != named[2]
    with pytest.raises(UnknownIdentityError, match=r"give Stream\(\.\.\., checksum="):
        digest(streamed(DATA), "data")


def test_data_of_streams_go_to_another_process():
    data = pickle.loads(pickle.dumps(streamed(DATA)))
    assert trained(data).history.equals(trained(DATA).history)
    with pytest.raises(ValueError, match="label 9 in train"):
        data.train.dataset.batch.target[12] = 9
        trained(data)


def test_a_stream_reads_each_sample_once_an_epoch():
    data = streamed(DATA)
    data.train.dataset.asked.clear()
    trained(data, epochs=3)
    asked = data.train.dataset.asked
    assert [sorted(asked[i : i + 40]) for i in (0, 40, 80)] == [list(range(40))] * 3
    assert len({tuple(asked[i : i + 40]) for i in (0, 40, 80)}) == 3


def test_the_example_runs():
    found = doctest.testmod(stream)
    assert found.attempted >= 5 and not found.failed


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and /proc are Linux's")
def test_a_file_of_ten_times_the_memory_trains_and_is_measured(tmp_path):
    allowance = 2**26
    with (tmp_path / "pictures").open("wb") as file:
        file.truncate(10 * allowance)  # zeros that take no room on the disk
    script = Path(__file__).parent / "little_memory.py"
    done = subprocess.run(
        [sys.executable, str(script), file.name, str(allowance)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split("\n")[:2] == ["1.0", "too much"], done.stderr


def test_an_attribute_error_of_the_dataset_is_told():
    class Broken(Rows):
        def __getitem__(self, i):
            return self.wrong_name

    splits = [Stream(Broken(split)) for split in DATA.splits.values()]
    with pytest.raises(RuntimeError, match=r"Broken raised an AttributeError.*'wrong_name'"):
        MultimodalData(*splits, n_classes=2)


def test_the_first_samples_are_read_once():
    data = streamed(DATA)
    net = MultimodalNet.build(data)
    rows = data.test.dataset
    rows.asked.clear()
    for _ in range(3):
        evaluation.own_head_accuracy(net, data.test.to("cpu"))
    assert sorted(rows.asked) == sorted(3 * [*range(len(rows))])


def test_a_split_takes_no_check_along_to_another_data_set():
    rows = [Rows(Batch(split.inputs, 3 * split.target)) for split in DATA.splits.values()]
    few = MultimodalData(*map(Stream, rows), n_classes=4)
    more = MultimodalData(few.test, few.holdout, few.train, n_classes=4)
    assert [len(split.checks) for split in more.splits.values()] == [
        len(split.checks) for split in few.splits.values()
    ]
