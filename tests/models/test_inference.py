"""A network and its method as one plain module: a copy that predicts, and that can be saved."""

import io

import pytest
import torch
from torch import nn

from mmlab import MLA, Ensemble, GradientBlending, Joint, MultimodalNet, fit, fit_seeds
from mmlab.balancers import METHODS
from mmlab.datasets import MultimodalData
from mmlab.datasets.dials import drop
from mmlab.datasets.synthetic import synthetic
from mmlab.models import NetworkStack
from mmlab.training import Balancer

DATA = synthetic(n=(40, 20, 12), dims=6)
BATCH = DATA.test


class Gated(Balancer):
    """Predicts by a module of its own, which has dropout, and by a running list of scales."""

    def modules(self, model):
        self.gate = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        return self.gate

    def start(self, run):
        self.scales = [torch.ones(2), {"b": torch.full((2,), 3.0)}]

    def step(self, s):
        s.backward(s.losses.of("gated", self.gate(s.out.joint)))
        yield

    def fuse(self, out, present=None):
        first, others = self.scales
        return self.gate(out.joint) * first * others["b"]


MAKERS = {name: method.make for name, method in METHODS.items()} | {
    "by heads": lambda: GradientBlending(fuse="heads"),
    "ensemble": Ensemble,
    "own": Gated,
}


def trained(name, epochs=1):
    balancer = MAKERS[name]()
    net = MultimodalNet.build(DATA, **balancer.network, width=8, seed=0)
    return fit(net, DATA, balancer, epochs=epochs, device="cpu", lr=0.1)


def saved(thing, **options):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, **options)


@pytest.mark.parametrize("name", MAKERS)
def test_it_predicts_as_the_run_and_a_later_training_does_not_change_it(name):
    run = trained(name)
    module = run.model.inference(run.balancer)
    modes = [part.training for part in run.model.modules()]
    wanted = module(BATCH.inputs)
    assert torch.equal(wanted, run.predict(BATCH))
    if name == "own":
        assert all(part.training for part in run.balancer.gate.modules())
    assert all(modes) and not any(part.training for part in module.modules())
    fit(run.model, DATA, run.balancer, epochs=1, device="cpu", seed=1)
    assert torch.equal(module(BATCH.inputs), wanted)
    assert not torch.equal(run.model.inference(run.balancer)(BATCH.inputs), wanted)


@pytest.mark.parametrize("name", MAKERS)
def test_it_survives_pickling_and_its_state_dict_carries_what_the_method_predicts_by(name):
    run = trained(name)
    module = run.model.inference(run.balancer)
    wanted = module(BATCH.inputs)
    assert torch.equal(saved(module, weights_only=False)(BATCH.inputs), wanted)
    other = trained(name, epochs=2).model.inference(
        trained(name, epochs=2).balancer if name in ("own", "UMT") else MAKERS[name]()
    )
    assert not torch.equal(other(BATCH.inputs), wanted)
    other.load_state_dict(saved(module.state_dict(), weights_only=True))
    assert torch.equal(other(BATCH.inputs), wanted)


def test_numbers_that_a_user_has_set_are_saved_too():
    def by_heads(weights):
        balancer = GradientBlending(fuse="heads")
        balancer.weights = weights
        net = MultimodalNet.build(DATA, **balancer.network, width=8, seed=0)
        return net.inference(balancer)

    module, fresh = by_heads({"joint": 0.2, "a": 0.1, "b": 0.7}), by_heads({})
    assert not torch.equal(fresh(BATCH.inputs), module(BATCH.inputs))
    fresh.load_state_dict(saved(module.state_dict(), weights_only=True))
    assert torch.equal(fresh(BATCH.inputs), module(BATCH.inputs))


def test_a_loaded_state_is_a_copy_of_the_type_of_the_network():
    module, other = (trained("own").model.inference(trained("own").balancer) for _ in range(2))
    other.double().load_state_dict(module.state_dict())
    assert other.predictor.scales[0].dtype == torch.float64
    trained_scale = module.predictor.scales[0]
    same = trained("own").model.inference(trained("own").balancer)
    same.load_state_dict(module.state_dict())
    same.predictor.scales[0].zero_()
    assert trained_scale.all()


def test_samples_may_lack_modalities():
    data = MultimodalData(*(drop(split, 0.3) for split in DATA.splits.values()))
    balancer = MLA()
    run = fit(MultimodalNet.build(data, **balancer.network), data, balancer, epochs=1, device="cpu")
    module = run.model.inference(balancer)
    wanted = run.predict(data.test)
    assert torch.equal(module(data.test.inputs, data.test.present), wanted)
    assert not torch.equal(module(data.test.inputs), wanted)


def test_what_the_method_keeps_moves_along():
    run = trained("own")
    module = run.model.inference(run.balancer).double()
    inputs = {m: x.double() for m, x in BATCH.inputs.items()}
    assert module(inputs).dtype == torch.float64
    kept = module.get_extra_state()["scales"]
    assert kept[0].dtype == kept[1]["b"].dtype == torch.float64
    assert run.balancer.scales[0].dtype == torch.float32
    assert next(run.balancer.gate.parameters()).dtype == torch.float32


def test_without_a_method_the_joint_logits_predict():
    net = MultimodalNet.build(DATA)
    assert torch.equal(net.inference()(BATCH.inputs), net(BATCH.inputs).joint)


def test_a_class_and_a_stack_are_refused():
    net = MultimodalNet.build(DATA)
    with pytest.raises(TypeError, match=r"an instance, not a class"):
        net.inference(Joint)
    with pytest.raises(TypeError, match=r"balancer is 'joint'; give the method"):
        net.inference("joint")
    with pytest.raises(TypeError, match=r"a stack of networks; .* one run of fit_seeds"):
        NetworkStack([net, MultimodalNet.build(DATA, seed=1)]).inference()
    run = fit_seeds(DATA, Joint, seeds=[0, 1], epochs=1, device="cpu")[1]
    assert run.together == 2
    assert torch.equal(run.model.inference(run.balancer)(BATCH.inputs), run.predict(BATCH))
