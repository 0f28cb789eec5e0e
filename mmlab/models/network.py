"""The network of all methods: one encoder per modality, one fusion, and unimodal heads."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from numbers import Integral
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mmlab.checks import check_choice, check_whole, kind_of
from mmlab.models.encoders import Encoders, factor_of, make_encoders, scaled
from mmlab.models.fusion import FUSIONS, Late
from mmlab.models.inference import Inference, JointLogits, Predictor
from mmlab.models.linear import Linear
from mmlab.models.modes import differs_in_training, evaluating
from mmlab.models.pieces import in_pieces
from mmlab.models.rows import Rows, as_rows
from mmlab.nested import Nested, changed, tensors
from mmlab.seeds import drawing, seeded

TASKS = ("classification", "multilabel", "regression")
"""What a network is trained for: one class per sample, several labels, or real numbers."""


class Exchange(Protocol):
    """What several processes share, of which each encodes a part of the samples."""

    @property
    def size(self) -> int:
        """All samples, B."""

    def gather(self, m: str, encoder: nn.Module, encode: Callable[[], Tensor]) -> Tensor:
        """Features (B, …) of all samples, from those that `encode` gives of this process's own."""


class Laziness(NamedTuple):
    """What `MultimodalNet.lazily` tells the forward pass, see there."""

    piece: int | None
    rows: Rows | None
    exchange: Exchange | None


class LazyFeatures(Mapping[str, Tensor]):
    """The features of each modality, computed when they are first read and then kept.

    So a method that reads one modality's loss runs that modality's encoder alone.
    """

    def __init__(
        self,
        network: MultimodalNet,
        inputs: Mapping[str, Nested],
        piece: int | None = None,
        rows: Rows | None = None,
        exchange: Exchange | None = None,
    ) -> None:
        self._network, self._inputs, self._piece, self._rows = network, inputs, piece, rows
        self._exchange = exchange
        self._graph = torch.is_grad_enabled()
        self.computed: dict[str, Tensor] = {}
        self._evaluated: dict[tuple[str, bool], Tensor] = {}
        self.reads: list[tuple[str, str]] = []
        """Which parts have run, in order: "encoder", "head", "heads" or "fusion", and whose."""

    def __getitem__(self, m: str) -> Tensor:
        if m not in self.computed:
            self.reads.append(("encoder", m))
            with torch.set_grad_enabled(self._graph):
                features = self._encoded(m)
                self.computed[m] = as_rows(m, features, self._rows) if self._framed else features
        return self.computed[m]

    @property
    def _framed(self) -> bool:
        """Whether the rows are frames."""
        return self._rows is not None or self._network.frames

    def _encoded(self, m: str, evaluate: bool = False) -> Tensor:
        network, inputs = self._network, self._inputs[m]
        encoder = network.encoders[m]
        encode = functools.partial(self._evaluate if evaluate else network.encoded, m)
        if self._piece is not None:
            encode = functools.partial(
                in_pieces, encode, encoder, size=self._piece, axis=self._axis
            )
        if self._exchange is None:
            return encode(inputs)
        return self._exchange.gather(m, encoder, functools.partial(encode, inputs))

    def _evaluate(self, m: str, x: Nested) -> Tensor:
        with evaluating(self._network.encoders[m]):
            return self._network.encoded(m, x)

    @property
    def _axis(self) -> int:
        """That of the samples."""
        return 0 if self._network.replicas is None else 1

    @property
    def _size(self) -> int:
        """Samples."""
        if self._exchange is not None:
            return self._exchange.size
        first = next(iter(self._inputs.values()))
        return next(iter(tensors(first).values())).shape[self._axis]

    def evaluated(self, m: str, *, of_zeros: bool = False) -> Tensor:
        """The features (B, D) of modality m in evaluation mode, or those of an input of zeros.

        Of zeros the encoder sees one row, whose features serve all samples. Where it has no part
        that differs in training, the features of this pass are those of evaluation mode, too.

        Raises ValueError where a forward pass of one's own may fuse other features.
        """
        network, inputs = self._network, self._inputs[m]
        if type(network).forward is not MultimodalNet.forward:
            raise ValueError(
                f"{type(network).__name__} has a forward pass of its own, so what it gives without "
                "a modality's input is not known; override `encode` or give a fusion instead"
            )
        if not of_zeros and not (self._axis == 0 and differs_in_training(network.encoders[m])):
            return self[m]
        if (m, of_zeros) not in self._evaluated:
            with torch.set_grad_enabled(self._graph):
                if of_zeros:
                    row = changed(lambda x: torch.zeros_like(x.narrow(self._axis, 0, 1)), inputs)
                    found = self._evaluate(m, row)
                else:
                    found = self._encoded(m, evaluate=True)
            self._evaluated[m, of_zeros] = found
        found = self._evaluated[m, of_zeros]
        size = self._size
        if self._framed:
            with torch.set_grad_enabled(self._graph):
                return as_rows(m, found.expand(size, *found.shape[1:]), self._rows)
        return found.expand(*found.shape[:-2], size, -1)

    def __contains__(self, m: object) -> bool:
        return isinstance(m, str) and m in self._network.encoders

    def __iter__(self) -> Iterator[str]:
        return iter(self._network.encoders)

    def __len__(self) -> int:
        return len(self._network.encoders)


