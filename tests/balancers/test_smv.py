"""SMV: values by their first definition, copies by the table, and every copy with its own mask."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from by_hand import CLASSES, batch, data, network, parameters
from torch import nn

from mmlab import SMV, Batch, Joint, MultimodalData, MultimodalNet, Step, evaluation, fit
from mmlab.balancers.smv import (
    coalitions,
    further_copies,
    members,
    modality_values,
    redrawn_shares,
    resampled,
    rightness,
)
from mmlab.datasets import Stream
from mmlab.training import Checkpoint, begin

OPTIONS = {"batch_size": 8, "device": "cpu", "lr": 0.1}


def by_orders(right, has):
    """φ (M, B) as the mean gain of each modality over all orders of joining, in plain Python."""
    count, size = has.shape
    sets = [frozenset(i for i in range(count) if k >> i & 1) for k in range(1, 2**count)]
    found = np.zeros((count, size))
    for b in range(size):
        points = {frozenset(): 0.0}
        for row, joined in enumerate(sets):
            points[joined] = right[row, b] * sum(has[i, b] for i in joined)
        orders = list(itertools.permutations(range(count)))
        for order in orders:
            for place, i in enumerate(order):
                before = frozenset(order[:place])
                found[i, b] += (points[before | {i}] - points[before]) / len(orders)
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("missing", [False, True])
def test_values_are_shapley_values_and_sum_to_that_of_all(count, missing):
    draw = np.random.default_rng(count)
    right = draw.integers(0, 2, (2**count - 1, 20)).astype(float)
    has = draw.random((count, 20)) < (0.6 if missing else 2)
    if missing:  # a set is what its members that are there say
        for k in range(1, 2**count):
            for b in range(20):
                there = sum(1 << i for i in range(count) if k >> i & 1 and has[i, b])
                right[k - 1, b] = right[there - 1, b] if there else right[k - 1, b]
    found = modality_values(torch.tensor(right), torch.tensor(has) if missing else None)
    assert found.dtype == torch.float64 and found.shape == (count, 20)
    np.testing.assert_allclose(found.numpy(), by_orders(right, has), atol=1e-12)
    np.testing.assert_allclose(found.sum(0).numpy(), right[-1] * has.sum(0), atol=1e-12)
    np.testing.assert_allclose(found.numpy()[~has], 0, atol=1e-12)


def test_values_of_two_are_those_of_the_paper():
    """v_a, v_v, v_av: φ_a = (v_a + v_av − v_v) / 2."""
    table = {
        (0, 0, 0): (0, 0),
        (0, 0, 1): (1, 1),
        (1, 0, 0): (0.5, -0.5),
        (1, 0, 1): (1.5, 0.5),
        (0, 1, 0): (-0.5, 0.5),
        (1, 1, 0): (0, 0),
        (1, 1, 1): (1, 1),
    }
    right = torch.tensor([*table], dtype=torch.float64).T
    assert modality_values(right).T.tolist() == [list(map(float, v)) for v in table.values()]
    twice = modality_values(torch.stack([right, 1 - right]))
    assert torch.equal(twice[0], modality_values(right))
    assert torch.equal(twice[1], modality_values(1 - right))
    copies = {pair: sum(further_copies(torch.tensor(pair)).tolist()) for pair in table.values()}
    # one where an answer is right that one modality alone gives; four where it is wrong
    for said, pair in table.items():
        assert copies[pair] == (4 if not said[2] else int(said[0] != said[1]))


def test_values_are_in_the_type_of_the_answers():
    """A device without float64 has values too; sums of eighths and sevenths meet the bounds."""
    draw = np.random.default_rng(0)
    right, has = draw.integers(0, 2, (2**8 - 1, 400)), torch.from_numpy(draw.random((8, 400)) < 0.9)
    wide = modality_values(torch.from_numpy(right).double(), has)
    for kind, found in ((torch.float32, torch.float32), (torch.bfloat16, torch.float32)):
        values = modality_values(torch.from_numpy(right).to(kind), has)
        assert values.dtype == found
        torch.testing.assert_close(values.double(), wide, rtol=0, atol=5e-6)
        assert torch.equal(further_copies(values), further_copies(wide))


@pytest.mark.parametrize("shape", [(2, 5), (4, 5), (5,), (0, 5)])
def test_sets_that_are_not_all_of_them_are_refused(shape):
    with pytest.raises(ValueError, match=r"allowed is \(…, 2\^M − 1, B\): every set of M"):
        modality_values(torch.zeros(shape))


def test_the_members_of_every_set():
    assert members(2).int().tolist() == [[1, 0], [0, 1], [1, 1]]
    assert len(members(4)) == 15 and members(4)[-1].all()
    assert members(3)[4 - 1].tolist() == [False, False, True]


@pytest.mark.parametrize("lead", [(), (2,)])
def test_a_set_leaves_the_features_of_the_others_out(lead):
    draw = torch.Generator().manual_seed(0)
    h = {m: torch.randn(*lead, 5, 3, generator=draw, dtype=torch.float64) for m in "abc"}
    has = torch.rand(*lead, 3, 5, generator=draw) < 0.5

    for present in (None, has):
        found = list(coalitions(h, present))
        assert len(found) == 7
        for joined, features in zip(members(3), found, strict=True):
            assert list(features) == list("abc")
            for i, m in enumerate("abc"):
                there = torch.ones(*lead, 5) if present is None else present[..., i, :].double()
                assert torch.equal(features[m], h[m] * (joined[i] * there)[..., None])


def test_rightness_of_classes_and_of_labels():
    logits = torch.tensor([[[3.0, 1.0], [0.0, 2.0]], [[1.0, 3.0], [-1.0, -2.0]]]).double()
    assert rightness(logits, torch.tensor([0, 1])).tolist() == [[1, 1], [0, 0]]
    labels = torch.tensor([[True, False], [False, True]])
    found = rightness(logits, labels)
    assert found.tolist() == [[0.5, 1], [0.5, 0.5]] and found.dtype == torch.float64


def test_the_table_of_copies():
    values = torch.tensor([1.5, 1.0, 0.99, 0.5, 0.4, 0.39, 0.0, -0.1, -0.11, -0.5])
    assert further_copies(values).tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 3, 3]
    right = torch.zeros(7, 1).double()
    right[[3 - 1, 5 - 1, 7 - 1]] = 1  # ab, ac, abc: a sum of thirds that is 1 but for rounding
    values = modality_values(right)
    assert values[:, 0].tolist() == pytest.approx([5 / 3, 2 / 3, 2 / 3])
    ones = torch.tensor([1 / 3]).double().repeat(3).cumsum(0) - 1e-12
    assert further_copies(ones).tolist() == [2, 1, 0]


def test_the_better_modality_is_dropped_in_two_thirds_of_the_gap():
    values = torch.tensor([[0.9, 0.3], [0.2, 0.8]], dtype=torch.float64)
    expected = [[0, 0.8 * 2 / 3 * 0.6 / 0.8], [2 / 3 * 0.6, 0]]
    np.testing.assert_allclose(redrawn_shares(values, 1.0), expected)
    np.testing.assert_allclose(redrawn_shares(values, 2.0), 2 * np.array(expected))
    three = redrawn_shares(torch.tensor([1.0, 0.4, 0.7]), 3.0)
    assert three.tolist() == pytest.approx([0, 1.2, 0.6])


def test_an_epoch_has_every_sample_and_then_its_copies():
    samples, kept = resampled(torch.tensor([[0, 2, 0], [1, 0, 1]]))
    assert samples.tolist() == [0, 1, 2, 1, 1, 0, 2]
    assert kept.int().tolist() == [[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 1, 1]]
    plain, kept = resampled(torch.zeros(3, 4).long())
    assert plain.tolist() == [0, 1, 2, 3] and kept.shape == (3, 4) and kept.all()


# --- a step ---------------------------------------------------------------------------------------


def test_a_step_by_hand():
    """Logits are of the features that a sample keeps, and no gradient enters a dropped one."""
    net, samples = network("av"), batch("av")
    samples.index = torch.arange(6)
    balancer = SMV()
    balancer.kept = torch.tensor([[1] * 9, [1, 1, 1, 1, 0, 1, 1, 0, 1]]).bool()
    balancer.kept[0, [4, 6]] = torch.tensor([True, False])
    balancer.place = 3
    mask = balancer.kept[:, 3:].double().numpy()
    x = {m: samples.inputs[m].numpy() for m in "av"}
    linear = {m: [p.detach().numpy() for p in net.encoders[m].parameters()] for m in "av"}
    h = {m: x[m] @ w.T + b for m, (w, b) in linear.items()}
    weight, bias = (p.detach().numpy() for p in net.fusion.linear.parameters())
    blocks = {"a": weight[:, :4], "v": weight[:, 4:]}
    kept = {m: h[m] * mask[i][:, None] for i, m in enumerate("av")}
    logits = sum(kept[m] @ blocks[m].T for m in "av") + bias
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    delta = (p - np.eye(CLASSES)[samples.target]) / 6
    step = Step(net, samples)
    next(balancer.step(step))
    loss = -np.log(p[np.arange(6), samples.target]).mean()
    assert step.losses.recorded()["loss", "resampled"][0].item() == pytest.approx(loss)
    for i, m in enumerate("av"):
        back = (delta @ blocks[m]) * mask[i][:, None]
        found = net.encoders[m]
        np.testing.assert_allclose(found.weight.grad, back.T @ x[m], rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(found.bias.grad, back.sum(0), rtol=1e-10, atol=1e-14)
    expected = np.concatenate([delta.T @ kept[m] for m in "av"], axis=1)
    np.testing.assert_allclose(net.fusion.linear.weight.grad, expected, rtol=1e-10, atol=1e-14)
    assert balancer.place == 9


# --- an epoch -------------------------------------------------------------------------------------


class Noting(SMV):
    """Takes notes: before each epoch the values by `modality_valuation`, then what every row is."""

    def order(self, run):
        values = evaluation.modality_valuation(run.model, run.split("train"))
        found = super().order(run)
        self.noted = vars(self).get("noted", [])
        self.noted.append((values, None if found is None else found.tolist(), [], self.kept))
        return found

    def step(self, s):
        fuse, seen = s.fuse, []

        def watched(features, mask=None):
            seen.append(mask)
            return fuse(features, mask=mask)

        s.fuse = watched
        yield from super().step(s)
        masks = torch.cat(seen, dim=-1).T.int().tolist() if seen else [None] * len(s.batch.index)
        self.noted[-1][2].extend(zip(s.batch.index.tolist(), map(str, masks), strict=True))


def trained(balancer, samples=None, modalities="av", epochs=3, **options):
    samples = samples or data(modalities)
    net = network(modalities, **{k: options.pop(k) for k in ("fusion",) if k in options})
    return fit(net, samples, balancer, epochs=epochs, **OPTIONS | options)


TABLE = ((1 - 1e-9, 0), (0.4 - 1e-9, 1), (-0.1 - 1e-9, 2), (-9, 3))


def expected_rows(values, has, modalities):
    """Every sample whole, and its copies by the paper's table: (sample, mask), sorted."""
    rows = []
    for i in range(len(next(iter(values.values())))):
        rows.append((i, str([1] * len(modalities))))
        for place, m in enumerate(modalities):
            if has is None or has[m][i]:
                times = next(n for bound, n in TABLE if values[m][i] > bound)
                rows += [(i, str([int(k == place) for k in range(len(modalities))]))] * times
    return sorted(rows)


