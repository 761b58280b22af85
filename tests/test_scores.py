"""From scores to events, annotations, tables and files."""

import os
import sys

import mne
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from braindecode_biot import files
from braindecode_biot.coverage import MontageReport, MontageRow
from braindecode_biot.scores import RecordingEmbeddings, RecordingScores
from recordings import make_raw

REPORT = MontageReport("own", (MontageRow("C3", "found", "C3", ""),), ())
NOTHING = pd.DataFrame({"start": [], "stop": [], "reason": []})


def about(start, length=2.0, skipped=NOTHING):
    start = np.asarray(start, float)
    stop = start + length
    return dict(
        start=start, stop=stop, skipped=skipped, montage=REPORT,
        duration=100.0, source="",
    )  # fmt: skip


def scores(values, start=None, length=2.0, **columns):
    values = np.asarray(values, float)
    start = 2.0 * np.arange(len(values)) if start is None else start
    table = pd.DataFrame({"rest": 1 - values, "task": values} | columns)
    return RecordingScores(**about(start, length), values=table)


def spans(events):
    return [(row.onset, row.onset + row.duration) for row in events.itertuples()]


def test_windows_side_by_side_speak_for_themselves():
    events = scores([0, 0.9, 0.7, 0, 0.5]).events()
    assert spans(events) == [(2, 6), (8, 10)]
    assert events.label.tolist() == ["task", "task"]
    assert events.peak.tolist() == [0.9, 0.5]
    np.testing.assert_allclose(events["mean"], [0.8, 0.5])


def test_overlapping_windows_speak_for_a_step_and_for_the_ends():
    found = scores([1, 0, 1, 1, 0, 1], start=np.arange(6), length=4)
    # Centres at 2, 3, ..., 7; the first window begins at 0, the last ends at 9.
    assert spans(found.events()) == [(0, 2.5), (3.5, 5.5), (6.5, 9)]


def test_nothing_is_said_of_what_no_window_covers():
    found = scores([1, 1, 1], start=[0, 2, 30])
    assert spans(found.events()) == [(0, 4), (30, 32)]
    assert spans(found.events(merge_gap=26)) == [(0, 32)]


def test_hysteresis_keeps_an_event_until_it_falls_below_low():
    found = scores([0.4, 0.6, 0.9, 0.6, 0.4, 0.6])
    assert spans(found.events(0.8)) == [(4, 6)]
    assert spans(found.events(0.8, low=0.5)) == [(2, 8)]


def test_gaps_are_merged_before_short_events_go():
    found = scores([1, 0, 1, 0, 0, 0, 1])
    assert spans(found.events(min_duration=3)) == []
    assert spans(found.events(min_duration=3, merge_gap=2)) == [(0, 6)]
    assert spans(found.events(min_duration=2)) == [(0, 2), (4, 6), (12, 14)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.sampled_from([0.5, 1.0, 2.0, 3.0]),
    st.floats(0.1, 0.9),
    st.floats(0, 0.3),
    st.data(),
)
def test_events_are_where_the_nearest_window_is_high(
    values, step, threshold, gap, data
):
    kept = data.draw(
        st.lists(st.booleans(), min_size=len(values), max_size=len(values))
    )
    starts = step * np.arange(len(values))[kept]
    if not len(starts):
        return
    found = scores(np.array(values)[kept], start=starts)
    low = threshold - gap
    covered = np.zeros(3000, bool)
    times = (np.arange(3000) + 0.5) / 30
    for onset, end in spans(found.events(threshold, low=low)):
        assert not covered[(times > onset) & (times < end)].any()  # they are apart
        covered |= (times > onset) & (times < end)
    # Brute force: which window's centre is nearest, of those that cover the time.
    owner = np.full(len(times), -1)
    for i, time in enumerate(times):
        inside = np.flatnonzero((found.start <= time) & (time < found.stop))
        if len(inside):
            owner[i] = inside[np.argmin(np.abs(found.times[inside] - time))]
    score = found.values["task"].to_numpy()
    high = (owner >= 0) & (score[owner] >= low)
    edges = np.flatnonzero(np.diff(np.r_[0, high.astype(int), 0]))
    expected = np.zeros(len(times), bool)
    for first, stop in edges.reshape(-1, 2):
        # Stretches that no window joins are apart, though they may touch.
        expected[first:stop] = score[owner[first:stop]].max() >= threshold
    ambiguous = np.zeros(len(times), bool)
    for edge in (found.times[1:] + found.times[:-1]) / 2:
        ambiguous |= np.abs(times - edge) < 1 / 30
    np.testing.assert_array_equal(covered[~ambiguous], expected[~ambiguous])