class LazyLogits(Mapping[str, Tensor]):
    """The unimodal logits, each computed when it is first read and then kept.

    So a method that has no unimodal loss does not pay for the heads, and MLA's second modality
    meets the shared head as its first one has left it.
    """

    def __init__(self, network: MultimodalNet, features: Mapping[str, Tensor]) -> None:
        self._network, self._features = network, features
        self.known: dict[str, Tensor] = {}
        self._graph = torch.is_grad_enabled()

    def __getitem__(self, m: str) -> Tensor:
        if m not in self.known:
            features = self._features[m]
            _note(self._features, "head", m)
            with torch.set_grad_enabled(self._graph):
                self.known[m] = self._network.head(m)(features)
        return self.known[m]

    def together(self) -> dict[str, Tensor]:
        """All of them; a shared linear head reads all modalities in one call.

        Another module might mix what lies on the axis of modalities, as BatchNorm does; and so
        might a `head` of one's own.
        """
        plain = type(self._network).head is MultimodalNet.head
        if plain and isinstance(self._network.heads, Linear) and not self.known:
            features = list(self._features.values())
            _note(self._features, "heads")
            with torch.set_grad_enabled(self._graph):
                logits = self._network.heads(torch.stack(features, dim=-3))
            self.known = dict(zip(self._features, logits.unbind(-3), strict=True))
        return {m: self[m] for m in self}

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


def _note(features: Mapping[str, Tensor], part: str, m: str = "") -> None:
    if isinstance(features, LazyFeatures):
        features.reads.append((part, m))


class Output:
    """One forward pass.

    features: (B, D) per modality.
    joint:    (B, C) fused logits.
    unimodal: (B, C) per modality, from its own head or from the shared one.

    The network sets the attribute `task`: what the logits mean, one of `TASKS`.

    Where each frame has a label, the rows are frames in place of samples.

    In a stack of R networks every tensor has a leading axis R (`mmlab.models.stack`).
    """

    def __init__(
        self,
        features: Mapping[str, Tensor],
        joint: Tensor | None = None,
        unimodal: Mapping[str, Tensor] | None = None,
        fusion: nn.Module | None = None,
    ) -> None:
        self.features, self.unimodal, self.fusion = features, unimodal or {}, fusion
        self._joint, self._graph = joint, torch.is_grad_enabled()
        self.task = "classification"

    @property
    def fused(self) -> bool:
        """Whether the joint logits have been computed."""
        return self._joint is not None

    @property
    def fuses(self) -> bool:
        """Whether there are joint logits, or can be; not in a second pass that left them out."""
        return self.fused or self.fusion is not None

    def read_again(self, before: LazyFeatures) -> Output:
        """Run the parts that another pass has run, in its order; an Output of these alone."""
        for part, m in before.reads:
            if part == "encoder":
                _ = self.features[m]
            elif part == "head":
                _ = self.unimodal[m]
            elif part == "heads" and isinstance(self.unimodal, LazyLogits):
                self.unimodal.together()
            elif part == "fusion":
                _ = self.joint
        known = self.unimodal.known if isinstance(self.unimodal, LazyLogits) else self.unimodal
        features = {m: self.features[m] for m in before.computed}
        return Output(features, self._joint, {m: z for m, z in known.items() if m in features})

    @property
    def joint(self) -> Tensor:
        if self._joint is None:
            features = dict(self.features)
            _note(self.features, "fusion")
            with torch.set_grad_enabled(self._graph):
                self._joint = self._fused()(features)
        return self._joint

    def without(self, *absent: str) -> Tensor:
        """The joint logits (B, C) if the inputs of these modalities were zeros, with a graph.

        In evaluation mode: dropout or batch statistics would make them differ by more than what is
        absent. Of a dict or tuple every part is zero, as in samples that lack a modality.

        Raises ValueError for the output of a forward pass of one's own.
        """
        features, fusion = self.features, self._fused()
        if not isinstance(features, LazyFeatures):
            raise ValueError(
                "this Output does not know the inputs; take that of a training step (Step.out) of "
                "a network without a forward pass of its own"
            )
        with torch.set_grad_enabled(self._graph), evaluating(fusion):
            return fusion({m: features.evaluated(m, of_zeros=m in absent) for m in features})

    @property
    def contributions(self) -> dict[str, Tensor]:
        """(B, C) per modality: its part of the joint logits; the parts sum to `joint`."""
        split = getattr(self._fused(), "contributions", None)
        if split is None:
            raise ValueError(
                f"{type(self.fusion).__name__} does not say what each modality contributes to the "
                "joint logits; derive it from mmlab.models.Fusion, which does so for any fusion"
            )
        return split(self.features)

    def _fused(self) -> nn.Module:
        if self.fusion is None:
            raise ValueError("this Output was made without its fusion; pass fusion=net.fusion")
        return self.fusion


