"""A training in a process of its own, to be killed; run by test_checkpoint."""

import torch
from trained import trained

from mmlab.balancers import ATF
from mmlab.training import Checkpoint


def long(epochs, *observers):
    torch.set_num_threads(1)
    return trained(ATF(update="bdo"), epochs=epochs, observers=observers)


def goes_on(path, epochs):
    long(epochs, Checkpoint(path))
