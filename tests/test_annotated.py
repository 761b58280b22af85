"""Labels of windows from annotations: cover, codes, blocks and what is left out."""

import warnings
from datetime import UTC, datetime

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import LeaveOneGroupOut, cross_val_score

from braindecode_biot import BIOTClassifier, label_windows, load_absence
from braindecode_biot.windows import read_windows

SFREQ, SECONDS = 50.0, 20
MEASURED = datetime(2020, 5, 4, 12, 30, tzinfo=UTC)


def make_raw(notes=(), sfreq=SFREQ, seconds=SECONDS):
    """Make a recording whose first channel counts samples, with these notes."""
    n_times = round(seconds * sfreq)
    data = np.vstack(
        [np.arange(n_times), np.random.default_rng(0).normal(size=n_times)]
    )
    info = mne.create_info(["C3", "C4"], sfreq, "eeg")
    raw = mne.io.RawArray(data * 1e-6, info, verbose="error")
    return (
        raw.set_annotations(mne.Annotations(*zip(*notes, strict=True)))
        if notes
        else raw
    )


def first_samples(epochs):
    return np.round(epochs.get_data()[:, 0, 0] * 1e6).astype(int)


NOTES = st.lists(
    st.tuples(st.floats(0, 19.9), st.floats(0.01, 8), st.sampled_from("ABC")),
    min_size=1,
    max_size=6,
)


@given(
    notes=NOTES,
    duration=st.sampled_from([0.5, 1, 2.02, 5]),
    step=st.sampled_from([None, 0.1, 0.33, 1, 7]),
    min_overlap=st.sampled_from([0.01, 0.3, 0.5, 1]),
)
@settings(max_examples=60, deadline=None)
def test_cover_and_labels_are_those_of_a_grid_of_samples(
    notes, duration, step, min_overlap
):
    notes = [(on, min(length, SECONDS - on), text) for on, length, text in notes]
    raw = make_raw(notes)
    n_samples, n = raw.n_times, round(duration * SFREQ)
    grid = np.zeros((3, n_samples), dtype=bool)
    for onset, length, text in notes:
        # To a millionth first, as MNE keeps times: or halves would go either way.
        edges = (round(time * SFREQ, 6) for time in (onset, onset + length))
        start, stop = (round(edge) for edge in edges)
        grid["ABC".index(text), start:stop] = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one label
        epochs, labels, groups = label_windows(
            raw, duration, step, events=["A", "B", "C"], min_overlap=min_overlap,
            on_missing="ignore",
        )  # fmt: skip
    starts = epochs.events[:, 0]
    assert starts[0] == 0
    assert starts[-1] + n <= n_samples < starts[-1] + n + (step or duration) * SFREQ + 1
    expected_steps = (step or duration) * SFREQ * np.arange(len(starts))
    assert np.abs(starts - expected_steps).max() <= 0.5
    assert epochs.get_data().shape[2] == n
    assert first_samples(epochs).tolist() == starts.tolist()
    assert (groups == 0).all()
    for i, start in enumerate(starts):
        cover = grid[:, start : start + n].mean(axis=1)
        assert epochs.metadata.cover[i] == pytest.approx(cover.max())
        is_event = cover.max() >= min_overlap
        assert labels[i] == ("ABC"[cover.argmax()] if is_event else "background")


@pytest.mark.parametrize("measured", [None, MEASURED])
@pytest.mark.parametrize("crop", [None, 3.0, 7.5])
def test_labels_stay_where_they_are_in_a_part_of_a_recording(measured, crop):
    raw = make_raw([(8, 2, "A"), (14, 1, "BAD_move"), (16, 3, "B")])
    raw.set_meas_date(measured)
    whole = label_windows(raw, 1, 0.5, block="event")
    if crop is not None:
        raw.crop(crop)
    part = label_windows(raw, 1, 0.5, block="event")
    begin = round((crop or 0) * SFREQ)
    later = first_samples(whole.epochs) >= begin
    assert (
        first_samples(part.epochs).tolist()
        == first_samples(whole.epochs)[later].tolist()
    )
    assert part.labels.tolist() == whole.labels[later].tolist()
    assert part.groups.tolist() == whole.groups[later].tolist()
    at_a = first_samples(part.epochs)[part.labels == "A"] / SFREQ
    assert at_a.tolist() == [7.5, 8, 8.5, 9, 9.5]
    seconds = part.epochs.metadata.start.to_numpy()
    np.testing.assert_allclose(seconds, (first_samples(part.epochs) - begin) / SFREQ)


