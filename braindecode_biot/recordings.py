"""A fitted model over a whole recording: scores and embeddings, in bounded memory.

Owns finding in an estimator what it was fitted on, and sending a recording's windows
through it. Which windows there are stands in ``recording_windows``, what comes of them
in ``scores``. Must not train.
"""

import copy
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import mne
import numpy as np
import pandas as pd
import torch
from braindecode.models.base import EEGModuleMixin
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from skorch import NeuralNet

from braindecode_biot.channels import canonical, vocabulary
from braindecode_biot.fitted import evaluating
from braindecode_biot.model import BIOT
from braindecode_biot.montage import ToMontage
from braindecode_biot.recording_windows import RecordingWindows, Wanted
from braindecode_biot.scores import RecordingEmbeddings, RecordingScores
from braindecode_biot.signal import SignalParams

__all__ = ["embed_recording", "score_recording"]

# Of which a recording is read at a time.
_CHUNK_SECONDS = 300.0


def score_recording(
    estimator: Any,
    recording: mne.io.BaseRaw | str | os.PathLike[str],
    *,
    window: float | None = None,
    step: float | None = None,
    on_bad: Literal["skip", "mask", "keep"] = "skip",
    montage: str | Sequence[str] | None = None,
    use_bads: bool = False,
    upsample: bool = False,
    batch_size: int = 32,
    chunk_seconds: float = _CHUNK_SECONDS,
    verbose: int = 1,
) -> RecordingScores:
    """Score each window of a recording with a fitted classifier or regressor.

    The windows are what the estimator was fitted on: its channels, derived from the
    recording's as by :func:`~braindecode_biot.to_montage`, and its sampling rate. The
    recording is read piece by piece; the scores are, bit for bit, the same whatever is
    read at a time.

    Parameters
    ----------
    estimator : fitted estimator
        :class:`~braindecode_biot.BIOTClassifier`, ``BIOTRegressor``, a braindecode
        ``EEGClassifier`` or ``EEGRegressor``, a pipeline with one of these or
        ``BIOTEmbedding``, or a search over these. It gets Epochs, or where it was
        fitted on an array, an array in µV: fit nets that do not scale their input on
        µV, as braindecode reads Epochs.
    recording : mne.io.BaseRaw or path
        The recording, or a file that MNE can read. What is not loaded stays so.
    window : float | None
        Length of a window in seconds. None is what the estimator was fitted on; another
        one needs ``missing="mask"``.
    step : float | None
        Seconds from the start of one window to the next; None is the window's length.
    on_bad : "skip" | "mask" | "keep"
        What becomes of windows that touch an annotation whose description begins with
        "bad": they are left out; or what is annotated counts as missing, for a model
        with ``missing="mask"``; or the annotations count for nothing.
    montage : "tcp-16" | "tcp-18" | list of str | None
        Channels, in order, where the estimator knows none since it was fitted on an
        array.
    use_bads, upsample
        As for :func:`~braindecode_biot.to_montage`.
    batch_size : int
        Windows that the model gets at a time.
    chunk_seconds : float
        How much of the recording is read at a time, about.
    verbose : int
        0 is silent, 1 shows a progress bar.

    Returns
    -------
    RecordingScores
        Probabilities by window; also which windows were left out and why, and which
        channels are missing.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    RecordingError
        MNE cannot read it, it is shorter than a window, no window is left, or it is a
        discontinuous file with gaps.
    ValueError
        The recording lacks channels that the model needs, or its sampling rate is lower
        than the model's; the estimator cannot tell its channels; or an argument has
        none of its values.
    TypeError
        The estimator is none of those, or the recording is none.
    sklearn.exceptions.NotFittedError
        The estimator is not fitted.

    Warns
    -----
    UserWarning
        As for :func:`~braindecode_biot.to_montage`.

    Examples
    --------
    >>> import mne
    >>> from braindecode_biot import BIOTClassifier, load_absence, to_montage
    >>> raw = load_absence()
    >>> bipolar = to_montage(raw, ["F7-T7", "F8-T8"])
    >>> epochs = mne.make_fixed_length_epochs(
    ...     bipolar, duration=2, preload=True, verbose="error"
    ... )
    >>> classifier = BIOTClassifier(
    ...     max_epochs=1, module__emb_size=32, module__n_layers=1, random_state=0
    ... )
    >>> classifier = classifier.fit(epochs[:20], ["rest", "task"] * 10)
    >>> scores = score_recording(classifier, raw, step=1, verbose=0)
    >>> scores
    <RecordingScores of rest, task: 339 windows (2 s, of 340 s in 'absence.edf')>
    >>> raw = raw.set_annotations(scores.to_annotations(threshold=0.5))
    """
    fitted = _open_estimator(estimator, montage)
    # A skorch regressor has predict_proba too.
    is_bare = isinstance(fitted.predictor, _BareModel)
    regresses = not is_bare and is_regressor(fitted.predictor)
    predict = None if regresses else getattr(fitted.predictor, "predict_proba", None)
    is_probability = predict is not None
    if predict is None and not is_bare and is_classifier(fitted.predictor):
        raise TypeError(
            f"A {type(estimator).__name__} gives no probabilities (predict_proba), so "
            "that there are no scores. End it with a classifier that has them, such as "
            "LogisticRegression, or CalibratedClassifierCV around this one."
        )
    # Before the work: a net may not know its classes.
    columns = _classes(fitted.predictor) if is_probability else []
    if predict is None:
        predict = getattr(fitted.predictor, "predict", None)
    if predict is None:
        name = type(estimator).__name__
        raise TypeError(
            f"A {name} gives embeddings (embed_recording), no scores. For these, give "
            "a fitted BIOTClassifier, BIOTRegressor or EEGClassifier."
        )
    outputs, about = _map(
        fitted, predict, "score", recording, verbose,
        window=window, step=step, on_bad=on_bad, use_bads=use_bads, upsample=upsample,
        batch_size=batch_size, chunk_seconds=chunk_seconds,
    )  # fmt: skip
    if not is_probability:
        outputs = outputs.reshape(len(outputs), -1)
        n = outputs.shape[1]
        columns = ["prediction"] if n == 1 else [f"prediction {i}" for i in range(n)]
    # NumPy's labels are plain ones to who reads them.
    columns = [getattr(name, "item", lambda name=name: name)() for name in columns]
    values = pd.DataFrame(outputs, columns=columns)
    return RecordingScores(**about, values=values, is_probability=is_probability)


