"""BIOTClassifier: scikit-learn's contract, every kind of windows, every error."""

import copy
import pickle
import random
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import joblib
import mne
import numpy as np
import pytest
import torch
from braindecode.datasets import BaseConcatDataset, RawDataset
from braindecode.preprocessing import (
    create_fixed_length_windows,
    create_windows_from_events,
)
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks as sk
from skorch.callbacks import Callback

from braindecode_biot import BIOT, BIOTClassifier, BIOTEmbedding, BIOTRegressor
from braindecode_biot.samples import split

TINY = dict(max_epochs=2, module__emb_size=16, module__n_layers=1, random_state=0)
SFREQ = 40
NAMES = ["C3", "C4", "Pz"]


def tiny(**params):
    return BIOTClassifier(**(TINY | params))


def weights(classifier):
    module = classifier.net_.module_
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def lazy_windows(epochs, windower=create_fixed_length_windows):
    """Make a windows dataset of the same windows, in volts."""
    raw = mne.io.RawArray(
        np.hstack(epochs.get_data()), epochs.info.copy(), verbose="error"
    )
    n, size = len(epochs), len(epochs.times)
    if windower is create_fixed_length_windows:
        cut = dict(
            window_size_samples=size,
            window_stride_samples=size,
            on_last_window="drop",
        )
    else:
        onsets = np.arange(n) * size / SFREQ
        names = epochs.events[:, 2].astype(str)
        raw.set_annotations(mne.Annotations(onsets, size / SFREQ, names))
        cut = dict(mapping={"1": 1, "2": 2})
    recordings = BaseConcatDataset([RawDataset(raw, {"subject": 1})])
    return windower(recordings, verbose="error", **cut)


@pytest.fixture(scope="module")
def y(epochs):
    return epochs.events[:, 2]


@pytest.fixture(scope="module")
def learned(epochs):
    """A classifier that has learned the task."""
    return tiny(max_epochs=15, lr=1e-2).fit(epochs)


class Recorder(Callback):
    """Keep which windows were trained on and the weights after each epoch."""

    def on_train_begin(self, net, **kwargs):
        self.states = []

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.train = getattr(dataset_train, "indices", None)
        self.valid = getattr(dataset_valid, "indices", None)

    def on_epoch_end(self, net, **kwargs):
        self.states.append(copy.deepcopy(net.module_.state_dict()))


class Spoil(Callback):
    """Turn the answers round in the last epoch."""

    def on_batch_end(self, net, training=False, **kwargs):
        if training and len(net.history) == net.max_epochs:
            with torch.no_grad():
                for parameter in net.module_.final_layer.parameters():
                    parameter.mul_(-1)


class Interrupt(Callback):
    """Press Ctrl-C in the middle of the second epoch."""

    def on_batch_begin(self, net, **kwargs):
        if len(net.history) == 2:
            raise KeyboardInterrupt


# -- scikit-learn's own checks -----------------------------------------------------


