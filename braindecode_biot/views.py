"""The second view of a window: what is left when tokens and channels are dropped.

Owns which tokens these are. Must not know what a token holds, nor what is learned.
"""

import torch
from torch import Tensor

__all__ = ["check_drops", "drop_tokens"]


def check_drops(least_tokens: float, most_channels: float) -> None:
    """Refuse shares that leave nothing, or that are none.

    Parameters
    ----------
    least_tokens, most_channels : float
        As for :func:`drop_tokens`.

    Raises
    ------
    ValueError
        If a share is out of range, or nothing would be dropped.
    """
    if not 0 < least_tokens <= 1:
        raise ValueError(f"least_tokens must be in (0, 1], got {least_tokens!r}.")
    if not 0 <= most_channels < 1:
        raise ValueError(f"most_channels must be in [0, 1), got {most_channels!r}.")
    if least_tokens == 1 and most_channels == 0:
        raise ValueError(
            "With least_tokens=1 and most_channels=0 nothing is dropped, and the views "
            "of a window are the same: there is nothing to learn. Drop some of either."
        )


def drop_tokens(
    present: Tensor,
    least_tokens: float = 0.5,
    most_channels: float = 0.25,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw what the second view of each window keeps.

    From each window some channels are dropped, and from each of the others some tokens
    (paper, section 2.4). How many, and which, is drawn for each window and channel.

    Parameters
    ----------
    present : Tensor of bool, shape (batch, n_chans, n_frames)
        Tokens that are there.
    least_tokens : float
        Share of a channel's tokens that is kept at least; always at least one token.
        At least one is dropped where that leaves as many.
    most_channels : float
        Share of a window's channels that is dropped at most, rounded down; a quarter
        is up to 4 of 16, as in the paper's study of missing channels.
    generator : torch.Generator | None
        What draws; None is torch's default one.

    Returns
    -------
    Tensor of bool, shape (batch, n_chans, n_frames)
        Tokens that are kept.

    Raises
    ------
    ValueError
        As for :func:`check_drops`.

    Examples
    --------
    >>> present = torch.ones(2, 16, 19, dtype=torch.bool)
    >>> kept = drop_tokens(present)
    >>> n_kept = kept.sum(2)
    >>> bool((n_kept[n_kept > 0] >= 10).all()), bool(((n_kept == 0).sum(1) <= 4).all())
    (True, True)
    """
    check_drops(least_tokens, most_channels)
    device = present.device
    n_windows, n_chans, n_frames = present.shape

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    n_tokens = present.sum(2)
    there = n_tokens > 0
    # 1e-6: a share times a number that should be whole may lie just beside it.
    most = (there.sum(1) * most_channels + 1e-6).floor()
    n_dropped = _from_to(torch.zeros_like(most), most, draw(n_windows))
    stays = there & (_places(there, draw(n_windows, n_chans)) >= n_dropped[:, None])

    least = (n_tokens * least_tokens - 1e-6).ceil().clamp(min=1)
    n_kept = _from_to(least, torch.maximum(n_tokens - 1, least), draw(*there.shape))
    places = _places(present, draw(n_windows, n_chans, n_frames))
    return present & stays[..., None] & (places < n_kept[..., None])


def _places(present: Tensor, scores: Tensor) -> Tensor:
    """Rank those present by their scores, which are below 1: 0, 1, 2, ..."""
    return scores.masked_fill(~present, 1).argsort(-1).argsort(-1)


def _from_to(least: Tensor, most: Tensor, share: Tensor) -> Tensor:
    """Draw whole numbers from one to another, both included."""
    return least + (share * (most - least + 1)).floor()
