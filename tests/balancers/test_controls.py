"""The standing controls: each does what it is named after, and nothing else."""

import math

import pytest
import torch

from mmlab import Joint, Unimodal, fit, fit_seeds
from mmlab.balancers import EncoderRates, Ensemble, RefittedHead, ScaledInputs
from mmlab.datasets import Batch, MultimodalData, drop
from mmlab.datasets.synthetic import synthetic
from mmlab.models import Fusion, MultimodalNet
from mmlab.models.stack import UnstackableError

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


def test_an_ensemble_with_one_head_for_all_is_refused():
    with pytest.raises(ValueError, match=r"one head per modality.*heads='own'"):
        fit(MultimodalNet.build(DATA, heads="shared"), DATA, Ensemble(), epochs=1, device="cpu")


def test_a_sample_without_any_modality_is_named():
    run = trained(Ensemble())
    masks = {m: torch.arange(32) != 7 for m in "ab"}
    inputs = {m: x * masks[m][:, None] for m, x in DATA.test.inputs.items()}
    with pytest.raises(ValueError, match="sample 7 has no modality at all"):
        run.predict(Batch(inputs, DATA.test.target, masks))


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


def test_a_network_that_does_not_scale_is_refused():
    with pytest.raises(ValueError, match=r"does not scale 'a' by 0\.5; build it with"):
        fit(MultimodalNet.build(DATA), DATA, ScaledInputs(a=0.5), epochs=1, device="cpu")


def test_two_scales_for_one_network_are_refused():
    with pytest.raises(ValueError, match=r"'a': 0\.5.*'b': 2\.0.*give the product"):
        fit_seeds(
            DATA, lambda: ScaledInputs(a=0.5), seeds=[0], epochs=1, build={"scale": {"b": 2.0}}
        )


def test_networks_of_unlike_scales_are_no_stack():
    class Own(Joint):
        def __init__(self, factor):
            self.factor = factor

        @property
        def network(self):
            return {**super().network, "scale": {"a": self.factor}}

    makers = [lambda: Own(0.5), lambda: Own(0.01)]
    given = {"seeds": [0, 0], "device": "cpu", **TRAINING}
    with pytest.raises(UnstackableError, match=r"Scale\(0\.5\) of one network is Scale\(0\.01\)"):
        fit_seeds(DATA, makers, at_once=True, **given)
    one, other = fit_seeds(DATA, makers, **given)
    assert not torch.allclose(one.predict(DATA.test), other.predict(DATA.test), atol=1e-2)


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
    run = trained(RefittedHead(refit_epochs=4), **plain)
    first = MultimodalNet.build(DATA).fusion
    features = run.features("train")
    optimizer = torch.optim.SGD(first.parameters(), 0.1)
    for _ in range(4):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(first(features), DATA.train.target).backward()
        optimizer.step()
    torch.testing.assert_close(parameters(run.model.fusion), parameters(first))


def test_refitting_0_epochs_is_refused():
    with pytest.raises(ValueError, match="refit_epochs is 0"):
        RefittedHead(refit_epochs=0)


def test_a_schedule_that_ended_at_0_does_not_stop_the_refit():
    def observer(run):
        for group in run.optimizer.param_groups:
            group["lr"] = 0.1 if run.epoch < run.epochs else 0.0

    run = trained(RefittedHead(), observers=[observer])
    untrained = MultimodalNet.build(DATA).fusion
    assert not torch.allclose(parameters(run.model.fusion), parameters(untrained), atol=1e-3)


def test_the_buffers_of_the_fusion_are_those_of_the_refit():
    class Normed(Fusion):
        def __init__(self, widths, n_outputs):
            super().__init__(widths, n_outputs)
            size = sum(widths.values())
            self.layers = torch.nn.Sequential(
                torch.nn.BatchNorm1d(size), torch.nn.Linear(size, n_outputs)
            )

        def forward(self, features):
            return self.layers(torch.cat([*features.values()], -1))

    run = fit_seeds(
        DATA, RefittedHead, seeds=[0], build={"fusion": Normed}, device="cpu", **TRAINING
    )[0]
    features = torch.cat([*run.features("train").values()], -1)
    mean = run.model.fusion.layers[0].running_mean
    counted = run.model.fusion.layers[0].num_batches_tracked
    assert counted == 9, "three epochs of three batches, counted from the start of the refit"
    assert torch.dist(mean, features.mean(0)) < 0.8 * features.mean(0).norm()


def test_a_fusion_without_trained_parameters_cannot_be_refitted():
    net = MultimodalNet.build(DATA)
    net.fusion.requires_grad_(False)
    with pytest.raises(ValueError, match="Concat has no trained parameter"):
        fit(net, DATA, RefittedHead(), epochs=1, device="cpu")


# --- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [Ensemble, RefittedHead, lambda: ScaledInputs(a=0.5), lambda: EncoderRates(a=0.5)],
)
def test_a_stack_does_what_each_network_does_alone(make):
    stacked = fit_seeds(DATA, make, seeds=[0, 1], device="cpu", at_once=True, **TRAINING)
    alone = fit_seeds(DATA, make, seeds=[0, 1], device="cpu", at_once=False, **TRAINING)
    for one, other in zip(stacked, alone, strict=True):
        torch.testing.assert_close(
            one.predict(DATA.test), other.predict(DATA.test), rtol=1e-4, atol=1e-5
        )