class Tabular:
    """Rows of features, as scikit-learn's checks make them, taken for windows.

    A feature x becomes a channel of the two samples (x, 1), of which the magnitude
    spectrum |x ± 1| keeps the sign.
    """

    def _read(self, X, **kwargs):
        X = np.asarray(X)
        return super()._read(
            np.stack([X, np.ones_like(X)], -1) if X.ndim == 2 else X, **kwargs
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        return tags


class TabularClassifier(Tabular, BIOTClassifier):
    pass


class TabularRegressor(Tabular, BIOTRegressor):
    pass


class TabularEmbedding(Tabular, BIOTEmbedding):
    pass


_VAR_KEYWORD = "takes **module_params for a parameter of that name"
_WORDING = "wants scikit-learn's wording, of features where ours is of channels: "
_NO_SPARSE = "no sparse matrix holds three-dimensional windows"
EXCLUDED = {
    "check_no_attributes_set_in_init": _VAR_KEYWORD,
    "check_do_not_raise_errors_in_init_or_set_params": _VAR_KEYWORD,
    "check_n_features_in_after_fitting": _WORDING + "X has 1 features, but ...",
    "check_estimators_empty_data_messages": _WORDING + "0 feature(s)",
    "check_fit2d_predict1d": _WORDING + "Reshape your data",
    "check_complex_data": "wants a ValueError for a wrong dtype, ours is a TypeError",
    "check_dtype_object": "wants numbers in arrays of objects converted",
    "check_estimator_sparse_tag": _NO_SPARSE,
    "check_estimator_sparse_array": _NO_SPARSE,
    "check_estimator_sparse_matrix": _NO_SPARSE,
}
_SETTINGS = dict(
    sfreq=2,
    batch_size=64,
    random_state=0,
    module__emb_size=16,
    module__n_layers=1,
    module__input_scaling=None,
    module__drop_prob=0.0,
    module__att_layer_drop_prob=0.0,
)


# Excluded checks are strict: one that passes must leave the table.
@sk.parametrize_with_checks(
    [
        TabularClassifier(max_epochs=10, lr=5e-2, **_SETTINGS),
        TabularRegressor(max_epochs=10, lr=5e-2, **_SETTINGS),
        TabularEmbedding(**_SETTINGS),
    ],
    expected_failed_checks=lambda _: EXCLUDED,
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    if check.func.__name__ == "check_methods_subset_invariance":
        pytest.skip("wants 1e-7, below float32: see test_batch_size_does_not_matter")
    check(estimator)


@pytest.mark.parametrize(
    "check",
    [
        sk.check_estimator_cloneable,
        sk.check_estimator_repr,
        sk.check_estimator_tags_renamed,
        sk.check_estimators_unfitted,
        sk.check_get_params_invariance,
        sk.check_mixin_order,
        sk.check_no_attributes_set_in_init,
        sk.check_parameters_default_constructible,
        sk.check_set_params,
        sk.check_valid_tag_types,
    ],
)
@pytest.mark.parametrize("cls", [BIOTClassifier, BIOTRegressor, BIOTEmbedding])
def test_scikit_learns_checks_without_data(check, cls):
    check(cls.__name__, cls())


# -- parameters --------------------------------------------------------------------


class TestParameters:
    def test_constructor_only_stores(self):
        callbacks, labels = [Recorder()], {"a": 1}
        classifier = BIOTClassifier(
            callbacks=callbacks, class_weight=labels, max_epochs=-1, module__emb_size=8
        )
        assert classifier.callbacks is callbacks
        assert classifier.class_weight is labels
        assert classifier.get_params()["max_epochs"] == -1
        assert classifier.get_params()["module__emb_size"] == 8

    def test_clone_and_set_params(self):
        classifier = tiny(lr=0.5)
        assert clone(classifier).get_params() == classifier.get_params()
        assert classifier.set_params(lr=0.1, module__emb_size=24) is classifier
        assert (classifier.lr, classifier.get_params()["module__emb_size"]) == (0.1, 24)
        assert "module__hop_length" not in classifier.get_params()
        classifier.set_params(module__hop_length=5)
        assert clone(classifier).get_params()["module__hop_length"] == 5

    def test_repr(self):
        assert repr(BIOTClassifier(lr=0.5)) == "BIOTClassifier(lr=0.5)"
        assert "module__emb_size=16" in repr(tiny())
        assert "BIOTClassifier" in tiny()._repr_html_()

    def test_module_arguments_reach_the_model(self, epochs):
        classifier = tiny(
            module__token_size=20,
            module__hop_length=5,
            module__activation=torch.nn.ReLU,
            module__input_scaling=None,
            module__att_num_heads=4,
        ).fit(epochs)
        module = classifier.net_.module_
        assert isinstance(module, BIOT)
        assert (module.token_size, module.hop_length, module.emb_size) == (20, 5, 16)
        assert isinstance(module.final_layer.activation, torch.nn.ReLU)
        assert module.input_scaling is None

    def test_hop_is_half_a_token_unless_given(self, epochs):
        assert tiny().fit(epochs).net_.module_.hop_length == SFREQ // 2
        fitted = tiny(module__token_size=30).fit(epochs)
        assert fitted.net_.module_.hop_length == 15

    @pytest.mark.parametrize(
        "name", ["module__nothing", "nothing", "module__n_chans", "module__sfreq"]
    )
    def test_unknown_and_signal_arguments(self, name):
        match = f"no argument '{name}'.*signal arguments come from the data"
        with pytest.raises(TypeError, match=match):
            BIOTClassifier(**{name: 1})

    def test_unknown_arguments_in_set_params(self):
        with pytest.raises(TypeError, match="no argument 'module__nothing'"):
            BIOTClassifier().set_params(module__nothing=1)
        with pytest.raises(ValueError, match="Invalid parameter 'nothing'"):
            BIOTClassifier().set_params(nothing=1)

    @pytest.mark.parametrize(
        ("params", "match"),
        [
            (dict(max_epochs=0), "max_epochs must be a whole number ≥ 1, got 0"),
            (dict(max_epochs=2.0), "max_epochs must be a whole number ≥ 1, got 2.0"),
            (dict(max_epochs=None), "max_epochs must be .* got None"),
            (dict(batch_size=-1), "batch_size must be a whole number ≥ 1, got -1"),
            (dict(patience=0), "patience must be a whole number ≥ 1, got 0"),
            (dict(validation_fraction=1), "at least 0 and below 1, got 1"),
            (dict(validation_fraction=-0.1), "at least 0 and below 1, got -0.1"),
            (dict(validation_fraction=None), "at least 0 and below 1, got None"),
            (dict(lr_schedule="x"), "lr_schedule is 'cosine' or None, got 'x'"),
            (dict(monitor="x"), "monitor is 'valid_loss' or .* got 'x'"),
            (dict(device="cuda:99"), "device='cuda:99' cannot be used here"),
            (dict(device="x"), "device='x' cannot be used here"),
            (dict(class_weight={9: 1}), r"The classes, \[.*1.*2.*\], are not in"),
            (dict(class_weight="x"), r"'class_weight' parameter .*'balanced'"),
            (dict(lr=-1.0), "Invalid learning rate: -1"),
            (dict(module__emb_size=20), "att_num_heads"),
            (dict(module__token_size=81), "shorter than one token of 81 samples"),
            (
                dict(module__hop_length=100),
                "hop_length=100 is larger than the token size of 40",
            ),
            (dict(module__input_scaling="x"), "input_scaling is 'q95', a positive"),
        ],
    )
    def test_bad_values(self, epochs, params, match):
        with pytest.raises(ValueError, match=match):
            tiny(**params).fit(epochs)

    def test_numpy_integers_will_do(self, epochs):
        params = dict(
            batch_size=8, max_epochs=1, module__emb_size=16, module__hop_length=10
        )
        tiny(**{k: np.int64(v) for k, v in params.items()}).fit(epochs)

    def test_device(self, epochs):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        assert next(tiny().fit(epochs).net_.module_.parameters()).device.type == device
        fitted = tiny(device="cpu").fit(epochs)
        assert next(fitted.net_.module_.parameters()).device.type == "cpu"


# -- what a fitted classifier gives --------------------------------------------------


class TestFitted:
    def test_learns(self, learned, epochs):
        assert learned.score(epochs) == 1

    def test_attributes(self, learned, epochs):
        assert_array_equal(learned.classes_, [1, 2])
        assert learned.n_features_in_ == 3
        signal = learned.signal_
        assert [ch["ch_name"] for ch in signal["chs_info"]] == NAMES
        assert (signal["n_chans"], signal["n_times"], signal["sfreq"]) == (3, 80, SFREQ)
        assert signal["n_outputs"] == 2
        assert learned.history_ is learned.net_.history
        assert all(
            {"train_loss", "valid_loss", "dur"} <= row.keys()
            for row in learned.history_
        )

    def test_predictions(self, learned, epochs, y):
        proba = learned.predict_proba(epochs)
        assert proba.shape == (24, 2)
        assert_allclose(proba.sum(1), 1, atol=1e-12)
        assert_array_equal(
            learned.predict(epochs), [1, 2] @ np.eye(2)[proba.argmax(1)].T
        )
        decision = learned.decision_function(epochs)
        assert decision.shape == (24,)
        assert_array_equal(decision > 0, learned.predict(epochs) == 2)
        assert_allclose(1 / (1 + np.exp(-decision)), proba[:, 1])

    def test_three_classes(self, epochs):
        fitted = tiny().fit(epochs, np.arange(24) % 3)
        assert fitted.decision_function(epochs).shape == (24, 3)
        assert fitted.predict_proba(epochs).shape == (24, 3)

    def test_score(self, learned, epochs, y):
        wrong = np.where(np.arange(24) < 6, 3 - y, y)
        assert learned.score(epochs, wrong) == 0.75
        assert learned.score(epochs, wrong, np.arange(24) >= 6) == 1
        shuffled = epochs.copy()
        shuffled.events[:, 2] = wrong
        assert learned.score(shuffled) == 0.75

    def test_score_needs_labels(self, learned, microvolts):
        with pytest.raises(ValueError, match="requires y to be passed"):
            learned.score(microvolts)

    @pytest.mark.parametrize("batch_size", [1, 7, 1000])
    def test_batch_size_does_not_matter(self, learned, epochs, batch_size):
        other = copy.deepcopy(learned)
        other.net_.set_params(batch_size=batch_size)
        expected = learned.predict_proba(epochs)
        assert_allclose(other.predict_proba(epochs), expected, atol=1e-5)
        one = [learned.predict_proba(epochs[i])[0] for i in range(5)]
        assert_allclose(one, expected[:5], atol=1e-5)

    def test_pickle(self, learned, epochs, tmp_path):
        expected = learned.predict_proba(epochs)
        again = pickle.loads(pickle.dumps(learned))
        assert_array_equal(again.predict_proba(epochs), expected)
        joblib.dump(learned, tmp_path / "classifier.joblib")
        again = joblib.load(tmp_path / "classifier.joblib")
        assert_array_equal(again.predict_proba(epochs), expected)
        assert_array_equal(again.partial_fit(epochs).classes_, [1, 2])
        unfitted = pickle.loads(pickle.dumps(tiny()))
        assert unfitted.get_params() == tiny().get_params()

    def test_pickle_holds_no_windows(self, microvolts, y):
        few = tiny(sfreq=SFREQ, batch_size=240).fit(microvolts, y)
        many = clone(few).fit(np.tile(microvolts, (10, 1, 1)), np.tile(y, 10))
        grown = len(pickle.dumps(many)) - len(pickle.dumps(few))
        assert grown < microvolts.astype("float32").nbytes

    @pytest.mark.parametrize(
        "method",
        ["predict", "predict_proba", "decision_function", "score", "history_"],
    )
    def test_not_fitted(self, epochs, method):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            getattr(tiny(), method)(epochs)


class TestLabels:
    @pytest.mark.parametrize(
        "classes",
        [
            ["rest", "task"],
            [1, 2],
            [-3, 7],
            [False, True],
            [0.0, 1.0],
            np.array(["a", "b"], dtype=object),
        ],
        ids=str,
    )
    def test_of_any_kind(self, epochs, y, classes):
        labels = np.asarray(classes)[y - 1]
        fitted = tiny(max_epochs=15, lr=1e-2).fit(epochs, labels)
        assert_array_equal(fitted.classes_, classes)
        predicted = fitted.predict(epochs)
        assert predicted.dtype == labels.dtype
        assert_array_equal(predicted, labels)
        assert fitted.score(epochs, list(labels)) == 1

    def test_none_takes_the_event_codes(self, epochs, y):
        assert_array_equal(weights(tiny().fit(epochs)), weights(tiny().fit(epochs, y)))

    @pytest.mark.parametrize(
        ("labels", "match"),
        [
            (np.ones(24), "at least two classes, got one class: .*pass y"),
            (np.ones(23), "Got 24 windows but 23 labels"),
            (np.tile([0, np.nan], 12), "NaN"),
            (np.linspace(0, 1, 24), "Unknown label type: continuous"),
            (np.ones((24, 2)), "should be a 1d array"),
        ],
        ids=["one-class", "length", "nan", "continuous", "2d"],
    )
    @pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
    def test_bad(self, epochs, labels, match):
        with pytest.raises(ValueError, match=match):
            tiny().fit(epochs, labels)

    def test_one_event_code_and_no_y(self, epochs):
        with pytest.raises(ValueError, match=r"one class: \[2\].*pass y"):
            tiny().fit(epochs["2"])

    def test_arrays_carry_none(self, microvolts):
        with pytest.raises(ValueError, match="requires y to be passed"):
            tiny(sfreq=SFREQ).fit(microvolts)


# -- kinds of windows ----------------------------------------------------------------


class TestWindows:
    @pytest.mark.parametrize(
        "kind", ["list", "array", "int16", "tensor", "volts", "fixed", "events"]
    )
    def test_kinds_are_equal(self, learned, epochs, microvolts, kind):
        X, tolerance = {
            "list": lambda: ([epochs[:9], epochs[9:]], 0),
            "array": lambda: (microvolts, 1e-6),
            "int16": lambda: (np.round(microvolts * 100).astype("int16"), 1e-2),
            "tensor": lambda: (torch.tensor(microvolts), 1e-6),
            "volts": lambda: (microvolts * 1e-6, 1e-4),
            "fixed": lambda: (lazy_windows(epochs), 1e-4),
            "events": lambda: (lazy_windows(epochs, create_windows_from_events), 1e-4),
        }[kind]()
        expected = learned.predict_proba(epochs)
        assert_allclose(learned.predict_proba(X), expected, atol=tolerance)

    def test_fits_on_a_windows_dataset(self, epochs):
        windows = lazy_windows(epochs, create_windows_from_events)
        fitted = tiny(max_epochs=15, lr=1e-2).fit(windows)
        assert fitted.score(windows) == fitted.score(epochs) == 1
        assert [ch["ch_name"] for ch in fitted.signal_["chs_info"]] == NAMES

    def test_unit_does_not_matter_in_training(self, epochs, microvolts, y):
        volts = tiny(sfreq=SFREQ).fit(microvolts * 1e-6, y)
        array = tiny(sfreq=SFREQ).fit(microvolts, y)
        named = tiny().fit(epochs)
        for other in (volts, named):
            assert_allclose(
                other.predict_proba(microvolts),
                array.predict_proba(microvolts),
                atol=1e-3,
            )

    def test_channels_are_reordered_by_name(self, learned, epochs):
        turned = epochs.copy().reorder_channels(["Pz", "STI", "C4", "Fz", "C3"])
        expected = learned.predict_proba(epochs)
        assert_array_equal(learned.predict_proba(turned), expected)
        assert_array_equal(
            learned.predict_proba(lazy_windows(turned)).argmax(1), expected.argmax(1)
        )

    def test_constant_channels(self, epochs, microvolts, y):
        flat = microvolts.copy()
        flat[:, 2] = 0
        flat[:, 1] = 5
        fitted = tiny(sfreq=SFREQ).fit(flat, y)
        assert np.isfinite(fitted.predict_proba(flat)).all()

    def test_rate_of_arrays(self, learned, microvolts, y):
        with pytest.raises(ValueError, match="pass sfreq="):
            tiny().fit(microvolts, y)
        # Nor does an earlier fit say the rate of new arrays.
        with pytest.raises(ValueError, match="pass sfreq="):
            copy.deepcopy(learned).fit(microvolts, y)

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda X: X[:, :2], "2 channels instead of 3"),
            (lambda X: X[..., :79], "windows of 79 samples .* instead of 80"),
            (lambda X: X[0], r"shape \(3, 80\) was given.*X\[np.newaxis\]"),
            (lambda X: X[:0], "at least one of each"),
        ],
        ids=["channels", "samples", "2d", "empty"],
    )
    def test_misfits_among_arrays(self, learned, microvolts, change, match):
        with pytest.raises(ValueError, match=match):
            learned.predict(change(microvolts))

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda e: e.resample(80, verbose="error"), "80 Hz instead of 40 Hz"),
            (lambda e: e.rename_channels({"C4": "Oz"}), r"missing \['C4'\].*\['Oz'\]"),
            (lambda e: e.drop_channels(["C4"]), r"missing \['C4'\], unexpected \[\]"),
            (lambda e: e.crop(0, 1), "windows of 41 samples"),
        ],
        ids=["rate", "names", "missing", "length"],
    )
    def test_misfits_among_epochs(self, learned, epochs, change, match):
        with pytest.raises(ValueError, match=match):
            learned.predict(change(epochs.copy()))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("method", ["fit", "predict"])
    def test_nan_and_inf(self, learned, epochs, bad, method):
        holed = epochs.copy()
        holed._data[3:5, 1, 7] = bad
        match = r"in 2 of 24 windows \(3, 4\) and 1 of 3 channels \(C4\).*interpolate"
        with pytest.raises(ValueError, match=match):
            getattr(clone(learned) if method == "fit" else learned, method)(holed)

    @pytest.mark.parametrize("method", ["fit", "predict"])
    def test_nan_in_a_windows_dataset(self, learned, epochs, method):
        holed = epochs.copy()
        holed._data[3, 1, 7] = np.nan
        windows = lazy_windows(holed, create_windows_from_events)
        with pytest.raises(ValueError, match=r"Window 3 holds NaN.*\(C4\).*Repair"):
            getattr(clone(learned) if method == "fit" else learned, method)(windows)

    def test_windows_shorter_than_a_token(self, microvolts, y):
        with pytest.raises(ValueError, match="shorter than one token of 100 samples"):
            tiny(sfreq=100).fit(microvolts, y)


