"""The memory that a program states before the run is what the run allocates."""

import tracemalloc

import numpy as np
import pytest

from fastnn import Trainer, nn, optim


@pytest.mark.parametrize("optimizer", [optim.SGD(momentum=0.9), optim.Adam(amsgrad=True, clip_norm=1.0)])
def test_fit_allocates_what_was_planned(optimizer):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((640, 300)).astype(np.float32), rng.integers(0, 10, 640)

    def trainer():
        model = nn.Sequential(nn.Linear(300, 400), nn.GELU(), nn.Linear(400, 200), nn.ReLU(), nn.Linear(200, 10))
        return Trainer(model, nn.CrossEntropyLoss(), optimizer, metrics=["accuracy"])

    trainer().fit(X, y, epochs=1, batch_size=64, verbose=0)             # whatever is imported on the first use
    planned = trainer().program(batch_size=64, input_shape=(300,)).memory["total"]
    fresh = trainer()
    own = sum(p.data.nbytes for p in fresh.model.parameters())
    tracemalloc.start()
    fresh.fit(X, y, epochs=3, batch_size=64, verbose=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The parameters' first home is given back when they move into the arena; the rest is the order of the samples,
    # the learning rates and Python's objects.
    assert planned - own < peak < planned + 200_000, (planned, peak)
