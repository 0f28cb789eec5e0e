"""The one training loop. A balancer fills the gradients; this is where the optimiser steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mmlab.datasets.base import MultimodalData
from mmlab.identity import digest
from mmlab.models.network import MultimodalNet
from mmlab.seeds import AHEAD, Draws, random_state
from mmlab.training import processes
from mmlab.training.arguments import (
    check_arguments,
    check_clip,
    check_observers,
    check_seed,
    check_trainable,
)
from mmlab.training.balancer import Balancer, Joint
from mmlab.training.by_hand import check_not_taken, last_used
from mmlab.training.losses import Loss
from mmlab.training.progress import with_progress
from mmlab.training.run import Course, Observer, Run
from mmlab.training.schedule import MakeSchedule
from mmlab.training.setup import (
    MakeOptimizer,
    left_out,
    make_optimizer,
    own_modules,
    plan,
    prepare,
    trained_parameters,
    warn_of_adaptive,
    warn_of_left_out,
    warn_of_loss,
)
from mmlab.training.sharing import share_out
from mmlab.training.step import Parameters, Recorded, Step
from mmlab.training.updates import forget_scaling, is_waiting


def fit(
    model: MultimodalNet,
    data: MultimodalData,
    balancer: Balancer | None = None,
    *,
    epochs: int,
    optimizer: MakeOptimizer | None = None,
    lr: float | None = None,
    schedule: MakeSchedule | None = None,
    clip: float | None = None,
    batch_size: int = 64,
    accumulate: int = 1,
    drop_last: bool = False,
    device: str | torch.device = "auto",
    precision: str = "float32",
    seed: int = 0,
    loss: Loss | None = None,
    observers: Sequence[Observer] = (),
    compile: bool | str = False,
) -> Run:
    """Train `model` in place on `data.train`.

    In a script that torchrun starts, all its processes train one network, and each ends where one
    process would: a step has `batch_size` samples, which they share out.

    Args:
        model: the network, of the modalities of `data`; it ends as the trained one.
        data: `data.train` is trained on; the holdout is for methods and observers that ask for it.
        balancer: the method; Joint() by default.
        epochs: how often the training sees all samples.
        optimizer: a callable parameters -> torch.optim.Optimizer; default SGD(lr, momentum=0.9).
            One whose first argument is called `named_parameters` gets pairs (name, parameter), with
            names as in `model.named_parameters()`, and "balancer.…" for the method's own modules.
        lr: learning rate of the default optimiser; default 0.01. With your own `optimizer` it has
            no effect, and a warning says so.
        schedule: makes a scheduler of torch from the optimiser, such as
            `lambda optimizer: StepLR(optimizer, 30, 0.1)`, which steps after each epoch. With two
            arguments, `lambda optimizer, steps: ...`, it gets the number of batches of the whole
            training, and steps after each batch. It may be called several times, for copies. The
            history has each epoch's mean rate as "lr".
        clip: the largest norm of a gradient, over all parameters of the optimiser together. Before
            each update a longer one is shrunk to it (torch.nn.utils.clip_grad_norm_).
        batch_size: samples that an encoder sees at once; with accumulate=1, those of a step.
        accumulate: a step sees accumulate · batch_size samples at once, and each encoder batch_size
            of them at a time: it needs the memory of batch_size samples, and more time. For every
            method this is a training with accumulate · batch_size, up to rounding; but BatchNorm in
            an encoder normalises batch_size samples at a time, and dropout draws other masks.
        drop_last: leave out the last batch of an epoch where a step has fewer samples than others.
        device: "auto" takes cuda, then mps, then cpu.
        precision: "float32"; or "bfloat16", in which the encoders compute where that is safe: it
            saves time for big ones on a GPU.
        seed: sets data order, noise and dropout, each its own stream. (Initial weights are set by
            `MultimodalNet.build(seed=...)`.)
        loss: loss(prediction, target) -> one number; by default cross-entropy for classes,
            binary cross-entropy for several labels per sample, L1 for numbers.
        observers: called with the Run before the first epoch and after each. In a terminal or a
            notebook a longer training shows its `Progress` too.
        compile: True, or a backend of torch.compile such as "cudagraphs": compile the encoders.
            Needs a C++ compiler on a CPU, and saves time only in long runs.

    Returns:
        The Run. Its history holds the training loss of every output that the balancer computed, and
        what it logged, as means over the epoch.

    Raises:
        FloatingPointError: a loss or a parameter that is not finite.
        RuntimeError: a step that never yields; one of several processes has ended, or disagrees.
        TypeError, ValueError: arguments of the wrong kind or out of range.
    """
    balancer = Joint() if balancer is None else balancer
    check_arguments(
        model,
        data,
        balancer,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        drop_last=drop_last,
        loss=loss,
    )
    check_clip(clip)
    check_observers(observers)
    check_seed(seed)
    if model.replicas is not None:
        raise TypeError("the model is a stack of networks; fit_seeds makes and trains stacks")
    model.task, model.frames = data.task, data.frames
    processes.join()
    where, modules = prepare(model, device, precision, compile), own_modules(balancer, model, seed)
    if processes.count() > 1:
        share_out(model, where, accumulate)
    parameters = trained_parameters(model, modules, where)
    check_trainable(parameters.values())
    made = make_optimizer(optimizer, lr, parameters)
    warn_of_loss(loss, made)
    warn_of_adaptive(balancer, made)
    run = Run(
        model=model,
        data=data,
        balancer=balancer,
        optimizer=made,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        drop_last=drop_last,
        clip=clip,
        device=where,
        seed=seed,
        train_on=train,
        loss=loss,
        modules=modules,
        observers=with_progress(observers),
    )
    plan(run, schedule)
    with processes.alike():
        run.start()
        train(run)
    return run


def train(run: Course) -> None:
    """Train a run to its last epoch."""
    run.tell("on_start")  # where a checkpoint may go on from a later epoch
    _check_alike(run, "before the training")
    if run.epoch == 0:
        run.observe()
    while not run.over:
        run.next_epoch()
        with run.drawing("dropout", run.epoch):
            logged = _train_epoch(run)
            drawn = [state for _, state in random_state(run.device)]
        run.epoch += 1
        _record(run, logged)
        run.after_epoch()
        check_finite(run)
        run.observe()
        _check_alike(run, f"after epoch {run.epoch}", drawn)
    run.finish()


def _check_alike(run: Course, when: str, drawn: Sequence[Tensor] = ()) -> None:
    """Refuse to go on where processes that train one network do not have one network any more."""
    if processes.count() > 1:
        own = [] if run.modules is None else [*run.modules.state_dict().values()]
        values = {
            "the epoch": (run.epoch, run.stopped),
            "the settings": [(run.seed, run.epochs, run.step_size, run.steps, run.balancer.name)],
            "the random numbers of dropout": digest([*drawn], "drawn"),
            "the parameters": digest([*run.model.state_dict().values(), *own], "network"),
        }
        processes.check_same(when, values)


def _train_epoch(run: Course) -> list[Recorded]:
    """The steps of one epoch; what each computed and logged."""
    epoch, steps = run.epoch, run.steps
    draws = Draws(lambda kind: run.generators(kind, epoch, device=run.device), AHEAD)
    parameters, logged = Parameters(run.model, run.modules), []
    run.optimizer.zero_grad(set_to_none=True)  # from here on, once after every update
    left = left_out(run.optimizer, run.parameters)
    if left and epoch:  # before the first one it was said
        warn_of_left_out(run.optimizer, len(left), sum(p.requires_grad for p in run.parameters))
    for i, batch in enumerate(run.batches()):
        progress = (epoch + min(1.0, i / steps)) / run.epochs
        s = Step(
            run.model,
            batch,
            run.optimizer,
            epoch,
            progress=progress,
            loss=run.loss,
            draws=draws,
            parameters=parameters,
            piece=run.batch_size if run.accumulate > 1 else None,
        )
        with _told_of_a_single_sample(batch.target.shape[len(run.shape)], run):
            _take(run, s, first=i == 0, left=left)
        run.after_batch()
        logged.append(s._recorded())
    return logged


_MORE = "choose a larger batch_size"
_LEFT_OUT = "leave the last batch out with drop_last=True, or choose another batch_size"


@contextlib.contextmanager
def _told_of_a_single_sample(size: int, run: Course) -> Iterator[None]:
    """Say which batch it is where torch's BatchNorm meets one sample."""
    try:
        yield
    except ValueError as error:
        if (size - 1) % run.batch_size or "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "BatchNorm needs two samples or more, and a batch holds 1 "
            f"({run.epoch_size} samples in batches of {run.batch_size}); "
            f"{_MORE if run.batch_size == 1 else _LEFT_OUT}"
        ) from error


