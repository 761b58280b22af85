"""Windows with other channels and lengths, as one data set."""

import mne
import numpy as np
import pytest
import torch
from braindecode import EEGClassifier
from braindecode.datasets import BaseConcatDataset, pad_channels_collate
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

from braindecode_biot import BIOT, BIOTClassifier, signal_params, stack_windows
from braindecode_biot.augmentation import RandomMissing
from braindecode_biot.windows import check_some_left, read_windows
from recordings import make_dataset, make_raw, names_of

SFREQ = 40.0
SMALL = dict(emb_size=16, n_layers=1)
MODULE = {f"module__{key}": value for key, value in SMALL.items()}
# Electrode names and seconds: a subset, another order and spelling, more channels.
RECORDINGS = [
    (["C3", "C4", "Pz"], 2.0),
    (["EEG PZ-REF", "EEG C3-REF"], 3.0),
    (["Oz", "C4", "C3"], 1.5),
]
NAMES = ["C3", "C4", "Pz", "Oz"]


def make_epochs(names, seconds, n=16, seed=0, bads=()):
    """Make epochs; those with code 2 have 10 Hz at C3."""
    n_times = round(seconds * SFREQ)
    codes = np.tile([1, 2], n // 2)
    data = np.random.default_rng(seed).normal(size=(n, len(names), n_times))
    wave = 3 * np.sin(2 * np.pi * 10 * np.arange(n_times) / SFREQ)
    for i, name in enumerate(names):
        data[codes == 2, i] += wave * ("C3" in name)
    info = mne.create_info(names, SFREQ, "eeg")
    info["bads"] = list(bads)
    events = np.c_[np.arange(n) * n_times, np.zeros(n), codes].astype(int)
    return mne.EpochsArray(data * 1e-5, info, events, verbose="error")


@pytest.fixture(scope="module")
def mixed():
    return [make_epochs(*given, seed=i) for i, given in enumerate(RECORDINGS)]


@pytest.fixture(scope="module")
def stacked(mixed):
    return stack_windows(mixed, NAMES)


@pytest.fixture(scope="module")
def y(mixed):
    return np.concatenate([epochs.events[:, 2] for epochs in mixed])


def concat(mixed):
    """Make the same as a data set of braindecode, a recording of each."""
    datasets = []
    for epochs in mixed:
        raw = mne.io.RawArray(
            np.hstack(epochs.get_data()), epochs.info, verbose="error"
        )
        size = len(epochs.times)
        recording = make_dataset(raw, size=size).datasets[0]
        recording.y = [int(code) - 1 for code in epochs.events[:, 2]]
        recording.metadata["target"] = recording.y
        datasets.append(recording)
    return BaseConcatDataset(datasets)


class TestStackWindows:
    def test_every_sample_comes_to_its_place(self, mixed):
        X = stack_windows(mixed, NAMES)
        assert X.shape == (48, 4, 120)
        assert X.dtype == np.float32
        expected = np.full((48, 4, 120), np.nan)
        places = [[0, 1, 2], [2, 0], [3, 1, 0]]
        for i, (epochs, place) in enumerate(zip(mixed, places, strict=True)):
            n_times = len(epochs.times)
            block = expected[16 * i : 16 * (i + 1)]
            block[:, place, :n_times] = epochs.get_data() * 1e6
        np.testing.assert_allclose(X, expected, rtol=1e-6)

    def test_without_names_channels_come_as_they_come_up(self, mixed):
        np.testing.assert_array_equal(stack_windows(mixed), stack_windows(mixed, NAMES))
        assert stack_windows(mixed[::-1]).shape == (48, 4, 120)

    def test_a_known_vocabulary(self):
        epochs = make_epochs(["EEG C4-M1", "EEG T3-T5"], 1)
        X = stack_windows([epochs], "tcp-18")
        assert X.shape == (16, 18, 40)
        assert np.flatnonzero(~np.isnan(X).any((0, 2))).tolist() == [2, 17]

    def test_bad_channels_are_missing(self):
        whole, damaged = (
            make_epochs(["C3", "C4"], 1, bads=bads) for bads in ([], ["C3"])
        )
        X = stack_windows([whole, damaged])
        assert np.isnan(X[16:, 0]).all()
        assert not np.isnan(X[:16]).any()
        assert not np.isnan(X[16:, 1]).any()
        assert not np.isnan(stack_windows([whole, damaged], exclude=())).any()

    def test_one_epochs_object(self, mixed):
        X = stack_windows(mixed[0])
        np.testing.assert_array_equal(X, read_windows(mixed[0]).data)

    def test_arrays(self):
        rng = np.random.default_rng(0)
        long, short, single = (
            rng.normal(size=s) for s in ((3, 2, 9), (1, 2, 5), (2, 7))
        )
        X = stack_windows([long, torch.as_tensor(short), single])
        assert X.shape == (5, 2, 9)
        np.testing.assert_array_equal(X[:3], long.astype(np.float32))
        np.testing.assert_array_equal(X[3, :, :5], short[0].astype(np.float32))
        np.testing.assert_array_equal(X[4, :, :7], single.astype(np.float32))
        assert np.isnan(X[3, :, 5:]).all()
        assert np.isnan(X[4, :, 7:]).all()

    @pytest.mark.parametrize(
        ("windows", "names", "error", "message"),
        [
            ([], None, TypeError, "Got a list of nothing"),
            (["a", 1], None, TypeError, r"\['int', 'str'\]"),
            ([np.zeros((1, 2, 3)), np.zeros((1, 4, 3))], None, ValueError, r"\[2, 4\]"),
            ([np.zeros((1, 2, 3))], "tcp-16", ValueError, r"\[2, 16\] channels"),
            ([np.zeros(3)], None, ValueError, r"item 0 has the shape \(3,\)"),
            ([np.array([[["a"]]])], None, ValueError, "expected real numbers"),
        ],
    )
    def test_what_cannot_be_stacked(self, windows, names, error, message):
        with pytest.raises(error, match=message):
            stack_windows(windows, names)

    def test_epochs_beside_arrays(self, mixed):
        with pytest.raises(TypeError, match="of one kind"):
            stack_windows([mixed[0], np.zeros((1, 3, 80))])

    def test_a_vocabulary_that_lacks_a_channel_lists_both(self, mixed):
        with pytest.raises(ValueError, match=r"item 2: .*lacks \['Oz'\].*C3.*C4"):
            stack_windows(mixed, ["C3", "C4", "Pz"])

    def test_a_doubled_channel_shows_both(self):
        epochs = make_epochs(["T3", "T7"], 1)
        with pytest.raises(ValueError, match="'T3' and 'T7'"):
            stack_windows([epochs])

    def test_a_channel_of_another_type(self, mixed):
        other = mixed[1].copy().set_channel_types({"EEG C3-REF": "ecg"})
        with pytest.raises(
            ValueError, match=r"item 1 has 'EEG C3-REF' with kind .*ECG"
        ):
            stack_windows([mixed[0], other], picks=["eeg", "ecg"])

    def test_other_rates(self, mixed):
        other = mixed[1].copy().resample(20)
        with pytest.raises(ValueError, match=r"item 1 does not match .* 20 Hz"):
            stack_windows([mixed[0], other])


class TestSignalParams:
    @pytest.mark.parametrize("kind", ["epochs", "dataset"])
    def test_all_channels_and_the_longest_window(self, mixed, kind):
        data = mixed if kind == "epochs" else concat(mixed)
        signal = signal_params(data, missing="mask")
        assert names_of(signal) == NAMES
        assert (signal["n_chans"], signal["n_times"]) == (4, 120)
        assert signal["input_window_seconds"] == 3
        assert signal["n_outputs"] == 2
        model = BIOT(**signal, **SMALL, hop_length=20, missing="mask")
        assert model.n_chans == 4

    def test_in_the_order_of_a_vocabulary(self, mixed):
        names = ["Fz", *NAMES[::-1]]
        signal = signal_params(mixed, missing="mask", channel_names=names)
        assert names_of(signal) == names
        json_able = signal["chs_info"][0] | {"loc": None}
        assert json_able["ch_name"] == "Fz"

    def test_a_recording(self):
        raw = make_raw()
        signal = signal_params(
            raw,
            input_window_seconds=2,
            missing="mask",
            channel_names=["Cz", "C4", "C3"],
        )
        assert names_of(signal) == ["Cz", "C4", "C3"]
        assert signal["n_times"] == 200

    def test_positions_are_those_of_the_first_that_has_them(self):
        raws = [
            make_raw(names=names, types=["eeg"] * 2, bads=[]).set_montage(
                "colin27_1020"
            )
            for names in (["C3", "C4"], ["Pz", "C4"])
        ]
        epochs = [mne.make_fixed_length_epochs(raw, 1, verbose="error") for raw in raws]
        signal = signal_params(epochs, missing="mask")
        locations = {ch["ch_name"]: ch["loc"] for ch in signal["chs_info"]}
        for raw in raws:
            for ch in raw.info["chs"]:
                np.testing.assert_array_equal(locations[ch["ch_name"]], ch["loc"])

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (dict(missing="drop"), "missing is 'raise' or 'mask', got 'drop'"),
            (dict(channel_names="tcp-16"), "which missing='mask' allows"),
            (dict(missing="mask", channel_names="tcp-1"), "'tcp-16', 'tcp-18'"),
        ],
    )
    def test_bad_arguments(self, mixed, given, message):
        with pytest.raises(ValueError, match=message):
            signal_params(mixed[0], **given)

    def test_without_masking_they_must_agree(self, mixed):
        with pytest.raises(ValueError, match="item 1 does not match item 0"):
            signal_params(mixed)


