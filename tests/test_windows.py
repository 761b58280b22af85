"""Windows read from MNE, braindecode and array input."""

import os
import pickle
import subprocess
import sys

import mne
import numpy as np
import pytest
import torch
from braindecode.datasets import BaseConcatDataset, RawDataset
from braindecode.preprocessing import create_windows_from_events
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Subset

import braindecode_biot.windows as windows_module
from braindecode_biot.signal import signal_params
from braindecode_biot.windows import _VOLT_TYPES, check_finite, read_windows
from recordings import (
    GOOD,
    NAMES,
    PICKS,
    TYPES,
    make_dataset,
    make_epochs,
    make_raw,
    names_of,
)


def as_array(windows):
    return np.stack([windows[i] for i in range(len(windows))])


class TestReadWindows:
    @pytest.mark.parametrize("preload", [True, False])
    def test_epochs_are_what_the_host_reads(self, preload):
        epochs = make_epochs(preload=preload)
        windows = read_windows(epochs)
        host = epochs.copy().load_data().pick("eeg", exclude="bads")
        expected = host.get_data(units="uV").astype(np.float32)
        assert windows.data.dtype == np.float32
        np.testing.assert_array_equal(windows.data, expected)
        np.testing.assert_array_equal(windows.labels, [1, 2, 1, 3])
        assert windows.signal["n_outputs"] == 3

    @pytest.mark.parametrize(("picks", "exclude", "kept"), PICKS)
    def test_picked_channels(self, picks, exclude, kept):
        epochs, dataset = make_epochs(), make_dataset()
        kwargs = {"picks": picks, "exclude": exclude}
        rows = [NAMES.index(name) for name in kept]
        np.testing.assert_array_equal(
            read_windows(dataset, **kwargs).data[1], dataset[1][0][rows]
        )
        factor = np.array([1 if name == "STI" else 1e6 for name in kept])
        np.testing.assert_allclose(
            read_windows(epochs, **kwargs).data,
            epochs.get_data(copy=True)[:, rows] * factor[:, np.newaxis],
            rtol=1e-6,
        )

    def test_volt_types_are_those_of_mne(self):
        units = mne.defaults.DEFAULTS["si_units"]
        assert {
            ch_type for ch_type, unit in units.items() if unit == "V"
        } == _VOLT_TYPES

    @pytest.mark.parametrize("preload", [True, False])
    def test_bad_epochs_are_dropped(self, preload):
        raw = make_raw()
        raw._data[0, 250:300] = 1.0  # in the second epoch
        kwargs = {"reject": {"eeg": 1e-3}, "preload": preload}
        epochs = make_epochs(raw, codes=(1, 2, 1, 3), **kwargs)
        for windows in (read_windows(epochs), read_windows([epochs])):
            np.testing.assert_array_equal(windows.labels, [1, 1, 3])
            assert len(windows.data) == 3
            assert windows.signal["n_outputs"] == 2

    def test_list_of_epochs(self):
        epochs = make_epochs()
        parts = read_windows([epochs[[2, 0]], epochs[3]])
        whole = read_windows(epochs)
        np.testing.assert_array_equal(parts.data, whole.data[[2, 0, 3]])
        np.testing.assert_array_equal(parts.labels, whole.labels[[2, 0, 3]])

    @pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i2", "u1"])
    def test_arrays_become_float32(self, dtype):
        X = np.arange(24).reshape(2, 3, 4).astype(dtype)
        windows = read_windows(X, sfreq=2)
        assert windows.data.dtype == np.float32
        np.testing.assert_array_equal(windows.data, X)
        assert windows.labels is None
        assert windows.signal["input_window_seconds"] == 2.0

    def test_float32_is_not_copied(self):
        X = np.ones((2, 3, 4), np.float32)
        assert np.shares_memory(read_windows(X, sfreq=2).data, X)

    def test_tensor(self):
        X = torch.arange(24.0).reshape(2, 3, 4)
        np.testing.assert_array_equal(read_windows(X, sfreq=2).data, X.numpy())

    @pytest.mark.parametrize("kwargs", [{}, {"use_mne_epochs": True, "preload": True}])
    def test_fixed_length_dataset(self, kwargs):
        concat = BaseConcatDataset(
            [make_dataset(make_raw(seed=k), target=k, **kwargs) for k in (4, 7)]
        )
        windows = read_windows(concat)
        expected = np.stack([concat[i][0][:2] for i in range(len(concat))])
        np.testing.assert_array_equal(as_array(windows.data), expected)
        np.testing.assert_array_equal(windows.data[-1], expected[-1])
        np.testing.assert_array_equal(windows.labels, concat.get_metadata().target)
        np.testing.assert_array_equal(windows.labels, [4] * 5 + [7] * 5)
        assert windows.data[0].dtype == np.float32
        assert (len(windows.data), windows.signal["n_outputs"]) == (10, 2)

    @pytest.mark.parametrize("preload", [True, False])
    @pytest.mark.parametrize("use_mne_epochs", [True, False])
    @pytest.mark.filterwarnings("ignore:The provided mne.Epochs object:UserWarning")
    def test_event_dataset(self, preload, use_mne_epochs):
        raw = make_raw()
        raw.set_annotations(mne.Annotations([0, 2, 4], [2, 2, 2], ["a", "b", "a"]))
        concat = create_windows_from_events(
            BaseConcatDataset([RawDataset(raw, {"subject": 1})]),
            preload=preload,
            use_mne_epochs=use_mne_epochs,
            verbose="error",
        )
        windows = read_windows(concat)
        expected = np.stack([concat[i][0][:2] for i in range(len(concat))])
        np.testing.assert_array_equal(as_array(windows.data), expected)
        np.testing.assert_array_equal(windows.labels, concat.get_metadata().target)
        np.testing.assert_array_equal(windows.labels, [0, 1, 0])

    def test_targets_in_channels(self):
        types = [t if t != "ecg" else "misc" for t in TYPES]
        dataset = make_dataset(make_raw(types=types), targets_from="channels")
        windows = read_windows(dataset, picks=["eeg", "stim"])
        assert names_of(windows.signal) == ["C3", "C4", "STI"]
        np.testing.assert_array_equal(windows.data[0], dataset[0][0][[0, 1, 4]])
        assert windows.labels is None
        with pytest.raises(ValueError, match="No usable channels for picks='ECG'"):
            read_windows(dataset, picks="ECG")

    def test_lazy_metadata(self):
        dataset = make_dataset(target=3, lazy_metadata=True)
        windows = read_windows(dataset)
        np.testing.assert_array_equal(windows.labels, [3] * 5)
        assert windows.signal["n_times"] == 200

    def test_targets_of_epochs_dropped_since(self):
        dataset = make_dataset(target=0, use_mne_epochs=True, preload=True).datasets[0]
        dataset.windows.metadata["target"] = range(5)
        dataset.windows.drop([1], verbose="error")
        windows = read_windows(dataset)
        assert len(windows.data) == len(windows.labels) == 4
        np.testing.assert_array_equal(windows.labels, [0, 2, 3, 4])

    def test_target_transform(self):
        dataset = make_dataset(target=3)
        dataset.target_transform = lambda target: target * 2
        np.testing.assert_array_equal(read_windows(dataset).labels, [6] * 5)

    def test_recordings_that_live_in_zarr(self):
        dataset = make_dataset(target=1)
        expected = as_array(read_windows(dataset).data)
        record = dataset.datasets[0]
        # What the host's zarr reader leaves behind: no Raw, an array and an info.
        record._zarr_data, record._info_dict, record.raw = (
            record.raw.get_data(),
            record.raw.info.to_json_dict(),
            None,
        )
        windows = read_windows(dataset)
        assert names_of(windows.signal) == GOOD
        np.testing.assert_array_equal(as_array(windows.data), expected)

    def test_recordings_without_windows_are_passed_over(self):
        empty = make_dataset().datasets[0]
        empty.crop_inds = empty.crop_inds[:0]
        windows = read_windows(BaseConcatDataset([empty, *make_dataset().datasets]))
        assert len(windows.data) == 5

    @pytest.mark.parametrize("make", [make_epochs, make_dataset])
    def test_pickles(self, make):
        windows = read_windows(make())
        again = pickle.loads(pickle.dumps(windows))
        np.testing.assert_array_equal(as_array(again.data), as_array(windows.data))

    @pytest.mark.parametrize("preload", [True, False])
    def test_epochs_are_left_untouched(self, preload):
        def state():
            return epochs.preload, epochs.drop_log, epochs.ch_names, epochs.info["bads"]

        epochs = make_epochs(preload=preload)
        data = epochs.copy().load_data().get_data(copy=True)
        before = pickle.dumps(state())
        signal_params(epochs)
        read_windows(epochs).data[:] = 0
        assert pickle.dumps(state()) == before
        np.testing.assert_array_equal(epochs.load_data().get_data(copy=False), data)

    def test_datasets_are_left_untouched(self):
        dataset = make_dataset(target=3)
        record = dataset.datasets[0]
        columns = list(record.metadata.columns)
        read_windows(dataset, picks="C3")
        assert list(record.metadata.columns) == columns
        assert record.raw.ch_names == NAMES

    def test_mne_says_nothing(self):
        sources = [
            make_epochs(preload=False),
            make_dataset(use_mne_epochs=True),
            make_dataset(),
        ]
        with mne.utils.use_log_level("info"), mne.utils.catch_logging() as log:
            for source in sources:
                signal_params(source)
                read_windows(source).data[0]
            signal_params(make_raw(), input_window_seconds=1)
        assert log.getvalue() == ""

    def test_needs_no_torch(self):
        code = (
            "import sys; package = type(sys)('braindecode_biot')"
            f"; package.__path__ = [{os.path.dirname(windows_module.__file__)!r}]"
            "; sys.modules['braindecode_biot'] = package"  # whose __init__ needs torch
            "; import braindecode_biot.windows as windows, numpy as np"
            "; windows.read_windows(np.ones((1, 2, 3)), sfreq=1)"
            "; sys.exit('torch' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestErrors:
    @pytest.mark.parametrize("value", [-1, 0, np.nan, np.inf, "2", True])
    def test_rate_must_be_positive(self, value):
        with pytest.raises(ValueError, match=r"sfreq=.*positive number in Hz"):
            read_windows(np.ones((1, 2, 3)), sfreq=value)

    @pytest.mark.parametrize("make", [make_epochs, make_dataset])
    def test_stated_rate_that_contradicts_the_data(self, make):
        with pytest.raises(
            ValueError, match=r"100 Hz instead of 250 Hz.*sfreq=250 was"
        ):
            read_windows(make(), sfreq=250)

    @pytest.mark.parametrize("kwargs", [{"picks": [0]}, {"exclude": ["C3"]}])
    def test_arrays_have_no_names(self, kwargs):
        with pytest.raises(ValueError, match=r"no channel names.*X\[:, indices\]"):
            read_windows(np.ones((1, 2, 3)), sfreq=1, **kwargs)

    def test_array_needs_a_rate(self):
        for function in (signal_params, read_windows):
            with pytest.raises(ValueError, match="pass sfreq= in Hz"):
                function(np.ones((2, 3, 4)))

    def test_two_dimensions(self):
        with pytest.raises(ValueError, match=r"\(3, 4\).*X\[np.newaxis\]"):
            read_windows(np.ones((3, 4)), sfreq=1)

    @pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (2,)])
    def test_other_shapes(self, shape):
        with pytest.raises(ValueError, match=r"expected \(n_windows, n_chans"):
            read_windows(np.ones(shape), sfreq=1)

    @pytest.mark.parametrize("dtype", [complex, object, bool, "U3"])
    def test_dtype(self, dtype):
        with pytest.raises(TypeError, match="expected real numbers"):
            read_windows(np.ones((2, 3, 4)).astype(dtype), sfreq=1)

    @pytest.mark.parametrize("mask", [True, np.ma.nomask])
    def test_masked_array(self, mask):
        X = np.ma.MaskedArray(np.ones((2, 3, 4)), mask)
        for function in (signal_params, read_windows):
            with pytest.raises(TypeError, match=r"X is a masked array.*filled\(numpy"):
                function(X, sfreq=1)

    def test_tensor_that_numpy_cannot_read(self):
        with pytest.raises(TypeError, match=r"this Tensor.*detach"):
            read_windows(torch.ones(2, 3, 4, requires_grad=True), sfreq=1)

    @pytest.mark.parametrize("data", [None, "raw.fif", {"a": 1}, make_raw().info])
    def test_other_types(self, data):
        for function in (signal_params, read_windows):
            with pytest.raises(TypeError, match=r"was given, expected .*mne.Epochs"):
                function(data)

    def test_subset_of_a_dataset(self):
        subset = Subset(make_dataset(), [0, 1])
        for function in (signal_params, read_windows):
            with pytest.raises(
                TypeError, match=r"Subset was given, expected .*WindowsDataset"
            ):
                function(subset)

    def test_list_of_other_things(self):
        with pytest.raises(TypeError, match=r"item 1 of the list is a ndarray.*stack"):
            read_windows([make_epochs(), np.ones((3, 4))])

    def test_raw_is_not_windowed(self):
        with pytest.raises(ValueError, match=r"RawArray.*make_fixed_length_epochs"):
            read_windows(make_raw())

    def test_no_windows(self):
        empty = make_dataset()
        empty.datasets[0].crop_inds = empty.datasets[0].crop_inds[:0]
        for data in ([], empty, make_epochs()[:0]):
            with pytest.raises(ValueError, match="There are no windows"):
                read_windows(data)

    @pytest.mark.filterwarnings("ignore:All epochs were dropped:RuntimeWarning")
    @pytest.mark.parametrize("preload", [True, False])
    def test_every_epoch_dropped(self, preload):
        epochs = make_epochs(preload=preload, reject={"eeg": 1e-9})
        with pytest.raises(ValueError, match=r"Drop log: C3 \(4\), C4 \(4\)"):
            read_windows(epochs)

    def test_complex_epochs(self):
        epochs = make_epochs().apply_hilbert()
        with pytest.raises(TypeError, match="complex numbers"):
            read_windows(epochs)

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"sfreq": 128.0}, "128 Hz instead of 100 Hz"),
            ({"names": ["C3", "T7", *NAMES[2:]]}, r"missing \['C4'\], .* \['T7'\]"),
            ({"bads": ["C3"]}, r"missing \['C3'\], .* \['Cz'\].*exclude=\(\)"),
            ({"names": ["C4", "C3", *NAMES[2:]]}, r"another order .*\['C4', 'C3'\]"),
        ],
    )
    def test_mixed_recordings(self, other, message):
        raws = [make_raw(), make_raw(**other)]
        concat = BaseConcatDataset(
            [
                make_dataset(raw, subject)
                for raw, subject in zip(raws, "xy", strict=True)
            ]
        )
        where = r"recording 1 \(subject y\) does not match recording 0 \(subject x\)"
        for function in (signal_params, read_windows):
            with pytest.raises(ValueError, match=f"{where}.*{message}.*1 of 2"):
                function(concat)
        with pytest.raises(
            ValueError, match=f"item 1 does not match item 0.*{message}"
        ):
            read_windows([make_epochs(raw) for raw in raws])

    def test_mixed_lengths_of_epochs(self):
        with pytest.raises(ValueError, match=r"item 1 .* 150 samples"):
            read_windows([make_epochs(), make_epochs(n_times=150)])

    def test_transform_that_changes_the_shape(self):
        dataset = make_dataset()
        dataset.transform = lambda X: X[:, ::2]
        with pytest.raises(ValueError, match=r"window 1 of recording 0.*\(6, 100\)"):
            read_windows(dataset).data[1]

    @pytest.mark.parametrize("index", [5, -6])
    def test_no_such_window(self, index):
        with pytest.raises(IndexError, match="no window"):
            read_windows(make_dataset()).data[index]


