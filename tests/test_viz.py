"""Figures say what they were given."""

import itertools
import subprocess
import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import mne
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from braindecode_biot import BIOTClassifier
from braindecode_biot.attribution import Attribution
from braindecode_biot.coverage import MontageReport, MontageRow
from braindecode_biot.montage import montage_report
from braindecode_biot.viz import (
    plot_attribution,
    plot_channel_importance,
    plot_history,
    plot_montage,
    plot_scores,
)


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


def test_detected_events_are_strips_beside_the_true_ones(raw):
    found = plot_scores(raw, TIMES, {}, events=[(2, 3)], detected=[(2.5, 4), (8, 9)])
    for ax in found.axes:
        true, first, second = ax.patches
        assert (first.get_x(), second.get_x()) == (2.5, 8)
        assert first.get_height() < 0.1 < true.get_height()
    texts = [text.get_text() for text in found.axes[1].get_legend().get_texts()]
    assert texts == ["true event", "detected"]


def test_a_stretch_of_the_recording(raw):
    figure = plot_scores(
        raw, TIMES, {"a": TIMES / 10}, events=[(0, 1), (5, 6)], tmin=4, tmax=7
    )
    eeg, lower = figure.axes
    assert lower.get_xlim() == (4, 7)
    assert len(lower.patches) == 1
    x = eeg.lines[0].get_xdata()
    assert (x[0], x[-1]) == (4, 7)
    with pytest.raises(ValueError, match=r"nothing to draw between tmin=12 .* 9.99 s"):
        plot_scores(raw, TIMES, {}, tmin=12)


def test_scores_without_a_recording():
    figure = plot_scores(None, TIMES, {"a": TIMES * 10}, ylabel="prediction")
    (ax,) = figure.axes
    assert ax.get_ylabel() == "prediction"
    assert ax.get_ylim()[1] > 90
    assert len(plot_scores(None, TIMES[:1], {"a": [0.5]}).axes[0].lines) == 1


def test_of_long_recordings_the_range_is_drawn(tmp_path):
    rng = np.random.default_rng(0)
    data = rng.normal(size=(2, 400_000)) * 1e-5
    data[0, 123_456] = 1e-3  # which thinning out would lose
    raw = mne.io.RawArray(data, mne.create_info(["C3", "C4"], 500, "eeg"), verbose=0)
    raw.save(tmp_path / "a_raw.fif", verbose="error")
    lazy = mne.io.read_raw_fif(tmp_path / "a_raw.fif", verbose="error")
    lines = plot_scores(lazy, [1.0], {}).axes[0].lines
    assert not lazy.preload
    y = lines[0].get_ydata()
    assert len(y) < 20_000
    peak = lines[0].get_xdata()[y.argmax()]
    np.testing.assert_allclose(y.max(), 1000, rtol=1e-3)
    np.testing.assert_allclose(peak, 123_456 / 500, atol=0.5)
    assert lines[0].get_xdata()[-1] > 799


def test_of_other_biosignals_all_channels_are_drawn(raw):
    raw = raw.copy().pick(["C0", "C1"])
    raw.set_channel_types({"C0": "ecg", "C1": "misc"}, verbose="error")
    assert len(plot_scores(raw, TIMES, {}).axes[0].lines) == 2


def test_gaps_in_a_recording_are_left_out(raw):
    raw = raw.copy()
    raw._data[0, 100:200] = np.nan
    raw._data[1] = np.nan
    axes = plot_scores(raw, TIMES, {}, picks=["C0", "C1"]).axes
    assert np.isfinite(axes[0].get_yticks()).all()


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


TCP = ["FP1-F7", "F7-T7", "T7-P7", "P7-O1", "C3-A2"]


