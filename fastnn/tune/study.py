"""The Optuna study of a search: its sampler, its pruner, and where it is stored."""

from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def import_optuna():
    """Optuna. Raises ImportError that names the extra."""
    try:
        import optuna
    except ImportError:
        raise ImportError("fastnn.tune.search needs Optuna: pip install 'fastnn[tune]'") from None
    return optuna


def open_study(setup: dict, store):
    """The study of that name in the storage, new or as it stands. ValueError where it is about something else."""
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    method, seed = setup["method"], setup["seed"]
    if method == "bayes":
        # Trials that run side by side count as bad ones, so that they do not all go to the same place.
        sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)
    else:
        sampler = _numbered_sampler(optuna, seed)
    pruner = optuna.pruners.NopPruner()
    if setup["prune"]:
        if method == "halving":
            pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
        else:
            pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, setup["epochs"] // 10))
    study = optuna.create_study(
        storage=store, sampler=sampler, pruner=pruner, study_name=setup["name"], direction=setup["direction"],
        load_if_exists=True,
    )
    found, about = study.user_attrs.get("about"), setup["about"]
    if found is None:
        study.set_user_attr("about", about)
    elif found != about:
        other = ", ".join(f"{k} was {found.get(k)}, is {v}" for k, v in about.items() if found.get(k) != v)
        raise ValueError(f"the storage holds a search {setup['name']!r} of something else: {other}; give another "
                         "storage, or another name")
    return study


def _numbered_sampler(optuna, seed: int):
    """Random sampling in which the trial's number decides, and not which thread or machine comes first."""

    class Numbered(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, param_name, param_distribution):
            words = [seed, trial.number, *param_name.encode()]
            own = optuna.samplers.RandomSampler(seed=int(np.random.SeedSequence(words).generate_state(1)[0]))
            return own.sample_independent(study, trial, param_name, param_distribution)

    return Numbered(seed=seed)


@contextmanager
def open_storage(storage: Any, shared: bool):
    """An Optuna storage of what the user gave; a temporary journal where processes must share one."""
    if storage is None and not shared:
        yield None
    elif storage is None:
        with tempfile.TemporaryDirectory() as folder:
            yield _journal(Path(folder) / "search.journal")
    elif isinstance(storage, (str, os.PathLike)):
        text = os.fspath(storage)
        if "://" in text or text.endswith((".db", ".sqlite", ".sqlite3")):
            if "://" not in text:
                _check_folder(Path(text))
            yield _database(text if "://" in text else f"sqlite:///{os.path.abspath(text)}")
        else:
            yield _journal(Path(text))
    else:
        yield storage


def _check_folder(path: Path) -> None:
    if not path.parent.is_dir():
        raise ValueError(f"storage {path}: no such folder: {path.parent}")


def _journal(path: Path):
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

    _check_folder(path)
    _check_journal(path)
    # A process that was killed while it wrote leaves its lock behind; a write takes milliseconds.
    lock = JournalFileSymlinkLock(os.fspath(path), grace_period=5)
    return JournalStorage(JournalFileBackend(os.fspath(path), lock_obj=lock))


def _check_journal(path: Path) -> None:
    """ValueError for a file that holds something else: Optuna would append to it before it fails to read it."""
    if not path.exists():
        return
    with open(path, "rb") as file:
        line = file.readline(1 << 20)
    try:
        known = not line or "op_code" in json.loads(line)
    except (ValueError, TypeError):
        known = False
    if not known:
        raise ValueError(f"storage {path}: expected the journal of an earlier search, found another file")


def _database(url: str):
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import DatabaseError

    # Of processes that begin at once one makes the tables, and the others may find them half made.
    for pause in (0.1, 0.3, 1.0, 2.0):
        try:
            return RDBStorage(url)
        except (DatabaseError, AssertionError):
            time.sleep(pause)
    return RDBStorage(url)


def in_memory(study, setup: dict):
    """A copy of a study whose storage is temporary."""
    optuna = import_optuna()
    copy = optuna.create_study(direction=setup["direction"], study_name=setup["name"])
    copy.add_trials(study.get_trials(deepcopy=False))
    return copy
