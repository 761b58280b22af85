"""Montages: the algebra of derivations, what is kept, what is refused and said."""

import datetime
import warnings
from itertools import pairwise

import mne
import numpy as np
import pandas as pd
import pytest
from braindecode.datasets import BaseConcatDataset, RawDataset
from braindecode.preprocessing import Preprocessor, preprocess
from hypothesis import given, settings
from hypothesis import strategies as st
from mne.io.constants import FIFF
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from braindecode_biot.channels import TCP16, TCP18, canonical
from braindecode_biot.datasets import load_absence
from braindecode_biot.montage import ToMontage, montage_report, to_montage
from conftest import SHARED

DATA = SHARED / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"there is no {DATA}")
ELECTRODES = [
    *("FP1", "FP2", "F7", "F3", "F4", "F8", "T7", "C3", "CZ", "C4", "T8"),
    *("P7", "P3", "P4", "P8", "O1", "O2", "A1", "A2"),
]
OLD = {"T7": "T3", "T8": "T4", "P7": "T5", "P8": "T6", "A1": "M1", "A2": "M2"}
SPELLINGS = [
    lambda name: f"EEG {name}",
    lambda name: name.title(),
    lambda name: f"{name}.",
    lambda name: f"POL {'-'.join(OLD.get(part, part) for part in name.split('-'))}",
    str,
]
DAY = datetime.datetime(2020, 2, 3, tzinfo=datetime.UTC)


def make_raw(
    names=ELECTRODES, sfreq=200.0, n_times=400, types="eeg", data=None, bads=()
):
    info = mne.create_info(list(names), sfreq, types)
    info["bads"] = list(bads)
    if data is None:
        data = np.random.default_rng(0).normal(size=(len(names), n_times)) * 1e-5
    return mne.io.RawArray(data, info, verbose="error")


def make_epochs(raw=None, n_windows=4, n_times=80, tmin=-0.1, **kwargs):
    raw = make_raw() if raw is None else raw
    codes = 1 + np.arange(n_windows) % 2
    events = np.c_[50 + n_times * np.arange(n_windows), 0 * codes, codes].astype(int)
    kwargs = {"preload": True, "baseline": None, "event_id": {"a": 1, "b": 2}} | kwargs
    tmax = tmin + (n_times - 1) / raw.info["sfreq"]
    return mne.Epochs(raw, events, tmin=tmin, tmax=tmax, verbose="error", **kwargs)


def give_units(raw, **units):
    for name, unit in units.items():
        raw.info["chs"][raw.ch_names.index(name)]["unit"] = unit
    return raw


class TestAlgebra:
    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def test_equals_a_matrix(self, data):
        """Monopolar recordings of any names, order and bads."""
        electrodes = data.draw(st.permutations(ELECTRODES))[
            : data.draw(st.integers(1, 19))
        ]
        spell = [data.draw(st.sampled_from(SPELLINGS)) for _ in electrodes]
        names = [f(name) for f, name in zip(spell, electrodes, strict=True)]
        bads = data.draw(st.lists(st.sampled_from(names), unique=True, max_size=4))
        use_bads = data.draw(st.booleans())
        raw = make_raw(names, n_times=20, bads=bads)
        matrix = np.zeros((18, len(names)))
        missing = np.zeros(18, bool)
        for row, (anode, cathode) in enumerate(name.split("-") for name in TCP18):
            for sign, end in ((1, anode), (-1, cathode)):
                column = electrodes.index(end) if end in electrodes else None
                if column is None or (names[column] in bads and not use_bads):
                    missing[row] = True
                else:
                    matrix[row, column] = sign
        expected = matrix @ raw.get_data()
        expected[missing] = np.nan
        if missing.all():
            with pytest.raises(ValueError, match="recording cannot give 18"):
                to_montage(raw, sfreq=None, use_bads=use_bads)
            return
        out, report = to_montage(raw, sfreq=None, use_bads=use_bads, return_report=True)
        assert out.ch_names == list(TCP18)
        np.testing.assert_allclose(out.get_data(), expected, rtol=1e-12)
        touched = np.abs(matrix)[:, [name in bads for name in names]].any(axis=1)
        assert out.info["bads"] == list(np.array(TCP18)[touched & ~missing])
        assert list(report.missing) == list(np.array(TCP18)[missing])
        kept = to_montage(raw, sfreq=None, use_bads=use_bads, on_missing="drop")
        assert kept.ch_names == list(np.array(TCP18)[~missing])
        np.testing.assert_array_equal(kept.get_data(), out.get_data()[~missing])

    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def test_equals_the_potentials(self, data):
        """Electrodes recorded singly, in chains, reversed, some not at all."""
        potentials = dict(
            zip(ELECTRODES, np.random.default_rng(1).normal(size=(19, 9)), strict=True)
        )
        names, rows, connected = [], [], {}
        for electrode in data.draw(st.permutations(ELECTRODES)):
            how = data.draw(st.sampled_from(["single", "LE", "link", "link", "none"]))
            if how == "none":
                continue
            reference = {"single": "", "LE": "LE"}.get(how)
            if how == "link":
                if not connected:
                    continue
                other = data.draw(st.sampled_from(sorted(connected)))
                ends = [electrode, other][:: data.draw(st.sampled_from([1, -1]))]
                names.append("-".join(ends))
                rows.append(potentials[ends[0]] - potentials[ends[1]])
                connected[electrode] = connected[other]
            else:
                names.append(f"{electrode}-LE" if reference else electrode)
                rows.append(potentials[electrode] - (5 if reference else -3))
                connected[electrode] = reference
        wanted = {
            name: potentials[anode] - potentials[cathode]
            for name in TCP18
            for anode, cathode in [name.split("-")]
            if anode in connected
            and cathode in connected
            and connected[anode] == connected[cathode]
        }
        if not wanted:
            return
        raw = make_raw(names, data=np.array(rows))
        out, report = to_montage(raw, sfreq=None, on_missing="drop", return_report=True)
        assert out.ch_names == list(wanted)
        np.testing.assert_allclose(out.get_data(), [*wanted.values()], atol=1e-12)
        assert report.coverage == pytest.approx(len(wanted) / 18)

    @settings(max_examples=10, deadline=None)
    @given(st.permutations(range(8)))
    def test_order_of_channels_does_not_matter(self, order):
        """Nor where there are several ways, which noise makes differ."""
        names = ["C3-Pz", "Pz-C4", "C3-Cz", "C4-Cz", "FP1-F7", "F7-FP1", "F3", "C3"]
        raw = make_raw(names)
        wanted = ["C3-C4", "F7-Fp1", "F3-C4", "C4-C3"]
        expected = to_montage(raw, wanted).get_data()
        raw.reorder_channels([names[i] for i in order])
        np.testing.assert_array_equal(to_montage(raw, wanted).get_data(), expected)

    @pytest.mark.parametrize("on_missing", ["nan", "drop"])
    def test_own_output_stays(self, on_missing):
        raw = load_absence().pick(["Fp1", "F7", "T3", "T5", "A1", "C4"]).crop(0, 5)
        raw.info["bads"] = ["Fp1"]
        once = to_montage(raw, use_bads=True, on_missing=on_missing)
        again = to_montage(once, use_bads=True, on_missing=on_missing)
        assert mne.utils.object_diff(once.info, again.info) == ""
        assert once.annotations == again.annotations
        np.testing.assert_array_equal(once.get_data(), again.get_data())
        assert np.isnan(once.get_data()).any() == (on_missing == "nan")

    def test_both_names_of_one_channel(self):
        raw = make_raw(["T3", "T7", "P7"])
        with pytest.raises(
            ValueError, match=r"'T3' and 'T7' mean .*drop_channels\(\['"
        ):
            to_montage(raw, ["T7-P7"])
        raw.info["bads"] = ["T3"]
        out, report = to_montage(raw, ["T7-P7"], return_report=True)
        assert report.rows[0].formula == "T7 − P7"
        np.testing.assert_array_equal(
            out.get_data()[0], np.subtract(*raw.get_data()[1:])
        )

    @pytest.mark.parametrize("make", [make_raw, make_epochs])
    def test_doubled_with_the_same_samples(self, make):
        samples = np.random.default_rng(0).normal(size=(3, 400))
        samples[:2, 0] = np.nan
        samples[1] = samples[0]
        raw = make_raw(["T8-P8-0", "T8-P8-1", "P8-O2"], data=samples)
        inst = raw if make is make_raw else make_epochs(raw, preload=False)
        report = montage_report(inst, ["T8-O2", "T8-P8"])
        assert report.rows[1] == (
            *("T8-P8", "renamed", "T8-P8-0", "the same as 'T8-P8-1'"),
        )
        assert report.unused == ("T8-P8-1",)
        out = to_montage(inst, ["T8-P8"])
        expected = raw.get_data()[0] if make is make_raw else inst.get_data()[:, 0]
        np.testing.assert_array_equal(out.get_data()[..., 0, :], expected)

    def test_doubled_but_not_needed(self):
        raw = make_raw(["T3", "T7", "F3", "C3"])
        assert to_montage(raw, ["F3-C3"]).ch_names == ["F3-C3"]