def attribution_of(names=TCP, n_windows=3, n_frames=3, targets=None) -> Attribution:
    rng = np.random.default_rng(0)
    return Attribution(
        values=rng.normal(size=(n_windows, len(names), n_frames, 101)),
        ch_names=tuple(names),
        times=0.5 + 0.5 * np.arange(n_frames),
        freqs=np.arange(101.0),
        targets=np.array(targets or ["seizure"] * n_windows),
        outputs=np.arange(n_windows) - 4.25,
        baseline_outputs=np.zeros(n_windows),
        baseline=np.zeros((len(names), 101)),
        unit="log-odds",
    )


def images_of(figure: Figure) -> dict:
    return {ax.get_title(loc="left"): ax.images[0] for ax in figure.axes if ax.images}


def test_attribution_has_a_panel_per_channel_on_one_scale():
    attribution = attribution_of()
    figure = plot_attribution(attribution, window=1, fmax=None)
    images = images_of(figure)
    assert list(images) == TCP
    for name, values in zip(TCP, attribution.values[1], strict=True):
        np.testing.assert_array_equal(images[name].get_array(), values.T)
        # From half a hop before the first centre to half a hop behind the last one.
        assert images[name].get_extent() == [0.25, 1.75, -0.5, 100.5]
        assert images[name].origin == "lower"
    assert len({image.get_clim() for image in images.values()}) == 1
    low, high = images[TCP[0]].get_clim()
    assert low == -high < 0
    assert figure.get_suptitle() == (
        "What speaks for seizure (window 1): log-odds −3.25, at the baseline 0.00"
    )
    assert figure.axes[-1].get_ylabel() == "attribution (log-odds)"


def test_attribution_of_all_windows_is_their_mean_up_to_fmax():
    attribution = attribution_of()
    figure = plot_attribution(attribution, channels=["T7-P7", "FP1-F7"])
    images = images_of(figure)
    assert list(images) == ["T7-P7", "FP1-F7"]
    mean = attribution.values.mean(0)[2, :, :41].T
    np.testing.assert_allclose(images["T7-P7"].get_array(), mean)
    assert "(mean of 3 windows)" in figure.get_suptitle()
    assert "(1 window)" in plot_attribution(attribution[0]).get_suptitle()


def test_one_outlier_does_not_fade_the_others():
    attribution = attribution_of(n_windows=1)
    attribution.values[0, 0, 0, 3] = 1e3
    figure = plot_attribution(attribution)
    assert images_of(figure)[TCP[0]].get_clim()[1] < 10
    assert figure.axes[-1]._colorbar.extend == "both"


def test_missing_tokens_show_the_ground():
    attribution = attribution_of(n_windows=1)
    attribution.values[0, 1, 2] = np.nan
    image = images_of(plot_attribution(attribution))[TCP[1]]
    assert image.get_array().mask[:, 2].all()
    assert image.axes.get_facecolor()[:3] == (0.8, 0.8, 0.8)


def test_a_single_token_is_as_long_as_it_is():
    figure = plot_attribution(attribution_of(n_frames=1))
    assert images_of(figure)[TCP[0]].get_extent()[:2] == [0, 1]


def test_attribution_on_given_axes():
    figure = Figure()
    axes = figure.subplots(1, 5)
    attribution = attribution_of()
    assert plot_attribution(attribution, axes=axes) is figure
    assert axes[0].get_xlabel() == "time in window (s)"
    with pytest.raises(ValueError, match="Got 4 axes for 5 channels"):
        plot_attribution(attribution, axes=axes[:4])


def test_attribution_that_cannot_be_drawn_is_refused():
    attribution = attribution_of(targets=["a", "b", "a"])
    with pytest.raises(ValueError, match=r"targets \['a', 'b'\], expected one"):
        plot_attribution(attribution)
    with pytest.raises(ValueError, match=r"no channels \['Cz'\] among \['FP1-F7', "):
        plot_attribution(attribution, 0, ["Cz", "F7-T7"])
    with pytest.raises(ValueError, match=r"Nothing is left .* fmax=-1"):
        plot_attribution(attribution, 0, fmax=-1)
    with pytest.raises(IndexError):
        plot_attribution(attribution, 3)