@pytest.mark.parametrize("modalities", ["av", "avt"])
@pytest.mark.parametrize("missing", [False, True])
def test_an_epoch_has_the_copies_that_the_values_ask_for(modalities, missing):
    samples = data(modalities, missing=missing)
    balancer = Noting(warmup=1)
    run = trained(balancer, samples, modalities)
    (_, order, rows, kept), *later = balancer.noted
    assert order is None and kept is None and len(rows) == 24
    for when, (values, order, rows, _) in enumerate(later, 1):
        assert [i for i, _ in rows] == order
        assert sorted(rows) == expected_rows(values, samples.train.present, modalities)
        assert len(rows) > 24
        history = run.history.query(f"epoch == {when}").set_index(["metric", "output"]).value
        for place, m in enumerate(modalities):
            has = samples.train.has(m)
            has = torch.ones(24, dtype=torch.bool) if has is None else has
            assert history["value", m] == pytest.approx(values[m][has].mean().item())
            alone = str([int(k == place) for k in range(len(modalities))])
            copies = sum(mask == alone for _, mask in rows)
            assert history["copies", m] == pytest.approx(copies / 24)
    assert later[0][1] != later[1][1]


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 5}, {"batch_size": 3, "accumulate": 3}, {"batch_size": 7, "drop_last": True}],
)
def test_every_copy_meets_its_own_mask(options):
    balancer = Noting(warmup=0)
    trained(balancer, **options)
    for values, order, rows, _ in balancer.noted:
        size = options["batch_size"]
        left = len(order) - (len(order) % size if "drop_last" in options else 0)
        assert [i for i, _ in rows] == order[:left]
        assert "drop_last" in options or sorted(rows) == expected_rows(values, None, "av")


