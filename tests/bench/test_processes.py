"""Two processes are timed beside one: every method has its row. No time is asserted."""

import torch
from torch import nn

from mmlab.bench import processes
from mmlab.bench.networks import NETWORKS


def test_two_processes_stand_beside_one(tables, monkeypatch):
    monkeypatch.setattr(processes, "NETWORK", "tiny MLPs")
    ((title, table),) = tables("processes").items()
    assert title == "efficiency of two processes over one, tiny MLPs"
    assert list(table) == list(processes.TIMED)


def test_no_encoder_keeps_batch_norm():
    encoder = NETWORKS["ResNet-18"].encoder(3)
    before = sum(isinstance(part, nn.BatchNorm2d) for part in encoder.modules())
    processes._group_norm(encoder)
    after = [part for part in encoder.modules() if isinstance(part, nn.GroupNorm)]
    assert before == len(after) > 0
    assert not any(isinstance(part, nn.BatchNorm2d) for part in encoder.modules())
    assert encoder(torch.zeros(1, 3, 16, 16)).shape == (1, 512)
