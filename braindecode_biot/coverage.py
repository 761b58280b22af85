"""What a recording gives of a montage, as a table.

Owns the account of how each channel of a montage came about. Must not know how that is
found out, nor import torch.
"""

from dataclasses import dataclass
from typing import NamedTuple

import pandas as pd

__all__ = ["MontageReport", "MontageRow"]


class MontageRow(NamedTuple):
    """How one channel of a montage comes about.

    Attributes
    ----------
    channel : str
        Its name in the montage.
    status : {"found", "renamed", "reversed", "derived", "missing"}
        A channel of the recording, the same under another name, the same with its
        sign changed, a combination of several, or none of these.
    formula : str
        Of which channels it consists, by their names in the recording.
    note : str
        Why it is missing, or what else there is to know.
    """

    channel: str
    status: str
    formula: str
    note: str


@dataclass(frozen=True)
class MontageReport:
    """How a montage comes about from a recording.

    Attributes
    ----------
    montage : str
        What was asked for: ``"tcp-16"``, ``"tcp-18"`` or ``"own"``.
    rows : tuple of MontageRow
        The channels of the montage, in its order.
    unused : tuple of str
        Channels of the recording that no row needs.
    """

    montage: str
    rows: tuple[MontageRow, ...]
    unused: tuple[str, ...]

    @property
    def found(self) -> list[str]:
        """Channels that the recording has by these names."""
        return self._having("found")

    @property
    def renamed(self) -> list[str]:
        """Channels that the recording has by other names."""
        return self._having("renamed")

    @property
    def reversed(self) -> list[str]:
        """Channels that the recording has with the opposite sign."""
        return self._having("reversed")

    @property
    def derived(self) -> list[str]:
        """Channels that are sums or differences of several."""
        return self._having("derived")

    @property
    def missing(self) -> dict[str, str]:
        """Channels that the recording cannot give, and why."""
        return {row.channel: row.note for row in self.rows if row.status == "missing"}

    @property
    def coverage(self) -> float:
        """Share of the montage that the recording can give, 0 to 1."""
        return 1 - len(self.missing) / len(self.rows)

    def to_dataframe(self) -> pd.DataFrame:
        """Give the rows as a table.

        Returns
        -------
        pandas.DataFrame
            With the columns of :class:`MontageRow`.
        """
        return pd.DataFrame(self.rows, columns=MontageRow._fields)

    def __str__(self) -> str:
        """Lay the rows out as a table."""
        table = [("channel", "status", "from", "note"), *self.rows]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ["  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table]
        n_there = len(self.rows) - len(self.missing)
        head = f"Montage {self.montage}: {n_there} of {len(self.rows)} channels"
        foot = f"Not used: {', '.join(self.unused) or 'none'}"
        return "\n".join([head, *lines, foot])

    __repr__ = __str__

    def _having(self, status: str) -> list[str]:
        return [row.channel for row in self.rows if row.status == status]
