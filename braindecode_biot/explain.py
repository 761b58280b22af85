"""Why a model says what it says of a window: integrated gradients on its spectra.

Owns what is explained (:func:`explain`) and the test of it (:func:`deletion_curve`);
the integral is captum's, the result is an
:class:`~braindecode_biot.attribution.Attribution`. Must not know figures.
"""

import warnings
from collections.abc import Iterator, Sequence
from numbers import Integral
from types import ModuleType
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.utils import check_random_state
from torch import Tensor

from braindecode_biot.attribution import Attribution
from braindecode_biot.fitted import Fitted, evaluating, open_fitted
from braindecode_biot.model import BIOT

__all__ = ["deletion_curve", "explain"]

# Error of a window's sum that is worth a warning, as a share of the sum of absolute
# values. 50 steps of Gauss and Legendre are a hundred times better on trained models.
_TOLERANCE = 1e-3


def explain(
    estimator: Any,
    X: Any,
    target: Any = None,
    *,
    baseline: Any = "flat",
    scale: Literal["log-odds", "output"] | None = None,
    n_steps: int = 50,
    batch_size: int = 32,
) -> Attribution:
    r"""Attribute a model's output to channels, times and frequencies.

    The model embeds the magnitude spectrum :math:`S` of each token. Integrated
    gradients [Sundararajan2017]_ attribute the output :math:`f` to each value of them,

    .. math::
        (S - S') \int_0^1 \frac{\partial f}{\partial S}
        \bigl(S' + \alpha (S - S')\bigr) \, d\alpha

    so that all values together are the output at the window less the output at the
    baseline :math:`S'`. Where the model scales its input, as by default, spectra are
    those of scaled windows: that a channel is louder than another, or than in another
    window, is not in them.

    Parameters
    ----------
    estimator : BIOTClassifier, BIOTRegressor, braindecode.EEGClassifier or BIOT
        Fitted: an estimator of this package, a skorch net with a
        :class:`~braindecode_biot.BIOT` as module, or a model.
    X : mne.Epochs | list of mne.Epochs | array | windowed braindecode dataset
        Windows, as the estimator predicts on. For a model a tensor or array of shape
        (n_windows, n_chans, n_times).
    target : label, array of shape (n_windows,) or None
        The class to explain, by its label, for all windows or one for each; for a
        model and for a regressor the index of the output. None is the class that is
        predicted for each window, or a regressor's only output.
    baseline : "flat" | "mean" | windows
        What windows are compared with. "flat" is a flat channel, whose spectra are
        zero. Windows, of any kind that ``X`` may be, stand for their mean spectrum of
        each channel, such as that of the background; "mean" is that of ``X`` itself.
    scale : "log-odds" | "output" | None
        What of the target is explained. "log-odds" is the logarithm of :math:`p / (1 -
        p)` with its probability :math:`p`: the target's logit less that of all other
        classes together, and the difference of the logits where there are two. What
        only shifts all logits does not count, as it changes no prediction. "output" is
        the logit, or a regressor's prediction in the unit of its targets. None is
        log-odds, but the output for regressors and for models with but one.
    n_steps : int
        Steps between baseline and window.
    batch_size : int
        Windows, or steps of a window, that are computed at a time.

    Returns
    -------
    Attribution
        Values of shape (n_windows, n_chans, n_frames, n_freqs), NaN for missing tokens.

    Raises
    ------
    ImportError
        If captum is not installed.
    TypeError
        If ``estimator`` holds no BIOT, or a model is given anything but an array.
    ValueError
        If a target is none of the classes or outputs, there is none for a regressor of
        several outputs, the baseline lacks a channel, windows do not fit the model,
        or an argument has none of its values.
    sklearn.exceptions.NotFittedError
        If the estimator is not fitted.

    Warns
    -----
    UserWarning
        Where ``delta`` is more than 0.1 % of the sum of a window's absolute values.

    References
    ----------
    .. [Sundararajan2017] Sundararajan, M., Taly, A. and Yan, Q., 2017. Axiomatic
       Attribution for Deep Networks. ICML. doi:10.48550/arXiv.1703.01365

    Examples
    --------
    >>> import torch
    >>> from braindecode_biot import BIOT
    >>> _ = torch.manual_seed(0)
    >>> model = BIOT(n_chans=2, n_outputs=2, n_times=400, sfreq=200, emb_size=16)
    >>> attribution = explain(model, torch.randn(3, 2, 400), target=1, n_steps=200)
    >>> attribution.values.shape
    (3, 2, 3, 101)
    >>> bool(abs(attribution.delta).max() < 0.001)
    True
    """
    captum = _import_captum()
    _check_numbers(n_steps=n_steps, batch_size=batch_size)
    opened = open_fitted(estimator, X)
    unit = _pick_scale(scale, opened)
    chosen = _indices(target, opened)
    reference = _mean_spectra(estimator, opened, baseline, batch_size)
    gradients = captum.IntegratedGradients(_output)
    parts = []
    with evaluating(opened.model) as model:
        for which, spectra, rows, present in _batches(opened, batch_size):
            index = _predicted(model, spectra, rows, present)
            if chosen is not None:
                index = torch.as_tensor(chosen[which], device=spectra.device)
            base = _base(reference, spectra, present, opened.ch_names)
            given = (rows, present, index, opened, unit)
            values = gradients.attribute(
                spectra,
                base,
                additional_forward_args=given,
                n_steps=n_steps,
                internal_batch_size=batch_size,
            ).detach()
            values = values.masked_fill(_absent(spectra, present), torch.nan)
            with torch.no_grad():
                outputs = [_output(end, *given) for end in (spectra, base)]
            parts.append([part.cpu().numpy() for part in (values, index, *outputs)])
    values, indices, *ends = map(np.concatenate, zip(*parts, strict=True))
    _check_finite(*ends)
    attribution = Attribution(
        values=values,
        ch_names=opened.ch_names,
        times=_times(model, values.shape[2]),
        freqs=np.arange(values.shape[3]) * model.sfreq / model.token_size,
        targets=opened.labels[indices],
        outputs=ends[0],
        baseline_outputs=ends[1],
        baseline=reference.numpy(),
        unit=unit,
    )
    _warn_of_delta(attribution, n_steps)
    return attribution


