"""What every trained estimator does: fits, refits, goes on, from windows to a net.

Owns the course of a fit, for any kind of labels: reading and matching windows, the net
to begin with, the ways of tuning it, and keeping what came out. What labels mean, the
estimators say themselves; how a net is trained stands in ``training``. Must not know
spectra or tokens.
"""

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.history import History
from torch.utils.data import Dataset, Subset

from braindecode_biot.augmentation import (
    RandomMissing,
    as_dense_as_the_paper,
    reseeded,
)
from braindecode_biot.base import WindowsEstimator
from braindecode_biot.checkpoints import Source
from braindecode_biot.finetuning import (
    Frozen,
    add_low_rank,
    fit_head,
    layer_rates,
    load_pretrained,
    made_with,
    merge_low_rank,
)
from braindecode_biot.model import BIOT
from braindecode_biot.params import check_training_params
from braindecode_biot.samples import LabelledWindows, split
from braindecode_biot.signal import SignalParams
from braindecode_biot.training import embed_windows, make_net, pick_device, run, seeded
from braindecode_biot.windows import Windows

__all__ = ["TrainedEstimator"]


class TrainedEstimator(WindowsEstimator):
    """An estimator that trains BIOT on labelled windows.

    What its parameters mean documents :class:`~braindecode_biot.BIOTClassifier`.
    """

    def __init__(
        self,
        *,
        sfreq: float | None = None,
        picks: Any = None,
        exclude: Any = "bads",
        channel_names: str | Sequence[str] | None = None,
        missing: Literal["raise", "mask"] = "raise",
        augment_missing: float | RandomMissing = 0.0,
        pretrained: Source | BIOT | None = None,
        finetune: Literal["full", "layerwise", "lora", "head"] = "full",
        layer_decay: float = 0.75,
        lora_rank: int = 8,
        freeze_epochs: int = 0,
        max_epochs: int = 50,
        batch_size: int = 32,
        lr: float = 1e-3,
        lr_schedule: str | None = "cosine",
        weight_decay: float = 1e-5,
        validation_fraction: float = 0.2,
        monitor: str = "valid_loss",
        patience: int | None = 10,
        random_state: Any = None,
        device: str = "auto",
        verbose: int = 0,
        warm_start: bool = False,
        callbacks: list[Callback] | None = None,
        **module_params: Any,
    ) -> None:
        self.sfreq = sfreq
        self.picks = picks
        self.exclude = exclude
        self.channel_names = channel_names
        self.missing = missing
        self.augment_missing = augment_missing
        self.pretrained = pretrained
        self.finetune = finetune
        self.layer_decay = layer_decay
        self.lora_rank = lora_rank
        self.freeze_epochs = freeze_epochs
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.lr_schedule = lr_schedule
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.monitor = monitor
        self.patience = patience
        self.random_state = random_state
        self.device = device
        self.verbose = verbose
        self.warm_start = warm_start
        self.callbacks = callbacks
        self._set_module_params(module_params)

    @property
    def history_(self) -> History:
        """What happened in each epoch."""
        check_is_fitted(self, "net_")
        return self.net_.history

    @abstractmethod
    def _encode(
        self, y: ArrayLike | None, windows: Windows, go_on: bool, **told: Any
    ) -> tuple[dict[str, Any], NDArray[Any], int]:
        """Turn labels to what a net learns.

        Parameters
        ----------
        y : array of shape (n_windows, ...) | None
            The user's labels; None are the windows' own.
        windows : Windows
            The windows.
        go_on : bool
            Whether what was learned of labels before binds.
        **told
            What else the user said of labels.

        Returns
        -------
        dict, array of shape (n_windows, ...), int
            The fitted attributes that tell of labels, the encoded labels, and the
            number of outputs.
        """

    @abstractmethod
    def _loss(
        self, learned: dict[str, Any], encoded: NDArray[Any] | None
    ) -> dict[str, Any]:
        """Return the arguments of ``make_net`` that follow from the labels.

        Without labels, of a net that is restored, nothing is known of their weights.
        """

    def _strata(self, encoded: NDArray[Any]) -> NDArray[np.intp]:
        """Return the classes that validation is to be stratified by."""
        return np.zeros(len(encoded), int)

    def _fit(self, X: Any, y: ArrayLike | None, groups: ArrayLike | None) -> Self:
        """Fit BIOT to labelled windows."""
        go_on = self.warm_start and self.__sklearn_is_fitted__()
        fitted, data = self._prepare(X, y, go_on)
        seed = self._seed()
        train, valid = list(range(len(data))), list[int]()
        if self.finetune != "head":  # which has nothing to choose by it
            strata = self._strata(data.labels)
            train, valid = split(strata, groups, self.validation_fraction, seed)
        with seeded(seed):
            net = self._net(
                fitted,
                data,
                Subset(data, valid) if valid else None,
                go_on=go_on,
                augmentation=self._augmentation(fitted["signal_"], seed),
            )
            if self.finetune == "head":
                fit_head(net, embed_windows(net, data), data.labels)
                return self._keep(net, fitted)
            if self.finetune == "lora":
                add_low_rank(net, self.lora_rank)
            try:
                run(net, Subset(data, train))
            except KeyboardInterrupt:
                if any("train_loss" in epoch for epoch in net.history):
                    self._keep(net, fitted)
                raise
        return self._keep(net, fitted)

    def _partial_fit(self, X: Any, y: ArrayLike | None, **told: Any) -> Self:
        """Train for one epoch on these windows, all of them, and go on from there."""
        if self.finetune == "lora":
            raise ValueError(
                "finetune='lora' merges its updates at the end of a fit, and cannot go "
                "on with them in partial_fit. Use fit, or another finetune."
            )
        go_on = self.__sklearn_is_fitted__()
        fitted, data = self._prepare(X, y, go_on, **told)
        # A seed per epoch: else each would drop out the same units.
        seed = self._seed() + (len(self.history_) if go_on else 0)
        with seeded(seed):
            net = self._net(
                fitted,
                data,
                go_on=go_on,
                max_epochs=1,
                lr_schedule=None,
                augmentation=self._augmentation(fitted["signal_"], seed),
            )
            if go_on:
                # Adam's moments go on as well, at the learning rate of now: copies,
                # for an epoch that fails must leave those of the last one.
                moments = deepcopy(self.net_.optimizer_.state_dict()["state"])
                state = net.optimizer_.state_dict() | {"state": moments}
                net.optimizer_.load_state_dict(state)
                net.history = deepcopy(self.net_.history)
            run(net, data)
        return self._keep(net, fitted)

    def _prepare(
        self, X: Any, y: ArrayLike | None, go_on: bool, **told: Any
    ) -> tuple[dict[str, Any], LabelledWindows]:
        """Check parameters, windows and labels; those fitted before bind, if any."""
        check_training_params(self)
        windows = self._read(X, fitted=go_on, labels=y is None)
        learned, encoded, n_outputs = self._encode(y, windows, go_on, **told)
        if go_on:
            signal, order = self.signal_, self._match(windows)
        else:
            signal, order = windows.signal.copy(), None
            signal["n_outputs"] = n_outputs
        data = LabelledWindows(windows, encoded, order)
        fitted = {"signal_": signal, "microvolts_": data.microvolts}
        return learned | fitted, data

    def _net(
        self,
        fitted: dict[str, Any],
        data: LabelledWindows,
        valid: Dataset[Any] | None = None,
        *,
        go_on: bool,
        **instead: Any,
    ) -> NeuralNet:
        """Make a net with this estimator's parameters, as the fit is to find it."""
        signal: SignalParams = fitted["signal_"]
        module = self._module_params(signal)
        begin = self.model_ if go_on else None
        if self.pretrained is not None and not go_on:
            begin = load_pretrained(self.pretrained, module | signal)
        if begin is not None:  # with its sizes and settings
            module = made_with(begin) | (module if go_on else {})
        if self.finetune == "layerwise":
            rates = layer_rates(module["n_layers"], self.lr, self.layer_decay)
            instead["param_groups"] = rates
        if self.finetune == "head" or self.freeze_epochs:
            n_frozen = None if self.finetune == "head" else int(self.freeze_epochs)
            instead["callbacks"] = [Frozen(n_frozen), *(self.callbacks or ())]
        instead |= self._loss(fitted, data.labels)
        net = self._make_net(signal, module, valid, **instead)
        if go_on:
            self._check_same(net.module_)
        if begin is not None:
            _copy(begin, net.module_)
        data.check(net.module_)
        return net

    def _make_net(
        self,
        signal: SignalParams,
        module: dict[str, Any],
        valid: Dataset[Any] | None = None,
        **instead: Any,
    ) -> NeuralNet:
        """Make a net with this estimator's parameters of training."""
        params = self.get_params(deep=False)
        names = inspect.signature(make_net).parameters.keys() & params.keys()
        training = {name: params[name] for name in names} | {
            "module_params": module,
            "device": pick_device(self.device),
        }
        return make_net(signal, valid, **(training | instead))

    def _augmentation(self, signal: SignalParams, seed: int) -> RandomMissing | None:
        """Make what removes data from the training windows."""
        share = self.augment_missing
        if isinstance(share, RandomMissing):
            return reseeded(share, seed)
        if not share:
            return None
        token_size = self._module_params(signal).get("token_size")
        token_size = int(token_size or signal["sfreq"])
        n_chans, n_times = signal["n_chans"], signal["n_times"]
        return as_dense_as_the_paper(share, n_chans, n_times, token_size, seed)

    def _check_same(self, model: BIOT) -> None:
        """Refuse to go on from the fitted weights with a model of other settings."""
        fitted = self.model_
        same = ["channel_names", "token_size", "hop_length", "input_scaling"]
        for name in [*same, "att_num_heads", "emb_size", "n_layers"]:
            before, now = getattr(fitted, name), getattr(model, name)
            if before != now:
                raise ValueError(
                    "warm_start and partial_fit go on from the fitted weights, which "
                    "do not fit a model of the present parameters: "
                    f"{name} was {before!r} and is {now!r}. Set it back, or fit anew "
                    "with warm_start=False."
                )

    def _keep(self, net: NeuralNet, fitted: dict[str, Any]) -> Self:
        merge_low_rank(net.module_)
        return super()._keep(net, fitted)

    def _restore(self, model: BIOT, fitted: dict[str, Any]) -> Self:
        loss = self._loss(fitted, None)
        signal: SignalParams = fitted["signal_"]
        net = self._make_net(signal, made_with(model), callbacks=None, **loss)
        _copy(model, net.module_)
        return self._keep(net, fitted)


def _copy(model: BIOT, to: BIOT) -> None:
    """Give a model the weights of another, and what is known of these."""
    to.load_state_dict(model.state_dict())
    to.load_report_ = model.load_report_
