"""Text as tokens: the bytes that occur in it, numbered."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator

import numpy as np


class Vocabulary:
    """Numbers 0, 1, … for the bytes that a text has, in their order.

    Any file is a text; a letter outside ASCII is several bytes of UTF-8.
    symbols: the bytes, in any order. Raises ValueError for none.
    """

    KEY = "fastnn.vocabulary"           # in a model file's metadata

    def __init__(self, symbols: Iterable[int]):
        self.symbols = np.unique(np.fromiter(symbols, np.uint8))
        if not self.symbols.size:
            raise ValueError("a vocabulary needs at least one symbol: the text is empty")
        self._numbers = np.full(256, -1, np.int16)
        self._numbers[self.symbols] = np.arange(len(self.symbols))

    @classmethod
    def of(cls, text: np.ndarray) -> Vocabulary:
        """The bytes that a uint8 array has."""
        return cls(np.flatnonzero(np.bincount(text, minlength=256)))

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str | bytes | np.ndarray, name: str = "the text") -> np.ndarray:
        """uint8 ids of a text. ValueError that names the characters that the vocabulary lacks."""
        data = text.encode() if isinstance(text, str) else text
        data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        ids = self._numbers[data]
        if (ids < 0).any():
            if isinstance(text, str):
                unseen = {c for c in text if (self._numbers[list(c.encode())] < 0).any()}
                found = ", ".join(map(repr, sorted(unseen)))
            else:
                found = ", ".join(f"byte {b}" for b in np.unique(data[ids < 0]))
            raise ValueError(f"{name} has {found}, which the model has never seen: it knows {len(self)} bytes")
        return ids.astype(np.uint8)

    def decode(self, ids) -> bytes:
        """The bytes of ids."""
        return self.symbols[np.asarray(ids)].tobytes()

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Text as its ids come; a letter of several bytes comes with its last one."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i in ids:
            yield decoder.decode(self.decode([i]))
        yield decoder.decode(b"", final=True)

    def to_metadata(self) -> dict[str, str]:
        """For `model.save(path, metadata=…)`."""
        return {self.KEY: json.dumps(self.symbols.tolist())}

    @classmethod
    def from_metadata(cls, metadata: dict[str, str]) -> Vocabulary:
        """From `model.metadata`. ValueError where it is absent or malformed."""
        if cls.KEY not in metadata:
            raise ValueError(f"no {cls.KEY!r} in the model's metadata: it was not written by train-text")
        try:
            symbols = json.loads(metadata[cls.KEY])
            ok = isinstance(symbols, list) and all(type(s) is int and 0 <= s < 256 for s in symbols)
        except ValueError:
            ok = False
        if not ok or not symbols:
            raise ValueError(f"{cls.KEY!r} in the model's metadata is no list of bytes")
        return cls(symbols)
