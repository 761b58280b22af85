"""What a model said of a recording: scores and embeddings of its windows.

Owns the tables of results, the way from scores to events, and their files. Must not
know models nor read recordings; torch is not imported.
"""

import io
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from braindecode_biot.coverage import MontageReport
from braindecode_biot.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["RecordingEmbeddings", "RecordingScores"]


@dataclass(frozen=True, eq=False)
class _Results:
    """What is known of the windows of a recording.

    Attributes
    ----------
    start, stop : array of shape (n_windows,)
        Where each window begins and ends, in seconds from the recording's first sample.
    skipped : pandas.DataFrame
        Windows that were left out: ``start``, ``stop`` in seconds, ``reason``.
    montage : MontageReport
        How the model's channels came about from the recording's.
    duration : float
        Length of the recording in seconds.
    source : str
        The recording's file; empty where it has none.
    """

    start: NDArray[np.float64]
    stop: NDArray[np.float64]
    skipped: pd.DataFrame = field(repr=False)
    montage: MontageReport = field(repr=False)
    duration: float
    source: str

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.start)

    @property
    def times(self) -> NDArray[np.float64]:
        """Centre of each window in seconds, shape (n_windows,)."""
        return (self.start + self.stop) / 2

    def _spans(self) -> dict[str, NDArray[np.float64]]:
        return {"start": self.start, "stop": self.stop}

    def _about(self) -> str:
        window = f"{(self.stop - self.start)[0]:.10g} s, " if len(self) else ""
        text = f"{len(self)} windows ({window}of {self.duration:.10g} s"
        text += f" in '{Path(self.source).name}')" if self.source else ")"
        if len(self.skipped):
            counts = self.skipped["reason"].value_counts()
            listed = ", ".join(f"{n} {reason}" for reason, n in counts.items())
            text += f", {len(self.skipped)} left out ({listed})"
        if missing := list(self.montage.missing):
            text += f", without {', '.join(missing)}"
        return text


