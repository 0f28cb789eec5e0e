"""A training that was cut off goes on bit for bit; and no file of another one is taken for its."""

import multiprocessing
import random
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from killed import goes_on, long
from torch import nn
from torch.optim import lr_scheduler as schedules
from trained import DATA, Cut, CutError, same, trained

import mmlab
from mmlab.balancers import ATF, METHODS, OGM, Joint
from mmlab.balancers.registry import CONTROLS
from mmlab.datasets import MultimodalData, Stream
from mmlab.datasets.synthetic import synthetic
from mmlab.evaluation import Curves, LearningSpeed
from mmlab.experiments import compare
from mmlab.identity import UnknownIdentityError
from mmlab.models import MultimodalNet
from mmlab.models.stack import UnstackableError
from mmlab.training import Checkpoint, Progress, fit, fit_seeds

MAKERS = {name: method.make for name, method in METHODS.items()}
MAKERS |= {name: getattr(mmlab, name) for name in CONTROLS}
MAKERS["LFM, learned"] = partial(mmlab.LFM, weight="learned")


def made(balancer, *, observers=(), build=None, data=DATA, **options):
    net = MultimodalNet.build(DATA, **balancer.network, **(build or {}), seed=1)
    settings = {"epochs": 4, "seed": 1, "device": "cpu", **options}
    return fit(net, data, balancer, observers=observers, **settings)


def resumed(path, make, *, observers=list, **options):
    """The end of a training that was cut off after two epochs, and of one that was not."""
    whole = made(make(), observers=observers(), **options)
    with pytest.raises(CutError):
        made(make(), observers=[*observers(), Cut(path)], **options)
    seen = []
    run = made(
        make(),
        observers=[lambda run: seen.append(run.epoch), *observers(), Checkpoint(path)],
        **options,
    )
    assert seen == [3, 4]
    return run, whole


def assert_equal(run, other):
    assert same(run.model.state_dict().values(), other.model.state_dict().values())
    assert run.history.equals(other.history) and run.epoch == other.epoch
    ours, theirs = (one.optimizer.state_dict()["state"] for one in (run, other))
    assert ours.keys() == theirs.keys()
    for key in ours:
        assert same(*([v for v in s[key].values() if v is not None] for s in (ours, theirs)))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.filterwarnings("ignore:Gradient-Blending gives the joint loss")
def test_every_method_goes_on_as_if_nothing_had_been(tmp_path, name):
    assert_equal(*resumed(tmp_path / "run.pt", MAKERS[name]))


def test_what_the_method_keeps_goes_on_too(tmp_path):
    run, whole = resumed(tmp_path / "run.pt", lambda: ATF(update="bdo"))
    assert torch.equal(run.balancer.factors, whole.balancer.factors)
    fresh = made(ATF(update="bdo"), epochs=2).balancer.factors
    assert not torch.equal(run.balancer.factors, fresh)


def test_adam_goes_on(tmp_path):
    make = partial(torch.optim.AdamW, lr=1e-2, amsgrad=True)
    assert_equal(*resumed(tmp_path / "run.pt", Joint, optimizer=make))


@pytest.mark.parametrize(
    "make",
    [
        lambda o: schedules.StepLR(o, 1, 0.5),
        lambda o: schedules.MultiStepLR(o, [1, 3], 0.5),
        lambda o: schedules.LambdaLR(o, lambda epoch: 0.5**epoch),
        lambda o, steps: schedules.OneCycleLR(o, 0.1, total_steps=steps),
        lambda o: schedules.SequentialLR(
            o, [schedules.ConstantLR(o, 0.1), schedules.ExponentialLR(o, 0.5)], [1]
        ),
    ],
)
def test_a_schedule_goes_on(tmp_path, make):
    assert_equal(*resumed(tmp_path / "run.pt", lambda: ATF(update="bdo"), schedule=make))


