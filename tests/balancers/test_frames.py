"""One label per frame: a frame that counts is to every method and measure a sample of its own."""

import math

import numpy as np
import pytest
import torch
from by_hand import CLASSES, SIZES, batch, network
from measuring import measured
from sklearn.metrics import f1_score
from torch import nn
from torch.nn import functional as F

from mmlab import (
    DGL,
    MLA,
    Balancer,
    Batch,
    Ensemble,
    GradientBlending,
    Joint,
    MultimodalData,
    MultimodalNet,
    RefittedHead,
    Step,
    Stream,
    Uniform,
    Unimodal,
    compare,
    evaluation,
    fit,
    fit_seeds,
)
from mmlab.balancers import METHODS
from mmlab.datasets import Padded, pad
from mmlab.datasets.frames import Frames, rows_of
from mmlab.experiments import diagnose
from mmlab.experiments.tuning import tune
from mmlab.models import SequenceGRU, SequenceTransformer, UnstackableError
from mmlab.training import Checkpoint, EarlyStopping

FRAMES = 4


def framed(size=6, *, gaps=True, missing=False, seed=0, modalities="av", frames=FRAMES):
    """Samples of frames around one centre per class; of some frames the label is not known."""
    draw = torch.Generator().manual_seed(seed)
    target = torch.randint(CLASSES, (size, frames), generator=draw)
    inputs = {
        m: torch.eye(CLASSES, SIZES[m], dtype=torch.float64)[target]
        + 0.3 * torch.randn(size, frames, SIZES[m], generator=draw, dtype=torch.float64)
        for m in modalities
    }
    if gaps:
        unknown = torch.rand(size, frames, generator=draw) < 0.3
        unknown[:, 1] = False
        target = torch.where(unknown, -100, target)
    present = None
    if missing:
        present = {m: torch.arange(size) % 3 != i for i, m in enumerate(modalities)}
        inputs = {m: x * present[m][:, None, None] for m, x in inputs.items()}
    return Batch(inputs, target, present)


def flat(given):
    """The frames that count as samples, made by a plain loop."""
    rows = [
        (i, t)
        for i in range(len(given))
        for t in range(given.target.shape[1])
        if given.target[i, t] >= 0
    ]
    inputs = {m: torch.stack([x[i, t] for i, t in rows]) for m, x in given.inputs.items()}
    present = given.present and {
        m: torch.stack([mask[i] for i, _ in rows]) for m, mask in given.present.items()
    }
    return Batch(inputs, torch.stack([given.target[i, t] for i, t in rows]), present)


def both(**options):
    """The same frames as a data set with a label per frame, and as one of samples."""
    parts = [framed(n, seed=n, **options) for n in (8, 5, 7)]
    alone = MultimodalData(*map(flat, parts), n_classes=CLASSES)
    return MultimodalData(*parts, n_classes=CLASSES, frames=True), alone


def in_order(make):
    balancer = make()
    balancer.order = lambda run: range(run.size)
    return balancer


def ended(data, make, **options):
    net = network(**make().network)
    options = {"epochs": 3, "lr": 0.1, "device": "cpu"} | options
    return fit(net, data, in_order(make), **options)


MAKERS = {name: method.make for name, method in METHODS.items()} | {
    **{kind.__name__: kind for kind in (Ensemble, DGL, RefittedHead)},
    "G-Blend, often": lambda: GradientBlending(warmup=1, super_epoch=1),
    "G-Blend, heads": lambda: GradientBlending(warmup=1, super_epoch=1, fuse="heads"),
    "MLA, rls": lambda: MLA(projector="rls"),
    "Unimodal": lambda: Unimodal("a"),
}

BRANCHING = ("G-Blend", "G-Blend, often", "G-Blend, heads", "RefittedHead", "UMT")
"""They train copies, which draw an order of their own: of samples, which differ."""

REFUSED = {
    "SMV": "SMV repeats samples by what each of them needs, and here every frame has a label"
}
"""Methods that cannot take frames as samples, and the message that says so."""