def test_derivations_are_lines_whose_colour_and_width_tell_importance():
    values = [0.1, -0.9, 0.4, 0.0, np.nan]
    lines = lines_of(plot_channel_importance(values, TCP))
    assert set(lines) == set(TCP)
    widths = [lines[name].get_linewidth() for name in TCP]
    assert widths[4] < widths[3] < widths[0] < widths[2] < widths[1]
    colours = np.array([lines[name].get_color() for name in TCP[:4]])
    assert (colours[:3, 0] > colours[:3, 2]).tolist() == [True, False, True]
    assert colours[3].min() > 0.95  # white is nothing
    assert lines["C3-A2"].get_linestyle() == ":"
    # The most important is on top.
    assert max(lines.values(), key=lambda line: line.get_zorder()) is lines["F7-T7"]


def test_importance_of_attributions_is_their_mean_per_channel():
    attribution = attribution_of()
    figure = plot_channel_importance(attribution)
    bar = figure.axes[1]
    most = attribution.per_channel().mean().abs().max()
    np.testing.assert_allclose(bar.get_ylim(), (-most, most))
    assert bar.get_ylabel() == "mean attribution (log-odds)"
    assert figure.axes[0].get_title() == "What speaks for seizure"
    with pytest.raises(ValueError, match="expected one"):
        plot_channel_importance(attribution_of(targets=["a", "b", "a"]))


def test_single_electrodes_make_a_map_with_the_values_where_they_are():
    values = pd.Series({"Fpz": 0.0, "T3": -1.0, "T4": 1.0, "Oz": 0.0, "Cz": 0.0})
    figure = plot_channel_importance(values, label="drop of accuracy (%)")
    (image,) = figure.axes[0].images
    grid, (left, right, bottom, top) = image.get_array(), image.get_extent()
    row = int((0 - bottom) / (top - bottom) * len(grid))
    columns = [int((x - left) / (right - left) * len(grid)) for x in (-0.8, 0.8)]
    np.testing.assert_allclose(grid[row, columns], [-1, 1], atol=0.15)
    assert {dot.get_gid() for dot in figure.axes[0].collections} == set(values.index)
    clip = image.get_clip_path().get_fully_transformed_path()
    edge = figure.axes[0].transData.inverted().transform(clip.vertices)
    np.testing.assert_allclose(np.hypot(*edge.T).max(), 1, atol=0.05)  # the head
    assert figure.axes[1].get_ylabel() == "drop of accuracy (%)"
    assert not lines_of(figure)


def test_electrodes_among_derivations_are_rings():
    figure = plot_channel_importance([1, -1, np.nan, 0.5], ["C3-C4", "Pz", "Oz", "ECG"])
    assert not figure.axes[0].images
    rings = {ring.get_gid(): ring for ring in figure.axes[0].collections}
    assert {"Pz", "Oz"} < set(rings)
    red, _, blue, _ = rings["Pz"].get_facecolor()[0]
    assert blue > red
    assert rings["Oz"].get_linestyle()[0][1] is not None
    assert figure.axes[0].get_xlabel() == "Not on this head: ECG (0.5)"


@pytest.mark.parametrize("names", ["F3 F4 P3 P4", "Fz C3 C4 Pz", "O1 O2 Fp1 Fp2"])
def test_four_electrodes_on_a_circle_make_a_map(names):
    figure = plot_channel_importance([0.1, 0.2, 0.3, 0.4], names.split())
    assert len(figure.axes) == 2


def test_importance_that_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"\['T7'\] under several names"):
        plot_channel_importance([1.0, 2.0, 3.0, 4.0], ["T3", "T7", "Fz", "C3"])
    with pytest.raises(ValueError, match="pass ch_names"):
        plot_channel_importance([1.0, 2.0])
    with pytest.raises(ValueError, match=r"shape \(2,\) for 5 channels"):
        plot_channel_importance([1.0, 2.0], TCP)
    with pytest.raises(ValueError, match=r"\['C3'\] several times"):
        plot_channel_importance([1.0, 2.0, 3.0], ["C3", "C4", "C3"])
    with pytest.raises(ValueError, match="no values but NaN"):
        plot_channel_importance([np.nan], ["C3"])