class Keeps(Joint):
    """Of everything that a method may keep, some; all of it enters the training."""

    def __init__(self):
        self.rules, self.size = [torch.tanh, float], np.float32(0.5)
        self.draws, self.path = torch.Generator(), [1.0, (2.0, {"a": 0.5})]
        self.temperature = nn.Parameter(torch.zeros(()))
        self.own = torch.optim.SGD([self.temperature], lr=0.1, momentum=0.9)
        self.seen, self.factor = set(), None

    def modules(self, model):
        self.gate = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
        return self.gate

    def start(self, run):
        self.draws.manual_seed(run.seed)

    def epoch(self, run):
        if run.epoch == 1:
            run.model.encoders["a"].requires_grad_(False)
            run.model.encoders["a"].eval()
        self.seen.add(run.epoch)

    def step(self, s):
        noise = torch.rand(2, 2, generator=self.draws)
        self.path[1][1]["a"] *= 0.9
        gate = self.gate(noise).mean() + self.path[1][1]["a"] + len(self.seen) * self.size
        s.backward(s.losses["joint"] * (self.temperature + gate).sigmoid())
        self.own.step()
        self.own.zero_grad()
        self.factor = gate.detach()[None].expand(3)[1:]
        yield

    def fuse(self, out, present=None):
        return out.joint * float(self.rules[0](torch.ones(())))


class Hidden(nn.Module):
    """A layer with a buffer that its state_dict leaves out."""

    def __init__(self):
        super().__init__()
        self.linear, self.calls = nn.Linear(5, 8), 0
        self.register_buffer("scale", torch.ones(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.scale.mul_(0.9)
        return self.linear(x) * self.scale


def test_all_that_changes_goes_on(tmp_path):
    """Own modules and parameters, optimisers, generators, containers, buffers, frozen parts."""

    def encoders():
        return {
            m: nn.Sequential(Hidden(), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU()) for m in "ab"
        }

    results = []
    for path in (None, "cut", "again"):
        torch.manual_seed(0)
        observers = [Curves(), LearningSpeed()]
        last = {None: [], "cut": [Cut(tmp_path / "f")], "again": [Checkpoint(tmp_path / "f")]}[path]
        build = {"encoders": encoders(), "width": 8}
        try:
            results.append(made(Keeps(), observers=[*observers, *last], build=build))
        except CutError:
            assert path == "cut"
    whole, run = results
    assert_equal(run, whole)
    assert not run.model.encoders["a"][0].linear.weight.requires_grad
    assert not run.model.encoders["a"].training
    assert run.model.encoders["b"][0].scale == whole.model.encoders["b"][0].scale < 1
    assert run.balancer.path == whole.balancer.path != Keeps().path
    assert run.balancer.seen == {0, 1, 2, 3}
    assert same(run.modules.state_dict().values(), whole.modules.state_dict().values())
    assert run.balancer.gate is run.modules
    assert torch.equal(run.balancer.temperature, whole.balancer.temperature)


class Noisy(torch.utils.data.Dataset):
    """The samples of a batch, read one by one, with noise."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return len(self.batch)

    def __getitem__(self, i):
        inputs = {m: x[i] + torch.randn(()) for m, x in self.batch.inputs.items()}
        return inputs, self.batch.target[i]


def streamed(checksum):
    train = Stream(Noisy(DATA.train), checksum=checksum)
    return MultimodalData(train, DATA.holdout, DATA.test, n_classes=2)


def test_a_stream_goes_on(tmp_path):
    assert_equal(*resumed(tmp_path / "run.pt", ATF, data=streamed("1"), accumulate=2))
    with pytest.raises(ValueError, match=r"of another training: data\.train differs\."):
        made(ATF(), observers=[Checkpoint(tmp_path / "run.pt")], data=streamed("2"), accumulate=2)
    with pytest.raises(UnknownIdentityError, match=r"has no checksum"):
        made(ATF(), observers=[Checkpoint(tmp_path / "run.pt")], data=streamed(None))


def test_a_finished_training_is_read_not_repeated(tmp_path):
    whole = trained(observers=[Checkpoint(tmp_path / "f")])
    seen = []
    again = trained(observers=[seen.append, Checkpoint(tmp_path / "f")])
    assert_equal(again, whole)
    assert seen == []


def test_it_saves_every_so_often_and_at_the_end(tmp_path):
    def look(run):
        saved.append(torch.load(path, weights_only=True)["epoch"])

    path, saved = tmp_path / "folder" / "f.pt", []
    trained(epochs=5, observers=[look, Checkpoint(path, every=2)])
    assert saved == [0, 0, 0, 2, 2, 4]  # it looks before the save
    assert torch.load(path, weights_only=True)["epoch"] == 5


def test_what_a_killed_save_has_left_is_cleared_away(tmp_path):
    left = tmp_path / ".f.pt.123.partial"
    left.write_text("half")
    trained(observers=[Checkpoint(tmp_path / "f.pt")])
    assert [path.name for path in tmp_path.iterdir()] == ["f.pt"]


# --- killed ---------------------------------------------------------------------------------------


def killed_and_resumed(path, kills, epochs):
    """Let processes train at the same file, kill each at a random moment, and end it here."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":  # one process loads torch, for all
        context.set_forkserver_preload(["torch", "mmlab.training", "mmlab.balancers.atf"])
    draw, hits = random.Random(0), 0
    for _ in range(kills):
        before = path.stat().st_mtime_ns if path.exists() else 0
        process = context.Process(target=goes_on, args=(str(path), epochs))
        process.start()
        while not (path.exists() and path.stat().st_mtime_ns > before) and process.is_alive():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.05))
        process.kill()
        process.join()
        hits += process.exitcode != 0
    assert hits == kills  # none came to its end
    first = torch.load(path, weights_only=True)["epoch"]
    run, whole = long(epochs, Checkpoint(path)), long(epochs)
    assert 0 < first < epochs
    assert_equal(run, whole)