@pytest.mark.filterwarnings("ignore:Gradient-Blending gives")
@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("case", ["gaps", "gaps and missing modalities", "batches"])
def test_every_method_ends_as_if_each_frame_were_a_sample(name, case):
    gaps = case != "batches"
    if not gaps and name in BRANCHING:
        pytest.skip("copies see the samples in another order")
    framewise, alone = both(gaps=gaps, missing="missing" in case)
    if name in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name]):
            ended(framewise, MAKERS[name])
        return
    size = 8 if gaps else 3
    mine = ended(framewise, MAKERS[name], batch_size=size)
    theirs = ended(alone, MAKERS[name], batch_size=size * FRAMES)
    for (key, value), other in zip(
        mine.model.state_dict().items(), theirs.model.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, other, rtol=1e-6, atol=1e-8, msg=key)
    for row, other in zip(mine.rows, theirs.rows, strict=True):
        assert row[:4] == other[:4]
        assert row[4] == pytest.approx(other[4], rel=1e-4, abs=1e-6, nan_ok=True), row
    assert evaluation.test_scores(mine) == evaluation.test_scores(theirs)
    assert evaluation.answered_share(mine) == evaluation.answered_share(theirs)


def test_the_loss_is_torchs_with_ignore_index_and_by_hand():
    given, net = framed(), network()
    step = Step(net, given)
    logits = net.fusion({m: net.encoders[m](x) for m, x in given.inputs.items()})
    own = F.cross_entropy(logits.flatten(0, 1), given.target.flatten())
    torch.testing.assert_close(step.losses["joint"], own)
    z = logits.detach().numpy()
    each = [
        np.log(np.exp(z[i, t]).sum()) - z[i, t, y]
        for (i, t), y in np.ndenumerate(given.target.numpy())
        if y >= 0
    ]
    assert len(each) < given.target.numel()
    assert step.losses["joint"].item() == pytest.approx(np.mean(each))


def test_a_modality_counts_the_frames_of_the_samples_that_have_it():
    given, net = framed(missing=True), network()
    step = Step(net, given)
    has = given.present["a"]
    logits = net.heads["a"](net.encoders["a"](given.inputs["a"][has]))
    expected = F.cross_entropy(logits.flatten(0, 1), given.target[has].flatten())
    torch.testing.assert_close(step.losses["a"], expected)
    torch.testing.assert_close(step.losses.stack("joint", "a")[1], expected)
    assert step.losses["joint"] != step.losses["a"]


def test_a_loss_of_ones_own_gets_the_frames_that_count():
    given, seen = framed(), []

    def own(prediction, target):
        seen.append((tuple(prediction.shape), int(target.min())))
        return F.cross_entropy(prediction, target, label_smoothing=0.1)

    _ = Step(network(), given, loss=own).losses["joint"]
    assert seen == [((int((given.target >= 0).sum()), CLASSES), 0)]


def test_what_does_not_count_changes_no_gradient():
    given = framed()
    hidden = given.target < 0
    other = {m: torch.where(hidden[..., None], 7.0, x) for m, x in given.inputs.items()}
    grads = []
    for inputs in (given.inputs, other):
        net = network()
        next(Uniform().step(Step(net, Batch(inputs, given.target))))
        grads.append([p.grad for p in net.parameters()])
    assert all(map(torch.equal, *grads))


@pytest.mark.parametrize("fusion", ["sum", "film", "gated", "attention", "late"])
def test_every_fusion_takes_frames_as_rows(fusion):
    given = framed()
    net = network(fusion=fusion)
    mine, theirs = Step(net, given), Step(net, flat(given))
    torch.testing.assert_close(mine.losses.stack(), theirs.losses.stack())
    for m, part in mine.out.contributions.items():
        torch.testing.assert_close(part, theirs.out.contributions[m])


def test_what_a_pass_says_without_a_modality_is_of_each_frame():
    given = framed()
    encoder = lambda size, width: nn.Sequential(nn.Linear(size, width), nn.Dropout())  # noqa: E731
    steps = [Step(network(encoder=encoder), one) for one in (given, flat(given))]
    for absent in [(), ("a",), ("v",), ("a", "v")]:
        mine, theirs = (step.out.without(*absent) for step in steps)
        torch.testing.assert_close(mine, theirs)
        assert mine.requires_grad


