"""Lightning, which trains on one device or many, on one machine or many.

Owns the import of an optional dependency, with an error that says how to get it, and
this package's habits with it: files that are whole (:class:`WholeFiles`), one way to be
interrupted (:class:`TermIsInterrupt`), launchers that are believed (:func:`launched`),
and no chatter (:func:`without_chatter`). Must not know what is trained.
"""

import io
import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from braindecode_biot.files import write_whole

try:
    from lightning.pytorch import LightningDataModule, LightningModule, Trainer
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger
    from lightning.pytorch.plugins.environments import (
        SLURMEnvironment,
        TorchElasticEnvironment,
    )
    from lightning.pytorch.plugins.io import TorchCheckpointIO
except ImportError as error:
    raise ImportError(
        "Pretraining runs on Lightning, which is not installed: "
        'pip install "braindecode-biot[pretrain]".'
    ) from error

__all__ = [
    "CSVLogger",
    "Callback",
    "LastCheckpoint",
    "LightningDataModule",
    "LightningModule",
    "ModelCheckpoint",
    "TermIsInterrupt",
    "Trainer",
    "WholeFiles",
    "launched",
    "without_chatter",
]


class WholeFiles(TorchCheckpointIO):
    """Write checkpoints whole or not at all, on any disk.

    Lightning's own are written in the folder for temporary files, and moved: to another
    disk that is a copy, of which a process that is killed leaves a part.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save a checkpoint in the place of the one before."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_whole(Path(path), buffer.getvalue())


class LastCheckpoint(Callback):
    """Keep where a run can be gone on with: every so many steps, and where it ends.

    At the end of an epoch it is kept only if that was whole. Where a run stops within
    one, as by ``max_steps``, Lightning counts it as done, and a checkpoint of its own
    callbacks would go on with the next one.

    Parameters
    ----------
    path : Path
        The checkpoint's place.
    every_n_steps : int
        Steps between two.
    """

    def __init__(self, path: Path, every_n_steps: int) -> None:
        self.path, self.every_n_steps = path, every_n_steps
        self._step = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Know what is kept already."""
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep a step, unless gradients are still accumulated."""
        step = trainer.global_step
        is_due = step % self.every_n_steps == 0 or step == trainer.max_steps
        if is_due and step != self._step:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the end of an epoch."""
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save(trainer)

    def _save(self, trainer: Any) -> None:
        self._step = trainer.global_step
        trainer.save_checkpoint(self.path)


class TermIsInterrupt(Callback):
    """Let SIGTERM end a run at once, as Ctrl-C does.

    Lightning would have the processes agree within the signal's handler, where each may
    wait for the other's gradients for ever.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the signal; the engine gives it back at the end."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)


def launched() -> dict[str, int]:
    """Tell how many processes ``torchrun`` or ``srun`` started.

    Returns
    -------
    dict of str to int
        ``devices`` and ``num_nodes``, arguments of a Trainer, so that they need not be
        said twice; empty where neither did.
    """
    env = os.environ
    if TorchElasticEnvironment.detect():
        on_each = int(env["LOCAL_WORLD_SIZE"])
        return {"devices": on_each, "num_nodes": int(env["WORLD_SIZE"]) // on_each}
    if "SLURM_NTASKS_PER_NODE" in env and SLURMEnvironment.detect():
        on_each = int(env["SLURM_NTASKS_PER_NODE"])
        return {"devices": on_each, "num_nodes": int(env.get("SLURM_NNODES", 1))}
    return {}


@contextmanager
def without_chatter() -> Iterator[None]:
    """Keep back what Lightning says of itself; warnings of data and devices stay."""
    loggers = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in (
            ".* does not have many workers",
            "Checkpoint directory .* exists and is not empty",
            r"The number of training batches \(\d+\) is smaller than the logging",
            ".*treespec, LeafSpec",
            "Total length of `list` across ranks is zero",  # nothing to validate on
        ):
            warnings.filterwarnings("ignore", message)
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
