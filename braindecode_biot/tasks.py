"""What the labels of a data set mean, in joint pretraining on several.

Owns a task's classes, its loss and its checks (:class:`Task`). Must not know windows
nor networks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from braindecode_biot.channels import vocabulary
from braindecode_biot.losses import balanced_cross_entropy, focal_loss

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """What is learned from one of several labelled data sets.

    Parameters
    ----------
    classes : sequence
        Its labels, of any kind, in the order of the head's outputs; with "balanced" and
        "focal" two, the positive one last.
    loss : "cross_entropy" | "balanced" | "focal"
        Cross-entropy for any number of classes, or for two
        :func:`~braindecode_biot.losses.balanced_cross_entropy` or
        :func:`~braindecode_biot.losses.focal_loss`, with a single output.
    weight : float
        What the loss counts beside those of other tasks. The official recipe gives
        CHB-MIT, whose focal loss is small, 200.
    channel_names : "tcp-16" | "tcp-18" | sequence of str | None
        Channels that its recordings may have, all of them the model's; what the rows of
        arrays are. None is those of the model.
    n_times : int | None
        Samples that its windows have at most. None is any number.
    positive_share : float
        Of "balanced": the share of the positive class.
    alpha, gamma : float
        Of "focal".

    Raises
    ------
    ValueError
        If there are fewer than two classes, one twice, or not two where there must be;
        the loss is none of these; or a number is out of range.

    Examples
    --------
    >>> Task(["normal", "abnormal"], loss="balanced").n_outputs
    1
    >>> Task(["normal", "abnormal"]).encode(["abnormal", "normal"])
    array([1, 0])
    """

    classes: Sequence[Any]
    loss: Literal["cross_entropy", "balanced", "focal"] = "cross_entropy"
    weight: float = 1.0
    channel_names: str | Sequence[str] | None = None
    n_times: int | None = None
    positive_share: float = 0.5
    alpha: float = 0.8
    gamma: float = 0.7

    def __post_init__(self) -> None:
        """Check what was given, and keep it as it cannot change."""
        if self.loss not in ("cross_entropy", "balanced", "focal"):
            raise ValueError(
                f"loss is 'cross_entropy', 'balanced' or 'focal', got {self.loss!r}."
            )
        classes = [c.item() if isinstance(c, np.generic) else c for c in self.classes]
        if len(classes) < 2 or len(set(classes)) < len(classes):
            raise ValueError(
                f"A task needs at least two classes, each once, got {classes}."
            )
        if any(label != label for label in classes):
            raise ValueError(f"NaN is no class, as it equals none: {classes}.")
        if self.loss != "cross_entropy" and len(classes) != 2:
            raise ValueError(
                f"The loss {self.loss!r} is for two classes, got {classes}. Use "
                "'cross_entropy'."
            )
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be positive, got {self.weight!r}.")
        if not 0 < self.positive_share < 1:
            raise ValueError(
                f"positive_share must be between 0 and 1, got {self.positive_share!r}."
            )
        if not 0 < self.alpha < 1 or not 0 <= self.gamma < math.inf:
            raise ValueError(
                "alpha must be between 0 and 1, and gamma at least 0, got "
                f"{self.alpha!r} and {self.gamma!r}."
            )
        if self.channel_names is not None:
            names = vocabulary(self.channel_names)
            object.__setattr__(self, "channel_names", names)
        object.__setattr__(self, "classes", tuple(classes))

    @property
    def n_outputs(self) -> int:
        """Outputs of the head."""
        return len(self.classes) if self.loss == "cross_entropy" else 1

    def encode(self, labels: Any) -> NDArray[np.intp]:
        """Turn labels into numbers of their classes.

        Parameters
        ----------
        labels : array of shape (n_windows,)
            Labels.

        Returns
        -------
        array of int, shape (n_windows,)
            Numbers of their classes.

        Raises
        ------
        ValueError
            If a label is none of the classes.
        """
        values = labels.tolist() if hasattr(labels, "tolist") else list(labels)
        if np.ndim(labels) != 1:
            raise ValueError(
                f"Labels have the shape {np.shape(labels)}, expected (n_windows,): one "
                "of the classes for each window."
            )
        numbers = {label: i for i, label in enumerate(self.classes)}
        if strange := list(dict.fromkeys(v for v in values if v not in numbers)):
            raise ValueError(
                f"The labels {strange[:5]} are none of the classes "
                f"{list(self.classes)}. Name all of them, or leave these windows out."
            )
        return np.array([numbers[value] for value in values], dtype=np.intp)

    def losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each window.

        Parameters
        ----------
        logits : Tensor, shape (batch, n_outputs)
            What the head says.
        targets : Tensor of int, shape (batch,)
            Numbers of the classes.

        Returns
        -------
        Tensor, shape (batch,)
            In nats, without the task's weight; in float32 at least.
        """
        logits = logits.float() if logits.dtype.itemsize < 4 else logits
        if self.loss == "cross_entropy":
            return F.cross_entropy(logits, targets, reduction="none")
        logits, y = logits[:, 0], targets.to(logits.dtype)
        if self.loss == "focal":
            return focal_loss(logits, y, self.alpha, self.gamma, "none")
        return balanced_cross_entropy(logits, y, self.positive_share, "none")
