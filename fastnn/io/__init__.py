"""Files: tensors in and out of the safetensors format."""

from fastnn.io.safetensors import SafetensorsError, load_file, save_file

__all__ = ["SafetensorsError", "load_file", "save_file"]