@dataclass(frozen=True, eq=False)
class RecordingScores(_Results):
    """A model's scores of a recording, window by window.

    Attributes
    ----------
    values : pandas.DataFrame of shape (n_windows, n_outputs)
        Probabilities with the classes as columns; of a regressor its predictions, with
        the columns ``"prediction"`` or ``"prediction 0"``, ``"prediction 1"``, ...
    is_probability : bool
        Which of these.
    start, stop, skipped, montage, duration, source
        As for :class:`RecordingEmbeddings`.
    """

    values: pd.DataFrame = field(repr=False)
    is_probability: bool = True

    @property
    def classes(self) -> list[Any]:
        """Names of the classes."""
        return list(self.probabilities.columns)

    @property
    def probabilities(self) -> pd.DataFrame:
        """Probability of each class, shape (n_windows, n_classes)."""
        if not self.is_probability:
            raise AttributeError(
                "A regressor gives no probabilities: its predictions are in `values`."
            )
        return self.values

    def to_dataframe(self) -> pd.DataFrame:
        """Give windows and scores as one table.

        Returns
        -------
        pandas.DataFrame
            ``start`` and ``stop`` in seconds, then a column per class.
        """
        spans = pd.DataFrame(self._spans())
        values = self.values.rename(columns=str)
        clashing = [name for name in values if name in spans]  # a class named "stop"
        return spans.join(values.rename(columns={n: f"class {n}" for n in clashing}))

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        """Write windows and scores as a table, whole or not at all.

        Parameters
        ----------
        path : path
            The file; its folder is made.

        Returns
        -------
        Path
            The file.
        """
        text = self.to_dataframe().round(6).to_csv(index=False)
        return write_whole(Path(path).expanduser(), text.encode())

    def events(
        self,
        threshold: float = 0.5,
        *,
        low: float | None = None,
        min_duration: float = 0.0,
        merge_gap: float = 0.0,
        classes: Any = None,
    ) -> pd.DataFrame:
        """Find stretches of high scores.

        A window speaks for the time that is nearer to its centre than to any other's:
        for a step around its centre, and at the ends of a stretch of windows for its
        first or last half. What no window covers belongs to no event, unless
        ``merge_gap`` bridges it.

        Parameters
        ----------
        threshold : float
            Score from which on there is an event.
        low : float | None
            Score down to which an event goes on once the threshold was reached, for
            hysteresis; None is the threshold.
        min_duration : float
            Shortest event in seconds; shorter ones go.
        merge_gap : float
            Longest gap in seconds between two events that are made one, before short
            ones go.
        classes : label | list of labels | None
            Which classes; None is the second of two, and every one of more.

        Returns
        -------
        pandas.DataFrame
            An event a row, by onset: ``onset`` and ``duration`` in seconds, ``label``,
            ``peak`` and ``mean`` of the scores in it.

        Raises
        ------
        ValueError
            An argument has none of its values, or a class is unknown.
        """
        low = threshold if low is None else low
        numbers = {"threshold": threshold, "low": low}
        numbers |= {"min_duration": min_duration, "merge_gap": merge_gap}
        for name, value in numbers.items():
            if not isinstance(value, Real) or np.isnan(float(value)):
                raise ValueError(f"{name}={value!r}, expected a number.")
        if low > threshold or min_duration < 0 or merge_gap < 0:
            raise ValueError(
                f"Expected low ≤ threshold, and lengths of at least 0 s, got {numbers}."
            )
        onset, end = self._cells()
        rows = []
        for name in self._columns(classes):
            score = self.values[name].to_numpy(float)
            found = _merged(self._runs(score, threshold, low), onset, end, merge_gap)
            for first, last in found:
                duration = end[last] - onset[first]
                if duration >= min_duration - 1e-9:
                    inside = score[first : last + 1]
                    peak, mean = float(inside.max()), float(inside.mean())
                    rows.append((onset[first], duration, name, peak, mean))
        columns = ["onset", "duration", "label", "peak", "mean"]
        table = pd.DataFrame(rows, columns=columns)
        # Where there is none, pandas cannot tell that these are numbers.
        table = table.astype({name: float for name in columns if name != "label"})
        return table.sort_values("onset", ignore_index=True, kind="stable")

    def to_annotations(
        self,
        threshold: float = 0.5,
        *,
        low: float | None = None,
        min_duration: float = 0.0,
        merge_gap: float = 0.0,
        classes: Any = None,
    ) -> mne.Annotations:
        """Give events as annotations, for ``raw.set_annotations`` and MNE's browser.

        Parameters
        ----------
        threshold, low, min_duration, merge_gap, classes
            As for :meth:`events`.

        Returns
        -------
        mne.Annotations
            Described by the class. Onsets count from the recording's first sample;
            ``raw.set_annotations(raw.annotations + annotations)`` needs those of a
            recording with a date in its time: see :meth:`annotate`.

        Raises
        ------
        ValueError
            As for :meth:`events`.
        """
        events = self.events(
            threshold,
            low=low,
            min_duration=min_duration,
            merge_gap=merge_gap,
            classes=classes,
        )
        # A line break would end the text in an EDF+ file, and an empty one is none.
        texts = [" ".join(str(label).split()) or "event" for label in events["label"]]
        return mne.Annotations(events["onset"], events["duration"], texts)

    def save_events(self, path: str | os.PathLike[str], **kwargs: Any) -> Path:
        """Write events, whole or not at all.

        Parameters
        ----------
        path : path
            A name that ends in ``.csv``, for the table of :meth:`events`; in ``.fif``,
            for annotations as :func:`mne.read_annotations` reads them (MNE wants
            ``-annot.fif``, and late in a day its times are some milliseconds off); or
            in ``.edf``, for an EDF+ file that holds but these annotations, which needs
            edfio; without any, for one ``"EDGE no events"``.
        **kwargs
            As for :meth:`events`.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ValueError
            The name ends in none of these, or as for :meth:`events`.
        ImportError
            edfio is not installed.
        """
        path = Path(path).expanduser()
        suffix = path.suffix.lower()
        if suffix == ".csv":
            text = self.events(**kwargs).round(6).to_csv(index=False)
            return write_whole(path, text.encode())
        annotations = self.to_annotations(**kwargs)
        if suffix == ".fif":
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / "events-annot.fif"
                annotations.save(made, verbose="error")
                return write_whole(path, made.read_bytes())
        if suffix == ".edf":
            return write_whole(path, _as_edf(annotations))
        raise ValueError(
            "Expected the name of a file that ends in .csv, .fif or .edf, got "
            f"'{path}'."
        )

    def annotate(
        self, raw: mne.io.BaseRaw, *args: Any, prefix: str = "", **kwargs: Any
    ) -> None:
        """Add events to a recording's own annotations.

        Parameters
        ----------
        raw : mne.io.BaseRaw
            The recording that was scored.
        prefix : str
            Put before the class in descriptions, as in ``"BIOT: "``. Without it events
            look like marks of an expert who uses the same word, also to
            :func:`~braindecode_biot.label_windows`.
        *args, **kwargs
            As for :meth:`events`.

        Raises
        ------
        ValueError
            As for :meth:`events`.
        TypeError
            ``raw`` is no recording.
        """
        if not isinstance(raw, mne.io.BaseRaw):
            raise TypeError(
                f"A {type(raw).__name__} was given, expected the mne.io.Raw that was "
                "scored."
            )
        new = self.to_annotations(*args, **kwargs)
        new.rename({text: prefix + text for text in {*new.description.tolist()}})
        own = raw.annotations.copy()
        if own.orig_time is None:  # which MNE counts from the first sample when set
            own.onset -= raw.first_time
            raw.set_annotations(own + new)
            return
        own.append(new.onset + raw.first_time, new.duration, new.description)
        raw.set_annotations(own)

    def plot(
        self,
        raw: mne.io.BaseRaw | None = None,
        *,
        events: Sequence[tuple[float, float]] = (),
        classes: Any = None,
        threshold: float | None = None,
        low: float | None = None,
        min_duration: float = 0.0,
        merge_gap: float = 0.0,
        **kwargs: Any,
    ) -> "Figure":
        """Draw the scores, below the recording where it is given.

        Parameters
        ----------
        raw : mne.io.BaseRaw | None
            The recording that was scored.
        events : sequence of (onset, end)
            True events in seconds.
        classes : label | list of labels | None
            As for :meth:`events`.
        threshold : float | None
            Drawn as a line, with the events that :meth:`events` finds.
        low, min_duration, merge_gap
            Of these events, as for :meth:`events`; without a threshold they count for
            nothing.
        **kwargs
            As for :func:`braindecode_biot.viz.plot_scores`.

        Returns
        -------
        matplotlib.figure.Figure
            The figure.
        """
        from braindecode_biot.viz import plot_scores

        names = self._columns(classes)
        if threshold is not None:
            found = self.events(
                threshold,
                low=low,
                min_duration=min_duration,
                merge_gap=merge_gap,
                classes=names,
            )
            spans = zip(found["onset"], found["onset"] + found["duration"], strict=True)
            kwargs.setdefault("detected", list(spans))
        if not self.is_probability:
            kwargs.setdefault("ylabel", "prediction")
        scores = {str(name): self.values[name].to_numpy(float) for name in names}
        return plot_scores(
            raw, self.times, scores, events=events, threshold=threshold, **kwargs
        )

    def __repr__(self) -> str:
        """Say what was scored, and what was left out."""
        names = ", ".join(map(str, self.values.columns))
        return f"<RecordingScores of {names}: {self._about()}>"

    def _columns(self, classes: Any) -> list[Any]:
        names = list(self.values.columns)
        if classes is None:
            return names[1:] if self.is_probability and len(names) == 2 else names
        single = isinstance(classes, str) or not isinstance(classes, Iterable)
        wanted = [classes] if single else list(classes)
        if unknown := [name for name in wanted if name not in names]:
            raise ValueError(f"{unknown} are none of the scored classes, {names}.")
        return wanted

    def _cells(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the time that each window speaks for."""
        onset, end = self.start.copy(), self.stop.copy()
        joined = self._joined()
        middle = (self.times[1:] + self.times[:-1]) / 2
        onset[1:][joined] = middle[joined]
        end[:-1][joined] = middle[joined]
        return onset, end

    def _joined(self) -> NDArray[np.bool_]:
        """Tell where a window overlaps or touches the one before.

        Windows are whole samples, so that a step as long as a window may leave one
        sample between; a hundredth of a window is no gap.
        """
        slack = 0.01 * (self.stop[:-1] - self.start[:-1])
        return self.start[1:] <= self.stop[:-1] + slack

    def _runs(
        self, score: NDArray[np.float64], threshold: float, low: float
    ) -> list[tuple[int, int]]:
        """Find runs of windows above ``low`` that reach the threshold."""
        is_high = score >= low
        runs: list[tuple[int, int]] = []
        first = None
        joined = np.append(self._joined(), False)
        for i, (high, goes_on) in enumerate(zip(is_high, joined, strict=True)):
            if high and first is None:
                first = i
            ends = high and not (goes_on and is_high[i + 1])
            if first is not None and ends:
                if score[first : i + 1].max() >= threshold:
                    runs.append((first, i))
                first = None
        return runs


@dataclass(frozen=True, eq=False)
class RecordingEmbeddings(_Results):
    """A model's embeddings of a recording, window by window.

    Attributes
    ----------
    embeddings : array of shape (n_windows, emb_size)
        One embedding per window, float32.
    start, stop : array of shape (n_windows,)
        Where each window begins and ends, in seconds from the recording's first sample.
    skipped : pandas.DataFrame
        Windows that were left out: ``start``, ``stop`` in seconds, ``reason``.
    montage : MontageReport
        How the model's channels came about from the recording's.
    duration : float
        Length of the recording in seconds.
    source : str
        The recording's file; empty where it has none.
    """

    embeddings: NDArray[np.float32] = field(repr=False)

    def to_dataframe(self) -> pd.DataFrame:
        """Give windows and embeddings as one table.

        Returns
        -------
        pandas.DataFrame
            ``start`` and ``stop`` in seconds, then ``biot0``, ``biot1``, ...
        """
        names = [f"biot{i}" for i in range(self.embeddings.shape[1])]
        values = pd.DataFrame(self.embeddings, columns=names)
        return pd.DataFrame(self._spans()).join(values)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write windows and embeddings, whole or not at all.

        Parameters
        ----------
        path : path
            A name that ends in ``.npz``, for the arrays ``embeddings``, ``start`` and
            ``stop`` in NumPy's format; in ``.parquet``, for the table, which needs
            pyarrow; or in ``.csv``.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        ValueError
            The name ends in none of these.
        ImportError
            pyarrow is not installed.
        """
        path = Path(path).expanduser()
        buffer = io.BytesIO()
        suffix = path.suffix.lower()
        if suffix == ".npz":
            start, stop = self.start, self.stop
            np.savez(buffer, embeddings=self.embeddings, start=start, stop=stop)
        elif suffix == ".parquet":
            try:
                self.to_dataframe().to_parquet(buffer, engine="pyarrow")
            except ImportError as error:
                raise ImportError(
                    "Parquet files need pyarrow: pip install "
                    "'braindecode-biot[parquet]'."
                ) from error
        elif suffix == ".csv":
            buffer.write(self.to_dataframe().to_csv(index=False).encode())
        else:
            raise ValueError(
                "Expected the name of a file that ends in .npz, .parquet or .csv, got "
                f"'{path}'."
            )
        return write_whole(path, buffer.getvalue())

    def __repr__(self) -> str:
        """Say what was embedded, and what was left out."""
        size = self.embeddings.shape[1]
        return f"<RecordingEmbeddings of size {size}: {self._about()}>"


def _as_edf(annotations: mne.Annotations) -> bytes:
    """Make an EDF+ file of annotations alone."""
    try:
        import edfio
    except ImportError as error:
        raise ImportError(
            "EDF+ files need edfio: pip install 'braindecode-biot[edf]'."
        ) from error
    marks = [
        edfio.EdfAnnotation(
            float(mark["onset"]), float(mark["duration"]), mark["description"]
        )
        for mark in annotations
    ]
    # An EDF+ file holds something; MNE takes what begins with EDGE for no event.
    marks = marks or [edfio.EdfAnnotation(0.0, None, "EDGE no events")]
    buffer = io.BytesIO()
    edfio.Edf([], annotations=marks).write(buffer)
    return buffer.getvalue()


def _merged(
    runs: list[tuple[int, int]],
    onset: NDArray[np.float64],
    end: NDArray[np.float64],
    gap: float,
) -> list[tuple[int, int]]:
    """Make one of runs that are near to each other."""
    merged: list[tuple[int, int]] = []
    for first, last in runs:
        if merged and gap and onset[first] - end[merged[-1][1]] <= gap + 1e-9:
            merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged
