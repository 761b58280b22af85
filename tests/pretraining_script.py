"""A pretraining run by itself, which tests start in processes of its own.

    python pretraining_script.py gradients OUT WORLD     over WORLD processes
    python pretraining_script.py run OUT KILL_AT WORKERS  killed at a step, or −1

The first keeps the losses and gradients of some steps with fixed views, the second the
weights at the end; started again, it goes on from its last checkpoint.
"""

import os
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

warnings.simplefilter("ignore")  # of braindecode's imports, and of Lightning's advice

from lightning.pytorch import Trainer  # noqa: E402
from lightning.pytorch.callbacks import Callback, ModelCheckpoint  # noqa: E402

from braindecode_biot import BIOT  # noqa: E402
from braindecode_biot.pretraining import (  # noqa: E402
    ContrastivePretraining,
    JointPretraining,
)
from braindecode_biot.pretraining_data import PretrainingData  # noqa: E402
from braindecode_biot.tasks import Task  # noqa: E402
from braindecode_biot.views import drop_tokens  # noqa: E402

SFREQ, N_TIMES = 40, 160
NAMES = ["C3", "C4", "Pz"]


def windows(n, seed):
    x = np.random.default_rng(seed).normal(size=(n, len(NAMES), N_TIMES))
    x[::3, 1, :70] = np.nan
    return x.astype(np.float32)


def make_model(drop):
    torch.manual_seed(0)
    return BIOT(
        emb_size=16,
        att_num_heads=2,
        n_layers=2,
        sfreq=SFREQ,
        hop_length=20,
        n_outputs=1,
        n_times=N_TIMES,
        channel_names=NAMES,
        missing="mask",
        drop_prob=drop,
        att_layer_drop_prob=drop,
    )


class FixedViews(ContrastivePretraining):
    """Draws for the batch of all processes, and takes its own share of that."""

    def draw(self, present):
        world, rank = self.trainer.world_size, self.global_rank
        shape = (len(present) * world, *present.shape[1:])
        generator = torch.Generator().manual_seed(self.global_step)
        kept = drop_tokens(torch.ones(shape, dtype=torch.bool), generator=generator)
        return present & kept[rank::world]


class Gradients(Callback):
    """Keeps losses and gradients."""

    def __init__(self):
        self.found = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        own = {n: p.grad.clone() for n, p in module.named_parameters()}
        loss = trainer.strategy.reduce(self.loss, reduce_op="mean")
        self.found.append((loss, own))

    def on_train_batch_end(self, *args):
        pass

    def on_before_backward(self, trainer, module, loss):
        self.loss = loss.detach().clone()


def gradients(out, world):
    tasks = {
        "two": Task(["a", "b"], "focal", weight=3),
        "three": Task([1, 2, 3], channel_names=["C4", "Pz"]),
    }
    x = windows(24, 1)
    runs = {
        "contrastive": (FixedViews(make_model(0.0)), PretrainingData, x, None),
        "joint": (
            JointPretraining(make_model(0.0), tasks),
            PretrainingData,
            {"two": x, "three": windows(7, 2)[:, 1:]},
            {"two": ["a", "b", "a"] * 8, "three": [1, 2, 3, 1, 2, 3, 1]},
        ),
    }
    kept = {}
    for name, (module, data, x, labels) in runs.items():
        callback = Gradients()
        trainer = Trainer(
            accelerator="cpu",
            devices=world,
            strategy="ddp" if world > 1 else "auto",
            precision="64-true",
            max_steps=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[callback],
        )
        size = 8 // world
        trainer.fit(
            module,
            data(x, labels=labels, batch_size=size, sfreq=SFREQ, balance="windows"),
        )
        if trainer.is_global_zero:
            kept[name] = callback.found
    if trainer.is_global_zero:
        torch.save(kept, out)


class Kill(Callback):
    """Kills the process in the middle of a step, as a cluster does."""

    def __init__(self, step):
        self.step = step

    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run(out, kill_at, n_workers):
    module = ContrastivePretraining(make_model(0.2), lr=1e-2, decay_steps=4)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ModelCheckpoint(out, every_n_train_steps=2, save_last=True),
            Kill(kill_at),
        ],
    )
    last = out / "last.ckpt"
    data = PretrainingData(
        windows(20, 3), batch_size=4, sfreq=SFREQ, num_workers=n_workers
    )
    trainer.fit(
        module,
        data,
        ckpt_path=last if last.exists() else None,
        weights_only=True,
    )
    torch.save((trainer.global_step, module.state_dict()), out / "end.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    what, out, *numbers = sys.argv[1:]
    {"gradients": gradients, "run": run}[what](Path(out), *map(int, numbers))
