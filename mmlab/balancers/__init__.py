"""Methods that balance modalities: one paper, one file, all driven by the same loop."""

from mmlab.balancers.atf import ATF
from mmlab.balancers.base import Balancer, Step
from mmlab.balancers.gblend import GradientBlending
from mmlab.balancers.joint import Joint, Uniform, Unimodal
from mmlab.balancers.mla import MLA
from mmlab.balancers.mmpareto import MMPareto
from mmlab.balancers.ogm import OGM

__all__ = [
    "ATF",
    "MLA",
    "OGM",
    "Balancer",
    "GradientBlending",
    "Joint",
    "MMPareto",
    "Step",
    "Uniform",
    "Unimodal",
]
