"""How BIOT is trained: a skorch net made for given windows.

Owns the validation split, the net's parts (data, loss, optimizer, schedule, stopping,
progress), the seeding of a fit, and how a net embeds windows. Must not know labels as
users write them (classes arrive as 0, 1, ..., continuous targets standardised), nor
scikit-learn's contract, which is ``fitting``'s.
"""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from braindecode.augmentation import AugmentedDataLoader, Transform
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedShuffleSplit
from sklearn.utils.validation import column_or_1d
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, LRScheduler
from skorch.helper import predefined_split
from skorch.utils import noop, to_numpy
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from braindecode_biot.model import BIOT
from braindecode_biot.signal import SignalParams
from braindecode_biot.windows import Windows, check_finite, check_some_left

__all__ = [
    "CrossEntropy",
    "LabelledWindows",
    "TargetScale",
    "embed_windows",
    "make_embedder",
    "make_net",
    "pick_device",
    "run",
    "seeded",
    "split",
]


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


def make_net(
    signal: SignalParams,
    valid: Dataset[Any] | None = None,
    *,
    module_params: dict[str, Any],
    criterion: torch.nn.Module,
    target_scale: TargetScale | None = None,
    max_epochs: int,
    batch_size: int,
    lr: float,
    lr_schedule: str | None,
    weight_decay: float,
    monitor: str,
    patience: int | None,
    device: str,
    verbose: int,
    callbacks: Sequence[Callback] | None,
    augmentation: Transform | None = None,
    param_groups: Sequence[tuple[str, dict[str, float]]] = (),
    freeze_epochs: int = 0,
) -> NeuralNet:
    """Make an untrained skorch net of BIOT for these windows.

    Parameters
    ----------
    signal : SignalParams
        Signal parameters of the windows, with ``n_outputs``.
    valid : Dataset | None
        Validation windows; with them the weights of the best epoch are restored.
    module_params : dict
        Arguments of BIOT beside the signal's.
    criterion : torch.nn.Module
        The loss, of the outputs and the labels.
    target_scale : TargetScale | None
        For regression: what brings the outputs to the targets' unit, in which scores
        are computed. None is classification.
    max_epochs, batch_size, lr, lr_schedule, weight_decay, monitor, patience, device, \
verbose, callbacks
        As for :class:`~braindecode_biot.BIOTClassifier`.
    augmentation : braindecode.augmentation.Transform | None
        What is done to the training windows.
    param_groups : sequence of (str, dict)
        Settings of the optimizer for weights whose names fit a pattern.
    freeze_epochs : int
        First epochs, of which none can be the best: the model is yet to be tuned.

    Returns
    -------
    skorch.NeuralNetClassifier or skorch.NeuralNetRegressor
        Initialized, and silent unless ``verbose``.
    """
    parts: list[Any] = []
    kind: tuple[Any, dict[str, Any]]
    if target_scale is None:
        kind = NeuralNetClassifier, {"classes": np.arange(signal["n_outputs"])}
    else:
        kind = NeuralNetRegressor, {"predict_nonlinearity": target_scale}
    if lr_schedule == "cosine":
        parts.append(LRScheduler(CosineAnnealingLR, T_max=max_epochs))
    if valid is not None and monitor != "valid_loss":
        scoring = MonitorScoring(
            monitor,
            lower_is_better=False,
            name=monitor,
            target_extractor=target_scale or to_numpy,
        )
        parts.append((f"valid_{monitor}", scoring))
    if verbose == 1:
        parts.append(EpochBar())
    parts += callbacks or []
    if valid is not None:  # last, for stopping cuts the round of callbacks short
        stopping = BestEpoch(
            after=freeze_epochs,
            monitor=monitor,
            lower_is_better=monitor == "valid_loss",
            patience=max_epochs if patience is None else patience,
            threshold=0,
            load_best=True,
            sink=print if verbose > 1 else noop,
        )
        parts.append(stopping)
    loader = {}
    if augmentation is not None:
        loader["iterator_train"] = AugmentedDataLoader
        loader["iterator_train__transforms"] = augmentation
    net_class, kind_params = kind
    net: NeuralNet = net_class(
        BIOT,
        criterion=criterion,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=weight_decay,
        optimizer__param_groups=list(param_groups),
        lr=lr,
        max_epochs=max_epochs,
        batch_size=int(batch_size),  # torch refuses NumPy's integers
        iterator_train__shuffle=True,
        train_split=None if valid is None else predefined_split(valid),
        callbacks=parts,
        device=device,
        verbose=int(verbose > 1),
        **kind_params,
        **loader,
        **{f"module__{key}": value for key, value in (module_params | signal).items()},
    )
    return net.initialize()


def make_embedder(model: BIOT, batch_size: int, device: str) -> NeuralNet:
    """Make a skorch net of a model that is not to be trained.

    Parameters
    ----------
    model : BIOT
        The model.
    batch_size, device
        As for :class:`~braindecode_biot.BIOTClassifier`.

    Returns
    -------
    skorch.NeuralNet
        Initialized, for :func:`embed_windows`.
    """
    net = NeuralNet(
        model,
        criterion=torch.nn.MSELoss,  # skorch wants one
        batch_size=int(batch_size),
        device=device,
        train_split=None,
        verbose=0,
    )
    return net.initialize()