def embed_recording(
    estimator: Any,
    recording: mne.io.BaseRaw | str | os.PathLike[str],
    *,
    window: float | None = None,
    step: float | None = None,
    on_bad: Literal["skip", "mask", "keep"] = "skip",
    montage: str | Sequence[str] | None = None,
    use_bads: bool = False,
    upsample: bool = False,
    batch_size: int = 32,
    chunk_seconds: float = _CHUNK_SECONDS,
    verbose: int = 1,
) -> RecordingEmbeddings:
    """Embed each window of a recording.

    Parameters
    ----------
    estimator : BIOT or fitted estimator
        A model, such as :meth:`BIOT.from_checkpoint
        <braindecode_biot.BIOT.from_checkpoint>` makes, which gets µV; or a fitted
        :class:`~braindecode_biot.BIOTEmbedding`, ``BIOTClassifier`` or
        ``BIOTRegressor``.
    recording : mne.io.BaseRaw or path
        The recording, or a file that MNE can read. What is not loaded stays so.
    window, step, on_bad, montage, use_bads, upsample, batch_size, chunk_seconds, \
verbose
        As for :func:`score_recording`.

    Returns
    -------
    RecordingEmbeddings
        Embeddings of shape (n_windows, emb_size) with their times.

    Raises
    ------
    FileNotFoundError, RecordingError, ValueError, TypeError
        As for :func:`score_recording`.
    sklearn.exceptions.NotFittedError
        The estimator is not fitted.

    Warns
    -----
    UserWarning
        As for :func:`~braindecode_biot.to_montage`.

    Examples
    --------
    >>> from braindecode_biot import BIOT, load_absence
    >>> model = BIOT(
    ...     channel_names="tcp-16", n_times=2000, n_outputs=2, emb_size=32, n_layers=1
    ... )
    >>> found = embed_recording(model, load_absence(), verbose=0)
    >>> found.embeddings.shape, found.start[:3].tolist()
    ((34, 32), [0.0, 10.0, 20.0])
    """
    fitted = _open_estimator(estimator, montage)
    embed = getattr(fitted.predictor, "embed", None)
    if embed is None and isinstance(estimator, NeuralNet):
        net = estimator.module_
        if isinstance(net, BIOT):  # and no other model of braindecode
            bare = _BareModel(net)
            fitted, embed = fitted._replace(takes_epochs=False), bare.embed
    if embed is None:
        embed = getattr(fitted.predictor, "transform", None)
    if embed is None:
        raise TypeError(
            f"A {type(fitted.predictor).__name__} makes no embeddings. Give a BIOT, or "
            "a fitted BIOTEmbedding, BIOTClassifier or BIOTRegressor."
        )
    outputs, about = _map(
        fitted, embed, "embed", recording, verbose,
        window=window, step=step, on_bad=on_bad, use_bads=use_bads, upsample=upsample,
        batch_size=batch_size, chunk_seconds=chunk_seconds,
    )  # fmt: skip
    return RecordingEmbeddings(**about, embeddings=np.asarray(outputs, np.float32))


