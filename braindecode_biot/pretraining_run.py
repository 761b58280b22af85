"""Pretraining from a configuration file to weights, on one machine or many.

Owns the way of a run: archives and settings, what is held out to validate on, how it
goes on after an interruption, and what lies in its folder at the end. What is learned
is ``pretraining``'s, what the file may say ``pretraining_config``'s.
"""

import math
import os
import signal
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from braindecode.datasets import BaseConcatDataset

from braindecode_biot.archive import open_archive
from braindecode_biot.batches import check_writable
from braindecode_biot.engine import (
    Callback,
    CSVLogger,
    LastCheckpoint,
    ModelCheckpoint,
    TermIsInterrupt,
    Trainer,
    WholeFiles,
    launched,
    without_chatter,
)
from braindecode_biot.files import write_whole
from braindecode_biot.model import BIOT
from braindecode_biot.pretraining import ContrastivePretraining
from braindecode_biot.pretraining_config import read_config
from braindecode_biot.pretraining_data import PretrainingData
from braindecode_biot.saving import save_weights
from braindecode_biot.sources import some
from braindecode_biot.tables import ConfigError, Tables, toml_of

__all__ = ["PretrainingReport", "hold_out", "run_pretraining"]

_MEASURES = ("loss", "alignment", "uniformity", "spread")
# What stands for no person, in recordings whose names were taken out; a zero does so
# where no other number is a name.
_NOBODY = {"", "x", "nan", "none", "unknown", "anonymous"}
# Where embeddings are so close, hardly anything is told apart.
_COLLAPSED = 0.1


@dataclass(frozen=True)
class PretrainingReport:
    """What became of a run; prints as a summary.

    Attributes
    ----------
    folder : Path
        The run's.
    epochs, steps : int
        That were trained, before an interruption too.
    batch : int
        Windows of which InfoNCE tells each from the others: those of all devices.
    metrics : dict of str to float
        Of the last epoch: ``train/loss``, ``valid/spread`` and so on. Empty where
        nothing was left to train.
    valid_batch : int
        Windows of a batch to validate on; 0 where there are none.
    """

    folder: Path
    epochs: int
    steps: int
    batch: int
    metrics: dict[str, float] = field(default_factory=dict)
    valid_batch: int = 0

    @property
    def weights(self) -> Path:
        """The encoder, for ``BIOT.from_checkpoint`` and ``pretrained=``."""
        return self.folder / "encoder.safetensors"

    def __str__(self) -> str:
        """Sum it up in a few lines."""
        lines = [
            f"{self.epochs} epochs, {self.steps} steps of {self.batch} windows (all "
            "devices together; accumulated gradients compare no more)."
        ]
        for stage, name, batch in (
            ("train", "Training", self.batch),
            ("valid", "Validation", self.valid_batch),
        ):
            found = {k: self.metrics.get(f"{stage}/{k}") for k in _MEASURES}
            if found["loss"] is not None:
                told = ", ".join(f"{k} {v:.3f}" for k, v in found.items())
                lines.append(f"{name}: {told}; chance is {math.log(batch):.3f}.")
        spread = self.metrics.get("valid/spread", self.metrics.get("train/spread", 1))
        if not spread >= _COLLAPSED:
            lines.append(
                f"Warning: the embeddings are nearly one point (spread {spread:.3f}). "
                "If longer training does not part them, they have collapsed: use a "
                "lower lr, or larger and more mixed batches."
            )
        return "\n".join([*lines, f"Weights: {self.weights}"])


