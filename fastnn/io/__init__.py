"""Files: tensors in and out of the safetensors format."""

from typing import TYPE_CHECKING

from fastnn._lazy import attributes

if TYPE_CHECKING:
    from fastnn.io.safetensors import SafetensorsError, load_file, save_file

__all__ = ["SafetensorsError", "load_file", "save_file"]

__getattr__ = attributes(globals(), dict.fromkeys(__all__, ".safetensors"))