def for_averaging(logits: Tensor, task: str) -> Tensor:
    """Logits (…, C) as predictions are averaged: log-probabilities of the classes.

    The log-odds of labels are averaged as they are: it is the same, for the mean log-probabilities
    of "yes" and "no" differ by the mean log-odds. So are real numbers, which a single output is.
    """
    classes = task == "classification" and logits.shape[-1] > 1
    return logits.log_softmax(-1) if classes else logits


def joined_masks(present: Mapping[str, Tensor] | None, modalities: Iterable[str]) -> Tensor | None:
    """The masks of some modalities, (…, M, B) in their order; None: all samples have all."""
    if present is None:
        return None
    return torch.stack([present[m] for m in modalities], dim=-2)


def masks_of(out: Output, present: Mapping[str, Tensor] | None) -> Tensor | None:
    """Which modalities a prediction may read, (…, M, B) in the order of `out`; None: all.

    Raises ValueError for a sample that has none.
    """
    names = list(out.unimodal)
    masks = joined_masks(present, names)
    if masks is None:
        return None
    some = masks.any(-2)
    if torch.compiler.is_exporting():  # a program has no samples yet: it looks where it runs
        torch._assert_async(some.all(), "a sample has no modality at all")
        return masks
    lacking = (~some).nonzero()
    if len(lacking):
        raise ValueError(
            f"sample {int(lacking[0, -1])} has no modality at all, so nothing can be predicted for "
            f"it; give at least one of {names}"
        )
    return masks


