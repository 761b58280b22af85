"""Which row of the table of channel tokens a channel of a window has.

Owns the identity of channels inside the model: by name where there is a vocabulary,
by electrode position where a batch mixes recordings, else by place. Must not know
recordings (no mne) nor what a token is.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from braindecode_biot.channels import rows_in, vocabulary
from braindecode_biot.missing import has_values

__all__ = ["ChannelRows"]

_REMEDY = (
    "Make the model with chs_info of all channels that there are, with positions "
    "(raw.set_montage, the same for all), such as signal_params(dataset, "
    "missing='mask') returns."
)
# Metres within which a position is that of an electrode. Templates of one head agree
# exactly; those of another are centimetres off, where the next electrode may be.
_SAME_ELECTRODE = 0.002


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
    knows_positions : bool
        Whether ``pos`` can tell channels apart.

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
        self.is_named = chs_info is not None
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        self.register_buffer(
            "positions", _unless_zero(torch.tensor(positions)), persistent=False
        )
        self.knows_positions = bool(self.positions.isfinite().all(1).any())

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
            If the positions of a window are not those of different channels that the
            model knows.

        Warns
        -----
        UserWarning
            If windows seem to have different channels, but go by place, for there are
            no positions on one side.
        """
        if pos is None:
            self._warn_of_padding(ch_mask)
            return self.rows
        if ch_mask is None:
            ch_mask = torch.ones_like(pos[..., 0], dtype=torch.bool)
        pos = _unless_zero(pos.float())
        if not self.knows_positions:
            # Place is identity, as in braindecode; it had better be the same place.
            moved = (pos - pos[:1]).norm(dim=-1).nan_to_num() > _SAME_ELECTRODE
            if (moved & ch_mask & ch_mask[:1]).any():
                warnings.warn(
                    "The windows of this batch have electrodes at different positions. "
                    "The model knows none, and takes channels by their place in the "
                    f"window. {_REMEDY}",
                    stacklevel=3,
                )
            return self.rows
        distances = torch.cdist(pos, self.positions.float()).nan_to_num(torch.inf)
        nearest = distances.argmin(-1)
        near = (distances <= _SAME_ELECTRODE).sum(-1)
        if astray := ((near == 0) & ch_mask).nonzero().tolist():
            window, channel = astray[0]
            given = [round(value, 3) for value in pos[window, channel].tolist()]
            raise ValueError(
                f"Channel {channel} of window {window} has the position {given} m, "
                f"where the model knows no electrode; so have {len(astray)} channels "
                f"in this batch. {_REMEDY}"
            )
        if several := ((near > 1) & ch_mask).nonzero().tolist():
            window, channel = several[0]
            raise ValueError(
                f"Channel {channel} of window {window} is at a position that several "
                "channels of the model have, so that it cannot be told which it is. "
                "Leave doubled channels out, or go by name: stack_windows."
            )
        # Padding may repeat a row, real channels may not.
        spread = torch.arange(len(self.rows), len(self.rows) + pos.shape[1]).to(nearest)
        once = torch.where(ch_mask, nearest, spread).sort(-1).values
        if twice := (once[:, 1:] == once[:, :-1]).any(-1).nonzero().flatten().tolist():
            raise ValueError(
                f"Two channels of window {twice[0]} have the position of the same "
                "electrode, so that they cannot be told apart. Pick one of them, or "
                "correct the positions (raw.set_montage)."
            )
        return self.rows[nearest]

    def _warn_of_padding(self, ch_mask: Tensor | None) -> None:
        """Say that padded channels go by place, where the model knows better."""
        if ch_mask is None or not self.is_named or not has_values(ch_mask):
            return
        # Real channels first, then padding, as pad_channels_collate does.
        if not ch_mask.all() and bool((ch_mask[:, :-1] >= ch_mask[:, 1:]).all()):
            warnings.warn(
                "Channels that ch_mask leaves as real are taken by their place in the "
                "window, for there is no pos to tell them by. If recordings differ in "
                "their channels, call set_return_ch_pos(True) of the data set.",
                stacklevel=4,
            )


def _unless_zero(positions: Tensor) -> Tensor:
    """Write NaN for positions of zero, which is how MNE may say unknown."""
    return positions.masked_fill((positions == 0).all(-1, keepdim=True), torch.nan)
