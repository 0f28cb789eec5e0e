"""The loop of the library and the one written by hand do the same work."""

import torch

from mmlab import load
from mmlab.balancers import Joint
from mmlab.bench.loops import by_hand, train
from mmlab.models import MultimodalNet


def test_both_loops_end_at_the_same_weights(monkeypatch):
    data, built = load("av-digits", seed=0), []
    build = MultimodalNet.build
    monkeypatch.setattr(
        MultimodalNet, "build", lambda *a, **k: built.append(build(*a, **k)) or built[-1]
    )
    by_hand(data, epochs=1)()
    train(Joint(), data, epochs=1)()
    pairs = zip(built[0].parameters(), built[1].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
