"""Models as users would write them: read them as examples, train them as they are."""

from .autoencoder import AutoEncoder
from .dscnn import DSCNN
from .gpt import GPT
from .lenet import LeNet
from .lstm import LSTMLanguageModel
from .mobilenet import MobileNetV1
from .resnet import ResNet, resnet8, resnet20

__all__ = [
    "AutoEncoder",
    "DSCNN",
    "GPT",
    "LSTMLanguageModel",
    "LeNet",
    "MobileNetV1",
    "ResNet",
    "resnet20",
    "resnet8",
]