@pytest.fixture(scope="module")
def classifier(microvolts) -> BIOTClassifier:
    return BIOTClassifier(
        sfreq=40,
        max_epochs=4,
        monitor="balanced_accuracy",
        random_state=0,
        device="cpu",
        module__emb_size=16,
        module__n_layers=1,
        module__att_num_heads=2,
    ).fit(microvolts, np.tile([1, 2], 12))


def test_history_has_losses_and_scores_and_marks_the_epoch_that_was_kept(classifier):
    figure = plot_history(classifier)
    losses, scores = figure.axes
    drawn = {line.get_label(): line.get_ydata() for line in losses.lines}
    assert list(drawn)[:2] == ["training loss", "validation loss"]
    expected = classifier.history_[:, "valid_loss"]
    np.testing.assert_allclose(drawn["validation loss"], expected)
    names = [text.get_text() for text in scores.get_legend().get_texts()]
    assert names == ["validation accuracy", "balanced accuracy"]
    best = np.argmax(classifier.history_[:, "balanced_accuracy"]) + 1
    assert f"best epoch: {best}" in drawn
    assert losses.lines[-1].get_xdata() == [best, best]
    assert scores.get_xlabel() == "epoch"


def test_history_alone_takes_the_least_validation_loss_for_the_best():
    rows = [{"epoch": i, "train_loss": 1 / i} for i in (1, 2, 3)]
    assert len(plot_history(rows).axes[0].lines) == 1
    for row, loss in zip(rows, (3, 1, 2), strict=True):
        row["valid_loss"] = loss
    labels = [line.get_label() for line in plot_history(rows).axes[0].lines]
    assert labels[-1] == "best epoch: 2"


def test_history_is_drawn_on_given_axes(classifier):
    figure = Figure()
    axes = figure.subplots(1, 2)
    assert plot_history(classifier.net_, axes=axes) is figure
    with pytest.raises(ValueError, match="Got 1 axes, expected 2"):
        plot_history(classifier, axes=axes[:1])


def test_what_has_no_history_is_refused():
    with pytest.raises(ValueError, match="has no epochs"):
        plot_history([])
    with pytest.raises(TypeError, match="A Figure was given"):
        plot_history(Figure())


def test_figures_leave_pyplot_and_torch_alone(classifier):
    plt.close("all")
    plot_attribution(attribution_of())
    plot_channel_importance([1, 2, 3, 4, 5], ["C3", "C4", "Cz", "Fz", "Pz"])
    plot_history(classifier)
    assert not plt.get_fignums()
    code = "import sys, braindecode_biot.viz; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_after_partial_fit_no_epoch_is_the_best(epochs):
    classifier = BIOTClassifier(
        max_epochs=2, random_state=0, module__emb_size=16, module__n_layers=1
    ).fit(epochs)
    before = [line.get_label() for line in plot_history(classifier).axes[0].lines]
    assert any("best" in label for label in before)
    classifier.partial_fit(epochs)
    after = [line.get_label() for line in plot_history(classifier).axes[0].lines]
    assert not any("best" in label for label in after)


def test_attributions_that_are_nearly_all_zero():
    attribution = attribution_of()
    values = np.zeros((1, 2, 3, 400))
    values[0, 0, 0, 5] = 1.0
    few = replace(
        attribution[:1], values=values, ch_names=("C3", "C4"),
        times=np.arange(3.0), freqs=np.arange(400.0),
    )  # fmt: skip
    figure = plot_attribution(few, fmax=None)
    assert max(max(axes.get_ylim()) for axes in figure.axes[2:]) == 1
