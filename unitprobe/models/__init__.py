"""Load networks with their own preprocessing: timm, torchvision, or any Python callable."""

from unitprobe.models.network import Network, as_network, describe_transform
from unitprobe.models.network_sources import load_model
from unitprobe.models.output_classes import output_indices
from unitprobe.models.transforms import ConvertMode, plain_transform, timm_transform

__all__ = [
    "ConvertMode",
    "Network",
    "as_network",
    "describe_transform",
    "load_model",
    "output_indices",
    "plain_transform",
    "timm_transform",
]