def test_annotations_with_a_date_of_their_own():
    raw = make_raw()
    raw.set_meas_date(MEASURED)
    raw.crop(5)
    later = MEASURED.replace(minute=31)  # of which nothing is here
    raw.set_annotations(mne.Annotations([10], [2], ["A"], orig_time=MEASURED))
    _, labels, _ = label_windows(raw, 1)
    assert np.flatnonzero(labels == "A").tolist() == [5, 6]
    with pytest.warns(RuntimeWarning, match="outside"):
        raw.set_annotations(mne.Annotations([10], [2], ["A"], orig_time=later))
    with pytest.raises(ValueError, match=r"no event with a duration.*are: none"):
        label_windows(raw, 1)


def test_joins_are_no_windows():
    raws = [make_raw([(1.0, 1.0, "A")]) for _ in range(2)]
    n = raws[0].n_times
    raw = mne.concatenate_raws(raws, verbose="error")
    raw.set_annotations(raw.annotations[raw.annotations.description == "A"])
    step = 0.7  # so that windows do not end at the join
    epochs, _, _ = label_windows(raw, 1.0, step)
    starts = epochs.events[:, 0]
    assert not ((starts < n) & (starts + len(epochs.times) > n)).any()
    assert (starts >= n).any()


def test_none_takes_what_has_a_duration_and_is_neither_bad_nor_edge():
    notes = [
        (1, 1, "spike"),
        (3, 0, "HV"),
        (5, 2, "BAD_move"),
        (8, 1, "EDGE"),
        (9, 1, "rem"),
    ]
    epochs, labels, _ = label_windows(make_raw(notes), 1)
    assert set(labels) == {"background", "spike", "rem"}
    assert epochs.event_id == {"background": 0, "spike": 1, "rem": 2}
    assert epochs.events[:, 2].tolist() == [epochs.event_id[label] for label in labels]
    assert len(epochs) == SECONDS - 2


def test_a_dict_names_labels_of_which_several_descriptions_make_one():
    notes = [(2, 0.4, "left"), (2.3, 0.4, "right"), (7, 1, "tonic"), (8, 1, "other")]
    events = {"right": "focal", "left": "focal", "tonic": "general"}
    epochs, labels, _ = label_windows(
        make_raw(notes), 1, events=events, min_overlap=0.7
    )
    assert np.flatnonzero(labels == "focal").tolist() == [2]  # 0.7 s, each once
    assert np.flatnonzero(labels == "general").tolist() == [7]
    assert epochs.metadata.cover[2] == pytest.approx(0.7)
    assert epochs.event_id == {"background": 0, "focal": 1, "general": 2}


def test_ties_go_to_the_earlier_of_events():
    raw = make_raw([(2, 1, "A"), (2, 1, "B"), (4, 0.6, "A"), (4.2, 0.8, "B")])
    for events, tied in ((["A", "B"], "A"), (["B", "A"], "B")):
        _, labels, _ = label_windows(raw, 1, events=events)
        assert labels[[2, 4]].tolist() == [tied, "B"]


def test_min_overlap_is_met_by_equality():
    raw = make_raw([(2, 0.56, "A")])
    epochs, labels, _ = label_windows(
        raw, 1, min_overlap=0.56, events={"A": 3}, background=0
    )
    assert np.flatnonzero(labels).tolist() == [2]
    assert epochs.event_id == {"0": 0, "3": 3}
    assert epochs.events[:, 2].tolist() == labels.tolist()
    with pytest.warns(UserWarning, match=r"All 20 windows .* 'background'.*up to 0.56"):
        label_windows(raw, 1, min_overlap=0.57)


def test_without_background_only_events_are_kept():
    epochs, labels, _ = label_windows(
        make_raw([(2, 3, "A"), (9, 2, "B")]), 1, background=None
    )
    assert labels.tolist() == ["A"] * 3 + ["B"] * 2
    assert first_samples(epochs).tolist() == [100, 150, 200, 450, 500]
    assert epochs.event_id == {"A": 1, "B": 2}


