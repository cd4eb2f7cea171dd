"""A recurrent language model, as before Transformers: embedding, LSTM, linear head."""

from __future__ import annotations

from .. import functional as F  # noqa: N812
from .. import nn
from ..checks import positive
from ..generation import Generator


class LSTMLanguageModel(Generator):
    """Token ids (B, T) → logits of the next token (B, T, vocabulary). Mikolov et al. (2010); Zaremba et al. (2014).

    The state of the LSTM is all that generation keeps of the tokens before, so that no context limits it.
    """

    recurrent = True

    def __init__(self, vocabulary: int, width: int = 128, layers: int = 1, dropout: float = 0.0):
        super().__init__()
        self.vocabulary, self.width = positive("vocabulary", vocabulary), positive("width", width)
        self.layers, self.dropout = positive("layers", layers), dropout
        self.wte = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout)
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(width, vocabulary)

    def forward(self, ids, cache=None):
        """ids (B, T) → logits (B, T, vocabulary); with a cache those of each last token, (B, vocabulary)."""
        x = self.drop(self.wte(ids))
        if cache is not None:
            return self.head(cache.last(cache.recur(self.lstm, x)))
        y, _ = self.lstm(x)
        return self.head(self.drop(F.reshape(y, (*ids.shape, self.width))))