def run_pretraining(
    config: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> PretrainingReport:
    """Pretrain on archives as a configuration file says, and save the weights.

    A run that was interrupted goes on from its last checkpoint when it is called again.
    Each of several processes calls it alike; Lightning, ``torchrun`` or ``srun`` start
    them.

    Parameters
    ----------
    config : path
        A TOML file, as :func:`~braindecode_biot.pretraining_config.read_config` says.
    overrides : mapping of str to value | None
        What counts more than the file, such as ``{"trainer.max_epochs": 3}``.
    say : callable
        Takes each line of text for the reader, in the first process alone.

    Returns
    -------
    PretrainingReport
        In ``output`` there are then ``encoder.safetensors``; ``official.ckpt``, with
        the predictor, in the official repository's layout; ``checkpoints``:
        ``last.ckpt`` and, with validation, ``best.ckpt``; ``metrics``, a table of each
        start; and ``config.toml``, what was run.

    Raises
    ------
    ConfigError
        The file holds what is not known or cannot be.
    FileNotFoundError, RecordingError
        There is no such file or archive, or it cannot be read.
    FileExistsError
        There is a run in the folder that is not to be gone on with.
    OSError
        Nothing can be written in the folder.
    ValueError
        Data do not fit the model, or a run cannot go on with other settings.
    KeyboardInterrupt
        It was interrupted. The message says what is kept.
    """
    path = Path(config).expanduser().absolute()
    tables = read_config(path, overrides)
    top, seed = tables[""], tables[""]["seed"]
    folder = Path(top["output"])
    last = folder / "checkpoints" / "last.ckpt"
    _check_start(folder, last, top)
    options = tables["data"].copy()
    archives, fraction = options.pop("archives"), options.pop("validation_fraction")
    with without_chatter(), torch.random.fork_rng(devices=[]):
        with _naming(path, "trainer"):
            trainer = _trainer(tables["trainer"], top, folder, bool(fraction))
        if not trainer.is_global_zero:
            say = _nothing
        if report := _finished(folder, last, tables):
            say(
                f"Done before: {report.epochs} epochs, {report.steps} steps. With a "
                f"larger max_epochs it goes on.\nWeights: {report.weights}"
            )
            return report
        check_writable(folder)
        trainer.callbacks.append(_Diary(folder / "config.toml", tables, say))
        recordings = _open(archives)
        train, valid = hold_out(recordings, fraction, seed)
        torch.manual_seed(seed)
        with _naming(path, "model"):
            model = _model(tables["model"], recordings, top.get("start_from"))
        with _naming(path, "objective"):
            module = ContrastivePretraining(model, seed=seed, **tables["objective"])
        with _naming(path, "data"):
            data = PretrainingData(
                BaseConcatDataset(train),
                validation=BaseConcatDataset(valid) if valid else None,
                seed=seed,
                **options,
            )
        batch = data.batch_size * trainer.world_size
        say(_plan(train, valid, batch, trainer.world_size))
        if last.exists():
            say(f"Going on from '{last}'.")
        _fit(trainer, module, data, last)
        report = PretrainingReport(
            folder,
            trainer.current_epoch,
            trainer.global_step,
            batch,
            {k: float(v) for k, v in trainer.callback_metrics.items()},
            min(batch, sum(map(len, valid))),
        )
        if trainer.is_global_zero:
            module.save_official(folder / "official.ckpt")
            # Last of all: it says that the run is done.
            save_weights(module.model, report.weights, layout="official-encoder")
        trainer.strategy.barrier()  # no process ends before the weights are there
    say(str(report))
    return report


def hold_out(
    recordings: Sequence[Any], fraction: float, seed: int = 0
) -> tuple[list[Any], list[Any]]:
    """Draw recordings to validate on; all of a person, or none.

    Parameters
    ----------
    recordings : sequence of datasets
        Of :func:`~braindecode_biot.open_archive`, whose descriptions have a ``subject``
        where one is known.
    fraction : float
        Share of the recordings; at least one, and a person more than that rather than
        less. 0 is none.
    seed : int
        What is drawn follows from it.

    Returns
    -------
    train, valid : list of datasets
        All of them.

    Raises
    ------
    ConfigError
        All are of one person.
    """
    if not fraction:
        return list(recordings), []
    names = [str(r.description.get("subject", "")).strip().lower() for r in recordings]
    is_numbered = any(name.isdigit() and name != "0" for name in names)
    nobody = _NOBODY if is_numbered else _NOBODY | {"0"}
    persons: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        file = recordings[i].description.get("file", i)
        key = f"file {file}" if name in nobody else f"person {name}"
        persons.setdefault(key, []).append(i)
    if len(persons) < 2:
        raise ConfigError(
            f"The archives hold recordings of one person ({len(recordings)}), of which "
            "none can be held out to validate on. Add others, or say "
            "validation_fraction = 0 in [data]."
        )
    wanted = max(1, round(fraction * len(recordings)))
    order = np.random.default_rng(seed).permutation(len(persons))
    groups = [list(persons.values())[i] for i in order]
    held: set[int] = set()
    for group in groups[:-1]:  # one is left to train on, at least
        if len(held) < wanted:
            held.update(group)
    train = [one for i, one in enumerate(recordings) if i not in held]
    return train, [recordings[i] for i in sorted(held)]


def _check_start(folder: Path, last: Path, top: Mapping[str, Any]) -> None:
    """Refuse to replace weights, and to go on with what began otherwise."""
    if not last.exists():
        made = [folder / "encoder.safetensors", last.with_name("best.ckpt")]
        if there := [str(path) for path in made if path.exists()]:
            raise FileExistsError(
                f"'{folder}' has weights ({there}), but no '{last.name}' to go on "
                "from. Choose another output, or move them."
            )
        return
    if not top["resume"]:
        raise FileExistsError(
            f"There is a run in '{folder}' already. Go on with it (resume = true), or "
            "choose another output."
        )
    if (then := _read_told(folder)) is None:
        return
    starts = [Path(one.get("start_from", "nothing")).name for one in (then, top)]
    if starts[0] != starts[1]:
        raise ConfigError(
            f"The run in '{folder}' began from {starts[0]}, and start_from is now "
            f"{starts[1]}. Choose another output for another beginning."
        )


def _told(text: str) -> dict[str, Any]:
    """Read what a run is told, but for where it ends and where it lies."""
    told = tomllib.loads(text)
    for name in ("output", "resume", "checkpoint_every"):
        told.pop(name, None)
    for name in ("max_epochs", "max_steps", "max_time"):
        told.get("trainer", {}).pop(name, None)
    return told


def _read_told(folder: Path) -> dict[str, Any] | None:
    """Read what a run was told; None if that was moved or changed."""
    try:
        return _told((folder / "config.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _finished(folder: Path, last: Path, tables: Tables) -> PretrainingReport | None:
    """Tell whether a run has come to its end, weights included."""
    weights = folder / "encoder.safetensors"
    if not last.exists():
        return None
    try:
        kept = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
        progress = kept["loops"]["fit_loop"]["epoch_progress"]["current"]
        epochs, steps = progress["processed"], kept["global_step"]
        data = kept["PretrainingData"]
    except Exception as error:  # whatever a damaged file leads to
        raise OSError(
            f"The checkpoint '{last}' cannot be read: {error}. Remove it to begin anew."
        ) from error
    if not weights.exists() or weights.stat().st_mtime < last.stat().st_mtime:
        return None
    if _read_told(folder) != _told(toml_of(tables)):
        return None  # so that the checks of what may change are made
    trainer = tables["trainer"]
    most_epochs, most_steps = (trainer.get(f"max_{k}", -1) for k in ("epochs", "steps"))
    if not (0 <= most_epochs <= epochs or 0 <= most_steps <= steps):
        return None
    batch = data["batch size"] * data["processes"]
    return PretrainingReport(folder, epochs, steps, batch)


def _trainer(
    given: dict[str, Any], top: Mapping[str, Any], folder: Path, is_validated: bool
) -> Any:
    """Make the trainer, of what the file says and how the process was started."""
    place = folder / "checkpoints"
    kept: list[Any] = [LastCheckpoint(place / "last.ckpt", top["checkpoint_every"])]
    if is_validated:
        when = dict(monitor="valid/loss", save_on_train_epoch_end=False)
        kept.append(
            ModelCheckpoint(place, "best", enable_version_counter=False, **when)
        )
    defaults: dict[str, Any] = {
        "accelerator": "auto" if torch.cuda.is_available() else "cpu",
        # Files that are no terminal would fill with bars.
        "enable_progress_bar": sys.stdout.isatty(),
        "enable_model_summary": False,
    }
    return Trainer(
        **defaults | launched() | given,
        default_root_dir=str(folder),
        # A table of each start, so that none is written over.
        logger=CSVLogger(str(folder), name="metrics", flush_logs_every_n_steps=1),
        plugins=[WholeFiles()],
        callbacks=[*kept, TermIsInterrupt()],
    )


def _open(archives: Sequence[str]) -> list[Any]:
    """Open the recordings of archives, all of one sampling rate."""
    recordings = [one for place in archives for one in open_archive(place).datasets]
    if len(rates := {one.raw.info["sfreq"] for one in recordings}) > 1:
        raise ConfigError(
            f"The archives have sampling rates of {some(sorted(rates), 3)} Hz. Make "
            "them at one."
        )
    return recordings


def _model(given: dict[str, Any], recordings: Sequence[Any], source: Any) -> BIOT:
    """Make the model, for what is in the archives unless the file says otherwise."""
    places = [one.metadata for one in recordings]
    n_times = max((p["i_stop_in_trial"] - p["i_start_in_trial"]).max() for p in places)
    names = dict.fromkeys(name for one in recordings for name in one.raw.ch_names)
    options: dict[str, Any] = {"channel_names": list(names), "missing": "mask"}
    if not given.keys() & {"n_times", "input_window_seconds"}:
        options["n_times"] = int(n_times)
    if source is not None:  # whose rate counts: data of another are refused
        return BIOT.from_checkpoint(source, head=None, n_outputs=1, **options | given)
    options["sfreq"] = float(recordings[0].raw.info["sfreq"])
    return BIOT(n_outputs=1, **options | given)


def _plan(train: list[Any], valid: list[Any], batch: int, n_devices: int) -> str:
    held = f"{len(valid)} ({sum(map(len, valid))} windows)" if valid else "none"
    return (
        f"{len(train)} recordings to train on ({sum(map(len, train))} windows), "
        f"{held} to validate on. Batches of {batch} windows on {n_devices} device(s): "
        f"the loss by chance is {math.log(batch):.3f}."
    )


def _fit(trainer: Any, module: Any, data: Any, last: Path) -> None:
    """Train, and say what is kept where that is interrupted."""
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(
            module, data, ckpt_path=last if last.exists() else None, weights_only=True
        )
    except SystemExit:  # what Lightning makes of Ctrl-C, and of SIGTERM
        if not trainer.is_global_zero:
            raise
        kept = (
            "What was trained until the last checkpoint is kept; run again to go on."
            if last.exists()
            else "There was no checkpoint yet; nothing is kept."
        )
        raise KeyboardInterrupt(
            f"Interrupted after {trainer.global_step} steps. {kept}"
        ) from None
    finally:
        if in_main:  # Lightning lets no second Ctrl-C through, nor any later one
            signal.signal(signal.SIGINT, handler)


class _Diary(Callback):
    """What is run, and a line for each epoch where no bar is shown."""

    def __init__(self, path: Path, tables: Tables, say: Callable[[str], None]) -> None:
        self._path, self._text, self._say = path, toml_of(tables), say

    def on_train_start(self, trainer: Any, module: Any) -> None:
        # Not before: a checkpoint of other settings would have been refused.
        if trainer.is_global_zero:
            write_whole(self._path, self._text.encode())

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        if trainer.progress_bar_callback is None:
            losses = {
                name: trainer.callback_metrics.get(f"{stage}/loss")
                for name, stage in (("training", "train"), ("validation", "valid"))
            }
            told = [f"{k} loss {v:.3f}" for k, v in losses.items() if v is not None]
            number = f"Epoch {trainer.current_epoch + 1}, step {trainer.global_step}"
            self._say(f"{number}: {', '.join(told)}")


@contextmanager
def _naming(path: Path, table: str) -> Iterator[None]:
    """Say which table an error is about."""
    try:
        yield
    except OSError:  # of a file, which it names
        raise
    except Exception as error:  # of Lightning's own kinds, too
        raise ConfigError(f"'{path}', [{table}]: {error}") from error


def _nothing(text: str) -> None:
    """Say nothing: another process does."""
