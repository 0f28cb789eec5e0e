"""The network of all methods: an encoder a modality, one fusion, and unimodal heads."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from mmlab.models.encoders import Encoders, check_choice, make_encoders
from mmlab.models.fusion import FUSIONS, Fusion, Late
from mmlab.models.linear import Linear
from mmlab.models.stack import UnstackableError, check_weights_are_single, point_at, stack_modules
from mmlab.seeds import seeded


class LazyLogits(Mapping[str, Tensor]):
    """The unimodal logits, each computed when it is first read and then kept.

    So a method that has no unimodal loss does not pay for the heads, and MLA's second modality
    meets the shared head as its first one has left it.
    """

    def __init__(self, network: MultimodalNet, features: Mapping[str, Tensor]) -> None:
        self._network, self._features, self._known = network, features, {}
        self._graph = torch.is_grad_enabled()

    def __getitem__(self, m: str) -> Tensor:
        if m not in self._known:
            with torch.set_grad_enabled(self._graph):
                self._known[m] = self._network.head(m)(self._features[m])
        return self._known[m]

    def together(self) -> dict[str, Tensor]:
        """All of them; a shared linear head reads all modalities in one call.

        Another module might mix what lies on the axis of modalities, as BatchNorm does; and so
        might a `head` of one's own.
        """
        plain = type(self._network).head is MultimodalNet.head
        if plain and isinstance(self._network.heads, Linear) and not self._known:
            with torch.set_grad_enabled(self._graph):
                logits = self._network.heads(torch.stack(list(self._features.values()), dim=-3))
            self._known = dict(zip(self._features, logits.unbind(-3), strict=True))
        return {m: self[m] for m in self}

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


class Output:
    """One forward pass.

    features: (B, D) a modality.
    joint:    (B, C) fused logits.
    unimodal: (B, C) a modality, from its own head or from the shared one.

    In a stack of R networks every tensor has a leading axis R.
    """

    def __init__(
        self,
        features: Mapping[str, Tensor],
        joint: Tensor | None = None,
        unimodal: Mapping[str, Tensor] | None = None,
        fusion: Fusion | None = None,
    ) -> None:
        self.features, self.unimodal, self.fusion = features, unimodal or {}, fusion
        self._joint, self._graph = joint, torch.is_grad_enabled()

    @property
    def joint(self) -> Tensor:
        if self._joint is None:
            with torch.set_grad_enabled(self._graph):
                self._joint = self._fused()(self.features)
        return self._joint

    @property
    def contributions(self) -> dict[str, Tensor]:
        """(B, C) a modality: its part of the joint logits; the parts sum to `joint`."""
        return self._fused().contributions(self.features)

    def _fused(self) -> Fusion:
        if self.fusion is None:
            raise ValueError("this Output was made without its fusion; pass fusion=net.fusion")
        return self.fusion


class MultimodalNet(nn.Module):
    """Encoders, a fusion and unimodal heads.

    encoders: one module a modality, (B, ...) -> (B, D); their order is the modality order.
    fusion:   features -> (B, C), see mmlab.models.fusion.
    heads:    one module a modality, or one module that all modalities share (ATF, MLA).
    replicas: R for R networks in one, as `build(..., replicas=R)` makes them: every parameter has
              a leading axis R, and so have inputs and outputs; None for one ordinary network.
    autocast: the type the encoders compute in where that is safe (`torch.autocast`), such as
              torch.bfloat16; None for theirs. Features, parameters and gradients stay float32.

    Raises ValueError if encoders, fusion and heads name different modalities.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        fusion: Fusion,
        heads: Mapping[str, nn.Module] | nn.Module,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.fusion = fusion
        own = isinstance(heads, Mapping | nn.ModuleDict)
        self.heads = nn.ModuleDict(heads) if own and not isinstance(heads, nn.Module) else heads
        for part, names in (
            ("fusion", getattr(fusion, "widths", self.encoders)),
            ("heads", heads if own else self.encoders),
        ):
            if set(names) != set(self.encoders):
                raise ValueError(
                    f"{part} has the modalities {sorted(names)}, encoders have "
                    f"{sorted(self.encoders)}; give each part the same modalities"
                )

        self.autocast: torch.dtype | None = None
        self._lazy = False
        self._only: Collection[str] | None = None
        self.replicas: int | None = None
        self._one: list[MultimodalNet] = []  # in a list: not a part of the network

    @classmethod
    def stack(cls, networks: Sequence[MultimodalNet]) -> MultimodalNet:
        """R networks of one shape as one, which trains all of them at once; they are copied.

        Raises UnstackableError (a ValueError) for what cannot be stacked: dropout, hooks, weights
        that two modules share, foreign modules with buffers, a fusion or a subclass of one's own.
        """
        first, known = networks[0], {}
        if type(first) is not MultimodalNet:
            raise UnstackableError(
                f"a stack would not do what {type(first).__name__} does beyond a MultimodalNet; "
                "train the seeds one by one"
            )
        check_weights_are_single(first)
        stacked = cls(
            {m: stack_modules([n.encoders[m] for n in networks], known) for m in first.encoders},
            stack_modules([n.fusion for n in networks], known),
            stack_modules([n.heads for n in networks], known),
        )
        stacked.replicas = len(networks)
        stacked._one = [copy.deepcopy(first)]
        return stacked

    def replica(self, index: int) -> MultimodalNet:
        """Network `index` of a stack, as an ordinary one; its parameters are views of the stack's.

        So it follows the training of the stack. Make it anew after moving the stack to a device.
        """
        if self.replicas is None:
            raise ValueError("this is one network, not a stack; build(..., replicas=R) makes one")
        one = copy.deepcopy(self._one[0])
        point_at(one, self, index)
        one.autocast = self.autocast
        return one.train(self.training)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.encoders)

    @property
    def plain_forward(self) -> bool:
        """Whether the forward pass is this class's: what encoders give is what is fused."""
        return type(self).forward is MultimodalNet.forward

    @property
    def shared_head(self) -> bool:
        return not isinstance(self.heads, nn.ModuleDict)

    def head(self, m: str) -> nn.Module:
        """The head that reads modality `m`."""
        return self.heads if self.shared_head else self.heads[m]

    def encode(self, m: str, x: Tensor) -> Tensor:
        """Features (B, D) of modality `m`. Raises KeyError for an unknown modality."""
        if m not in self.encoders:
            raise KeyError(f"unknown modality {m!r}; this network has {list(self.encoders)}")
        return self.encoders[m](x)

    @contextlib.contextmanager
    def restricted(self, modalities: Collection[str] | None) -> Iterator[None]:
        """Let only the encoders of these modalities run; without all there is nothing to fuse.

        None restricts nothing. A forward pass of one's own runs as it is.
        """
        self._only = modalities if self.plain_forward else None
        try:
            yield
        finally:
            self._only = None

    def lazily(self, inputs: Mapping[str, Tensor]) -> Output:
        """A forward pass that leaves the fusion to the first reader of `Output.joint`.

        For who reads it before the next update, or never, as a training step does.
        """
        flags = vars(self)  # nn.Module's own way to set an attribute takes microseconds
        flags["_lazy"] = True
        try:
            out = self(inputs)
        finally:
            flags["_lazy"] = False
        if not isinstance(out, Output):
            raise TypeError(
                f"{type(self).__name__}.forward gives a {type(out).__name__}; it must give an "
                "Output(features, joint=..., unimodal=..., fusion=self.fusion)"
            )
        return out

    def forward(self, inputs: Mapping[str, Tensor]) -> Output:
        encoders = self.encoders
        if inputs.keys() != encoders.keys():
            raise ValueError(
                f"this network has the modalities {list(self.encoders)}, the inputs are "
                f"{list(inputs)}. For missing modalities fill in zeros and set Batch.present"
            )
        chosen = encoders if self._only is None else [m for m in encoders if m in self._only]
        if self.autocast is None:
            features = {m: self.encode(m, inputs[m]) for m in chosen}
        else:
            with torch.autocast(next(iter(inputs.values())).device.type, self.autocast):
                features = {m: self.encode(m, inputs[m]).float() for m in chosen}
        out = Output(features, unimodal=LazyLogits(self, features), fusion=self.fusion)
        if not self._lazy and self._only is None:
            _ = out.joint
        return out

    @classmethod
    def build(
        cls,
        data,
        *,
        encoders: Encoders = "mlp",
        fusion: str = "concat",
        heads: str = "own",
        width: int = 64,
        seed: int | Sequence[int] = 0,
        replicas: int | None = None,
    ) -> MultimodalNet:
        """A network that fits `data` (a MultimodalData).

        encoders: "mlp", "cnn", or for each modality a module that gives `width` features, or what
                  makes one: a class or a function without arguments, called anew at every seed. Of
                  a module the network takes a deep copy, which starts alike at every seed; one
                  module given for two modalities is shared by them.
        fusion:   a key of mmlab.models.FUSIONS.
        heads:    "own" or "shared".
        seed:     sets the initial weights, a separate stream for each part: an encoder starts the
                  same whatever the fusion and the heads are. What the constructor of a subclass
                  adds has one, too. The global generator is left alone.
        replicas: R networks as one, started from the seeds seed, seed + 1, ..., seed + R - 1, or
                  from the R seeds given: each starts as `build(seed=that seed)` does.

        Raises ValueError for an unknown name, or encoders that do not fit the data or the width;
        TypeError for an encoder that is no module.
        """
        several = not isinstance(seed, int)
        if replicas is not None or several:
            seeds = list(seed) if several else [seed + r for r in range(replicas)]
            if not seeds or replicas not in (None, len(seeds)):
                raise ValueError(
                    f"replicas is {replicas} and there are {len(seeds)} seeds; give one seed a "
                    "replica, at least one, or the first seed alone"
                )
            shape = {"encoders": encoders, "fusion": fusion, "heads": heads, "width": width}
            return cls.stack([cls.build(data, **shape, seed=s) for s in seeds])
        check_choice("fusion", fusion, FUSIONS)
        check_choice("heads", heads, ("own", "shared"))
        parts = make_encoders(encoders, data, width, seed)
        linear = lambda: nn.Linear(width, data.n_outputs)  # noqa: E731
        modules: nn.Module = (
            seeded(seed, "head", build=linear)
            if heads == "shared"
            else nn.ModuleDict({m: seeded(seed, "head", m, build=linear) for m in parts})
        )
        widths = dict.fromkeys(parts, width)
        shared = {"heads": modules} if FUSIONS[fusion] is Late else {}
        fuse = lambda: FUSIONS[fusion](widths, data.n_outputs, **shared)  # noqa: E731
        fused = seeded(seed, "fusion", build=fuse)
        return seeded(seed, "network", build=lambda: cls(parts, fused, modules))
