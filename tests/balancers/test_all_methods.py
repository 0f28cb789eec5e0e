"""What holds for every balancer: it learns, repeats itself, fits any data, and does not wait."""

import functools
import itertools

import pytest
import torch
from by_hand import batch, counted, data, mlp, network, parameters
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from mmlab import (
    ATF,
    LFM,
    MLA,
    SMV,
    Blend,
    GradientBlending,
    MMPareto,
    MultimodalNet,
    Step,
    Uniform,
    Unimodal,
    fit,
    load,
)
from mmlab.balancers import METHODS
from mmlab.balancers.blend import nash_weights
from mmlab.evaluation import test_accuracy as accuracy_on_test
from mmlab.models import Concat
from mmlab.training import begin

MAKERS = {name: method.make for name, method in METHODS.items()} | {
    "uniform, scaled": lambda: Uniform(encoder_scale=1.5),
    "G-Blend, often": lambda: GradientBlending(warmup=1, super_epoch=1),
    "G-Blend, offline": lambda: GradientBlending(mode="offline"),
    "ACE, decoupled": lambda: ATF(decoupled=True),
    "MMPareto, by tensor": lambda: MMPareto(rescale="tensor"),
    "SMV, at once": lambda: SMV(warmup=0),
    "SMV, modality": lambda: SMV("modality", warmup=0, alpha=3),
    "MLA, rls": lambda: MLA(projector="rls"),
    "MLA, none": lambda: MLA(projector="none", fusion="mean"),
    "Blend, one by one": lambda: Blend(nash_weights),
    "LFM, js": lambda: LFM(align="js"),
    "LFM, learned": lambda: LFM(weight="learned"),
}
every_method = pytest.mark.parametrize("name", MAKERS)


def build(name, modalities="av", **options):
    return network(modalities, **MAKERS[name]().network, **options)


def train(name, tiny, net, **options):
    options = {"epochs": 2, "batch_size": 8, "device": "cpu"} | options
    return fit(net, tiny, MAKERS[name](), **options)


@functools.cache
def digits():
    """Speakers seen in training: for unknown ones, blending may rightly starve the joint head."""
    return load("av-digits", seed=0, split="seen")


EPOCHS = dict.fromkeys(("LFM", "LFM, js", "LFM, learned"), 4)
"""Where two are too few: its first epochs have next to no weight on the classification."""


@every_method
def test_a_few_epochs_of_digits_beat_chance_with_finite_numbers(name):
    balancer = MAKERS[name]()
    net = MultimodalNet.build(digits(), **balancer.network, seed=0)
    run = fit(net, digits(), balancer, epochs=EPOCHS.get(name, 2), device="cpu")
    assert all(p.isfinite().all() for p in net.parameters())
    assert run.history.value.map(lambda v: v == v and abs(v) < float("inf")).all()
    assert accuracy_on_test(run) > 0.5  # chance is 0.1


@every_method
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_the_same_seed_gives_the_same_bits(name, modalities):
    runs = [train(name, data(modalities), build(name, modalities)) for _ in range(2)]
    assert runs[0].rows == runs[1].rows
    for key, value in runs[0].model.state_dict().items():
        assert torch.equal(value, runs[1].model.state_dict()[key])


JOINT_ONLY = ("joint", "OGM", "OGM-GE", "PMR", "MMCosine", "D&R", "CML", "AGM", "OPM")
JOINT_ONLY += ("SMV", "SMV, at once", "SMV, modality", "UMT")


@every_method
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("modalities", ["av", "avt"])
def test_every_part_that_should_learn_does(name, modalities, missing):
    """Own heads stay as they were where the method has no unimodal loss, or weighed it 0."""
    net = build(name, modalities, encoder=mlp)
    before = parameters(net)
    run = train(name, data(modalities, missing=missing), net)
    weights = run.history.query("metric == 'weight'").groupby("output").value.max()
    idle = [f"heads.{m}." for m in modalities if name in JOINT_ONLY or weights.get(m) == 0]
    for key, value in parameters(net).items():
        assert torch.equal(value, before[key]) == key.startswith(tuple(idle)), key
        assert value.isfinite().all(), key
    prediction = run.predict(run.data.test)
    assert prediction.shape == (12, 3) and prediction.isfinite().all()