class TestOwnMontage:
    def test_electrodes_derivations_and_others(self):
        raw = make_raw(
            ["C3-LE", "C4-LE", "acc_x", " ECG"], types=["eeg", "eeg", "misc", "ecg"]
        )
        raw.info["chs"][3]["unit_mul"] = FIFF.FIFF_UNITM_MU
        out, report = to_montage(
            raw, ["ECG", "c4", "C3-LE", "acc_x", "C3-C4"], return_report=True
        )
        assert out.ch_names == ["ECG", "c4", "C3-LE", "acc_x", "C3-C4"]
        assert out.get_channel_types() == ["ecg", "eeg", "eeg", "misc", "eeg"]
        given = raw.get_data()
        np.testing.assert_array_equal(
            out.get_data(), [*given[[3, 1, 0, 2]], given[0] - given[1]]
        )
        assert out.info["chs"][0]["unit_mul"] == FIFF.FIFF_UNITM_MU
        assert [row.status for row in report.rows] == [
            *("renamed", "renamed", "found", "found", "derived"),
        ]

    def test_missing_ones(self):
        raw = make_raw(["C3", "C3-Cz"])
        out = to_montage(raw, ["C3-Cz", "Pz", "acc_x"])
        assert out.get_channel_types() == ["eeg", "eeg", "misc"]
        assert np.isnan(out.get_data()[1:]).all()

    def test_numbered_electrodes_are_no_positions(self):
        names = [f"{row}{number}" for row in "ABCD" for number in range(1, 33)]
        raw = make_raw(names)
        with pytest.raises(ValueError, match="C3-A2: 'C3' is a contact's number"):
            to_montage(raw)
        assert not montage_report(raw.copy().drop_channels(["A4", "B4"])).coverage
        assert to_montage(raw, ["A1", "D32"]).ch_names == ["A1", "D32"]

    @pytest.mark.parametrize(
        "names",
        [
            [f"POL {shaft}{i}" for shaft in "ABCFTOP" for i in range(1, 7)],
            [f"{shaft}{i}" for shaft in "FCPO" for i in range(1, 9)],
            [f"{shaft}{i}" for shaft in "FP" for i in range(1, 7)],
        ],
    )
    def test_depth_electrodes_are_no_positions(self, names):
        assert montage_report(make_raw(names)).coverage == 0

    def test_depth_beside_scalp_electrodes(self):
        scalp = [f"EEG {name}-Ref" for name in ELECTRODES if name != "C3"]
        depth = [f"POL {shaft}{i}" for shaft in "ABC" for i in range(1, 9)]
        report = montage_report(make_raw(scalp + depth))
        assert set(report.missing) == {"F3-C3", "C3-P3", "C3-A2"}
        assert not any("POL" in row.formula for row in report.rows)

    @pytest.mark.parametrize("reference", ["CZ", "FZ"])
    def test_a_cap_without_its_reference_is_no_array(self, reference):
        cap = [f"{row}{i}" for row in "FCP" for i in range(1, 7)]
        cap += [name for name in ("FZ", "CZ", "PZ", "OZ") if name != reference]
        assert montage_report(make_raw(cap), ["F3-C3", "C4-P4"]).coverage == 1


