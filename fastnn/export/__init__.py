"""Trained networks as files for other programs."""

from .c99 import c99

__all__ = ["c99"]
