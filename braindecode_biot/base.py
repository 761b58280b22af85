"""What every estimator on windows is: its arguments of BIOT, its reading, its net.

Owns how an estimator reads windows and holds them against those it was fitted on, the
arguments of BIOT among its parameters, and the embeddings of its model. Must not know
labels, nor how a model is trained, which is ``fitting``'s.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from braindecode_biot.checkpoints import Source
from braindecode_biot.finetuning import set_default_hop
from braindecode_biot.model import BIOT
from braindecode_biot.samples import LabelledWindows
from braindecode_biot.signal import SignalParams, match_signal
from braindecode_biot.training import embed_windows, seeded
from braindecode_biot.windows import Windows, read_windows

__all__ = ["WindowsEstimator"]

# BIOT's arguments that a user sets. The others follow from the data or are the
# estimator's own, but for `return_feature`, which would change what the net returns.
_MODULE_PARAMS = frozenset(inspect.signature(BIOT).parameters) - {
    *SignalParams.__optional_keys__,
    *SignalParams.__required_keys__,
    *("missing", "channel_names", "return_feature"),
}
_PREFIX = "module__"


class WindowsEstimator(BaseEstimator, ABC):
    """An estimator that holds a BIOT for windows of one kind.

    Its parameters ``sfreq``, ``picks``, ``exclude``, ``channel_names`` and ``missing``
    say how windows are read, ``pretrained`` where the model comes from, as
    :class:`~braindecode_biot.BIOTClassifier` documents.

    Attributes
    ----------
    net_ : skorch.NeuralNet
        The net.
    signal_ : SignalParams
        Signal parameters of the windows fitted on.
    microvolts_ : bool
        Whether their volts were read as µV.
    n_features_in_ : int
        Number of channels.
    """

    # The constructor's own, in each estimator.
    sfreq: float | None
    picks: Any
    exclude: Any
    channel_names: str | Sequence[str] | None
    missing: Literal["raise", "mask"]
    pretrained: Source | BIOT | None
    random_state: Any
    device: str

    net_: NeuralNet
    signal_: SignalParams
    microvolts_: bool
    n_features_in_: int

    # The fitted attributes that are arrays: what was learned beside the model.
    _LEARNED: ClassVar[tuple[str, ...]] = ()

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

    def embed(self, X: Any) -> NDArray[np.float32]:
        """Embed windows by the fitted model.

        Parameters
        ----------
        X : mne.Epochs | list of mne.Epochs | array | windowed braindecode dataset
            Windows such as those fitted on.

        Returns
        -------
        numpy.ndarray of shape (n_windows, emb_size)
            Embeddings, float32: the mean over the tokens of a window.

        Raises
        ------
        ValueError, TypeError
            If the windows do not fit the model, or hold what it does not take.
        sklearn.exceptions.NotFittedError
            If there is no model yet.
        """
        data = self._checked(self._open(X))
        with seeded(0):  # as for predictions
            embeddings = embed_windows(self.net_, data).float().numpy()
        array: NDArray[np.float32] = embeddings
        return _finite(array)

    @property
    def model_(self) -> BIOT:
        """The fitted BIOT, in evaluation mode."""
        check_is_fitted(self)
        model: BIOT = self.net_.module_
        return model

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

    @abstractmethod
    def _restore(self, model: BIOT, fitted: dict[str, Any]) -> Self:
        """Become fitted by a model and the fitted attributes beside it."""

    def _set_module_params(self, params: dict[str, Any]) -> None:
        for key, value in params.items():
            name = key.removeprefix(_PREFIX)
            if not key.startswith(_PREFIX) or name not in _MODULE_PARAMS:
                raise TypeError(
                    f"{type(self).__name__} has no argument {key!r}. Arguments of BIOT "
                    f"are {sorted(_PREFIX + name for name in _MODULE_PARAMS)}; its "
                    "signal arguments come from the data, and missing and "
                    "channel_names have no prefix."
                )
            setattr(self, key, value)

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

    def _read(self, X: Any, *, fitted: bool, labels: bool = False) -> Windows:
        """Read windows; those fitted before bind, if any."""
        sfreq, missing, names = self.sfreq, self.missing, self.channel_names
        is_array = hasattr(X, "__array__")
        if fitted:
            # An array says no rate: a fitted model holds it to have the fitted one.
            if sfreq is None and is_array:
                sfreq = self.signal_["sfreq"]
            module = self.model_
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
        unscaled = fitted and self.model_.input_scaling != "q95"
        if unscaled and windows.microvolts != self.microvolts_:
            raise ValueError(
                f"With input_scaling={self.model_.input_scaling} the unit matters: "
                "Epochs are read in µV, arrays and datasets in their own unit. This "
                "model was fitted on "
                f"{'Epochs' if self.microvolts_ else 'an array or a dataset'}: give it "
                "the same kind."
            )
        return windows

    def _match(self, windows: Windows) -> NDArray[np.intp] | None:
        """Check windows against those fitted on; return the order of channels."""
        given = windows.signal
        if self.model_.missing == "mask":  # any length will do
            given = given.copy()
            given["n_times"] = self.signal_["n_times"]
        return match_signal(self.signal_, given)

    def _open(self, X: Any, labels: bool = False) -> Windows:
        """Read windows for the fitted model."""
        check_is_fitted(self)
        return self._read(X, fitted=True, labels=labels)

    def _checked(self, windows: Windows) -> LabelledWindows:
        """Hold windows against those fitted on and against what the model takes."""
        return LabelledWindows(windows, order=self._match(windows)).check(self.model_)

    def _outputs(self, windows: Windows) -> NDArray[np.float64]:
        """Return what the head says of windows, shape (n_windows, n_outputs)."""
        data = self._checked(windows)
        with seeded(0):  # a data loader draws a number, though nothing is shuffled
            outputs = self.net_.forward(data)
        array: NDArray[np.float64] = outputs.double().numpy()
        return _finite(array)

    def _seed(self) -> int:
        if self.random_state is None:  # fresh entropy, not NumPy's global state
            return int(np.random.SeedSequence().generate_state(1)[0] >> 1)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _keep(self, net: NeuralNet, fitted: dict[str, Any]) -> Self:
        """Take over what was fitted, all at once: a failed fit changes nothing."""
        net.module_.eval()
        self.net_ = net
        for name, value in fitted.items():
            setattr(self, name, value)
        self.n_features_in_ = self.signal_["n_chans"]
        return self


def _finite(outputs: NDArray[Any]) -> NDArray[Any]:
    """Refuse outputs that are not finite, which finite windows may have."""
    if not np.isfinite(outputs).all():
        bad = np.flatnonzero(~np.isfinite(outputs).all(1)).tolist()
        raise ValueError(
            f"The model's outputs are not finite for windows {bad[:5]}, though the "
            "samples are: their values are too extreme. Look at these windows."
        )
    return outputs