class TestTypes:
    @pytest.mark.parametrize("kind", ["eog", "ecg", "misc", "seeg", "stim"])
    def test_only_eeg_is_an_electrode(self, kind):
        raw = make_raw(["T8", "P8", "O2"], types=[kind, "eeg", "eeg"])
        report = montage_report(raw, ["T8-P8", "P8-O2", "T8"])
        why = f"'T8' is of type {kind}, not eeg"
        assert report.missing == {"T8-P8": why, "T8": why}

    def test_current_source_density(self):
        raw = make_raw(["T8", "P8"], types="csd")
        assert "no potential" in montage_report(raw, ["T8-P8"]).missing["T8-P8"]

    def test_units(self):
        raw = make_raw(["T8", "P8", "O2"])
        give_units(raw, P8=FIFF.FIFF_UNIT_NONE)
        with pytest.raises(ValueError, match=r"T8-P8 would combine .* different units"):
            to_montage(raw, ["T8-P8"])
        assert to_montage(raw, ["T8-O2"]).ch_names == ["T8-O2"]
        raw = make_raw(["T8", "P8"])
        raw.info["chs"][0]["unit_mul"] = FIFF.FIFF_UNITM_MU
        with pytest.raises(ValueError, match=r"different units: 'T8' in .*_MU"):
            to_montage(raw, ["T8-P8"])


class TestArguments:
    @pytest.mark.parametrize("function", [to_montage, montage_report])
    def test_no_instance(self, function):
        for inst in (np.ones((2, 3)), make_epochs().average(), [make_raw()]):
            with pytest.raises(TypeError, match=r"was given, expected mne.io.Raw or"):
                function(inst)

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            (
                {"on_missing": "ignore"},
                ValueError,
                "on_missing='ignore', expected 'nan'",
            ),
            ({"on_missing": None}, ValueError, "on_missing=None, expected 'nan'"),
            ({"sfreq": 0}, ValueError, "sfreq=0, expected a positive number in Hz"),
            ({"sfreq": np.inf}, ValueError, "sfreq=inf, expected a positive"),
            ({"sfreq": "200"}, ValueError, "sfreq='200', expected a positive"),
            ({"sfreq": True}, ValueError, "sfreq=True, expected a positive"),
            ({"montage": "tcp"}, ValueError, "no channel vocabulary 'tcp', expected"),
            ({"montage": 3}, TypeError, "names are a int, expected"),
            ({"montage": ["C3", 4]}, TypeError, "named 4, a int, expected a string"),
            ({"montage": ["T3", "T7"]}, ValueError, "'T3' and 'T7', which both"),
        ],
    )
    def test_values(self, arguments, error, message):
        with pytest.raises(error, match=message):
            to_montage(make_raw(), **arguments)
        with pytest.raises(error, match=message):
            ToMontage(**arguments).fit()
        with pytest.raises(error, match=message):
            ToMontage(**arguments).transform(make_raw())

    def test_nothing_to_derive(self):
        raw = make_raw(["C3", "EKG", "E2"], bads=["C3"])
        for on_missing in ("nan", "drop", "raise"):
            with pytest.raises(ValueError, match="cannot give 2") as caught:
                to_montage(raw, ["C3-C4", "Pz"], on_missing=on_missing)
            assert str(caught.value) == (
                "Of 2 channels of the montage own, the recording cannot give 2:\n"
                "  C3-C4: 'C3' is bad; no channel holds C4\n"
                "  Pz: no channel holds PZ\n"
                "It has ['C3', 'EKG', 'E2']. Set names and types (raw.rename_channels, "
                "raw.set_channel_types)."
            )
        assert montage_report(raw, ["C3-C4", "Pz"]).coverage == 0

    def test_missing_raises(self):
        raw = make_raw(["C3", "C4", "Cz"])
        with pytest.raises(
            ValueError, match=r"give 1:\n  C3-Pz: no channel holds PZ\n.*go without"
        ):
            to_montage(raw, ["C3-C4", "C3-Pz"], on_missing="raise")
        assert len(to_montage(raw, ["C3-C4"], on_missing="raise").ch_names) == 1


