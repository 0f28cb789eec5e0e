"""Two tasks of unequal difficulty share an encoder: two digits side by side, one of them noisy.

What MMPareto does beyond modalities, beside the plain sum of the losses and each task alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mmlab.balancers.mmpareto import integrate_tasks
from mmlab.checks import check_choice
from mmlab.datasets import Batch, load
from mmlab.datasets.base import in_memory
from mmlab.seeds import generator

TASKS = ("easy", "hard")
RULES = ("sum", "MMPareto", "easy alone", "hard alone")


def side_by_side(split: Batch, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images (B, 8, 16) of two digits, and their labels (2, B): left is easy, right is hard.

    About half of the right digit's pixels are replaced, each by a pixel drawn from all images.
    """
    image, target = split.inputs["image"], split.target
    other = torch.randperm(len(target), generator=draw)
    drawn = image.flatten()[torch.randint(image.numel(), image.shape, generator=draw)]
    kept = torch.rand(image.shape, generator=draw) < 0.5
    noisy = torch.where(kept, image[other], drawn)
    return torch.cat([image, noisy], -1), torch.stack([target, target[other]])


def learn(
    rule: str, *, seed: int, epochs: int, lr: float = 0.01, gamma: float = 1.0
) -> dict[str, float]:
    """Accuracies of both tasks after one training, "easy" and "hard" on the test, and on holdout.

    rule: one of RULES.
    gamma: of MMPareto; the other rules do not read it.

    Raises ValueError for another rule.
    """
    check_choice("a rule", rule, RULES)
    draw = generator(seed, "tasks")
    sets = {
        name: side_by_side(in_memory(split, "tasks"), draw)
        for name, split in load("av-digits", seed=seed).splits.items()
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(128, 64), nn.ReLU())
        heads = nn.ModuleList([nn.Linear(64, 10) for _ in TASKS])
    shared = [*encoder.parameters()]
    optimizer = torch.optim.SGD([*shared, *heads.parameters()], lr=lr, momentum=0.9)
    images, labels = sets["train"]
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=draw).split(64):
            hidden = encoder(images[rows])
            each = zip(heads, labels, strict=True)
            easy, hard = (cross_entropy(head(hidden), y[rows]) for head, y in each)
            optimizer.zero_grad()
            if rule == "MMPareto":
                integrate_tasks((easy, hard), shared, gamma=gamma)
            else:
                {"easy alone": easy, "hard alone": hard}.get(rule, easy + hard).backward()
            optimizer.step()
    found = {}
    for split, prefix in (("test", ""), ("holdout", "holdout ")):
        images, labels = sets[split]
        with torch.no_grad():
            guesses = [head(encoder(images)).argmax(-1) for head in heads]
        for task, guess, y in zip(TASKS, guesses, labels, strict=True):
            found[prefix + task] = (guess == y).double().mean().item()
    return found


def compared(seeds: Iterable[int], *, epochs: int, gamma: float) -> pd.DataFrame:
    """One row per rule and seed: columns method, seed, and what `learn` finds."""
    rows = [
        {"method": rule, "seed": seed, **learn(rule, seed=seed, epochs=epochs, gamma=gamma)}
        for rule in RULES
        for seed in seeds
    ]
    return pd.DataFrame(rows)
