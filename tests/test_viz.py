"""Figures say what they were given."""

import itertools

import mne
import numpy as np
import pytest
from matplotlib.figure import Figure

from braindecode_biot.montage import MontageReport, MontageRow, montage_report
from braindecode_biot.viz import plot_montage, plot_scores


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


# Left and right temporal chains with every status.
STATUSES = {
    "FP1-F7": "found",
    "F7-T7": "renamed",
    "T7-P7": "reversed",
    "FP2-F8": "derived",
    "F8-T8": "missing",
}


def report_of(statuses: dict[str, str], montage: str = "own") -> MontageReport:
    rows = tuple(MontageRow(name, status, "", "") for name, status in statuses.items())
    return MontageReport(montage, rows, ())


def lines_of(figure: Figure) -> dict:
    return {line.get_gid(): line for line in figure.axes[0].lines}


def rings_of(figure: Figure) -> dict:
    """Where each electrode is drawn, by its label."""
    ax = figure.axes[0]
    places = [tuple(ring.get_offsets()[0]) for ring in ax.collections]
    labels = [text.get_text() for text in ax.texts]
    assert places == [text.get_position() for text in ax.texts]
    return dict(zip(labels, places, strict=True))


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def dashes_of(artist) -> str:
    return str(artist._unscaled_dash_pattern)


def test_montage_has_a_line_per_derivation_between_its_electrodes(raw):
    names = ["Fp1", "F7", "T3", "T5", "O1", "C3", "A2"]
    raw.pick(range(7))
    raw.rename_channels(dict(zip(raw.ch_names, names, strict=True)))
    report = montage_report(raw, "tcp-18")

    figure = plot_montage(report)

    lines, rings = lines_of(figure), rings_of(figure)
    assert list(lines) == [row.channel for row in report.rows]
    for name, line in lines.items():
        ends = [rings[end.replace("FP", "Fp")] for end in name.split("-")]
        np.testing.assert_allclose(line.get_xydata()[[0, -1]], ends, atol=1e-12)
    assert figure.axes[0].get_title() == "TCP-18: 5 of 18 channels"
    assert legend_of(figure) == ["derived: 5", "missing: 13"]


def test_head_is_seen_from_above_with_the_nose_upwards():
    names = ["Fpz", "Oz", "T3", "T8", "Cz", "A1", "M2"]
    rings = rings_of(plot_montage(report_of(dict.fromkeys(names, "found"))))
    np.testing.assert_allclose(rings["Fpz"], (0, 0.8), atol=1e-4)
    np.testing.assert_allclose(rings["Oz"], (0, -0.8), atol=1e-4)
    np.testing.assert_allclose(rings["T7"], (-0.8, 0), atol=1e-4)
    np.testing.assert_allclose(rings["T8"], (0.8, 0), atol=1e-4)
    np.testing.assert_allclose(rings["Cz"], (0, 0), atol=1e-4)
    assert rings["A1"][0] < -1
    assert rings["A2"][0] > 1


def test_statuses_differ_in_dashes_and_in_colour_and_the_legend_shows_which():
    figure = plot_montage(report_of(STATUSES))
    lines = lines_of(figure)
    assert len({dashes_of(line) for line in lines.values()}) == 5
    assert len({line.get_color() for line in lines.values()}) == 5
    legend = figure.axes[0].get_legend()
    assert legend_of(figure) == [f"{status}: 1" for status in STATUSES.values()]
    for name, handle in zip(STATUSES, legend.legend_handles, strict=True):
        assert dashes_of(handle) == dashes_of(lines[name])
        assert handle.get_color() == lines[name].get_color()


def test_single_electrodes_are_rings_in_the_style_of_their_status():
    statuses = {"C3": "found", "C4": "missing", "C3-Cz": "derived"}
    figure = plot_montage(report_of(statuses))
    assert list(lines_of(figure)) == ["C3-Cz"]
    rings = {ring.get_gid(): ring for ring in figure.axes[0].collections}
    assert set(rings) == {"C3", "C4", None}  # Cz is no channel
    assert rings["C3"].get_linestyle() == [(0, None)]
    assert rings["C4"].get_linestyle()[0][1] is not None
    assert rings["C3"].get_linewidth() > rings[None].get_linewidth()


def test_electrodes_are_grey_where_all_their_channels_are_missing():
    texts = plot_montage(report_of(STATUSES)).axes[0].texts
    grey = [text.get_text() for text in texts if text.get_color() != "black"]
    assert grey == ["T8"]


def test_channels_without_a_place_are_listed_and_counted():
    statuses = {"ECG": "found", "SP1-C3": "missing", "C3": "found"}
    figure = plot_montage(report_of(statuses))
    said = figure.axes[0].get_legend().get_title().get_text()
    assert said == "Not on this head: ECG (found), SP1-C3 (missing)"
    assert list(rings_of(figure)) == ["C3"]
    assert figure.axes[0].get_title() == "Own montage: 2 of 3 channels"
    assert legend_of(figure) == ["found: 2", "missing: 1"]


def test_montage_of_which_nothing_is_on_the_head_can_be_drawn():
    figure = plot_montage(report_of({"acc_x": "found"}))
    figure.canvas.draw()
    assert not figure.axes[0].texts
    assert "acc_x" in figure.axes[0].get_legend().get_title().get_text()


def test_lines_keep_clear_of_other_electrodes_and_of_each_other():
    names = ["C3-A2", "C4-A1", "F8-T8", "O1-O2", "O2-O1"]
    figure = plot_montage(report_of(dict.fromkeys(names, "derived")))
    lines, rings = lines_of(figure), rings_of(figure)
    radius = np.sqrt(figure.axes[0].collections[0].get_sizes()[0]) / 2
    to_points = figure.axes[0].transData.transform
    for name, line in lines.items():
        for other in {*rings} - {*name.split("-")}:
            way = to_points(line.get_xydata()) - to_points(rings[other])
            assert np.hypot(*way.T).min() * 72 / figure.dpi > radius, (name, other)
    middles = [
        line.get_xydata()[len(line.get_xydata()) // 2] for line in lines.values()
    ]
    for one, other in itertools.combinations(middles[2:], 2):
        assert np.hypot(*(one - other)) > 0.05
    # Nothing lies between these, so that the line is straight.
    np.testing.assert_allclose(middles[2], np.mean([rings["F8"], rings["T8"]], axis=0))


def test_labels_fit_into_rings_that_do_not_overlap():
    template = mne.channels.make_standard_montage("fsaverage_1010")
    figure = plot_montage(report_of(dict.fromkeys(template.ch_names[:60], "found")))
    figure.canvas.draw()
    ax = figure.axes[0]
    diameter = np.sqrt(ax.collections[0].get_sizes()[0]) * figure.dpi / 72
    for text in ax.texts:
        assert text.get_window_extent().width < 1.1 * diameter, text.get_text()
    places = ax.transData.transform([text.get_position() for text in ax.texts])
    for one, other in itertools.combinations(places, 2):
        assert np.hypot(*(one - other)) > diameter


def test_montage_is_drawn_on_given_axes():
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot_montage(report_of(STATUSES, "tcp-16"), ax=right) is figure
    assert not left.lines
    assert right.get_title() == "TCP-16: 4 of 5 channels"


@pytest.mark.parametrize("given", ["tcp-18", None, [report_of(STATUSES)]])
def test_anything_but_a_report_is_refused(given):
    with pytest.raises(TypeError, match=r"A (str|NoneType|list) .* one MontageReport"):
        plot_montage(given)
