"""Windows of many recordings, for pretraining.

Owns how windows of any kind become one data set for one model (:class:`WindowPool`),
how those of other channels and lengths come into one batch (:class:`Batch`,
:func:`collate`), and the Lightning data module (:class:`PretrainingData`). In which
order they come is ``sampling``'s; what is learned from them, ``pretraining``'s.
"""

import hashlib
import warnings
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import mne
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from braindecode_biot.channels import rows_in
from braindecode_biot.engine import LightningDataModule
from braindecode_biot.model import BIOT
from braindecode_biot.reading import RecordingError
from braindecode_biot.sampling import BalancedSampler, ResumableLoader
from braindecode_biot.signal import SignalParams, match_signal
from braindecode_biot.sources import some
from braindecode_biot.tasks import Task
from braindecode_biot.windows import Windows, left_in, read_windows

__all__ = ["Batch", "PretrainingData", "WindowPool", "collate"]


class Batch(NamedTuple):
    """Windows that are learned from together.

    Attributes
    ----------
    windows : Tensor, shape (batch, n_chans, n_times)
        NaN stands for what is missing, and behind the end of shorter windows.
    task : Tensor of int, shape (batch,)
        Number of the task that each is of; 0 where there are none.
    target : Tensor of int, shape (batch,)
        Number of its class in that task; 0 where there are none.
    number : Tensor of int, shape (batch,)
        Which window of all it is. A short recording may give one twice.
    """

    windows: Tensor
    task: Tensor
    target: Tensor
    number: Tensor


_UNREADABLE = "it cannot be read: "
# A window, shape (n_chans, n_times), its task, its target, and its number.
Item = tuple[NDArray[np.float32], int, int, int]


@dataclass(frozen=True, eq=False)
class _Part:
    """Windows of one kind."""

    windows: Windows
    places: NDArray[np.intp] | None  # of its channels among the model's
    task: int
    targets: NDArray[np.intp] | None
    names: list[str]  # of the recordings


