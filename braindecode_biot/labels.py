"""Labels as users write them, and the classes they make; continuous targets.

Owns the checks of labels and targets, the classes and the weights of these in a loss.
Must not know windows nor a network, nor import torch.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

__all__ = ["check_labels", "check_targets", "class_weights", "find_classes"]


def check_labels(y: ArrayLike | None, n_windows: int) -> NDArray[Any]:
    """Require one label for each window.

    Parameters
    ----------
    y : array of shape (n_windows,) | None
        Labels of any kind.
    n_windows : int
        How many there must be.

    Returns
    -------
    numpy.ndarray of shape (n_windows,)
        The labels.

    Raises
    ------
    ValueError
        There are none, one is missing, there are more or fewer than windows, or they
        are no classes.
    """
    _check_complete(y)
    labels: NDArray[Any] = column_or_1d(y, warn=True)
    check_classification_targets(labels)
    _check_number(labels, n_windows)
    return labels


def check_targets(y: ArrayLike | None, n_windows: int) -> NDArray[np.float64]:
    """Require continuous targets for each window.

    Parameters
    ----------
    y : array of shape (n_windows,) or (n_windows, n_targets) | None
        Targets, in their own units.
    n_windows : int
        How many rows there must be.

    Returns
    -------
    numpy.ndarray of shape (n_windows,) or (n_windows, n_targets)
        The targets.

    Raises
    ------
    ValueError
        There are none, one is missing or inf or no number, or there are more or fewer
        than windows.
    """
    _check_complete(y)
    given = np.asarray(y)
    try:
        if np.iscomplexobj(given):
            raise TypeError("they are complex")
        targets = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "Unknown label type: targets of a regression are numbers, got "
            f"{given.dtype} ({error}). For classes there is BIOTClassifier."
        ) from error
    if targets.ndim not in (1, 2) or 0 in targets.shape[1:]:
        raise ValueError(
            f"Got targets of shape {targets.shape}, expected (n_windows,) or "
            "(n_windows, n_targets)."
        )
    if not np.isfinite(targets).all():
        where = np.flatnonzero(~np.isfinite(targets.reshape(len(targets), -1)).all(1))
        raise ValueError(
            f"Input y contains infinity at {where.tolist()[:5]}: every target is a "
            "finite number. Leave those windows out."
        )
    _check_number(targets, n_windows)
    return targets


def _check_complete(y: ArrayLike | None) -> None:
    if y is None:
        raise ValueError(
            "requires y to be passed, but the target y is None: these windows "
            "carry no labels of their own."
        )
    absent = pd.isna(np.asarray(y, dtype=object))
    missing = np.flatnonzero(absent.any(axis=tuple(range(1, absent.ndim))))
    if len(missing):
        raise ValueError(
            f"Input y contains NaN or None at {missing.tolist()[:5]}: every window "
            "needs a label. Leave those windows out."
        )


def _check_number(labels: NDArray[Any], n_windows: int) -> None:
    if len(labels) != n_windows:
        raise ValueError(
            f"Got {n_windows} windows but {len(labels)} labels: y needs one label per "
            "window."
        )


def find_classes(labels: NDArray[Any], known: NDArray[Any] | None) -> NDArray[Any]:
    """Return the sorted classes; those known already, if the labels agree.

    Raises
    ------
    ValueError
        A label is none of the known classes, or there is but one class.
    """
    classes: NDArray[Any] = np.unique(labels) if known is None else known
    if unknown := sorted(set(labels.tolist()) - set(classes.tolist())):
        raise ValueError(
            f"y holds {unknown}, which are none of the classes {classes.tolist()}. "
            "Pass all classes to the first call of partial_fit, or fit anew with "
            "warm_start=False."
        )
    if len(classes) < 2:
        raise ValueError(
            f"Expected at least two classes, got one class: {classes.tolist()}. "
            "Labels are the event codes of Epochs or the dataset's targets unless "
            "y is passed: pass y where those are not the classes."
        )
    return classes


def class_weights(
    class_weight: Any, classes: NDArray[Any], encoded: NDArray[np.intp]
) -> NDArray[np.float64] | None:
    """Weigh classes, as scikit-learn's ``class_weight`` says.

    Parameters
    ----------
    class_weight : "balanced" | dict | None
        What the user asks for.
    classes : array of shape (n_classes,)
        The sorted classes.
    encoded : array of int, shape (n_windows,)
        Labels as places among the classes; some may be absent.

    Returns
    -------
    numpy.ndarray of shape (n_classes,) or None
        Weights; None where all are 1.
    """
    if class_weight is None:
        return None
    weights: NDArray[np.float64]
    if isinstance(class_weight, str) and class_weight == "balanced":
        # scikit-learn's formula, but a class may be absent from partial_fit.
        counts = np.bincount(encoded, minlength=len(classes))
        weights = len(encoded) / (len(classes) * np.maximum(counts, 1))
    else:
        weights = compute_class_weight(class_weight, classes=classes, y=classes)
    return weights
