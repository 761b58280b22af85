"""How BIOT is trained: a skorch net made for given windows.

Owns the net's parts (data, optimizer, schedule, stopping, progress) and the seeding
of a fit. Must not know labels as users write them (classes arrive as 0, 1, ...), nor
scikit-learn's contract, which is ``estimators``'s.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EarlyStopping, EpochScoring, LRScheduler
from skorch.helper import predefined_split
from skorch.utils import noop
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from braindecode_biot.model import BIOT
from braindecode_biot.signal import SignalParams, Windows, check_finite

__all__ = ["LabelledWindows", "make_net", "pick_device", "seeded"]


class LabelledWindows(Dataset[tuple[NDArray[np.float32], int]]):
    """Windows and encoded labels, as a torch data set.

    Parameters
    ----------
    windows : Windows
        In memory or read one by one; the latter are checked for NaN and inf here.
    labels : array of int, shape (n_windows,) | None
        Encoded labels; None gives 0 throughout, where only windows matter.
    order : array of int, shape (n_chans,) | None
        What brings the channels in the model's order.
    """

    def __init__(
        self,
        windows: Windows,
        labels: NDArray[np.intp] | None = None,
        order: NDArray[np.intp] | None = None,
    ) -> None:
        self.windows = windows.data
        self.labels = np.zeros(len(windows.data), int) if labels is None else labels
        self.order = order

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], int]:
        """Return a window, shape (n_chans, n_times), and its label."""
        window = self.windows[index]
        if not isinstance(self.windows, np.ndarray):
            check_finite(window[None], what=f"Window {index}")
        if self.order is not None:
            window = window[self.order]
        return window, int(self.labels[index])


def make_net(
    signal: SignalParams,
    valid: Dataset[Any] | None = None,
    *,
    module_params: dict[str, Any],
    class_weight: NDArray[np.float64] | None,
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
) -> NeuralNetClassifier:
    """Make an untrained skorch net of BIOT for these windows.

    Parameters
    ----------
    signal : SignalParams
        Signal parameters of the windows, with ``n_outputs``.
    valid : Dataset | None
        Validation windows; with them the weights of the best epoch are restored.
    module_params : dict
        Arguments of BIOT beside the signal's.
    class_weight : array of shape (n_outputs,) | None
        Weight of each class in the loss.
    max_epochs, batch_size, lr, lr_schedule, weight_decay, monitor, patience, device, \
verbose, callbacks
        As for :class:`~braindecode_biot.BIOTClassifier`.

    Returns
    -------
    skorch.NeuralNetClassifier
        Initialized, and silent unless ``verbose``.
    """
    parts: list[Any] = []
    if lr_schedule == "cosine":
        parts.append(LRScheduler(CosineAnnealingLR, T_max=max_epochs))
    if valid is not None:
        if monitor != "valid_loss":
            scoring = EpochScoring(monitor, lower_is_better=False, name=monitor)
            parts.append((f"valid_{monitor}", scoring))
        stopping = EarlyStopping(
            monitor=monitor,
            lower_is_better=monitor == "valid_loss",
            patience=max_epochs if patience is None else patience,
            threshold=0,
            load_best=True,
            sink=print if verbose > 1 else noop,
        )
        parts.append(stopping)
    if verbose == 1:
        parts.append(EpochBar())
    weight = None if class_weight is None else torch.as_tensor(class_weight).float()
    net = NeuralNetClassifier(
        BIOT,
        criterion=torch.nn.CrossEntropyLoss,
        criterion__weight=weight,
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=weight_decay,
        lr=lr,
        max_epochs=max_epochs,
        batch_size=batch_size,
        classes=np.arange(signal["n_outputs"]),
        iterator_train__shuffle=True,
        train_split=None if valid is None else predefined_split(valid),
        callbacks=[*parts, *(callbacks or [])],
        warm_start=True,  # whoever made the net decides when to start anew
        device=device,
        verbose=int(verbose > 1),
        **{f"module__{key}": value for key, value in (module_params | signal).items()},
    )
    return net.initialize()


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


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block from a seed, and leave torch's random state as it was."""
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield


def pick_device(device: str) -> str:
    """Turn "auto" into "cuda" where there is a CUDA device, else into "cpu"."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