def test_of_more_classes_each_has_its_events():
    start = 2.0 * np.arange(4)
    table = pd.DataFrame({"N2": [0.8, 0.1, 0.1, 0.1], 5: [0.1, 0.1, 0.8, 0.8]})
    table["REM"] = 1 - table.sum(axis=1)
    found = RecordingScores(**about(start), values=table)
    assert found.classes == ["N2", 5, "REM"]
    events = found.events()
    assert list(zip(events.onset, events.label, strict=True)) == [
        (0, "N2"), (2, "REM"), (4, 5),
    ]  # fmt: skip
    assert found.events(classes=5).label.tolist() == [5]
    assert found.events(classes=["REM", "N2"]).label.tolist() == ["N2", "REM"]
    assert found.to_annotations().description.tolist() == ["N2", "REM", "5"]


@pytest.mark.parametrize("date", [None, 1_000_000_000])
@pytest.mark.parametrize("first", [0.0, 3.0])
def test_annotations_come_to_their_times(date, first):
    raw = make_raw(names=["C3"], types=["eeg"], bads=[], n_times=4000)
    raw.set_meas_date(date)
    raw.set_annotations(mne.Annotations([4.0], [1.0], ["own"]))
    raw.crop(first)
    found = scores([0, 1, 0, 0, 1])
    alone = raw.copy().set_annotations(found.to_annotations())
    np.testing.assert_allclose(alone.annotations.onset - raw.first_time, [2, 8])
    found.annotate(raw, threshold=0.5)
    onset = raw.annotations.onset - raw.first_time
    listed = sorted(zip(onset, raw.annotations.description, strict=True))
    assert [(round(t, 6), text) for t, text in listed] == sorted(
        [(2, "task"), (4 - first, "own"), (8, "task")]
    )
    assert set(raw.annotations.duration) == {1, 2}


def test_a_prefix_tells_events_from_an_experts_marks():
    raw = make_raw(names=["C3"], types=["eeg"], bads=[], n_times=1000)
    raw.set_annotations(mne.Annotations([4.0], [1.0], ["task"]))
    scores([0, 1, 0]).annotate(raw, threshold=0.5, prefix="model: ")
    assert raw.annotations.description.tolist() == ["model: task", "task"]
    scores([0, 0]).annotate(raw, prefix="model: ")  # no events, nothing to rename
    assert len(raw.annotations) == 2


def test_the_picture_shows_the_events_that_are_asked_for(monkeypatch):
    shown = []
    monkeypatch.setattr(
        "braindecode_biot.viz.plot_scores",
        lambda *_, detected=(), **__: shown.append(list(detected)),
    )
    found = scores([0.9, 0, 0.6, 0.8, 0, 0.9])
    rule = dict(threshold=0.7, low=0.5, min_duration=3, merge_gap=2)
    found.plot(**rule)
    assert shown.pop() == spans(found.events(**rule)) == [(0, 12)]
    found.plot(**rule | {"merge_gap": 0})
    assert shown.pop() == [(4, 8)]
    found.plot(low=0.5)
    assert shown.pop() == []


def test_a_table_and_its_file(tmp_path):
    found = scores([0.25, 1 / 3])
    path = found.to_csv(tmp_path / "new" / "scores.csv")
    read = pd.read_csv(path)
    assert read.columns.tolist() == ["start", "stop", "rest", "task"]
    np.testing.assert_allclose(read, found.to_dataframe(), atol=1e-6)


@pytest.mark.parametrize("name", ["a.csv", "a-annot.fif", "a.edf"])
def test_events_and_their_files(tmp_path, name):
    found = scores([0, 1, 0, 0, 0.625])
    path = found.save_events(tmp_path / "new" / name, threshold=0.6)
    if name == "a.csv":
        assert pd.read_csv(path).values.tolist() == [
            [2, 2, "task", 1, 1], [8, 2, "task", 0.625, 0.625],
        ]  # fmt: skip
        return
    read = mne.read_annotations(path)
    np.testing.assert_allclose(read.onset, [2, 8])
    np.testing.assert_allclose(read.duration, [2, 2])
    assert set(read.description) == {"task"}


def test_no_events_are_a_table_of_the_same_kinds():
    none, some = scores([0, 0]).events(), scores([0, 1]).events()
    assert none.empty
    numbers = ["onset", "duration", "peak", "mean"]
    assert none[numbers].dtypes.equals(some[numbers].dtypes)
    assert none.nlargest(3, "peak").empty  # as the report asks


@pytest.mark.parametrize("name", ["a.csv", "a-annot.fif", "a.edf"])
def test_there_may_be_no_events(tmp_path, name):
    path = scores([0, 0]).save_events(tmp_path / name)
    if name != "a.csv":
        texts = mne.read_annotations(path).description
        assert all(text.startswith("EDGE") for text in texts)


@pytest.mark.parametrize("name", ["a.CSV", "a-annot.FIF", "a.EDF"])
def test_suffixes_in_capitals(tmp_path, name):
    assert scores([0, 1]).save_events(tmp_path / name).stat().st_size > 0


