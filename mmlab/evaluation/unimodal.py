"""What a trained network is measured by: accuracies, overfitting, gradient conflict, balance.

Three unimodal accuracies exist, and they are not comparable: `own_head_accuracy` (the modality's
own head), `share_accuracy` (the modality's part of the joint logits) and `probe_accuracy` (a linear
probe on the frozen encoder). Name the one you quote.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmlab import gradients
from mmlab.balancers.base import Step
from mmlab.balancers.losses import Losses, default_loss
from mmlab.datasets.base import Batch, MultimodalData
from mmlab.models.network import MultimodalNet, Output
from mmlab.modes import evaluating

if TYPE_CHECKING:
    import pandas as pd

    from mmlab.training import Run


def accuracy(logits: Tensor, target: Tensor, mask: Tensor | None = None) -> float:
    """Part of the samples whose largest logit is the target, 0 to 1.

    mask: which samples count; NaN where none does. Raises ValueError for real-valued targets.
    """
    if target.is_floating_point():
        raise ValueError(
            f"accuracy needs class labels, and the targets are {target.dtype}; "
            "for regression use regression_metrics or test_scores"
        )
    right = (logits.argmax(-1) == target).float()
    if mask is None:
        return right.mean().item()
    return ((right * mask).sum() / mask.sum()).item()


@torch.no_grad()
def forward(model: MultimodalNet, batch: Batch) -> Output:
    """One pass in evaluation mode, without a graph; the model's mode is put back."""
    with evaluating(model):
        out = model(_to_model(model, batch).inputs)
        dict(out.unimodal)  # computed when read, and the mode is about to change
    return out


def _to_model(model: MultimodalNet, batch: Batch) -> Batch:
    return batch.to(next(model.parameters()).device)


def regression_metrics(prediction: Tensor, target: Tensor) -> dict[str, float]:
    """What sentiment regression is measured by, for scores in [-3, 3]; both tensors (B,) or (B, 1).

    mae: mean absolute error. pearson: Pearson's r (NaN for a constant prediction).
    accuracy 2: same side, negative or not. accuracy 7: same whole number after clipping to [-3, 3].
    """
    from scipy import stats

    prediction, target = (x.detach().cpu().double().reshape(-1) for x in (prediction, target))
    whole = [x.clamp(-3, 3).round() for x in (prediction, target)]
    constant = prediction.std() == 0 or target.std() == 0
    return {
        "mae": (prediction - target).abs().mean().item(),
        "pearson": math.nan if constant else float(stats.pearsonr(prediction, target).statistic),
        "accuracy 2": ((prediction < 0) == (target < 0)).double().mean().item(),
        "accuracy 7": (whole[0] == whole[1]).double().mean().item(),
    }


def test_scores(run: Run, split: str = "test") -> dict[str, float]:
    """The balancer's own prediction: accuracy for labels, `regression_metrics` for real targets."""
    batch = run.split(split)
    if batch.target.is_floating_point():
        return regression_metrics(run.predict(batch), batch.target)
    return {"accuracy": test_accuracy(run, split)}


def test_accuracy(run: Run, split: str = "test") -> float:
    """Accuracy of the balancer's own prediction on a split."""
    batch = run.split(split)
    return accuracy(run.predict(batch), batch.target)


test_accuracy.__test__ = test_scores.__test__ = False  # the names are no tests for pytest


def joint_accuracy(model: MultimodalNet, batch: Batch) -> float:
    """Accuracy of the joint logits."""
    batch = _to_model(model, batch)
    return accuracy(forward(model, batch).joint, batch.target)


def own_head_accuracy(model: MultimodalNet, batch: Batch) -> dict[str, float]:
    """Accuracy of each modality's head. At chance where the method has never trained the heads."""
    batch = _to_model(model, batch)
    unimodal = forward(model, batch).unimodal
    return {m: accuracy(unimodal[m], batch.target, batch.has(m)) for m in model.modalities}


@torch.no_grad()
def share_accuracy(model: MultimodalNet, batch: Batch) -> dict[str, float]:
    """Accuracy of each modality's part of the joint logits (`Output.contributions`)."""
    batch = _to_model(model, batch)
    parts = forward(model, batch).contributions
    return {m: accuracy(parts[m], batch.target, batch.has(m)) for m in model.modalities}


