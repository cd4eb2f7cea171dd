"""Checkpoints: an interrupted and resumed training is the uninterrupted one, bit for bit, wherever it was cut."""

import json
import time

import numpy as np
import pytest
from small_network import LABELS, X, same

import fastnn
from fastnn import Trainer, callbacks, nn, optim, schedules
from fastnn.io import checkpoint
from fastnn.io.safetensors import load_with_metadata, read_header, save_file

ITERATIONS = 5                  # of an epoch of 77 samples in batches of 16


def trainer(optimizer=None, seed=3, init=0, metrics=("accuracy",)):
    fastnn.manual_seed(init)
    model = nn.Sequential(nn.Linear(6, 9), nn.Dropout(0.3), nn.Tanh(), nn.Linear(9, 3))
    return Trainer(model, nn.CrossEntropyLoss(), optimizer or optim.Adam(lr=0.02), metrics=metrics, seed=seed)


def fit(one, epochs=4, **arguments):
    arguments = {"batch_size": 16, "validation_split": 0.1, "verbose": 0, **arguments}
    return one.fit(X, LABELS, epochs=epochs, **arguments)


def everything(one, history):
    values = {k: v for k, v in history.history.items() if k != "samples_per_second"}
    slots = {name: data.copy() for name, data in one._memory.slots.items()}
    return values, one.model.state_dict(), slots, (one.epoch, one.iteration, one.seed)


def assert_equal(a, b):
    assert a[0] == b[0] and a[3] == b[3]
    assert same(a[1], b[1]) and same(a[2], b[2])


class Stop(callbacks.Callback):
    """Stops after so many iterations of the training, or throws."""

    every = 1

    def __init__(self, iteration, error=None):
        self.iteration, self.error = iteration, error

    def on_batch_end(self, iteration, logs):
        if self.trainer.iteration == self.iteration:
            self.trainer.stop_training = True
            if self.error is not None:
                raise self.error


OPTIMIZERS = [
    optim.SGD(lr=0.1, momentum=0.9), optim.RMSprop(centered=True, momentum=0.5), optim.Adagrad(lr_decay=0.1),
    optim.Adam(lr=0.02, amsgrad=True), optim.AdamW(lr=0.02),
]


