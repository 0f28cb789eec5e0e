"""Small encoders: one sample of a modality in, a feature vector out.

They normalise with GroupNorm or not at all: BatchNorm statistics would move once more at every
extra forward pass that a method makes on the same batch.
"""

from collections.abc import Callable

from torch import nn

HIDDEN = 128


def mlp(shape: tuple[int, ...], width: int) -> nn.Module:
    """Flatten, d - 128 - width, a ReLU after each layer: (B, *shape) -> (B, width)."""
    size = 1
    for length in shape:
        size *= length
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, width), nn.ReLU()
    )


def cnn(shape: tuple[int, ...], width: int) -> nn.Module:
    """Two convolutions with GroupNorm, averaged over place: (B, *shape) -> (B, width).

    Shapes (C, T) and (T,) get 1-D convolutions over time; (C, H, W) gets 2-D ones, and so does a
    square (H, W), a grey image.
    """
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


BUILDERS: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {"mlp": mlp, "cnn": cnn}
