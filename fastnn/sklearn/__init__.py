"""scikit-learn estimators: `MLPClassifier` and `MLPRegressor`, drop-in for scikit-learn's own.

Needs scikit-learn 1.6 or later: pip install 'fastnn[sklearn]'. Every constructor parameter, default, fitted
attribute and method of theirs has the same meaning here; the keyword arguments that come after them are new
(dropout, activation per layer, more activations, solvers and losses, class_weight, schedule, callbacks).
A random_state gives the initial weights, the validation split and the batches that it gives there, and so the same
network but for rounding. Where the two differ:

- computation is in float32;
- solver="lbfgs" is not offered;
- warm_start and partial_fit keep the optimizer's moments, also through pickle; scikit-learn's warm_start forgets them.

SGD's momentum is scikit-learn's, v ← μ·v − lr·g, also while lr changes (learning_rate="invscaling" or "adaptive").
"""

try:
    import sklearn as _scikit_learn  # noqa: F401
except ImportError:
    raise ImportError("fastnn.sklearn needs scikit-learn: pip install 'fastnn[sklearn]'") from None

from .classifier import MLPClassifier
from .regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
