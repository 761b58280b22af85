"""Signal parameters of MNE, braindecode and array input."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from braindecode.datasets import BaseConcatDataset, RawDataset
from braindecode.models import BIOT
from hypothesis import given, settings
from hypothesis import strategies as st

import braindecode_biot.signal as signal_module
from braindecode_biot.signal import match_signal, signal_params
from recordings import GOOD, PICKS, make_dataset, make_epochs, make_raw, names_of


class TestSignalParams:
    @pytest.mark.parametrize("sfreq", [100.0, 256 / 1.001, 199.99])
    def test_raw(self, sfreq):
        signal = signal_params(make_raw(sfreq), input_window_seconds=2.5)
        assert signal["n_times"] == round(2.5 * sfreq)
        assert signal["sfreq"] == sfreq
        assert signal["input_window_seconds"] == 2.5
        assert signal["n_chans"] == 2
        assert names_of(signal) == GOOD
        assert "n_outputs" not in signal

    @pytest.mark.parametrize("sfreq", [200.0, 256 / 1.001, 199.99])
    @pytest.mark.filterwarnings("error:Modifying chs_info")
    @pytest.mark.filterwarnings("ignore:This model has only been trained")
    def test_the_host_takes_them(self, sfreq):
        epochs = make_epochs(make_raw(sfreq), n_times=400)
        model = BIOT(**signal_params(epochs), hop_length=100)
        assert (model.n_chans, model.n_times, model.n_outputs) == (2, 400, 3)
        assert model.sfreq == sfreq

    @pytest.mark.parametrize("preload", [True, False])
    def test_epochs(self, preload):
        signal = signal_params(make_epochs(preload=preload))
        assert signal["n_outputs"] == 3
        assert (signal["n_times"], signal["input_window_seconds"]) == (200, 2.0)

    def test_one_code_is_one_output(self):
        assert signal_params(make_epochs(codes=(7, 7)))["n_outputs"] == 1

    def test_list_of_epochs_is_the_epochs(self):
        epochs = make_epochs()
        parts = signal_params([epochs[i] for i in range(len(epochs))])
        whole = signal_params(epochs)
        assert names_of(parts) == names_of(whole)
        assert {k: v for k, v in parts.items() if k != "chs_info"} == {
            k: v for k, v in whole.items() if k != "chs_info"
        }

    def test_array(self):
        assert signal_params(np.zeros((8, 4, 1000)), sfreq=200) == {
            "n_chans": 4,
            "n_times": 1000,
            "sfreq": 200.0,
            "input_window_seconds": 5.0,
        }

    @pytest.mark.parametrize(
        ("y", "n_outputs"),
        [
            ([0, 1, 2, 1], 3),
            (["rest", "move", "rest", "rest"], 2),
            ([0.0, 1.0, 1.0, 0.0], 2),
            ([0.5, 1.2, 3.3, 0.1], 1),
            (np.zeros((4, 5)), 5),
        ],
    )
    def test_y_says_the_outputs(self, y, n_outputs):
        X = np.zeros((4, 2, 200))
        assert signal_params(X, sfreq=100, y=y)["n_outputs"] == n_outputs
        assert signal_params(make_epochs(), y=y)["n_outputs"] == n_outputs

    @pytest.mark.parametrize("use_mne_epochs", [False, True])
    def test_dataset(self, use_mne_epochs):
        concat = BaseConcatDataset(
            [make_dataset(target=k, use_mne_epochs=use_mne_epochs) for k in "aba"]
        )
        for data in (concat, concat.datasets[0]):
            signal = signal_params(data)
            assert names_of(signal) == GOOD
            assert (signal["n_times"], signal["sfreq"]) == (200, 100.0)
            assert signal["n_outputs"] == (2 if data is concat else 1)

    def test_dataset_without_targets_has_no_outputs(self):
        assert "n_outputs" not in signal_params(make_dataset())
        assert signal_params(make_dataset(), y=[0, 1, 0, 1, 1])["n_outputs"] == 2

    def test_what_agrees_may_be_stated(self):
        for data in (make_epochs(), make_dataset()):
            stated = signal_params(data, sfreq=100, input_window_seconds=2)
            assert stated["n_times"] == 200
            stated = signal_params(data, input_window_seconds=2.004)
            assert stated["input_window_seconds"] == 2.0

    def test_values_are_plain_python(self):
        signal = signal_params(make_epochs(make_raw(256 / 1.001)))
        assert type(signal["sfreq"]) is float
        assert type(signal["n_chans"]) is type(signal["n_outputs"]) is int
        for channel in signal["chs_info"]:
            loc = channel.pop("loc")
            assert (type(loc), loc.shape, loc.dtype) == (np.ndarray, (12,), float)
            assert {type(value) for value in channel.values()} <= {int, float, str}
        assert json.loads(json.dumps(signal)) == signal

    def test_pickles(self):
        signal = signal_params(make_epochs())
        again = pickle.loads(pickle.dumps(signal))
        assert names_of(again) == names_of(signal)
        np.testing.assert_array_equal(
            again["chs_info"][0]["loc"], signal["chs_info"][0]["loc"]
        )

    def test_needs_no_torch(self):
        code = (
            "import sys; package = type(sys)('braindecode_biot')"
            f"; package.__path__ = [{os.path.dirname(signal_module.__file__)!r}]"
            "; sys.modules['braindecode_biot'] = package"  # whose __init__ needs torch
            "; import braindecode_biot.signal as signal, numpy as np"
            "; signal.signal_params(np.ones((1, 2, 3)), sfreq=1)"
            "; sys.exit('torch' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestPicks:
    @pytest.mark.parametrize(("picks", "exclude", "kept"), PICKS)
    def test_mne_meaning(self, picks, exclude, kept):
        epochs, dataset = make_epochs(), make_dataset()
        kwargs = {"picks": picks, "exclude": exclude}
        assert names_of(signal_params(epochs, **kwargs)) == kept
        assert names_of(signal_params(dataset, **kwargs)) == kept
        assert epochs.copy().pick(picks or "data", exclude=exclude).ch_names == kept

    @settings(max_examples=40, deadline=None)
    @given(
        types=st.lists(
            st.sampled_from(["eeg", "seeg", "ecg", "eog", "misc", "stim"]),
            min_size=1,
            max_size=8,
        ),
        data=st.data(),
    )
    def test_kept_names_are_a_naive_reading(self, types, data):
        names = data.draw(st.permutations([f"ch{i}" for i in range(len(types))]))
        bads = data.draw(st.lists(st.sampled_from(names), unique=True))
        exclude = data.draw(st.sampled_from(["bads", ()]))
        picks = data.draw(st.sampled_from([None, ["eeg", "ecg"], "misc"]))
        wanted = {"eeg", "seeg"} if picks is None else set(np.atleast_1d(picks))
        expected = [
            name
            for name, ch_type in zip(names, types, strict=True)
            if ch_type in wanted and (exclude == () or name not in bads)
        ]
        raw = make_raw(names=names, types=types, bads=bads, n_times=100)
        kwargs = {"input_window_seconds": 1, "picks": picks, "exclude": exclude}
        if expected:
            signal = signal_params(raw, **kwargs)
            assert names_of(signal) == expected
            assert signal["n_chans"] == len(expected)
        else:
            with pytest.raises(ValueError, match="No usable channels"):
                signal_params(raw, **kwargs)

    def test_error_counts_types_and_names_bads(self):
        raw = make_raw(names="ABS", types=["eeg", "eeg", "stim"], bads="AB")
        with pytest.raises(ValueError, match=r"2 eeg, 1 stim channels, .* bad: A, B"):
            signal_params(raw, input_window_seconds=1)

    def test_unknown_name(self):
        with pytest.raises(ValueError, match=r"foo.*not present"):
            signal_params(make_epochs(), picks=["C3", "foo"])


class TestErrors:
    def test_raw_needs_a_window_length(self):
        with pytest.raises(ValueError, match="pass their length as input_window_sec"):
            signal_params(make_raw())

    def test_window_longer_than_the_recording(self):
        with pytest.raises(ValueError, match=r"1200 samples.*1000: .* lasts 10 s"):
            signal_params(make_raw(), input_window_seconds=12)
        with pytest.raises(ValueError, match="has 0 samples"):
            signal_params(make_raw(), input_window_seconds=1e-4)

    @pytest.mark.parametrize("value", [-1, 0, np.nan, np.inf, "2", True])
    def test_numbers_must_be_positive(self, value):
        with pytest.raises(ValueError, match=r"input_window_seconds=.*positive number"):
            signal_params(make_raw(), input_window_seconds=value)
        with pytest.raises(ValueError, match=r"sfreq=.*positive number in Hz"):
            signal_params(np.ones((1, 2, 3)), sfreq=value)

    @pytest.mark.parametrize("make", [make_epochs, make_dataset])
    def test_stated_length_that_contradicts_the_data(self, make):
        with pytest.raises(
            ValueError, match=r"200 samples \(2 s\) instead of 300 \(3 s"
        ):
            signal_params(make(), input_window_seconds=3)

    def test_stated_length_of_an_array(self):
        with pytest.raises(ValueError, match=r"4 samples .* instead of 10"):
            signal_params(np.ones((2, 3, 4)), sfreq=10, input_window_seconds=1)

    def test_stated_rate_of_a_raw(self):
        with pytest.raises(ValueError, match="100 Hz instead of 200 Hz"):
            signal_params(make_raw(), sfreq=200, input_window_seconds=1)

    def test_not_windowed(self):
        dataset = RawDataset(make_raw())
        for data in (dataset, BaseConcatDataset([dataset])):
            with pytest.raises(
                ValueError, match="create_fixed_length_windows or creat"
            ):
                signal_params(data)

    def test_mixed_lengths(self):
        concat = BaseConcatDataset([make_dataset(), make_dataset(size=100)])
        with pytest.raises(ValueError, match=r"recording 1.*100 samples .* of 200"):
            signal_params(concat)

    def test_mixed_lengths_in_one_recording(self):
        dataset = make_dataset()
        dataset.datasets[0].crop_inds = dataset.datasets[0].crop_inds - [[0, 0, 50]] * (
            np.arange(5)[:, np.newaxis] == 0
        )
        with pytest.raises(ValueError, match=r"windows of 150, 200 samples"):
            signal_params(dataset)

    def test_masked_labels(self):
        y = np.ma.masked_equal([0, 1, 2, 1], 2)
        with pytest.raises(TypeError, match=r"y is a masked array.*drop the masked"):
            signal_params(make_epochs(), y=y)


class TestMatchSignal:
    signal = staticmethod(
        lambda names=GOOD, sfreq=100.0, n_times=200: {
            "n_chans": len(names),
            "chs_info": [{"ch_name": name} for name in names],
            "n_times": n_times,
            "sfreq": sfreq,
            "input_window_seconds": n_times / sfreq,
        }
    )

    @given(st.permutations(["C3", "C4", "Cz", "O1", "O2"]))
    def test_order_restores_the_data(self, names):
        fitted = ["C3", "C4", "Cz", "O1", "O2"]
        order = match_signal(self.signal(fitted), self.signal(names))
        if names == fitted:
            assert order is None
        else:
            assert [names[i] for i in order] == fitted
            X = np.arange(5)[np.newaxis, :, np.newaxis]
            given_X = X[:, [fitted.index(name) for name in names]]
            np.testing.assert_array_equal(given_X[:, order], X)

    def test_arrays_are_matched_by_their_number_of_channels(self):
        array = signal_params(np.ones((1, 2, 200)), sfreq=100)
        assert match_signal(array, self.signal()) is None
        assert match_signal(self.signal(), array) is None
        with pytest.raises(ValueError, match="3 channels instead of 2"):
            match_signal(array, self.signal(["C3", "C4", "Cz"]))

    def test_rate_within_rounding(self):
        assert match_signal(self.signal(), self.signal(sfreq=100.00005)) is None

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"sfreq": 100.01}, r"100.01 Hz instead of 100 Hz .*resample\(100\)"),
            ({"n_times": 201}, r"201 samples \(2.01 s\) instead of 200 \(2 s\).*crop"),
            ({"names": ["C3", "O1"]}, r"missing \['C4'\], unexpected \['O1'\].*rename"),
            ({"names": ["C3"]}, r"missing \['C4'\], unexpected \[\].*pick"),
            ({"names": ["C3", "C3"]}, r"occur twice: \['C3'\]"),
        ],
    )
    def test_errors(self, other, message):
        with pytest.raises(ValueError, match=f"do not fit the model.*{message}"):
            match_signal(self.signal(), self.signal(**other))

    def test_duplicates_on_the_fitted_side(self):
        with pytest.raises(ValueError, match="occur twice"):
            match_signal(self.signal(["C3", "C3"]), self.signal())


class TestTargets:
    def test_one_column_is_as_none(self):
        y = np.array([["a"], ["b"], ["a"], ["b"]])
        assert signal_params(make_epochs(), y=y)["n_outputs"] == 2

    @pytest.mark.parametrize("y", [[0, 1, np.nan, 1], ["a", None, "b", "a"]])
    def test_missing_ones_are_refused(self, y):
        with pytest.raises(ValueError, match="y has missing entries"):
            signal_params(make_epochs(), y=y)

    def test_another_number_is_refused(self):
        with pytest.raises(ValueError, match="y has 3 entries for 4 windows"):
            signal_params(make_epochs(), y=[1, 2, 1])
