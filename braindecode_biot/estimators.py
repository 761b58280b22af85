"""BIOT as scikit-learn estimators on MNE Epochs.

Owns what labels and predictions are to scikit-learn: classes for
:class:`BIOTClassifier`, continuous targets for :class:`BIOTRegressor`. How windows are
read stands in ``base``, the course of a fit in ``fitting``; must not know spectra or
tokens.
"""

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import (
    ClassifierMixin,
    RegressorMixin,
)
from sklearn.metrics import accuracy_score, r2_score
from skorch.callbacks import Callback
from torch.nn import MSELoss

from braindecode_biot.augmentation import RandomMissing
from braindecode_biot.checkpoints import Source
from braindecode_biot.fitting import TrainedEstimator
from braindecode_biot.labels import (
    check_labels,
    check_targets,
    class_weights,
    find_classes,
)
from braindecode_biot.model import BIOT
from braindecode_biot.samples import TargetScale
from braindecode_biot.training import CrossEntropy
from braindecode_biot.windows import Windows

__all__ = ["BIOTClassifier", "BIOTRegressor"]


class BIOTClassifier(ClassifierMixin, TrainedEstimator):
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
        ``model_.load_report_``.
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
        its own unit. It matters unless the model scales each window ("q95").
    history_ : skorch.history.History
        A row per epoch: losses, scores, durations.
    net_ : skorch.NeuralNetClassifier
        The net.
    model_ : BIOT
        The fitted :class:`~braindecode_biot.BIOT`, which is ``net_.module_``.

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

    classes_: NDArray[Any]
    _LEARNED = ("classes_",)

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
        self.class_weight = class_weight
        super().__init__(
            sfreq=sfreq,
            picks=picks,
            exclude=exclude,
            channel_names=channel_names,
            missing=missing,
            augment_missing=augment_missing,
            pretrained=pretrained,
            finetune=finetune,
            layer_decay=layer_decay,
            lora_rank=lora_rank,
            freeze_epochs=freeze_epochs,
            max_epochs=max_epochs,
            batch_size=batch_size,
            lr=lr,
            lr_schedule=lr_schedule,
            weight_decay=weight_decay,
            validation_fraction=validation_fraction,
            monitor=monitor,
            patience=patience,
            random_state=random_state,
            device=device,
            verbose=verbose,
            warm_start=warm_start,
            callbacks=callbacks,
            **module_params,
        )

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
        return self._fit(X, y, groups)

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
        return self._partial_fit(X, y, classes=classes)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the likeliest class of each window, shape (n_windows,)."""
        likeliest = self._outputs(self._open(X)).argmax(1)
        labels: NDArray[Any] = self.classes_[likeliest]
        return labels

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class, shape (n_windows, n_classes)."""
        probabilities: NDArray[np.float64] = softmax(
            self._outputs(self._open(X)), axis=1
        )
        return probabilities

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the logits, shape (n_windows, n_classes).

        For two classes their difference, shape (n_windows,): positive where the
        second class is the likelier, as in scikit-learn.
        """
        logits = self._outputs(self._open(X))
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def score(
        self, X: Any, y: ArrayLike | None = None, sample_weight: Any = None
    ) -> float:
        """Return the accuracy; labels are the windows' own where ``y`` is None."""
        windows = self._open(X, labels=y is None)
        predicted = self.classes_[self._outputs(windows).argmax(1)]
        if y is None:
            y = check_labels(windows.labels, len(windows.data))
        return float(accuracy_score(y, predicted, sample_weight=sample_weight))

    def _encode(
        self, y: ArrayLike | None, windows: Windows, go_on: bool, **told: Any
    ) -> tuple[dict[str, Any], NDArray[Any], int]:
        labels = check_labels(windows.labels if y is None else y, len(windows.data))
        classes = told.get("classes")
        known = None if classes is None else np.unique(classes)
        if go_on:
            if known is not None and known.tolist() != self.classes_.tolist():
                raise ValueError(
                    f"classes={known.tolist()} differs from the classes of the first "
                    f"call, {self.classes_.tolist()}."
                )
            known = self.classes_
        known = find_classes(labels, known)
        return {"classes_": known}, np.searchsorted(known, labels), len(known)

    def _strata(self, encoded: NDArray[Any]) -> NDArray[np.intp]:
        return encoded

    def _loss(
        self, learned: dict[str, Any], encoded: NDArray[Any] | None
    ) -> dict[str, Any]:
        weights = None
        if encoded is not None:
            weights = class_weights(self.class_weight, learned["classes_"], encoded)
        return {"criterion": CrossEntropy(weights)}