def test_accumulated_batches_are_larger_ones():
    few = trained(SMV(warmup=1), batch_size=4, accumulate=2)
    many = trained(SMV(warmup=1), batch_size=8)
    for p, q in zip(few.model.parameters(), many.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


class CutError(Exception):
    pass


class Cut(Checkpoint):
    """Saves, and ends the training after three epochs."""

    def __call__(self, run):
        super().__call__(run)
        if run.epoch == 3:
            raise CutError


def test_a_training_that_was_cut_goes_on_as_if_nothing_had_been(tmp_path):
    samples = data()
    for level in ("sample", "modality"):
        path = tmp_path / f"{level}.pt"
        whole = trained(SMV(level, warmup=1), samples, epochs=5)
        with pytest.raises(CutError):
            trained(SMV(level, warmup=1), samples, epochs=5, observers=[Cut(path)])
        rest = trained(SMV(level, warmup=1), samples, epochs=5, observers=[Checkpoint(path)])
        assert rest.history.equals(whole.history)
        for p, q in zip(rest.model.parameters(), whole.model.parameters(), strict=True):
            assert torch.equal(p, q)


def test_the_warm_up_is_joint_training_and_then_it_is_not():
    ends = {}
    for name, balancer in {"SMV": SMV(warmup=2), "joint": Joint()}.items():
        ends[name] = [parameters(trained(balancer, epochs=n).model) for n in (2, 3)]
    for key, value in ends["SMV"][0].items():
        assert torch.equal(value, ends["joint"][0][key])
    assert not torch.equal(
        ends["SMV"][1]["fusion.linear.bias"], ends["joint"][1]["fusion.linear.bias"]
    )


class Whole(SMV):
    """The same samples and repeats, none of which is dropped."""

    def order(self, run):
        found = super().order(run)
        self.kept = torch.ones_like(self.kept)
        return found


def test_a_copy_without_its_mask_is_another_training():
    mine, plain = (trained(kind(warmup=0), epochs=1).model for kind in (SMV, Whole))
    for m in "av":
        gap = (mine.encoders[m].weight - plain.encoders[m].weight).norm()
        assert gap > 1e-3


def test_the_weaker_modality_practises_and_becomes_better():
    """b is noisy: after joint training its features alone say less than after SMV."""
    draw = torch.Generator().manual_seed(0)

    def split(size):
        target = torch.randint(4, (size,), generator=draw)
        clear = torch.eye(4)[target]
        inputs = {"a": 3 * clear, "b": clear}
        noisy = {m: x + 0.5 * torch.randn(size, 4, generator=draw) for m, x in inputs.items()}
        return Batch({m: x.double() for m, x in noisy.items()}, target)

    samples = MultimodalData(split(120), split(20), split(200), n_classes=4)
    alone = {}
    for name, balancer in {"joint": Joint(), "SMV": SMV(warmup=2)}.items():
        net = MultimodalNet.build(samples, width=8, seed=0).double()
        run = fit(net, samples, balancer, epochs=8, batch_size=16, lr=0.05, device="cpu")
        with torch.no_grad():
            h = {m: net.encode(m, x) for m, x in samples.test.inputs.items()}
            logits = net.fusion({"a": torch.zeros_like(h["a"]), "b": h["b"]})
        alone[name] = (logits.argmax(-1) == samples.test.target).double().mean().item()
        if name == "SMV":
            copies = run.history.query("metric == 'copies'").groupby("output").value.sum()
            assert copies["b"] > 2 * copies["a"]
    assert alone["SMV"] > alone["joint"] + 0.05


@pytest.mark.parametrize("missing", [False, True])
def test_the_modality_level_draws_who_has_the_weaker_one(missing):
    samples, modalities = data("avt", missing=missing, size=60), "avt"
    balancer = Noting("modality", warmup=0, alpha=1.5)
    run = trained(balancer, samples, modalities, epochs=4)
    drawn = 0
    for epoch, (values, order, rows, _) in enumerate(balancer.noted):
        whole = [i for i, mask in rows if mask == "[1, 1, 1]"]
        assert sorted(whole) == list(range(60)) and len(order) == len(rows)
        part = run_draws(run, epoch).permutation(60, torch.device("cpu"))[:12]
        has = {
            m: np.ones(60, bool) if not missing else samples.train.present[m].numpy() for m in "avt"
        }
        means = {m: values[m].numpy()[part][has[m][part]].mean() for m in "avt"}
        for place, m in enumerate("avt"):
            alone = [i for i, mask in rows if mask == str([int(k == place) for k in range(3)])]
            share = 2 / 3 * 1.5 * (max(means.values()) - means[m])
            assert len(alone) == int(share * has[m].sum() + 1e-9)
            assert all(has[m][i] for i in alone)
            drawn += len(alone)
    assert drawn > 10


def run_draws(run, epoch):
    """The random numbers that the run had before an epoch."""
    before, run.epoch = run.epoch, epoch
    draws = run.draws("copies")
    run.epoch = before
    return draws


def test_a_modality_that_no_sample_of_the_part_has_is_not_drawn():
    values = torch.tensor([[0.5] * 10, [0.0] * 10], dtype=torch.float64)
    has = torch.tensor([[True] * 10, [False] * 10])
    run = trained(SMV())
    counts = SMV("modality", alpha=3).redrawn(values, has, run.draws("copies"))
    assert not counts.any()
    has[1] = True
    has[1, run.draws("copies").permutation(10, torch.device("cpu"))[:2]] = False  # others have it
    counts = SMV("modality", alpha=3).redrawn(values, has, run.draws("copies"))
    assert not counts.any()
    has[1] = True
    counts = SMV("modality", alpha=3).redrawn(values, has, run.draws("copies"))
    assert counts.sum(1).tolist() == [0, 10] and counts[1].max() > 1  # with replacement


def test_where_the_part_has_nobody_with_any_modality_nothing_is_drawn():
    values, has = torch.zeros(2, 10, dtype=torch.float64), torch.ones(2, 10, dtype=torch.bool)
    run = trained(SMV())
    has[:, run.draws("copies").permutation(10, torch.device("cpu"))[:2]] = False
    assert not SMV("modality").redrawn(values, has, run.draws("copies")).any()


def test_the_look_is_in_evaluation_mode_in_parts_and_without_a_graph(monkeypatch):
    class Dropping(nn.Sequential):
        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled(), len(x)))
            return super().forward(x)

    def encoder(size, width):
        return Dropping(nn.Linear(size, width), nn.Dropout(0.5))

    monkeypatch.setattr("mmlab.datasets.splits.MOST", 10)
    seen, samples = [], data()
    net = network(encoder=encoder)
    fit(net, samples, SMV(warmup=1), epochs=2, batch_size=24, device="cpu")
    looks = [size for training, graph, size in seen if not training and not graph]
    assert looks == [10, 10, 10, 10, 4, 4]  # two encoders, one look
    assert all(training == graph for training, graph, _ in seen)


