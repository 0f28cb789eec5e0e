"""Every measure of a run, as numbers; and data of which some samples lack a modality."""

import torch

from mmlab import evaluation
from mmlab.datasets import Batch


def lacking(split):
    """The same samples of the modalities a and b, of which some lack one."""
    here = torch.arange(len(split)) % 5
    present = {"a": here != 1, "b": here != 2}
    inputs = {m: x * present[m][:, None] for m, x in split.inputs.items()}
    return Batch(inputs, split.target, present)


def measured(run):
    """Name -> numbers; of a split in memory and of one that is read."""
    net, test = run.model, run.data.test
    valuation = evaluation.modality_valuation(net, test)
    return {
        "losses": [loss.item() for loss in run.losses("train").values()],
        "features": torch.cat([*run.features("train").values()]).flatten().tolist(),
        "prediction": run.predict(test).flatten().tolist(),
        "scores": evaluation.test_scores(run),
        "answered": evaluation.answered_share(run),
        "own head": evaluation.own_head_accuracy(net, test),
        "share": evaluation.share_accuracy(net, test),
        "joint": evaluation.joint_accuracy(net, test),
        "probe": evaluation.probe_accuracy(net, run.data),
        "gap": evaluation.modality_gap(net, test),
        "shapley": evaluation.shapley_shares(net, test),
        "valuation": torch.cat([*valuation.values()]).tolist(),
        "violation": evaluation.violation_share(run, test),
        "patterns": evaluation.accuracy_by_pattern(run, test)["accuracy"].tolist(),
        "output": evaluation.forward(net, test).joint.flatten().tolist(),
    }
