"""The three baselines: their gradients are those of their losses, and they predict as they say."""

import pytest
import torch

from mmlab import Joint, Step, Uniform, Unimodal
from mmlab.datasets.synthetic import synthetic
from mmlab.models import MultimodalNet
from mmlab.training import fit

DATA = synthetic(n=(48, 16, 16), dims=5)


def grads(balancer, loss_of=None):
    """Gradients by the balancer's step, and those of a loss written out, of all parameters."""
    nets = [MultimodalNet.build(DATA).double() for _ in range(2)]
    batch = DATA.train[:16]
    batch.inputs = {m: x.double() for m, x in batch.inputs.items()}
    next(balancer.step(Step(nets[0], batch)))
    out = nets[1](batch.inputs)
    entropy = lambda z: torch.nn.functional.cross_entropy(z, batch.target)  # noqa: E731
    loss_of(entropy, out).backward()
    return [{name: p.grad for name, p in net.named_parameters()} for net in nets]


CASES = {
    "joint": (Joint(), lambda ce, out: ce(out.joint)),
    "uniform": (
        Uniform(),
        lambda ce, out: ce(out.joint) + ce(out.unimodal["a"]) + ce(out.unimodal["b"]),
    ),
    "unimodal": (Unimodal("b"), lambda ce, out: ce(out.unimodal["b"])),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_loss(case):
    ours, expected = grads(*CASES[case])
    assert any(g is not None for g in expected.values())
    for name, grad in expected.items():
        assert (ours[name] is None) == (grad is None), name
        if grad is not None:
            torch.testing.assert_close(ours[name], grad)


def test_encoder_scale_multiplies_the_encoders_alone():
    ours, expected = grads(Uniform(encoder_scale=1.5), CASES["uniform"][1])
    for name, grad in expected.items():
        k = 1.5 if name.startswith("encoders") else 1.0
        torch.testing.assert_close(ours[name], k * grad)


def test_a_modality_alone_trains_and_predicts_alone():
    net = MultimodalNet.build(DATA)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    run = fit(net, DATA, Unimodal("a"), epochs=1, device="cpu")
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith(("encoders.a", "heads.a"))}
    prediction = run.predict(DATA.test)
    assert torch.equal(prediction, net.eval()(DATA.test.inputs).unimodal["a"])
    assert run.balancer.name == "Unimodal('a')"


def test_a_modality_alone_runs_its_own_encoder_alone():
    net, called = MultimodalNet.build(DATA), []
    for m, encoder in net.encoders.items():
        encoder.register_forward_hook(lambda *_, m=m: called.append(m))
    fit(net, DATA, Unimodal("b"), epochs=1, batch_size=16, device="cpu")
    assert called == ["b"] * 3


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="encoder_scale is 0; allowed is a number above 0"):
        Uniform(encoder_scale=0)
    with pytest.raises(KeyError, match="no loss 'video'; allowed are 'joint', 'a', 'b'"):
        fit(MultimodalNet.build(DATA), DATA, Unimodal("video"), epochs=1, device="cpu")