@pytest.mark.parametrize("cut", [1, 4, 5, 6, 13, 19])
def test_resumed_in_the_middle_of_an_epoch(tmp_path, cut):
    path = tmp_path / "c.safetensors"
    whole = trainer()
    expected = everything(whole, fit(whole, schedule=schedules.OneCycleLR(0.1)))
    first = trainer()
    history = fit(first, schedule=schedules.OneCycleLR(0.1), callbacks=[Stop(cut)])
    assert first.iteration == cut and history.epochs == cut // ITERATIONS
    first.save(path)
    second = trainer(init=9, seed=8, optimizer=optim.Adam(lr=0.7))      # all that differs comes from the file
    with pytest.raises(ValueError, match="is of another training: samples was 69, is 38; rows was"):
        fit(second, validation_split=0.5, resume=path)
    second = trainer(init=9, optimizer=optim.Adam(lr=0.7))
    assert_equal(everything(second, fit(second, resume=path)), expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("error", [None, KeyboardInterrupt()], ids=["stopped", "Ctrl-C"])
def test_resumed_with_every_optimizer(tmp_path, optimizer, error):
    """The file is written by the training itself, every 3 iterations, and what comes after it is lost."""
    path = tmp_path / "c.safetensors"
    whole = trainer(optimizer)
    expected = everything(whole, fit(whole))
    saver = callbacks.ModelCheckpoint(path, every=3)
    history = fit(trainer(optimizer), callbacks=[Stop(14, error), saver])
    assert history.interrupted == (error is not None)
    assert json.loads(read_header(path).metadata[checkpoint.KEY])["iteration"] == 13
    second = trainer(optimizer, init=5)
    assert_equal(everything(second, fit(second, resume=path)), expected)


STATEFUL = {
    "early stopping": lambda: [callbacks.EarlyStopping(patience=3, monitor="val_loss")],
    "plateau": list,
    "csv": lambda: [callbacks.JSONLines("log.jsonl", append=True)],
}


@pytest.mark.parametrize("cut", [15, 22, 31])
@pytest.mark.parametrize("kind", STATEFUL)
def test_schedules_and_callbacks_go_on(tmp_path, monkeypatch, kind, cut):
    monkeypatch.chdir(tmp_path)

    def arguments():
        plateau = schedules.ReduceLROnPlateau("loss", patience=0, factor=0.5, threshold=0.1)
        return {"epochs": 12, "schedule": plateau if kind == "plateau" else None}

    whole = trainer(optim.Adam(lr=0.3))
    expected = everything(whole, fit(whole, callbacks=STATEFUL[kind](), **arguments()))
    path = tmp_path / "c.safetensors"
    first = trainer(optim.Adam(lr=0.3))
    watchers = [*STATEFUL[kind](), callbacks.ModelCheckpoint(path), Stop(cut, KeyboardInterrupt())]
    fit(first, callbacks=watchers, **arguments())
    second = trainer(init=5)
    found = everything(second, fit(second, callbacks=STATEFUL[kind](), resume=path, **arguments()))
    assert_equal(found, expected)


@pytest.mark.parametrize("cut", [7, 10, 18])
def test_early_stopping_puts_back_and_goes_on(tmp_path, cut):
    def stopping():
        return [callbacks.EarlyStopping("loss", patience=9), callbacks.EarlyStopping("val_loss", patience=9)]

    def falling():                                      # the best epochs are not the last ones
        return schedules.LambdaLR(lambda t: 1.0 if t < 1 else 30.0)

    path = tmp_path / "c.safetensors"
    whole = trainer()
    expected = everything(whole, fit(whole, schedule=falling(), callbacks=stopping()))
    first = trainer()
    fit(first, schedule=falling(), callbacks=[*stopping(), Stop(cut)])
    best = first.model.state_dict()
    first.save(path)
    second = trainer(init=9)
    assert_equal(everything(second, fit(second, schedule=falling(), callbacks=stopping(), resume=path)), expected)
    second.load(path)
    assert same(second.model.state_dict(), best)
    first.model.load_state_dict({name: array + 1 for name, array in best.items()})      # what is set since counts
    first.save(path)
    assert not any(name.startswith("last.") for name in load_with_metadata(path)[0])


def test_resumed_where_batches_are_larger_than_the_data(tmp_path):
    path, options = tmp_path / "c.safetensors", {"steps_per_epoch": 3, "batch_size": 100, "validation_split": 0.0}
    whole = trainer()
    expected = everything(whole, fit(whole, **options))
    first = trainer()
    fit(first, callbacks=[Stop(5)], **options)
    first.save(path)
    second = trainer(init=9)
    assert_equal(everything(second, fit(second, resume=path, **options)), expected)


def test_schedule_comes_from_the_file_or_must_be_the_same(tmp_path):
    path = tmp_path / "c.safetensors"
    one = trainer()
    fit(one, schedule=schedules.StepLR(2), callbacks=[Stop(7)])
    one.save(path)
    assert fit(trainer(), resume=path)["lr"][-1] == pytest.approx(0.002)
    with pytest.raises(ValueError, match="was trained with StepLR, this training has ExponentialLR"):
        fit(trainer(), resume=path, schedule=schedules.ExponentialLR(0.9))
    fit(one, schedule=schedules.LambdaLR(lambda t: 0.5), callbacks=[Stop(22)])
    one.save(path)
    with pytest.raises(ValueError, match="give schedule= again, LambdaLR cannot be read"):
        fit(trainer(), resume=path)


def test_more_epochs_than_before(tmp_path):
    path = tmp_path / "c.safetensors"
    whole = trainer()
    expected = everything(whole, fit(whole, epochs=5))
    fit(trainer(), epochs=2, callbacks=callbacks.ModelCheckpoint(path))
    second = trainer(init=1)
    assert_equal(everything(second, fit(second, epochs=5, resume=path)), expected)
    # Nothing left to do: the command that was killed after its last epoch may be given again.
    third = trainer(init=1)
    assert fit(third, epochs=None, resume=path).epochs == 2 and third.iteration == 10
    with pytest.raises(ValueError, match="2 epochs are trained already, epochs=1 are fewer"):
        fit(third, epochs=1, resume=path)


def test_random_state_comes_back(tmp_path):
    one = trainer()
    fastnn.manual_seed(11)
    nn.Linear(3, 3)
    one.save(tmp_path / "c.safetensors")
    expected = nn.Linear(3, 3).weight.data.copy()
    fastnn.manual_seed(5)
    trainer(seed=9).load(tmp_path / "c.safetensors")
    assert np.array_equal(nn.Linear(3, 3).weight.data, expected)


def test_load_takes_parameters_state_and_counters(tmp_path):
    one, other = trainer(), trainer(init=4, seed=7)
    fit(one, epochs=2)
    one.save(tmp_path / "c.safetensors")
    other.load(tmp_path / "c.safetensors")
    a, b = fit(one, epochs=2), fit(other, epochs=2)
    assert a["loss"] == b["loss"] and same(one.model.state_dict(), other.model.state_dict())


def test_folder_means_its_newest(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        fit(trainer(), resume=tmp_path)
    whole = trainer()
    expected = everything(whole, fit(whole))
    saver = callbacks.ModelCheckpoint(tmp_path / "{epoch}-{iteration}.safetensors", keep=2)
    fit(trainer(), epochs=3, callbacks=saver)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2-10.safetensors", "3-15.safetensors"]
    trainer().model.save(tmp_path / "model.safetensors")                # no checkpoint
    (tmp_path / "noise.safetensors").write_bytes(b"noise")
    second = trainer(init=2)
    assert_equal(everything(second, fit(second, epochs=4, resume=tmp_path)), expected)


def rewritten(path, change):
    tensors, metadata = load_with_metadata(path)
    content = json.loads(metadata[checkpoint.KEY])
    change(tensors, content)
    save_file(tensors, path, {**metadata, checkpoint.KEY: json.dumps(content)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, c: c.update(format=7), "of format 7"),
        (lambda t, c: c.pop("epoch"), "malformed"),
        (lambda t, c: c.update(iteration=-1), "malformed"),
        (lambda t, c: c.update(random={"seed": "x"}), "malformed"),
        (lambda t, c: c.update(random={"seed": 1, "stream": 2, "os": 3}), "malformed"),
        (lambda t, c: c["optimizer"].update(name="SGD"), "trained with SGD, this trainer has Adam"),
        (lambda t, c: c["optimizer"].update(lr=-1), "learning rate -1"),
        (lambda t, c: t.pop("model.0.weight"), "another model: 0.weight of this one has shape .* found none"),
        (lambda t, c: t.update({"model.0.bias": np.zeros(2, np.float32)}), r"0.bias of this one .* found shape \(2,\)"),
        (lambda t, c: t.pop("optimizer.exp_avg.0.weight"), "exp_avg of 0.weight is missing"),
        (lambda t, c: t.update({"optimizer.exp_avg.0.bias": np.zeros(2, np.float32)}), "exp_avg of 0.bias"),
    ],
)
def test_files_that_do_not_fit_change_nothing(tmp_path, change, message):
    path = tmp_path / "c.safetensors"
    fit(trainer(), callbacks=callbacks.ModelCheckpoint(path))
    rewritten(path, change)
    other = trainer(init=3)
    before = other.model.state_dict()
    with pytest.raises(ValueError, match=message):
        other.load(path)
    assert same(before, other.model.state_dict()) and other.iteration == 0


def test_resumed_with_a_learning_rate(tmp_path):
    """The same rate again: the same bits. Another: for what is left. "auto": what was found is not looked for again."""
    path = tmp_path / "c.safetensors"
    expected = everything(whole := trainer(), fit(whole, lr=0.02))
    one = trainer()
    fit(one, callbacks=[Stop(7)], lr=0.02)
    one.save(path)
    second = trainer()
    assert_equal(everything(second, fit(second, resume=path, lr=0.02)), expected)
    third = trainer()
    assert fit(third, resume=path, lr=0.001)["lr"][-1] == third.optimizer.lr == 0.001
    found = trainer()
    fit(found, callbacks=[Stop(7)], lr="auto")
    found.save(path)
    again = trainer()
    fit(again, resume=path, lr="auto")
    assert again.optimizer.lr == found.optimizer.lr != 0.02


def test_resumed_with_a_time_budget(tmp_path):
    """What was spent before counts, and the best epoch may be one from before."""
    path, held_out = tmp_path / "c.safetensors", (X[:20], LABELS[:20])
    arguments = {"epochs": None, "validation_split": 0.0, "validation_data": held_out}
    one = trainer(optim.Adam(lr=1.0))
    history = fit(one, time_budget=0.3, callbacks=[callbacks.ModelCheckpoint(path)], **arguments)
    epochs = history.epochs
    second, began = trainer(optim.Adam(lr=1.0)), time.perf_counter()
    history = fit(second, time_budget=0.6, resume=path, **arguments)
    assert 0.15 < time.perf_counter() - began < 0.55 and history.epochs > epochs
    assert second.evaluate(*held_out)["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-5)
    third = trainer(optim.Adam(lr=1.0))
    history = fit(third, time_budget=1e-9, resume=path, **arguments)
    assert history.epochs == third.epoch == epochs
    assert third.evaluate(*held_out)["loss"] == pytest.approx(min(history["val_loss"]), rel=1e-5)
    with pytest.raises(ValueError, match="begun with a time_budget: give it again, or epochs"):
        fit(trainer(), resume=path, **arguments)


def test_what_resume_refuses(tmp_path):
    path = tmp_path / "c.safetensors"
    one = trainer()
    one.save(path)
    with pytest.raises(ValueError, match="saved before any training"):
        fit(trainer(), resume=path)
    one.model.save(path)
    with pytest.raises(ValueError, match="holds a model but no training"):
        fit(trainer(), resume=path)
    with pytest.raises(FileNotFoundError):
        fit(trainer(), resume=tmp_path / "absent")
    fit(one, callbacks=[Stop(2)])
    one.save(path)
    for wrong, message in (
        ({"batch_size": 8}, "batch_size was 16, is 8, in the middle"),
        ({"shuffle": False}, "shuffle was True, is False"),
        ({"validation_split": 0.0}, "samples was 69, is 77"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(trainer(), resume=path, **wrong)


def test_a_checkpoint_is_a_model_too(tmp_path):
    one = trainer()
    fit(one, callbacks=callbacks.ModelCheckpoint(tmp_path / "c.safetensors"))
    header = read_header(tmp_path / "c.safetensors")
    assert "fastnn.architecture" in header.metadata
    tensors, _ = load_with_metadata(tmp_path / "c.safetensors")
    assert same({f"model.{n}": v for n, v in one.model.state_dict().items()}, tensors)
