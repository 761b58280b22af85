"""Missing data made on purpose, so that a model learns to do without.

Owns :class:`RandomMissing`, in the form of braindecode's transforms, and the removal
itself (:func:`remove`). Must not know the model nor how it is trained.
"""

from copy import deepcopy
from numbers import Integral
from typing import Any

import numpy as np
import torch
from braindecode.augmentation import Transform
from sklearn.utils import check_random_state
from torch import Tensor

__all__ = ["RandomMissing", "as_dense_as_the_paper", "remove", "reseeded"]


def remove(
    X: Tensor, y: Tensor, *, channels: Tensor, starts: Tensor, mask_len_samples: int
) -> tuple[Tensor, Tensor]:
    """Write NaN over channels and segments.

    Parameters
    ----------
    X : Tensor, shape (batch, n_chans, n_times)
        Windows.
    y : Tensor, shape (batch,)
        Labels, which stay.
    channels : Tensor of bool, shape (batch, n_chans)
        Channels to remove.
    starts : Tensor of int, shape (batch, n_chans, n_segments)
        Where removed segments begin, in samples; a negative number of at least their
        length removes nothing.
    mask_len_samples : int
        Length of a segment.

    Returns
    -------
    X, y : Tensor
        Windows with NaN, and the labels.
    """
    time = torch.arange(X.shape[2], device=X.device)
    lost = channels[..., None].expand(X.shape)
    # One by one: all at once would take the memory of the batch for each segment.
    for start in starts[..., None].unbind(2):
        lost = lost | ((time >= start) & (time < start + mask_len_samples))
    return X.masked_fill(lost, torch.nan), y


class RandomMissing(Transform):
    """Remove random channels and random segments of the others, as NaN.

    The damage of the paper's study of missing data (section 3.4): from each window up
    to ``max_channels`` channels, and from each other channel up to ``max_segments``
    segments. How many is drawn anew for each window and channel. One channel of each
    window stays as it is, so that something is always left: one without gaps, or with
    four times ``mask_len_samples`` between them. A window without such a channel stays
    as it is. For models with ``missing="mask"``.

    Parameters
    ----------
    probability : float
        Share of the windows that are damaged.
    max_segments : int
        Segments that a channel loses at most. They may overlap.
    mask_len_samples : int
        Length of a segment in samples; the paper's half second is 100 at 200 Hz.
    max_channels : int
        Channels that a window loses at most, of those that are there.
    random_state : int | numpy.random.RandomState | None
        Seed.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    Yang, C., Westover, M.B. and Sun, J., 2023. BIOT: Biosignal Transformer for
    Cross-data Learning in the Wild. NeurIPS. doi:10.48550/arXiv.2305.10351

    Examples
    --------
    >>> import torch
    >>> transform = RandomMissing(1, mask_len_samples=20, random_state=0)
    >>> X, y = transform(torch.ones(8, 6, 200), torch.zeros(8))
    >>> bool(X.isnan().any()), bool(X.isnan().all(2).all(1).any())
    (True, False)
    """

    operation = staticmethod(remove)

    def __init__(
        self,
        probability: float = 0.5,
        max_segments: int = 5,
        mask_len_samples: int = 100,
        max_channels: int = 4,
        random_state: Any = None,
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be from 0 to 1, got {probability!r}.")
        counts = dict(max_segments=0, mask_len_samples=1, max_channels=0)
        for name, least in counts.items():
            value = locals()[name]
            if not isinstance(value, Integral) or value < least:
                raise ValueError(
                    f"{name} must be a whole number ≥ {least}, got {value!r}."
                )
        if random_state is None:  # fresh entropy, not NumPy's global state
            random_state = np.random.RandomState()
        super().__init__(probability, random_state)
        self.max_segments = max_segments
        self.mask_len_samples = mask_len_samples
        self.max_channels = max_channels

    def get_augmentation_params(self, *batch: Tensor) -> dict[str, Any]:
        """Draw what is removed from each window of the batch ``(X, y)``."""
        X = batch[0]
        n, n_chans, n_times = X.shape
        missing = X.isnan().cpu()
        there = (~missing.all(2)).numpy()
        # The channel that stays is one that is whole, or whole for long.
        time = torch.arange(n_times)
        last_gap = missing.long().mul(time + 1).cummax(2).values
        longest = (time + 1 - last_gap).amax(2).numpy()
        may_stay = longest >= min(n_times, 4 * self.mask_len_samples)
        dice = self.rng.random_sample((n, n_chans))
        stays = (dice - 2 * may_stay).argmin(1)
        # In a random order of the other channels that are there, the first are lost.
        dice[np.arange(n), stays] = 2
        order = (dice + 3 * ~there).argsort(1).argsort(1)
        most = np.minimum(self.max_channels, there.sum(1) - 1).clip(0)
        n_lost = self.rng.randint(0, most + 1)[:, np.newaxis]
        last = max(1, n_times - self.mask_len_samples + 1)
        starts = self.rng.randint(0, last, (n, n_chans, self.max_segments))
        n_segments = self.rng.randint(0, self.max_segments + 1, (n, n_chans, 1))
        n_segments[np.arange(n), stays] = 0
        # Of windows of which next to nothing is there, nothing is removed.
        spared = ~may_stay.any(1)
        n_segments[spared], n_lost[spared] = 0, 0
        starts[np.arange(self.max_segments) >= n_segments] = -self.mask_len_samples
        return {
            "channels": torch.as_tensor(order < n_lost, device=X.device),
            "starts": torch.as_tensor(starts, device=X.device),
            "mask_len_samples": self.mask_len_samples,
        }


def as_dense_as_the_paper(
    share: float, n_chans: int, n_times: int, token_size: int, seed: int
) -> RandomMissing:
    """Remove as much of windows of any size as the paper does of 10 s in 16 channels.

    Parameters
    ----------
    share : float
        Share of the windows that are damaged.
    n_chans, n_times, token_size, seed : int
        Channels and samples of a window, samples of a token, and the seed.

    Returns
    -------
    RandomMissing
        Of a quarter of the channels, and half a token for every two tokens.
    """
    return RandomMissing(
        share,
        max_segments=max(1, round(n_times / token_size / 2)),
        mask_len_samples=max(1, token_size // 2),
        max_channels=n_chans // 4,
        random_state=seed,
    )


def reseeded(transform: RandomMissing, seed: int) -> RandomMissing:
    """Copy a transform, to draw from a seed of its own."""
    copy = deepcopy(transform)
    copy.rng = check_random_state(seed)
    return copy