def test_accumulated_batches_are_one_batch():
    data, _ = both(missing=True)
    runs = [ended(data, Uniform, batch_size=n, accumulate=8 // n) for n in (8, 2)]
    for one, other in zip(*(run.model.parameters() for run in runs), strict=True):
        torch.testing.assert_close(one, other)


def test_the_second_look_is_at_the_same_frames():
    step = Step(network(), framed())
    first = step.losses.stack()
    torch.testing.assert_close(step.losses_again().stack(), first.detach())


# --- measures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [False, True])
def test_every_measure_takes_each_frame_that_counts_as_a_sample(missing):
    framewise, alone = both(missing=missing)
    mine, theirs = (
        ended(data, Uniform, batch_size=size, observers=[evaluation.Curves()])
        for data, size in ((framewise, 8), (alone, 32))
    )
    values = [row[4] for row in mine.rows]
    assert values == pytest.approx([row[4] for row in theirs.rows], rel=1e-5, nan_ok=True)
    found, expected = measured(mine), measured(theirs)
    prediction = torch.tensor(found.pop("prediction")).view(7, FRAMES, CLASSES)
    counts = framewise.test.target >= 0
    rows = prediction[counts].flatten().tolist()
    assert rows == pytest.approx(expected.pop("prediction"), rel=1e-5, abs=1e-6)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-5, abs=1e-6, nan_ok=True), name
    conflicts = [evaluation.gradient_conflict(run.model, run.data.train) for run in (mine, theirs)]
    for m, row in conflicts[0].items():
        assert row == pytest.approx(conflicts[1][m], rel=1e-5)


def test_scores_leave_out_frames_that_do_not_count():
    draw = torch.Generator().manual_seed(3)
    logits = torch.randn(20, FRAMES, CLASSES, generator=draw)
    target = framed(20).target
    counts = target >= 0
    right = (logits.argmax(-1) == target)[counts].double().mean().item()
    assert evaluation.accuracy(logits, target) == pytest.approx(right)
    mask = torch.arange(20)[:, None].expand(-1, FRAMES) < 10
    some = (logits.argmax(-1) == target)[counts & mask].double().mean().item()
    assert evaluation.accuracy(logits, target, mask) == pytest.approx(some)
    known = f1_score(target[counts], logits.argmax(-1)[counts], average="macro")
    assert evaluation.macro_f1(logits, target) == pytest.approx(known)
    alone = evaluation.calibration_error(logits[counts], target[counts])
    assert evaluation.calibration_error(logits, target) == pytest.approx(alone)
    logits[~counts] = math.nan
    assert evaluation.accuracy(logits, target) == pytest.approx(right)
    assert math.isnan(evaluation.accuracy(logits, torch.full_like(target, -100)))


def test_predictions_are_of_every_frame():
    data, _ = both(missing=True)
    run = ended(data, MLA)
    found = run.predict(data.test)
    assert found.shape == (7, FRAMES, CLASSES) and found.isfinite().all()
    answer = run.model.inference(run.balancer)(data.test.inputs, data.test.present)
    torch.testing.assert_close(answer, found)
    unlabelled = Batch(data.test.inputs, torch.zeros(7, dtype=torch.int64), data.test.present)
    torch.testing.assert_close(run.predict(unlabelled), found)
    run.model.frames = False  # each frame of all as a sample, by a plain loop
    frames = {m: torch.cat([*x]) for m, x in data.test.inputs.items()}
    masks = {m: mask[torch.arange(28) // FRAMES] for m, mask in data.test.present.items()}
    known = run.predict(Batch(frames, torch.zeros(28, dtype=torch.int64), masks))
    torch.testing.assert_close(found.flatten(0, 1), known)


def test_what_is_not_finite_is_told():
    data, _ = both()
    run = ended(data, Joint)
    data.test.inputs["v"][4, 1] = math.nan  # frame 1 counts
    with pytest.raises(FloatingPointError, match=r"of its outputs: 'joint', 'v'.*in 1 of"):
        evaluation.test_scores(run)


# --- data -----------------------------------------------------------------------------------------


def padded(seed=0, sizes=(20, 10, 10)):
    """Splits of sequences of unlike length, and the labels of their frames."""
    draw = torch.Generator().manual_seed(seed)
    splits = []
    for size in sizes:
        lengths = torch.randint(2, 6, (size,), generator=draw).tolist()
        labels = [torch.randint(CLASSES, (n,), generator=draw) for n in lengths]
        rows = [{m: near(y, SIZES[m], draw) for m in "av"} for y in labels]
        splits.append([*zip(rows, labels, strict=True)])
    return splits


def near(labels, size, draw):
    return torch.eye(CLASSES, size)[labels] + 0.2 * torch.randn(len(labels), size, generator=draw)


def in_memory(rows, length=5):
    labels = pad([y for _, y in rows], length)
    inputs = {m: pad([x[m] for x, _ in rows], length) for m in "av"}
    return Batch(inputs, torch.where(labels["mask"], labels["values"], -100))


ENCODERS = {m: lambda m=m: SequenceGRU(nn.Linear(SIZES[m], 8), 8, each=True) for m in "av"}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_of_unlike_lengths_trains_as_padded_data_in_memory(workers):
    splits = padded()
    whole = MultimodalData(*map(in_memory, splits), n_classes=CLASSES, frames=True)
    streams = [Stream(rows, workers=workers, collate=Padded("a", "v")) for rows in splits]
    read = MultimodalData(*streams, n_classes=CLASSES, frames=True)
    build = {"encoders": ENCODERS, "width": 8}
    runs = [
        fit(MultimodalNet.build(data, **build), data, Uniform(), epochs=2, batch_size=6, lr=0.1)
        for data in (whole, read)
    ]
    for one, other in zip(*(run.model.parameters() for run in runs), strict=True):
        torch.testing.assert_close(one, other)
    scores = [evaluation.test_scores(run)["accuracy"] for run in runs]
    assert scores[0] == pytest.approx(scores[1])
    short = Batch(*Padded("a", "v")([row for row in splits[2] if len(row[1]) < 4]))
    assert short.target.shape[1] < 5 and runs[1].predict(short).shape[:2] == short.target.shape


def test_predictions_of_unlike_lengths_make_no_tensor(monkeypatch):
    monkeypatch.setattr("mmlab.datasets.splits.MOST", 2)
    splits = padded()
    streams = [Stream(rows, collate=Padded("a", "v")) for rows in splits]
    data = MultimodalData(*streams, n_classes=CLASSES, frames=True)
    run = fit(MultimodalNet.build(data, encoders=ENCODERS, width=8), data, epochs=1)
    assert 0 <= evaluation.test_scores(run)["accuracy"] <= 1
    with pytest.raises(ValueError, match=r"have \[\d.*frames per sample.*one by one"):
        run.predict(data.test)


def test_padded_fills_labels_of_frames_and_nothing_else():
    rows = [({"a": torch.ones(2, 3)}, torch.tensor([1, 2])), ({"a": torch.ones(1, 3)}, [0])]
    _, target = Padded("a")(rows)
    assert target.tolist() == [[1, 2], [0, -100]]
    _, numbers = Padded("a")([(x, torch.tensor([0.5, 1.0])) for x, _ in rows])
    assert numbers.tolist() == [[0.5, 1.0], [0.5, 1.0]]
    _, classes = Padded("a")([(x, 1) for x, _ in rows])
    assert classes.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:, 0], r"target of holdout has shape \(5,\); with frames=True .*\(5, T\)"),
        (lambda t: t[..., None], r"shape \(5, 4, 1\); with frames=True"),
        (lambda t: torch.where(torch.arange(5)[:, None] == 3, -100, t),
         r"holdout has no frame that counts in 1 of 5 samples, first in sample 3; leave these"),
        (lambda t: torch.where(t < 0, -1, t), r"label -1 in holdout .*frames without a label -100"),
        (lambda t: torch.where(t < 0, t, t + 1), r"label 3 in holdout is out of range"),
        (lambda t: t.double(), r"classification needs integer labels"),
    ],
)  # fmt: skip
def test_targets_that_are_no_labels_of_frames(change, message):
    parts = [framed(n, seed=n) for n in (8, 5, 7)]
    parts[1].target = change(parts[1].target)
    with pytest.raises(ValueError, match=message):
        MultimodalData(*parts, n_classes=CLASSES, frames=True)