def deletion_curve(
    estimator: Any,
    X: Any,
    attribution: Attribution,
    *,
    shares: Sequence[float] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0),
    n_random: int = 10,
    batch_size: int = 32,
    random_state: Any = None,
) -> pd.DataFrame:
    """Test attributions: remove the tokens that speak most for the target.

    Removed tokens get the baseline's spectrum. If attributions are right, the output
    falls faster than where as many tokens are removed at random.

    Parameters
    ----------
    estimator, X
        As :func:`explain` was given.
    attribution : Attribution
        Of these windows.
    shares : sequence of float
        Shares of a window's tokens that are removed, from 0 to 1.
    n_random : int
        Random choices of tokens, over which the mean is taken.
    batch_size : int
        Windows that are computed at a time.
    random_state : int | RandomState | None
        Makes the random choices repeatable.

    Returns
    -------
    pandas.DataFrame
        A row for each window and share, with the columns ``window``, ``share`` and the
        outputs ``attributed``, without the tokens that speak most for the target, and
        ``random``, the mean without random ones.

    Raises
    ------
    ValueError
        If the attributions are not of such windows, or an argument has none of its
        values.
    TypeError, sklearn.exceptions.NotFittedError
        As for :func:`explain`.

    Examples
    --------
    >>> import torch
    >>> from braindecode_biot import BIOT
    >>> model = BIOT(n_chans=2, n_outputs=2, n_times=400, sfreq=200, emb_size=16)
    >>> x = torch.randn(3, 2, 400)
    >>> curve = deletion_curve(model, x, explain(model, x), shares=[0, 0.5])
    >>> curve.groupby("share")[["attributed", "random"]].mean().shape
    (2, 2)
    """
    _check_numbers(n_random=n_random, batch_size=batch_size)
    if bad := [share for share in shares if not 0 <= share <= 1]:
        raise ValueError(f"shares are from 0 to 1, got {bad}.")
    opened = open_fitted(estimator, X)
    n_windows = len(opened.windows)
    if len(attribution) != n_windows:
        raise ValueError(
            f"Got {n_windows} windows, and attributions of {len(attribution)}: give "
            "the windows that were explained."
        )
    indices = torch.as_tensor(_indices(attribution.targets, opened))
    reference = torch.as_tensor(attribution.baseline)
    # What speaks most for the target goes first, or else what chance says.
    worth = np.nansum(attribution.values, -1).reshape(n_windows, -1)
    rng = check_random_state(random_state)
    orders = [worth, *(rng.uniform(size=worth.shape) for _ in range(n_random))]
    outputs = np.empty((len(orders), n_windows, len(shares)))
    with evaluating(opened.model), torch.no_grad():
        for which, spectra, rows, present in _batches(opened, batch_size):
            _check_same(attribution, spectra)
            base = _base(reference, spectra, present, opened.ch_names)
            index, unit = indices[which].to(spectra.device), attribution.unit
            there = ~_absent(spectra, present).flatten(1)
            for i, j in np.ndindex(len(orders), len(shares)):
                order = torch.as_tensor(orders[i][which]).to(spectra)
                gone = _first(order, there, shares[j]).reshape(spectra.shape[:-1])
                left = torch.where(gone[..., None], base, spectra)
                output = _output(left, rows, present, index, opened, unit)
                outputs[i, which, j] = output.cpu().numpy()
    return pd.DataFrame(
        {
            "window": np.repeat(np.arange(n_windows), len(shares)),
            "share": np.tile(np.asarray(shares, float), n_windows),
            "attributed": outputs[0].ravel(),
            "random": outputs[1:].mean(0).ravel(),
        }
    )