def test_killed_at_a_random_moment_it_goes_on(tmp_path):
    killed_and_resumed(tmp_path / "f.pt", kills=2, epochs=60)


@pytest.mark.slow
def test_killed_again_and_again_it_goes_on(tmp_path):
    killed_and_resumed(tmp_path / "f.pt", kills=10, epochs=150)


# --- refused --------------------------------------------------------------------------------------


def begun(path, **options):
    trained(OGM(), observers=[Curves(), Checkpoint(path)], **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 1}, r"seed is 0 there and 1 here, network as it was at the start differs"),
        ({"epochs": 3}, r"epochs is 2 there and 3 here\."),
        ({"batch_size": 10}, r"batch_size is 64 there and 10 here\."),
        ({"lr": 0.5}, r"optimizer's group 0\.lr is 0.01 there and 0.5 here\."),
        ({"schedule": lambda o: schedules.StepLR(o, 1)}, r"schedule differs"),
        ({"loss": nn.functional.cross_entropy}, r"loss differs\."),
        ({"precision": "bfloat16"}, r"network as it was at the start differs\."),
        (
            {"data": synthetic(n=(100, 20, 20), dims=5, seed=3)},
            r"data.train differs, data.holdout differs",
        ),
        (
            {"optimizer": torch.optim.Adam},
            r"optimizer is 'SGD' there and 'Adam' here, .*, and \d+ more",
        ),
        (
            {"optimizer": partial(torch.optim.SGD, lr=0.01, momentum=0.5)},
            r"optimizer's group 0\.momentum is 0\.9 there and 0\.5 here",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Adam divides")
def test_a_file_of_another_training_is_refused(tmp_path, options, said):
    begun(tmp_path / "f.pt")
    with pytest.raises(ValueError, match=rf"f.pt is of another training: (.*, )?{said}"):
        begun(tmp_path / "f.pt", **options)


@pytest.mark.parametrize(
    ("balancer", "observers", "said"),
    [
        (OGM(alpha=0.3), [Curves()], r"method\.alpha is 0\.8 there and 0\.3 here\."),
        (Joint(), [Curves()], r"method is 'OGM' there and 'Joint' here"),
        (OGM(), [], r"observer 0 is given there alone"),
        (OGM(), [Curves(["train"])], r"observer 0\.splits differs"),
        (OGM(), [Curves(), LearningSpeed()], r"observer 1 is not given there"),
    ],
)
def test_so_is_one_of_another_method_or_with_other_observers(tmp_path, balancer, observers, said):
    begun(tmp_path / "f.pt")
    with pytest.raises(ValueError, match=f"of another training: {said}.*give another path"):
        trained(balancer, observers=[*observers, Checkpoint(tmp_path / "f.pt")])


def test_a_network_that_has_learnt_already_is_another(tmp_path):
    net, options = MultimodalNet.build(DATA), {"epochs": 1, "device": "cpu"}
    fit(net, DATA, observers=[Checkpoint(tmp_path / "f.pt")], **options)
    with pytest.raises(ValueError, match=r"network as it was at the start differs.*built anew"):
        fit(net, DATA, observers=[Checkpoint(tmp_path / "f.pt")], **options)


def halved(content):
    return content[: len(content) // 2]


def flipped(content):
    return content[:50_000] + bytes([content[50_000] ^ 1]) + content[50_001:]


@pytest.mark.parametrize("damage", [halved, flipped, lambda content: b"", lambda content: b"{}"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "f.pt"
    begun(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"f.pt is damaged, or no checkpoint .*delete it to train"):
        begun(path)


def test_a_file_of_something_else_is_refused(tmp_path):
    torch.save({"weights": torch.ones(3)}, tmp_path / "f.pt")
    with pytest.raises(ValueError, match=r"f.pt is no checkpoint of this version"):
        begun(tmp_path / "f.pt")


class Counts:
    """An object of its own kind; what it counts is no setting."""

    def __init__(self):
        self.count = 0


class Bad(Joint):
    def __init__(self, make, early=False):
        self.make, self.early, self.kept = make, early, None
        if early:
            self.kept = make()

    def step(self, s):
        self.kept = self.kept if self.early else self.make()
        if isinstance(self.kept, Counts):
            self.kept.count += 1
        yield from super().step(s)


@pytest.mark.parametrize(
    ("make", "early", "said"),
    [
        (
            lambda: np.ones(2),
            False,
            r"^method\.kept is an ndarray, whose state cannot be saved",
        ),
        (lambda: [1, {"a": object()}], False, r"^method\.kept\[1\]\['a'\] is an object, whose"),
        (lambda: nn.Linear(1, 1), False, r"^method\.kept is a Linear that was made during the tr"),
        (torch.Generator, False, r"^method\.kept is a Generator that was made during the training"),
        (Counts, True, r"^method\.kept is a Counts, whose"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path, make, early, said):
    with pytest.raises(TypeError, match=said):
        trained(Bad(make, early), observers=[Checkpoint(tmp_path / "f.pt")])


@pytest.mark.parametrize(
    "make", [lambda: random.Random(0), lambda: np.ones(2), lambda: {"a": [Counts(), np.float64(2)]}]
)
def test_an_object_that_does_not_change_is_a_setting(tmp_path, make):
    assert_equal(*resumed(tmp_path / "f.pt", lambda: Bad(make, early=True)))


class Best:
    """An observer that keeps nothing of its own before it is first called."""

    best = -1

    def __call__(self, run):
        self.best = max(self.best, 10 - run.epoch)


@pytest.mark.parametrize("called", [lambda one: one, lambda one: one.__call__])
def test_an_observer_goes_on_with_what_it_has_seen(tmp_path, called):
    observers = [called(Best()), Cut(tmp_path / "f.pt")]
    with pytest.raises(CutError):
        made(Joint(), observers=observers)
    best = Best()
    made(Joint(), observers=[Progress(), called(best), Checkpoint(tmp_path / "f.pt")])
    assert best.best == 10


@dataclass(slots=True)
class Slots:
    seen: int = 0

    def __call__(self, run):
        self.seen += 1


def test_what_hides_its_state_in_slots_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"Slots has no __dict__.*write state_dict"):
        trained(observers=[Slots(), Checkpoint(tmp_path / "f.pt")])


class Speaks(Joint):
    """A method that says itself what it keeps."""

    def __init__(self):
        self.array = np.zeros(1)

    def step(self, s):
        self.array += 1
        s.backward(s.losses["joint"] * float(self.array[0]))
        yield

    def state_dict(self):
        return {"count": float(self.array[0])}

    def load_state_dict(self, state):
        self.array[0] = state["count"]


def test_a_method_may_say_itself_what_it_keeps(tmp_path):
    assert_equal(*resumed(tmp_path / "f.pt", Speaks))


def test_a_schedule_that_nobody_can_see_is_refused(tmp_path):
    def scheduled(parameters):
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        kept.append(schedules.StepLR(optimizer, 1))
        return optimizer

    kept = []
    with pytest.raises(ValueError, match=r"a schedule sets the optimiser's rate.*schedule=lambda"):
        trained(optimizer=scheduled, observers=[Checkpoint(tmp_path / "f.pt")])


def test_it_must_see_last(tmp_path):
    with pytest.raises(ValueError, match=r"Checkpoint comes before Curves; make it the last"):
        trained(observers=[Checkpoint(tmp_path / "f.pt"), Curves()])


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        (
            "{name}.pt",
            {},
            r"path is '\{name\}\.pt'; between braces \{name\} is unknown: allow",
        ),
        ("{.pt", {}, "between braces"),
        ("f.pt", {"every": 0}, "every is 0; it must be a whole number of at least 1"),
    ],
)
def test_bad_arguments(path, options, said):
    with pytest.raises(ValueError, match=said):
        Checkpoint(path, **options)


def test_data_that_may_be_others_the_next_time_are_refused(tmp_path):
    with open(__file__) as file, pytest.raises(UnknownIdentityError, match=r"leave these out"):
        trained(Bad(lambda: file, early=True), observers=[Checkpoint(tmp_path / "f.pt")])


# --- several trainings ----------------------------------------------------------------------------


def test_each_seed_has_its_own_file(tmp_path):
    def runs(*observers):
        return fit_seeds(DATA, OGM, seeds=[3, 4], epochs=4, device="cpu", observers=observers)

    path = tmp_path / "{method}-{seed}.pt"
    with pytest.raises(CutError):
        runs(Cut(path))
    found = runs(Checkpoint(path))
    assert {one.name for one in tmp_path.iterdir()} == {"OGM-3.pt", "OGM-4.pt"}
    assert [run.together for run in found] == [1, 1]
    for run, other in zip(found, runs(lambda run: None), strict=True):
        assert_equal(run, other)


def test_one_file_for_several_trainings_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"f\.pt'\) is one path for 2 trainings; put \{seed\} or"):
        fit_seeds(DATA, OGM, seeds=[1, 2], epochs=1, observers=[Checkpoint(tmp_path / "f.pt")])


def test_a_stack_has_no_training_of_one_network_to_save(tmp_path):
    given = {"seeds": [1, 2], "epochs": 1, "observers": [Checkpoint(tmp_path / "{seed}.pt")]}
    with pytest.raises(UnstackableError, match=r"Checkpoint acts on one training.*at_once=False"):
        fit_seeds(DATA, OGM, at_once=True, **given)


def test_compare_asks_for_files_of_their_own_before_it_trains(tmp_path):
    with pytest.raises(ValueError, match="is one path for 2 trainings"):
        compare({"OGM": OGM}, DATA, seeds=[1, 2], observers=[Checkpoint(tmp_path / "f.pt")])


@pytest.mark.parametrize(
    ("name", "other", "path"),
    [("joint", Joint, "{seed}.pt"), ("OGM", partial(OGM, enhance=False), "{method}-{seed}.pt")],
)
def test_compare_asks_for_a_file_per_method_before_it_trains(tmp_path, name, other, path):
    methods, saving = {name: other, "OGM-GE": OGM}, [Checkpoint(tmp_path / path)]
    said = rf"is one path for the methods '{name}' and 'OGM-GE'; put {{run}}"
    with pytest.raises(ValueError, match=said):
        compare(methods, DATA, seeds=[1, 2], epochs=1, observers=saving)
    assert not [*tmp_path.iterdir()]
    apart = [Checkpoint(tmp_path / "{method}-{seed}.pt")]
    found = compare({"joint": Joint, "OGM": OGM}, DATA, seeds=[1], epochs=1, observers=apart)
    assert "error" not in found and len([*tmp_path.iterdir()]) == 2


def test_a_file_of_other_code_is_refused(tmp_path, monkeypatch):
    made(OGM(), observers=[Checkpoint(tmp_path / "f.pt")])
    monkeypatch.setattr("mmlab.training.checkpoint.code_version", lambda: "other")
    with pytest.raises(ValueError, match="another training: code of mmlab, torch and NumPy"):
        made(OGM(), observers=[Checkpoint(tmp_path / "f.pt")])


def test_compare_keeps_methods_of_one_class_apart(tmp_path):
    methods = {"OGM": partial(OGM, enhance=False), "OGM-GE": OGM}
    options = {"seeds": range(2), "epochs": 1, "device": "cpu"}
    saving = [Checkpoint(tmp_path / "{method}-{seed}-{run}.pt")]
    first, again = (compare(methods, DATA, observers=saving, **options) for _ in range(2))
    assert len([*tmp_path.iterdir()]) == 4
    assert first.equals(again) and "error" not in first