def test_frames_are_asked_for():
    parts = [framed(n, seed=n) for n in (8, 5, 7)]
    with pytest.raises(ValueError, match=r"it must be \(8,\): .*set frames=True"):
        MultimodalData(*parts)
    with pytest.raises(ValueError, match="frames=True is for task='classification'"):
        MultimodalData(*parts, frames=True, task="regression")
    with pytest.raises(TypeError, match="frames is 1; give True or False"):
        MultimodalData(*parts, frames=1)
    data = MultimodalData(*parts, frames=True)
    assert data.n_classes == CLASSES and "3 classes of each frame" in data.describe()


def test_encoders_by_name_read_each_frame():
    data, _ = both()
    single = {m: x.float() for m, x in data.train.inputs.items()}
    pictures = {"a": single["a"], "v": single["v"].unflatten(-1, (1, 2, 2))}
    part = Batch(pictures, data.train.target)
    data = MultimodalData(part, part, part, frames=True)
    net = MultimodalNet.build(data, encoders={"a": "normalised", "v": "cnn"}, width=8)
    run = fit(net, data, epochs=1)
    assert run.predict(part).shape == (8, FRAMES, CLASSES)
    numbers = Batch({"a": single["a"][..., 0]}, data.train.target)
    data = MultimodalData(numbers, numbers, numbers, frames=True)
    assert MultimodalNet.build(data)(numbers.inputs).joint.shape == (8 * FRAMES, CLASSES)


