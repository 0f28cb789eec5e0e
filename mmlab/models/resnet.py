"""ResNet-18 for pictures and spectrograms (He et al. 2016), with a choice of normalisation."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from mmlab.checks import check_choice

NORMS: dict[str, Callable[[int], nn.Module]] = {
    "group": lambda channels: nn.GroupNorm(32, channels),
    "batch": nn.BatchNorm2d,
}


class ResNet18(nn.Module):
    """(B, channels, H, W) -> (B, width).

    Args:
        width: features. 512 are the network's own; for another width a linear layer follows.
        channels: 3 for coloured pictures, 1 for grey ones and spectrograms.
        norm: "group", 32 groups (Wu and He 2018); or "batch", as in the paper. The statistics of
            BatchNorm mix samples, move once more at every extra pass that a method makes on the
            same batch, and keep seeds from training in one program.

    Raises ValueError for another `norm`.
    """

    def __init__(self, width: int = 512, *, channels: int = 3, norm: str = "group") -> None:
        super().__init__()
        check_choice("norm", norm, NORMS)
        blocks: list[nn.Module] = []
        before = 64
        for after in (64, 128, 256, 512):
            blocks += [Block(before, after, norm), Block(after, after, norm)]
            before = after
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 64, kernel_size=7, stride=2, padding=3, bias=False),
            NORMS[norm](64),
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *([] if width == 512 else [nn.Linear(512, width)]),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Block(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut; more channels come at half the resolution."""

    def __init__(self, before: int, after: int, norm: str) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.body = nn.Sequential(
            nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False),
            NORMS[norm](after),
            nn.ReLU(),
            nn.Conv2d(after, after, kernel_size=3, padding=1, bias=False),
            NORMS[norm](after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if before != after:
            projection = nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, NORMS[norm](after))

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x) + self.shortcut(x)).relu()
