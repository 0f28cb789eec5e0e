"""Trained networks leave as programs without Python: by torch.export and as ONNX."""

import io

import pytest
import torch

from mmlab import MLA, Batch, Ensemble, GradientBlending, Joint, MultimodalNet, Unimodal, fit
from mmlab.balancers import METHODS
from mmlab.datasets import MultimodalData
from mmlab.datasets.dials import drop
from mmlab.datasets.synthetic import synthetic
from mmlab.models import FrameMean

FULL = synthetic(n=(40, 20, 12), dims=6)
LACKING = MultimodalData(*(drop(split, 0.3) for split in FULL.splits.values()))
MAKERS = {name: method.make for name, method in METHODS.items()} | {
    "G-Blend, by heads": lambda: GradientBlending(fuse="heads"),
    "ensemble": Ensemble,
    "one modality": lambda: Unimodal("b"),
}


def graph(name):
    """What the module that predicts is made of: methods that share it are tried once."""
    balancer = MAKERS[name]()
    return type(balancer).fuse, getattr(balancer, "predictor", None), *balancer.network.values()


DISTINCT = {graph(name): name for name in MAKERS}.values()
DYNAMIC = {m: {0: torch.export.Dim.DYNAMIC} for m in "ab"}


def trained(balancer, data=FULL, **options):
    net = MultimodalNet.build(data, **{**balancer.network, "width": 8, **options})
    return fit(net, data, balancer, epochs=1, device="cpu")


def exported(run, *arguments):
    """The program made from 5 samples, after it has been written and read."""
    file = io.BytesIO()
    module = run.model.inference(run.balancer)
    program = torch.export.export(module, arguments, dynamic_shapes=(DYNAMIC,) * len(arguments))
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@pytest.mark.parametrize("name", DISTINCT)
def test_a_program_predicts_for_batches_of_any_size(name):
    run = trained(MAKERS[name]())
    program = exported(run, FULL.test[:5].inputs)
    for size in (1, 12):
        batch = FULL.test[:size]
        torch.testing.assert_close(program(batch.inputs), run.predict(batch))


@pytest.mark.parametrize("name", ["MLA", "G-Blend, by heads", "ensemble"])
def test_a_program_knows_who_lacks_a_modality_and_refuses_who_lacks_all(name):
    run = trained(MAKERS[name](), LACKING)
    first, batch = LACKING.test[:5], LACKING.test
    program = exported(run, first.inputs, first.present)
    torch.testing.assert_close(program(batch.inputs, batch.present), run.predict(batch))
    if name != "G-Blend, by heads":  # whose joint head reads whatever is there
        nothing = {m: torch.zeros(12, dtype=torch.bool) for m in "ab"}
        with pytest.raises(RuntimeError, match="a sample has no modality at all"):
            program(batch.inputs, nothing)


def test_a_fusion_by_attention_and_nested_inputs_leave_as_well():
    def sequences(split):
        nested = {"values": split.inputs["a"][..., None], "mask": split.inputs["a"] > -1}
        return Batch({"a": nested, "b": split.inputs["b"]}, split.target)

    data = MultimodalData(*map(sequences, FULL.splits.values()))
    encoders = {"a": lambda: FrameMean(torch.nn.Linear(1, 8)), "b": lambda: torch.nn.Linear(6, 8)}
    run = trained(Joint(), data, fusion="attention", encoders=encoders)
    module = run.model.inference(run.balancer)
    some = {0: torch.export.Dim.DYNAMIC}
    shapes = {"a": {"values": some, "mask": some}, "b": some}
    program = torch.export.export(module, (data.test[:5].inputs,), dynamic_shapes=(shapes,))
    torch.testing.assert_close(program.module()(data.test.inputs), run.predict(data.test))


@pytest.mark.parametrize("balancer", [GradientBlending(fuse="heads"), MLA()])
def test_onnx_gives_the_same_numbers(balancer, tmp_path):
    pytest.importorskip("onnxscript")
    reference = pytest.importorskip("onnx.reference")
    run = trained(balancer, LACKING)
    first, batch = LACKING.test[:5], LACKING.test
    torch.onnx.export(
        run.model.inference(balancer),
        kwargs={"inputs": first.inputs, "present": first.present},
        f=str(tmp_path / "net.onnx"),
        dynamic_shapes={"inputs": DYNAMIC, "present": DYNAMIC},
        dynamo=True,
        verbose=False,
    )
    session = reference.ReferenceEvaluator(str(tmp_path / "net.onnx"))
    given = {f"inputs_{m}": x.numpy() for m, x in batch.inputs.items()}
    given |= {f"present_{m}": x.numpy() for m, x in batch.present.items()}
    [found] = session.run(None, {name: given[name] for name in session.input_names})
    torch.testing.assert_close(torch.from_numpy(found), run.predict(batch))