@pytest.mark.parametrize("step", [1, 0.5])
@pytest.mark.parametrize("length", [0.0, 0.3, 2.5])
def test_bad_windows_are_those_that_mne_drops(length, step):
    bad = [(5.5, length, "bad x"), (9, length, "BAD")]
    raw = make_raw([(1, 1, "A"), *bad, (12, 3, "A")])
    epochs, *_ = label_windows(raw, 1, step, events="A")
    mnes = mne.make_fixed_length_epochs(
        raw, 1, overlap=1 - step, preload=True, verbose="error"
    )
    assert epochs.events[:, 0].tolist() == mnes.events[:, 0].tolist()
    assert len(mnes) < len(mnes.drop_log)
    whole, *_ = label_windows(raw, 1, step, events="A", skip_bad=False)
    assert len(whole) == len(mnes.drop_log)


def test_a_bad_annotation_may_be_the_event():
    raw = make_raw([(2, 2, "BAD_move"), (6, 1, "BAD_other")])
    epochs, labels, _ = label_windows(raw, 1, events={"BAD_move": 1}, background=0)
    assert labels.sum() == 2
    assert len(epochs) == SECONDS - 1


def assert_blocks_share_no_sample(epochs, groups):
    stops = epochs.events[:, 0] + len(epochs.times)
    for group in set(groups):
        inside = groups == group
        first, last = epochs.events[inside, 0].min(), stops[inside].max()
        assert ((stops[~inside] <= first) | (epochs.events[~inside, 0] >= last)).all()