@every_method
def test_a_fresh_balancer_can_be_driven_by_hand(name):
    net, samples = build(name), batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    next(MAKERS[name]().step(Step(net, samples, optimizer)))
    grads = [p.grad for p in net.parameters() if p.grad is not None]
    assert grads and all(g.isfinite().all() for g in grads)
    assert any(p.grad is not None and p.grad.any() for p in net.encoders["a"].parameters())


EPOCH = {"ReconBoost": 5}
"""Where the first epoch trains one modality alone: one that trains all."""


@every_method
def test_a_batch_in_which_one_modality_is_all_there_is(name):
    net, samples = build(name), batch(present={"a": [0] * 6, "v": [1] * 6})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    before = parameters(net)
    for _ in MAKERS[name]().step(Step(net, samples, optimizer, EPOCH.get(name, 0))):
        optimizer.step()
        optimizer.zero_grad()
    after = parameters(net)
    assert all(value.isfinite().all() for value in after.values())
    assert not torch.equal(after["encoders.v.weight"], before["encoders.v.weight"])


@every_method
def test_a_batch_of_which_nobody_has_anything_leaves_numbers(name):
    net, samples = build(name), batch(present={"a": [0] * 6, "v": [0] * 6})
    step = Step(net, samples, torch.optim.SGD(net.parameters(), lr=0.1), EPOCH.get(name, 0))
    for _ in MAKERS[name]().step(step):  # MLA's has no turn, and so no update
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    assert all(torch.as_tensor(value).isfinite() for value in step.logged.values())


@every_method
def test_a_frozen_encoder_stays_and_the_other_learns(name):
    """A pretrained encoder is used as it is."""
    net = build(name)
    net.encoders["a"].requires_grad_(False)
    before = parameters(net)
    train(name, data(), net)
    after = parameters(net)
    for part in ("weight", "bias"):
        assert torch.equal(after[f"encoders.a.{part}"], before[f"encoders.a.{part}"])
        assert not torch.equal(after[f"encoders.v.{part}"], before[f"encoders.v.{part}"])


OWN_FUSION = {"MMCosine": "the method is the fusion"}


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in OWN_FUSION])
@pytest.mark.parametrize("fusion", ["sum", "film", "gated", "attention", "late", "cosine"])
def test_every_fusion_will_do(name, fusion):
    net = network(fusion=fusion, heads=MAKERS[name]().heads)
    train(name, data(), net)
    assert all(value.isfinite().all() for value in parameters(net).values())


@pytest.mark.parametrize("name", OWN_FUSION)
def test_a_method_that_is_a_fusion_refuses_another_one(name):
    with pytest.raises(ValueError, match=r"is a fusion, and this network has Concat; build it"):
        train(name, data(), network())


ORDERED = {
    "OPM": "who is dropped is drawn in their order",
    "OGM-GE": "the noise of the encoders is drawn in their order",
    "SMV, at once": "an epoch's copies are listed in their order before they are shuffled",
    "SMV, modality": "an epoch's copies are listed in their order before they are shuffled",
    "MLA": "the modalities take turns in their order",
    "MLA, rls": "the modalities take turns in their order",
    "MLA, none": "the modalities take turns in their order",
    "ReconBoost": "the modalities take turns in their order",
    "CML": "the order in which a sample loses its modalities is drawn in theirs",
}


def reordered(name, net, order):
    """The same function with the modalities in another order, and its columns moved along."""
    other = build(name, order)
    state = net.state_dict()
    if isinstance(net.fusion, Concat):  # whose columns are in the order of the modalities
        widths = [4] * len(net.modalities)
        blocks = dict(
            zip(net.modalities, state["fusion.linear.weight"].split(widths, dim=1), strict=True)
        )
        state["fusion.linear.weight"] = torch.cat([blocks[m] for m in order], dim=1)
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ORDERED])
def test_the_order_of_the_modalities_does_not_matter(name):
    net = build(name, "avt")
    other = reordered(name, net, "tav")
    samples = data("avt")
    turned = data("avt")
    for split in turned.splits.values():
        split.inputs = {m: split.inputs[m] for m in "tav"}
    train(name, samples, net)
    train(name, turned, other)
    expected = reordered(name, net, "tav").state_dict()
    for key, value in other.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-12)


