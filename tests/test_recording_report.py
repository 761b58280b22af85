"""The HTML report of a scored recording."""

import base64
import io
import re
from html.parser import HTMLParser

import matplotlib.image
import mne
import numpy as np
import pandas as pd
import pytest

from braindecode_biot.datasets import load_absence
from braindecode_biot.montage import montage_report
from braindecode_biot.recording_report import report_recording, save_report
from braindecode_biot.scores import RecordingScores


@pytest.fixture(scope="module")
def raw():
    raw = load_absence().crop(180, 300)
    return raw.set_annotations(mne.Annotations([1], [1], ["<i>note</i>"]))


@pytest.fixture
def scores(raw):
    """Two events, from 20 s to 24 s and from 60 s to 61 s; one window left out."""
    start = np.arange(0, 118.0)
    high = np.where((start >= 20) & (start < 24), 0.9, 0.1)
    high[60] = 0.93
    return RecordingScores(
        start=start,
        stop=start + 1,
        skipped=pd.DataFrame({"start": [118.0], "stop": [119.0], "reason": ["bad"]}),
        montage=montage_report(raw, ["F7-T7", "F8-T8"]),
        duration=120.0,
        source="/some/folder/a & b.edf",
        values=pd.DataFrame({"rest": 1 - high, "<i>seizure</i>": high}),
    )


class Page(HTMLParser):
    """Text, tags and pictures of a page."""

    def __init__(self, html):
        super().__init__()
        self.text, self.pictures, self.tags = "", [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        source = dict(attrs).get("src") or ""
        if source.startswith("data:image/"):
            self.pictures.append(source)
        self.tags.append(tag)

    def handle_data(self, data):
        if self.lasttag not in ("script", "style"):
            self.text += data


def read(report, folder):
    path = save_report(report, folder / "page.html")
    return Page(path.read_text(encoding="utf-8"))


def titles(report):
    return [element.name for element in report._content]


def test_the_reader_finds_scores_first_and_all_parts(scores, raw, tmp_path):
    report = report_recording(scores, raw, threshold=0.5)
    assert titles(report) == [
        "Scores",
        "Events",
        "<i>seizure</i> at 0:00:20",
        "<i>seizure</i> at 0:01:00",
        "Windows left out",
        "Recording",
        "Montage",
        "Channels of the montage",
    ]
    page = read(report, tmp_path)
    assert "Scores of a & b.edf" in page.text
    assert "2 events: score of at least 0.5." in page.text
    assert "(0:02:00) at 200 Hz" in page.text
    assert "onset (s)" in page.text
    assert "118 windows" in page.text


def test_pictures_are_whole(scores, raw, tmp_path):
    page = read(report_recording(scores, raw), tmp_path)
    assert len(page.pictures) == 4 + 1  # MNE's logo
    for source in page.pictures:
        kind, data = re.match(r"data:image/(\w+);base64,(.*)", source, re.S).groups()
        image = matplotlib.image.imread(io.BytesIO(base64.b64decode(data)), format=kind)
        assert image.shape[1] > 300
        assert image.std() > 0


def test_names_are_no_markup(scores, raw, tmp_path):
    page = read(report_recording(scores, raw), tmp_path)
    assert "i" not in page.tags
    assert page.text.count("<i>seizure</i>") >= 4
    assert "1 <i>note</i>" in page.text


def test_the_highest_events_are_drawn(scores, raw, tmp_path):
    report = report_recording(scores, raw, max_events=1)
    assert [t for t in titles(report) if " at " in t] == ["<i>seizure</i> at 0:01:00"]
    page = read(report, tmp_path)
    assert "Below are the 1 with the highest scores" in page.text
    assert "0:00:20" in page.text  # in the table


def test_what_made_events_is_told(scores, raw, tmp_path):
    told = {"threshold": 0.6, "low": 0.2, "min_duration": 2, "merge_gap": 0.5}
    page = read(report_recording(scores, raw, title="Mine", **told), tmp_path)
    assert (
        "1 event: score of at least 0.6, down to 0.2 while it lasts, at least 2 s "
        "long, gaps of up to 0.5 s closed."
    ) in page.text
    assert "Mine" in page.text


def test_a_recording_without_events(scores, raw, tmp_path):
    report = report_recording(scores, raw, threshold=0.95)
    assert not [title for title in titles(report) if " at " in title]
    assert "No events: score of at least 0.95." in read(report, tmp_path).text


def test_errors_are_those_of_events(scores, raw):
    with pytest.raises(ValueError, match="low ≤ threshold"):
        report_recording(scores, raw, threshold=0.1, low=0.5)


def test_only_html_is_written(scores, raw, tmp_path):
    report = report_recording(scores, raw, max_events=0)
    with pytest.raises(ValueError, match=r"ends in \.html, got .*page\.h5"):
        save_report(report, tmp_path / "page.h5")
    assert list(tmp_path.iterdir()) == []
