"""BIOT as a scikit-learn estimator on MNE Epochs.

Owns scikit-learn's contract: parameters, refits and predictions, on a skorch net that
it holds (``net_``). What windows are is read by ``windows``, what labels are by
``labels``, how a net is trained stands in ``training``; must not know spectra or
tokens.
"""

import inspect
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from skorch.history import History
from torch.utils.data import Dataset, Subset

from braindecode_biot.augmentation import (
    RandomMissing,
    as_dense_as_the_paper,
    reseeded,
)
from braindecode_biot.checkpoints import Source
from braindecode_biot.finetuning import (
    Frozen,
    add_low_rank,
    fit_head,
    layer_rates,
    load_pretrained,
    made_with,
    merge_low_rank,
    set_default_hop,
)
from braindecode_biot.labels import check_labels, class_weights, find_classes
from braindecode_biot.model import BIOT
from braindecode_biot.params import check_params
from braindecode_biot.signal import SignalParams, match_signal
from braindecode_biot.training import (
    LabelledWindows,
    make_net,
    pick_device,
    run,
    seeded,
    split,
)
from braindecode_biot.windows import Windows, read_windows

__all__ = ["BIOTClassifier"]

# BIOT's arguments that a user sets. The others follow from the data or are the
# estimator's own, but for `return_feature`, which would change what the net returns.
_MODULE_PARAMS = frozenset(inspect.signature(BIOT).parameters) - {
    *SignalParams.__optional_keys__,
    *SignalParams.__required_keys__,
    *("missing", "channel_names", "return_feature"),
}
_PREFIX = "module__"


