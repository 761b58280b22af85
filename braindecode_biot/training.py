"""How BIOT is trained: a skorch net made for given windows.

Owns the net's parts (loss, optimizer, schedule, stopping, progress), the seeding of a
fit, and how a net embeds windows. What it is trained on stands in ``samples``. Must not
know labels as users write them, nor scikit-learn's contract, which is ``fitting``'s.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np
import torch
from braindecode.augmentation import AugmentedDataLoader, Transform
from numpy.typing import NDArray
from skorch import NeuralNet, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, LRScheduler
from skorch.helper import predefined_split
from skorch.utils import noop, to_numpy
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from braindecode_biot.model import BIOT
from braindecode_biot.samples import TargetScale
from braindecode_biot.signal import SignalParams

__all__ = [
    "CrossEntropy",
    "embed_windows",
    "make_embedder",
    "make_net",
    "pick_device",
    "run",
    "seeded",
]


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
