"""How pretrained weights are tuned: which move, how fast, and from when.

Owns the pretrained model that a fit begins with, the learning rates of layers, the
freezing of all but the head, low-rank updates (peft's), and the head's direct fit on
embeddings. Must not know recordings nor scikit-learn's contract.
"""

import inspect
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from skorch import NeuralNet
from skorch.callbacks import Callback
from torch import Tensor, nn

from braindecode_biot.checkpoints import Source, read_checkpoint
from braindecode_biot.configs import arguments_for
from braindecode_biot.loading import load_checkpoint
from braindecode_biot.model import BIOT
from braindecode_biot.signal import SignalParams

__all__ = [
    "Frozen",
    "add_low_rank",
    "fit_head",
    "layer_rates",
    "load_pretrained",
    "made_with",
    "merge_low_rank",
    "set_default_hop",
]

_SIGNAL = SignalParams.__required_keys__ | SignalParams.__optional_keys__


def made_with(model: BIOT) -> dict[str, Any]:
    """Return the arguments that a model was made with, but for its signal's."""
    given = model._braindecode_init_kwargs
    return {key: value for key, value in given.items() if key not in _SIGNAL}


def set_default_hop(arguments: dict[str, Any], sfreq: float) -> None:
    """Make the hop of a model half a token, unless its arguments tell one."""
    token_size = arguments.get("token_size") or int(sfreq)
    arguments.setdefault("hop_length", max(1, int(token_size) // 2))


def load_pretrained(source: Source | BIOT, arguments: dict[str, Any]) -> BIOT:
    """Make a model for these windows with pretrained weights and a new head.

    Parameters
    ----------
    source : path, str, mapping or BIOT
        Checkpoint, as for :meth:`BIOT.from_checkpoint`, or a model.
    arguments : dict
        Arguments of BIOT that count more than the source's, with the signal's.

    Returns
    -------
    BIOT
        With ``load_report_``. The hop is half a token, unless told on either side.

    Raises
    ------
    CheckpointError, OSError
        As for :meth:`BIOT.from_checkpoint`.
    """
    names = None
    scaling_given = "input_scaling" in arguments
    if isinstance(source, BIOT):
        told = made_with(source)
        names = told.pop("channel_names", None)
        arguments = told | arguments
        source = source.state_dict()
    checkpoint = read_checkpoint(source)
    arguments = arguments_for(
        checkpoint,
        arguments,
        head=None,
        checkpoint_channels=names,
        known=inspect.signature(BIOT).parameters,
    )
    arguments["return_feature"] = False  # a pair is no loss's input
    set_default_hop(arguments, arguments["sfreq"])
    model = BIOT(**arguments)
    load_checkpoint(
        model,
        checkpoint,
        head=None,
        new_channels="mean",
        checkpoint_channels=names,
        scaling_given=scaling_given,
    )
    return model


def layer_rates(
    n_layers: int, lr: float, decay: float
) -> list[tuple[str, dict[str, float]]]:
    """Give each layer its learning rate, the lower the further from the head.

    Parameters
    ----------
    n_layers : int
        Encoder layers.
    lr : float
        Learning rate of the head.
    decay : float
        What each layer down multiplies it with.

    Returns
    -------
    list of (str, dict)
        Patterns of weights' names with their learning rates, as skorch's
        ``optimizer__param_groups`` takes them. The head keeps ``lr``.

    Examples
    --------
    >>> layer_rates(2, lr=1.0, decay=0.5)
    [('tokens.*', {'lr': 0.125}), ('encoder.layers.0.*', {'lr': 0.25}), \
('encoder.layers.1.*', {'lr': 0.5})]
    """
    layers = ["tokens.*", *(f"encoder.layers.{i}.*" for i in range(n_layers))]
    return [
        (pattern, {"lr": lr * decay ** (n_layers + 1 - depth)})
        for depth, pattern in enumerate(layers)
    ]


class Frozen(Callback):
    """Keep weights as they are for the first epochs of a net's history.

    Parameters
    ----------
    n_epochs : int | None
        How many; None is all of them.
    """

    def __init__(self, n_epochs: int | None) -> None:
        self.n_epochs = n_epochs

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Freeze or release them."""
        # skorch has opened the row of this epoch already.
        done = len(net.history) - 1
        self._set(net.module_, self.n_epochs is not None and done >= self.n_epochs)

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """Leave a net behind of which all weights can move."""
        self._set(net.module_, True)

    @staticmethod
    def _set(model: BIOT, moves: bool) -> None:
        for part in (model.tokens, model.encoder):
            part.requires_grad_(moves)


def fit_head(net: NeuralNet, embeddings: Tensor, labels: NDArray[Any]) -> None:
    """Fit the head alone: a logistic or ridge regression on the embeddings.

    The head is linear, so that its best weights can be had at once, from embeddings
    without dropout; the penalty is scikit-learn's default on standardized features.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized; its head is replaced, its history gets one row. The weights of its
        loss are those of the classes.
    embeddings : Tensor, shape (n_windows, emb_size)
        Of the windows.
    labels : array of int, shape (n_windows,) or of float32, (n_windows, n_targets)
        Encoded labels, of all classes; or standardised targets, for a ridge
        regression.

    Raises
    ------
    ValueError
        If a class has no window.
    """
    model: BIOT = net.module_
    activation, linear = model.final_layer[0], cast(nn.Linear, model.final_layer[1])
    with torch.no_grad():
        features = activation(embeddings.to(net.device)).cpu().double().numpy()
    scaler = StandardScaler()
    standard = scaler.fit_transform(features)
    regression: Any = Ridge()
    if labels.ndim == 1:
        regression = _logistic_regression(net, labels)
    regression.fit(standard, labels)
    # For a single target scikit-learn drops the axis.
    slopes = np.atleast_2d(regression.coef_) / scaler.scale_
    offset = np.atleast_1d(regression.intercept_)
    offset = offset - slopes @ scaler.mean_
    if len(slopes) < model.n_outputs:  # for two classes, the second's log odds
        slopes, offset = np.r_[-slopes, slopes] / 2, np.r_[-offset, offset] / 2
    with torch.no_grad():
        linear.weight.copy_(torch.as_tensor(slopes))
        linear.bias.copy_(torch.as_tensor(offset))
        outputs = torch.as_tensor(features @ slopes.T + offset).float().to(net.device)
        loss = net.criterion_(outputs, torch.as_tensor(labels, device=net.device))
    net.history.new_epoch()
    net.history.record("epoch", len(net.history))
    net.history.record("train_loss", float(loss))


def _logistic_regression(net: NeuralNet, labels: NDArray[np.intp]) -> Any:
    n_classes = net.module_.n_outputs
    if len(np.unique(labels)) < n_classes:
        raise ValueError(
            f"finetune='head' fits a logistic regression, for which windows of all "
            f"{n_classes} classes are needed, got {len(np.unique(labels))}."
        )
    weight = net.criterion_.weight
    weights = None if weight is None else dict(enumerate(weight.tolist()))
    return LogisticRegression(max_iter=1000, class_weight=weights)


def add_low_rank(net: NeuralNet, rank: int) -> None:
    """Let the encoder's linear layers learn updates of low rank only.

    Low-rank adaptation (Hu et al. 2021, doi:10.48550/arXiv.2106.09685) by peft: each
    weight :math:`W` stays, and :math:`W + BA` is used with trained :math:`A` and
    :math:`B` of that rank. The head is trained as it is.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialized; its optimizer is made anew for what can move now.
    rank : int
        Rank of the updates.

    Raises
    ------
    ImportError
        If peft is not installed.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(
            "finetune='lora' needs peft: pip install 'braindecode-biot[lora]'."
        ) from error
    encoder: nn.Module = net.module_.encoder
    layers = [name for name, m in encoder.named_modules() if isinstance(m, nn.Linear)]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)
    inject_adapter_in_model(config, encoder)  # freezes the encoder's own weights
    net.module_.tokens.requires_grad_(False)
    net.initialize_optimizer()


def merge_low_rank(model: BIOT) -> None:
    """Add low-rank updates to the weights, so that the model is as any other.

    Parameters
    ----------
    model : BIOT
        After :func:`add_low_rank`; any other stays as it is.
    """
    for name, layer in list(model.encoder.named_modules()):
        if hasattr(layer, "lora_A") and hasattr(layer, "get_base_layer"):
            layer.merge()
            model.encoder.set_submodule(name, layer.get_base_layer())
    model.requires_grad_(True)