class WindowPool(Dataset[Item]):
    """The windows of many recordings, read when they are asked for.

    Where a window cannot be read, holds inf, or too much NaN to leave a whole token,
    the next one of its recording that can be used takes its place, with a warning.
    Recordings of which the first or the last window cannot be read, or of which none
    can be used, are left out from the beginning.

    Parameters
    ----------
    windows : windows, list or mapping of str to these
        MNE Epochs, lists of them, windowed braindecode datasets, or arrays of shape
        (n_windows, n_chans, n_times). With tasks, a mapping of their names.
    model : BIOT
        What they are for: its channels, sampling rate and tokens. With
        ``missing="mask"`` recordings may have some of the channels, and any length.
    tasks : mapping of str to Task | None
        What labels mean, in joint pretraining.
    labels : mapping of str to array | None
        Labels by task, where they are not those of the windows themselves.
    sfreq : float | None
        Sampling rate of arrays in Hz.
    picks, exclude
        As for :func:`~braindecode_biot.signal_params`.

    Attributes
    ----------
    sizes : list of int
        Windows of each recording that is used.
    fingerprint : str
        What tells data sets apart: of names and sizes of the recordings, and of labels.
    skipped : dict of str to str
        Recordings that are not used → why.

    Raises
    ------
    RecordingError
        If no recording can be used.
    ValueError
        If windows do not fit the model, or labels the tasks.
    TypeError
        If windows are of no known kind.
    """

    def __init__(
        self,
        windows: Any,
        model: BIOT,
        *,
        tasks: Mapping[str, Task] | None = None,
        labels: Mapping[str, Any] | None = None,
        sfreq: float | None = None,
        picks: Any = None,
        exclude: Any = "bads",
    ) -> None:
        self._token = model.token_size, model.hop_length
        self._takes_nan = model.missing == "mask"
        self._n_chans = model.n_chans
        self.parts: list[_Part] = []
        options = dict(picks=picks, exclude=exclude)
        named = _by_name(windows, tasks)
        if labels and tasks is None:
            raise ValueError(f"There are labels for {list(labels)}, but no tasks.")
        if stray := [name for name in labels or () if name not in named]:
            raise ValueError(
                f"There are labels for {stray}, but windows for {list(named)}."
            )
        for i, (name, held) in enumerate(named.items()):
            task = (tasks or {}).get(name)
            try:
                read, places = _read(held, model, task, sfreq=sfreq, **options)
                targets = None
                if task is not None:
                    given = (labels or {}).get(name, read.labels)
                    targets = _targets(task, given, read)
            except (ValueError, TypeError) as error:
                raise type(error)(f"{name}: {error}" if name else str(error)) from error
            names = [f"{name}, {r}" if name else r for r in read.recordings]
            self.parts.append(_Part(read, places, i if task else 0, targets, names))
        _check_units([part.windows for part in self.parts], model)
        self.skipped: dict[str, str] = {}
        self.sizes: list[int] = []
        # Their part, their first window in it, and their name.
        self._recordings: list[tuple[_Part, int, str]] = []
        for part in self.parts:
            first = 0
            counts = part.windows.recordings.values()
            for name, n in zip(part.names, counts, strict=True):
                if why := self._unusable(part, first, n):
                    self.skipped[name] = why
                else:
                    self._recordings.append((part, first, name))
                    self.sizes.append(n)
                first += n
        if not self.sizes:
            listed = some([f"{name}: {why}" for name, why in self.skipped.items()], 3)
            raise RecordingError(f"No recording can be used: {listed}.")
        self._stops = list(accumulate(self.sizes))
        if isinstance(model.input_scaling, int | float):
            _check_amplitude(self[0][0], model.input_scaling)
        digest = hashlib.sha256()
        for (part, first, name), n in zip(self._recordings, self.sizes, strict=True):
            own = (
                "" if part.targets is None else part.targets[first : first + n].tolist()
            )
            digest.update(repr((name, n, own)).encode())
        self.fingerprint = digest.hexdigest()[:16]

    def __len__(self) -> int:
        """Return the number of windows."""
        return self._stops[-1]

    def __getitem__(self, index: int) -> Item:
        """Read a window, shape (n_chans, n_times); with task, target and number.

        Raises
        ------
        IndexError
            There is no such window.
        RecordingError
            No window of its recording can be used any more.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no window {index} among {len(self)}")
        index %= len(self)
        i_recording = bisect_right(self._stops, index)
        part, first, name = self._recordings[i_recording]
        n = self.sizes[i_recording]
        before = self._stops[i_recording] - n
        why = ""
        for place in range(index - before, index - before + n):
            i = first + place % n
            window, problem = self._read(part, i)
            if window is not None:
                if why:
                    warnings.warn(f"{why} Another one takes its place.", stacklevel=2)
                target = 0 if part.targets is None else int(part.targets[i])
                return window, part.task, target, before + place % n
            why = why or f"Window {i - first} of {name} cannot be used: {problem}."
        raise RecordingError(f"No window of the recording can be used. {why}")

    def _read(self, part: _Part, i: int) -> tuple[NDArray[np.float32] | None, str]:
        """Read a window, or say why it cannot be used."""
        try:
            window = part.windows.data[i]
        except Exception as error:  # readers raise what they happen to run into
            return None, f"{_UNREADABLE}{str(error) or type(error).__name__}"
        if np.isinf(window).any():
            return None, "it holds inf"
        if not self._takes_nan and np.isnan(window).any():
            return None, "it holds NaN, and the model was not made with missing='mask'"
        if not left_in(window[np.newaxis], *self._token)[0]:
            return None, f"no {self._token[0]} samples in a row are there"
        if part.places is None:
            return window, ""
        whole = np.full((self._n_chans, window.shape[1]), np.nan, np.float32)
        whole[part.places] = window
        return whole, ""

    def _unusable(self, part: _Part, first: int, n: int) -> str:
        """Say why a recording cannot be used, or nothing.

        Files that were cut short cannot be read at their end. Of what can be read, one
        window is enough.
        """
        ends = [self._read(part, i) for i in (first, first + n - 1)]
        if broken := [why for _, why in ends if why.startswith(_UNREADABLE)]:
            return broken[0]
        if any(window is not None for window, _ in ends):
            return ""
        others = (self._read(part, i)[0] for i in range(first + 1, first + n - 1))
        return "" if any(w is not None for w in others) else ends[0][1]


def collate(items: Sequence[Item]) -> Batch:
    """Put windows into one batch, as long as the longest of them.

    Parameters
    ----------
    items : sequence of (array of shape (n_chans, n_times), int, int, int)
        Windows with task, target and number.

    Returns
    -------
    Batch
        NaN stands behind the end of shorter windows.

    Examples
    --------
    >>> short, long = np.ones((2, 3), np.float32), np.ones((2, 4), np.float32)
    >>> collate([(short, 0, 1, 0), (long, 0, 0, 1)]).windows.shape
    torch.Size([2, 2, 4])
    """
    windows, *others = zip(*items, strict=True)
    # Windows may have been padded before, to the longest of all.
    lengths = [
        int(np.flatnonzero(~np.isnan(window).all(0))[-1]) + 1 for window in windows
    ]
    n_chans, longest = len(windows[0]), max(lengths)
    batch = torch.full((len(windows), n_chans, longest), torch.nan)
    for row, window, n in zip(batch.numpy(), windows, lengths, strict=True):
        row[:, :n] = window[:, :n]
    return Batch(batch, *map(torch.tensor, others))


class PretrainingData(LightningDataModule):
    """Windows of many recordings, as a Lightning data module.

    For which model they are, and which tasks, says the module that is trained with
    them: ``trainer.fit(ContrastivePretraining(model), PretrainingData(windows))``.

    Parameters
    ----------
    windows : windows, list or mapping of str to these
        MNE Epochs, lists of them, windowed braindecode datasets (lazy ones too, such as
        :func:`~braindecode_biot.open_archive` returns), or arrays of shape (n_windows,
        n_chans, n_times); or a list of these of several kinds. For joint pretraining a
        mapping of the tasks' names.
    labels : mapping of str to array | None
        Labels by task, one per window. Without, those of the windows themselves: event
        codes of Epochs, targets of datasets.
    validation : windows, list or mapping of str to these | None
        Windows to validate on, of other recordings.
    validation_labels : mapping of str to array | None
        Their labels.
    batch_size : int
        Windows of a batch, on each device. InfoNCE tells each from the others of all
        devices; the paper has 1024.
    windows_per_epoch : int | None
        Windows of an epoch over all devices. None is as many as there are.
    balance : "recordings" | "windows"
        What comes as often as any other, see
        :class:`~braindecode_biot.sampling.BalancedSampler`.
    num_workers : int
        Processes that read windows on each device.
    sfreq : float | None
        Sampling rate of arrays in Hz.
    picks, exclude
        As for :func:`~braindecode_biot.signal_params`.
    seed : int
        What the order of windows follows from.

    Attributes
    ----------
    skipped : dict of str to str
        After the beginning of the training, recordings that are not used → why.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    def __init__(
        self,
        windows: Any,
        *,
        labels: Mapping[str, Any] | None = None,
        validation: Any = None,
        validation_labels: Mapping[str, Any] | None = None,
        batch_size: int = 128,
        windows_per_epoch: int | None = None,
        balance: Literal["recordings", "windows"] = "recordings",
        num_workers: int = 0,
        sfreq: float | None = None,
        picks: Any = None,
        exclude: Any = "bads",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        if windows_per_epoch is not None and windows_per_epoch < 1:
            raise ValueError(
                f"windows_per_epoch must be at least 1, got {windows_per_epoch}."
            )
        self._windows = windows, labels
        self._validation = validation, validation_labels
        self.batch_size = batch_size
        self.windows_per_epoch = windows_per_epoch
        self.balance = balance
        self.num_workers = num_workers
        self.seed = seed
        self._reading = dict(sfreq=sfreq, picks=picks, exclude=exclude)
        self._train: WindowPool | None = None
        self._valid: WindowPool | None = None
        self._for: tuple[BIOT, Mapping[str, Task] | None] | None = None
        self.skipped: dict[str, str] = {}

    def setup(self, stage: str) -> None:
        """Read what there is, for the module that is trained.

        Raises
        ------
        RecordingError, ValueError, TypeError
            As for :class:`WindowPool`; also if there are fewer windows than a batch.
        """
        module: Any = self.trainer.lightning_module
        tasks = getattr(module, "tasks", None)
        if self._train is not None and self._for == (module.model, tasks):
            return
        if self.trainer.overfit_batches:
            raise ValueError(
                "overfit_batches does not go with PretrainingData, which says itself "
                "what comes when. Give it fewer windows, or windows_per_epoch."
            )
        pools = []
        for windows, labels in (self._windows, self._validation):
            if windows is None:
                continue
            pools.append(
                WindowPool(
                    windows, module.model, tasks=tasks, labels=labels, **self._reading
                )
            )
        train = pools[0]
        self._check_batches(train)
        _check_units([part.windows for p in pools for part in p.parts], module.model)
        self._check_agreement(pools)
        if module.compares_windows and len(pools) > 1 and len(pools[1]) < 2:
            raise ValueError(
                "There is one window to validate on, and nothing to tell it from. Give "
                "at least two."
            )
        self.skipped = {k: why for pool in pools for k, why in pool.skipped.items()}
        if self.skipped and self.trainer.is_global_zero:
            listed = some([f"{k}: {why}" for k, why in self.skipped.items()], 5)
            n = len(self.skipped) + sum(len(pool.sizes) for pool in pools)
            warnings.warn(
                f"{len(self.skipped)} of {n} recordings are not used: {listed}.",
                stacklevel=2,
            )
        self._train, self._valid = train, pools[1] if len(pools) > 1 else None
        self._for = module.model, tasks

    def train_dataloader(self) -> ResumableLoader:
        """Return the batches of an epoch, all of them whole."""
        assert self._train is not None  # noqa: S101 - setup came before
        sampler = BalancedSampler(
            self._train.sizes,
            self.windows_per_epoch,
            self.balance,
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            seed=self.seed,
        )
        return ResumableLoader(
            self._train,
            sampler,
            current_epoch=lambda: self.trainer.current_epoch,
            drop_last=True,
            **self._options(),
        )

    def val_dataloader(self) -> Any:
        """Return the batches to validate on, always the same."""
        if self._valid is None:
            return []
        n = len(self._valid)
        generator = torch.Generator().manual_seed(self.seed)
        # A batch of many recordings, and none with too few windows to compare.
        order = torch.randperm(n, generator=generator).tolist()
        module: Any = self.trainer.lightning_module
        if module.compares_windows:
            together = self.batch_size * self.trainer.world_size
            order = order[: n // together * together] or order
        return DataLoader(
            torch.utils.data.Subset(self._valid, order), **self._options()
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what the order of windows follows from."""
        return self._identity()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Require that a run goes on with what it began with.

        Raises
        ------
        ValueError
            If windows, batches or processes are others.
        """
        now = self._identity()
        if changed := [key for key in now if state.get(key) != now[key]]:
            listed = "; ".join(
                f"{k}: {state.get(k)} then, {now[k]} now" for k in changed
            )
            raise ValueError(
                f"The checkpoint is of a run with other data ({listed}), which cannot "
                "be gone on with as if it had not stopped. Go on with the same, or "
                "begin a new run from its weights: BIOT.from_checkpoint(path)."
            )

    def _identity(self) -> dict[str, Any]:
        assert self._train is not None  # noqa: S101 - setup came before
        return {
            "recordings": len(self._train.sizes),
            "windows": len(self._train),
            "names, sizes and labels": self._train.fingerprint,
            "windows per epoch": self.windows_per_epoch,
            "batch size": self.batch_size,
            "processes": self.trainer.world_size,
            "balance": self.balance,
            "seed": self.seed,
        }

    def _options(self) -> dict[str, Any]:
        return dict(
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=collate,
        )

    def _check_agreement(self, pools: Sequence[WindowPool]) -> None:
        """Require that all processes have the same windows; others would wait for ever.

        A disk may fail one of them a file that the others can read.
        """
        own = torch.tensor([int(pool.fingerprint, 16) >> 1 for pool in pools])
        strategy = self.trainer.strategy
        found = strategy.all_gather(own.to(strategy.root_device)).reshape(-1, len(own))
        if not (found == found[0]).all():
            listed = some([f"{k}: {w}" for p in pools for k, w in p.skipped.items()])
            raise RecordingError(
                "Not all processes can read the same recordings. This one skipped: "
                f"{listed or 'none'}. See that the files can be read from everywhere."
            )

    def _check_batches(self, train: WindowPool) -> None:
        n = len(train) if self.windows_per_epoch is None else self.windows_per_epoch
        together = self.batch_size * self.trainer.world_size
        if n < together:
            raise ValueError(
                f"An epoch of {n} windows is less than one batch of {together}: "
                f"batch_size={self.batch_size} on {self.trainer.world_size} devices. "
                "Use a smaller batch_size or a larger windows_per_epoch."
            )


def _by_name(windows: Any, tasks: Mapping[str, Task] | None) -> dict[str, Any]:
    """Name windows by their task, or by what they are of a list of several kinds."""
    if tasks is not None:
        if not isinstance(windows, Mapping) or set(windows) != set(tasks):
            given = list(windows) if isinstance(windows, Mapping) else type(windows)
            raise ValueError(
                f"Expected windows for each of the tasks {list(tasks)}, as a mapping "
                f"of their names, got {given}."
            )
        return {name: windows[name] for name in tasks}
    if isinstance(windows, Mapping):
        held = dict(windows)
    elif isinstance(windows, list | tuple) and not all(
        isinstance(item, mne.BaseEpochs) for item in windows
    ):
        held = {f"item {i}": item for i, item in enumerate(windows)}
    else:
        held = {"": windows}
    if not held:
        raise RecordingError("There are no windows: an empty list was given.")
    return held


def _chs_info(model: Any) -> list[dict[str, Any]] | None:
    """Return what a model was told of its channels."""
    return list(model.chs_info) if model.channels.is_named else None


def _channel_names(model: BIOT) -> list[str] | None:
    """Return the names of the channels that a model's windows have, in order."""
    chs_info = _chs_info(model)
    return model.channel_names if chs_info is None else [c["ch_name"] for c in chs_info]


def _read(
    held: Any, model: BIOT, task: Task | None, **options: Any
) -> tuple[Windows, NDArray[np.intp] | None]:
    """Read windows of one kind, and find the places of their channels in the model."""
    names = _channel_names(model)
    is_array = hasattr(held, "__array__")
    options |= dict(
        labels=task is not None, sfreq=options["sfreq"] if is_array else None
    )
    own = names
    if task is not None and task.channel_names is not None:
        own = list(task.channel_names)
    if model.missing == "mask":
        if names is None and not is_array:
            raise ValueError(
                "The model does not know its channels by name, so that those of "
                "recordings cannot be found in it. Make it with channel_names= or "
                "chs_info=."
            )
        options |= dict(missing="mask", channel_names=own)
    read = read_windows(held, **options)
    signal: SignalParams = {
        "n_chans": model.n_chans,
        "n_times": model.n_times,
        "sfreq": model.sfreq,
        "input_window_seconds": model.n_times / model.sfreq,
    }
    if model.missing == "raise":
        if (chs_info := _chs_info(model)) is not None:
            signal["chs_info"] = chs_info
        if is_array and own is not None and own != names:
            if names is None or sorted(own) != sorted(names):
                raise ValueError(
                    f"channel_names={own} are not those of the model, {names}. Make it "
                    "with missing='mask' to take some of its channels."
                )
            match_signal({**signal, "n_chans": len(own)}, read.signal)
            return read, np.array(rows_in(names, own))
        order = match_signal(signal, read.signal)
        return read, None if order is None else np.argsort(order)
    # Any length will do, and channels come to their places below.
    given = read.signal.copy()
    given.pop("chs_info", None)
    given["n_times"] = signal["n_times"]
    if own is not None and names is not None and own != names:
        signal["n_chans"] = len(own)
        places = np.array(rows_in(names, own))
    else:
        places = None
    match_signal(signal, given)
    return read, places


def _targets(task: Task, labels: Any, read: Windows) -> NDArray[np.intp]:
    """Turn the labels of a task's windows into numbers."""
    if labels is None:
        raise ValueError(
            "Its windows have no labels. Pass them as labels={name: array}."
        )
    targets = task.encode(labels)
    if len(targets) != len(read.data):
        raise ValueError(f"Got {len(targets)} labels for {len(read.data)} windows.")
    n_times = read.signal["n_times"]
    if task.n_times is not None and n_times > task.n_times:
        raise ValueError(
            f"Its windows have up to {n_times} samples, expected at most "
            f"n_times={task.n_times}."
        )
    return targets


def _check_amplitude(window: NDArray[np.float32], scaling: float) -> None:
    """Warn of samples so far from their scale that their unit must be another."""
    size = float(np.nanmedian(np.abs(window)))
    if size > 0 and not 1e-3 < size / scaling < 1e3:
        warnings.warn(
            f"The first window's samples are about {size:.1g}, and the model divides "
            f"them by input_scaling={scaling:g}. Are both in the same unit? Epochs and "
            "archives are read in µV, other data as they are.",
            stacklevel=4,
        )


def _check_units(parts: Sequence[Windows], model: BIOT) -> None:
    if model.input_scaling != "q95" and len({part.microvolts for part in parts}) > 1:
        raise ValueError(
            f"With input_scaling={model.input_scaling} the unit matters: Epochs are "
            "read in µV, arrays and datasets in their own unit. Give windows of one "
            "kind, or make the model with input_scaling='q95'."
        )
