"""Several processes that torchrun starts end where one process ends; what cannot is refused."""

import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import together
import torch
from filelock import FileLock
from together import METHODS, WIDTH, equal_ones
from torch import nn

from mmlab.datasets.parts import Part
from mmlab.training import find_device
from mmlab.training.exchange import Exchange
from mmlab.training.sharing import share_out

HERE = Path(__file__).parent
README = HERE.parents[1] / "mmlab" / "balancers" / "README.md"
TIMEOUT = 900  # seconds, on a busy machine


def environment(**more: str) -> dict[str, str]:
    """Of processes with one thread each, which do not know that pytest has started them."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTEST_CURRENT_TEST"}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Shared by all workers of pytest-xdist, so that what is in it is made by one of them."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "several"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    with FileLock(folder / "alone.lock"):
        if not (folder / "alone.pt").exists():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.save(equal_ones(), folder / "alone.pt")
    return torch.load(folder / "alone.pt")


@pytest.fixture(scope="module", params=[2, 3])
def several(request, folder):
    """What each of N processes has found, and what they have printed."""
    count = request.param
    own = folder / f"{count}"
    with FileLock(folder / f"{count}.lock"):
        if not (own / "said").exists():
            own.mkdir(exist_ok=True)
            said = start(count, own)
            (own / "said").write_text(said, encoding="utf-8")
    found = [torch.load(own / f"{rank}.pt") for rank in range(count)]
    return found, (own / "said").read_text(encoding="utf-8")


def start(count: int, folder: Path) -> str:
    """Let so many processes leave in the folder what they find; what they print."""
    words = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={count}"]
    words += ["--master-port=0", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    done = subprocess.run(
        [*words, HERE / "together.py", folder],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_every_process_ends_where_one_process_ends(alone, several):
    for found in several[0]:
        assert found["equal"].keys() == alone.keys()
        for name, one in alone.items():
            theirs = found["equal"][name]
            tolerance = 2e-6 if "float32" in name or "Transformer" in name else 1e-12
            assert theirs["history"] == one["history"], name
            for key in ("parameters", "values"):
                gap = (theirs[key] - one[key]).abs().nan_to_num() / (1 + one[key].abs())
                assert gap.nan_to_num().max() < tolerance, (name, key)


def test_a_training_goes_on_from_the_file_that_one_process_wrote(alone, several):
    for found in several[0]:
        gap = found["resumed"]["parameters"] - alone["OGM-GE"]["parameters"]
        assert gap.abs().max() < 1e-12
        assert found["resumed"]["history"] == alone["OGM-GE"]["history"]


def test_progress_comes_from_one_process(several):
    assert len(re.findall(r"epoch 1 of 2", several[1])) == 1


def test_seeds_train_one_after_the_other(several):
    assert all(found["seeds"] == {"seeds": [1, 1]} for found in several[0])


REFUSED = {
    "an own loop": "a loop of your own works in one: .* train with fit",
    "a batch of one's own": "",
    "a comparison": "a comparison of methods works in one: .* without torchrun",
    "seeds at once": "share the samples of one network; train the seeds one by one",
    "an own forward pass": "OwnForward has a forward pass of its own, and each of several",
    "DistributedDataParallel": "encoders.a is a DistributedDataParallel, .* give the module in it",
    "BatchNorm": "encoder 'a' has a BatchNorm, .* SyncBatchNorm .* does not run on cpu",
    "a recurrent net's dropout": "encoder 'a' has a Recurrent whose dropout draws for steps before",
    "numbers of its own": "encoder 'a' draws random numbers by aten.rand_like",
    "dropped weights": r"encoder 'a' draws random numbers for \(5, 7\), no row per sample",
    "a hook": "a parameter of encoder 'a' has a hook, .* optimizer.register_step_pre_hook",
    "accumulated dropout": "accumulate=2 and a part that differs in training, .* in encoder 'a'",
    "an observer": "process 1 of . disagrees with process 0 after epoch 1, on the parameters:",
    "own seeds": "process 1 of . disagrees with process 0 before the training, on the parameters",
}


def test_what_cannot_be_shared_out_is_refused_in_words(several):
    assert REFUSED.keys() == together.WRONG.keys()
    for found in several[0]:
        for name, said in found["refused"].items():
            assert re.search(REFUSED[name], said), said


def test_a_batch_for_each_process_is_refused_before_and_after_they_have_met(several):
    for found in several[0]:
        for said in (found["before joining"], found["refused"]["a batch of one's own"]):
            assert re.search(r"one of . processes, .* drift apart; train with fit", said)


# --- how much is sent -----------------------------------------------------------------------------


def table() -> dict[str, tuple[int, int]]:
    """Method -> calls, and kB of 2 processes, of README's table."""
    rows = README.read_text(encoding="utf-8").split("| calls | kB |")[1].split("\n\n")[0]
    found = {}
    for row in rows.splitlines()[2:]:
        names, calls, kilobytes = (cell.strip() for cell in row.strip("|").split("|"))
        found |= dict.fromkeys(names.split(", "), (int(calls), int(kilobytes)))
    return found