class BIOTRegressor(RegressorMixin, TrainedEstimator):
    """Predict continuous targets of windows with BIOT, to scikit-learn's contract.

    As :class:`BIOTClassifier`, of which it has every parameter but ``class_weight``,
    for targets such as age, reaction time or depth of anaesthesia. They are
    standardised for training, by the mean squared error, and predictions come back in
    their unit.

    Parameters
    ----------
    sfreq, picks, exclude, channel_names, missing, augment_missing : see BIOTClassifier
        How windows are read, and what of them may be missing.
    pretrained, finetune, layer_decay, lora_rank, freeze_epochs : see BIOTClassifier
        What to begin with, and how to tune it; "head" is a ridge regression on the
        embeddings.
    max_epochs, batch_size, lr, lr_schedule, weight_decay : see BIOTClassifier
        How long, and how fast.
    validation_fraction : float
        Share of the windows that are kept from training to choose the best epoch: at
        random, and whole groups where ``fit`` gets ``groups``. Windows that overlap in
        time should share a group. 0 trains on all, to the last epoch.
    monitor : str
        What is best on the validation windows: the least "valid_loss", or the highest
        of a scikit-learn score such as "r2" or "neg_mean_absolute_error", in the
        targets' unit.
    patience, random_state, device, verbose, warm_start, callbacks : see BIOTClassifier
        When to stop, and how to run.
    **module_params
        ``module__<name>`` sets an argument of :class:`~braindecode_biot.BIOT`.

    Attributes
    ----------
    target_mean_, target_scale_ : array of shape (n_targets,) or ()
        Mean and standard deviation of the targets that were fitted on, in their unit;
        ``model_`` gives standardised targets.
    n_features_in_, signal_, microvolts_, history_, net_, model_
        As for :class:`BIOTClassifier`.

    Examples
    --------
    >>> import numpy as np
    >>> from braindecode_biot import BIOTRegressor
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(60, 2, 200)), rng.uniform(20, 80, 60)
    >>> X[:, 0] += (y[:, np.newaxis] - 20) / 20 * np.sin(np.arange(200) * 0.6)
    >>> regressor = BIOTRegressor(
    ...     sfreq=100, max_epochs=20, lr=5e-3, module__emb_size=32, random_state=0
    ... )
    >>> regressor.fit(X, y).score(X, y) > 0.5
    True
    """

    target_mean_: NDArray[np.float64]
    target_scale_: NDArray[np.float64]
    _LEARNED = ("target_mean_", "target_scale_")

    def fit(
        self, X: Any, y: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Self:
        """Fit BIOT to windows and their targets.

        Parameters
        ----------
        X : mne.Epochs | list of mne.Epochs | array | windowed braindecode dataset
            Windows; arrays are (n_windows, n_chans, n_times).
        y : array of shape (n_windows,) or (n_windows, n_targets) | None
            Targets. None takes the dataset's; event codes of Epochs are taken for none.
        groups : array of shape (n_windows,) | None
            What each window belongs to; no group stands on both sides of the
            validation split.

        Returns
        -------
        BIOTRegressor
            Itself.

        Raises
        ------
        ValueError, TypeError
            As for :meth:`BIOTClassifier.fit`; or if a target is no finite number.
        KeyboardInterrupt
            If the user interrupts it; the epochs that were completed are kept.
        """
        return self._fit(X, y, groups)

    def partial_fit(self, X: Any, y: ArrayLike | None = None) -> Self:
        """Train for one epoch on these windows, all of them, and go on from there.

        Parameters
        ----------
        X, y
            As for :meth:`fit`. Targets are standardised as those of the first call.

        Returns
        -------
        BIOTRegressor
            Itself.

        Raises
        ------
        ValueError, TypeError
            As for :meth:`fit`; or if there are other targets than before.
        """
        return self._partial_fit(X, y)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return targets in their unit, of the shape of those fitted on."""
        outputs = self._outputs(self._open(X))
        return self._target_scale(outputs)

    def score(
        self, X: Any, y: ArrayLike | None = None, sample_weight: Any = None
    ) -> float:
        """Return R²; targets are the dataset's own where ``y`` is None."""
        windows = self._open(X, labels=y is None)
        targets = self._own_targets(windows) if y is None else y
        predicted = self._target_scale(self._outputs(windows))
        return float(r2_score(targets, predicted, sample_weight=sample_weight))

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that there may be several targets."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @property
    def _target_scale(self) -> TargetScale:
        return TargetScale(self.target_mean_, self.target_scale_)

    def _own_targets(self, windows: Windows) -> NDArray[np.float64]:
        if windows.microvolts:  # these are Epochs
            raise ValueError(
                "requires y to be passed, but the target y is None: event codes of "
                "Epochs name kinds of events, and are no continuous targets. Pass "
                "y=epochs.events[:, 2] if yours are, or y=epochs.metadata[...]."
            )
        return check_targets(windows.labels, len(windows.data))

    def _encode(
        self, y: ArrayLike | None, windows: Windows, go_on: bool, **told: Any
    ) -> tuple[dict[str, Any], NDArray[Any], int]:
        if y is None:
            targets = self._own_targets(windows)
        else:
            targets = check_targets(y, len(windows.data))
        scale = self._target_scale if go_on else TargetScale.of(targets)
        if targets.shape[1:] != scale.mean.shape:
            raise ValueError(
                f"y has the shape {targets.shape}, but the targets before were "
                f"(n_windows, {', '.join(map(str, scale.mean.shape))}): warm_start and "
                "partial_fit go on with the same targets."
            )
        encoded = scale.standardize(targets)
        learned = {"target_mean_": scale.mean, "target_scale_": scale.scale}
        return learned, encoded, encoded.shape[1]

    def _loss(
        self, learned: dict[str, Any], encoded: NDArray[Any] | None
    ) -> dict[str, Any]:
        scale = TargetScale(learned["target_mean_"], learned["target_scale_"])
        return {"criterion": MSELoss(), "target_scale": scale}