@pytest.mark.parametrize("kind", [SequenceGRU, SequenceTransformer])
def test_sequence_encoders_give_each_step(kind):
    torch.manual_seed(0)
    encoder = kind(nn.Linear(3, 8), 8, each=True).eval()
    values = torch.randn(2, 5, 3)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    steps = encoder({"values": values, "mask": mask})
    assert steps.shape == (2, 5, 8)
    alone = encoder(values[1:, :3])
    torch.testing.assert_close(steps[1, :3], alone[0])
    if kind is SequenceGRU:
        assert not steps[1, 3:].any()
        holes = encoder(
            {"values": values, "mask": torch.tensor([[True, False, True, True, False]] * 2)}
        )
        torch.testing.assert_close(holes[:, [0, 2, 3]], encoder(values[:, [0, 2, 3]]))
        last = SequenceGRU(nn.Linear(3, 8), 8)
        last.load_state_dict(encoder.state_dict())
        torch.testing.assert_close(last(values), encoder(values)[:, -1])


def test_encoders_that_do_not_give_one_vector_per_label_are_refused():
    data, _ = both()
    sizes = {m: FRAMES * SIZES[m] for m in "av"}
    pooled = {m: nn.Sequential(nn.Flatten(), nn.Linear(n, 4).double()) for m, n in sizes.items()}
    message = r"'a' turns a batch of 2 into the shape \(2, 4\); it must give \(B, T, 4\), for the "
    with pytest.raises(ValueError, match=message + "labels of 4 frames"):
        MultimodalNet.build(data, encoders=pooled, width=4)
    net = network()
    net.encoders["v"] = nn.Sequential(nn.Linear(4, 4), nn.MaxPool2d((2, 1))).double()
    with pytest.raises(ValueError, match=r"'v' gives features \(6, 2, 4\), .* be \(6, 4, D\)"):
        _ = Step(net, framed()).losses["joint"]
    net.encoders["v"] = nn.Sequential(nn.Flatten(), nn.Linear(16, 4).double())
    with pytest.raises(ValueError, match=r"'v' gives features \(6, 4\), .* must be \(6, 4, D\)"):
        _ = Step(net, framed()).losses["joint"]


# --- what is refused ------------------------------------------------------------------------------


class ReadsInputs(Balancer):
    def step(self, s):
        s.backward(s.losses["joint"] * s.batch.inputs["a"].mean())
        yield


class TakesApart(Balancer):
    def step(self, s):
        s.backward(Step(s.model, s.batch[:2]).losses["joint"])
        yield


