"""A fitted model and its windows, from any of what users call a fitted model.

Owns telling a :class:`~braindecode_biot.BIOT`, an estimator of this package and a
skorch net apart, what they read of windows, and a model's mode while it is asked
(:func:`evaluating`). Must not know what is done with them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import is_regressor
from skorch import NeuralNet
from torch import Tensor, nn

from braindecode_biot.base import WindowsEstimator
from braindecode_biot.model import BIOT
from braindecode_biot.weights import unwrapped

__all__ = ["Fitted", "evaluating", "open_fitted"]


@dataclass(frozen=True)
class Fitted:
    """A fitted model, windows for it, and what its outputs are.

    Attributes
    ----------
    model : BIOT
        The model.
    windows : sequence of arrays or tensors of shape (n_chans, n_times)
        Windows as the model takes them.
    ch_names : tuple of str
        Names of the model's channels; their numbers where it knows no names.
    labels : array of shape (n_outputs,)
        The class of each output; its number where there are no classes.
    is_regressor : bool
        Whether outputs are known to be predicted values.
    mean, spread : array of shape (n_outputs,)
        An output times spread plus mean is in the unit of what was fitted on.
    """

    model: BIOT
    windows: Any
    ch_names: tuple[str, ...]
    labels: NDArray[Any]
    is_regressor: bool
    mean: NDArray[np.float64]
    spread: NDArray[np.float64]


def open_fitted(estimator: Any, X: Any) -> Fitted:
    """Take the model out of an estimator, and read windows as that does.

    Parameters
    ----------
    estimator : BIOTClassifier, BIOTRegressor, skorch.NeuralNet or BIOT
        Fitted.
    X : Any
        Windows, as the estimator predicts on; of a model a tensor or an array.

    Returns
    -------
    Fitted
        Both.

    Raises
    ------
    TypeError
        If there is no BIOT, or a model is given anything but an array.
    ValueError
        If there are no windows, or they do not fit the estimator.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.
    """
    windows: Any
    if isinstance(estimator, nn.Module):
        model, windows = _biot(estimator), _to_tensor(X)
    elif isinstance(estimator, NeuralNet):
        estimator.check_is_fitted(["module_"])
        model = _biot(estimator.module_)
        windows = _Inputs(estimator.get_dataset(X))
    elif isinstance(estimator, WindowsEstimator) and hasattr(estimator, "predict"):
        windows = _Inputs(estimator._checked(estimator._open(X)))
        model = estimator.model_
    else:
        raise TypeError(
            f"A {type(estimator).__name__} was given, expected a BIOT, a fitted "
            "BIOTClassifier or BIOTRegressor, or a skorch net of BIOT. Of a pipeline "
            "give the last step and what the steps before it make of X; of a search "
            "its best_estimator_."
        )
    if not len(windows):
        raise ValueError("Got no windows, expected at least one.")
    regresses = not isinstance(estimator, nn.Module) and is_regressor(estimator)
    classes = None if regresses else getattr(estimator, "classes_", None)
    labels = np.arange(model.n_outputs)
    if classes is not None and len(classes) == len(labels):
        labels = np.asarray(classes)
    mean, spread = (
        np.broadcast_to(np.asarray(value, float).ravel(), len(labels))
        for value in (
            getattr(estimator, "target_mean_", 0.0),
            getattr(estimator, "target_scale_", 1.0),
        )
    )
    return Fitted(model, windows, _names(model), labels, regresses, mean, spread)


@contextmanager
def evaluating(model: BIOT) -> Iterator[BIOT]:
    """Put a model in evaluation mode, and leave each part of it as it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def _biot(model: nn.Module) -> BIOT:
    found = unwrapped(model)
    if not isinstance(found, BIOT):
        raise TypeError(
            f"The model is a {type(found).__name__}, expected a BIOT with a head."
        )
    return found


class _Inputs:
    """Windows of a data set whose items have more to them."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[index][0]


def _to_tensor(X: Any) -> Tensor:
    if isinstance(X, Tensor):
        return X
    if not hasattr(X, "__array__"):
        raise TypeError(
            f"With a model, windows are a tensor or an array of shape (n_windows, "
            f"n_chans, n_times), got a {type(X).__name__}. epochs.get_data() makes one "
            "of Epochs."
        )
    return torch.as_tensor(np.asarray(X))


def _names(model: BIOT) -> tuple[str, ...]:
    """Name the model's channels, by number where it knows no names."""
    names = model.channels.names
    if names is not None:
        return tuple(names[row] for row in model.channels.rows.tolist())
    if model.channels.is_named:
        return tuple(str(ch["ch_name"]) for ch in cast(Any, model.chs_info))
    return tuple(map(str, range(model.n_chans)))
