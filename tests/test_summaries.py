"""What `info` says of recordings."""

import json
from datetime import UTC, datetime

import mne
import pytest

from braindecode_biot.datasets import load_absence
from braindecode_biot.summaries import describe_recording, summarise
from recordings import make_raw


@pytest.fixture
def raw():
    raw = make_raw()
    notes = [f"note {i}" for i in range(10)] + ["seizure"] * 3
    return raw.set_annotations(mne.Annotations(range(13), 0.5, notes), verbose="error")


def test_description_is_plain_and_complete(raw):
    told = json.loads(json.dumps(describe_recording(raw, ["C3-C4", "C3-A2"], 2.5)))
    assert told["duration"] == 10
    assert told["sfreq"] == 100
    assert told["date"] is None
    assert told["channel_types"] == {"eeg": 3, "eog": 1, "ecg": 1, "stim": 1}
    assert told["bads"] == ["Cz"]
    assert told["signal"] == {
        "n_chans": 2, "n_times": 250, "sfreq": 100, "input_window_seconds": 2.5,
    }  # fmt: skip
    assert [row["status"] for row in told["montage"]] == ["derived", "missing"]
    assert told["coverage"] == 0.5


def test_windows_that_cannot_be_cut_are_said(raw):
    told = describe_recording(raw, ["C3-C4"], 0.001)
    assert isinstance(told["signal"], str)
    assert told["signal"] in summarise(raw, ["C3-C4"], 0.001)


def test_summary_shows_the_common_annotations_first(raw):
    raw.set_meas_date(datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC))
    text = summarise(raw, ["C3-C4"])
    assert "10 s (0:00:10) at 100 Hz" in text
    assert "2020-01-02T03:04:05+00:00" in text
    assert "bad: Cz" in text
    assert "C3 − C4" in text


def test_more_than_eight_annotations_are_counted():
    raw = load_absence()
    line = summarise(raw).splitlines()[2]
    n_kinds = len(set(raw.annotations.description))
    assert line.startswith("Annotations: 3 ")
    assert "3 seizure" in line
    assert line.endswith(f"and {n_kinds - 8} more")
    raw.set_annotations(None)
    assert "Annotations: none" in summarise(raw)


def test_nothing_is_loaded(raw, tmp_path):
    raw.save(tmp_path / "made_raw.fif", verbose="error")
    opened = mne.io.read_raw(tmp_path / "made_raw.fif", verbose="error")
    assert "10 s" in summarise(opened)
    assert not opened.preload