class TestCheckFinite:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
    def test_sound_data(self, dtype):
        check_finite(np.ones((3, 2, 10), dtype))

    @pytest.mark.filterwarnings("error")
    def test_a_sum_that_overflows_is_no_inf(self):
        check_finite(np.full((3, 2, 10), 3e38, np.float32))

    @pytest.mark.filterwarnings("error")
    @settings(max_examples=30)
    @given(
        holes=st.sets(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1),
        value=st.sampled_from([np.nan, np.inf, -np.inf]),
    )
    def test_counts_windows_and_channels(self, holes, value):
        X = np.zeros((4, 3, 5), np.float32)
        for window, channel in holes:
            X[window, channel, 2] = value
        windows, channels = (sorted({hole[k] for hole in holes}) for k in (0, 1))
        names = ", ".join("ABC"[i] for i in channels)
        message = (
            rf"epochs holds .* {len(windows)} of 4 windows "
            rf"\({', '.join(map(str, windows))}\) and {len(channels)} of 3 channels "
            rf"\({names}\).*interpolate_bads"
        )
        with pytest.raises(ValueError, match=message):
            check_finite(X, what="epochs", ch_names=["A", "B", "C"])

    def test_infinities_do_not_cancel(self):
        with pytest.raises(ValueError, match="1 of 1 windows"):
            check_finite(np.array([[[np.inf, -np.inf]]]))

    def test_long_lists_are_cut(self):
        with pytest.raises(ValueError, match=r"X .*\(0, 1, 2, 3, 4, \.\.\.\).*\(0\)"):
            check_finite(np.full((9, 1, 2), np.nan))


class TestEventCodes:
    """Labels of several Epochs are the codes, which must mean the same in all."""

    @pytest.mark.parametrize(
        ("first", "second"),
        [
            ({"left": 1, "right": 2}, {"right": 1, "left": 2}),
            ({"left": 1, "right": 2}, {"rest": 1, "right": 2}),
        ],
        ids=["swapped", "another-name"],
    )
    def test_contradictions_are_refused(self, first, second):
        epochs = [make_epochs(codes=(1, 2)) for _ in range(2)]
        epochs[0].event_id, epochs[1].event_id = first, second
        with pytest.raises(ValueError, match=r"item 1 has the event .* same event_id"):
            read_windows(epochs)
        assert read_windows(epochs, labels=False).labels is None

    def test_a_code_may_be_named_in_some_only(self):
        epochs = [make_epochs(codes=(1, 2)) for _ in range(2)]
        epochs[0].event_id = {"left": 1, "right": 2}
        assert read_windows(epochs).labels.tolist() == [1, 2, 1, 2]