class BIOTClassifier(ClassifierMixin, BaseEstimator):
    """Classify windows with BIOT, to scikit-learn's contract.

    Windows are MNE Epochs, a list of Epochs, an array with ``sfreq``, or a windowed
    braindecode dataset. What the model must know of them (channels, sampling rate,
    length, classes) is taken from the data, and what is predicted on later must agree
    with it; channels in another order are put in order by name.

    Parameters
    ----------
    sfreq : float | None
        Sampling rate in Hz; needed for arrays, taken from the data otherwise.
    picks : str | list | None
        Channels to use, in MNE's sense; None takes the data channels.
    exclude : "bads" | list of str
        Channels to leave out, unless ``picks`` has them by name.
    channel_names : "tcp-16" | "tcp-18" | list of str | None
        Vocabulary of the model: what its channels are called, and in which order. The
        two known ones are those of the published weights, and
        :func:`~braindecode_biot.to_montage` makes their channels. None takes the
        channels of the training windows.
    missing : "raise" | "mask"
        With "mask", NaN is what is missing: lost samples, lost channels, and the end
        of shorter windows. The model leaves out exactly that. Epochs and recordings of
        a list or dataset may then have different channels, matched by name, bad ones
        missing, and different lengths; only channels that are not in ``channel_names``
        are an error. With "raise", NaN and any difference are.
    augment_missing : float | RandomMissing
        Share of the training windows from which random channels and segments are
        removed, anew in each epoch, so that the model learns to do without: up to a
        quarter of the channels, and half a token for every two tokens of the others.
        A :class:`~braindecode_biot.augmentation.RandomMissing` says it in detail.
    pretrained : path | str | mapping | BIOT | None
        Checkpoint to begin with, as for
        :meth:`BIOT.from_checkpoint <braindecode_biot.BIOT.from_checkpoint>`: a file, a
        folder, a repository on the Hub or a state dict, of any layout; or a model, such
        as that method makes with options of its own. Sizes and settings are then those
        of the checkpoint, unless set here, and the head is new. What was loaded tells
        ``net_.module_.load_report_``.
    finetune : "full" | "layerwise" | "lora" | "head"
        What to tune of pretrained weights. "full" is all, at ``lr``. "layerwise" is
        all, slower the further a layer is from the head, by ``layer_decay`` each.
        "lora" is the head, and updates of low rank to the encoder's linear layers,
        which are merged into the weights at the end; it needs peft. "head" is the
        head alone, as a logistic regression on the embeddings, which are computed
        once: quick, and without epochs, validation or augmentation. In
        ``partial_fit``, "head" trains the head alone for an epoch.
    layer_decay : float
        What each layer down multiplies the learning rate with, for "layerwise".
    lora_rank : int
        Rank of the updates, for "lora".
    freeze_epochs : int
        Epochs at the beginning in which the head alone is trained.
    max_epochs : int
        Passes over the training windows, at most.
    batch_size : int
        Windows per step; fewer where there are fewer.
    lr : float
        Learning rate of AdamW at the start.
    lr_schedule : "cosine" | None
        Whether the learning rate falls to zero over ``max_epochs``, along a cosine.
    weight_decay : float
        Weight decay of AdamW.
    class_weight : "balanced" | dict | None
        Weight of each class in the loss; "balanced" makes all count the same.
    validation_fraction : float
        Share of the windows that are kept from training to choose the best epoch:
        stratified, and whole groups where ``fit`` gets ``groups``. Windows that
        overlap in time should share a group; in scikit-learn's cross-validation,
        ``groups=`` reaches the folds only, ``params={"groups": groups}`` reaches
        ``fit``. 0 trains on all, to the last epoch.
    monitor : str
        What is best on the validation windows: the least "valid_loss", or the highest
        of a scikit-learn score such as "balanced_accuracy" or "roc_auc".
    patience : int | None
        Epochs without a better one after which training stops. None never stops. The
        weights of the best epoch are restored in any case.
    random_state : int | RandomState | None
        Makes fits repeatable. The global random state is left as it was.
    device : str
        Where to compute. "auto" is a CUDA device if there is one, else the CPU.
    verbose : int
        0 is silent, 1 shows a progress bar, 2 prints a line per epoch.
    warm_start : bool
        Whether another ``fit`` goes on from the weights of the last one.
    callbacks : list of skorch.callbacks.Callback | None
        Further callbacks of skorch.
    **module_params
        ``module__<name>`` sets an argument of :class:`~braindecode_biot.BIOT`, such as
        ``module__emb_size=64``. The hop is half a token unless given.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        Class labels.
    n_features_in_ : int
        Number of channels.
    signal_ : SignalParams
        Signal parameters of the windows fitted on.
    microvolts_ : bool
        Whether their volts were read as µV: Epochs are, what else there is comes in
        its own unit. It matters only where the model does not scale its input.
    history_ : skorch.history.History
        A row per epoch: losses, scores, durations.
    net_ : skorch.NeuralNetClassifier
        The net; the fitted :class:`~braindecode_biot.BIOT` is ``net_.module_``.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_biot import BIOTClassifier
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(20, 2, 200)), np.repeat(["rest", "task"], 10)
    >>> X[y == "task", 0] += 2 * np.sin(np.arange(200) * 0.6)
    >>> classifier = BIOTClassifier(
    ...     sfreq=100, max_epochs=5, module__emb_size=32, random_state=0
    ... )
    >>> classifier.fit(X, y).predict(X[-3:])
    array(['task', 'task', 'task'], dtype='<U4')
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
        class_weight: Any = "balanced",
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
        self.class_weight = class_weight
        self.validation_fraction = validation_fraction
        self.monitor = monitor
        self.patience = patience
        self.random_state = random_state
        self.device = device
        self.verbose = verbose
        self.warm_start = warm_start
        self.callbacks = callbacks
        self._set_module_params(module_params)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments, those of the module with prefix."""
        module = {k: v for k, v in vars(self).items() if k.startswith(_PREFIX)}
        return {**super().get_params(deep), **module}

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor, ``module__<name>`` among them."""
        module = {k: v for k, v in params.items() if k.startswith(_PREFIX)}
        super().set_params(**{k: v for k, v in params.items() if k not in module})
        self._set_module_params(module)
        return self

    def fit(
        self, X: Any, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Self:
        """Fit BIOT to labelled windows.

        Parameters
        ----------
        X : mne.Epochs | list of mne.Epochs | array | windowed braindecode dataset
            Windows; arrays are (n_windows, n_chans, n_times).
        y : array of shape (n_windows,) | None
            Labels of any kind. None takes the Epochs' event codes
            (``epochs.events[:, 2]``) or the dataset's targets.
        groups : array of shape (n_windows,) | None
            What each window belongs to (a subject, a recording, a stretch of time);
            no group stands on both sides of the validation split.

        Returns
        -------
        BIOTClassifier
            Itself.

        Raises
        ------
        ValueError, TypeError
            If windows and labels differ in number, there is but one class, a sample
            is inf, or NaN where it is not masked, nothing is left of a window, the
            windows or parameters make no model, no group can be kept for validation,
            or training diverges. A fit before stays as it was.
        KeyboardInterrupt
            If the user interrupts it; the epochs that were completed are kept.
        """
        go_on = self.warm_start and self.__sklearn_is_fitted__()
        signal, classes, data = self._prepare(X, y, go_on)
        seed = self._seed()
        train, valid = list(range(len(data))), list[int]()
        if self.finetune != "head":  # which has nothing to choose by it
            fraction = self.validation_fraction
            train, valid = split(data.labels, groups, fraction, seed)
        with seeded(seed):
            net = self._net(
                signal,
                classes,
                data,
                Subset(data, valid) if valid else None,
                go_on=go_on,
                augmentation=self._augmentation(signal, seed),
            )
            if self.finetune == "head":
                weights = class_weights(self.class_weight, classes, data.labels)
                fit_head(net, data, data.labels, weights)
                return self._keep(net, signal, classes, data)
            if self.finetune == "lora":
                add_low_rank(net, self.lora_rank)
            try:
                run(net, Subset(data, train))
            except KeyboardInterrupt:
                if any("train_loss" in epoch for epoch in net.history):
                    self._keep(net, signal, classes, data)
                raise
        return self._keep(net, signal, classes, data)

    def partial_fit(
        self, X: Any, y: ArrayLike | None = None, classes: ArrayLike | None = None
    ) -> Self:
        """Train for one epoch on these windows, all of them, and go on from there.

        Parameters
        ----------
        X, y
            As for :meth:`fit`.
        classes : array of shape (n_classes,) | None
            All classes there will ever be; on the first call, where ``y`` does not
            hold them all.

        Returns
        -------
        BIOTClassifier
            Itself.

        Raises
        ------
        ValueError, TypeError
            As for :meth:`fit`; or if ``y`` holds a label that is no class.
        """
        if self.finetune == "lora":
            raise ValueError(
                "finetune='lora' merges its updates at the end of a fit, and cannot go "
                "on with them in partial_fit. Use fit, or another finetune."
            )
        go_on = self.__sklearn_is_fitted__()
        signal, known, data = self._prepare(X, y, go_on, classes)
        # A seed per epoch: else each would drop out the same units.
        seed = self._seed() + (len(self.history_) if go_on else 0)
        with seeded(seed):
            net = self._net(
                signal,
                known,
                data,
                go_on=go_on,
                max_epochs=1,
                lr_schedule=None,
                augmentation=self._augmentation(signal, seed),
            )
            if go_on:
                # Adam's moments go on as well, at the learning rate of now: copies,
                # for an epoch that fails must leave those of the last one.
                moments = deepcopy(self.net_.optimizer_.state_dict()["state"])
                state = net.optimizer_.state_dict() | {"state": moments}
                net.optimizer_.load_state_dict(state)
                net.history = deepcopy(self.net_.history)
            run(net, data)
        return self._keep(net, signal, known, data)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the likeliest class of each window, shape (n_windows,)."""
        likeliest = self._logits(self._open(X)).argmax(1)
        labels: NDArray[Any] = self.classes_[likeliest]
        return labels

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class, shape (n_windows, n_classes)."""
        probabilities: NDArray[np.float64] = softmax(
            self._logits(self._open(X)), axis=1
        )
        return probabilities

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the logits, shape (n_windows, n_classes).

        For two classes their difference, shape (n_windows,): positive where the
        second class is the likelier, as in scikit-learn.
        """
        logits = self._logits(self._open(X))
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def score(
        self, X: Any, y: ArrayLike | None = None, sample_weight: Any = None
    ) -> float:
        """Return the accuracy; labels are the windows' own where ``y`` is None."""
        windows = self._open(X, labels=y is None)
        predicted = self.classes_[self._logits(windows).argmax(1)]
        if y is None:
            y = check_labels(windows.labels, len(windows.data))
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))

    @property
    def history_(self) -> History:
        """What happened in each epoch."""
        check_is_fitted(self, "net_")
        return self.net_.history

    def __sklearn_is_fitted__(self) -> bool:
        """Tell whether there is a net."""
        return hasattr(self, "net_")

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that windows have three dimensions."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.allow_nan = self.missing == "mask"
        return tags

    def _set_module_params(self, params: dict[str, Any]) -> None:
        for key, value in params.items():
            name = key.removeprefix(_PREFIX)
            if not key.startswith(_PREFIX) or name not in _MODULE_PARAMS:
                raise TypeError(
                    f"BIOTClassifier has no argument {key!r}. Arguments of BIOT are "
                    f"{sorted(_PREFIX + name for name in _MODULE_PARAMS)}; its signal "
                    "arguments come from the data, and missing and channel_names have "
                    "no prefix."
                )
            setattr(self, key, value)

    def _read(self, X: Any, *, fitted: bool, labels: bool = False) -> Windows:
        """Read windows; those fitted before bind, if any."""
        sfreq, missing, names = self.sfreq, self.missing, self.channel_names
        is_array = hasattr(X, "__array__")
        if fitted:
            # An array says no rate: a fitted model holds it to have the fitted one.
            if sfreq is None and is_array:
                sfreq = self.signal_["sfreq"]
            module = self.net_.module_
            missing, names = module.missing, module.channel_names
            if missing == "mask" and names is None and not is_array:
                raise ValueError(
                    "This model was fitted on an array, whose channels have no names "
                    "by which to find those of Epochs or a dataset. Fit it with "
                    "channel_names= to say what the array's channels are."
                )
        windows = read_windows(
            X,
            sfreq=sfreq,
            picks=self.picks,
            exclude=self.exclude,
            labels=labels,
            missing=missing,
            channel_names=names if missing == "mask" or is_array else None,
        )
        unscaled = fitted and self.net_.module_.input_scaling is None
        if unscaled and windows.microvolts != self.microvolts_:
            raise ValueError(
                "With input_scaling=None the unit matters: Epochs are read in "
                "µV, arrays and datasets in their own unit. This model was fitted on "
                f"{'Epochs' if self.microvolts_ else 'an array or a dataset'}: give it "
                "the same kind."
            )
        return windows

    def _prepare(
        self, X: Any, y: ArrayLike | None, go_on: bool, classes: ArrayLike | None = None
    ) -> tuple[SignalParams, NDArray[Any], LabelledWindows]:
        """Check parameters, windows and labels; those fitted before bind, if any."""
        check_params(self)
        windows = self._read(X, fitted=go_on, labels=y is None)
        labels = check_labels(windows.labels if y is None else y, len(windows.data))
        known = None if classes is None else np.unique(classes)
        if go_on:
            if known is not None and known.tolist() != self.classes_.tolist():
                raise ValueError(
                    f"classes={known.tolist()} differs from the classes of the first "
                    f"call, {self.classes_.tolist()}."
                )
            known = self.classes_
        known = find_classes(labels, known)
        if go_on:
            signal, order = self.signal_, self._match(windows)
        else:
            signal, order = windows.signal.copy(), None
            signal["n_outputs"] = len(known)
        encoded = np.searchsorted(known, labels)
        return signal, known, LabelledWindows(windows, encoded, order)

    def _match(self, windows: Windows) -> NDArray[np.intp] | None:
        """Check windows against those fitted on; return the order of channels."""
        given = windows.signal
        if self.net_.module_.missing == "mask":  # any length will do
            given = given.copy()
            given["n_times"] = self.signal_["n_times"]
        return match_signal(self.signal_, given)

    def _seed(self) -> int:
        if self.random_state is None:  # fresh entropy, not NumPy's global state
            return int(np.random.SeedSequence().generate_state(1)[0] >> 1)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _net(
        self,
        signal: SignalParams,
        classes: NDArray[Any],
        data: LabelledWindows,
        valid: Dataset[Any] | None = None,
        *,
        go_on: bool,
        **instead: Any,
    ) -> NeuralNetClassifier:
        """Make a net with this estimator's parameters, as the fit is to find it."""
        params, module = self.get_params(deep=False), self._module_params(signal)
        begin = self.net_.module_ if go_on else None
        if self.pretrained is not None and not go_on:
            begin = load_pretrained(self.pretrained, module | signal)
        if begin is not None:  # with its sizes and settings
            module = made_with(begin) | (module if go_on else {})
        names = inspect.signature(make_net).parameters.keys() & params.keys()
        training = {name: params[name] for name in names} | {
            "module_params": module,
            "class_weight": class_weights(self.class_weight, classes, data.labels),
            "device": pick_device(self.device),
        }
        if self.finetune == "layerwise":
            n_layers = module["n_layers"]
            training["param_groups"] = layer_rates(n_layers, self.lr, self.layer_decay)
        if self.finetune == "head" or self.freeze_epochs:
            n_frozen = None if self.finetune == "head" else int(self.freeze_epochs)
            training["callbacks"] = [Frozen(n_frozen), *(self.callbacks or ())]
        net = make_net(signal, valid, **(training | instead))
        if go_on:
            self._check_same(net.module_)
        if begin is not None:
            net.module_.load_state_dict(begin.state_dict())
            net.module_.load_report_ = begin.load_report_
        data.check(net.module_)
        return net

    def _module_params(self, signal: SignalParams) -> dict[str, Any]:
        """Collect the arguments of BIOT that this estimator was given."""
        module = {
            key.removeprefix(_PREFIX): value
            for key, value in self.get_params(deep=False).items()
            if key.startswith(_PREFIX)
        }
        if self.pretrained is None:
            set_default_hop(module, signal["sfreq"])
        module["missing"] = self.missing
        if self.channel_names is not None:  # else those of the checkpoint, if any
            module["channel_names"] = self.channel_names
        if self.missing == "mask" and "chs_info" in signal:
            module["channel_names"] = [ch["ch_name"] for ch in signal["chs_info"]]
        return module

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
        fitted = self.net_.module_
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

    def _keep(
        self,
        net: NeuralNetClassifier,
        signal: SignalParams,
        classes: NDArray[Any],
        data: LabelledWindows,
    ) -> Self:
        """Take over what was fitted, all at once: a failed fit changes nothing."""
        merge_low_rank(net.module_)
        self.net_ = net
        self.signal_ = signal
        self.classes_ = classes
        self.n_features_in_ = signal["n_chans"]
        self.microvolts_ = data.microvolts
        return self

    def _open(self, X: Any, labels: bool = False) -> Windows:
        """Read windows to predict on."""
        check_is_fitted(self)
        return self._read(X, fitted=True, labels=labels)

    def _logits(self, windows: Windows) -> NDArray[np.float64]:
        data = LabelledWindows(windows, order=self._match(windows))
        with seeded(0):  # a data loader draws a number, though nothing is shuffled
            logits = self.net_.forward(data.check(self.net_.module_))
        array: NDArray[np.float64] = logits.double().numpy()
        if not np.isfinite(array).all():
            bad = np.flatnonzero(~np.isfinite(array).all(1)).tolist()
            raise ValueError(
                f"The model's outputs are not finite for windows {bad[:5]}, though the "
                "samples are: their values are too extreme. Look at these windows."
            )
        return array