class _Fitted(NamedTuple):
    """What an estimator predicts with, and what it wants to see.

    Attributes
    ----------
    predictor : estimator
        Takes whole windows: all channels that it is given, in the fitted order.
    wanted : Wanted
        What these windows are to be.
    takes_epochs : bool
        Whether it was fitted on named channels.
    """

    predictor: Any
    wanted: Wanted
    takes_epochs: bool


def _map(
    fitted: _Fitted,
    function: Callable[[Any], Any],
    what: str,
    recording: Any,
    verbose: int,
    **options: Any,
) -> tuple[NDArray[Any], dict[str, Any]]:
    """Put windows through a function, as what the estimator was fitted on.

    Returns
    -------
    outputs : array of shape (n_windows, ...)
        What the function returned.
    about : dict
        What the results are of.
    """
    windows = RecordingWindows(recording, fitted.wanted, **options)
    for message in windows.stream.doubts:
        warnings.warn(message, UserWarning, stacklevel=3)
    info = windows.stream.info

    def run(starts: NDArray[np.int64], samples: NDArray[np.float64]) -> Any:
        if not fitted.takes_epochs:  # in the unit in which Epochs are read
            return function((samples * 1e6).astype(np.float32))
        events = np.c_[starts, np.zeros((len(starts), 2), int)]
        return function(mne.EpochsArray(samples, info, events, verbose="error"))

    return windows.map(run, what, verbose), windows.described()


def _classes(predictor: Any) -> list[Any]:
    """Name the classes, or say that they are not known."""
    try:
        return list(predictor.classes_)
    except AttributeError as error:
        raise ValueError(
            "The estimator does not know its classes, since it was fitted without y. "
            "Make it with classes=, as in EEGClassifier(..., classes=[0, 1])."
        ) from error


def _open_estimator(estimator: Any, montage: Any) -> _Fitted:
    """Find the network in an estimator, and let it take the windows made here."""
    if isinstance(estimator, BIOT):
        return _open_model(estimator, montage)
    if hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    steps = estimator.steps if isinstance(estimator, Pipeline) else [("", estimator)]
    steps = [
        (name, step)
        for name, step in steps
        if not isinstance(step, ToMontage) and step not in (None, "passthrough")
    ]
    steps = [(name, getattr(s, "best_estimator_", s)) for name, s in steps]
    part: Any = steps[0][1] if steps else None
    picks, exclude = None, ()
    if isinstance(part, Pipeline):
        raise TypeError("A pipeline within a pipeline was given, expected a flat one.")
    if hasattr(part, "picks") and hasattr(part, "signal_"):
        signal = part.signal_
        model = part.model_
        # What it picks and leaves out of a recording is done here.
        part = copy.copy(part)
        picks, exclude = part.picks, part.exclude
        part.picks, part.exclude = ("all", ()) if "chs_info" in signal else (None, ())
    elif isinstance(getattr(part, "module_", None), EEGModuleMixin):
        model = part.module_
        signal = _signal_of(model)
    else:
        if hasattr(part, "fit"):
            check_is_fitted(part)
        raise TypeError(
            f"A {type(estimator).__name__} was given, expected a fitted BIOTClassifier "
            "or BIOTRegressor, a braindecode EEGClassifier or EEGRegressor, or a "
            "pipeline that begins with one of these or with BIOTEmbedding."
        )
    scaling = getattr(model, "input_scaling", "q95")
    if "chs_info" not in signal and scaling != "q95":
        raise ValueError(
            f"With input_scaling={scaling} the unit matters, and this estimator was "
            "fitted on an array, whose unit is not known. Fit it on Epochs."
        )
    wanted, is_named = _wanted(signal, model, montage, picks, exclude)
    predictor = part
    if len(steps) > 1:
        predictor = Pipeline([(steps[0][0], part), *steps[1:]])
    return _Fitted(predictor, wanted, is_named)