class TestKeeps:
    """Everything about a recording but its channels and rate."""

    @staticmethod
    def describe(info):
        info["description"] = "a description"
        info["experimenter"] = "someone"
        info["line_freq"] = 50.0
        info["subject_info"] = {"his_id": "S1", "sex": 2}
        info["device_info"] = {"type": "amplifier"}

    @pytest.mark.parametrize("date", [None, DAY])
    @pytest.mark.parametrize("sfreq", [None, 100.0])
    def test_raw(self, date, sfreq):
        raw = make_raw(n_times=1000)
        self.describe(raw.info)
        raw.set_meas_date(date)
        raw.filter(1, 90, verbose="error")
        marks = mne.Annotations([0.5, 2, 3.5], [0.1, 1, 0], ["x", "BAD_y", "z"])
        raw.set_annotations(marks).crop(1, 4)  # so that first_samp is 200
        before = raw.copy()
        out = to_montage(raw, sfreq=sfreq)
        expected = raw.copy().resample(sfreq or 200, method="polyphase", pad="reflect")
        assert isinstance(out, mne.io.RawArray)
        assert (out.first_samp, out.n_times) == (expected.first_samp, expected.n_times)
        assert out.annotations == expected.annotations
        assert list(out.annotations.onset) == list(before.annotations.onset)
        assert out.annotations.orig_time == expected.annotations.orig_time
        assert out.info["custom_ref_applied"]  # as set_bipolar_reference marks them
        assert not to_montage(raw, ["C3-C4", "C3"], sfreq=None).info[
            "custom_ref_applied"
        ]
        info = {**out.info, **expected.info, "chs": 0, "ch_names": 0, "nchan": 0}
        info["custom_ref_applied"] = out.info["custom_ref_applied"]
        assert (
            mne.utils.object_diff(
                {**out.info, "chs": 0, "ch_names": 0, "nchan": 0}, info
            )
            == ""
        )
        events = [
            mne.events_from_annotations(i, verbose="error") for i in (out, expected)
        ]
        np.testing.assert_array_equal(events[0][0], events[1][0])
        assert raw.annotations == before.annotations

    @pytest.mark.parametrize("date", [None, DAY])
    def test_windows_leave_out_what_was_marked_bad(self, date):
        raw = make_raw(sfreq=256.0, n_times=2560)
        raw.set_meas_date(date)
        raw.set_annotations(mne.Annotations([3.2, 8.5], [1.0, 0.1], ["BAD_a", "bad b"]))
        raw.crop(1, 9.5)
        windows = [
            mne.make_fixed_length_epochs(inst, 1.0, preload=True, verbose="error")
            for inst in (raw, to_montage(raw, sfreq=200))
        ]
        starts = [epochs.events[:, 0] / epochs.info["sfreq"] for epochs in windows]
        np.testing.assert_allclose(starts[1], starts[0], atol=0.01)
        np.testing.assert_allclose(starts[0] - raw.first_time, [0, 1, 4, 5, 6])

    @pytest.mark.parametrize("preload", [True, False])
    @pytest.mark.parametrize("sfreq", [None, 100.0])
    def test_epochs(self, preload, sfreq):
        raw = make_raw(sfreq=400.0, n_times=1000)
        self.describe(raw.info)
        raw.set_annotations(mne.Annotations([0.3, 0.6], [0.1, 0], ["BAD_x", "y"]))
        epochs = make_epochs(
            raw,
            n_windows=6,
            preload=False,
            baseline=(None, 0),
            decim=2,
            metadata=pd.DataFrame({"trial": range(6)}),
            event_id={"a": 1, "b": 2},
        )
        assert epochs.info["sfreq"] == 200
        epochs = epochs[[1, 2, 3, 5]]
        if preload:
            epochs.load_data().crop(-0.05, None)  # out of which the baseline sticks
        n_log = len(epochs.drop_log)
        out = to_montage(epochs, sfreq=sfreq)
        assert isinstance(out, mne.EpochsArray)
        assert epochs.preload == preload
        expected = epochs.copy().load_data()
        if sfreq:
            expected.resample(sfreq, method="polyphase", pad="reflect")
        for name in ("events", "selection"):
            np.testing.assert_array_equal(getattr(out, name), getattr(expected, name))
        np.testing.assert_allclose(out.times, expected.times, atol=1e-12)
        for name in ("event_id", "drop_log", "baseline", "annotations"):
            assert getattr(out, name) == getattr(expected, name)
        assert len(out.drop_log) == n_log
        assert out.metadata.equals(expected.metadata)
        assert str(out.get_annotations_per_epoch()) == str(
            expected.get_annotations_per_epoch()
        )
        assert any(out.get_annotations_per_epoch())
        given = expected.get_data(picks=["FP1", "F7"])
        np.testing.assert_allclose(
            out.get_data()[:, 0], given[:, 0] - given[:, 1], atol=1e-16
        )
        for key in ("description", "line_freq", "lowpass", "highpass", "subject_info"):
            assert out.info[key] == expected.info[key]

    def test_epochs_that_are_dropped_only_on_loading(self):
        raw = make_raw()
        raw._data[0, 60:90] = 1
        epochs = make_epochs(raw, preload=False, reject={"eeg": 0.5})
        out = to_montage(epochs)
        assert not epochs.preload
        assert out.drop_log == epochs.copy().load_data().drop_log
        assert len(out) == 3

    def test_events_named_but_not_there(self):
        epochs = make_epochs()["a"]
        epochs.event_id = {"a": 1, "b": 2}
        assert to_montage(epochs).event_id == {"a": 1, "b": 2}

    def test_input_is_untouched(self):
        raw = make_raw(bads=["F7"])
        epochs = make_epochs(raw)
        for inst in (raw, epochs):
            before = inst.copy()
            to_montage(inst, use_bads=True, sfreq=100).apply_function(lambda x: 0 * x)
            np.testing.assert_array_equal(inst.get_data(), before.get_data())
            assert mne.utils.object_diff(inst.info, before.info) == ""

    def test_reads_only_what_it_needs(self, tmp_path, monkeypatch):
        make_raw().save(tmp_path / "a_raw.fif", verbose="error")
        raw = mne.io.read_raw_fif(tmp_path / "a_raw.fif", verbose="error")
        read = []
        get_data = type(raw).get_data

        def spy(self, picks=None, **kwargs):
            read.append(list(picks))
            return get_data(self, picks, **kwargs)

        monkeypatch.setattr(type(raw), "get_data", spy)
        out = to_montage(raw, ["F7-C3", "F7-Cz"])
        assert read == [[ELECTRODES.index(name) for name in ("F7", "C3", "CZ")]]
        assert not raw.preload
        expected = to_montage(make_raw(), ["F7-C3", "F7-Cz"]).get_data()
        np.testing.assert_allclose(out.get_data(), expected, atol=1e-11)

    def test_annotations_of_single_channels(self):
        raw = make_raw(["C3", "C4", "Cz", "Pz"])
        raw.set_annotations(
            mne.Annotations(
                [0.1, 0.2, 0.3],
                0.1,
                ["BAD_c", "BAD_all", "BAD_p"],
                ch_names=[["Cz"], [], ["Pz"]],
            )
        )
        for inst in (raw, make_epochs(raw)):
            out = to_montage(inst, ["C3-C4", "C3-Cz", "Cz-C4"])
            assert list(out.annotations.description) == ["BAD_c", "BAD_all"]
            assert list(out.annotations.ch_names) == [("C3-Cz", "Cz-C4"), ()]
            assert len(inst.annotations) == 3

    def test_can_be_saved(self, tmp_path):
        raw = to_montage(make_raw(bads=["F7"]), use_bads=True)
        raw.save(tmp_path / "a_raw.fif", verbose="error")
        again = mne.io.read_raw_fif(tmp_path / "a_raw.fif", verbose="error")
        assert again.ch_names == list(TCP18)
        assert again.info["bads"] == ["FP1-F7", "F7-T7"]
        np.testing.assert_allclose(again.get_data(), raw.get_data(), rtol=1e-5)