class Calls(TorchFunctionMode):
    """Notes the copies to the host that are no operation of their own."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("tolist", "cpu"):
            self.seen.append(function.__name__)
        return function(*args, **(kwargs or {}))


WAITS = ("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "masked_select", "unique")


class Waits(TorchDispatchMode):
    """Notes every operation for which the host must wait for the device's result."""

    def __init__(self):
        super().__init__()
        self.seen: list[str] = []
        self.calls = Calls(self.seen)

    def __enter__(self):
        self.calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.calls.__exit__(*error)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if by_mask or name in WAITS:
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def test_what_makes_the_host_wait_is_seen():
    x = torch.tensor([1.0, 0.0])
    waiting = [lambda: x[0].item(), lambda: bool(x.any()), lambda: x[x > 0], lambda: x.nonzero()]
    waiting += [lambda: x.tolist(), lambda: x.cpu()]
    for wait in waiting:
        with Waits() as waits:
            wait()
        assert len(waits.seen) == 1


@every_method
@pytest.mark.parametrize("masked", [False, True])
def test_no_step_waits_for_the_device(name, masked):
    """Except MLA's with masks, once per step: which modalities does this batch have at all?"""
    present = {"a": [1, 0, 1, 1, 0, 1], "v": [0, 1, 1, 1, 1, 1]} if masked else None
    net, samples = build(name), batch(present=present)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    balancer = MAKERS[name]()
    with Waits() as waits:
        for _ in range(3):
            for _ in balancer.step(Step(net, samples, optimizer)):
                optimizer.step()
                optimizer.zero_grad()
    assert waits.seen == (["tolist"] * 3 if masked and name.startswith("MLA") else [])
    with Waits() as waits, torch.no_grad():
        balancer.fuse(net(samples.inputs))
    assert not waits.seen


PASSES = {
    "BDO": (2, 1),  # looks at the batch again
    "MMPareto": (1, 2),  # tells two gradients apart
    "MMPareto, by tensor": (1, 2),
    "UMT": (2, 1),  # the batch goes through the teacher too
    "AGM": (2, 2),  # the second time one row, of zeros
    "PCGrad": (1, 2),
    "CAGrad": (1, 2),
    "IMTL-G": (1, 2),
    "Nash-MTL": (1, 2),
    "Aligned-MTL": (1, 2),
    "Blend, one by one": (1, 2),
}
"""Forward and backward passes through an encoder in a step; of all other methods one of each."""


@every_method
def test_a_step_takes_no_pass_more_than_the_mathematics_needs(name):
    net, samples = build(name, encoder=counted), batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    balancer = MAKERS[name]()
    run = begin(net, data(), balancer, optimizer, epochs=1)
    run.next_epoch()  # what it prepares has a cost of its own
    teachers = getattr(balancer, "teachers", {})
    encoders = [[net.encoders[m], *([teachers[m]] if m in teachers else [])] for m in "av"]
    for encoder in itertools.chain(*encoders):
        encoder[1].log.clear()
    for _ in balancer.step(Step(net, samples, optimizer, EPOCH.get(name, 0))):
        optimizer.step()
    for same in encoders:
        log = [entry for encoder in same for entry in encoder[1].log]
        assert (log.count("forward"), log.count("backward")) == PASSES.get(name, (1, 1))


ONE_AT_A_TIME = {"PMR": "only the modality that is behind gets a second loss worth naming"}
LATER = {"SMV": "its warm-up, longer than the training here, is joint training"}


@pytest.mark.parametrize(
    "name", [name for name in MAKERS if name not in ("joint", "uniform", *OWN_FUSION, *LATER)]
)
def test_no_method_is_another_name_for_joint_or_uniform_training(name):
    """Trained from the same start on the same batches, each ends elsewhere."""
    tiny = data()
    options = {"fusion": "late", "heads": "shared"}
    if name == "PCGrad":  # without conflict it *is* the uniform sum; from this start there are some
        options = {"seed": 6}
    runs = {
        key: train(key, tiny, network(**options), epochs=4, lr=0.1)
        for key in (name, "joint", "uniform")
    }
    mine = parameters(runs[name].model)
    for control in ("joint", "uniform"):
        theirs = parameters(runs[control].model)
        keys = [f"encoders.{m}.weight" for m in "av"]
        gaps = [(mine[key] - theirs[key]).norm() for key in keys]
        assert (max(gaps) if name in ONE_AT_A_TIME else min(gaps)) > 1e-3


def test_unimodal_training_moves_one_branch_alone():
    net = network()
    before = parameters(net)
    fit(net, data(), Unimodal("v"), epochs=1, batch_size=8, device="cpu")
    changed = {key for key, value in parameters(net).items() if not torch.equal(value, before[key])}
    assert {key.rsplit(".", 1)[0] for key in changed} == {"encoders.v", "heads.v"}
