"""What a reviewer asks of a balancing method, answered by short trainings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmlab.balancers.joint import Uniform
from mmlab.datasets.base import Batch, MultimodalData, Split
from mmlab.datasets.synthetic import synthetic
from mmlab.evaluation.metrics import check_labels, test_accuracy
from mmlab.models.fusion import Concat
from mmlab.models.network import MultimodalNet, for_averaging
from mmlab.nested import changed, is_real
from mmlab.training import Balancer, Joint, Run, fit, train_once
from mmlab.training.arguments import check_balancer
from mmlab.training.progress import no_progress

if TYPE_CHECKING:
    import pandas as pd

Make = Callable[[], Balancer]

SAMPLES = 256
"""Of each split, at most."""

SEEDS = 3
"""Trainings per row of the question after the scale."""

QUIETER = 0.25
"""The factor on an input in that question."""

ROUNDING = 1e-6
"""A distance that counts as none, in float64."""

FINE, LOOK, OPEN = "fine", "look here", "cannot tell"


class Finding(NamedTuple):
    """One row of the table."""

    question: str
    answer: str
    figure: float
    verdict: str


def audit(
    method: Balancer | Make,
    data: MultimodalData | None = None,
    *,
    without: Make | None = None,
    epochs: int = 6,
    seed: int = 0,
) -> pd.DataFrame:
    """Six questions to a method, each answered by a few short trainings.

    - Does the special step do anything? Distance to the method without it.
    - Does the order of the modalities matter? Distance to a training in the reversed order.
    - Does it see the test split? Distance to a training with another test split.
    - Does it read the holdout? The same, with another holdout.
    - Does a prediction depend on its batch? Distance of samples alone to the same ones together.
    - Does the scale of an input change its rank? Largest change of the lead, see below.

    A distance is one of predicted log-probabilities on the holdout, from the same initial weights,
    as a part of the way by which joint training moves them: 1 is as far as joint training goes. The
    lead is the holdout accuracy minus that of joint training, in points, over three seeds; it is
    compared with the lead where one input is multiplied by 0.25.

    "No" means: not one bit for the two splits, and less than 1e-6 of that way elsewhere (in
    float64). The lead is clear where it has one sign in all three seeds. This is a sign to look,
    and no test: of three coins, one throw in four shows one side alone.

    "look here" is no fault in itself. Methods that take turns depend on the order, and
    Gradient-Blending reads the holdout: it is what a paper should tell its readers. "cannot tell":
    the order matters no more than another order of the batches does, as where random numbers are
    drawn in the modalities' order; or the lead over joint training is not clear; or the method
    ends elsewhere each time, with the same data and the same seed.

    What it cannot see: what a method does after these epochs; what it reads past its run, such as
    a file or a data set that its maker holds; how *many* samples a split has, which stays as it is;
    whether a step that does something does what its paper says.

    Args:
        method: a class or anything else that makes a fresh balancer, or a balancer, which is
            copied.
        data: with class labels, of which the first 256 samples of each split are taken. By default
            small synthetic data, where the modality that tells less has the larger inputs.
        without: makes the method without its special step, such as `partial(MLA, "none")`; by
            default it is the nearer one of joint training and the uniform sum.
        epochs: epochs of each training. A method that first acts after them seems to do nothing.
            The other numbers are fixed: SGD, a rate of 0.05, batches of 32.
        seed: sets the initial weights, the random draws and the default data. The lead is measured
            with this seed and the next two.

    Returns:
        A table with the columns question, answer, figure and verdict.

    Raises:
        TypeError: a method that is no Balancer and makes none.
        ValueError: targets that are no class labels.

    >>> from mmlab import OGM
    >>> from mmlab.evaluation import audit
    >>> table = audit(OGM(scope="conv"))  # and the encoders have no convolution
    >>> table.answer[0], table.verdict[0]
    ('no: it is joint training', 'look here')
    """
    import pandas as pd

    make = _maker(method)
    data = _first(_loud(seed) if data is None else data)
    check_labels("audit", data.train.head(1).target)
    with no_progress():
        trial = _Trial(make, data, epochs, seed)
        return pd.DataFrame(
            [
                trial.acts(without),
                trial.order(),
                trial.reads("test", "does it see the test split?"),
                trial.reads("holdout", "does it read the holdout?"),
                trial.mixes(),
                _scale(make, data, epochs, [seed + i for i in range(SEEDS)]),
            ]
        )


class _Trial:
    """Trainings of one method, in float64, and how far apart they end."""

    def __init__(self, make: Make, data: MultimodalData, epochs: int, seed: int) -> None:
        self.make, self.data, self.epochs, self.seed = make, _in_float64(data), epochs, seed
        self.run = self.train(make)
        self.own, self.joint = self.answer(self.run), self.answer(self.train(Joint))
        self.way = (self.joint - self.answer(self.train(Joint, epochs=0))).norm().item()

    def network(self, data: MultimodalData) -> MultimodalNet:
        return MultimodalNet.build(data, **self.make().network, seed=self.seed).double()

    def train(
        self,
        make: Make,
        data: MultimodalData | None = None,
        net: MultimodalNet | None = None,
        **changes: int,
    ) -> Run:
        """From the method's own network, whatever network `make` would ask for."""
        data = self.data if data is None else data
        net = self.network(data) if net is None else net
        options: dict[str, Any] = {"epochs": self.epochs, "seed": self.seed, **OPTIONS, **changes}
        return fit(net, data, make(), **options)

    def answer(self, run: Run, split: Split | None = None) -> Tensor:
        """Log-probabilities (B, C) of a split, by default the holdout."""
        split = _reordered(self.data.holdout if split is None else split, run.model.modalities)
        return for_averaging(run.predict(split), "classification")

    def apart(self, answer: Tensor) -> float:
        return (answer - self.own).norm().item() / self.way

    def acts(self, without: Make | None) -> Finding:
        if without is None:
            plain = {"joint training": self.joint, "uniform": self.answer(self.train(Uniform))}
        else:
            plain = {"the method without it": self.answer(self.train(without))}
        far = {name: self.apart(answer) for name, answer in plain.items()}
        name = min(far, key=far.__getitem__)
        nothing = far[name] < ROUNDING
        return Finding(
            "does the special step do anything?",
            f"no: it is {name}" if nothing else f"yes; nearest is {name}",
            far[name],
            LOOK if nothing else FINE,
        )

    def order(self) -> Finding:
        question = "does the order of the modalities matter?"
        turned = _turned(self.data)
        net = _moved(self.network(self.data), self.network(turned))
        start, same = self.train(Joint, epochs=0), self.train(Joint, turned, net, epochs=0)
        if not torch.allclose(self.answer(start), self.answer(same)):
            return Finding(question, "its fusion reads them in order", float("nan"), OPEN)
        far = self.apart(self.answer(self.train(self.make, turned, net)))
        if far < ROUNDING:
            return Finding(question, "no", far, FINE)
        other = self.apart(self.answer(self.train(self.make, seed=self.seed + 1)))
        answer = f"yes; another order of the batches gives {other:.2f}"
        return Finding(question, answer, far, LOOK if far > other else OPEN)

    def reads(self, name: str, question: str) -> Finding:
        splits = self.data.splits
        other = _with(self.data, splits | {name: _other(splits[name])})
        far = self.apart(self.answer(self.train(self.make, other)))
        if far == 0:
            return Finding(question, "no: with another one it ends at the same bits", far, FINE)
        if self.apart(self.answer(self.train(self.make))) > 0:
            return Finding(
                question, "it ends elsewhere each time, with the same one too", far, OPEN
            )
        return Finding(question, "yes: with another one it ends elsewhere", far, LOOK)

    def mixes(self) -> Finding:
        some = self.data.holdout.head(8)
        alone = torch.cat([self.answer(self.run, one) for one in some.batches(1)])
        far = (alone - self.answer(self.run, some)).norm().item() / self.way
        answer, verdict = ("no", FINE) if far < ROUNDING else ("yes: alone it is another", LOOK)
        return Finding("does a prediction depend on its batch?", answer, far, verdict)