class TestPositions:
    def test_midpoints(self):
        raw = load_absence().crop(0, 1)
        at = raw.get_montage().get_positions()["ch_pos"]
        raw.drop_channels(["Fp1"])
        raw.info["bads"] = ["T3"]
        raw.info["chs"][raw.ch_names.index("O2")]["loc"][:] = 0  # an old file's unknown
        with pytest.warns(UserWarning, match="Single electrodes"):
            out = to_montage(raw, ["F7-T7", "Fp1-F7", "C4", "C3-C4", "P8-O2"])
        places = np.array([ch["loc"][:3] for ch in out.info["chs"]])
        np.testing.assert_allclose(places[0], (at["F7"] + at["T3"]) / 2)
        assert np.isnan(places[1]).all()
        np.testing.assert_array_equal(places[2], at["C4"])
        np.testing.assert_allclose(places[3], (at["C3"] + at["C4"]) / 2)
        assert np.isnan(places[4]).all()
        assert out.info["dig"] is None  # which would hold the electrodes
        with pytest.warns(UserWarning, match="Single electrodes"):
            again = to_montage(out, out.ch_names)
        np.testing.assert_array_equal(
            [ch["loc"][:3] for ch in again.info["chs"]], places
        )

    def test_recorded_derivations(self):
        raw = load_absence().crop(0, 1).pick(["C3", "C4", "Cz"])
        at = raw.get_montage().get_positions()["ch_pos"]
        bipolar = mne.set_bipolar_reference(raw, "C3", "C4", drop_refs=False, verbose=0)
        place = to_montage(bipolar, ["C3-C4"]).info["chs"][0]["loc"][:3]
        np.testing.assert_allclose(place, (at["C3"] + at["C4"]) / 2)
        again = to_montage(to_montage(bipolar, ["C3-C4"]), ["C3-C4"])
        np.testing.assert_array_equal(again.info["chs"][0]["loc"][:3], place)
        # Alone, it lies where C3 was, which is not where a derivation lies.
        bipolar.pick(["C3-C4"])
        assert np.isnan(to_montage(bipolar, ["C3-C4"]).info["chs"][0]["loc"]).all()

    def test_of_eeg_only(self):
        raw = load_absence().crop(0, 1).pick(["C3", "C4"])
        raw.set_channel_types({"C4": "ecog"}, verbose="error")
        raw.add_channels([make_raw(["C3-C4"], n_times=raw.n_times)])
        assert np.isnan(to_montage(raw, ["C3-C4"]).info["chs"][0]["loc"]).all()

    def test_others_keep_theirs(self):
        raw = make_raw(["C3", "ECG"], types=["eeg", "ecg"])
        raw.info["chs"][1]["loc"][:3] = 1, 2, 3
        raw.info["chs"][1]["coil_type"] = FIFF.FIFFV_COIL_NONE
        out = to_montage(raw, ["ECG"])
        np.testing.assert_array_equal(out.info["chs"][0]["loc"][:3], [1, 2, 3])


class TestResampling:
    @pytest.mark.parametrize("sfreq", [256.0, 500.0])
    @pytest.mark.parametrize("make", [make_raw, make_epochs])
    def test_equals_mne(self, sfreq, make):
        # MNE takes the ratio of lengths for that of rates: let them be the same.
        raw = make_raw(sfreq=sfreq, n_times=4000)
        inst = raw if make is make_raw else make_epochs(raw, n_times=320)
        out = to_montage(inst)
        resampled = inst.copy().resample(200, method="polyphase", pad="reflect")
        picked = resampled.get_data(picks=["T8", "P8"])
        expected = picked[..., 0, :] - picked[..., 1, :]
        assert out.info["sfreq"] == 200
        np.testing.assert_allclose(out.get_data()[..., 6, :], expected, atol=1e-17)
        np.testing.assert_allclose(out.times, resampled.times, atol=1e-12)

    def test_missing_ones_stay_missing(self):
        raw = make_raw(["T8", "P8", "O2"], sfreq=500.0)
        for inst in (raw, make_epochs(raw)):
            data = to_montage(inst).get_data()
            there = np.isfinite(data).all(axis=-1)
            assert (there | np.isnan(data).all(axis=-1)).all()
            names = np.array(TCP18)[there[0] if data.ndim == 3 else there]
            assert list(names) == ["T8-P8", "P8-O2"]

    @pytest.mark.parametrize("make", [make_raw, make_epochs])
    @pytest.mark.parametrize("sfreq", [100.0, 500.0])
    def test_gaps_stay_gaps(self, make, sfreq):
        """NaN in some samples must neither spread nor be smeared over."""
        wave = np.sin(2 * np.pi * 5 * np.arange(400) / 200) * np.array([[2], [1]])
        raw = make_raw(["T8", "P8"], data=wave)
        inst = raw if make is make_raw else make_epochs(raw, n_windows=2, n_times=120)
        whole = to_montage(inst, ["T8-P8"], sfreq=sfreq, upsample=True)
        at = slice(60, 63)
        samples = inst.get_data(copy=False) if make is make_epochs else inst._data
        samples[0, ..., at] = np.nan
        gappy = to_montage(inst, ["T8-P8"], sfreq=sfreq, upsample=True)
        lost = np.isnan(gappy.get_data())
        times = gappy.times - inst.times[0]
        reach = 1 / min(200, sfreq)
        in_gap = (times > 60 / 200 - reach - 1e-9) & (times < 62 / 200 + reach + 1e-9)
        np.testing.assert_array_equal(
            np.flatnonzero(lost.ravel()), np.flatnonzero(in_gap)
        )
        far = np.abs(times - 61 / 200) > 0.05
        far &= (times > 0.1) & (times < times[-1] - 0.1)
        np.testing.assert_allclose(
            gappy.get_data()[..., far], whole.get_data()[..., far], atol=0.05
        )

    def test_a_single_lost_sample_is_not_skipped(self):
        raw = make_raw(["T8", "P8"], sfreq=1000.0, n_times=1000)
        raw._data[0, 502] = np.nan  # between the new samples
        out = to_montage(raw, ["T8-P8"], sfreq=100)
        assert list(np.flatnonzero(np.isnan(out.get_data()[0]))) == [50, 51]

    def test_too_low_a_rate(self):
        raw = make_raw(sfreq=160.0)
        with pytest.raises(
            ValueError,
            match=r"has 160 Hz, less than sfreq=200: .* empty from 80 to 100 Hz.*"
            r"sfreq=None\), or .*upsample=True",
        ):
            to_montage(raw)
        assert to_montage(raw, sfreq=None).info["sfreq"] == 160
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert to_montage(raw, upsample=True).info["sfreq"] == 200

    def test_rate_within_rounding(self):
        raw = make_raw(sfreq=199.99999)
        assert to_montage(raw).info["sfreq"] == raw.info["sfreq"]


