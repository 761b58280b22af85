"""A scored recording as a page for a reader.

Owns the HTML report: recording, montage, events and their pictures, windows left out.
It puts together what ``scores``, ``summaries`` and ``viz`` make. Must not know models.
"""

import os
import tempfile
from html import escape
from pathlib import Path
from typing import Any

import mne
import pandas as pd

from braindecode_biot.files import write_whole
from braindecode_biot.reading import open_recording
from braindecode_biot.scores import RecordingScores
from braindecode_biot.summaries import summarise
from braindecode_biot.viz import plot_montage

__all__ = ["report_recording", "save_report"]

# Seconds drawn before and after an event.
_AROUND = 10.0


def report_recording(
    scores: RecordingScores,
    recording: mne.io.BaseRaw | str | os.PathLike[str],
    *,
    max_events: int = 12,
    picks: Any = None,
    title: str | None = None,
    **events: Any,
) -> mne.Report:
    """Report on a scored recording.

    Parameters
    ----------
    scores : RecordingScores
        From :func:`~braindecode_biot.score_recording`.
    recording : mne.io.BaseRaw or path
        The recording that was scored.
    max_events : int
        Events to draw, those with the highest scores.
    picks : list of str | None
        Channels to draw; None draws at most eight of the EEG.
    title : str | None
        Title of the page; None is the file's name.
    **events
        ``threshold``, ``low``, ``min_duration``, ``merge_gap`` and ``classes``, as for
        :meth:`RecordingScores.events`.

    Returns
    -------
    mne.Report
        With the sections Recording, Montage, Scores and Events. :func:`save_report`
        writes it; others can be added.

    Raises
    ------
    ValueError
        As for :meth:`RecordingScores.events`.
    FileNotFoundError, RecordingError, TypeError
        The recording cannot be read.

    Examples
    --------
    >>> from braindecode_biot import BIOTClassifier, load_absence, score_recording
    >>> import mne
    >>> raw = load_absence().crop(190, 250)
    >>> epochs = mne.make_fixed_length_epochs(raw, duration=2, preload=True)
    >>> classifier = BIOTClassifier(
    ...     max_epochs=1, module__emb_size=32, module__n_layers=1, random_state=0
    ... )
    >>> classifier = classifier.fit(epochs, ["rest", "task"] * 15)
    >>> scores = score_recording(classifier, raw, verbose=0)
    >>> report_recording(scores, raw, threshold=0.6, max_events=1)
    <Report | ...
    """
    raw = open_recording(recording)
    found = scores.events(**events)
    name = Path(scores.source).name if scores.source else "Recording"
    report = mne.Report(title=title or name, verbose="error")
    report.add_html(f"<pre>{escape(_about(raw))}</pre>", "Recording")
    report.add_figure(plot_montage(scores.montage), "Montage")
    rows = _html(scores.montage.to_dataframe())
    report.add_html(rows, "Channels of the montage")
    threshold = float(events.get("threshold", 0.5))
    classes = events.get("classes")
    spans = [(row.onset, row.onset + row.duration) for row in found.itertuples()]
    drawing = {"picks": picks, "threshold": threshold, "classes": classes}
    figure = scores.plot(raw, detected=spans, **drawing)
    report.add_figure(figure, "Scores", caption=repr(scores)[1:-1])
    settings = ", ".join(f"{key} {value}" for key, value in events.items())
    report.add_html(
        f"<p>{len(found)} events ({settings or 'threshold 0.5'}).</p>{_timed(found)}",
        "Events",
    )
    for event in found.nlargest(max_events, "peak").sort_index().itertuples():
        stretch = event.onset - _AROUND, event.onset + event.duration + _AROUND
        figure = scores.plot(
            raw, detected=spans, tmin=stretch[0], tmax=stretch[1], **drawing
        )
        report.add_figure(figure, f"{event.label} at {_clock(event.onset)}")
    if len(scores.skipped):
        report.add_html(_timed(scores.skipped), "Windows left out")
    return report


def save_report(report: mne.Report, path: str | os.PathLike[str]) -> Path:
    """Write a report as an HTML file, whole or not at all.

    Parameters
    ----------
    report : mne.Report
        The report.
    path : path
        A name that ends in ``.html``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        The name does not end in ``.html``.
    """
    path = Path(path).expanduser()
    if path.suffix != ".html":
        raise ValueError(f"Expected a name that ends in .html, got '{path}'.")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "report.html"
        report.save(made, open_browser=False, verbose="error")
        return write_whole(path, made.read_bytes())


def _about(raw: mne.io.BaseRaw) -> str:
    """Summarise a recording; of its montage the report has a part of its own."""
    return summarise(raw).split("\nMontage", 1)[0]


def _clock(seconds: float) -> str:
    """Write a time as hours, minutes and seconds from the start."""
    minutes, rest = divmod(round(float(seconds), 2), 60)
    return f"{int(minutes) // 60}:{int(minutes) % 60:02}:{rest:05.2f}"


def _timed(table: pd.DataFrame) -> str:
    """Make an HTML table, with a clock beside the seconds."""
    table = table.copy()
    first = table.columns[0]
    table.insert(0, "time", [_clock(value) for value in table[first]])
    return _html(table)


def _html(table: pd.DataFrame) -> str:
    return str(
        table.round(3).to_html(
            index=False,
            border=0,
            classes="table table-sm table-striped w-auto",
            float_format=lambda value: f"{value:.10g}",
        )
    )
