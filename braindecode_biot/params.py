"""What the parameters of an estimator may be.

Owns their checks, which scikit-learn wants in ``fit`` and not in the constructor. Must
not know data nor a network.
"""

from numbers import Integral, Real
from typing import Any

from sklearn.metrics import get_scorer_names
from skorch.callbacks import Callback

from braindecode_biot.augmentation import RandomMissing

__all__ = ["check_params", "check_training_params"]


def check_params(estimator: Any) -> None:
    """Refuse parameters of any estimator by which no windows can be read.

    Parameters
    ----------
    estimator : BIOTClassifier, BIOTRegressor or BIOTEmbedding
        With its parameters as attributes.

    Raises
    ------
    ValueError
        A parameter has none of its values.
    """
    _check_count(estimator, "batch_size")
    if estimator.missing not in ("raise", "mask"):
        raise ValueError(f"missing is 'raise' or 'mask', got {estimator.missing!r}.")


def check_training_params(estimator: Any) -> None:
    """Refuse parameters that make no fit.

    Parameters
    ----------
    estimator : BIOTClassifier or BIOTRegressor
        With its parameters as attributes.

    Raises
    ------
    ValueError, TypeError
        A parameter has none of its values, or contradicts another.
    """
    check_params(estimator)
    for name in ("max_epochs", "patience", "lora_rank"):
        if name != "patience" or estimator.patience is not None:
            _check_count(estimator, name)
    fraction = estimator.validation_fraction
    if not isinstance(fraction, Real) or not 0 <= float(fraction) < 1:
        raise ValueError(
            f"validation_fraction must be at least 0 and below 1, got {fraction!r}."
        )
    if estimator.lr_schedule not in ("cosine", None):
        raise ValueError(
            f"lr_schedule is 'cosine' or None, got {estimator.lr_schedule!r}."
        )
    share = estimator.augment_missing
    if not isinstance(share, RandomMissing) and not (
        isinstance(share, Real) and 0 <= float(share) <= 1
    ):
        raise ValueError(
            f"augment_missing is a share from 0 to 1 or RandomMissing, got {share!r}."
        )
    if share != 0 and estimator.missing == "raise":
        raise ValueError(
            "augment_missing removes data from the training windows, which "
            "missing='mask' allows, but missing is 'raise'."
        )
    for callback in estimator.callbacks or ():
        if not isinstance(callback, Callback):
            raise TypeError(
                "callbacks is a list of skorch.callbacks.Callback instances, but "
                f"holds {callback!r}."
            )
    _check_finetuning(estimator)
    if estimator.monitor not in ("valid_loss", *get_scorer_names()):
        raise ValueError(
            "monitor is 'valid_loss' or one of sklearn.metrics.get_scorer_names(), "
            f"got {estimator.monitor!r}."
        )


def _check_count(estimator: Any, name: str) -> None:
    value = getattr(estimator, name)
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}.")


def _check_finetuning(estimator: Any) -> None:
    if estimator.finetune not in ("full", "layerwise", "lora", "head"):
        raise ValueError(
            "finetune is 'full', 'layerwise', 'lora' or 'head', got "
            f"{estimator.finetune!r}."
        )
    decay = estimator.layer_decay
    if not isinstance(decay, Real) or not 0 < float(decay) <= 1:
        raise ValueError(f"layer_decay must be above 0 and at most 1, got {decay!r}.")
    n_frozen = estimator.freeze_epochs
    if not isinstance(n_frozen, Integral) or not (
        0 <= int(n_frozen) < estimator.max_epochs
    ):
        raise ValueError(
            "freeze_epochs must be a whole number from 0 to below max_epochs="
            f"{estimator.max_epochs}, got {n_frozen!r}. finetune='head' trains nothing "
            "but the head."
        )
    if estimator.finetune == "lora" and n_frozen:
        raise ValueError(
            f"freeze_epochs={n_frozen} freezes the encoder, to which finetune="
            "'lora' adds but updates. Use one of them."
        )
    if estimator.pretrained is None and (estimator.finetune != "full" or n_frozen):
        raise ValueError(
            f"finetune={estimator.finetune!r} and freeze_epochs={n_frozen} are ways to "
            "tune pretrained weights, but pretrained is None."
        )