def probe_accuracy(
    model: MultimodalNet, data: MultimodalData, split: str = "test"
) -> dict[str, float]:
    """Accuracy on `split` of a linear probe (multinomial logistic regression, scikit-learn).

    The probe learns on the training features of the frozen encoder, standardised; so it tells what
    the encoder has learnt, whatever the joint head makes of it.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    train, test = data.train, data.splits[split]
    seen, unseen = forward(model, train).features, forward(model, test).features
    scores = {}
    for m in model.modalities:
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
        # one thread: for features this small, several only wait for each other
        with warnings.catch_warnings(), threadpool_limits(limits=1):
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(*_known(seen[m], train, m))
        scores[m] = float(probe.score(*_known(unseen[m], test, m)))
    return scores


def _known(features: Tensor, batch: Batch, m: str):
    """Features and targets, as arrays, of the samples that have modality m."""
    mask = slice(None) if batch.present is None else batch.present[m].cpu()
    return features.cpu()[mask].numpy(), batch.target.cpu()[mask].numpy()


class Curves:
    """Observer: loss of every output, and accuracy for labels, on whole splits after each epoch.

    splits: which ones. Epoch 0 is the untrained network. Reading the test split here is looking,
    not choosing: choose by "holdout".
    """

    only_looks = True

    def __init__(self, splits: tuple[str, ...] = ("train", "holdout")) -> None:
        self.splits = splits

    def __call__(self, run: Run) -> None:
        for split in self.splits:
            batch = run.data.splits[split].to(run.device)
            out = forward(run.model, batch)
            losses = Losses(out, batch, run.loss or default_loss(batch.target), graph=False)
            for output in losses:
                run.record(split, output, "mean loss", losses[output].item())
                if run.data.task == "classification":
                    logits = out.joint if output == "joint" else out.unimodal[output]
                    mask = None if output == "joint" else batch.has(output)
                    run.record(split, output, "accuracy", accuracy(logits, batch.target, mask))


def overfitting(history: pd.DataFrame, start: int = 0) -> pd.DataFrame:
    """Overfitting and generalisation between epoch `start` and every later one, by output.

    history: of a run observed by `Curves` (splits train and holdout). Columns: epoch, output,
    gain (the fall of the held-out loss: positive is good), overfit (the growth of held-out minus
    training loss), ogr = |overfit / gain|. Gradient-Blending (Wang et al. 2020), section 3.1.
    """
    curves = history[history.metric == "mean loss"].pivot_table(
        index=["output", "epoch"], columns="split", values="value"
    )
    missing = {"train", "holdout"} - set(curves.columns)
    if missing:
        raise ValueError(
            f"the history has no curves for {sorted(missing)}; "
            "train with fit(..., observers=[Curves()])"
        )
    first = curves.xs(start, level="epoch")
    later = curves[curves.index.get_level_values("epoch") > start]
    gain = first.holdout - later.holdout
    overfit = (later.holdout - later.train) - (first.holdout - first.train)
    table = later[[]].assign(gain=gain, overfit=overfit, ogr=(overfit / gain).abs())
    return table.reset_index()


class GradientWatch:
    """Observer: after each epoch, norms and cosines of the gradients that meet in each encoder.

    For every encoder, on one fixed batch of training data: the norm of the joint loss's gradient
    ("joint norm"), of its own unimodal loss's ("unimodal norm"), and the cosine between the two.
    """

    only_looks = True

    def __init__(self, size: int = 256) -> None:
        self.size = size

    def __call__(self, run: Run) -> None:
        batch = run.data.train[: self.size].to(run.device)
        for m, row in gradient_conflict(run.model, batch, run.loss).items():
            for metric, value in row.items():
                run.record("train", m, metric, value)


def gradient_conflict(
    model: MultimodalNet, batch: Batch, loss=None
) -> dict[str, Mapping[str, float]]:
    """Norms and cosine of the joint and the unimodal gradient in each encoder; `.grad` is kept.

    Frozen encoders, which have no gradient, are left out.
    """
    s, rows = Step(model, _to_model(model, batch), loss=loss), {}
    with evaluating(model):
        for m in model.modalities:
            if not s.parameters(m):
                continue
            g, u = s.grad(s.losses["joint"], m), s.grad(s.losses[m], m)
            rows[m] = {
                "joint norm": gradients.norm(g).item(),
                "unimodal norm": gradients.norm(u).item(),
                "cosine": gradients.cosine(g, u).item(),
            }
    return rows


def gradient_norms(model: MultimodalNet, batch: Batch) -> dict[str, float]:
    """Norm of the joint loss's gradient in each encoder."""
    return {m: row["joint norm"] for m, row in gradient_conflict(model, batch).items()}


def modality_gap(model: MultimodalNet, batch: Batch) -> float:
    """Mean distance between the modalities' feature centroids, features scaled to unit length.

    The measure of Liang et al. 2022 ("Mind the gap"), averaged over the pairs of modalities.
    """
    features = forward(model, batch).features
    names = list(features)
    if len(names) < 2:
        raise ValueError(f"a gap needs two modalities; the model has {names}")
    centroids = torch.stack(
        [torch.nn.functional.normalize(features[m], dim=-1).mean(0) for m in names]
    )
    return torch.nn.functional.pdist(centroids).mean().item()


@torch.no_grad()
def shapley_shares(model: MultimodalNet, batch: Batch) -> dict[str, float]:
    """Each modality's share of what moves the right class's logit, for or against; they sum to 1.

    The mean absolute contribution to the target's logit, each sample's contributions first centred
    over the classes (a constant added to all logits changes no prediction).
    """
    batch = _to_model(model, batch)
    parts = forward(model, batch).contributions
    index = batch.target.long()[:, None]
    sizes = {
        m: (z - z.mean(-1, keepdim=True)).gather(-1, index).abs().mean() for m, z in parts.items()
    }
    total = sum(sizes.values())
    return {m: (size / total).item() for m, size in sizes.items()}
