"""Attributions: what each part of a window adds to a model's output.

Owns the result object, its sums and tables. Must not know how attributions are
computed (no torch) nor how they are drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["BANDS", "Attribution"]

#: Bands of the EEG in Hz: from the first, up to but without the second.
BANDS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "delta": (0.5, 4.0),
        "theta": (4.0, 8.0),
        "alpha": (8.0, 13.0),
        "beta": (13.0, 30.0),
        "gamma": (30.0, 100.0),
    }
)


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """What each channel, time and frequency of windows adds to an output.

    Positive values speak for the target, negative ones against it. They have the unit
    of the output, and the values of a window add up to the output at the window less
    the output at the baseline, but for ``delta``.

    Attributes
    ----------
    values : array of shape (n_windows, n_chans, n_frames, n_freqs)
        Attributions. NaN where a token was missing, and so could say nothing; sums
        leave it out, and are NaN where there was no token at all.
    ch_names : tuple of str
        Names of the channels.
    times : array of shape (n_frames,)
        Centre of each token in s from the window's start.
    freqs : array of shape (n_freqs,)
        Frequencies in Hz.
    targets : array of shape (n_windows,)
        Which output of the model is explained: the class label, for classifiers.
    outputs : array of shape (n_windows,)
        The output at the window.
    baseline_outputs : array of shape (n_windows,)
        The output at the baseline.
    baseline : array of shape (n_chans, n_freqs)
        The baseline: a magnitude spectrum for each channel, as the model embeds it.
    unit : str
        Unit of attributions and outputs, such as "log-odds".

    Examples
    --------
    >>> attribution = Attribution(
    ...     values=np.ones((1, 2, 3, 51)),
    ...     ch_names=("C3", "C4"),
    ...     times=np.array([0.5, 1.0, 1.5]),
    ...     freqs=np.arange(51.0),
    ...     targets=np.array(["rest"]),
    ...     outputs=np.array([306.0]),
    ...     baseline_outputs=np.array([0.0]),
    ...     baseline=np.zeros((2, 51)),
    ...     unit="log-odds",
    ... )
    >>> attribution
    Attribution(1 window, 2 channels, 3 times, 51 frequencies; of 'rest', in log-odds)
    >>> attribution.per_band()
    band    delta  theta  alpha   beta  gamma
    window
    0        18.0   24.0   30.0  102.0  126.0
    """

    values: NDArray[Any]
    ch_names: tuple[str, ...]
    times: NDArray[np.float64]
    freqs: NDArray[np.float64]
    targets: NDArray[Any]
    outputs: NDArray[Any]
    baseline_outputs: NDArray[Any]
    baseline: NDArray[Any]
    unit: str

    def __repr__(self) -> str:
        """Say what of what is explained."""
        counts = zip(
            self.values.shape,
            ("window", "channel", "time"),
            ("windows", "channels", "times"),
            strict=False,
        )
        sizes = [f"{n} {one if n == 1 else many}" for n, one, many in counts]
        targets = ", ".join(map(repr, np.unique(self.targets).tolist()))
        return (
            f"Attribution({', '.join(sizes)}, {len(self.freqs)} frequencies; of "
            f"{targets}, in {self.unit})"
        )

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.values)

    def __getitem__(self, windows: Any) -> Self:
        """Return the attributions of some windows.

        Parameters
        ----------
        windows : int, slice, list of int or array of bool
            Which ones, such as ``attribution.targets == "seizure"``.
        """
        chosen = np.atleast_1d(np.arange(len(self))[windows])
        per_window = ("values", "targets", "outputs", "baseline_outputs")
        return replace(
            self, **{name: getattr(self, name)[chosen] for name in per_window}
        )

    @property
    def delta(self) -> NDArray[np.float64]:
        """How much more the values of each window add up to than they should.

        Shape (n_windows,). It is the error of the integral over the steps between
        baseline and window, and falls with more of them.
        """
        total = np.nansum(self.values, axis=(1, 2, 3), dtype=np.float64)
        rise: NDArray[np.float64] = np.subtract(
            self.outputs, self.baseline_outputs, dtype=np.float64
        )
        return total - rise

    def per_channel(self) -> pd.DataFrame:
        """Sum over times and frequencies: a row per window, a column per channel."""
        return self._table(self._sum(2, 3), pd.Index(self.ch_names, name="channel"))

    def per_time(self) -> pd.DataFrame:
        """Sum over channels and frequencies: a row per window, a column per time."""
        return self._table(self._sum(1, 3), pd.Index(self.times, name="time"))

    def per_band(
        self, bands: Mapping[str, tuple[float, float]] | None = None
    ) -> pd.DataFrame:
        """Sum over channels, times and the frequencies of bands.

        Parameters
        ----------
        bands : mapping of str to (float, float) | None
            Name, and frequencies in Hz from the first up to but without the second.
            None takes those of :data:`BANDS` in which the model has frequencies: delta
            0.5-4, theta 4-8, alpha 8-13, beta 13-30, gamma 30-100 Hz. None of them
            has 0 Hz.

        Returns
        -------
        pandas.DataFrame
            A row per window, a column per band.

        Raises
        ------
        ValueError
            If one of ``bands`` holds none of the model's frequencies.
        """
        inside = {
            name: (self.freqs >= low) & (self.freqs < high)
            for name, (low, high) in (BANDS if bands is None else bands).items()
        }
        if bands is None:
            inside = {name: there for name, there in inside.items() if there.any()}
        if empty := [name for name, there in inside.items() if not there.any()]:
            step = self.freqs[1] - self.freqs[0]
            raise ValueError(
                f"Bands {empty} hold none of the model's frequencies, which go from "
                f"{self.freqs[0]:g} to {self.freqs[-1]:g} Hz in steps of {step:g} Hz."
            )
        per_freq = self._sum(1, 2)
        sums = [per_freq[:, there].sum(1) for there in inside.values()]
        table = np.stack(sums, 1) if sums else np.empty((len(self), 0))
        return self._table(table, pd.Index(list(inside), name="band"))

    def mean(self) -> Self:
        """Return the mean over windows, as one window.

        A token that only some windows have counts as nothing in the others, so that
        values still add up to the difference of the outputs.

        Raises
        ------
        ValueError
            If the windows have different targets, or there are none.
        """
        targets = np.unique(self.targets)
        if len(targets) != 1:
            raise ValueError(
                f"The windows have the targets {targets.tolist()}, expected one, as a "
                "mean over several says nothing. Choose: "
                "attribution[attribution.targets == ...].mean()."
            )
        absent = np.isnan(self.values)
        values = np.where(absent, 0, self.values).mean(0, keepdims=True)
        values[absent.all(0, keepdims=True)] = np.nan
        return replace(
            self,
            values=values,
            targets=targets,
            outputs=self.outputs.mean(keepdims=True),
            baseline_outputs=self.baseline_outputs.mean(keepdims=True),
        )

    def to_dataframe(self) -> pd.DataFrame:
        """Return a table with a row for each value.

        Returns
        -------
        pandas.DataFrame
            With the columns ``window``, ``target``, ``channel``, ``time`` (s),
            ``frequency`` (Hz) and ``attribution``.
        """
        axes = {
            "window": range(len(self)),
            "channel": self.ch_names,
            "time": self.times,
            "frequency": self.freqs,
        }
        index = pd.MultiIndex.from_product(axes.values(), names=list(axes))
        table = pd.DataFrame({"attribution": self.values.ravel()}, index).reset_index()
        table.insert(1, "target", self.targets[table["window"]])
        return table

    def _sum(self, *axes: int) -> NDArray[Any]:
        """Sum over axes; NaN where nothing is there."""
        sums: NDArray[Any] = np.nansum(self.values, axis=axes)
        sums[np.isnan(self.values).all(axes)] = np.nan
        return sums

    def _table(self, values: NDArray[Any], columns: pd.Index) -> pd.DataFrame:
        return pd.DataFrame(
            values, index=pd.RangeIndex(len(self), name="window"), columns=columns
        )
