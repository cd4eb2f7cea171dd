"""ONNX files: models for other runtimes, and models from other libraries. Needs the extra `onnx`.

Files are written for opset 17 and IR 8 (ONNX 1.12), which every runtime since 2022 reads.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np

from ...nn.module import Module
from .reader import OnnxModule, parse
from .writer import to_onnx

__all__ = ["OnnxModule", "export_onnx", "load_onnx"]


def _onnx() -> ModuleType:
    try:
        import onnx
    except ImportError:
        raise ImportError("ONNX files need the package onnx: pip install 'fastnn[onnx]'") from None
    return onnx


def export_onnx(model: Module, path, input_shape, batch_size: int | None = None) -> None:
    """Write the model's inference to an ONNX file (opset 17, IR 8); parameters keep their names and layouts.

    input_shape: of one sample, without the batch; a sequence of shapes for a model of several inputs. batch_size:
    the only one that the file takes; None: any. The inputs are named x (x0, x1, …), the outputs y (y0, y1, …, nested
    tuples in a row).
    Raises ValueError where ONNX has no such operation, or the batch size enters the computation itself.
    """
    onnx = _onnx()
    from .._atomic import atomic_write

    several = len(input_shape) > 0 and not isinstance(input_shape[0], (int, np.integer))
    shapes = [tuple(shape) for shape in input_shape] if several else [tuple(input_shape)]
    document = to_onnx(model, shapes, several, batch_size)
    onnx.checker.check_model(document, full_check=True)
    with atomic_write(path) as file:
        file.write(document.SerializeToString())


def load_onnx(path) -> OnnxModule:
    """A module that computes what an ONNX file describes, for any input shape that fits; it can be trained.

    Float initialisers become parameters under their own names, except scalars, which are constants; the running
    statistics of batch normalisation are parameters that are not trained. Dropout is left out.
    Raises ValueError that names the operators that fastnn does not have.
    """
    return OnnxModule(*parse(_onnx().load(path)))