def test_a_step_sends_what_the_readme_says(several):
    sent = several[0][0]["sent"]
    if len(several[0]) == 2:
        rounded = {name: (calls, round(size / 1000)) for name, (calls, size) in sent.items()}
        assert rounded == table()
    assert len({str(found["sent"]) for found in several[0]}) == 1


def test_rules_for_two_gradients_send_at_most_half_as_much_again(several):
    sent = several[0][0]["sent"]
    for name, method in METHODS.items():
        _, size = sent[name]
        most = 1.5 if method.kind in ("MMPareto", "Blend") else 1.2
        assert size <= most * sent["uniform"][1], name


# --- a process that dies --------------------------------------------------------------------------

DIES = """
import os, signal, sys, torch
from mmlab import MultimodalNet, fit
from together import data_of
def die(run):
    if run.epoch == 1 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
data = data_of(torch.float32)
fit(MultimodalNet.build(data), data, epochs=3, device="cpu", observers=[die])
"""


def test_a_process_that_is_killed_ends_the_others_with_a_word():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", DIES],
            env=environment(RANK=rank, LOCAL_RANK=rank, PYTHONPATH=path, **shared),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    )
    assert second.wait(TIMEOUT) == -signal.SIGKILL
    _, said = first.communicate(timeout=TIMEOUT)
    assert first.returncode == 1
    assert "process 0 of 2 cannot go on" in said
    assert "another one has ended" in said


# --- without starting any -------------------------------------------------------------------------


def test_each_process_takes_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for key, value in {"WORLD_SIZE": "3", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(key, value)
    assert find_device("auto") == find_device("cuda") == torch.device("cuda:1")
    assert find_device("cuda:0") == torch.device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"device 'cuda:2' is not available"):
        find_device("auto")


def test_batch_norm_on_a_gpu_takes_the_statistics_of_all_parts(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    data = together.data_of(torch.float32)
    normal = nn.Sequential(nn.Linear(5, WIDTH), nn.BatchNorm1d(WIDTH))
    net = together.MultimodalNet.build(data, encoders={"a": normal, "b": "mlp"}, width=WIDTH)
    names = list(net.state_dict())
    share_out(net, torch.device("cuda"))
    assert isinstance(net.encoders["a"][1], nn.SyncBatchNorm)
    assert list(net.state_dict()) == names


def test_statistics_of_a_sample_too_many_are_refused():
    whole = together.data_of(torch.float32).train.head(1)
    exchange = Exchange(Part(whole, 0, 2))  # the second process has none of it
    norm = nn.SyncBatchNorm(5)
    with pytest.raises(ValueError, match=r"'a'.* 1 samples .* 2 processes; use drop_last=True"):
        exchange.gather("a", nn.Sequential(norm), pytest.fail)


def shared_out(part: nn.Module | None = None, hooked: bool = False, **options: int) -> None:
    """Make a network ready that has this part in its first encoder."""
    encoder = nn.Linear(5, WIDTH)
    encoder.add_module("part", part)
    data = together.data_of(torch.float32)
    net = together.MultimodalNet.build(data, encoders={"a": encoder, "b": "mlp"}, width=WIDTH)
    if hooked:
        net.encoders["a"].weight.register_post_accumulate_grad_hook(print)
    share_out(net, torch.device("cpu"), **options)


def test_every_kind_of_hook_and_of_dropout_is_refused():
    with pytest.raises(ValueError, match="a parameter of encoder 'a' has a hook"):
        shared_out(hooked=True)
    with pytest.raises(ValueError, match="encoder 'a' has a MultiheadAttention whose dropout"):
        shared_out(nn.MultiheadAttention(5, 1, dropout=0.1))


def test_what_draws_nothing_and_normalises_by_nothing_is_let_through():
    shared_out(nn.BatchNorm1d(5).eval())
    shared_out(nn.GRU(5, 5, 2, dropout=0.1).eval())
    shared_out(nn.GRU(5, 5, 2))
    shared_out(nn.MultiheadAttention(5, 1, dropout=0.1, batch_first=True))
    shared_out(nn.Dropout(0.5), accumulate=1)
    shared_out(nn.Linear(5, 5), accumulate=4)
