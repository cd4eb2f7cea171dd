"""Layers, losses and initialisers, with PyTorch's names."""

from ..parameter import Parameter
from . import init
from .activations import (
    ELU,
    GELU,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
    activation,
)
from .conv import Conv1d, Conv2d, ConvTranspose2d
from .embedding import Embedding
from .layers import Dropout, Flatten, Identity, Linear, Sequential
from .losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    Loss,
    MSELoss,
    NLLLoss,
    SmoothL1Loss,
)
from .module import Module
from .quantized import Dequantize, FakeQuantize, FakeQuantizedLinear, Lookup, Quantize, QuantizedLinear

__all__ = [
    "activation",
    "BCEWithLogitsLoss",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dequantize",
    "Dropout",
    "ELU",
    "Embedding",
    "FakeQuantize",
    "FakeQuantizedLinear",
    "Flatten",
    "GELU",
    "Hardswish",
    "HuberLoss",
    "Identity",
    "init",
    "L1Loss",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "Lookup",
    "Loss",
    "Module",
    "MSELoss",
    "NLLLoss",
    "Parameter",
    "Quantize",
    "QuantizedLinear",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "SiLU",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "Tanh",
]
