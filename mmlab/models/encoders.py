"""Small encoders, and those given: one sample of a modality in, a feature vector out.

The small ones normalise with LayerNorm, with GroupNorm or not at all: BatchNorm statistics would
move once more at every extra forward pass that a method makes on the same batch.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from mmlab.checks import check_choice, check_number, kind_of
from mmlab.nested import Nested, changed, is_real, shapes, tensors
from mmlab.seeds import drawing, seeded

HIDDEN = 128


def mlp(shape: tuple[int, ...], width: int) -> nn.Module:
    """Flatten, d - 128 - width, a ReLU after each layer: (B, *shape) -> (B, width)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(math.prod(shape), HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, width),
        nn.ReLU(),
    )


def normalised(shape: tuple[int, ...], width: int) -> nn.Module:
    """`mlp` with a LayerNorm after its first layer, which has no bias: (B, *shape) -> (B, width).

    It undoes any factor on a sample, so that no modality is louder than another.
    """
    size = math.prod(shape)
    first = [nn.Flatten(), nn.Linear(size, HIDDEN, bias=False), nn.LayerNorm(HIDDEN), nn.ReLU()]
    return nn.Sequential(*first, nn.Linear(HIDDEN, width), nn.ReLU())


def cnn(shape: tuple[int, ...], width: int) -> nn.Module:
    """Two convolutions with GroupNorm, averaged over place: (B, *shape) -> (B, width).

    Shapes (C, T) and (T,) get 1-D convolutions over time; (C, H, W) gets 2-D ones, and so does a
    square (H, W), a grey image.
    """
    convolution: type[nn.Conv1d] | type[nn.Conv2d]
    pool: nn.Module
    if len(shape) == 3 or (len(shape) == 2 and shape[0] == shape[1]):
        convolution, pool = nn.Conv2d, nn.AdaptiveAvgPool2d(2)
        channels, places, rank = (shape[0] if len(shape) == 3 else 1), 4, 3
    elif len(shape) in (1, 2):
        convolution, pool = nn.Conv1d, nn.AdaptiveAvgPool1d(4)
        channels, places, rank = (shape[0] if len(shape) == 2 else 1), 4, 2
    else:
        raise ValueError(
            f"no convolution fits samples of shape {shape}; allowed are (T,), (C, T), (H, H) and "
            "(C, H, W). Use encoders='mlp', or give your own encoder for this modality"
        )
    add_channel = [nn.Unflatten(1, (1, shape[0]))] if len(shape) < rank else []
    return nn.Sequential(
        *add_channel,
        convolution(channels, 32, kernel_size=3, padding=1),
        nn.GroupNorm(4, 32),
        nn.ReLU(),
        convolution(32, width, kernel_size=3, padding=1, stride=2),
        nn.GroupNorm(4, width),
        nn.ReLU(),
        pool,
        nn.Flatten(),
        nn.Linear(places * width, width),
        nn.ReLU(),
    )


class Scale(nn.Module):
    """Multiplies its input by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def extra_repr(self) -> str:
        return repr(self.factor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def scaled(
    encoders: Mapping[str, nn.Module], scale: Mapping[str, float] | None, data
) -> dict[str, nn.Module]:
    """The encoders behind a constant factor on their input, where `scale` names one.

    Raises TypeError or ValueError for a factor that is no number above 0, an unknown modality, or
    one whose values are no tensor of real numbers.
    """
    if scale is not None and not isinstance(scale, Mapping):
        raise TypeError(
            f"scale is {scale!r}; give factors of modalities, such as {{{next(iter(encoders))!r}: "
            "0.5}"
        )
    for m, factor in (scale or {}).items():
        check_choice("a name in scale", m, encoders)
        check_number(f"scale[{m!r}]", factor, above=0)
        if not is_real(value := data.train.head(1).inputs[m]):
            raise ValueError(
                f"scale names {m!r}, whose values are {_described(value)}; a factor is for one "
                "tensor of real numbers: leave it out, or scale inside an encoder of your own"
            )
    factors = {m: factor for m, factor in (scale or {}).items() if factor != 1}
    return {
        m: nn.Sequential(Scale(factors[m]), encoder) if m in factors else encoder
        for m, encoder in encoders.items()
    }


def factor_of(encoder: nn.Module) -> float:
    """The constant factor on an encoder's input."""
    first = encoder[0] if isinstance(encoder, nn.Sequential) and len(encoder) else None
    return first.factor if isinstance(first, Scale) else 1.0


BUILDERS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "mlp": mlp,
    "normalised": normalised,
    "cnn": cnn,
}


def _described(value: Nested) -> str:
    """Such as "torch.float32", "a dict of ['ids'] torch.int64, ['mask'] torch.bool"."""
    parts = ", ".join(f"{place} {x.dtype}".strip() for place, x in tensors(value).items())
    return parts if isinstance(value, torch.Tensor) else f"{kind_of(value)} of {parts}"


Encoders = str | Mapping[str, str | nn.Module | Callable[[], nn.Module]]
"""A name for all modalities; or for each a name, a module, or what makes one without arguments."""


def _made(m: str, make: Callable[[], object], seed: int) -> object:
    """What a maker makes; raises TypeError for one that needs arguments, such as nn.Linear."""
    try:
        inspect.signature(make).bind()
    except TypeError as error:
        raise TypeError(
            f"the encoder of {m!r} is {make!r}, which is called without arguments: {error}; write "
            "them, such as lambda: nn.Linear(12, 64)"
        ) from error
    except ValueError:  # code in C does not say what its arguments are
        pass
    return seeded(seed, "encoder", m, build=make)


