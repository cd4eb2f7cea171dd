"""Finding hyperparameters: the learning-rate finder, and `search`, which needs the extra `tune`."""

from .builders import MLP_SPACE, MLPBuilder
from .result import SearchResult
from .search import search

__all__ = ["MLP_SPACE", "MLPBuilder", "SearchResult", "search"]