# -- training ------------------------------------------------------------------------


class TestRandomness:
    def test_repeatable(self, epochs):
        first, again = (tiny().fit(epochs) for _ in range(2))
        assert_array_equal(first.predict_proba(epochs), again.predict_proba(epochs))

    def test_seeds_differ(self, epochs):
        seeds = [0, 1, None, None]
        fits = [weights(tiny(random_state=seed).fit(epochs)) for seed in seeds]
        assert len({tuple(fit.tolist()) for fit in fits}) == len(seeds)

    def test_random_state_object(self, epochs):
        first, again = (
            weights(tiny(random_state=np.random.RandomState(3)).fit(epochs))
            for _ in range(2)
        )
        assert_array_equal(first, again)

    @pytest.mark.parametrize("seed", [0, None])
    def test_global_state_is_left_alone(self, epochs, seed):
        def state():
            return (
                torch.get_rng_state().tolist(),
                str(np.random.get_state()),  # noqa: NPY002
                random.getstate(),
            )

        before = state()
        classifier = tiny(random_state=seed).fit(epochs)
        assert state() == before
        classifier.partial_fit(epochs)
        assert state() == before
        classifier.predict(epochs)
        assert state() == before


class TestVerbosity:
    @pytest.mark.filterwarnings("error")
    def test_silent(self, epochs, capfd):
        tiny(patience=1, max_epochs=4).fit(epochs).partial_fit(epochs).score(epochs)
        assert capfd.readouterr() == ("", "")

    def test_bar(self, epochs, capfd):
        fitted = tiny(verbose=1, max_epochs=3).fit(epochs)
        out, err = capfd.readouterr()
        assert out == ""
        assert "BIOT" in err
        assert "3/3" in err
        assert "valid_loss" in err
        pickle.dumps(fitted)

    def test_table(self, epochs, capfd):
        tiny(verbose=2, max_epochs=3).fit(epochs)
        out, err = capfd.readouterr()
        assert err == ""
        assert "train_loss" in out
        assert len(out.splitlines()) == 5


