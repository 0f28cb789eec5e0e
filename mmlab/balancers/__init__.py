"""Methods that balance modalities: one paper, one file, all driven by the same loop."""

from mmlab.balancers.base import Balancer, Step
from mmlab.balancers.joint import Joint, Uniform, Unimodal

__all__ = ["Balancer", "Joint", "Step", "Uniform", "Unimodal"]
