"""Figures say what they were given."""

import mne
import numpy as np
import pytest
from matplotlib.figure import Figure

from braindecode_biot.viz import plot_scores


@pytest.fixture
def raw() -> mne.io.RawArray:
    rng = np.random.default_rng(0)
    info = mne.create_info([f"C{i}" for i in range(10)], 100, "eeg")
    return mne.io.RawArray(rng.normal(size=(10, 1000)) * 1e-5, info, verbose="error")


TIMES = np.arange(0.5, 10, 0.5)


def test_scores_events_and_labels_are_drawn(raw):
    scores = {"a": np.linspace(0, 1, len(TIMES)), "b": np.zeros(len(TIMES))}
    figure = plot_scores(
        raw, TIMES, scores, events=[(2, 3), (5, 7)], picks=["C1", "C9"], threshold=0.5
    )
    eeg, lower = figure.axes
    assert [tick.get_text() for tick in eeg.get_yticklabels()] == ["C1", "C9"]
    assert len(eeg.patches) == len(lower.patches) == 2
    assert lower.patches[1].get_x() == 5
    lines = {line.get_label(): line for line in lower.lines}
    np.testing.assert_allclose(lines["a"].get_ydata(), scores["a"])
    names = [text.get_text() for text in lower.get_legend().get_texts()]
    assert names == ["true event", "a", "b"]
    assert lower.get_xlabel() == "time (s)"
    assert lower.get_xlim() == (0, raw.times[-1])


def test_no_line_is_drawn_across_a_gap(raw):
    times = np.delete(TIMES, [5, 6, 7])
    figure = plot_scores(raw, times, {"a": np.ones(len(times))})
    drawn = figure.axes[1].lines[0].get_xdata()
    assert np.isnan(drawn).sum() == 1
    assert np.isnan(drawn[5])


def test_at_most_eight_channels_unless_picked(raw):
    assert len(plot_scores(raw, TIMES, {}).axes[0].lines) == 8


def test_only_eeg_is_drawn_unless_picked(raw):
    raw = raw.copy().set_channel_types({"C0": "mag", "C1": "stim"}, verbose="error")
    labels = plot_scores(raw, TIMES, {}).axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [f"C{i}" for i in range(2, 10)]


def test_every_model_is_drawn(raw):
    scores = {f"m{i}": np.zeros(len(TIMES)) for i in range(6)}
    assert len(plot_scores(raw, TIMES, scores).axes[1].lines) == 6


def test_axes_may_be_given(raw):
    figure = Figure()
    axes = figure.subplots(2)
    assert plot_scores(raw, TIMES[:1], {"a": [0.3]}, axes=axes) is figure


def test_scores_of_another_length_are_refused(raw):
    with pytest.raises(ValueError, match=r"'a' has scores of shape \(3,\) for 19"):
        plot_scores(raw, TIMES, {"a": [0, 1, 0]})
