"""Layers, losses and initialisers, with PyTorch's names."""

from typing import TYPE_CHECKING

from .._lazy import attributes
from ..parameter import Buffer, Parameter
from . import init
from .activations import (
    ELU,
    GELU,
    Hardswish,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    ReLU6,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
    activation,
)
from .conv import Conv1d, Conv2d, ConvTranspose2d
from .layers import Dropout, Flatten, Identity, Linear, ModuleList, Sequential
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
from .norm import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, RMSNorm
from .pool import (
    AdaptiveAvgPool2d,
    AvgPool1d,
    AvgPool2d,
    Dropout2d,
    GlobalAvgPool,
    MaxPool1d,
    MaxPool2d,
    Upsample,
    ZeroPad2d,
)

if TYPE_CHECKING:
    from .attention import MultiheadAttention
    from .embedding import Embedding
    from .positional import LearnedPositionalEmbedding, RotaryEmbedding, SinusoidalPositionalEncoding
    from .quantized import Dequantize, FakeQuantize, FakeQuantizedLinear, Lookup, Quantize, QuantizedLinear
    from .quantized_images import FakeQuantizedConv2d, QuantizedConv2d, QuantizedPool2d
    from .recurrent import GRU, LSTM, RNN
    from .transformer import TransformerDecoder, TransformerDecoderLayer, TransformerEncoder, TransformerEncoderLayer

__all__ = [
    "activation",
    "AdaptiveAvgPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "BatchNorm1d",
    "BatchNorm2d",
    "BCEWithLogitsLoss",
    "Buffer",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dequantize",
    "Dropout",
    "Dropout2d",
    "ELU",
    "Embedding",
    "FakeQuantize",
    "FakeQuantizedConv2d",
    "FakeQuantizedLinear",
    "Flatten",
    "GELU",
    "GlobalAvgPool",
    "GroupNorm",
    "GRU",
    "Hardswish",
    "HuberLoss",
    "Identity",
    "init",
    "L1Loss",
    "LayerNorm",
    "LeakyReLU",
    "LearnedPositionalEmbedding",
    "Linear",
    "LogSoftmax",
    "Lookup",
    "Loss",
    "LSTM",
    "MaxPool1d",
    "MaxPool2d",
    "Module",
    "ModuleList",
    "MSELoss",
    "MultiheadAttention",
    "NLLLoss",
    "Parameter",
    "Quantize",
    "QuantizedConv2d",
    "QuantizedLinear",
    "QuantizedPool2d",
    "ReLU",
    "ReLU6",
    "RMSNorm",
    "RNN",
    "RotaryEmbedding",
    "Sequential",
    "Sigmoid",
    "SiLU",
    "SinusoidalPositionalEncoding",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "Tanh",
    "TransformerDecoder",
    "TransformerDecoderLayer",
    "TransformerEncoder",
    "TransformerEncoderLayer",
    "Upsample",
    "ZeroPad2d",
]

# Families that many programs do without.
__getattr__ = attributes(
    globals(),
    {
        "Dequantize": ".quantized",
        "Embedding": ".embedding",
        "FakeQuantize": ".quantized",
        "FakeQuantizedConv2d": ".quantized_images",
        "FakeQuantizedLinear": ".quantized",
        "GRU": ".recurrent",
        "LSTM": ".recurrent",
        "LearnedPositionalEmbedding": ".positional",
        "Lookup": ".quantized",
        "MultiheadAttention": ".attention",
        "Quantize": ".quantized",
        "QuantizedConv2d": ".quantized_images",
        "QuantizedLinear": ".quantized",
        "QuantizedPool2d": ".quantized_images",
        "RNN": ".recurrent",
        "RotaryEmbedding": ".positional",
        "SinusoidalPositionalEncoding": ".positional",
        "TransformerDecoder": ".transformer",
        "TransformerDecoderLayer": ".transformer",
        "TransformerEncoder": ".transformer",
        "TransformerEncoderLayer": ".transformer",
    },
)


def __dir__() -> list[str]:
    return __all__
