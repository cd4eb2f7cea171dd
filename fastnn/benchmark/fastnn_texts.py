"""fastnn on text: `models.GPT`, a whole epoch inside the engine, and one Python call an iteration."""

from .. import nn, optim
from ..models import GPT
from ..trainer import Trainer
from .peers import Peer


class FastnnTextsFit(Peer):
    """`trainer.fit`."""

    def prepare(self, threads: int) -> None:
        self.threads = threads

    def reset(self) -> None:
        n = self.network
        self.model = GPT(n.vocabulary, n.context, n.layers, n.heads, n.width)
        self.model.load_state_dict(self.parameters)
        loss = nn.CrossEntropyLoss(class_dim=-1)
        self.trainer = Trainer(self.model, loss, optim.AdamW(lr=n.lr), num_threads=self.threads)

    def train(self, epochs: int) -> list[float]:
        history = self.trainer.fit(
            self.X, self.y, epochs=epochs, batch_size=self.network.batch_size, shuffle=False, verbose=0
        )
        return history["loss"]


class FastnnTextsStep(FastnnTextsFit):
    """`trainer.step`."""

    def train(self, epochs: int) -> list[float]:
        step, batches = self.trainer.step, self.batches(self.X, self.y)
        return [sum(step(x, y) for x, y in batches) / len(batches) for _ in range(epochs)]
