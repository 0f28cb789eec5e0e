"""Every method in a loop of one's own: it ends where `fit` ends; several batches per update."""

import pytest
import torch
from by_hand import batch, data, mlp, network, parameters

from mmlab import LFM, SMV, GradientBlending, Joint, ReconBoost, RefittedHead, Step, fit
from mmlab.balancers import METHODS
from mmlab.training import begin
from mmlab.training.optimizers import unwrapped

MAKERS = {name: method.make for name, method in METHODS.items()} | {
    "G-Blend, often": lambda: GradientBlending(warmup=1, super_epoch=1),
    "LFM, learnt": lambda: LFM(weight="learned"),
    "ReconBoost, pretrained": lambda: ReconBoost(epochs_per_stage=1, pretrain=1),
    "SMV, at once": lambda: SMV(warmup=1),
    "refitted": lambda: RefittedHead(refit_epochs=1),
}
DATA = data()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def trained(net, balancer, optimizer, epochs=3):
    """What the documentation shows."""
    run = begin(net, DATA, balancer, optimizer, epochs=epochs, batch_size=8)
    while run.epoch < run.epochs:
        run.next_epoch()
        for some in run.batches():
            for _ in balancer.step(Step(net, some, optimizer, run.epoch)):
                optimizer.step()
                optimizer.zero_grad()
        run.epoch += 1
    run.finish()
    return run


DRAWS = {
    "OGM-GE": "noise",
    "OPM": "which features are dropped",
    "CML": "the order in which a sample loses its modalities",
}
"""Without the run's draws, as in these loops, they come from torch's global generator."""


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in DRAWS])
def test_a_loop_of_ones_own_ends_where_fit_ends(name):
    balancer = MAKERS[name]()
    net, other = (network(**balancer.network, encoder=mlp) for _ in range(2))
    own = balancer.modules(net)
    run = trained(net, balancer, sgd([*net.parameters(), *(own.parameters() if own else ())]))
    options = {"epochs": 3, "batch_size": 8, "optimizer": sgd, "device": "cpu"}
    by_fit = fit(other, DATA, MAKERS[name](), **options)
    assert parameters(net).keys() == parameters(other).keys()
    for key, value in parameters(net).items():
        assert torch.equal(value, parameters(other)[key]), key
    estimated = by_fit.history.query("split == 'holdout'")
    assert [row for row in run.rows if row[1] == "holdout"] == [*estimated.itertuples(False, None)]
    assert bool(len(estimated)) == name.startswith(("G-Blend", "D&R", "LFM,"))


NEEDS_A_RUN = {
    "D&R": "is joint training",
    "G-Blend": "takes equal ones",
    "LFM, learnt": "stays as it is",
    "PMR": "takes those of each batch",
    "ReconBoost": "does neither",
    "SMV, at once": "is joint training",
    "UMT": "is joint training",
}


@pytest.mark.parametrize("name", NEEDS_A_RUN)
def test_what_needs_a_run_says_so_without_one_and_only_then(name, recwarn):
    balancer = MAKERS[name]()
    net = network(**balancer.network, encoder=mlp)
    trained(net, balancer, sgd(net.parameters()), epochs=4)
    assert not [w for w in recwarn if "own loop" in str(w.message)]
    balancer, net = MAKERS[name](), network(**balancer.network, encoder=mlp)
    with pytest.warns(UserWarning, match=rf"in your own loop.* {NEEDS_A_RUN[name]}\..*begin\(net"):
        next(balancer.step(Step(net, batch(), sgd(net.parameters()), epoch=1)))


REFUSES = {
    "ACE": r"to accumulate batches, give one step all of them \(Step\(\.\.\., piece=64\)",
    "BDO": r"to accumulate batches, give one step all of them \(Step\(\.\.\., piece=64\)",
    "OGM-GE": r"to accumulate batches, give one step all of them \(Step\(\.\.\., piece=64\)",
}


def left(name, clear):
    """The gradients that two batches leave, after each, under the same parameters."""
    balancer, found = METHODS[name].make(), []
    net = network("avt", **balancer.network, encoder=mlp)
    optimizer = sgd(net.parameters())
    torch.manual_seed(0)  # of a method that draws
    for seed in (1, 2):
        for _ in balancer.step(Step(net, batch("avt", seed=seed), optimizer)):
            pass
        found.append({key: p.grad for key, p in net.named_parameters() if p.grad is not None})
        if clear:
            optimizer.zero_grad()
        else:
            found[-1] = {key: grad.clone() for key, grad in found[-1].items()}
    return found


@pytest.mark.filterwarnings("ignore:MLA's shared head:UserWarning")
@pytest.mark.parametrize("name", METHODS)
def test_two_batches_before_an_update_leave_the_sum_or_are_refused(name):
    if name in REFUSES:
        with pytest.raises(RuntimeError, match=REFUSES[name]):
            left(name, clear=False)
        return
    (first, second), (_, both) = left(name, clear=True), left(name, clear=False)
    assert both.keys() == first.keys() == second.keys()
    for key, value in both.items():
        torch.testing.assert_close(value, first[key] + second[key], rtol=1e-9, atol=1e-13)


class Wrapper(torch.optim.Optimizer):
    """What Accelerate makes of an optimiser: it has none of the base's own attributes."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self, closure=None):
        self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


class Lookahead(torch.optim.SGD):
    """An optimiser in its own right, whose attribute `optimizer` is another one."""

    def __init__(self, parameters):
        parameters = list(parameters)
        super().__init__(parameters, lr=0.1)
        self.optimizer = sgd(parameters)


@pytest.mark.parametrize("name", ["ACE", "MLA", "G-Blend"])
def test_a_wrapped_optimiser_is_the_one_inside(name):
    seen = []
    for wrap in (lambda optimizer: optimizer, Wrapper):
        balancer = MAKERS[name]()
        net = network(**balancer.network)
        trained(net, balancer, wrap(sgd(net.parameters())))
        seen.append(parameters(net))
    for key, value in seen[0].items():
        assert torch.equal(value, seen[1][key]), key


def test_an_optimiser_that_holds_another_one_stays_itself():
    both = Lookahead(network().parameters())
    assert unwrapped(both) is both
    assert unwrapped(both.optimizer) is both.optimizer


def test_a_wrapped_network_is_refused():
    wrapped = torch.nn.DataParallel(network())
    with pytest.raises(TypeError, match=r"model is a DataParallel; give the MultimodalNet itself"):
        Step(wrapped, batch())


def test_one_of_several_processes_is_refused(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(RuntimeError, match=r"one of 2 processes, .* drift apart; train with fit"):
        Step(network(), batch())
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    Step(network(), batch())


def test_begin_refuses_what_fit_refuses():
    net = network()
    with pytest.raises(TypeError, match=r"must be a Balancer instance"):
        begin(net, DATA, Joint, sgd(net.parameters()), epochs=1)
    with pytest.raises(ValueError, match=r"batch_size is 0"):
        begin(net, DATA, Joint(), sgd(net.parameters()), epochs=1, batch_size=0)
