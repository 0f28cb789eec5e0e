"""What several processes can share out: a network's encoders see a part of each batch.

What would make of a part something else than of the whole is refused in words.
"""

from __future__ import annotations

import torch
from torch import nn

from mmlab.checks import kind_of
from mmlab.models.modes import differs_in_training
from mmlab.models.network import MultimodalNet

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def check_unwrapped(model: nn.Module) -> None:
    """Refuse parts that share samples or gradients out by themselves. Raises ValueError."""
    for name, part in model.named_modules():
        if isinstance(part, WRAPPERS):
            raise ValueError(
                f"{name} is {kind_of(part)}, which would combine gradients by itself, "
                "before the method has read them; give the module in it "
                "(.module), and start the script by torchrun: fit shares the samples out"
            )


def share_out(model: MultimodalNet, device: torch.device, accumulate: int = 1) -> None:
    """Make a network ready for processes whose encoders see a part of each batch.

    BatchNorm becomes torch's SyncBatchNorm, which takes the statistics of all parts.

    Raises ValueError for what would make of a part something else than of the whole.
    """
    if type(model).forward is not MultimodalNet.forward:
        raise ValueError(
            f"{type(model).__name__} has a forward pass of its own, and each of several processes "
            "would make it with its own samples alone; give encoders and a fusion of your own to "
            "MultimodalNet.build, or train in one process"
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    drawing = [m for m, encoder in model.encoders.items() if differs_in_training(encoder)]
    if accumulate > 1 and drawing:
        raise ValueError(
            f"accumulate={accumulate} and a part that differs in training, such as dropout, in "
            f"encoder {drawing[0]!r} do not go together in several processes; take accumulate=1, "
            "without such a part, or one process"
        )
    for m, encoder in model.encoders.items():
        for p in encoder.parameters():
            if p._backward_hooks or p._post_accumulate_grad_hooks:
                raise ValueError(
                    f"a parameter of encoder {m!r} has a hook, which would see the gradient of one "
                    "process's part of the batch; use optimizer.register_step_pre_hook, which sees "
                    "that of the whole batch"
                )
        _check_axes(m, encoder)
        if any(isinstance(part, BATCH_NORM) and part.training for part in encoder.modules()):
            if device.type != "cuda":
                raise ValueError(
                    f"encoder {m!r} has a BatchNorm, and several processes need torch's "
                    f"SyncBatchNorm for it, which does not run on {device.type}, only on GPUs of "
                    "CUDA; take nn.GroupNorm (such as ResNet18(norm='group')), freeze it in "
                    "evaluation mode, or train in one process"
                )
            model.encoders[m] = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)


BATCH_NORM = nn.modules.batchnorm._BatchNorm


def _check_axes(m: str, encoder: nn.Module) -> None:
    """Refuse dropout that does not have the samples in its first axis."""
    for part in encoder.modules():
        if not isinstance(part, nn.RNNBase | nn.MultiheadAttention) or not part.dropout:
            continue
        if part.training and (isinstance(part, nn.RNNBase) or not part.batch_first):
            raise ValueError(
                f"encoder {m!r} has {kind_of(part)} whose dropout draws for steps before "
                "samples, so that a process cannot take the numbers of its own samples; set its "
                "dropout to 0 (a Transformer: or batch_first=True), or train in one process"
            )