def classifier(**params):
    given = dict(max_epochs=25, random_state=0, missing="mask", lr=3e-3) | MODULE
    return BIOTClassifier(**given | params)


class TestClassifier:
    @pytest.fixture(scope="class")
    @classmethod
    def fitted(cls, mixed):
        return classifier().fit(mixed)

    def test_learns_from_mixed_recordings(self, fitted, mixed):
        assert fitted.score(mixed) > 0.9
        fresh = [make_epochs(*given, seed=9) for given in RECORDINGS]
        assert fitted.score(fresh) > 0.9

    def test_predicts_on_any_subset_order_and_length(self, fitted, mixed):
        for i, epochs in enumerate(mixed):
            expected = fitted.predict_proba(mixed)[16 * i : 16 * (i + 1)]
            np.testing.assert_allclose(
                fitted.predict_proba(epochs), expected, rtol=1e-4, atol=1e-5
            )
            turned = epochs.copy().reorder_channels(epochs.ch_names[::-1])
            np.testing.assert_allclose(
                fitted.predict_proba(turned), expected, rtol=1e-4, atol=1e-5
            )
        longer = make_epochs(["Pz", "C3"], 5, seed=8)
        assert fitted.score(longer) > 0.9

    def test_epochs_arrays_and_datasets_are_the_same(self, fitted, mixed, stacked, y):
        expected = fitted.predict_proba(mixed)
        np.testing.assert_allclose(fitted.predict_proba(stacked), expected, atol=1e-6)
        np.testing.assert_allclose(
            fitted.predict_proba(concat(mixed)), expected, rtol=1e-3, atol=1e-4
        )

    @pytest.mark.parametrize("kind", ["array", "dataset"])
    def test_fits_them_alike(self, mixed, stacked, y, kind):
        if kind == "array":
            other = classifier(max_epochs=2, sfreq=SFREQ, channel_names=NAMES)
            other.fit(stacked, y)
        else:
            other = classifier(max_epochs=2).fit(concat(mixed), y)
        same = classifier(max_epochs=2).fit(mixed)
        np.testing.assert_allclose(
            other.predict_proba(mixed), same.predict_proba(mixed), rtol=1e-3, atol=1e-4
        )

    def test_what_it_remembers(self, fitted):
        assert names_of(fitted.signal_) == ["C3", "C4", "Pz", "Oz"]
        assert fitted.n_features_in_ == 4
        assert fitted.net_.module_.channel_names == NAMES
        assert fitted.__sklearn_tags__().input_tags.allow_nan
        assert not BIOTClassifier().__sklearn_tags__().input_tags.allow_nan

    def test_a_vocabulary_with_channels_that_nobody_has(self, mixed):
        wide = classifier(max_epochs=2, channel_names=["Fz", *NAMES, "Cz"]).fit(mixed)
        assert wide.n_features_in_ == 6
        with_fz = make_epochs(["Fz", "C3"], 2)
        assert wide.predict(with_fz).shape == (16,)

    def test_a_vocabulary_without_masking(self, mixed):
        strict = classifier(max_epochs=2, missing="raise", channel_names=NAMES)
        strict.fit(mixed[0])
        assert strict.net_.module_.channels.rows.tolist() == [0, 1, 2]
        assert strict.net_.module_.tokens.channel_tokens.num_embeddings == 4
        with pytest.raises(ValueError, match="other channels"):
            strict.predict(make_epochs(["C3", "C4"], 2))

    def test_an_unknown_channel(self, fitted):
        with pytest.raises(ValueError, match=r"lacks \['Fz'\].*C3.*C4.*Pz.*Oz"):
            fitted.predict(make_epochs(["C3", "Fz"], 2))

    def test_another_rate(self, fitted, mixed):
        with pytest.raises(ValueError, match="sampling rate of 20 Hz instead of 40 Hz"):
            fitted.predict(mixed[0].copy().resample(20))

    def test_a_window_with_nothing_left_is_named(self, fitted, stacked, y):
        X = stacked.copy()
        X[[3, 40]] = np.nan
        message = r"every token missing in 2 of 48 windows \(3, 40\)"
        with pytest.raises(ValueError, match=message):
            fitted.predict(X)
        with pytest.raises(ValueError, match=message):
            classifier(sfreq=SFREQ).fit(X, y)
        short = make_epochs(["C3"], 0.5)
        with pytest.raises(ValueError, match="every token missing in 16 of 16"):
            fitted.predict(short)

    def test_a_window_of_a_dataset_with_nothing_left_is_named(self, fitted, mixed):
        recording = mixed[0].copy()
        recording._data[5] = np.nan
        with pytest.raises(ValueError, match="Window 5 has every token missing"):
            fitted.predict(concat([recording]))

    def test_inf_is_not_missing(self, fitted, stacked):
        X = stacked.copy()
        X[7, 1, 3] = np.inf
        with pytest.raises(ValueError, match=r"inf in 1 of 48 windows \(7\)"):
            fitted.predict(X)

    def test_nan_by_default_is_an_error_that_names_the_remedy(self, stacked, y):
        with pytest.raises(ValueError, match="use missing='mask'"):
            BIOTClassifier(sfreq=SFREQ, **MODULE).fit(stacked, y)

    def test_masking_is_decided_by_fit(self, mixed, y):
        strict = classifier(max_epochs=1, missing="raise").fit(mixed[0])
        strict.set_params(missing="mask")
        with pytest.raises(ValueError, match="do not fit the model"):
            strict.predict(make_epochs(["C3", "C4"], 2))

    def test_goes_on_with_other_lengths_and_channels(self, mixed):
        growing = classifier(channel_names=NAMES)
        for epochs in mixed:
            growing.partial_fit(epochs)
        warm = classifier(max_epochs=2, warm_start=True, channel_names=NAMES)
        for epochs in mixed:
            warm.fit(epochs)
        assert len(growing.history_) == 3

    def test_cross_validation_on_an_array(self, stacked, y):
        scores = cross_val_score(
            classifier(sfreq=SFREQ, max_epochs=2), stacked, y, cv=2, error_score="raise"
        )
        assert scores.shape == (2,)

    def test_cross_validation_on_epochs_with_gaps(self, mixed):
        epochs = mixed[0].copy()
        epochs._data[3, 0] = np.nan
        scores = cross_val_score(
            classifier(max_epochs=2), epochs, epochs.events[:, 2], cv=2
        )
        assert np.isfinite(scores).all()

    def test_an_array_of_another_number_of_channels(self, stacked, y):
        with pytest.raises(ValueError, match="4 channels for 3 channel_names"):
            classifier(sfreq=SFREQ, channel_names=NAMES[:3]).fit(stacked, y)

    @pytest.mark.parametrize("name", ["missing", "channel_names"])
    def test_no_prefix(self, name):
        with pytest.raises(TypeError, match="have no prefix"):
            BIOTClassifier(**{f"module__{name}": "mask"})


class TestAugmentation:
    @pytest.mark.parametrize("augment", [0.9, RandomMissing(1, 1, 20, 2)])
    def test_trains_on_windows_with_gaps(self, mixed, augment, monkeypatch):
        seen = []
        forward = BIOT.forward

        def spy(self, x, *args, **kwargs):
            seen.append((self.training, x.isnan().any().item()))
            return forward(self, x, *args, **kwargs)

        monkeypatch.setattr(BIOT, "forward", spy)
        params = dict(max_epochs=2, augment_missing=augment)
        first = classifier(**params).fit(mixed[0])
        assert set(seen) == {(True, True), (False, False)}
        if isinstance(augment, RandomMissing):  # whose own state counts for nothing
            augment.rng.random_sample(7)
        again = clone(first).set_params(augment_missing=augment).fit(mixed[0])
        np.testing.assert_array_equal(
            first.predict_proba(mixed[0]), again.predict_proba(mixed[0])
        )
        plain = clone(first).set_params(augment_missing=0).fit(mixed[0])
        assert not np.allclose(
            first.predict_proba(mixed[0]), plain.predict_proba(mixed[0])
        )

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            (dict(augment_missing=1.5), "share from 0 to 1 or RandomMissing, got 1.5"),
            (dict(augment_missing="much"), "got 'much'"),
            (dict(augment_missing=0.5, missing="raise"), "missing='mask' allows"),
            (dict(missing="drop"), "missing is 'raise' or 'mask', got 'drop'"),
        ],
    )
    def test_bad_arguments(self, mixed, params, message):
        with pytest.raises(ValueError, match=message):
            classifier(**params).fit(mixed[0])