class MultimodalNet(nn.Module):
    """Encoders, a fusion and unimodal heads.

    encoders: one module per modality, its values -> (B, D), or (B, T, D) where each frame has a
              label; their order is the modality order.
    fusion:   features -> (B, C), see mmlab.models.fusion. A frame is a row to it.
    heads:    one module per modality, or one module that all modalities share (ATF, MLA).

    The attribute `autocast` is the type in which the encoders compute where that is safe
    (`torch.autocast`), such as torch.bfloat16; None for their own. Features, parameters and
    gradients stay float32.

    Raises ValueError if encoders, fusion and heads name different modalities.
    """

    replicas: int | None = None
    """How many networks this is in one (`mmlab.models.stack`): None for an ordinary one."""

    task = "classification"
    """What it is trained for, one of `TASKS`: what its logits mean. `build` and `fit` set it."""

    frames = False
    """Whether each frame of a sample has a label: the rows of an Output are then all B·T frames.

    `build` and `fit` set it.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: nn.Module,
        heads: Mapping[str, nn.Module] | nn.Module,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        self.heads = heads if isinstance(heads, nn.Module) else nn.ModuleDict(heads)
        own = self.heads if isinstance(self.heads, nn.ModuleDict) else self.encoders
        for part, names in (("fusion", getattr(fusion, "widths", self.encoders)), ("heads", own)):
            if set(names) != set(self.encoders):
                raise ValueError(
                    f"{part} has the modalities {sorted(names)}, encoders have "
                    f"{sorted(self.encoders)}; give each part the same modalities"
                )

        self.autocast: torch.dtype | None = None
        self._laziness: Laziness | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.encoders)

    @property
    def scales(self) -> dict[str, float]:
        """The constant factor on each input (`build`'s scale)."""
        return {m: factor_of(encoder) for m, encoder in self.encoders.items()}

    @property
    def plain_forward(self) -> bool:
        """Whether the forward pass is this class's: what encoders give is what is fused."""
        kind, base = type(self), MultimodalNet
        own = kind.forward, kind.encoded, kind.encode
        return own == (base.forward, base.encoded, base.encode)

    @property
    def shared_head(self) -> bool:
        return not isinstance(self.heads, nn.ModuleDict)

    def head(self, m: str) -> nn.Module:
        """The head that reads modality `m`."""
        return self.heads[m] if isinstance(self.heads, nn.ModuleDict) else self.heads

    def encode(self, m: str, x: Nested) -> Tensor:
        """Features (B, D) of modality `m`. Raises KeyError for an unknown modality."""
        if m not in self.encoders:
            raise KeyError(f"unknown modality {m!r}; this network has {list(self.encoders)}")
        return self.encoders[m](x)

    def lazily(
        self,
        inputs: Mapping[str, Nested],
        piece: int | None = None,
        rows: Rows | None = None,
        exchange: Exchange | None = None,
    ) -> Output:
        """A forward pass that leaves each encoder and the fusion to who reads them first.

        For who reads them before the next update, or never, as a training step does.

        piece: how many samples an encoder sees at a time (`mmlab.models.pieces`); None: all.
        rows: where each frame has a label: the frames that are the rows of the Output.
        exchange: where the inputs are a part of the samples: how to come by the features of all.
        """
        if rows is not None and type(self).forward is not MultimodalNet.forward:
            raise ValueError(
                f"{type(self).__name__} has a forward pass of its own, which does not know which "
                "frames have a label; give encoders and a fusion of your own to "
                "MultimodalNet.build, or make each frame a sample"
            )
        attributes = vars(self)  # nn.Module's own way to set one takes microseconds
        attributes["_laziness"] = Laziness(piece, rows, exchange)
        try:
            out = self(inputs)
        finally:
            attributes["_laziness"] = None
        if not isinstance(out, Output):
            raise TypeError(
                f"{type(self).__name__}.forward gives {kind_of(out)}; it must give an "
                "Output(features, joint=..., unimodal=..., fusion=self.fusion)"
            )
        return out

    def __call__(self, *args: Any, **kwargs: Any) -> Output:
        """`forward`, whose Output says what its logits mean."""
        out = super().__call__(*args, **kwargs)
        if isinstance(out, Output):
            out.task = self.task
        return out

    def forward(self, inputs: Mapping[str, Nested]) -> Output:
        """The features, joint and unimodal logits of a batch's inputs.

        Args:
            inputs: name of a modality -> its values, as `Batch.inputs`.

        Raises:
            TypeError: no dict.
            ValueError: other modalities than those of the network.
        """
        if not isinstance(inputs, Mapping):
            raise TypeError(
                f"a network was called with {kind_of(inputs)}; give a dict with the values of each "
                f"modality, {list(self.encoders)}, such as batch.inputs"
            )
        if inputs.keys() != self.encoders.keys():
            raise ValueError(
                f"this network has the modalities {list(self.encoders)}, the inputs are "
                f"{list(inputs)}. For missing modalities fill in zeros and set Batch.present"
            )
        features: Mapping[str, Tensor] = LazyFeatures(self, inputs, *(self._laziness or ()))
        if self._laziness is None:
            features = dict(features)  # computes them all
        out = Output(features, unimodal=LazyLogits(self, features), fusion=self.fusion)
        if self._laziness is None:
            _ = out.joint
        return out

    def encoded(self, m: str, x: Nested) -> Tensor:
        """`encode` under the network's `autocast`."""
        if self.autocast is None:
            return self.encode(m, x)
        device = next(iter(tensors(x).values())).device
        with torch.autocast(device.type, self.autocast):
            return self.encode(m, x).float()

    def with_encoders(self, encoders: nn.ModuleDict) -> MultimodalNet:
        """This network with other encoders, such as a teacher's; all else is shared, not copied."""
        other = copy.copy(self)
        vars(other)["_modules"] = {**self._modules, "encoders": encoders}
        return other

    def inference(self, balancer: Predictor | None = None) -> Inference:
        """A plain module for use: inputs -> the method's predictions (B, C).

        It holds copies in evaluation mode. `torch.export` and ONNX take it.

        Args:
            balancer: the method it was trained with, such as `run.balancer`, which says how to
                predict. None: by the joint logits.

        Raises:
            TypeError: the balancer is none, such as a class; the network is a stack.
        """
        if self.replicas is not None:
            raise TypeError(
                "this is a stack of networks; call inference on the model of one run of fit_seeds"
            )
        balancer = JointLogits() if balancer is None else balancer
        if isinstance(balancer, type) or not callable(getattr(balancer, "fuse", None)):
            raise TypeError(
                f"balancer is {balancer!r}; give the method that the network was trained with, "
                "such as run.balancer (an instance, not a class)"
            )
        return Inference(self, balancer)

    @classmethod
    def build(
        cls,
        data,
        *,
        encoders: Encoders = "mlp",
        fusion: str | nn.Module | MakeFusion = "concat",
        heads: str = "own",
        scale: Mapping[str, float] | None = None,
        width: int = 64,
        seed: int = 0,
    ) -> MultimodalNet:
        """A network that fits `data` (a MultimodalData).

        Args:
            encoders: "mlp", "normalised", "cnn", or for each modality one of these, or a module
                that gives `width` features, or what makes one: a class or a function without
                arguments, called anew at every seed. Of a module the network takes a deep copy,
                which starts alike at every seed; one module given for two modalities is shared by
                them.
            fusion: a key of mmlab.models.FUSIONS; a class or function (widths, n_outputs) -> module
                of your own, called anew at every seed; or a module, of which the network takes a
                deep copy.
            heads: "own" or "shared".
            scale: modality -> a factor on its inputs, which are one tensor of real numbers.
            width: D, the features of each encoder.
            seed: sets the initial weights, a separate stream for each part: an encoder starts the
                same whatever the fusion and the heads are. What the constructor of a subclass adds
                has one, too. The global generator is left alone.

        Raises:
            ValueError: an unknown name; encoders that do not fit the data or the width; a forward
                pass of a subclass that fails on two samples.
            TypeError: a part that is no module, a seed that is no whole number.
        """
        if not isinstance(seed, Integral) or isinstance(seed, bool):
            raise TypeError(f"seed is {seed!r}; give a whole number")
        check_choice("heads", heads, ("own", "shared"))
        check_whole("width", width, least=1)
        parts = scaled(make_encoders(encoders, data, width, seed), scale, data)

        def head() -> nn.Linear:
            return nn.Linear(width, data.n_outputs)

        modules: nn.Module = (
            seeded(seed, "head", build=head)
            if heads == "shared"
            else nn.ModuleDict({m: seeded(seed, "head", m, build=head) for m in parts})
        )

        def fuse() -> nn.Module:
            return make_fusion(fusion, dict.fromkeys(parts, width), data.n_outputs, modules)

        fused = seeded(seed, "fusion", build=fuse)
        net = seeded(seed, "network", build=lambda: cls(parts, fused, modules))
        net.task, net.frames = data.task, data.frames
        if not net.plain_forward:
            made = f"encoders={_spelt(encoders)}, fusion={_spelt(fusion)}, heads={heads!r}"
            _try_forward(net, data.train.head(2).inputs, f"{made}, width={width}")
        return net


def _spelt(part: object) -> str:
    return repr(part) if isinstance(part, str) else "your own"


@torch.no_grad()
def _try_forward(net: MultimodalNet, inputs: Mapping[str, Nested], made: str) -> None:
    """Raise ValueError where a forward pass of one's own does not fit the parts it is given."""
    try:
        with evaluating(net), drawing(0, "trial"):
            net(inputs)
    except Exception as error:
        raise ValueError(
            f"{type(net).__name__}.forward fails on two samples: {error}. Its parts are {made}; "
            "change these arguments of `build` (in compare and fit_seeds: build={...})"
        ) from error


MakeFusion = Callable[[Mapping[str, int], int], nn.Module]
"""(width of each modality, number of outputs) -> a fusion."""


def make_fusion(
    fusion: str | nn.Module | MakeFusion,
    widths: Mapping[str, int],
    n_outputs: int,
    heads: nn.Module,
) -> nn.Module:
    """A fusion by name, by what makes it, or a copy of a given one.

    Raises ValueError for an unknown name, TypeError for what is no module.
    """
    if isinstance(fusion, nn.Module):
        return copy.deepcopy(fusion)
    if not callable(fusion):
        check_choice("fusion", fusion, FUSIONS)
        fusion = functools.partial(Late, heads=heads) if fusion == "late" else FUSIONS[fusion]
    made = fusion(widths, n_outputs)
    if not isinstance(made, nn.Module):
        raise TypeError(
            f"fusion made {kind_of(made)}; give a name of {', '.join(FUSIONS)}, a module, "
            "or what makes one from (widths, n_outputs), such as a subclass of mmlab.models.Fusion"
        )
    return made
