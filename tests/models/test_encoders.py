"""Encoders of sequences and pictures: what is no step changes nothing, and they train."""

import pytest
import torch
from torch import nn

from mmlab import Batch, Joint, MultimodalData, MultimodalNet, fit, fit_seeds
from mmlab.datasets import drop, pad
from mmlab.models import FrameMean, ResNet18, SequenceGRU, SequenceTransformer, UnstackableError
from mmlab.models.sequences import places

LENGTHS = [5, 1, 3]
WIDTH = 8


def embedding():
    return nn.Embedding(20, WIDTH)


SEQUENCES = {
    "GRU": lambda: SequenceGRU(embedding(), WIDTH),
    "Transformer": lambda: SequenceTransformer(embedding(), WIDTH, layers=2, heads=2),
    "frames": lambda: FrameMean(embedding()),
}
each_one = pytest.mark.parametrize("make", SEQUENCES.values(), ids=SEQUENCES)


def ragged():
    return [torch.arange(1, n + 1) for n in LENGTHS]


@each_one
def test_each_sequence_is_read_as_if_it_were_alone(make):
    encoder = make().double().eval()
    together = encoder(pad(ragged(), length=7))
    alone = torch.cat([encoder(x[None]) for x in ragged()])
    torch.testing.assert_close(together, alone)
    assert together.shape == (3, WIDTH)


@each_one
def test_what_stands_where_no_step_is_changes_nothing(make):
    encoder, x = make().eval(), pad([*ragged(), []], length=7)
    other = x["values"].masked_fill(~x["mask"], 13)
    assert torch.equal(encoder(x), encoder({**x, "values": other}))


@each_one
def test_the_order_of_steps_and_every_step_count(make):
    encoder = make().double().eval()
    x = torch.tensor([[3, 4, 5]])
    turned, shorter = encoder(x.flip(1)), encoder(x[:, :2])
    assert not torch.allclose(encoder(x), shorter)
    assert torch.allclose(encoder(x), turned) == isinstance(encoder, FrameMean)


@each_one
def test_a_sample_without_steps_is_finite_and_so_are_its_gradients(make):
    encoder = make()
    x = {"values": torch.zeros(2, 4).long(), "mask": torch.tensor([[True] * 4, [False] * 4])}
    encoder(x).square().sum().backward()
    for mode in (True, False):
        assert encoder.train(mode)(x).isfinite().all()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


def test_a_gru_is_that_of_torch():
    encoder = SequenceGRU(embedding(), WIDTH).double()
    x = ragged()[0][None]
    torch.testing.assert_close(encoder(x), encoder.gru(encoder.embed(x))[1][-1])


def test_a_gru_reads_sequences_that_are_padded_in_front():
    encoder = SequenceGRU(embedding(), WIDTH)
    front = {"values": torch.tensor([[0, 0, 4, 5]]), "mask": torch.tensor([[0, 0, 1, 1]])}
    torch.testing.assert_close(encoder(front), encoder(torch.tensor([[4, 5]])))


def test_the_layers_of_a_transformer_start_unlike():
    layers = SequenceTransformer(embedding(), WIDTH, heads=2).layers
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)


def test_late_places_differ_in_bfloat16_too():
    exact = places(torch.zeros(1, 300, 8))
    assert torch.equal(places(torch.zeros(1, 300, 8).bfloat16()), exact.bfloat16())
    angles = 257 * 10_000 ** (-torch.arange(0, 8, 2, dtype=torch.float64) / 8)
    torch.testing.assert_close(exact[257], torch.cat([angles.sin(), angles.cos()]).float())


def test_the_mean_over_frames_by_hand():
    video = torch.arange(24.0).view(2, 3, 4)
    assert torch.equal(FrameMean(nn.Identity())(video), video.mean(1))
    mask = torch.tensor([[True, False, True], [False, False, False]])
    found = FrameMean(nn.Identity())({"values": video, "mask": mask})
    assert found.tolist() == [[4, 5, 6, 7], [0] * 4]


@pytest.mark.parametrize(
    ("x", "given"), [({"ids": torch.zeros(2, 3)}, r"a dict of \['ids'\]"), ((1, 2), "a tuple")]
)
def test_other_forms_of_a_sequence_are_refused(x, given):
    with pytest.raises(
        ValueError, match=rf"got {given}; give .*'values' and 'mask'.*datasets\.pad"
    ):
        SequenceGRU(embedding(), WIDTH)(x)


