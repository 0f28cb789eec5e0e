"""Networks: encoders, fusions, and what joins them."""

from mmlab.models.fusion import (
    FUSIONS,
    Attention,
    Concat,
    Cosine,
    FiLM,
    Fusion,
    Gated,
    Late,
    Sum,
)
from mmlab.models.inference import Inference
from mmlab.models.network import LazyLogits, MultimodalNet, Output
from mmlab.models.resnet import ResNet18
from mmlab.models.sequences import FrameMean, SequenceGRU, SequenceTransformer
from mmlab.models.stack import NetworkStack, UnstackableError

__all__ = [
    "FUSIONS",
    "Attention",
    "Concat",
    "Cosine",
    "FiLM",
    "FrameMean",
    "Fusion",
    "Gated",
    "Inference",
    "Late",
    "LazyLogits",
    "MultimodalNet",
    "NetworkStack",
    "Output",
    "ResNet18",
    "SequenceGRU",
    "SequenceTransformer",
    "Sum",
    "UnstackableError",
]