def _import_captum() -> ModuleType:
    try:
        import captum.attr
    except ImportError as error:
        raise ImportError(
            "explain needs captum: pip install 'braindecode-biot[explain]'."
        ) from error
    attr: ModuleType = captum.attr
    return attr


def _check_numbers(**numbers: int) -> None:
    for name, value in numbers.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number ≥ 1, got {value!r}.")


def _times(model: BIOT, n_frames: int) -> NDArray[np.float64]:
    """Find the centres of tokens in s."""
    starts = np.arange(n_frames) * model.hop_length
    return np.asarray((starts + model.token_size / 2) / model.sfreq, float)


def _pick_scale(scale: str | None, opened: Fitted) -> str:
    if scale not in ("log-odds", "output", None):
        raise ValueError(f"scale is 'log-odds', 'output' or None, got {scale!r}.")
    has_odds = len(opened.labels) > 1 and not opened.is_regressor
    if scale == "log-odds" and not has_odds:
        raise ValueError(
            "scale='log-odds' needs a classifier with an output for each class; the "
            "only output of a model, and those of a regressor, have scale='output'."
        )
    return scale or ("log-odds" if has_odds else "output")


def _indices(target: Any, opened: Fitted) -> NDArray[np.intp] | None:
    """Find the output that is meant for each window; None is what is predicted."""
    labels, n_windows = opened.labels.tolist(), len(opened.windows)
    if target is None:
        if opened.is_regressor and len(labels) > 1:
            raise ValueError(
                f"This regressor has {len(labels)} outputs: say which one to explain, "
                f"target=0 to {len(labels) - 1}."
            )
        return None
    given = np.asarray(target)
    if given.ndim and given.shape != (n_windows,):
        raise ValueError(
            f"target has the shape {given.shape} for {n_windows} windows: give one for "
            "all windows, or one for each."
        )
    places = {label: place for place, label in enumerate(labels)}
    wanted = np.broadcast_to(given, n_windows).tolist()
    if unknown := sorted({label for label in wanted if label not in places}, key=str):
        raise ValueError(
            f"target holds {unknown}, expected of the classes or outputs {labels}."
        )
    return np.array([places[label] for label in wanted])


def _batches(
    opened: Fitted, batch_size: int
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor | None]]:
    """Yield which windows, and their spectra, rows and tokens that are there."""
    model, windows = opened.model, opened.windows
    device = next(model.parameters()).device
    for start in range(0, len(windows), batch_size):
        which = slice(start, min(start + batch_size, len(windows)))
        items = [torch.as_tensor(windows[i]) for i in range(which.start, which.stop)]
        x = torch.stack(items).to(device)
        with torch.no_grad():
            spectra, rows, present = model._read(x, None, None, whole=True)
        # A row for each window, as captum repeats what it passes on with its steps.
        yield which, spectra, rows.expand(len(x), -1), present


def _absent(spectra: Tensor, present: Tensor | None) -> Tensor:
    """Tell which tokens are missing, in a shape that fits their spectra."""
    if present is None:
        return torch.zeros_like(spectra[..., :1], dtype=torch.bool)
    return ~present.reshape(*spectra.shape[:-1], 1)