def _scale(make: Make, data: MultimodalData, epochs: int, seeds: Sequence[int]) -> Finding:
    def right(kind: Make, some: MultimodalData, seed: int) -> float:
        run = train_once(kind(), some, seed=seed, epochs=epochs, **OPTIONS)
        return 100 * test_accuracy(run, "holdout")

    quieter = {f"{m} × {QUIETER}": _scaled(data, m) for m in data.modalities if _real(data, m)}
    rows = {"as is": data, **quieter}
    leads = torch.tensor(
        [[right(make, some, s) - right(Joint, some, s) for s in seeds] for some in rows.values()]
    )
    means = dict(zip(rows, leads.mean(-1).tolist(), strict=True))
    sides = ((leads > 0).all(-1).int() - (leads < 0).all(-1).int()).tolist()
    verdict = OPEN if not sides[0] else FINE if len({*sides}) == 1 else LOOK
    return Finding(
        "does the scale of an input change its rank?",
        "lead over joint training: " + ", ".join(f"{x:+.1f} {row}" for row, x in means.items()),
        max(abs(lead - means["as is"]) for lead in means.values()),
        verdict,
    )


# --- the data, and what is changed in them --------------------------------------------------------

OPTIONS: dict[str, Any] = {"lr": 0.05, "batch_size": 32, "device": "cpu"}
"""Of all trainings."""