class TestWarnings:
    @staticmethod
    def said(inst, *args, **kwargs):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            to_montage(inst, *args, **kwargs)
        assert all(warning.filename == __file__ for warning in caught)
        return [str(warning.message) for warning in caught]

    def test_low_pass(self):
        raw = make_raw(n_times=2000).filter(None, 45, verbose="error")
        (message,) = self.said(raw)
        assert "filtered at 45 Hz" in message
        assert "from there to 100 Hz" in message
        assert self.said(raw, ["C3-C4"]) == []  # which no weights were trained on
        assert self.said(raw, sfreq=150) == []
        assert self.said(make_raw(n_times=2000).filter(None, 70, verbose="error")) == []
        assert self.said(make_raw(sfreq=128.0), upsample=True) == []
        low = make_raw(sfreq=160.0, n_times=2000).filter(None, 40, verbose="error")
        assert len(self.said(low, upsample=True)) == 1

    @pytest.mark.parametrize(
        ("names", "montage", "text"),
        [
            (["C3", "C4"], ["C3", "C4"], r"C3 (unnamed), C4 (unnamed). Give all data"),
            (["C3-REF"], ["C3"], "C3 (REF)"),
            (["C3-LE", "C4-AVG"], ["C3", "C4"], "C3 (LE), C4 (AVG)"),
            (["C3-LE", "C4-LE"], ["C3", "C4"], None),
            (["C3", "C4"], ["C3-C4"], None),
            (["C3-A2"], ["C3-A2"], None),
            (["acc_x"], ["acc_x"], None),
        ],
    )
    def test_references(self, names, montage, text):
        messages = self.said(make_raw(names), montage)
        assert len(messages) == (text is not None)
        if text:
            assert text in messages[0]
            assert "raw.set_eeg_reference" in messages[0]

    def test_a_reference_that_was_set(self):
        raw = make_raw(["C3", "C4", "Cz"])
        raw.set_eeg_reference("average", projection=True, verbose="error")
        assert len(self.said(raw, ["C3"])) == 1
        assert self.said(raw.copy().apply_proj(verbose="error"), ["C3"]) == []
        raw = make_raw(["C3", "C4", "Cz"])
        raw.set_eeg_reference(["Cz"], verbose="error")
        assert self.said(raw, ["C3"]) == []

    def test_projectors(self):
        raw = make_raw([*ELECTRODES, "ECG"], types=["eeg"] * len(ELECTRODES) + ["ecg"])
        raw.add_proj(
            mne.compute_proj_raw(raw, n_eeg=1, verbose="error"), verbose="error"
        )
        (message,) = self.said(raw)
        assert "raw.apply_proj" in message
        assert self.said(raw.copy().apply_proj(verbose="error")) == []
        assert self.said(raw, ["ECG"]) == []  # which it does not touch
        average = make_raw().set_eeg_reference(projection=True, verbose="error")
        assert self.said(average) == []  # a difference does not hold it
        assert to_montage(average).info["projs"] == []

    def test_the_step_says_it_once(self):
        low = make_raw(n_times=2000).filter(None, 45, verbose="error")
        with pytest.warns(UserWarning, match="45 Hz") as caught:
            ToMontage().fit_transform([low, low])
        assert (
            [warning.filename for warning in caught].count(__file__) <= len(caught) == 1
        )


class TestReport:
    def make(self):
        raw = make_raw(
            ["EEG Fp1", "F7-FP1", "F7-T7", "EEG T3-T5", "C3", "Pz", "ECG"],
            bads=["F7-T7"],
        )
        montage = ["Fp1", "FP1-F7", "FP1-T7", "T7-P7", "F7-C3", "C3", "C3-A2"]
        return montage_report(raw, montage, use_bads=True)

    def test_statuses(self):
        report = self.make()
        assert report.found == ["C3"]
        assert report.renamed == ["Fp1", "T7-P7"]
        assert report.reversed == ["FP1-F7"]
        assert report.derived == ["FP1-T7", "F7-C3"]
        assert report.missing == {"C3-A2": "no channel holds A2"}
        assert report.coverage == pytest.approx(6 / 7)
        assert report.unused == ("Pz", "ECG")

    def test_prints_as_a_table(self):
        assert str(self.make()) == repr(self.make())
        assert str(self.make()).splitlines() == [
            "Montage own: 6 of 7 channels",
            "channel  status    from                     note",
            "Fp1      renamed   EEG Fp1",
            "FP1-F7   reversed  −(F7-FP1)",
            "FP1-T7   derived   −(F7-FP1) + (F7-T7)      'F7-T7' is bad",
            "T7-P7    renamed   EEG T3-T5",
            "F7-C3    derived   (F7-FP1) + EEG Fp1 − C3",
            "C3       found     C3",
            "C3-A2    missing                            no channel holds A2",
            "Not used: Pz, ECG",
        ]

    def test_as_data_frame(self):
        table = self.make().to_dataframe()
        assert list(table.columns) == ["channel", "status", "formula", "note"]
        assert table.status.value_counts()["derived"] == 2
        assert len(table) == 7

    def test_nothing_unused(self):
        report = montage_report(make_raw(["C3", "C4"]), ["C3-C4"])
        assert str(report).endswith("Not used: none")

    def test_is_that_of_to_montage(self):
        raw = make_raw(ELECTRODES[:9])
        out, report = to_montage(raw, return_report=True)
        assert report == montage_report(raw, "TCP-18")
        lost = np.isnan(out.get_data()).all(axis=1)
        assert list(np.array(out.ch_names)[lost]) == list(report.missing)


