"""Two processes are timed beside one: every method has its row. No time is asserted."""

import pytest
import torch
from torch import nn

from mmlab.balancers import METHODS
from mmlab.bench import processes
from mmlab.bench.networks import GROUPED, NETWORKS
from mmlab.training import Step


def test_two_processes_stand_beside_one(tables, monkeypatch):
    monkeypatch.setattr(processes, "NETWORK", "tiny MLPs")
    ((title, table),) = tables("processes").items()
    assert title == "efficiency of two processes over one, tiny MLPs"
    assert list(table) == list(processes.TIMED)


def test_no_encoder_has_batch_norm():
    encoder = GROUPED.encoder(3)
    kinds = [type(part) for part in encoder.modules()]
    assert nn.BatchNorm2d not in kinds and kinds.count(nn.GroupNorm) == 17
    assert encoder(torch.zeros(1, 3, 16, 16)).shape == (1, 512)


@pytest.mark.parametrize("method", processes.TIMED)
def test_what_is_timed_tells_the_other_process_its_gradients(monkeypatch, method):
    merged, network = [], NETWORKS["tiny MLPs"]
    monkeypatch.setattr(processes, "own_part", lambda batch: batch)
    monkeypatch.setattr(Step, "_merge", lambda step: merged.append(step))
    processes._steps(network, METHODS[method].make(), shared=True)()
    assert len(merged) >= network.steps