def test_a_step_by_hand_after_a_training_is_a_plain_one():
    balancer = SMV(warmup=0)
    net = trained(balancer, epochs=1).model
    found = []
    for one in (balancer, Joint()):
        net.zero_grad()
        some = batch()
        some.index = torch.arange(6)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            next(one.step(Step(net, some)))
        found.append([p.grad.clone() for p in net.encoders.parameters()])
    assert all(map(torch.equal, *found))


def test_samples_that_it_has_not_chosen_are_said_to_be_joint_training():
    net, samples, message = network(), batch(), r"joint training\. Call run = .* run\.batches\(\)"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(SMV(warmup=1).step(Step(net, samples)))  # the warm-up is joint training
    with pytest.warns(UserWarning, match=message):
        next(SMV(warmup=1).step(Step(net, samples, epoch=1)))
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    balancer, tiny = SMV(warmup=0), data()
    run = begin(net, tiny, balancer, optimizer, epochs=1, batch_size=8)
    run.next_epoch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = Step(net, next(run.batches()), optimizer)
        next(balancer.step(s))
    assert "resampled" in s.losses.computed
    with pytest.warns(UserWarning, match=message):
        next(balancer.step(Step(net, tiny.train)))  # does not say which samples they are


def test_a_stream_is_valued_as_the_same_samples_in_memory():
    samples = data(missing=True)

    def rows(split):
        return [
            (
                {m: x[i] for m, x in split.inputs.items()},
                int(split.target[i]),
                {m: bool(x[i]) for m, x in split.present.items()},
            )
            for i in range(len(split))
        ]

    read = MultimodalData(*(Stream(rows(s)) for s in samples.splits.values()), n_classes=CLASSES)
    for level in ("sample", "modality"):
        mine, theirs = (trained(SMV(level, warmup=1), x) for x in (samples, read))
        assert mine.history.equals(theirs.history)