@pytest.mark.parametrize(
    ("kind", "message"), [(ReadsInputs, "reads the inputs"), (TakesApart, "takes a batch apart")]
)
def test_a_method_that_needs_more_than_rows_is_refused(kind, message):
    data, _ = both()
    with pytest.raises(ValueError, match=f"something {message}.*such as Joint"):
        ended(data, kind)


def test_a_network_with_a_forward_pass_of_its_own_is_refused():
    class Own(MultimodalNet):
        def forward(self, inputs):
            return super().forward(inputs)

    net = network()
    own = Own(net.encoders, net.fusion, net.heads)
    with pytest.raises(ValueError, match="Own has a forward pass of its own"):
        fit(own, both()[0], epochs=1)


def test_seeds_train_one_by_one():
    part = framed(8)
    part.inputs = {m: x.float() for m, x in part.inputs.items()}
    data = MultimodalData(part, part, part, frames=True)
    linear = {m: lambda m=m: nn.Linear(SIZES[m], 8) for m in "av"}
    options = {"seeds": [0, 1], "epochs": 1, "build": {"encoders": linear, "width": 8}}
    assert [run.together for run in fit_seeds(data, Joint, **options)] == [1, 1]
    with pytest.raises(UnstackableError, match="number of frames that count; train the seeds one"):
        fit_seeds(data, Joint, at_once=True, **options)


def test_diagnose_is_refused():
    with pytest.raises(ValueError, match="each frame has a label, and diagnose compares samples"):
        diagnose(both()[0], epochs=1)


# --- from the data to a table ---------------------------------------------------------------------


def test_compare_tune_and_a_cache(tmp_path):
    data = MultimodalData(*map(in_memory, padded()), n_classes=CLASSES, frames=True)
    shared = {"epochs": 2, "build": {"encoders": ENCODERS, "width": 8}, "lr": 0.1}
    methods = {"joint": Joint, "uniform": Uniform, "ensemble": Ensemble}
    table = compare(methods, data, seeds=[0, 1], cache=tmp_path, **shared)
    assert table["accuracy"].between(0, 1).all()
    again = compare(methods, data, seeds=[0, 1], cache=tmp_path, **shared)
    assert table["accuracy"].tolist() == again["accuracy"].tolist()
    grid = {"joint": {"lr": [0.05, 0.2]}}
    found = tune({"joint": Joint}, data, grid=grid, seeds=[0], epochs=1, build=shared["build"])
    assert found.chosen


def test_it_learns_and_goes_on_from_a_checkpoint(tmp_path):
    data = MultimodalData(
        *map(in_memory, padded(sizes=(60, 20, 20))), n_classes=CLASSES, frames=True
    )

    def train(*observers):
        net = MultimodalNet.build(data, encoders=ENCODERS, width=8)
        return fit(net, data, Uniform(), epochs=6, lr=0.3, batch_size=10, observers=observers)

    whole = train()
    assert evaluation.test_scores(whole)["accuracy"] > 0.8

    class Cut:
        def __call__(self, run):
            if run.epoch == 4 and not path.with_suffix(".cut").exists():
                path.with_suffix(".cut").touch()
                raise KeyboardInterrupt

    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        train(Cut(), Checkpoint(path))
    gone_on = train(Cut(), Checkpoint(path))
    for one, other in zip(*(run.model.parameters() for run in (whole, gone_on)), strict=True):
        assert torch.equal(one, other)
    stopped = train(EarlyStopping(patience=2))
    assert "prediction" in set(stopped.history["output"])


def test_frames_know_their_samples():
    given = framed(4, gaps=False)
    given.target[1, 2] = -100
    given.index = torch.tensor([7, 5, 9, 2])
    rows = rows_of(given)
    assert isinstance(rows, Frames) and len(rows) == 15
    assert rows.index.tolist() == [7] * 4 + [5] * 3 + [9] * 4 + [2] * 4
    assert rows.modalities == ("a", "v") and repr(rows).startswith("Frames(15 of Batch(")
    assert rows_of(rows) is rows and rows_of(plain := batch()) is plain
