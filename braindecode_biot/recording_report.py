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
        With the sections Scores, Events, Recording and Montage. :func:`save_report`
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
    >>> epochs = mne.make_fixed_length_epochs(
    ...     raw, duration=2, preload=True, verbose="error"
    ... )
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
    name = Path(scores.source).name if scores.source else "recording"
    report = mne.Report(title=title or f"Scores of {name}", verbose="error")
    _add_scores(report, scores, raw, found, picks, max_events, events)
    if len(scores.skipped):
        report.add_html(_timed(scores.skipped), "Windows left out", tags=("scores",))
    report.add_html(_about(raw), "Recording", tags=("recording",))
    tags = ("montage",)
    report.add_figure(plot_montage(scores.montage), "Montage", tags=tags)
    rows = _html(scores.montage.to_dataframe())
    report.add_html(rows, "Channels of the montage", tags=tags)
    return report


def _add_scores(
    report: mne.Report,
    scores: RecordingScores,
    raw: mne.io.BaseRaw,
    found: pd.DataFrame,
    picks: Any,
    max_events: int,
    events: dict[str, Any],
) -> None:
    """Add the scores over the whole time, the table of events, and each event."""
    threshold = float(events.get("threshold", 0.5))
    spans = [(row.onset, row.onset + row.duration) for row in found.itertuples()]
    drawing = {"picks": picks, "threshold": threshold, "detected": spans}
    drawing["classes"] = events.get("classes")
    figure = scores.plot(raw, **drawing)
    caption = repr(scores)[1:-1].partition(" of ")[2]
    report.add_figure(
        figure, "Scores", caption=f"Scores of {caption}", tags=("scores",)
    )
    highest = found.sort_values("peak", ascending=False, kind="stable")
    drawn = highest.head(max_events).sort_index()
    text = f"<p>{_found(len(found), threshold, events)}"
    if len(drawn) < len(found):
        text += f" Below are the {len(drawn)} with the highest scores."
    table = _timed(found) if len(found) else ""
    report.add_html(f"{text}</p>{table}", "Events", tags=("events",))
    for event in drawn.itertuples():
        start, end = event.onset, event.onset + event.duration
        figure = scores.plot(raw, tmin=start - _AROUND, tmax=end + _AROUND, **drawing)
        report.add_figure(
            figure,
            f"{event.label} at {_clock(start)}",
            caption=f"{start:.10g} to {end:.10g} s, score up to {event.peak:.3f}, "
            f"{event.mean:.3f} on average; drawn with {_AROUND:g} s around it.",
            tags=("events",),
        )


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
    lines = summarise(raw).split("\nMontage", 1)[0].split("\n")
    return "".join(f"<p>{escape(line)}</p>" for line in lines[:-1])


def _found(n: int, threshold: float, events: dict[str, Any]) -> str:
    """Say how many events were found, and what made them."""
    text = f"{n or 'No'} event{'' if n == 1 else 's'}: score of at least {threshold:g}"
    if (low := events.get("low")) is not None:
        text += f", down to {low:g} while it lasts"
    if shortest := events.get("min_duration"):
        text += f", at least {shortest:g} s long"
    if gap := events.get("merge_gap"):
        text += f", gaps of up to {gap:g} s closed"
    return f"{text}."


def _clock(seconds: float) -> str:
    """Write a time as hours, minutes and seconds from the start."""
    minutes, rest = divmod(round(float(seconds), 2), 60)
    text = f"{int(minutes) // 60}:{int(minutes) % 60:02}:{rest:05.2f}"
    return text.removesuffix(".00")


def _timed(table: pd.DataFrame) -> str:
    """Make an HTML table, with a clock beside the seconds."""
    clock = [_clock(value) for value in table.iloc[:, 0]]
    seconds = ("onset", "duration", "start", "stop")
    table = table.rename(columns={name: f"{name} (s)" for name in seconds})
    table.insert(0, "time (h:min:s)", clock)
    return _html(table)


def _html(table: pd.DataFrame) -> str:
    return str(
        table.round(3).to_html(
            index=False,
            border=0,
            justify="left",
            classes="table table-sm table-striped w-auto",
            float_format=lambda value: f"{value:.10g}",
        )
    )