def _open_model(model: BIOT, montage: Any) -> _Fitted:
    """Wrap a bare model into what embeds windows of its channels."""
    signal = _signal_of(model)
    if model.channel_names is not None and "chs_info" not in signal:
        made = mne.create_info(model.channel_names, signal["sfreq"], "eeg")
        signal["chs_info"] = list(made["chs"])
    wanted, _ = _wanted(signal, model, montage, None, ())
    return _Fitted(_BareModel(model), wanted, False)


class _BareModel:
    """A model as what embeds arrays."""

    def __init__(self, model: BIOT) -> None:
        self._model = model

    def embed(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed windows; the model's mode stays as it is."""
        device = next(self._model.parameters()).device
        with evaluating(self._model) as model, torch.inference_mode():
            x = torch.as_tensor(windows, device=device)
            found = model(x, return_features=True)["features"]
        embeddings: NDArray[np.float32] = found.float().cpu().numpy()
        return embeddings


def _signal_of(model: Any) -> SignalParams:
    """Read the signal parameters off a braindecode model."""
    signal: SignalParams = {
        "n_chans": model.n_chans,
        "n_times": model.n_times,
        "sfreq": float(model.sfreq),
        "input_window_seconds": model.n_times / float(model.sfreq),
    }
    with suppress(ValueError):  # braindecode's way to say that it was not told
        signal["chs_info"] = model.chs_info
    return signal


def _wanted(
    signal: SignalParams, model: Any, montage: Any, picks: Any, exclude: Any
) -> tuple[Wanted, bool]:
    """Settle what windows are to be, and tell whether the estimator names channels."""
    known = [ch["ch_name"] for ch in signal.get("chs_info") or ()]
    names = known if montage is None else list(vocabulary(montage))
    if not names:
        raise ValueError(
            "The estimator was fitted on an array, and does not know what its "
            f"{signal['n_chans']} channels are. Say so with montage=, as in "
            "montage='tcp-16' or montage=['C3-A2', 'C4-A1']."
        )
    if known and names != known:
        raise ValueError(
            f"montage={names} differs from the channels that the estimator was fitted "
            f"on, {known}. Leave it out."
        )
    if len(names) != signal["n_chans"]:
        raise ValueError(
            f"montage has {len(names)} channels, but the estimator was fitted on "
            f"{signal['n_chans']}."
        )
    token = None
    if getattr(model, "missing", "raise") == "mask":
        token = model.token_size, model.hop_length
    kinds = {ch["ch_name"]: int(ch["kind"]) for ch in signal.get("chs_info") or ()}
    wanted = Wanted(
        names, signal["sfreq"], signal["n_times"], token, kinds,
        _left_out(names, picks, exclude),
    )  # fmt: skip
    return wanted, bool(known)


def _left_out(names: list[str], picks: Any, exclude: Any) -> tuple[str, ...]:
    """Find channels of a vocabulary that an estimator picks not, or excludes.

    Where there is no vocabulary, channels are those that were picked.
    """
    own = {canonical(name): name for name in names}
    unseen = set() if isinstance(exclude, str) else {canonical(n) for n in exclude}
    chosen = [picks] if isinstance(picks, str) else list(picks or ())
    if chosen and all(isinstance(n, str) and canonical(n) in own for n in chosen):
        unseen |= own.keys() - {canonical(name) for name in chosen}
    return tuple(own[name] for name in own if name in unseen)