class TestInsideTheHost:
    """``EEGClassifier(module=BIOT, module__missing="mask")``."""

    def test_a_stacked_list_of_epochs(self, stacked, y):
        net = EEGClassifier(
            module=BIOT,
            module__missing="mask",
            module__channel_names=NAMES,
            module__sfreq=SFREQ,
            module__hop_length=20,
            **MODULE,
            max_epochs=20,
            lr=3e-3,
            optimizer=torch.optim.AdamW,
            batch_size=16,
            train_split=None,
            verbose=0,
        )
        torch.manual_seed(0)
        net.fit(stacked, y - 1)
        assert net.score(stacked, y - 1) > 0.9

    def test_a_dataset_of_recordings_through_the_hosts_collate(self):
        positions = [["C3", "C4", "Pz"], ["Pz", "C3"], ["Oz", "C4", "C3"]]
        mixed = [
            make_epochs(names, 2, seed=i).set_montage("colin27_1020")
            for i, names in enumerate(positions)
        ]
        data = concat(mixed).set_return_ch_pos(True)
        signal = signal_params(data, missing="mask")
        net = EEGClassifier(
            module=BIOT,
            module__missing="mask",
            module__hop_length=20,
            **MODULE,
            **{f"module__{key}": value for key, value in signal.items()},
            iterator_train__collate_fn=pad_channels_collate,
            iterator_valid__collate_fn=pad_channels_collate,
            max_epochs=20,
            lr=3e-3,
            optimizer=torch.optim.AdamW,
            batch_size=16,
            train_split=None,
            verbose=0,
        )
        torch.manual_seed(0)
        y = np.array([int(target) for _, target, *_ in data])
        net.fit(data, y=None)
        assert (net.predict(data) == y).mean() > 0.9
        # The same windows by name give the same.
        scale = 1e6
        X = torch.as_tensor(stack_windows(mixed, names_of(signal)) / scale)
        with torch.no_grad():
            expected = net.module_.eval()(X)
        np.testing.assert_allclose(
            net.forward(data).numpy(), expected.numpy(), rtol=1e-3, atol=1e-4
        )