def embed_windows(net: NeuralNet, windows: Dataset[Any]) -> torch.Tensor:
    """Embed windows by a net's model, without dropout.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized.
    windows : Dataset
        The windows.

    Returns
    -------
    torch.Tensor, shape (n_windows, emb_size)
        The embeddings, on the CPU.
    """
    net.module_.eval()
    with torch.no_grad():
        batches = [
            net.infer(x, return_features=True)["features"].cpu()
            for x, _ in net.get_iterator(windows, training=False)
        ]
    return torch.cat(batches)


def run(net: NeuralNet, windows: Dataset[Any]) -> None:
    """Train a net on labelled windows, for its ``max_epochs`` or until it stops.

    Parameters
    ----------
    net : skorch.NeuralNet
        As :func:`make_net` makes it; it keeps no windows.
    windows : Dataset
        Training windows and encoded labels.

    Raises
    ------
    ValueError
        If training diverged, so that weights are NaN or inf.
    KeyboardInterrupt
        If the user interrupted it; the net is usable, with the best weights so far.
    """
    net.notify("on_train_begin", X=windows, y=None)
    interrupt = None
    try:
        net.fit_loop(windows, None)
    except KeyboardInterrupt as raised:  # skorch's early stopping raises it as well
        stopping = [cb for _, cb in net.callbacks_ if isinstance(cb, BestEpoch)]
        if not any(cb.misses_ == cb.patience for cb in stopping):
            interrupt = raised
    net.notify("on_train_end", X=windows, y=None)
    net.train_split = None  # it holds the validation windows
    if interrupt is not None:
        raise interrupt
    if not all(p.isfinite().all() for p in net.module_.parameters()):
        raise ValueError(
            f"Training diverged: after {len(net.history)} epochs at lr={net.lr} there "
            "are weights that are NaN or inf. Use a smaller lr."
        )


class CrossEntropy(torch.nn.CrossEntropyLoss):
    """Cross-entropy with class weights that hold across batches.

    torch divides by the weights in the batch. They would then cancel in a batch of
    one class, give NaN where they are all zero, and let the loss on the validation
    windows depend on the batch size.

    Parameters
    ----------
    weights : array of shape (n_classes,) | None
        Weight of each class; None weighs all alike.
    """

    def __init__(self, weights: NDArray[np.float64] | None = None) -> None:
        super().__init__(None if weights is None else torch.as_tensor(weights).float())

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean over windows of weight times cross-entropy."""
        loss = cross_entropy(input, target, weight=self.weight, reduction="none")
        return loss.mean()


class MonitorScoring(EpochScoring):
    """A scikit-learn score of the validation windows that says why it cannot be."""

    def on_epoch_end(self, net: Any, *args: Any, **kwargs: Any) -> None:
        """Compute it."""
        try:
            super().on_epoch_end(net, *args, **kwargs)
        except ValueError as error:
            raise ValueError(
                f"monitor={self.scoring!r} cannot be computed of these validation "
                f"windows; monitor='valid_loss' always can. scikit-learn says: {error}"
            ) from error


class BestEpoch(EarlyStopping):
    """Early stopping that takes no undefined score for "never better".

    Parameters
    ----------
    after : int
        Epochs at the beginning that do not count.
    **kwargs
        As for :class:`skorch.callbacks.EarlyStopping`.
    """

    def __init__(self, after: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.after = after

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Remember the weights if they are better, stop if they have long not been."""
        score = net.history[-1, self.monitor]
        if not math.isfinite(score):
            raise ValueError(
                f"{self.monitor} of the validation windows is {score} in epoch "
                f"{net.history[-1, 'epoch']}. "
                + (
                    f"Training diverged at lr={net.lr}: use a smaller lr."
                    if self.monitor == "valid_loss"
                    else "They hold too few windows or classes for it: use "
                    "monitor='valid_loss', or groups that each hold every class."
                )
            )
        if len(net.history) > self.after:
            super().on_epoch_end(net, **kwargs)


class EpochBar(Callback):
    """A progress bar over epochs, with the losses beside it."""

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        """Show the bar."""
        self.bar_ = tqdm(total=net.max_epochs, unit="epoch", desc="BIOT")

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """Advance it."""
        row = net.history[-1]
        losses = {k: row[k] for k in ("train_loss", "valid_loss") if k in row}
        self.bar_.set_postfix({k: f"{value:.3f}" for k, value in losses.items()})
        self.bar_.update()

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Leave it standing; a bar cannot be pickled with the net."""
        self.bar_.close()
        del self.bar_


# torch's random state belongs to all threads: seeded blocks take turns.
_RANDOM_STATE = RLock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block from a seed, and leave torch's random state as it was."""
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with _RANDOM_STATE, torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def pick_device(device: str) -> str:
    """Turn "auto" into "cuda" where there is a CUDA device, else into "cpu"."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={device!r} cannot be used here; device='auto' takes what there "
            f"is. torch says: {error}"
        ) from error
    return device