# ResNet-18


def test_a_resnet_has_the_parameters_of_the_paper_and_any_width():
    count = sum(p.numel() for p in ResNet18().parameters())
    assert count == 11_176_512  # torchvision's resnet18 without its last layer
    x = torch.randn(2, 1, 20, 31)
    assert ResNet18(channels=1)(x).shape == (2, 512)
    assert ResNet18(channels=1).layers[:-2](x).shape == (2, 512, 1, 1)  # 32 times coarser
    assert ResNet18(7, channels=1)(x).shape == (2, 7)


def test_a_resnet_treats_samples_alone_but_with_batch_normalisation():
    x = torch.randn(4, 3, 32, 32)
    for norm in ("group", "batch"):
        torch.manual_seed(0)
        net = ResNet18(norm=norm)
        same = torch.allclose(net(x)[:2], net(x[:2]), atol=1e-4)
        assert same == (norm == "group")
        assert any(isinstance(m, nn.BatchNorm2d) for m in net.modules()) == (norm == "batch")
    with pytest.raises(ValueError, match="norm"):
        ResNet18(norm="layer")


def test_a_resnet_starts_with_signals_of_one_size():
    features = ResNet18()(torch.randn(4, 3, 64, 64))
    assert 0.1 < features.detach().std() < 10


# In a training


def make_data(missing=0.0):
    def batch(size):
        target = torch.arange(size) % 2
        draw = torch.Generator().manual_seed(size)
        lengths = torch.randint(2, 6, (size,), generator=draw).tolist()
        text = [torch.full((n,), 1 + int(y)) for n, y in zip(lengths, target, strict=True)]
        video = torch.randn(size, 3, 1, 4, 4, generator=draw)
        return drop(Batch({"text": pad(text, length=5), "video": video}, target), missing)

    return MultimodalData(batch(24), batch(10), batch(12))


def frames():
    return FrameMean(nn.Sequential(nn.Flatten(), nn.Linear(16, WIDTH)))


@pytest.mark.parametrize("missing", [0.0, 0.5])
@pytest.mark.parametrize("name", ["GRU", "Transformer"])
def test_they_learn_also_where_samples_lack_a_modality(name, missing):
    data = make_data(missing)
    net = MultimodalNet.build(
        data, encoders={"text": SEQUENCES[name], "video": frames}, width=WIDTH
    )
    run = fit(net, data, epochs=8, lr=0.1, batch_size=8, device="cpu")
    losses = run.history.query("output == 'joint' and metric == 'loss'").value.tolist()
    assert losses[-1] < 0.7 * losses[0]


def test_a_transformer_without_dropout_and_means_of_frames_train_in_one_program():
    def text():
        return SequenceTransformer(embedding(), WIDTH, layers=1, heads=2, dropout=0.0)

    options = {"build": {"encoders": {"text": text, "video": frames}, "width": WIDTH}}
    options |= {"seeds": [0, 1], "epochs": 1, "device": "cpu", "batch_size": 8}
    data = make_data(0.3)
    together = fit_seeds(data, Joint, at_once=True, **options)
    alone = fit_seeds(data, Joint, at_once=False, **options)
    for mine, theirs in zip(together, alone, strict=True):
        for p, q in zip(mine.model.parameters(), theirs.model.parameters(), strict=True):
            torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4)


def test_a_gru_trains_seed_by_seed():
    options = {"build": {"encoders": {"text": SEQUENCES["GRU"], "video": frames}, "width": WIDTH}}
    options |= {"seeds": [0, 1], "epochs": 1, "device": "cpu"}
    with pytest.raises(UnstackableError, match="torch cannot stack a GRU; train the seeds one by"):
        fit_seeds(make_data(), Joint, at_once=True, **options)
    assert [run.together for run in fit_seeds(make_data(), Joint, **options)] == [1, 1]


@pytest.mark.parametrize("name", ["GRU", "Transformer"])
def test_they_leave_by_export_with_any_number_of_samples(name):
    data = make_data()
    net = MultimodalNet.build(
        data, encoders={"text": SEQUENCES[name], "video": frames}, width=WIDTH
    )
    size = {0: torch.export.Dim("B")}
    whole = net.inference()
    dynamic = ({"text": {"values": size, "mask": size}, "video": size},)
    program = torch.export.export(whole, (data.test.inputs,), dynamic_shapes=dynamic)
    torch.testing.assert_close(program.module()(data.train.inputs), whole(data.train.inputs))