def test_some_left_looks_at_the_models_own_tokens():
    X = np.ones((2, 1, 30), np.float32)
    X[0, 0, [9, 19]] = (
        np.nan
    )  # the tokens of 10 from 0 and 10 are gone, that from 20 not
    check_some_left(X, 10, 10)
    X[0, 0, 25] = np.nan
    with pytest.raises(ValueError, match=r"1 of 2 windows \(0\)"):
        check_some_left(X, 10, 10)
    check_some_left(X, 5, 5)


class TestWhatWasSilent:
    """Each of these once gave a wrong answer, or an error that helped nobody."""

    @pytest.fixture(scope="class")
    @classmethod
    def turned(cls):
        return make_epochs(["Pz", "C3", "C4"], 2)

    @pytest.mark.parametrize("missing", ["raise", "mask"])
    @pytest.mark.parametrize("fit_on", ["array", "epochs"])
    def test_names_hold_between_arrays_and_epochs(self, turned, missing, fit_on):
        names = ["C3", "C4", "Pz"]
        X, y = stack_windows(turned, names), turned.events[:, 2]
        model = classifier(
            missing=missing, channel_names=names, sfreq=SFREQ, max_epochs=1
        )
        model.fit(*((X, y) if fit_on == "array" else (turned,)))
        np.testing.assert_allclose(
            model.predict_proba(X), model.predict_proba(turned), rtol=1e-5
        )

    def test_an_array_without_names_says_nothing_of_epochs(self, stacked, y, mixed):
        nameless = classifier(sfreq=SFREQ, max_epochs=1).fit(stacked, y)
        with pytest.raises(ValueError, match="Fit it with channel_names="):
            nameless.predict(mixed)

    @pytest.mark.parametrize("missing", ["raise", "mask"])
    def test_warm_start_with_another_vocabulary(self, turned, missing):
        model = classifier(
            missing=missing, channel_names=NAMES, max_epochs=1, warm_start=True
        ).fit(turned)
        model.set_params(channel_names=NAMES[::-1])
        if missing == "raise":
            with pytest.raises(ValueError, match=r"channel_names was \['C3'"):
                model.fit(turned)
        else:  # where the fitted names bind
            model.fit(turned)
            assert model.net_.module_.channel_names == NAMES

    @pytest.mark.parametrize("seed", range(3))
    def test_augmentation_of_sparse_data(self, seed):
        sparse = make_epochs(["C3-A2", "C4-A1"], 2)
        model = classifier(
            channel_names="tcp-18", augment_missing=1.0, max_epochs=4, random_state=seed
        )
        assert model.fit(sparse).predict(sparse).shape == (16,)

    def test_a_position_that_a_later_recording_knows(self):
        blind, placed = make_epochs(["C3", "C4"], 1), make_epochs(["c3", "Pz"], 1)
        placed.rename_channels({"c3": "C3"}).set_montage("colin27_1020")
        signal = signal_params([blind, placed], missing="mask")
        assert names_of(signal) == ["C3", "C4", "Pz"]
        known = [np.isfinite(ch["loc"][:3]).all() for ch in signal["chs_info"]]
        assert known == [True, False, True]

    def test_the_recording_without_channels_is_named(self, mixed):
        dead = make_epochs(["C3", "C4"], 1, bads=["C3", "C4"])
        with pytest.raises(ValueError, match="In item 1: No usable channels"):
            stack_windows([mixed[0], dead])