def _maker(method: Balancer | Make) -> Make:
    if isinstance(method, Balancer):
        return partial(copy.deepcopy, method)
    check_balancer(method() if callable(method) else method)
    return method


def _loud(seed: int) -> MultimodalData:
    """Two modalities; the one that tells less is three times as large."""
    data = synthetic(seed=seed, n=(96, 256, 64), signal={"loud": 1.5, "quiet": 3.0}, dims=8)
    return _scaled(data, "loud", 3.0)


def _changed(data: MultimodalData, change: Callable[[Batch], Batch]) -> MultimodalData:
    """The data with the first samples of every split, changed."""
    return _with(data, {name: change(x.head(SAMPLES)) for name, x in data.splits.items()})


def _with(data: MultimodalData, splits: Mapping[str, Split]) -> MultimodalData:
    train, holdout, test = splits.values()
    return replace(data, train=train, holdout=holdout, test=test, sampler=None)


def _first(data: MultimodalData) -> MultimodalData:
    return _changed(data, lambda batch: batch)


def _in_float64(data: MultimodalData) -> MultimodalData:
    def wide(x: Tensor) -> Tensor:
        return x.double() if x.is_floating_point() else x

    return _changed(
        data,
        lambda batch: replace(batch, inputs={m: changed(wide, x) for m, x in batch.inputs.items()}),
    )


def _real(data: MultimodalData, m: str) -> bool:
    return is_real(data.train.head(1).inputs[m])


def _scaled(data: MultimodalData, m: str, factor: float = QUIETER) -> MultimodalData:
    return _changed(
        data, lambda batch: replace(batch, inputs={**batch.inputs, m: factor * batch.inputs[m]})
    )


def _other(split: Split) -> Batch:
    """Other samples and other labels: half of the samples, twice, under the reversed labels."""
    whole = split.head(SAMPLES)
    batch = whole[torch.arange(len(whole)) // 2]
    return replace(batch, target=whole.target.flip(0))


def _reordered(split: Split, modalities: Sequence[str]) -> Batch:
    batch = split.head(SAMPLES)
    return replace(batch, inputs={m: batch.inputs[m] for m in modalities})


def _turned(data: MultimodalData) -> MultimodalData:
    return _changed(data, lambda batch: _reordered(batch, batch.modalities[::-1]))


def _moved(net: MultimodalNet, other: MultimodalNet) -> MultimodalNet:
    """`other`, of the same modalities in another order, with the weights of `net`."""
    state, shapes = net.state_dict(), {k: x.shape for k, x in other.state_dict().items()}
    if isinstance(net.fusion, Concat):  # its columns are in the order of the modalities
        name, widths = "fusion.linear.weight", net.fusion.widths
        blocks = dict(zip(widths, state[name].split([*widths.values()], dim=-1), strict=True))
        state[name] = torch.cat([blocks[m] for m in other.modalities], dim=-1)
    fitting = {k: x for k, x in state.items() if x.shape == shapes.get(k)}
    other.load_state_dict(fitting, strict=False)  # whether it is the same network is seen later
    return other