def make_encoders(encoders: Encoders, data, width: int, seed: int) -> dict[str, nn.Module]:
    """An encoder for each modality of `data`, tried on two samples if it is the caller's own.

    What is made starts from the seed, in a stream for each modality. A module that is given is
    copied. Raises ValueError for an unknown name, or encoders that do not fit the data or the
    width; TypeError for an encoder that is no module.
    """
    if isinstance(encoders, str):
        check_choice("encoders", encoders, BUILDERS)
        encoders = dict.fromkeys(data.modalities, encoders)
    if not isinstance(encoders, Mapping | nn.ModuleDict):
        raise TypeError(
            f"encoders is {kind_of(encoders)}; give a dict with one nn.Module for each of "
            f"{list(data.modalities)}, or one name for all: {', '.join(map(repr, BUILDERS))}"
        )
    if set(encoders) != set(data.modalities):
        raise ValueError(
            f"encoders name {sorted(encoders)}, the data have {sorted(data.modalities)}; "
            "give one encoder for each modality"
        )
    copied: dict[int, Any] = {}  # what two modalities share stays shared
    return {m: _make_encoder(m, encoders[m], data, width, seed, copied) for m in data.modalities}


def _make_encoder(
    m: str, given: object, data, width: int, seed: int, copied: dict[int, Any]
) -> nn.Module:
    if isinstance(given, str):
        check_choice(f"the encoder of {m!r}", given, BUILDERS)
        value = data.train.head(1).inputs[m]
        if not is_real(value):
            raise ValueError(
                f"the encoder {given!r} reads one tensor of real numbers, and the values of {m!r} "
                f"are {_described(value)}; give another one, in a dict with an encoder for each "
                "modality, such as mmlab.models.SequenceGRU for token ids, or use .float() if they "
                "are quantities"
            )
        if data.frames:
            return _of_each_frame(m, given, data, width, seed)
        if not data.shape(m):
            raise ValueError(
                f"the encoder {given!r} reads at least one axis beside the samples, and {m!r} has "
                "one number per sample, (B,); give it as (B, 1): x.unsqueeze(1)"
            )
        return seeded(seed, "encoder", m, build=partial(BUILDERS[given], data.shape(m), width))
    if isinstance(given, nn.Module):
        encoder: object = copy.deepcopy(given, copied)
    else:
        encoder = _made(m, given, seed) if callable(given) else given
    if not isinstance(encoder, nn.Module):
        raise TypeError(
            f"the encoder of {m!r} is {encoder!r}; give an nn.Module for each modality, or what "
            f"makes one, or a name: {', '.join(map(repr, BUILDERS))}"
        )
    _try_encoder(m, encoder, data, width)
    return encoder


class EachFrame(nn.Module):
    """An encoder of one frame for all of them: (B, T, …) -> (B, T, width)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = x.flatten(0, 1) if x.ndim > 2 else x.reshape(-1, 1)
        return self.encoder(frames).unflatten(0, x.shape[:2])


def _of_each_frame(m: str, name: str, data, width: int, seed: int) -> nn.Module:
    """The encoder called `name` of one frame, for each; tried on two samples."""
    shape = data.shape(m)[1:] or (1,)  # a number per frame
    encoder = EachFrame(seeded(seed, "encoder", m, build=partial(BUILDERS[name], shape, width)))
    _try_encoder(m, encoder, data, width)
    return encoder


def _try_encoder(m: str, encoder: nn.Module, data, width: int) -> None:
    """Two samples in, features (2, width) out; and it takes the smallest and largest token ids.

    The encoder itself does not see them. Raises ValueError or TypeError, with the modality's name,
    or what the encoder raises, with a note.
    """
    batch, trial = data.train.head(2), copy.deepcopy(encoder).cpu().eval()
    features = _tried(m, trial, batch.inputs[m])
    if not isinstance(features, torch.Tensor):
        raise TypeError(
            f"the encoder of {m!r} gives {kind_of(features)}; it must give one tensor "
            f"(B, {width}): wrap it in a module that returns the features alone"
        )
    shape, wanted = tuple(features.shape), (*batch.target.shape[: 1 + data.frames], width)
    if shape != wanted:
        more = f", for the labels of {wanted[1]} frames" if data.frames else ""
        raise ValueError(
            f"the encoder of {m!r} turns a batch of {len(batch)} into the shape {shape}; it must "
            f"give ({'B, T' if data.frames else 'B'}, {width}){more}, and width={width}: pass the "
            "width it has"
        )
    for extreme in data.extremes(m):
        _tried(m, trial, extreme.inputs[m])


def _tried(m: str, trial: nn.Module, value: Nested) -> object:
    """What a copy of the encoder of m gives."""
    value = changed(torch.Tensor.cpu, value)
    try:
        with torch.no_grad(), drawing(0, "trial"):
            return trial(value)
    except Exception as error:
        tried = f"{shapes(value)} of {_described(value)}"
        error.add_note(f"The encoder of {m!r} was tried on inputs of the shape {tried}.")
        if isinstance(error, IndexError) and (ranges := _ranges(value)):
            error.add_note(f"{ranges}. An embedding needs a row for each, counted from 0.")
        raise


def _ranges(value: Nested) -> str:
    """Such as "Whole numbers ['ids'] from 0 to 60"; empty where there are none."""
    ends = [
        f"{place} from {x.min()} to {x.max()}".strip()
        for place, x in tensors(value).items()
        if not x.is_floating_point() and x.dtype != torch.bool
    ]
    return f"Whole numbers {', '.join(ends)}" if ends else ""
