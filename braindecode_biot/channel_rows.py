"""Which row of the table of channel tokens a channel of a window has.

Owns the identity of channels inside the model: by name where there is a vocabulary,
by electrode position where a batch mixes recordings, else by place. Must not know
recordings (no mne) nor what a token is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from braindecode_biot.channels import rows_in, vocabulary

__all__ = ["ChannelRows"]

# Positions within a centimetre are the same electrode on another head; the electrodes
# of a 10-10 cap are some three apart.
_SAME_ELECTRODE = 0.01


class ChannelRows(nn.Module):
    """Find the rows of a batch's channels.

    Parameters
    ----------
    n_chans : int
        Channels of the model.
    chs_info : sequence of dict | None
        The channels' names and positions, as ``mne.Info["chs"]``.
    channel_names : str | sequence of str | None
        Vocabulary: the name of each row. None numbers the channels.

    Attributes
    ----------
    n_rows : int
        Rows of the table.

    Raises
    ------
    ValueError
        If the vocabulary is unknown or doubled, lacks a channel, or, without
        ``chs_info``, has another number of names than there are channels.
    """

    rows: Tensor
    positions: Tensor

    def __init__(
        self,
        n_chans: int,
        chs_info: Sequence[Mapping[str, Any]] | None,
        channel_names: str | Sequence[str] | None,
    ) -> None:
        super().__init__()
        self.names = None if channel_names is None else vocabulary(channel_names)
        rows = list(range(n_chans))
        self.n_rows = n_chans
        if self.names is not None:
            self.n_rows = len(self.names)
            if chs_info is not None:
                rows = rows_in(self.names, [ch["ch_name"] for ch in chs_info])
            elif n_chans != self.n_rows:
                raise ValueError(
                    f"channel_names has {self.n_rows} names, but there are {n_chans} "
                    "channels, and no chs_info says which ones. Pass chs_info (a "
                    f"recording's info['chs']), or n_chans={self.n_rows} and windows "
                    "with NaN in the channels that are missing (missing='mask')."
                )
        locations = [ch.get("loc") for ch in chs_info or ()]
        unknown = [torch.nan] * 3
        positions = [
            unknown if loc is None else [float(value) for value in loc[:3]]
            for loc in locations
        ] or [unknown] * n_chans
        # Where these stand follows from the arguments: they are no weights.
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        self.register_buffer(
            "positions", _unless_zero(torch.tensor(positions)), persistent=False
        )

    def forward(self, pos: Tensor | None, ch_mask: Tensor | None) -> Tensor:
        """Find the rows.

        Parameters
        ----------
        pos : Tensor, shape (batch, n_chans, 3) | None
            Electrode positions in metres, in MNE's head frame.
        ch_mask : Tensor of bool, shape (batch, n_chans) | None
            Channels that are no padding.

        Returns
        -------
        Tensor of int, shape (n_chans,) or (batch, n_chans)
            Rows.

        Raises
        ------
        ValueError
            If windows have different channels, and the positions do not tell which.
        """
        if pos is None:
            return self.rows
        if ch_mask is None:
            ch_mask = torch.ones_like(pos[..., 0], dtype=torch.bool)
        same_everywhere = pos.shape[1] == len(self.rows) and bool(ch_mask.all())
        if same_everywhere and not self.positions.isfinite().any():
            # Nothing to compare with but the windows among themselves.
            if (pos - pos[:1]).norm(dim=-1).nan_to_num().max() <= _SAME_ELECTRODE:
                return self.rows
            raise ValueError(
                "The windows of this batch have electrodes at different positions, and "
                "the model knows no positions to tell them apart. Make the model with "
                "chs_info of recordings that have a montage (raw.set_montage), such as "
                "signal_params(dataset, missing='mask') returns."
            )
        distances = torch.cdist(_unless_zero(pos).float(), self.positions.to(pos))
        nearest = distances.nan_to_num(torch.inf).min(-1)
        rows = self.rows[nearest.indices]
        if astray := ((nearest.values > _SAME_ELECTRODE) & ch_mask).nonzero().tolist():
            window, channel = astray[0]
            given = [round(value, 3) for value in pos[window, channel].tolist()]
            raise ValueError(
                f"Channel {channel} of window {window} has the position {given} m, "
                f"where the model knows no electrode; so have {len(astray)} channels "
                "in this batch. Make the model with chs_info of all channels that "
                "there are, with positions (raw.set_montage), such as "
                "signal_params(dataset, missing='mask') returns."
            )
        # Padding may repeat a row, real channels may not.
        spread = torch.arange(len(self.rows), len(self.rows) + pos.shape[1]).to(rows)
        once = torch.where(ch_mask, nearest.indices, spread).sort(-1).values
        if twice := (once[:, 1:] == once[:, :-1]).any(-1).nonzero().flatten().tolist():
            raise ValueError(
                f"Two channels of window {twice[0]} have the position of the same "
                "electrode, so that they cannot be told apart. Pick one of them, or "
                "correct the positions (raw.set_montage)."
            )
        return rows


def _unless_zero(positions: Tensor) -> Tensor:
    """Write NaN for positions of zero, which is how MNE may say unknown."""
    return positions.masked_fill((positions == 0).all(-1, keepdim=True), torch.nan)