def test_each_seed_has_an_order_of_its_own():
    runs = [trained(Noting(warmup=0), seed=seed, epochs=1) for seed in (1, 1, 2)]
    orders = [run.balancer.noted[0][1] for run in runs]
    assert orders[0] == orders[1] != orders[2]


def test_several_labels_are_valued_by_the_share_that_is_right():
    draw = torch.Generator().manual_seed(1)

    def split(size):
        hidden = torch.randn(size, 4, generator=draw, dtype=torch.float64)
        return Batch({"a": hidden[:, :3].clone(), "v": hidden}, hidden[:, :3] > 0)

    samples = MultimodalData(split(40), split(10), split(10), task="multilabel")
    run = trained(SMV(warmup=1), samples)
    values = run.history.query("metric == 'value' and epoch == 2").set_index("output").value
    assert 0 < values.sum() <= 2 and "resampled" in {*run.history.output}


def test_what_it_does_not_take_is_refused():
    with pytest.raises(ValueError, match="level is 'dataset'; allowed are 'sample', 'modality'"):
        SMV("dataset")
    with pytest.raises(ValueError, match="warmup is -1; it must be a whole number of at least 0"):
        SMV(warmup=-1)
    with pytest.raises(ValueError, match=r"alpha is -0\.5; allowed is a number ≥ 0"):
        SMV(alpha=-0.5)
    with pytest.raises(TypeError, match="alpha is '1'; give a number"):
        SMV(alpha="1")
    nine = {m: torch.randn(4, 2) for m in "abcdefghi"}
    split = Batch(nine, torch.arange(4) % 2)
    samples = MultimodalData(split, split, split)
    with pytest.raises(ValueError, match="9 modalities have too many; allowed are up to 8"):
        fit(MultimodalNet.build(samples, width=2), samples, SMV(), epochs=1, device="cpu")
