"""What loading did with each tensor: a table to read, print and keep.

Owns the report's form. Must not import torch, nor decide what fits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LoadReport", "TensorRecord"]

Status = Literal["matched", "renamed", "resized", "skipped", "missing"]
_MEANING: dict[Status, str] = {
    "matched": "taken over under the same name",
    "renamed": "taken over under another name",
    "resized": "channel tokens put together by name",
    "skipped": "in the checkpoint, not taken",
    "missing": "not in the checkpoint: new, untrained",
}


@dataclass(frozen=True)
class TensorRecord:
    """What became of one tensor.

    Attributes
    ----------
    status : {"matched", "renamed", "resized", "skipped", "missing"}
        What became of it.
    name : str | None
        Its name in the model; None if it was left out.
    key : str | None
        Its name in the checkpoint; None if it was not there.
    shape : tuple of int
        Its shape in the model, or in the checkpoint if it was left out.
    reason : str
        Why, where that is not plain.
    """

    status: Status
    name: str | None
    key: str | None
    shape: tuple[int, ...]
    reason: str = ""

    @property
    def n_parameters(self) -> int:
        """Number of its elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class LoadReport:
    """What loading did with each tensor of a checkpoint and of the model.

    Attributes
    ----------
    source : str
        Where the checkpoint came from.
    layout : str
        ``"biot"``, ``"braindecode"`` or ``"official"``.
    records : tuple of TensorRecord
        One for each tensor.
    notes : tuple of str
        What the checkpoint could not tell, and what else to know.

    Examples
    --------
    >>> from braindecode_biot import BIOT, load_weights
    >>> model = BIOT(n_chans=2, n_outputs=2, n_times=400)
    >>> other = BIOT(n_chans=2, n_outputs=4, n_times=400)
    >>> report = load_weights(model, other.state_dict())
    >>> [record.name for record in report.missing]
    ['final_layer.linear.weight', 'final_layer.linear.bias']
    >>> f"{report.parameter_share:.2%}"
    '99.98%'
    """

    source: str
    layout: str
    records: tuple[TensorRecord, ...]
    notes: tuple[str, ...] = ()

    def _having(self, status: Status) -> tuple[TensorRecord, ...]:
        return tuple(r for r in self.records if r.status == status)

    @property
    def matched(self) -> tuple[TensorRecord, ...]:
        """Tensors that were taken over under their names."""
        return self._having("matched")

    @property
    def renamed(self) -> tuple[TensorRecord, ...]:
        """Tensors that were taken over under other names."""
        return self._having("renamed")

    @property
    def resized(self) -> tuple[TensorRecord, ...]:
        """The table of channel tokens, where it was put together by channels' names."""
        return self._having("resized")

    @property
    def skipped(self) -> tuple[TensorRecord, ...]:
        """Tensors of the checkpoint that were left out, with the reason."""
        return self._having("skipped")

    @property
    def missing(self) -> tuple[TensorRecord, ...]:
        """Tensors of the model that the checkpoint lacks."""
        return self._having("missing")

    @property
    def n_loaded(self) -> int:
        """Number of parameters of the model that came from the checkpoint's tensors."""
        return _count((*self.matched, *self.renamed, *self.resized))

    @property
    def parameter_share(self) -> float:
        """The same as a share of all parameters of the model."""
        return self.n_loaded / (self.n_loaded + _count(self.missing))

    def to_dataframe(self) -> "pd.DataFrame":
        """Give one row for each tensor.

        Returns
        -------
        pandas.DataFrame
            Columns ``status``, ``name``, ``key``, ``shape``, ``n_parameters`` and
            ``reason``.
        """
        import pandas as pd

        columns = ["status", "name", "key", "shape", "n_parameters", "reason"]
        rows = [[getattr(r, column) for column in columns] for r in self.records]
        return pd.DataFrame(rows, columns=columns)

    def __str__(self) -> str:
        """Print as a table."""
        lines = [
            f"{self.source} ({self.layout} layout): {self.n_loaded:,} parameters, "
            f"{self.parameter_share:.1%} of the model"
        ]
        for status, meaning in _MEANING.items():
            if not (records := self._having(status)):
                continue
            lines.append(
                f"  {status:<8}{len(records):>4} tensors {_count(records):>11,} "
                f"parameters  {meaning}"
            )
            if status not in ("matched", "renamed"):
                lines += [
                    f"    {r.name or r.key} {r.shape}" + (r.reason and f": {r.reason}")
                    for r in records
                ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def _count(records: Sequence[TensorRecord]) -> int:
    return sum(record.n_parameters for record in records)
