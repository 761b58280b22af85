"""What a net is trained on: windows with labels, some of them kept for validation.

Owns the torch data set of windows and labels, the scale of continuous targets, and the
validation split. Must not know labels as users write them (classes arrive as 0, 1, ...)
nor how a net is trained.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit
from sklearn.utils.validation import column_or_1d
from skorch.utils import to_numpy
from torch.utils.data import Dataset

from braindecode_biot.model import BIOT
from braindecode_biot.windows import Windows, check_finite, check_some_left

__all__ = ["LabelledWindows", "TargetScale", "split"]


@dataclass(frozen=True, eq=False)
class TargetScale:
    """What standardises continuous targets, and brings them back to their unit.

    Attributes
    ----------
    mean, scale : numpy.ndarray of shape (n_targets,) or ()
        In the targets' unit. Without an axis for targets that have none.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of(cls, targets: NDArray[Any]) -> Self:
        """Measure targets of shape (n_windows, n_targets) or (n_windows,)."""
        scale = np.asarray(targets.std(axis=0), float)
        # What never varies stays as it is, but for rounding errors.
        mean = np.asarray(targets.mean(axis=0), float)
        constant = scale <= 10 * np.finfo(float).eps * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, scale))

    def standardize(self, targets: NDArray[Any]) -> NDArray[np.float32]:
        """Return them as a net learns them, shape (n_windows, n_targets)."""
        standard = (targets - self.mean) / self.scale
        return np.asarray(standard.reshape(len(targets), -1), np.float32)

    def __call__(self, outputs: Any) -> NDArray[np.float64]:
        """Bring a net's outputs or what it learns from back to the unit."""
        values = to_numpy(outputs).astype(float).reshape(-1, *self.mean.shape)
        restored: NDArray[np.float64] = values * self.scale + self.mean
        return restored


class LabelledWindows(Dataset[tuple[NDArray[np.float32], Any]]):
    """Windows and encoded labels, as a torch data set.

    Parameters
    ----------
    windows : Windows
        In memory, or read one by one.
    labels : array of int, shape (n_windows,) or of float32, (n_windows, n_targets) | \
None
        Encoded labels, or standardised targets; None gives 0 throughout, where only
        windows matter.
    order : array of int, shape (n_chans,) | None
        What brings the channels in the model's order.

    Notes
    -----
    What may be missing of a window says the model: see :meth:`check`.
    """

    def __init__(
        self,
        windows: Windows,
        labels: NDArray[Any] | None = None,
        order: NDArray[np.intp] | None = None,
    ) -> None:
        self.windows = windows.data
        self.microvolts = windows.microvolts
        self.labels = np.zeros(len(windows.data), int) if labels is None else labels
        self.order = order
        names = [ch["ch_name"] for ch in windows.signal.get("chs_info", ())]
        self.ch_names = names or None
        self._model: BIOT | None = None

    def check(self, model: BIOT) -> Self:
        """Require windows that a model can take.

        Parameters
        ----------
        model : BIOT
            The model; whether it takes NaN, and how long its tokens are, counts.

        Returns
        -------
        LabelledWindows
            Itself. Windows in memory were checked, others will be when they are read.

        Raises
        ------
        ValueError
            If a window holds inf, NaN that the model does not take, or, if it does, so
            much of it that no token is left.
        """
        if isinstance(self.windows, np.ndarray):
            self._check(model, self.windows, "X")
        else:
            self._model = model
        return self

    def _check(self, model: BIOT, windows: NDArray[Any], what: str) -> None:
        if model.missing == "mask":
            size, hop = model.token_size, model.hop_length
            check_some_left(windows, size, hop, what=what, ch_names=self.ch_names)
        else:
            check_finite(windows, what=what, ch_names=self.ch_names)

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], Any]:
        """Return a window, shape (n_chans, n_times), and its label or targets."""
        window = self.windows[index]
        if self._model is not None:
            self._check(self._model, window[None], f"Window {index}")
        if self.order is not None:
            window = window[self.order]
        # torch takes neither negative strides nor, without a warning, read-only memory.
        window = np.require(window, requirements=["C", "W"])
        label = self.labels[index]
        return window, label if self.labels.ndim > 1 else int(label)


def split(
    labels: NDArray[np.intp], groups: ArrayLike | None, fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Choose the training and the validation windows.

    Parameters
    ----------
    labels : array of int, shape (n_windows,)
        Encoded labels; all of one class where there are none to tell apart.
    groups : array of shape (n_windows,) | None
        What each window belongs to; no group comes to both sides.
    fraction : float
        Share of the windows that is kept for validation, about so with groups.
    seed : int
        Seed of the choice.

    Returns
    -------
    train, valid : list of int
        Indices of windows. Training has every class; so has validation, but that
        with groups it has as many as it can. All windows are for training where
        ``fraction`` is 0 or, with a warning, where a class has too few.

    Raises
    ------
    ValueError
        If windows and groups differ in number, a group is missing, or no group can be
        kept.
    """
    n = len(labels)
    n_valid = math.ceil(fraction * n)
    if groups is not None:
        groups = np.asarray(column_or_1d(groups))
        if len(groups) != n:
            raise ValueError(
                f"Got {n} windows but {len(groups)} groups: groups needs one entry "
                "per window."
            )
        if pd.isna(groups).any():
            raise ValueError(
                f"groups is missing at {np.flatnonzero(pd.isna(groups)).tolist()[:5]}: "
                "it needs an entry for every window."
            )
        if n_valid:
            return _split_groups(labels, groups, fraction, seed)
    counts = np.unique(labels, return_counts=True)[1]
    if counts.min() < 2 or min(n_valid, n - n_valid) < len(counts):
        if n_valid:
            warnings.warn(
                f"{n} windows of {len(counts)} classes, {counts.min()} of the rarest, "
                f"are too few to keep {n_valid} for validation with every class on "
                "both sides: training on all of them, to the last epoch.",
                stacklevel=4,
            )
        return list(range(n)), []
    splitter = StratifiedShuffleSplit(1, test_size=n_valid, random_state=seed)
    train, valid = next(splitter.split(labels, labels))
    return train.tolist(), valid.tolist()


def _split_groups(
    labels: NDArray[np.intp], groups: NDArray[Any], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    def n_classes(indices: Any) -> int:
        return len(np.unique(labels[indices]))

    n_groups = len(np.unique(groups))
    n_splits = round(1 / min(fraction, 1 - fraction))
    n_splits = min(n_groups, np.bincount(labels).max(), max(2, n_splits))
    folds = []
    if n_splits > 1:
        splitter = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
        with warnings.catch_warnings():  # that a class has fewer windows than folds
            warnings.simplefilter("ignore", UserWarning)
            folds = list(splitter.split(labels, labels, groups))
    if fraction > 0.5:  # then it is the training windows that are one fold
        folds = [(valid, train) for train, valid in folds]
    folds = [fold for fold in folds if n_classes(fold[0]) == n_classes(...)]
    if not folds:
        raise ValueError(
            f"The windows are of {n_groups} groups, none of which can be kept for "
            "validation while enough stays for training, of every class if there are "
            "classes. Pass more groups, or validation_fraction=0."
        )
    train, valid = max(folds, key=lambda fold: n_classes(fold[1]))
    if n_classes(valid) < n_classes(...):
        warnings.warn(
            f"The groups kept for validation hold {n_classes(valid)} of "
            f"{n_classes(...)} classes: the best epoch is chosen by these alone. "
            "Groups that hold every class, or validation_fraction=0, avoid that.",
            stacklevel=5,
        )
    return train.tolist(), valid.tolist()
