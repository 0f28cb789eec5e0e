"""How well two processes share a step of one network, each with one thread.

torchrun starts `main`. In turns the first process takes steps alone, while the other one waits,
and both take the same steps together. The clock on the wall counts, for so does waiting.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import distributed

from mmlab.balancers import METHODS, Balancer
from mmlab.bench.loops import LR, MOMENTUM
from mmlab.bench.networks import GROUPED, NETWORKS, Network
from mmlab.bench.timing import Table, quartiles
from mmlab.datasets.base import in_memory
from mmlab.training import Step
from mmlab.training.exchange import own_part
from mmlab.training.optimizers import SGD
from mmlab.training.processes import alike, count, is_first, join
from mmlab.training.step import Parameters

NETWORK, TIMED = "ResNet-18", ("joint", "MMPareto", "MLA")
CODE = "import sys; from mmlab.bench.processes import main; main(*sys.argv[1:])"
"""What torchrun starts twice."""


def two_over_one(rounds: int, device: torch.device) -> Iterator[tuple[str, Table]]:
    """Efficiency of two processes: 1 where they need half the time of one. Always on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "table.json"
        words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
        words += ["--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        subprocess.run(
            [*words, "--no-python", sys.executable, "-c", CODE, NETWORK, str(rounds), str(result)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
        )
        table = json.loads(result.read_text(encoding="utf-8"))
    yield f"efficiency of two processes over one, {NETWORK}", table


def main(name: str, rounds: str, result: str) -> None:
    """What each of the processes does; the first one writes the table."""
    join()
    torch.set_num_threads(1)
    network, often = (NETWORKS | {NETWORK: GROUPED})[name], int(rounds)
    table = {method: _efficiency(network, METHODS[method].make, often) for method in TIMED}
    if is_first():
        Path(result).write_text(json.dumps(table), encoding="utf-8")


def _efficiency(network: Network, make: Callable[[], Balancer], rounds: int) -> dict[str, float]:
    alone, together = (_steps(network, make(), shared) for shared in (False, True))
    found = []
    for _ in range(rounds + 1):  # the first one warms up
        one = _seconds(alone if is_first() else _wait)
        found.append(one / (count() * _seconds(together)))
    return quartiles(found[1:])


def _steps(network: Network, balancer: Balancer, shared: bool) -> Callable[[], None]:
    """`network.steps` steps of one batch, of which each process has a part or the whole."""
    data = network.data()
    model = network.build(balancer, data)
    batch = in_memory(data.train, "the benchmark")
    own = own_part(batch) if shared else batch
    optimizer, parameters = SGD(model.parameters(), lr=LR, momentum=MOMENTUM), Parameters(model)

    def steps() -> None:
        for _ in range(network.steps):
            with contextlib.nullcontext() if shared else alike():
                s = Step(model, own, optimizer, progress=0.5, parameters=parameters)
            for _ in balancer.step(s):
                s._merge()
                optimizer.step()
                optimizer.zero_grad()

    return steps


def _seconds(call: Callable[[], object]) -> float:
    """From when all processes begin to when the last one has ended."""
    distributed.barrier()
    begin = time.perf_counter()
    call()
    distributed.barrier()
    return time.perf_counter() - begin


def _wait() -> None:
    """Another process is at work."""
