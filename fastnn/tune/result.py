"""What a search returns: the table of its trials, the best hyperparameters and model, plots."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..nn.module import Module
from .space import Lists

if TYPE_CHECKING:
    import optuna

    from ..trainer import Trainer

PLOTS = ("history", "parameters", "importance", "parallel")


class SearchResult:
    """study: the Optuna study. metric: the name of the score. trainer: the best trial's, refitted on all data."""

    def __init__(self, study: optuna.Study, metric: str, trainer: Trainer | None = None):
        self.study, self.metric, self.trainer = study, metric, trainer

    @property
    def model(self) -> Module | None:
        """The best model, trained on all samples; None if the search was told not to."""
        return None if self.trainer is None else self.trainer.model

    @property
    def best_params(self) -> dict[str, Any]:
        """Hyperparameters of the best trial."""
        return _restored(self.study.best_trial.params)

    @property
    def best_score(self) -> float:
        """Mean score of the best trial over the folds; optimistic, as it was chosen for being the best."""
        return self.study.best_value

    @property
    def trials(self) -> list[dict[str, Any]]:
        """One row a trial: number, state, each hyperparameter, score (mean), spread (standard deviation), seconds.

        state: "complete", "pruned" (stopped early; the score is that of its last epoch), "diverged" or "failed".
        """
        return [_row(trial) for trial in self.study.get_trials(deepcopy=False) if trial.state.is_finished()]

    def table(self, most: int | None = None) -> str:
        """The trials as text, the best first; at most so many."""
        rows = self.trials
        sign = -1 if self.study.direction.name == "MAXIMIZE" else 1
        rank = {"complete": 0, "pruned": 1}
        rows.sort(key=lambda r: (rank.get(r["state"], 2), sign * r["score"] if r["score"] is not None else 0.0))
        columns = list(dict.fromkeys(name for row in rows for name in row))
        cells = [columns] + [[_text(row.get(name)) for name in columns] for row in rows[:most]]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join("  ".join(f"{c:>{w}}" for c, w in zip(line, widths, strict=True)) for line in cells)

    def to_csv(self, path: str | Path) -> None:
        """Write the trials to a CSV file."""
        rows = self.trials
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)

    def plot(self, kind: str = "history"):
        """A matplotlib figure by Optuna: "history" of the scores, "parameters" against the score, "importance" of the
        hyperparameters, or "parallel" coordinates. Raises ValueError for another kind, ImportError without matplotlib.
        """
        if kind not in PLOTS:
            raise ValueError(f"kind must be one of {', '.join(PLOTS)}, found {kind!r}")
        try:
            import matplotlib  # noqa: F401
            from optuna.visualization import matplotlib as plots
        except ImportError:
            raise ImportError("plots need matplotlib: pip install 'fastnn[plot]'") from None
        draw: Callable = {
            "history": plots.plot_optimization_history, "parameters": plots.plot_slice,
            "importance": plots.plot_param_importances, "parallel": plots.plot_parallel_coordinate,
        }[kind]
        import warnings

        from optuna.exceptions import ExperimentalWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            axes = draw(self.study)
        return getattr(axes, "flat", [axes])[0].figure

    def __repr__(self) -> str:
        return f"SearchResult({len(self.trials)} trials, best {self.metric} {self.best_score:.4g}: {self.best_params})"


def _restored(params: dict[str, Any]) -> dict[str, Any]:
    return {name: Lists.restore(value) for name, value in params.items()}


def _row(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    attributes = trial.user_attrs
    state = "diverged" if attributes.get("diverged") else trial.state.name.lower().replace("fail", "failed")
    score = attributes.get("score")
    return {
        "number": trial.number, "state": state, **_restored(trial.params), "score": score,
        "spread": attributes.get("spread"), "seconds": attributes.get("seconds"),
    }


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