def _take(run: Course, s: Step, first: bool, left: Sequence[nn.Parameter]) -> None:
    """One optimiser step at each yield of the balancer.

    first: whether this is the first batch of an epoch; left: parameters that no optimiser holds.
    """
    with last_used(run.optimizer, watch=first and run.epoch == 0) as used:
        updates = run.balancer.step(s)
        yields = 0
        if not isinstance(updates, Iterator):
            updates = ()  # a plain method: it has no `yield` at all
        for _ in updates:
            yields += 1
            if first:
                _check_filled(run)
            check_not_taken(used, run.balancer.name)
            s._merge()
            run.before_update()
            try:
                run.optimizer.step()
            except BaseException:
                forget_scaling(run.optimizer)  # its groups are whole again, for whoever saves it
                raise
            run.optimizer.zero_grad(set_to_none=True)
            for p in left:
                p.grad = None
        if yields == 0:
            raise RuntimeError(
                f"{run.balancer.name}.step never yielded, so nothing would be trained; "
                "fill the gradients, then `yield` once for each optimiser step"
            )
        if first:
            _check_nothing_left(run)


def _check_filled(run: Course) -> None:
    """Refuse a yield before which nothing was differentiated."""
    if all(p.grad is None for p in run.parameters):
        raise RuntimeError(
            f"{run.balancer.name}.step yielded, and no parameter has a gradient, so nothing "
            "would be trained; call s.backward(loss) before the `yield`"
        )


