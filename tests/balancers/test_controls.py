"""The standing controls: each does what it is named after, and nothing else."""

import math

import pytest
import torch

from mmlab import Joint, Unimodal, fit, fit_seeds
from mmlab.balancers import DGL, EncoderRates, Ensemble, RefittedHead, ScaledInputs
from mmlab.datasets import Batch, MultimodalData, drop
from mmlab.datasets.synthetic import synthetic
from mmlab.models import MultimodalNet
from mmlab.training import Step

DATA = synthetic(n=(48, 16, 32), dims={"a": 5, "b": 3})
TRAINING = {"epochs": 3, "batch_size": 16, "lr": 0.1}


def trained(balancer, data=DATA, **more):
    net = MultimodalNet.build(data, **balancer.network)
    return fit(net, data, balancer, device="cpu", **TRAINING | more)


def parameters(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# --- Ensemble -------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", ["a", "b"])
def test_the_ensembles_networks_are_those_that_were_trained_alone(m):
    together, alone = trained(Ensemble()).model, trained(Unimodal(m)).model
    torch.testing.assert_close(parameters(together.encoders[m]), parameters(alone.encoders[m]))
    torch.testing.assert_close(parameters(together.head(m)), parameters(alone.head(m)))


def test_the_ensemble_predicts_by_the_mean_of_the_log_probabilities():
    run = trained(Ensemble())
    with torch.no_grad():
        logits = run.model(DATA.test.inputs).unimodal
    expected = sum(torch.log(torch.softmax(z.double(), -1)) for z in logits.values()) / 2
    torch.testing.assert_close(run.predict(DATA.test).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_ensemble_averages_over_the_modalities_that_a_sample_has():
    run = trained(Ensemble())
    lacking = drop(DATA.test, {"b": 1.0})
    whole = run.model(lacking.inputs).unimodal["a"].log_softmax(-1)
    torch.testing.assert_close(run.predict(lacking), whole.detach())


def test_the_ensemble_averages_real_numbers_as_they_are():
    target = torch.linspace(-1, 1, 48)
    batch = Batch({"a": torch.randn(48, 5), "b": torch.randn(48, 3)}, target)
    data = MultimodalData(batch, batch, batch, task="regression")
    run = trained(Ensemble(), data)
    logits = run.model(batch.inputs).unimodal
    torch.testing.assert_close(run.predict(batch), (logits["a"] + logits["b"]).detach() / 2)


# --- DGL ------------------------------------------------------------------------------------------


def test_dgl_gives_encoders_their_own_loss_and_the_fusion_the_joint_one():
    nets = [MultimodalNet.build(DATA) for _ in range(2)]
    batch = DATA.train[:16]
    next(DGL().step(Step(nets[0], batch)))
    out, ce = nets[1](batch.inputs), torch.nn.functional.cross_entropy
    own = sum(ce(z, batch.target) for z in out.unimodal.values())
    own.backward(retain_graph=True)
    fusion = torch.autograd.grad(ce(out.joint, batch.target), [*nets[1].fusion.parameters()])
    for mine, theirs in zip(
        nets[0].encoders.parameters(), nets[1].encoders.parameters(), strict=True
    ):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for mine, theirs in zip(nets[0].heads.parameters(), nets[1].heads.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    for mine, theirs in zip(nets[0].fusion.parameters(), fusion, strict=True):
        torch.testing.assert_close(mine.grad, theirs)


# --- ScaledInputs, EncoderRates -------------------------------------------------------------------


def test_scaled_inputs_are_joint_training_on_data_that_were_multiplied():
    def times(batch):
        return Batch({**batch.inputs, "a": 0.25 * batch.inputs["a"]}, batch.target)

    quiet = MultimodalData(*map(times, DATA.splits.values()), n_classes=2)
    scaled, multiplied = trained(ScaledInputs(a=0.25)), trained(Joint(), quiet)
    torch.testing.assert_close(parameters(scaled.model), parameters(multiplied.model))
    torch.testing.assert_close(scaled.predict(DATA.test), multiplied.predict(quiet.test))
    other = trained(Joint()).model
    assert not torch.allclose(parameters(scaled.model), parameters(other), atol=1e-3)


def test_encoder_rates_are_learning_rates_of_the_encoders_alone():
    def of_groups(rates):
        net = MultimodalNet.build(DATA)
        parts = {**net.encoders, "fusion": net.fusion}

        def optimizer(parameters):
            groups = [
                {"params": [*part.parameters()], "lr": 0.1 * rates.get(name, 1.0)}
                for name, part in parts.items()
            ]
            return torch.optim.SGD(groups, momentum=0.9)

        options = {key: value for key, value in TRAINING.items() if key != "lr"}
        with pytest.warns(UserWarning, match="leaves out"):  # the heads, which Joint never trains
            return fit(net, DATA, Joint(), optimizer=optimizer, device="cpu", **options)

    ours = trained(EncoderRates(b=0.2), optimizer=lambda p: torch.optim.SGD(p, 0.1, 0.9), lr=None)
    torch.testing.assert_close(
        parameters(ours.model.encoders["b"]),
        parameters(of_groups({"b": 0.2}).model.encoders["b"]),
    )
    torch.testing.assert_close(
        parameters(ours.model.fusion), parameters(of_groups({"b": 0.2}).model.fusion)
    )
    plain = trained(Joint(), optimizer=lambda p: torch.optim.SGD(p, 0.1, 0.9), lr=None)
    assert not torch.allclose(
        parameters(ours.model.encoders["b"]), parameters(plain.model.encoders["b"]), atol=1e-3
    )


@pytest.mark.parametrize("kind", [ScaledInputs, EncoderRates])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0.0, ValueError), (-1, ValueError), (math.nan, ValueError), ("1", TypeError)],
)
def test_factors_are_numbers_above_0(kind, value, error):
    with pytest.raises(error, match=r"a is .*(give|allowed is) a number"):
        kind(a=value)