def test_labels_of_any_kind_come_to_files(tmp_path):
    table = pd.DataFrame({"a": [0.0, 1.0, 0.0], "b\nc": [1.0, 0, 0], "": [0.0, 0, 1]})
    found = RecordingScores(**about([0.0, 2.0, 4.0]), values=table)
    texts = found.to_annotations().description.tolist()
    assert texts == ["b c", "a", "event"]
    read = mne.read_annotations(found.save_events(tmp_path / "a.edf"))
    assert read.description.tolist() == texts


def test_a_class_may_be_called_as_a_column():
    table = pd.DataFrame({"go": [0.2], "stop": [0.8]})
    found = RecordingScores(**about([0.0]), values=table)
    assert found.to_dataframe().columns.tolist() == [
        "start",
        "stop",
        "go",
        "class stop",
    ]


def test_a_sample_between_windows_is_no_gap():
    start = np.round(np.arange(50) * 2 * 173.61) / 173.61
    found = scores(np.ones(50), start=start, length=347 / 173.61)
    assert len(found.events()) == 1


def test_events_go_to_recordings():
    with pytest.raises(TypeError, match=r"A str was given, expected the mne.io.Raw"):
        scores([0, 1]).annotate("a.edf")


def test_events_in_another_file(tmp_path):
    with pytest.raises(ValueError, match=r"ends in .csv, .fif or .edf"):
        scores([0, 1]).save_events(tmp_path / "a.txt")


def test_without_edfio(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "edfio", None)
    with pytest.raises(ImportError, match=r"braindecode-biot\[edf\]"):
        scores([0, 1]).save_events(tmp_path / "a.edf")


def test_a_regressor_has_predictions():
    found = RecordingScores(
        **about([0.0, 2.0]),
        values=pd.DataFrame({"prediction": [10.0, 90.0]}),
        is_probability=False,
    )
    with pytest.raises(AttributeError, match="no probabilities"):
        _ = found.probabilities
    assert spans(found.events(50)) == [(2, 4)]


@pytest.mark.parametrize(("arguments", "match"), [
    (dict(threshold="high"), "threshold='high', expected a number"),
    (dict(threshold=float("nan")), "threshold=nan, expected a number"),
    (dict(low=0.6), "low ≤ threshold"),
    (dict(min_duration=-1), "at least 0 s"),
    (dict(merge_gap=-1), "at least 0 s"),
    (dict(classes="sleep"), r"\['sleep'\] are none of the scored classes"),
])  # fmt: skip
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        scores([0, 1]).to_annotations(**arguments)


def test_what_was_left_out_is_told():
    skipped = pd.DataFrame({"start": [4.0], "stop": [6.0], "reason": ["bad"]})
    rows = (*REPORT.rows, MontageRow("C4", "missing", "", "no channel holds C4"))
    found = RecordingScores(
        **about([0.0, 2.0], skipped=skipped)
        | {"montage": MontageReport("own", rows, ()), "source": "a/b.edf"},
        values=pd.DataFrame({"x": [0.5, 0.5], "y": [0.5, 0.5]}),
    )
    assert repr(found) == (
        "<RecordingScores of x, y: 2 windows (2 s, of 100 s in 'b.edf'), "
        "1 left out (1 bad), without C4>"
    )


class TestEmbeddings:
    @pytest.fixture
    def found(self):
        values = np.arange(6, dtype=np.float32).reshape(2, 3)
        return RecordingEmbeddings(**about([0.0, 2.0]), embeddings=values)

    def test_npz(self, found, tmp_path):
        with np.load(found.save(tmp_path / "a.npz")) as read:
            assert set(read) == {"embeddings", "start", "stop"}
            np.testing.assert_array_equal(read["embeddings"], found.embeddings)
            np.testing.assert_array_equal(read["stop"], [2, 4])

    @pytest.mark.parametrize("suffix", ["parquet", "csv"])
    def test_tables(self, found, tmp_path, suffix):
        if suffix == "parquet":
            pytest.importorskip("pyarrow")
        path = found.save(tmp_path / f"a.{suffix}")
        read = getattr(pd, f"read_{suffix}")(path)
        assert read.columns.tolist() == ["start", "stop", "biot0", "biot1", "biot2"]
        np.testing.assert_allclose(read, found.to_dataframe())

    def test_another_suffix(self, found, tmp_path):
        with pytest.raises(ValueError, match=r"ends in .npz, .parquet or .csv"):
            found.save(tmp_path / "a.mat")

    def test_a_full_disk_leaves_nothing(self, found, tmp_path, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            found.save(tmp_path / "a.npz")
        assert os.listdir(tmp_path) == []

    def test_without_pyarrow(self, found, tmp_path, monkeypatch):
        def missing(*_, **__):
            raise ImportError("no pyarrow")

        monkeypatch.setattr(pd.DataFrame, "to_parquet", missing)
        with pytest.raises(ImportError, match=r"braindecode-biot\[parquet\]"):
            found.save(tmp_path / "a.parquet")

    def test_repr(self, found):
        assert repr(found) == (
            "<RecordingEmbeddings of size 3: 2 windows (2 s, of 100 s)>"
        )