class Means(ClassifierMixin, BaseEstimator):
    """Tell windows apart by the first channel's mean."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        X = X if isinstance(X, list) else [X]
        return np.concatenate([1 + (i.get_data()[:, 0].mean(1) > 0) for i in X])


class TestStep:
    def test_parameters(self):
        step = ToMontage(["C3-C4"], on_missing="drop", sfreq=None)
        again = clone(step)
        assert again.get_params() == step.get_params()
        assert set(step.get_params()) == {
            *("montage", "on_missing", "sfreq", "use_bads", "upsample"),
        }
        assert step.set_params(sfreq=50).sfreq == 50
        assert repr(step) == "ToMontage(montage=['C3-C4'], on_missing='drop', sfreq=50)"

    def test_is_to_montage(self):
        raw = make_raw(bads=["F7"])
        epochs = make_epochs(raw)
        step = ToMontage("tcp-16", sfreq=100, use_bads=True).fit(epochs)
        for inst in (raw, epochs):
            expected, report = to_montage(
                inst, "tcp-16", sfreq=100, use_bads=True, return_report=True
            )
            np.testing.assert_array_equal(
                step.transform(inst).get_data(), expected.get_data()
            )
            assert step.report_ == report
        made = step.transform([epochs[0], epochs[2]])
        assert [len(part) for part in made] == [1, 1]
        assert step.report_ == [report, report]

    def test_needs_no_fit(self):
        assert ToMontage().transform(make_raw()).ch_names == list(TCP18)

    def test_in_a_pipeline(self):
        raw = make_raw(["C3", "C4"], data=np.zeros((2, 800)))
        epochs = make_epochs(raw, n_windows=8, tmin=0)
        epochs._data[:, 0] = (epochs.events[:, 2] - 1.5)[:, np.newaxis]
        pipe = make_pipeline(ToMontage(["C3-C4"], sfreq=100), Means())
        y = epochs.events[:, 2]
        assert pipe.fit(epochs, y).score(epochs, y) == 1
        assert list(cross_val_score(pipe, epochs, y, cv=2)) == [1, 1]

    def test_as_a_preprocessor(self):
        raws = [make_raw(), make_raw(bads=["F7"])]
        dataset = BaseConcatDataset(
            [RawDataset(raw, {"subject": i}) for i, raw in enumerate(raws)]
        )
        step = Preprocessor(
            to_montage, apply_on_array=False, montage="tcp-16", sfreq=None
        )
        preprocess(dataset, [step])
        for raw, record in zip(raws, dataset.datasets, strict=True):
            expected = to_montage(raw, "tcp-16", sfreq=None).get_data()
            np.testing.assert_array_equal(record.raw.get_data(), expected)


def test_shipped_recording():
    raw = load_absence()
    out, report = to_montage(raw, return_report=True)
    assert report.derived == list(TCP18)
    assert report.unused == ("Fz", "Cz", "Pz")
    assert report.coverage == 1
    assert out.annotations == raw.annotations
    anodes, cathodes = zip(*(name.split("-") for name in TCP18), strict=True)
    new = {canonical(name): name for name in raw.ch_names}
    expected = mne.set_bipolar_reference(
        raw,
        [new[name] for name in anodes],
        [new[name] for name in cathodes],
        ch_name=[f"{name} " for name in TCP18],
        verbose="error",
    ).pick([f"{name} " for name in TCP18])
    np.testing.assert_allclose(out.get_data(), expected.get_data(), atol=1e-18)
    places = [ch["loc"][:3] for ch in out.info["chs"]]
    gaps = [np.linalg.norm(a - b) for a, b in pairwise(places)]
    assert min(gaps) > 0.01


@needs_data
class TestFiles:
    @pytest.mark.parametrize(
        "path", sorted((DATA / "eegmat").glob("*.edf")), ids=lambda p: p.stem
    )
    def test_mental_arithmetic(self, path):
        raw = mne.io.read_raw_edf(path, verbose="error")
        assert montage_report(raw, "tcp-16").derived == list(TCP16)
        assert montage_report(raw).missing == {
            "C3-A2": "C3 (EEG C3) and A2 (EEG A2-A1) have no reference in common",
            "C4-A1": "C4 (EEG C4) and A1 (EEG A2-A1) have no reference in common",
        }
        assert not raw.preload

    def test_against_mne(self):
        raw = mne.io.read_raw_edf(DATA / "eegmat" / "Subject03_1.edf", verbose="error")
        with pytest.warns(UserWarning, match="low-pass filtered at 45 Hz"):
            out = to_montage(raw, "tcp-16")
        raw.load_data(verbose="error")
        names = {canonical(name): name for name in raw.ch_names}
        anodes, cathodes = zip(*(name.split("-") for name in TCP16), strict=True)
        expected = mne.set_bipolar_reference(
            raw,
            [names[name] for name in anodes],
            [names[name] for name in cathodes],
            ch_name=list(TCP16),
            verbose="error",
        )
        expected.pick(list(TCP16)).resample(200, method="polyphase", pad="reflect")
        assert out.ch_names == expected.ch_names
        np.testing.assert_allclose(out.get_data(), expected.get_data(), atol=1e-15)
        np.testing.assert_allclose(
            out.annotations.onset, expected.annotations.onset, atol=1e-6
        )
        assert out.info["meas_date"] == expected.info["meas_date"]
        assert (out.first_samp, out.last_samp) == (
            expected.first_samp,
            expected.last_samp,
        )

    def test_motor_imagery(self):
        raw = mne.io.read_raw_edf(DATA / "eegmmidb" / "S001R04.edf", verbose="error")
        with pytest.raises(ValueError, match=r"has 160 Hz, less than sfreq=200"):
            to_montage(raw)
        out, report = to_montage(raw, upsample=True, return_report=True)
        assert report.derived == list(TCP16)
        assert out.annotations == raw.annotations
        assert set(out.annotations.description) == {"T0", "T1", "T2"}
        assert out.info["sfreq"] == 200

    def test_eeglab(self):
        raw = mne.io.read_raw_eeglab(
            DATA / "eeglab" / "eeglab_data.set", verbose="error"
        )
        out, report = to_montage(raw, sfreq=None, return_report=True)
        assert report.coverage == 10 / 18
        assert report.missing["FP1-F7"] == "no channel holds FP1; no channel holds F7"
        placed = [np.isfinite(ch["loc"][:3]).all() for ch in out.info["chs"]]
        assert placed == [name in report.derived for name in TCP18]
        assert len(out.annotations) == len(raw.annotations)


class TestWhatWasSilent:
    """Each of these once gave a wrong answer, or an error that helped nobody."""

    def test_contacts_in_short_are_no_electrodes(self):
        raw = make_raw(["F3-4", "C3-4", "C4-5", "P3-4", "O1-2", "A2-3"])
        assert montage_report(raw).coverage == 0

    @pytest.mark.parametrize("lengths", [(512 * 4, 512 * 4), (2560, 1024, 768)])
    def test_resampling_stops_at_joins(self, lengths):
        raws = [make_raw(["C3", "C4"], 512.0, n) for n in lengths]
        for i, raw in enumerate(raws):
            raw._data += 1e-2 * i * np.array([[1], [0]])  # a DC-coupled amplifier
        raw = mne.concatenate_raws(raws, verbose="error")
        out = to_montage(raw, ["C3-C4"])
        expected = mne.set_bipolar_reference(raw, "C3", "C4", verbose="error")
        expected.resample(200, method="polyphase", pad="reflect")
        assert (out.first_samp, out.n_times) == (expected.first_samp, expected.n_times)
        np.testing.assert_allclose(out.get_data(), expected.get_data(), atol=1e-15)
        np.testing.assert_allclose(
            out.annotations.onset, expected.annotations.onset, atol=1e-6
        )

    def test_a_name_may_tell_an_old_reference(self):
        raw = make_raw([f"EEG {name}-LE" for name in ("C3", "C4", "A1", "A2")])
        raw.set_eeg_reference(["EEG C4-LE"], verbose="error")
        with pytest.warns(UserWarning, match="names tell an old reference: C3-LE"):
            to_montage(raw, ["C3-LE"], sfreq=None)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            to_montage(raw, ["C3-A2"], sfreq=None)

    @pytest.mark.parametrize("make", [make_raw, lambda *args: make_epochs(make_raw())])
    def test_channels_of_nothing_but_nan_are_missing(self, make):
        inst = make(ELECTRODES, 200.0, 400).copy().drop_channels(["C3"])
        out, report = to_montage(inst, return_report=True)
        again = montage_report(out)
        assert list(again.missing) == list(report.missing)
        assert "holds nothing but NaN" in str(again)
        with pytest.raises(ValueError, match="cannot give 3"):
            to_montage(out, on_missing="raise")
        assert len(to_montage(out, on_missing="drop").ch_names) == 15

    def test_there_may_be_a_way_round_nan(self):
        raw = make_raw(["FP1-F7", "FP1-F3", "F3-F7"])
        raw._data[0] = np.nan
        out = to_montage(raw, ["FP1-F7"])
        np.testing.assert_allclose(out.get_data()[0], raw._data[1] + raw._data[2])

    def test_ears_and_mastoids_are_taken_as_one_but_not_silently(self):
        report = montage_report(make_raw(["C3-M2", "C4-A2"]), ["C3-C4"])
        assert report.rows[0].note == "an ear and a mastoid, taken as one"
        report = montage_report(make_raw(["C3-A2", "C4-A2"]), ["C3-C4"])
        assert report.rows[0].note == ""

    def test_the_low_pass_at_a_rate_that_is_nearly_200(self):
        raw = make_raw(sfreq=200.0001)
        raw.filter(None, 35, verbose="error")
        with pytest.warns(UserWarning, match="low-pass filtered at 35 Hz"):
            to_montage(raw)

    def test_a_rate_that_is_nearly_200_is_no_upsampling(self):
        assert to_montage(make_raw(sfreq=199.99)).info["sfreq"] == 200

    @pytest.mark.parametrize("windows", [False, True])
    @pytest.mark.parametrize("there", [False, True])
    def test_other_channels_beside_gaps(self, windows, there):
        raw = make_raw([*ELECTRODES, "ECG"], 256.0, 2560, ["eeg"] * 19 + ["ecg"])
        raw.info["bads"] = ["T7"]
        raw._data[3, 100:200] = np.nan
        if not there:
            raw.drop_channels(["ECG"])
        inst = make_epochs(raw) if windows else raw
        out = to_montage(inst, [*TCP18, "ECG"])
        samples = out.get_data()
        assert np.isnan(samples[..., -1, :]).all() != there
        assert np.isnan(samples[..., TCP18.index("F7-T7"), :]).all()
        assert np.isfinite(samples[..., TCP18.index("C4-P4"), :]).all()

    def test_inf_is_a_gap_too(self):
        raw = make_raw(["C3", "C4"], 256.0, 2560)
        raw._data[0, 1000] = np.inf
        lost = np.isnan(to_montage(raw, ["C3-C4"]).get_data()[0])
        assert 1 <= lost.sum() <= 3
        assert lost[781]

    def test_epochs_may_repeat(self):
        epochs = make_epochs(make_raw())[[0, 0, 1]]
        out = to_montage(epochs)
        np.testing.assert_array_equal(out.events, epochs.events)
        np.testing.assert_array_equal(out.get_data()[0], out.get_data()[1])

    def test_no_epochs(self):
        with pytest.raises(ValueError, match="no windows in these Epochs"):
            to_montage(make_epochs()[:0])

    def test_annotations_of_either_of_doubled_channels(self):
        raw = make_raw(["T8-P8-0", "T8-P8-1"])
        raw._data[1] = raw._data[0]
        raw.set_annotations(
            mne.Annotations([0.5], [0.5], ["BAD_a"], ch_names=[("T8-P8-1",)])
        )
        out = to_montage(raw, "tcp-16")
        assert out.annotations.ch_names.tolist() == [("T8-P8",)]
