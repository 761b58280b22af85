"""Pretraining as Lightning modules: contrastive, and supervised on several data sets.

Owns what a step computes, what is optimised, and what a checkpoint holds. Views come
from ``views``, losses from ``losses``, tasks from ``tasks``, windows from
``pretraining_data``. Must not read files.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from braindecode_biot.engine import LightningModule
from braindecode_biot.losses import alignment, info_nce, spread, uniformity
from braindecode_biot.model import BIOT
from braindecode_biot.pretraining_data import Batch
from braindecode_biot.sampling import mixed
from braindecode_biot.saving import save_state
from braindecode_biot.tasks import Task
from braindecode_biot.views import check_drops, drop_tokens
from braindecode_biot.weights import to_official

__all__ = ["ContrastivePretraining", "JointPretraining"]

_TRAIN, _VALID = 0, 1


class _Mean(Metric):
    """A mean over the windows of an epoch, and of all processes.

    That of torchmetrics looks for NaN, which waits for a GPU, or forgets the weights.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, total: Tensor, count: Tensor) -> None:
        self.total += total
        self.count += count

    def compute(self) -> Tensor:
        return self.total / self.count


class _Pretraining(LightningModule):
    """What both kinds share: the encoder, the optimiser, seeds and checkpoints.

    Parameters
    ----------
    model : BIOT
        Whose encoder is trained. Its own head is left as it is.
    lr, weight_decay : float
        Of Adam.
    decay_steps : int
        Steps after which the learning rate is multiplied by ``decay``, again and again.
    decay : float
        By how much.
    seed : int
        What views, dropout and so on follow from, with the step.
    """

    #: Whether windows are told from the others of their batch.
    compares_windows = False

    def __init__(
        self,
        model: BIOT,
        *,
        lr: float,
        weight_decay: float,
        decay_steps: int,
        decay: float,
        seed: int,
    ) -> None:
        super().__init__()
        if not isinstance(model, BIOT):
            raise TypeError(f"Expected a BIOT to train, got a {type(model).__name__}.")
        if not lr > 0 or decay_steps < 1 or not 0 < decay <= 1 or weight_decay < 0:
            raise ValueError(
                "Expected lr > 0, weight_decay ≥ 0, decay_steps ≥ 1 and 0 < decay ≤ 1, "
                f"got {lr=}, {weight_decay=}, {decay_steps=}, {decay=}."
            )
        self.model = model.train()  # loaded ones are in evaluation mode
        self.lr, self.weight_decay = lr, weight_decay
        self.decay_steps, self.decay = decay_steps, decay
        self.seed = seed

    def forward(self, windows: Tensor) -> Tensor:
        """Embed windows, shape (batch, n_chans, n_times), into (batch, emb_size)."""
        features: Tensor = self.model(windows, return_features=True)["features"]
        return features

    def configure_optimizers(self) -> dict[str, Any]:
        """Make the recipe's Adam, and the schedule of its learning rate."""
        own_head = set(self.model.final_layer.parameters())
        trained = [
            p for p in self.parameters() if p.requires_grad and p not in own_head
        ]
        optimizer = torch.optim.Adam(
            trained, lr=self.lr, weight_decay=self.weight_decay
        )
        schedule = torch.optim.lr_scheduler.StepLR(
            optimizer, self.decay_steps, self.decay
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Seed what is drawn, by the step alone.

        A run that was interrupted goes on as if it had not been; no generator's state
        is kept, of which each process has its own.
        """
        self._sow(_TRAIN, self.current_epoch, batch_idx)

    def on_validation_batch_start(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Draw the same in each validation."""
        self._sow(_VALID, 0, batch_idx)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the model is beside its weights, from which it can be made.

        Raises
        ------
        ValueError
            If weights are not finite: they would replace those that were.
        """
        if not all(p.isfinite().all() for p in self.parameters()):
            raise ValueError(
                f"Weights are NaN or inf after {self.global_step} steps; no checkpoint "
                "was written, and those before stay. Use a lower lr, clip gradients "
                "(gradient_clip_val), or look at the windows."
            )
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        accumulated = progress.current.ready % self.trainer.accumulate_grad_batches
        if accumulated and not progress.is_last_batch:
            warnings.warn(
                f"This checkpoint is {accumulated} batches into the accumulation of "
                "gradients, which it does not hold: going on from it, those are lost. "
                "Write checkpoints after steps (every_n_train_steps).",
                stacklevel=2,
            )
        checkpoint["biot_config"] = json.dumps(self.model.get_config())
        checkpoint["pretraining"] = self._settings()
        # An untrained head would be taken for a trained one.
        for name in self._own_head():
            checkpoint["state_dict"].pop(name, None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Require a checkpoint of the same configuration.

        Raises
        ------
        ValueError
            If the model, the objective or the optimiser is another.
        """
        config, settings = checkpoint.get("biot_config"), checkpoint.get("pretraining")
        if config is None or settings is None:
            raise ValueError(
                "The checkpoint is of no pretraining by this package. Load its weights "
                "by BIOT.from_checkpoint(path), and begin a new run with them."
            )
        then = {"model": json.loads(config), "pretraining": settings}
        now = {"model": self.model.get_config(), "pretraining": self._settings()}
        changed = [
            f"{key}: {then[of].get(key)!r} then, {now[of].get(key)!r} now"
            for of in now
            for key in sorted(now[of].keys() | then[of].keys())
            # As text, in which an unknown position, NaN, equals itself.
            if json.dumps(then[of].get(key)) != json.dumps(now[of].get(key))
        ]
        if changed:
            raise ValueError(
                "The checkpoint is of another configuration "
                f"({'; '.join(changed)}). Go on with the same, or begin a new run from "
                "its weights: BIOT.from_checkpoint(path)."
            )
        checkpoint["state_dict"].update(self._own_head())

    def save_official(self, path: str | PathLike[str]) -> Path:
        """Save all that was trained in the layout of the official repository.

        Parameters
        ----------
        path : str | path
            File: a name that ends in ``.ckpt``, ``.pt``, ``.pth``, ``.bin`` or
            ``.safetensors``.

        Returns
        -------
        Path
            The file.
        """
        encoder = to_official(self.model.state_dict(), head=False)
        state = {f"biot.{key}": value for key, value in encoder.items()}
        return save_state(state | self._official_rest(), path)

    def _official_rest(self) -> dict[str, Tensor]:
        """Return what is trained beside the encoder under its official names."""
        raise NotImplementedError

    def _settings(self) -> dict[str, Any]:
        """Return what a run cannot change while it goes on."""
        names = ("lr", "weight_decay", "decay_steps", "decay", "seed")
        return {"kind": type(self).__name__} | {n: getattr(self, n) for n in names}

    def _own_head(self) -> dict[str, Tensor]:
        return {
            f"model.{name}": value
            for name, value in self.model.state_dict().items()
            if name.startswith("final_layer.")
        }

    def _for_engines(self, loss: Tensor) -> Tensor:
        """Give BIOT's own head, which has no part in the loss, a gradient of zero.

        Distributed engines wait for one of every parameter.
        """
        parameters = self.model.final_layer.parameters()
        return loss + 0 * sum(parameter.sum() for parameter in parameters)

    def _sow(self, *where: int) -> None:
        torch.manual_seed(mixed(self.seed, *where, self.global_rank))

    def _log(self, stage: str, values: Mapping[str, Tensor], n: int) -> None:
        """Log means over the windows of all batches and processes."""
        on_step = stage == "train"
        for name, value in values.items():
            self.log(
                f"{stage}/{name}",
                value.detach(),
                on_step=on_step and name == "loss",
                on_epoch=True,
                prog_bar=name == "loss",
                batch_size=n,
                sync_dist=True,
            )


class ContrastivePretraining(_Pretraining):
    r"""Train an encoder to recognise windows of which only a part is left.

    Of each window some channels and tokens are dropped, by
    :func:`~braindecode_biot.views.drop_tokens`. A predictor (linear, GELU, linear) is
    to bring the embedding of what is left nearer to that of the whole window than those
    of all other windows of the batch, over all processes, by
    :func:`~braindecode_biot.losses.info_nce` (paper, section 2.4).

    Parameters
    ----------
    model : BIOT
        Whose encoder is trained.
    temperature : float
        Of InfoNCE.
    least_tokens, most_channels : float
        Shares of a channel's tokens that are kept at least, and of a window's channels
        that are dropped at most.
    lr, weight_decay : float
        Of Adam.
    decay_steps, decay : int, float
        Every so many steps the learning rate is multiplied by so much.
    seed : int
        What is drawn follows from it, with epoch, batch and process.

    Attributes
    ----------
    model : BIOT
        The model, in training.
    prediction : nn.Sequential
        The predictor.

    Raises
    ------
    TypeError
        If ``model`` is no BIOT.
    ValueError
        If a number is out of range, or windows of the model's length have a single
        token, of which nothing can be dropped.

    References
    ----------
    Yang, C., Westover, M.B. and Sun, J., 2023. BIOT: Biosignal Transformer for
    Cross-data Learning in the Wild. NeurIPS. doi:10.48550/arXiv.2305.10351

    Notes
    -----
    Logged under ``train/`` and ``valid/``: ``loss``; ``alignment`` of the predictions
    with the embeddings; ``uniformity`` and ``spread`` of the embeddings. Where these
    two go to 0 the embeddings collapse. :math:`\log` of the batch's windows, over all
    processes, is the loss by chance. Gradients that are accumulated over batches make
    no batch larger. The model is left in training mode, and torch's generators as they
    were seeded for the last step.

    Examples
    --------
    >>> from braindecode_biot import BIOT
    >>> model = BIOT(n_chans=4, n_outputs=1, n_times=400, emb_size=32, n_layers=1)
    >>> module = ContrastivePretraining(model)
    >>> embeddings, predictions = module.views(torch.randn(8, 4, 400))
    >>> predictions.shape
    torch.Size([8, 32])
    """

    compares_windows = True

    def __init__(
        self,
        model: BIOT,
        *,
        temperature: float = 0.2,
        least_tokens: float = 0.5,
        most_channels: float = 0.25,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        decay_steps: int = 10_000,
        decay: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__(
            model,
            lr=lr,
            weight_decay=weight_decay,
            decay_steps=decay_steps,
            decay=decay,
            seed=seed,
        )
        check_drops(least_tokens, most_channels)
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature!r}.")
        loses_tokens = model.n_frames > 1 and least_tokens < 1
        loses_channels = int(model.n_chans * most_channels + 1e-6) > 0
        if not (loses_tokens or loses_channels):
            raise ValueError(
                f"Windows of {model.n_times} samples in {model.n_chans} channels have "
                f"{model.n_frames} tokens per channel, of which nothing can be dropped "
                f"with {least_tokens=} and {most_channels=}: both views would be the "
                "same. Use longer windows, shorter tokens, or drop more."
            )
        self.temperature = temperature
        self.least_tokens, self.most_channels = least_tokens, most_channels
        size = model.emb_size
        self.prediction = nn.Sequential(
            nn.Linear(size, size), nn.GELU(), nn.Linear(size, size)
        )
        self.save_hyperparameters(ignore=["model"])

    def views(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Embed windows, and predict their embeddings from a part of each.

        Parameters
        ----------
        windows : Tensor, shape (batch, n_chans, n_times)
            Windows, NaN where something is missing.

        Returns
        -------
        embeddings, predictions : Tensor, shape (batch, emb_size)
            Of the whole windows, and of what was left of them.
        """
        spectra, rows, present = self.model._read(windows, None, None)
        shape = spectra.shape[:3]
        if present is None:
            there = torch.ones(shape, dtype=torch.bool, device=spectra.device)
        else:
            there = present.reshape(shape)
        kept = self.draw(there).flatten(1)
        embeddings = self.model._embed(spectra, rows, present)
        predictions: Tensor = self.prediction(self.model._embed(spectra, rows, kept))
        return embeddings, predictions

    def draw(self, present: Tensor) -> Tensor:
        """Draw the tokens that the second view keeps.

        Parameters
        ----------
        present : Tensor of bool, shape (batch, n_chans, n_frames)
            Tokens that are there.

        Returns
        -------
        Tensor of bool, shape (batch, n_chans, n_frames)
            Some of them.
        """
        return drop_tokens(present, self.least_tokens, self.most_channels)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; with those of the other processes."""
        return self._step("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss of a batch, and the measures."""
        self._step("valid", batch)

    def _step(self, stage: str, batch: Batch) -> Tensor:
        embeddings, predictions = self.views(batch.windows)
        candidates, numbers, first = predictions, batch.number, 0
        if self.trainer.world_size > 1:
            # With gradients: windows are also the others' negatives.
            candidates = self.all_gather(predictions, sync_grads=True).flatten(0, 1)
            numbers = self.all_gather(batch.number).flatten()
            first = self.global_rank * len(predictions)
        # A window that came twice is no negative of itself.
        excluded = batch.number[:, None] == numbers
        loss = info_nce(embeddings, candidates, self.temperature, first, excluded)
        with torch.no_grad():
            measures = {
                "alignment": alignment(embeddings, predictions),
                "uniformity": uniformity(embeddings),
                "spread": spread(embeddings),
            }
        self._log(stage, {"loss": loss} | measures, len(embeddings))
        return self._for_engines(loss)

    def _official_rest(self) -> dict[str, Tensor]:
        state = self.prediction.state_dict()
        return {f"prediction.{key}": value for key, value in state.items()}

    def _settings(self) -> dict[str, Any]:
        names = ("temperature", "least_tokens", "most_channels")
        return super()._settings() | {name: getattr(self, name) for name in names}


class JointPretraining(_Pretraining):
    """Train one encoder on several labelled data sets, with a head for each.

    A batch may hold windows of all of them, with other channels, lengths and labels.
    The loss is the sum over tasks of ``weight`` times the mean over the task's windows
    in the batch, over all processes (paper, section 3.4).

    Parameters
    ----------
    model : BIOT
        Whose encoder is trained. With ``missing="mask"`` and ``channel_names`` data
        sets may have some of the channels, and any length.
    tasks : mapping of str to Task
        What is learned, by name. The data have the same names.
    lr, weight_decay : float
        Of Adam.
    decay_steps, decay : int, float
        Every so many steps the learning rate is multiplied by so much.
    seed : int
        What dropout follows from, with epoch, batch and process.

    Attributes
    ----------
    model : BIOT
        The model, in training.
    heads : nn.ModuleDict
        A head for each task, as BIOT's own.

    Raises
    ------
    TypeError
        If ``model`` is no BIOT.
    ValueError
        If there is no task, a name is no identifier, or a number is out of range.

    Notes
    -----
    Logged under ``train/`` and ``valid/``: ``loss``, and that of each task by its name,
    without its weight.

    References
    ----------
    Yang, C., Westover, M.B. and Sun, J., 2023. BIOT: Biosignal Transformer for
    Cross-data Learning in the Wild. NeurIPS. doi:10.48550/arXiv.2305.10351

    Examples
    --------
    >>> from braindecode_biot import BIOT
    >>> model = BIOT(
    ...     channel_names="tcp-18", missing="mask", n_times=2000, n_outputs=1
    ... )
    >>> tasks = {
    ...     "tuab": Task(["normal", "abnormal"], "balanced", channel_names="tcp-16"),
    ...     "tuev": Task(["spsw", "gped", "pled", "eyem", "artf", "bckg"]),
    ... }
    >>> JointPretraining(model, tasks).classifier("tuev").n_outputs
    6
    """

    def __init__(
        self,
        model: BIOT,
        tasks: Mapping[str, Task],
        *,
        lr: float = 1e-4,
        weight_decay: float = 1e-5,
        decay_steps: int = 10_000,
        decay: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__(
            model,
            lr=lr,
            weight_decay=weight_decay,
            decay_steps=decay_steps,
            decay=decay,
            seed=seed,
        )
        if not tasks or not all(str(name).isidentifier() for name in tasks):
            raise ValueError(
                "Expected tasks by names such as 'tuab', of letters, digits and "
                f"underscores, got {list(tasks)}."
            )
        self.tasks = dict(tasks)
        self.heads: Any = nn.ModuleDict(
            {name: model._head(task.n_outputs) for name, task in tasks.items()}
        )
        self._means: Any = nn.ModuleDict(
            {
                f"{stage}_{name}": _Mean()
                for stage in ("train", "valid")
                for name in tasks
            }
        )
        self.save_hyperparameters(ignore=["model", "tasks"])

    def classifier(self, name: str) -> BIOT:
        """Make a model of the encoder and a task's head.

        Parameters
        ----------
        name : str
            The task's.

        Returns
        -------
        BIOT
            A copy, in evaluation mode, to be saved or used by itself.

        Raises
        ------
        KeyError
            If there is no such task.
        """
        if name not in self.tasks:
            raise KeyError(f"There is no task {name!r}; there are {list(self.tasks)}.")
        config = self.model.get_config() | {"n_outputs": self.tasks[name].n_outputs}
        made: BIOT = BIOT.from_config(config)
        head = self.heads[name].state_dict()
        state = self.model.state_dict() | {
            f"final_layer.{key}": value for key, value in head.items()
        }
        made.load_state_dict(state)
        return made.eval()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; with those of the other processes."""
        return self._step("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the losses of a batch."""
        self._step("valid", batch)

    def _step(self, stage: str, batch: Batch) -> Tensor:
        features = self(batch.windows)
        own = torch.stack([batch.task == i for i in range(len(self.tasks))])
        # Means are over the windows of all processes, however they are shared out.
        n_own = self.trainer.strategy.reduce(own.sum(1), reduce_op="sum")
        shares = self.trainer.world_size / n_own.clamp(min=1)
        total = features.new_zeros((), dtype=torch.float32)
        for i, (name, task) in enumerate(self.tasks.items()):
            # All windows through each head, so that each has a gradient in each step.
            logits = self.heads[name](features)
            targets = batch.target.masked_fill(~own[i], 0)
            losses = task.losses(logits, targets).masked_fill(~own[i], 0)
            total = total + task.weight * shares[i] * losses.sum()
            mean = self._means[f"{stage}_{name}"]
            mean.update(losses.detach().sum(), own[i].sum())
            self.log(f"{stage}/{name}", mean, on_step=False, on_epoch=True)
        self._log(stage, {"loss": total}, len(features))
        return self._for_engines(total)

    def _official_rest(self) -> dict[str, Tensor]:
        return {
            f"classifier_{name}.clshead.1.{kind}": value
            for name, head in self.heads.items()
            for kind, value in head[-1].state_dict().items()
        }

    def _settings(self) -> dict[str, Any]:
        tasks = {name: asdict(task) for name, task in self.tasks.items()}
        return super()._settings() | {"tasks": tasks}
