"""Whole models."""

from .autoencoder import AutoEncoder
from .dscnn import DSCNN
from .gpt import GPT
from .mobilenet import MobileNetV1
from .resnet import ResNet, resnet8, resnet20

__all__ = [
    "AutoEncoder",
    "DSCNN",
    "GPT",
    "MobileNetV1",
    "ResNet",
    "resnet20",
    "resnet8",
]