def _check_nothing_left(run: Course) -> None:
    """Refuse what a step does after its last yield: no update would come of it in its batch."""
    if is_waiting(run.optimizer):
        raise RuntimeError(
            f"{run.balancer.name}.step calls scale_update after its last `yield`, and no update "
            "follows that it could scale; call it before a `yield`"
        )
    if any(p.grad is not None for group in run.optimizer.param_groups for p in group["params"]):
        raise RuntimeError(
            f"{run.balancer.name}.step fills gradients after its last `yield`, and they would be "
            "added to those of the next batch; `yield` once more, or leave this out"
        )


def check_finite(run: Course) -> None:
    """Refuse parameters that are not finite, such as by the last update or a loss of one's own."""
    trained = [p for p in run.parameters if p.requires_grad]
    finite = [p.isfinite().reshape(*run.shape, -1).all(-1) for p in trained]
    if not finite:
        return
    lost = (~torch.stack(finite).all(0)).nonzero()
    if len(lost):
        raise FloatingPointError(
            f"parameters{run.whose(lost[0].tolist())} are not finite after epoch {run.epoch} under "
            f"{run.balancer.name}; lower lr"
        )


def _record(run: Course, logged: list[Recorded]) -> None:
    """The epoch's means into the history. Here the CPU waits for the GPU, once per epoch."""
    keys = dict.fromkeys(key for entry in logged for key in entry)
    for metric, output in keys:
        batches = [i for i, entry in enumerate(logged) if (metric, output) in entry]
        entries = [logged[i][metric, output] for i in batches]
        values = torch.stack([torch.as_tensor(v, device=run.device).float() for v, _ in entries])
        if values.shape[1:] not in ((), run.shape):
            raise ValueError(
                f"{metric!r} was logged in the shape {tuple(values.shape[1:])}; give one number, "
                f"or a dict with one per modality: s.log({metric}={{m: ...}})"
            )
        values = values.cpu()
        if metric in ("loss", "objective"):
            what = f"the {output!r} loss" if metric == "loss" else "the loss given to `backward`"
            _check_losses(run, what, values, batches)
        run.record("train", output, metric, _mean(values, [seen for _, seen in entries]))


def _check_losses(run: Course, what: str, values: Tensor, batches: Sequence[int]) -> None:
    """Refuse a loss that is not finite: values (batches, …) of one epoch, of these batches."""
    broken = (~values.isfinite()).nonzero()
    if not len(broken):
        return
    first, *network = broken[0].tolist()
    batch = batches[first]
    untrained = run.epoch == 1 and batch == 0
    remedy = (
        "nothing was trained before it: look at the loss and its weights, for a division by 0 or "
        "the log of 0"
        if untrained
        else "lower lr, or look for a division by 0 or the log of 0 in the loss"
    )
    raise FloatingPointError(
        f"{what}{run.whose(network)} is {values[(first, *network)]} in batch {batch} of epoch "
        f"{run.epoch} under {run.balancer.name}; {remedy}"
    )


def _mean(values: Tensor, seen: Sequence[Tensor | None]) -> Tensor:
    """Mean over the batches in which a loss says something; NaN where none did."""
    if all(one is None for one in seen):
        return values.mean(0)
    there = torch.stack([torch.ones(()).bool() if one is None else one.cpu() for one in seen])
    return torch.where(there, values, 0).sum(0) / there.sum(0)