class TestTraining:
    def test_validation_is_stratified(self, microvolts):
        labels = np.repeat([0, 1, 2], [12, 8, 4])
        recorder = Recorder()
        tiny(sfreq=SFREQ, validation_fraction=0.25, callbacks=[recorder]).fit(
            microvolts, labels
        )
        assert Counter(labels[recorder.valid]) == {0: 3, 1: 2, 2: 1}
        assert sorted(recorder.train + recorder.valid) == list(range(24))

    @pytest.mark.parametrize("groups", [None, np.arange(24) // 2], ids=["no", "yes"])
    def test_validation_follows_the_seed(self, y, groups):
        choices = [tuple(split(y, groups, 0.2, seed)[1]) for seed in (0, 0, 1, 2, 3)]
        assert choices[0] == choices[1]
        assert len(set(choices)) > 1

    def test_windows_are_shuffled(self, epochs):
        class Order(Callback):
            def on_train_begin(self, net, **kwargs):
                self.seen = []

            def on_batch_begin(self, net, batch=None, **kwargs):
                self.seen.append(batch[0].sum().item())

        order = Order()
        tiny(validation_fraction=0, batch_size=1, callbacks=[order]).fit(epochs)
        first, second = order.seen[:24], order.seen[24:]
        assert first != second
        assert sorted(first) == sorted(second)

    def test_validation_by_groups(self, epochs, y):
        groups = np.repeat(list("abcdef"), 4)
        recorder = Recorder()
        for seed in range(4):
            tiny(random_state=seed, callbacks=[recorder]).fit(epochs, groups=groups)
            train, valid = recorder.train, recorder.valid
            assert sorted(train + valid) == list(range(24))
            assert not set(groups[train]) & set(groups[valid])
            assert set(y[train]) == set(y[valid]) == {1, 2}

    @pytest.mark.parametrize("seed", range(6))
    def test_training_keeps_every_class(self, seed):
        # Class 2 is in the last group alone, which so must not be kept away.
        labels, groups = np.arange(24) % 2, np.repeat(range(6), 4)
        labels[20:] = 2
        train, valid = split(labels, groups, 0.2, seed)
        assert set(labels[train]) == {0, 1, 2}
        assert set(labels[valid]) == {0, 1}
        # In two groups, one of them comes to each side.
        labels[16:18] = 2
        train, valid = split(labels, groups, 0.2, seed)
        assert set(labels[train]) == set(labels[valid]) == {0, 1, 2}

    @pytest.mark.parametrize(
        "groups", [np.zeros(24), np.tile([1, 2], 12)], ids=["one", "one-per-class"]
    )
    def test_no_group_to_keep(self, epochs, groups):
        match = "none of which can be kept .*validation_fraction=0"
        with pytest.raises(ValueError, match=match):
            tiny().fit(epochs, groups=groups)
        assert tiny(validation_fraction=0).fit(epochs, groups=groups).history_

    def test_groups_of_another_length(self, epochs):
        with pytest.raises(ValueError, match="Got 24 windows but 5 groups"):
            tiny().fit(epochs, groups=np.arange(5))

    @pytest.mark.filterwarnings("ignore:The groups kept for validation hold")
    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("counts", [[21, 3], [3, 3, 3, 3]], ids=str)
    def test_few_windows_of_a_class_in_many_groups(self, counts):
        labels = np.repeat(np.arange(len(counts)), counts)
        train, valid = split(labels, np.arange(len(labels)) // 2 * 2, 0.2, seed=0)
        assert set(labels[train]) == set(labels)
        assert valid

    def test_no_validation(self, epochs):
        recorder = Recorder()
        fitted = tiny(validation_fraction=0, callbacks=[recorder]).fit(epochs)
        assert len(recorder.train) == 24
        assert recorder.valid is None
        assert "valid_loss" not in fitted.history_[0]

    def test_too_few_windows_for_validation(self, epochs):
        with pytest.warns(
            UserWarning, match="4 windows of 2 classes, 2 of the rarest, are too few"
        ) as caught:
            fitted = tiny().fit(epochs[:4])
        assert caught[0].filename == __file__  # points at the user's line
        assert len(fitted.history_) == 2

    @pytest.mark.parametrize(
        ("monitor", "best"),
        [
            ("valid_loss", np.argmin),
            ("balanced_accuracy", np.argmax),
            ("roc_auc", np.argmax),
            ("neg_log_loss", np.argmax),
        ],
    )
    def test_best_weights_are_restored(self, epochs, monitor, best):
        recorder = Recorder()
        fitted = tiny(
            max_epochs=8,
            lr=1e-2,
            patience=None,
            monitor=monitor,
            validation_fraction=0.5,
            callbacks=[Spoil(), recorder],
        ).fit(epochs)
        scores = [row[monitor] for row in fitted.history_]
        assert len(scores) == len(recorder.states) == 8
        assert best(scores) < 7
        for name, value in fitted.net_.module_.state_dict().items():
            assert torch.equal(value, recorder.states[best(scores)][name])

    def test_monitor_of_many_classes(self, epochs):
        fitted = tiny(monitor="roc_auc_ovr").fit(epochs, np.arange(24) % 3)
        assert 0 <= fitted.history_[-1]["roc_auc_ovr"] <= 1

    def test_early_stopping(self, microvolts):
        labels = np.random.default_rng(0).permutation(np.arange(24) % 2)
        recorder = Recorder()
        fitted = tiny(
            sfreq=SFREQ, max_epochs=60, lr=3e-2, patience=3, callbacks=[recorder]
        ).fit(microvolts, labels)
        losses = [row["valid_loss"] for row in fitted.history_]
        assert len(losses) == np.argmin(losses) + 1 + 3 < 60
        # Callbacks see the last epoch too.
        assert len(recorder.states) == len(losses)

    def test_learning_rate(self, epochs):
        fitted = tiny(max_epochs=4, lr=0.01).fit(epochs)
        rates = [row["event_lr"] for row in fitted.history_]
        assert_allclose(rates, 0.005 * (1 + np.cos(np.pi * np.arange(4) / 4)))
        fitted = tiny(max_epochs=4, lr=0.01, lr_schedule=None).fit(epochs)
        assert fitted.net_.optimizer_.param_groups[0]["lr"] == 0.01

    def test_optimizer(self, epochs):
        fitted = tiny(lr=0.01, weight_decay=0.5, lr_schedule=None).fit(epochs)
        assert isinstance(fitted.net_.optimizer_, torch.optim.AdamW)
        assert fitted.net_.optimizer_.param_groups[0]["weight_decay"] == 0.5

    @pytest.mark.parametrize("batch_size", [5, 1000])
    def test_batch_size(self, epochs, batch_size):
        fitted = tiny(batch_size=batch_size, validation_fraction=0).fit(epochs)
        sizes = [row["train_batch_size"] for row in fitted.history_[0]["batches"]]
        assert sum(sizes) == 24
        assert max(sizes) == min(batch_size, 24)

    def test_class_weight(self, epochs, y):
        few = np.where(np.arange(24) < 4, y, 1)
        fits = {
            str(value): tiny(class_weight=value).fit(epochs, few)
            for value in (None, "balanced", {1: 24 / 44, 2: 24 / 4}, {1: 1, 2: 0})
        }
        plain, balanced, same, one = map(weights, fits.values())
        assert not torch.equal(plain, balanced)
        assert torch.allclose(balanced, same)
        assert torch.isfinite(one).all()

    @pytest.mark.parametrize("wanted", [1, 2])
    def test_class_of_no_weight_is_not_predicted(self, epochs, wanted):
        fitted = tiny(
            class_weight={wanted: 1, 3 - wanted: 0},
            batch_size=1,  # weights count in a batch of one class as well
            max_epochs=5,
            lr=1e-2,
        ).fit(epochs)
        assert set(fitted.predict(epochs)) == {wanted}

    def test_divergence(self, epochs):
        with pytest.raises(ValueError, match=r"diverged: after 2 epochs at lr=1e\+30"):
            tiny(lr=1e30, validation_fraction=0).fit(epochs)

    def test_interrupt_goes_on_to_the_caller_and_keeps_what_was_learned(self, epochs):
        fitted = tiny(max_epochs=9, callbacks=[Interrupt()])
        with pytest.raises(KeyboardInterrupt):
            fitted.fit(epochs)
        assert len(fitted.history_) == 2
        assert np.isfinite(fitted.predict_proba(epochs)).all()
        pickle.dumps(fitted)

    @pytest.mark.parametrize(
        ("shape", "sfreq", "n_classes"),
        [((12, 2, 80), 40, 2), ((12, 3, 120), 40, 2), ((12, 3, 80), 30, 3)],
        ids=["channels", "length", "rate-and-classes"],
    )
    def test_refit_on_other_windows(self, learned, shape, sfreq, n_classes):
        rng = np.random.default_rng(0)
        X, labels = rng.normal(size=shape), np.arange(12) % n_classes
        again = copy.deepcopy(learned).set_params(sfreq=sfreq, max_epochs=1)
        proba = again.fit(X, labels).predict_proba(X)
        assert proba.shape == (12, n_classes)
        anew = clone(again).fit(X, labels)
        assert_array_equal(proba, anew.predict_proba(X))
        assert (again.n_features_in_, again.signal_["sfreq"]) == (shape[1], sfreq)

    def test_failed_refit_leaves_the_old_fit(self, learned, epochs):
        classifier = copy.deepcopy(learned)
        holed = epochs.copy().pick(["C3"])
        holed._data[3] = np.nan
        for X in (holed, lazy_windows(holed, create_windows_from_events)):
            with pytest.raises(ValueError, match="NaN"):
                classifier.fit(X)
        assert_array_equal(
            classifier.predict_proba(epochs), learned.predict_proba(epochs)
        )
        assert classifier.n_features_in_ == 3


class TestGoingOn:
    def test_warm_start(self, epochs):
        classifier = tiny(warm_start=True).fit(epochs)
        first = weights(classifier)
        still = weights(classifier.set_params(lr=0.0).fit(epochs))
        assert torch.equal(first, still)
        assert not torch.equal(first, weights(tiny(lr=0.0).fit(epochs)))

    def test_warm_start_keeps_classes_and_order(self, epochs):
        classifier = tiny(warm_start=True).fit(epochs, np.arange(24) % 3)
        classifier.set_params(lr=0.0)
        expected = classifier.predict_proba(epochs)
        turned = epochs.copy().reorder_channels(["Pz", "C3", "C4", "Fz", "STI"])
        classifier.fit(turned, np.arange(24) % 2)
        assert_array_equal(classifier.classes_, [0, 1, 2])
        assert [ch["ch_name"] for ch in classifier.signal_["chs_info"]] == NAMES
        assert_array_equal(classifier.predict_proba(turned), expected)
        assert_array_equal(classifier.predict_proba(epochs), expected)

    def test_partial_fit_trains_one_epoch_more(self, epochs):
        classifier = tiny(max_epochs=9)
        for n in (1, 2, 3):
            before = weights(classifier) if n > 1 else None
            assert classifier.partial_fit(epochs) is classifier
            assert len(classifier.history_) == n
            assert before is None or not torch.equal(before, weights(classifier))
        steps = {int(s["step"]) for s in classifier.net_.optimizer_.state.values()}
        assert steps == {3}  # Adam went on

    def test_partial_fit_learns(self, epochs):
        classifier = tiny(lr=1e-2)
        for _ in range(15):
            classifier.partial_fit(epochs)
        assert classifier.score(epochs) == 1

    def test_partial_fit_seeds_every_epoch_anew(self, epochs):
        # At a rate of 0 the loss differs by dropout alone.
        classifier = tiny(lr=0.0)
        losses = [
            classifier.partial_fit(epochs).history_[-1]["train_loss"] for _ in range(3)
        ]
        assert len(set(losses)) == 3

    def test_partial_fit_after_fit_keeps_the_order(self, learned, epochs):
        classifier = copy.deepcopy(learned).set_params(lr=0.0)
        turned = epochs.copy().reorder_channels(["Pz", "C3", "C4", "Fz", "STI"])
        classifier.partial_fit(turned)
        expected = learned.predict_proba(epochs)
        assert_array_equal(classifier.predict_proba(turned), expected)

    def test_partial_fit_classes(self, epochs):
        classifier = tiny().partial_fit(epochs, classes=[3, 2, 1])
        assert_array_equal(classifier.classes_, [1, 2, 3])
        assert classifier.predict_proba(epochs).shape == (24, 3)
        classifier.partial_fit(epochs["1"], classes=[1, 2, 3])
        with pytest.raises(ValueError, match=r"y holds \[4\], which are none of the"):
            classifier.partial_fit(epochs, np.full(24, 4))
        with pytest.raises(ValueError, match=r"\[1, 2\] differs from .* first call"):
            classifier.partial_fit(epochs, classes=[1, 2])

    def test_failed_partial_fit_leaves_the_last_epoch(self, epochs):
        classifier = tiny(batch_size=4).partial_fit(epochs)
        undisturbed = copy.deepcopy(classifier)
        holed = epochs.copy()
        holed._data[11, 1, 7] = np.nan
        with pytest.raises(ValueError, match="Window 11 holds NaN"):
            classifier.partial_fit(lazy_windows(holed, create_windows_from_events))
        assert len(classifier.history_) == 1
        for each in (classifier, undisturbed):
            each.partial_fit(epochs)
        assert torch.equal(weights(classifier), weights(undisturbed))

    def test_another_model(self, epochs):
        classifier = tiny(warm_start=True).fit(epochs)
        classifier.set_params(module__emb_size=24)
        with pytest.raises(ValueError, match=r"emb_size was 16 and is 24"):
            classifier.fit(epochs)
        with pytest.raises(ValueError, match=r"emb_size was 16 and is 24"):
            classifier.partial_fit(epochs)

    def test_other_windows(self, learned, microvolts, y):
        with pytest.raises(ValueError, match="2 channels instead of 3"):
            copy.deepcopy(learned).partial_fit(microvolts[:, :2], y)


# -- inside scikit-learn -------------------------------------------------------------


class TestModelSelection:
    @pytest.mark.parametrize("kind", ["epochs", "epochs-no-y", "array"])
    def test_cross_val_score(self, epochs, microvolts, y, kind):
        X = microvolts if kind == "array" else epochs
        labels = None if kind == "epochs-no-y" else np.array(["a", "b"])[y - 1]
        classifier = tiny(sfreq=SFREQ, max_epochs=15, lr=1e-2, class_weight=None)
        scores = cross_val_score(classifier, X, labels, cv=2, error_score="raise")
        assert scores.mean() > 0.8

    @pytest.mark.parametrize("kind", ["epochs", "array"])
    def test_grid_search(self, epochs, microvolts, y, kind):
        X = microvolts if kind == "array" else epochs
        grid = {"lr": [1e-9, 1e-2], "module__emb_size": np.array([8, 16])}
        search = GridSearchCV(
            tiny(sfreq=SFREQ, max_epochs=12), grid, cv=2, error_score="raise"
        ).fit(X, y)
        assert search.best_params_["lr"] == 1e-2
        module = search.best_estimator_.net_.module_
        assert module.emb_size == search.best_params_["module__emb_size"]
        assert search.score(X, y) > 0.8

    def test_grid_search_without_y(self, epochs):
        search = GridSearchCV(tiny(), {"lr": [1e-3]}, cv=2, error_score="raise")
        assert len(search.fit(epochs).predict(epochs)) == 24

    @pytest.mark.parametrize("kind", ["epochs", "array"])
    def test_cross_validate_with_groups(self, epochs, microvolts, y, kind):
        groups = np.repeat(np.arange(6), 4)
        results = cross_validate(
            tiny(sfreq=SFREQ, callbacks=[Recorder()]),
            microvolts if kind == "array" else epochs,
            y,
            groups=groups,
            cv=GroupKFold(2),
            params={"groups": groups},
            return_estimator=True,
            return_indices=True,
            error_score="raise",
        )
        for fitted, rows in zip(
            results["estimator"], results["indices"]["train"], strict=True
        ):
            (recorder,) = fitted.callbacks
            inside = groups[rows]
            assert not set(inside[recorder.train]) & set(inside[recorder.valid])

    def test_pipeline(self, microvolts, y):
        pipeline = make_pipeline(
            FunctionTransformer(np.negative), tiny(sfreq=SFREQ, max_epochs=15, lr=1e-2)
        )
        pipeline.set_params(biotclassifier__module__emb_size=8)
        assert pipeline.fit(microvolts, y).score(microvolts, y) > 0.9
        assert pipeline[-1].net_.module_.emb_size == 8


class TestNothingSilent:
    """Regressions: each of these gave an answer, or somebody else's error."""

    def test_an_undefined_score_is_no_choice_of_epoch(self, epochs):
        groups = np.repeat(np.arange(4), 6)
        one_class_each = np.repeat([0, 1, 0, 1], 6)
        classifier = tiny(max_epochs=9, monitor="roc_auc")
        with (
            pytest.warns(UserWarning, match="hold 1 of 2 classes"),
            pytest.raises(ValueError, match=r"roc_auc.* is nan .*monitor='valid_loss'"),
        ):
            classifier.fit(epochs, one_class_each, groups=groups)

    def test_a_score_that_cannot_be_computed(self, epochs):
        labels = np.arange(24) % 3
        with pytest.raises(ValueError, match="monitor='roc_auc' cannot be computed"):
            tiny(monitor="roc_auc").fit(epochs, labels)

    def test_an_interrupt_before_the_first_epoch_fits_nothing(self, epochs):
        class AtOnce(Callback):
            def on_batch_begin(self, net, **kwargs):
                raise KeyboardInterrupt

        classifier = tiny(callbacks=[AtOnce()])
        with pytest.raises(KeyboardInterrupt):
            classifier.fit(epochs)
        with pytest.raises(NotFittedError):
            classifier.predict(epochs)

    @pytest.mark.parametrize("scaling", [None, 100])
    def test_without_own_scaling_the_unit_must_stay(self, epochs, microvolts, scaling):
        classifier = tiny(module__input_scaling=scaling).fit(epochs)
        with pytest.raises(ValueError, match="fitted on Epochs: give it the same"):
            classifier.predict(microvolts)
        classifier = tiny(module__input_scaling=scaling, sfreq=40)
        classifier.fit(microvolts, epochs.events[:, 2])
        with pytest.raises(ValueError, match="fitted on an array or a dataset"):
            classifier.predict(epochs)

    def test_outputs_that_are_not_finite(self, learned, microvolts):
        broken = copy.deepcopy(learned)
        with torch.no_grad():
            broken.net_.module_.final_layer.linear.weight.fill_(torch.inf)
        with pytest.raises(ValueError, match="outputs are not finite for windows"):
            broken.predict(microvolts)

    def test_threads_take_turns(self, epochs):
        def fit(_):
            return tiny().fit(epochs).predict_proba(epochs)

        with ThreadPoolExecutor(3) as pool:
            first, *others = pool.map(fit, range(3))
        for other in others:
            assert_array_equal(first, other)

    def test_reversed_and_read_only_arrays(self, microvolts):
        labels = np.arange(24) % 2
        backwards = np.ascontiguousarray(microvolts[:, ::-1], np.float32)[:, ::-1]
        backwards.flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fitted = tiny(sfreq=40).fit(backwards, labels)
        plain = tiny(sfreq=40).fit(microvolts.astype(np.float32), labels)
        assert_array_equal(
            fitted.predict_proba(microvolts), plain.predict_proba(microvolts)
        )

    @pytest.mark.parametrize(
        "y", [[None] + ["a", "b"] * 11 + ["a"], [np.nan] + [0.0, 1.0] * 11 + [1.0]]
    )
    def test_missing_labels(self, epochs, y):
        with pytest.raises(ValueError, match=r"y contains NaN or None at \[0\]"):
            tiny().fit(epochs, y)

    def test_missing_groups(self, epochs):
        groups = np.array([None] + ["a", "b"] * 11 + ["a"], dtype=object)
        with pytest.raises(ValueError, match=r"groups is missing at \[0\]"):
            tiny().fit(epochs, groups=groups)

    def test_callbacks_that_are_none(self, epochs):
        with pytest.raises(TypeError, match="holds 'accuracy'"):
            tiny(callbacks=["accuracy"]).fit(epochs)

    def test_most_groups_may_be_kept(self):
        labels, groups = np.arange(100) % 2, np.arange(100) // 10
        train, valid = split(labels, groups, 0.8, seed=0)
        assert (len(train), len(valid)) == (20, 80)
        assert not set(groups[train]) & set(groups[valid])
