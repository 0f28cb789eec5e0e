"""What a method asks of its run, for a training loop of one's own."""

from __future__ import annotations

from torch.optim import Optimizer

from mmlab.datasets.base import MultimodalData
from mmlab.models.network import MultimodalNet
from mmlab.training.arguments import check_arguments
from mmlab.training.balancer import Balancer
from mmlab.training.loop import train
from mmlab.training.losses import Loss
from mmlab.training.optimizers import unwrapped
from mmlab.training.processes import check_one_process
from mmlab.training.run import Run


def begin(
    model: MultimodalNet,
    data: MultimodalData,
    balancer: Balancer,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch_size: int = 64,
    seed: int = 0,
    loss: Loss | None = None,
) -> Run:
    """A Run for a loop of your own: the method has begun, and nothing is trained.

    For methods that do more than `step`, such as Gradient-Blending, which trains copies of the
    network between epochs. Call `run.next_epoch()` before each epoch, add 1 to `run.epoch` after
    it, and call `run.finish()` at the end. `run.batches()` gives the batches that `fit` would take.

    Args:
        data: what the method may look at: its training and its holdout split.
        optimizer: the one that you step; a method may train copies of it.
        epochs: number of epochs of the loop.
        batch_size: samples of a batch.
        seed: sets data order, noise and dropout, each its own stream.
        loss: loss(prediction, target) -> one number, as in `fit`.

    Raises:
        RuntimeError: it is one of several processes.
        TypeError, ValueError: arguments of the wrong kind or out of range.
    """
    check_one_process("a loop of your own", "train with fit, which shares the samples out")
    check_arguments(
        model,
        data,
        balancer,
        epochs=epochs,
        batch_size=batch_size,
        accumulate=1,
        drop_last=False,
        loss=loss,
    )
    model.task, model.frames = data.task, data.frames
    run = Run(
        model=model,
        data=data,
        balancer=balancer,
        optimizer=unwrapped(optimizer),
        epochs=epochs,
        batch_size=batch_size,
        device=next(model.parameters()).device,
        seed=seed,
        train_on=train,
        loss=loss,
    )
    run.start()
    return run
