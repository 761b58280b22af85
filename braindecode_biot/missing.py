"""What is missing of windows, as masks of samples and of tokens.

Owns finding it (:func:`find_missing`), leaving out what a whole batch lacks
(:func:`trim`), and telling which tokens are whole (:func:`whole_tokens`); with them the
checks of values, so that NaN and inf reach no logit silently. Must not know recordings
(no mne) nor what tokens become.
"""

from typing import Literal

import torch
from torch import Tensor

from braindecode_biot.tokens import frame

__all__ = ["find_missing", "has_values", "trim", "unusable", "whole_tokens"]


def find_missing(
    x: Tensor, ch_mask: Tensor | None, missing: Literal["raise", "mask"]
) -> Tensor | None:
    """Tell which samples are missing.

    Parameters
    ----------
    x : Tensor, shape (batch, n_chans, n_times)
        Windows.
    ch_mask : Tensor of bool, shape (batch, n_chans) | None
        False for channels that are but padding, whatever they hold.
    missing : "raise" | "mask"
        Whether NaN is an error or marks what is missing.

    Returns
    -------
    Tensor of bool, shape (batch, n_chans, n_times) | None
        None where surely no sample is missing.

    Raises
    ------
    ValueError
        If there are no windows, or one holds inf, or NaN that is an error. Where values
        cannot be asked, there is no error.

    Examples
    --------
    >>> x = torch.tensor([[[1.0, torch.nan, 3.0]]])
    >>> find_missing(x, None, "mask")
    tensor([[[False,  True, False]]])
    """
    if not torch.compiler.is_compiling() and x.shape[0] == 0:
        raise ValueError("Got a batch of no windows.")
    padded = None if ch_mask is None else ~ch_mask[..., None]
    if not has_values(x):
        unknown = x.isnan() if missing == "mask" else None
        if padded is None:
            return unknown
        return padded.expand_as(x) if unknown is None else padded | unknown
    if padded is not None and padded.any():
        x = x.masked_fill(padded, 0)
    else:
        padded = None
    # NaN and inf outlive a sum: sound data cost one pass and no memory.
    if torch.isfinite(x.sum()) or torch.isfinite(x).all():
        return None if padded is None else padded.expand_as(x)
    bad = (x.isinf() if missing == "mask" else ~x.isfinite()).any(-1)
    if bad.any():
        kind = "inf" if missing == "mask" else "NaN or inf"
        raise ValueError(
            f"{kind} in {int(bad.any(1).sum())} of {x.shape[0]} windows, in "
            f"channels {bad.any(0).nonzero().flatten().tolist()}. Leave out those "
            "windows or channels, or interpolate them, before the model; or mark "
            "what is missing with NaN and make the model with missing='mask'."
        )
    return x.isnan() if padded is None else padded | x.isnan()


def unusable(x: Tensor, missing: Tensor | None) -> Tensor:
    """Tell of which windows :func:`find_missing` would refuse the values.

    Parameters
    ----------
    x : Tensor, shape (batch, n_chans, n_times)
        Windows.
    missing : Tensor of bool, shape (batch, n_chans, n_times) | None
        Samples that are not there; None if all are.

    Returns
    -------
    Tensor of bool, shape (batch,)
        Windows with a sample that is neither finite nor missing.

    Examples
    --------
    >>> x = torch.tensor([[[1.0, torch.nan]], [[1.0, torch.inf]]])
    >>> unusable(x, x.isnan())
    tensor([False,  True])
    """
    bad = ~x.isfinite() if missing is None else ~(x.isfinite() | missing)
    return bad.flatten(1).any(1)


def trim(
    x: Tensor, missing: Tensor, rows: Tensor, least: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Leave out what no window of the batch has, for speed, where values can be asked.

    Parameters
    ----------
    x : Tensor, shape (batch, n_chans, n_times)
        Windows.
    missing : Tensor of bool, shape (batch, n_chans, n_times)
        Samples that are not there.
    rows : Tensor of int, shape (n_chans,) or (batch, n_chans)
        Rows of the channels in the table of channel tokens.
    least : int
        Samples to keep at least.

    Returns
    -------
    x, missing, rows : Tensor
        Without channels, and without samples at the end, that are missing in all
        windows; at least one channel stays.

    Examples
    --------
    >>> x = torch.tensor([[[1.0, 2.0, torch.nan], [torch.nan] * 3]])
    >>> trim(x, x.isnan(), torch.tensor([0, 1]), least=1)
    (tensor([[[1., 2.]]]), tensor([[[False, False]]]), tensor([0]))
    """
    if not has_values(x):
        return x, missing, rows
    there = ~missing.all(0)
    chans = there.any(1).nonzero().flatten()
    if not len(chans):
        chans = chans.new_zeros(1)
    times = there.any(0).nonzero().flatten()
    stop = max(least, int(times[-1]) + 1 if len(times) else 0)
    if len(chans) < x.shape[1]:
        x, missing, rows = x[:, chans], missing[:, chans], rows[..., chans]
    return x[..., :stop], missing[..., :stop], rows


def whole_tokens(missing: Tensor, token_size: int, hop_length: int) -> Tensor:
    """Tell which tokens touch no missing sample.

    Parameters
    ----------
    missing : Tensor of bool, shape (batch, n_chans, n_times)
        Samples that are not there.
    token_size, hop_length : int
        As for :func:`~braindecode_biot.tokens.frame`.

    Returns
    -------
    Tensor of bool, shape (batch, n_chans * n_frames)
        Tokens that are there.

    Raises
    ------
    ValueError
        If a window has none.

    Examples
    --------
    >>> missing = torch.tensor([[[False, False, False, False, True, False]]])
    >>> whole_tokens(missing, token_size=2, hop_length=1)
    tensor([[ True,  True,  True, False, False]])
    """
    whole = (~frame(missing, token_size, hop_length).any(-1)).flatten(1)
    if has_values(whole) and not (kept := whole.any(1)).all():
        empty = (~kept).nonzero().flatten().tolist()
        raise ValueError(
            f"Every token is missing in {len(empty)} of {len(kept)} windows of the "
            f"batch: {empty[:5]}. A token is there if none of its samples is NaN. "
            "Leave out those windows."
        )
    return whole


def has_values(x: Tensor) -> bool:
    """Tell whether a tensor's values can be asked.

    They cannot in a compiled or exported graph, nor of a tensor that has none; and of
    one on a GPU they are not, for asking would wait until all work before is done.
    """
    return x.device.type == "cpu" and not torch.compiler.is_compiling()