def test_factors_of_no_modality_are_said():
    with pytest.raises(ValueError, match=r"'c'.*'a', 'b'"):
        trained(ScaledInputs(c=0.5))
    with pytest.raises(ValueError, match=r"'c'.*'a', 'b'"):
        trained(EncoderRates(c=0.5))


def test_encoder_rates_say_what_adam_takes():
    with pytest.warns(UserWarning, match="is joint training; use SGD"):
        trained(EncoderRates(a=0.5), optimizer=torch.optim.Adam, lr=None)


# --- RefittedHead ---------------------------------------------------------------------------------


def test_refitting_changes_the_fusion_and_nothing_else():
    refitted, joint = trained(RefittedHead()).model, trained(Joint()).model
    assert torch.equal(parameters(refitted.encoders), parameters(joint.encoders))
    assert torch.equal(parameters(refitted.heads), parameters(joint.heads))
    assert not torch.allclose(parameters(refitted.fusion), parameters(joint.fusion), atol=1e-3)


def test_the_new_fusion_starts_where_the_first_one_did_and_learns_from_frozen_features():
    """Without momentum and in whole batches its training can be written down."""
    plain = {"optimizer": lambda p: torch.optim.SGD(p, 0.1), "lr": None, "batch_size": 48}
    run = trained(RefittedHead(epochs=4), **plain)
    first = MultimodalNet.build(DATA).fusion
    features = run.features("train")
    optimizer = torch.optim.SGD(first.parameters(), 0.1)
    for _ in range(4):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(first(features), DATA.train.target).backward()
        optimizer.step()
    torch.testing.assert_close(parameters(run.model.fusion), parameters(first))


def test_refitting_0_epochs_is_refused():
    with pytest.raises(ValueError, match="epochs is 0"):
        RefittedHead(epochs=0)


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [Ensemble, DGL, RefittedHead, lambda: ScaledInputs(a=0.5), lambda: EncoderRates(a=0.5)],
)
def test_a_stack_does_what_each_network_does_alone(make):
    stacked = fit_seeds(DATA, make, seeds=[0, 1], device="cpu", at_once=True, **TRAINING)
    alone = fit_seeds(DATA, make, seeds=[0, 1], device="cpu", at_once=False, **TRAINING)
    for one, other in zip(stacked, alone, strict=True):
        torch.testing.assert_close(
            one.predict(DATA.test), other.predict(DATA.test), rtol=1e-4, atol=1e-5
        )
