"""Lightning and Accelerate train as a plain loop does, bit for bit."""

import pytest
import torch
from torch.utils.data import DataLoader

from mmlab import MultimodalNet, Step
from mmlab.balancers import METHODS
from mmlab.datasets.synthetic import synthetic

DATA = synthetic(n=(64, 20, 20), dims=6)


def loader():
    return DataLoader(range(64), 16, collate_fn=lambda i: DATA.train[torch.tensor(i)])


def start(name):
    balancer = METHODS[name].make()
    return balancer, MultimodalNet.build(DATA, **balancer.network, width=8, seed=0)


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)


def loop(name, prepare=lambda optimizer: optimizer):
    balancer, net = start(name)
    optimizer = prepare(sgd(net))
    for batch in loader():
        for _ in balancer.step(Step(net, batch, optimizer)):
            optimizer.step()
            optimizer.zero_grad()
    return net.state_dict()


def by_accelerate(name):
    accelerate = pytest.importorskip("accelerate")
    return loop(name, accelerate.Accelerator(cpu=True).prepare)


def by_lightning(name):
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.balancer, self.net = start(name)

        def configure_optimizers(self):
            return sgd(self.net)

        def training_step(self, batch, _):
            optimizer = self.optimizers()
            for _ in self.balancer.step(Step(self.net, batch, optimizer)):
                optimizer.step()
                optimizer.zero_grad()

    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    module = Module()
    lightning.Trainer(max_epochs=1, accelerator="cpu", devices=1, **quiet).fit(module, loader())
    return module.net.state_dict()


DRAWS = ("OGM-GE", "OPM", "CML")  # from torch's global generator, without a run


@pytest.mark.filterwarnings("ignore:Gradient-Blending estimates:UserWarning")
@pytest.mark.parametrize("name", [name for name in METHODS if name not in DRAWS])
@pytest.mark.parametrize("how", [by_accelerate, by_lightning])
def test_the_loop_of_another_library_trains_as_a_plain_one(name, how):
    plain, found = loop(name), how(name)
    assert plain.keys() == found.keys()
    for key, value in plain.items():
        assert torch.equal(value, found[key]), key