@given(notes=NOTES, block=st.sampled_from(["event", 2, 3.3, 10, 100]))
@settings(max_examples=40, deadline=None)
def test_blocks_share_no_sample_and_keep_events_whole(notes, block):
    notes = [(on, min(length, SECONDS - on), text) for on, length, text in notes]
    raw = make_raw(notes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        epochs, _, groups = label_windows(raw, 1, 0.2, block=block)
    assert_blocks_share_no_sample(epochs, groups)
    assert epochs.metadata.block.tolist() == groups.tolist()
    assert (np.diff(groups) >= 0).all()
    if block == "event":
        for onset, length, _ in notes:
            meets = (epochs.metadata.start < onset + length - 0.02) & (
                epochs.metadata.stop > onset + 0.02
            )
            assert len(set(groups[meets])) <= 1


def test_blocks_between_events_that_touch_and_of_seconds():
    raw = make_raw([(0, 5, "W"), (5, 10, "N1"), (15, 5, "N2")])
    _, labels, groups = label_windows(raw, 1, block="event")
    assert groups.tolist() == [0] * 5 + [1] * 10 + [2] * 5
    assert labels.tolist() == ["W"] * 5 + ["N1"] * 10 + ["N2"] * 5
    _, _, groups = label_windows(raw, 1, block=8)
    assert groups.tolist() == [0] * 8 + [1] * 8 + [2] * 4
    epochs, _, groups = label_windows(raw, 2, 1, block=10)
    assert groups.tolist() == [0] * 9 + [1] * 9
    assert 450 not in epochs.events[:, 0]  # 9 to 11 s


def test_a_classifier_takes_epochs_labels_and_groups():
    raw = load_absence().pick(["F3", "C3"])
    epochs, labels, groups = label_windows(raw, 2, events="seizure", block="event")
    classifier = BIOTClassifier(
        max_epochs=1, module__emb_size=16, module__n_layers=1, random_state=0
    )
    classifier.fit(epochs, labels, groups)
    assert classifier.classes_.tolist() == ["background", "seizure"]
    scores = cross_val_score(
        classifier, epochs, labels, groups=groups, cv=LeaveOneGroupOut(),
        params={"groups": groups}, scoring="roc_auc", error_score="raise",
    )  # fmt: skip
    assert np.isfinite(scores).all()
    # Codes are the labels where none are passed, the same in every recording.
    two = [label_windows(part, 2, events="seizure").epochs for part in
           (raw.copy().crop(180, 240), raw.copy().crop(270, 320))]  # fmt: skip
    codes = read_windows(two).labels
    assert set(codes) == {0, 1}


def test_windows_read_later_are_those_read_now(tmp_path):
    raw = make_raw([(2, 1, "A")])
    raw.save(tmp_path / "some_raw.fif", verbose="error")
    lazy = mne.io.read_raw_fif(tmp_path / "some_raw.fif", verbose="error")
    now, labels, _ = label_windows(lazy, 1, 0.5)
    later, same, _ = label_windows(lazy, 1, 0.5, preload=False)
    assert not later.preload
    assert labels.tolist() == same.tolist()
    np.testing.assert_array_equal(later.get_data(), now.get_data())
    now.save(tmp_path / "some-epo.fif", verbose="error")
    again = mne.read_epochs(tmp_path / "some-epo.fif", verbose="error")
    assert again.event_id == now.event_id
    assert again.metadata.label.tolist() == labels.tolist()


def test_a_recording_without_the_event_is_an_error_or_all_background():
    raw = make_raw([(2, 1, "Seizure"), (5, 0, "HV"), (7, 0, "HV")])
    listed = r"\['seizure'\]\. Its annotations are: 'Seizure' \(1\), 'HV' \(2\)"
    with pytest.raises(ValueError, match=listed + r".*on_missing='ignore'"):
        label_windows(raw, 1, events="seizure")
    with pytest.warns(UserWarning, match=listed) as caught:
        label_windows(raw, 1, events="seizure", on_missing="warn")
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epochs, labels, _ = label_windows(
            raw, 1, events="seizure", on_missing="ignore", block="event"
        )
    assert set(labels) == {"background"}
    assert epochs.event_id == {"background": 0}
    assert (epochs.metadata.cover == 0).all()


def test_one_label_alone_is_warned_of():
    with pytest.warns(UserWarning, match="All 20 windows have the label 'A'") as caught:
        label_windows(make_raw([(0, 20, "A")]), 1)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(events="HV"), ValueError, r"no duration mark instants.*\{'HV': 2\}"),
        (dict(events=["A", "mixed"]), ValueError, r"\{'mixed': 1\}.*set_durations"),
        (dict(events=None), ValueError, r"\{'mixed': 1\}"),
        (dict(events=[]), ValueError, "no event with a duration to label by"),
        (dict(events="A", on_missing="no"), ValueError, "'warn' or 'ignore', got 'no'"),
        (dict(events={"A": 1}), TypeError, r"\['background', 1\]; .* background='back"),
        (dict(events={"A": 1.5}, background=0), TypeError, "all text or all whole"),
        (dict(duration=0), ValueError, r"duration is .* one sample of 0.02 s; got 0\."),
        (dict(duration="1 s"), ValueError, "duration is a number of seconds"),
        (dict(step=0.001), ValueError, "step is a number of seconds, at least one"),
        (dict(step=np.nan), ValueError, "step is a number of seconds"),
        (dict(duration=21), ValueError, "21 s is longer than the recording of 20 s"),
        (dict(min_overlap=0), ValueError, "above 0 and at most 1; got 0"),
        (dict(min_overlap=1.1), ValueError, "above 0 and at most 1; got 1.1"),
        (dict(block=0.5), ValueError, "at least a window's 1; got 0.5"),
        (dict(block="events"), ValueError, "block is 'event', None.*got 'events'"),
        (
            dict(background=None, duration=6),
            ValueError,
            "None of the 3 windows of 6 s is left: 3 background.*up to 0.33 of",
        ),
    ],
)
def test_what_makes_no_labels_is_refused(arguments, error, message):
    raw = make_raw(
        [(2, 2, "A"), (5, 0, "HV"), (6, 0, "HV"), (7, 0, "mixed"), (9, 1, "mixed")]
    )
    with pytest.raises(error, match=message):
        label_windows(raw, **({"duration": 1, "events": "A"} | arguments))


def test_blocks_may_leave_no_window():
    raw = make_raw([(start, 0.5, "A") for start in range(SECONDS)])
    with pytest.raises(ValueError, match=r"None of the 5 windows.*5 across a cut"):
        label_windows(raw, 4, block="event")


def test_only_a_recording_is_taken():
    with pytest.raises(TypeError, match=r"a recording, mne\.io\.Raw, got a list"):
        label_windows([make_raw([(2, 1, "A")])], 1)
