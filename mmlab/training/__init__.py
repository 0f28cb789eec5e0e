"""Training: what a balancer is, a step, the one loop, and many seeds as one program."""

from mmlab.training.alone import train_once
from mmlab.training.balancer import Balancer, Joint, Training
from mmlab.training.begin import begin
from mmlab.training.checkpoint import Checkpoint
from mmlab.training.devices import find_device
from mmlab.training.early_stopping import EarlyStopping
from mmlab.training.loop import fit
from mmlab.training.progress import Progress
from mmlab.training.run import Run
from mmlab.training.stacked import fit_seeds
from mmlab.training.step import Step
from mmlab.training.tensorboard import TensorBoard

__all__ = [
    "Balancer",
    "Checkpoint",
    "EarlyStopping",
    "Joint",
    "Progress",
    "Run",
    "Step",
    "TensorBoard",
    "Training",
    "begin",
    "find_device",
    "fit",
    "fit_seeds",
    "train_once",
]
