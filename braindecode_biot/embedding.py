"""BIOT's embeddings as a step of a scikit-learn pipeline.

Owns :class:`BIOTEmbedding`. How windows are read and embedded stands in ``base``, where
a model comes from in ``finetuning``; must not train.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin

from braindecode_biot.base import WindowsEstimator
from braindecode_biot.checkpoints import Source
from braindecode_biot.finetuning import load_pretrained
from braindecode_biot.model import BIOT
from braindecode_biot.params import check_params
from braindecode_biot.samples import LabelledWindows
from braindecode_biot.training import make_embedder, pick_device, seeded

__all__ = ["BIOTEmbedding"]


class BIOTEmbedding(
    ClassNamePrefixFeaturesOutMixin, TransformerMixin, WindowsEstimator
):
    """Turn windows to embeddings by BIOT, as a step of a scikit-learn pipeline.

    Nothing is trained: ``fit`` makes the model for these windows and loads its
    weights. Windows that are transformed must agree with those fitted on; channels in
    another order are put in order by name.

    Parameters
    ----------
    pretrained : path | str | mapping | BIOT | None
        Checkpoint, as for
        :meth:`BIOT.from_checkpoint <braindecode_biot.BIOT.from_checkpoint>`, or a
        model, such as that of a fitted estimator (``model_``). None draws random
        weights, with a warning: such embeddings are random features.
    sfreq, picks, exclude, channel_names, missing : see BIOTClassifier
        How windows are read, and whether something of them may be missing.
    batch_size : int
        Windows at once.
    random_state : int | RandomState | None
        Seed of what no checkpoint tells: all weights, if there is none.
    device : str
        Where to compute. "auto" is a CUDA device if there is one, else the CPU.
    **module_params
        ``module__<name>`` sets an argument of :class:`~braindecode_biot.BIOT`.

    Attributes
    ----------
    n_features_in_, signal_, microvolts_, net_, model_
        As for :class:`BIOTClassifier`; the head of ``model_`` is not used.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from braindecode_biot import BIOT, BIOTEmbedding
    >>> trained = BIOT(n_chans=2, n_outputs=2, n_times=200, sfreq=100, emb_size=32)
    >>> X = np.random.default_rng(0).normal(size=(20, 2, 200))
    >>> embedding = BIOTEmbedding(trained, sfreq=100, random_state=0)
    >>> embedding.fit_transform(X).shape
    (20, 32)
    >>> pipeline = make_pipeline(embedding, LogisticRegression())
    >>> pipeline.fit(X, np.repeat(["rest", "task"], 10)).predict(X[:1]).shape
    (1,)
    """

    def __init__(
        self,
        pretrained: Source | BIOT | None = None,
        *,
        sfreq: float | None = None,
        picks: Any = None,
        exclude: Any = "bads",
        channel_names: str | Sequence[str] | None = None,
        missing: Literal["raise", "mask"] = "raise",
        batch_size: int = 32,
        random_state: Any = None,
        device: str = "auto",
        **module_params: Any,
    ) -> None:
        self.pretrained = pretrained
        self.sfreq = sfreq
        self.picks = picks
        self.exclude = exclude
        self.channel_names = channel_names
        self.missing = missing
        self.batch_size = batch_size
        self.random_state = random_state
        self.device = device
        self._set_module_params(module_params)

    def fit(self, X: Any, y: Any = None) -> Self:
        """Make the model for these windows; nothing is trained.

        Parameters
        ----------
        X : mne.Epochs | list of mne.Epochs | array | windowed braindecode dataset
            Windows; arrays are (n_windows, n_chans, n_times).
        y
            Not used.

        Returns
        -------
        BIOTEmbedding
            Itself.

        Raises
        ------
        ValueError, TypeError
            If the windows or parameters make no model, or a sample is inf, or NaN
            where it is not masked. A fit before stays as it was.
        CheckpointError, OSError
            As for :meth:`BIOT.from_checkpoint`.

        Warns
        -----
        UserWarning
            If there are no pretrained weights.
        """
        check_params(self)
        windows = self._read(X, fitted=False)
        signal = windows.signal
        arguments: dict[str, Any] = {**self._module_params(signal), **signal}
        arguments["n_outputs"] = 1  # of a head that is not used
        with seeded(self._seed()):
            if self.pretrained is None:
                model = BIOT(**arguments)
            else:
                model = load_pretrained(self.pretrained, arguments)
        LabelledWindows(windows).check(model)
        fitted = {"signal_": signal, "microvolts_": windows.microvolts}
        self._restore(model, fitted)
        if self.pretrained is None:
            warnings.warn(
                "Without pretrained=, the weights of this BIOT are random and its "
                "embeddings random features. Name a checkpoint, such as "
                "pretrained='braindecode/biot-pretrained-six-datasets-18chs'.",
                stacklevel=2,
            )
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embed windows: :meth:`embed` under scikit-learn's name for it."""
        return self.embed(X)

    def __sklearn_tags__(self) -> Any:
        """Tell scikit-learn that embeddings are float32."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return int(self.model_.emb_size)

    def _restore(self, model: BIOT, fitted: dict[str, Any]) -> Self:
        device = pick_device(self.device)
        return self._keep(make_embedder(model, self.batch_size, device), fitted)
