"""fastnn: a minimal deep learning engine for the CPU."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import data, functional, metrics, nn, optim
from ._lazy import attributes
from .engine.threads import get_num_threads, set_num_threads
from .errors import DivergenceError
from .history import History
from .rng import manual_seed
from .trainer import Trainer

if TYPE_CHECKING:
    from . import callbacks, export, models, schedules, tune
    from .io.onnx import load_onnx
    from .io.safetensors import SafetensorsError
    from .quantization import quantization_aware, quantize

__version__ = "0.1.0"

__all__ = [
    "DivergenceError", "History", "SafetensorsError", "Trainer", "callbacks", "data", "export", "functional",
    "get_num_threads", "info", "load", "load_onnx", "manual_seed", "metrics", "models", "nn", "optim",
    "quantization_aware", "quantize", "schedules", "set_num_threads", "tune",
]

__getattr__ = attributes(
    globals(),
    {
        "SafetensorsError": ".io.safetensors",
        "callbacks": ".callbacks",
        "export": ".export",
        "load_onnx": ".io.onnx",
        "models": ".models",
        "quantization_aware": ".quantization",
        "quantize": ".quantization",
        "schedules": ".schedules",
        "tune": ".tune",
    },
)


def info() -> dict[str, object]:
    """Versions, the instruction set bound and those that this CPU runs, threads, environment variables."""
    import platform

    import numpy

    from . import config
    from .kernels.cpu import supported_isas
    from .kernels.table import ISA

    return {
        "version": __version__,
        "isa": ISA,
        "supported_isas": supported_isas(),
        "threads": get_num_threads(),
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "machine": platform.machine(),
        "variables": dict(config.VARIABLES),
    }


def load(path) -> nn.Module:
    """The model of a safetensors file, rebuilt from the architecture that `Module.save` wrote into its header.

    Raises ValueError if the file has no description (a model of your own classes): build it, then `.load`; and for
    a checkpoint of Trainer.save.
    """
    from .io.safetensors import read_header
    from .nn.describe import KEY, build

    header = read_header(path)
    if "fastnn.checkpoint" in header.metadata:
        raise ValueError(
            f"{path} holds a training, not a model: go on with it by Trainer.load or fit(resume=...), "
            "and save its model"
        )
    description = header.metadata.get(KEY)
    if description is None:
        raise ValueError(f"{path} holds parameters but no architecture; build the model and call its load()")
    # A description cannot ask for more memory than the file has numbers.
    model = build(description, most=sum(math.prod(tensor.shape) for tensor in header.tensors.values()))
    model.load(path)
    return model