def _mean_spectra(
    estimator: Any, opened: Fitted, baseline: Any, batch_size: int
) -> Tensor:
    """Make the baseline, shape (n_chans, n_freqs); NaN where no token is there."""
    model = opened.model
    if isinstance(baseline, str):
        if baseline not in ("flat", "mean"):
            raise ValueError(
                f"baseline is 'flat', 'mean' or windows, got {baseline!r}."
            )
        if baseline == "flat":
            return torch.zeros(len(opened.ch_names), model.token_size // 2 + 1)
    else:
        opened = open_fitted(estimator, baseline)
    total, n_tokens = torch.zeros(()), torch.zeros(())
    for _, spectra, _, present in _batches(opened, batch_size):
        there = ~_absent(spectra, present)
        total = total + spectra.sum((0, 2)).cpu()  # zero where absent
        n_tokens = n_tokens + there.sum((0, 2)).cpu()
    return total / n_tokens


def _base(
    reference: Tensor, spectra: Tensor, present: Tensor | None, names: Sequence[str]
) -> Tensor:
    """Put the baseline in the place of all tokens that are there."""
    base = reference.to(spectra)[:, None].expand_as(spectra)
    base = base.masked_fill(_absent(spectra, present), 0)
    if lacking := base.isnan().any(-1).any(-1).any(0).nonzero().flatten().tolist():
        raise ValueError(
            "The baseline's windows have no whole token of "
            f"{[names[i] for i in lacking]}, which the windows to explain have. Give a "
            "baseline of all channels."
        )
    return base


def _output(
    spectra: Tensor,
    rows: Tensor,
    present: Tensor | None,
    index: Tensor,
    opened: Fitted,
    scale: str,
) -> Tensor:
    """Compute what is explained of each window, shape (batch,)."""
    model = opened.model
    outputs: Tensor = model.final_layer(model._embed(spectra, rows, present))
    wanted = outputs.gather(1, index[:, None])[:, 0]
    if scale == "output":
        mean, spread = (
            torch.tensor(unit).to(wanted)[index]
            for unit in (opened.mean, opened.spread)
        )
        return mean + spread * wanted
    others = outputs.scatter(1, index[:, None], -torch.inf)
    return wanted - others.logsumexp(1)


def _predicted(
    model: BIOT, spectra: Tensor, rows: Tensor, present: Tensor | None
) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.final_layer(model._embed(spectra, rows, present))
    return logits.argmax(1)


def _first(order: Tensor, there: Tensor, share: float) -> Tensor:
    """Tell which tokens are the first share of those that are there, per window."""
    n_gone = (share * there.sum(1, keepdim=True)).round()
    ranks = order.masked_fill(~there, -torch.inf).argsort(1, descending=True).argsort(1)
    return ranks < n_gone


def _check_same(attribution: Attribution, spectra: Tensor) -> None:
    if attribution.values.shape[1:] != spectra.shape[1:]:
        raise ValueError(
            f"The attributions have {attribution.values.shape[1:]} channels, times and "
            f"frequencies, the windows {tuple(spectra.shape[1:])}: give the windows "
            "that were explained."
        )


def _check_finite(*outputs: NDArray[Any]) -> None:
    bad = np.flatnonzero(~np.isfinite(outputs).all(0)).tolist()
    if bad:
        raise ValueError(
            f"The model's outputs are not finite for windows {bad[:5]}, though the "
            "samples are: their values are too extreme. Look at these windows."
        )


def _warn_of_delta(attribution: Attribution, n_steps: int) -> None:
    error = np.abs(attribution.delta)
    magnitude = np.nansum(np.abs(attribution.values), (1, 2, 3), dtype=np.float64)
    # Where window and baseline are next to equal, rounding is all there is.
    ends = (attribution.outputs, attribution.baseline_outputs)
    rounding = 1e-5 * np.abs(ends).sum(0)
    bad = np.flatnonzero(error > _TOLERANCE * magnitude + rounding).tolist()
    if bad:
        warnings.warn(
            f"Attributions of {len(bad)} of {len(error)} windows ({bad[:5]}) do not "
            f"add up: they are off by up to {error.max():.2g}, more than "
            f"{_TOLERANCE:.1%} of their absolute sum. Take more steps, such as "
            f"n_steps={4 * n_steps}.",
            stacklevel=3,
        )
