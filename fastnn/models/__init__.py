"""Whole models."""

from .gpt import GPT

__all__ = ["GPT"]
