"""Data sets of files go through `compare`, by encoders that are quick."""

from torch import nn

from mmlab import ATF, MLA, OGM, GradientBlending, Joint, MMPareto, compare
from mmlab.models import FrameMean, SequenceGRU

FIVE = (GradientBlending, ATF, OGM, MMPareto, MLA)
WIDTH = 8


def small(channels: int = 1) -> nn.Module:
    """Of a picture, or where there is one channel a spectrogram."""
    unsqueeze = [nn.Unflatten(1, (1, -1))] if channels == 1 else []
    pool = nn.AdaptiveAvgPool2d(4)
    return nn.Sequential(*unsqueeze, pool, nn.Flatten(), nn.Linear(16 * channels, WIDTH))


def spectrograms() -> nn.Module:
    return small()


def pictures() -> nn.Module:
    return small(3)


def videos(channels: int = 3) -> nn.Module:
    pool = nn.AdaptiveAvgPool2d(4)
    return FrameMean(nn.Sequential(pool, nn.Flatten(), nn.Linear(16 * channels, WIDTH)))


def texts() -> nn.Module:
    """Reads token ids through their mask."""
    return SequenceGRU(nn.Embedding(2**15, WIDTH), WIDTH)


def trains(data, encoders, methods=(Joint,)) -> None:
    """Every method has a score, and no error."""
    named = {make.__name__: make for make in methods}
    build = {"encoders": encoders, "width": WIDTH}
    table = compare(named, data, seeds=[0], epochs=1, build=build, batch_size=16, device="cpu")
    assert "error" not in table and len(table) == len(named)
    score = table["accuracy" if data.task == "classification" else "mae"]
    assert score.notna().all()


def groups(split) -> set[str]:
    return {sample.group for sample in split.dataset.samples}


def apart(data) -> bool:
    """Whether no group is in two splits."""
    train, holdout, test = map(groups, data.splits.values())
    return not (train & holdout or train & test or holdout & test)
