"""BIOTRegressor: targets in their unit, and every way to fit them."""

import copy
import pickle

import numpy as np
import pytest
import torch
from braindecode.datasets import BaseConcatDataset
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone, is_regressor
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from braindecode_biot import BIOT, BIOTRegressor
from braindecode_biot.samples import TargetScale
from recordings import make_dataset, make_raw

SFREQ = 40
TINY = dict(max_epochs=2, module__emb_size=16, module__n_layers=1, random_state=0)


def tiny(**params):
    return BIOTRegressor(**(TINY | dict(sfreq=SFREQ) | params))


@pytest.fixture(scope="module")
def strength():
    """Targets in ms, far from zero: how strong 10 Hz is."""
    return 500 + 100 * np.random.default_rng(1).uniform(size=64)


@pytest.fixture(scope="module")
def X(strength):
    """Windows with 10 Hz in the first channel beside noise, (64, 3, 80), in µV."""
    X = np.random.default_rng(0).normal(size=(64, 3, 80))
    wave = np.sin(2 * np.pi * 10 * np.arange(80) / SFREQ + 1)
    X[:, 0] += (strength[:, None] - 500) / 20 * wave
    return X


@pytest.fixture(scope="module")
def two(strength):
    """Two targets of units that differ by orders of magnitude."""
    return np.c_[strength, 1e-6 * (600 - strength)]


@pytest.fixture(scope="module")
def learned(X, strength):
    return tiny(max_epochs=30, lr=1e-2).fit(X, strength)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = BIOT(
        emb_size=16, n_layers=1, hop_length=20, n_chans=3, n_times=80, sfreq=SFREQ,
        n_outputs=5,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("weights") / "trained"
    model.save_pretrained(folder)
    return folder


class Recorder(Callback):
    """Keep which windows were trained on, and the weights after each epoch."""

    def on_train_begin(self, net, **kwargs):
        self.states = []

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.train, self.valid = dataset_train.indices, dataset_valid.indices

    def on_epoch_end(self, net, **kwargs):
        self.states.append(copy.deepcopy(net.module_.state_dict()))


class TestTargets:
    def test_learns_in_the_unit(self, learned, X, strength):
        assert learned.score(X, strength) > 0.8
        predicted = learned.predict(X)
        assert predicted.shape == (64,)
        assert abs(predicted.mean() - strength.mean()) < 20
        assert learned.score(X, strength) == r2_score(strength, predicted)
        assert is_regressor(learned)

    def test_several_targets(self, X, two):
        fitted = tiny(max_epochs=30, lr=1e-2).fit(X, two)
        assert fitted.predict(X).shape == (64, 2)
        assert (r2_score(two, fitted.predict(X), multioutput="raw_values") > 0.7).all()
        assert fitted.signal_["n_outputs"] == fitted.model_.n_outputs == 2

    def test_a_column_stays_a_column(self, X, strength, learned):
        fitted = clone(learned).fit(X, strength[:, None])
        assert_array_equal(fitted.predict(X), learned.predict(X)[:, None])

    def test_unit_does_not_matter_in_training(self, X, strength):
        plain = tiny().fit(X, strength).predict(X)
        other = tiny().fit(X, 1e-9 * strength - 7).predict(X)
        assert_allclose((other + 7) * 1e9, plain, rtol=1e-4)

    def test_scale(self, learned, strength):
        assert_allclose(learned.target_mean_, strength.mean())
        assert_allclose(learned.target_scale_, strength.std())
        scale = TargetScale.of(strength)
        standard = scale.standardize(strength)
        assert (standard.shape, standard.dtype) == ((64, 1), np.float32)
        assert_allclose([standard.mean(), standard.std()], [0, 1], atol=1e-6)
        assert_allclose(scale(torch.as_tensor(standard)), strength, rtol=1e-6)

    def test_a_constant_target(self, X):
        y = np.c_[np.full(64, 0.1), np.arange(64)]
        fitted = tiny(validation_fraction=0).fit(X, y)
        assert fitted.target_scale_[0] == 1
        assert np.isfinite(fitted.predict(X)).all()

    @pytest.mark.parametrize(
        ("y", "match"),
        [
            (None, "requires y to be passed"),
            (np.ones(63), "Got 64 windows but 63 labels"),
            (np.ones((64, 2, 2)), r"shape \(64, 2, 2\), expected \(n_windows,\)"),
            (np.ones((64, 0)), r"shape \(64, 0\), expected"),
            (np.r_[np.ones(63), np.nan], r"y contains NaN or None at \[63\]"),
            ([[1.0, None]] + [[0.0, 1.0]] * 63, r"NaN or None at \[0\]"),
            (np.r_[np.inf, np.ones(63)], r"y contains infinity at \[0\]"),
            (["a"] * 64, "numbers, got <U1 .* BIOTClassifier"),
            (np.ones(64, complex), "numbers, got complex128 .*they are complex"),
        ],
    )
    def test_bad(self, X, y, match):
        with pytest.raises(ValueError, match=match):
            tiny().fit(X, y)

    def test_event_codes_are_targets_only_if_meant(self, epochs):
        for call in (tiny().fit, tiny().fit(epochs, epochs.events[:, 2]).score):
            with pytest.raises(ValueError, match=r"event codes .*epochs\.events"):
                call(epochs)

    def test_targets_of_a_dataset(self):
        ages = [20.5, 31.0, 44.5, 61.0]
        ds = BaseConcatDataset(
            [
                make_dataset(make_raw(seed=i), subject=i, target=age)
                for i, age in enumerate(ages)
            ]
        )
        fitted = tiny(sfreq=None).fit(ds)
        assert_allclose(fitted.target_mean_, np.mean(ages))
        assert len(fitted.predict(ds)) == len(ds)
        assert fitted.score(ds) == fitted.score(ds, np.repeat(ages, len(ds) // 4))


class TestTraining:
    def test_validation_is_random(self, X, strength):
        recorder = Recorder()
        fitted = tiny(callbacks=[recorder]).fit(X, strength)
        assert len(recorder.valid) == 13
        assert sorted(recorder.train + recorder.valid) == list(range(64))
        assert recorder.valid != sorted(recorder.valid)
        assert "valid_loss" in fitted.history_[0]

    def test_validation_by_groups(self, X, strength):
        recorder, groups = Recorder(), np.arange(64) // 8
        tiny(callbacks=[recorder]).fit(X, strength, groups)
        assert recorder.valid
        assert not set(groups[recorder.train]) & set(groups[recorder.valid])
        with pytest.raises(ValueError, match="of 1 groups, none of which can be kept"):
            tiny().fit(X, strength, np.zeros(64))

    def test_monitor_is_in_the_unit(self, X, strength):
        recorder = Recorder()
        fitted = tiny(
            monitor="neg_mean_absolute_error",
            max_epochs=6,
            patience=None,
            lr=3e-2,
            callbacks=[recorder],
        ).fit(X, strength)
        scores = [row["neg_mean_absolute_error"] for row in fitted.history_]
        for name, value in fitted.model_.state_dict().items():
            assert torch.equal(value, recorder.states[np.argmax(scores)][name])
        valid = recorder.valid
        error = mean_absolute_error(strength[valid], fitted.predict(X[valid]))
        assert_allclose(-max(scores), error, rtol=1e-4)

    @pytest.mark.parametrize("monitor", ["accuracy", "roc_auc"])
    def test_monitors_of_classes(self, X, strength, monitor):
        with pytest.raises(ValueError, match=f"monitor='{monitor}' cannot be computed"):
            tiny(monitor=monitor).fit(X, strength)

    def test_an_undefined_score(self, X, strength):
        with (
            pytest.warns(UserWarning, match="R.2 score is not well-defined"),
            pytest.raises(ValueError, match=r"r2 .* too few windows or classes"),
        ):
            tiny(monitor="r2").fit(X[:4], strength[:4])

    def test_what_is_removed_in_training(self, X, two):
        fitted = tiny(missing="mask", augment_missing=1.0).fit(X, two)
        assert np.isfinite(fitted.predict(X)).all()

    def test_warm_start_goes_on_with_the_scale(self, learned, X, strength):
        regressor = copy.deepcopy(learned).set_params(warm_start=True, lr=0.0)
        expected = learned.predict(X)
        regressor.fit(X[:32], 2 * strength[:32])
        assert_array_equal(regressor.predict(X), expected)
        assert_array_equal(regressor.target_mean_, learned.target_mean_)

    def test_partial_fit(self, X, strength, two):
        regressor = tiny(lr=1e-2)
        for n in range(1, 21):
            assert regressor.partial_fit(X, strength) is regressor
            assert len(regressor.history_) == n
        assert regressor.score(X, strength) > 0.5
        with pytest.raises(ValueError, match=r"shape \(64, 2\), but .* before"):
            regressor.partial_fit(X, two)

    def test_failed_refit_leaves_the_old_fit(self, learned, X, strength):
        regressor = copy.deepcopy(learned)
        with pytest.raises(ValueError, match="diverged"):
            regressor.set_params(lr=1e30, validation_fraction=0).fit(X, 2 * strength)
        assert_array_equal(regressor.predict(X), learned.predict(X))

    def test_no_class_weight(self):
        with pytest.raises(TypeError, match="no argument 'class_weight'"):
            BIOTRegressor(class_weight="balanced")


class TestFinetuning:
    @pytest.mark.parametrize("targets", ["strength", "two"])
    def test_head_is_a_ridge_regression(self, checkpoint, X, request, targets):
        y = request.getfixturevalue(targets)
        fitted = tiny(pretrained=checkpoint, finetune="head").fit(X, y)
        features = torch.nn.functional.elu(torch.as_tensor(fitted.embed(X))).numpy()
        direct = make_pipeline(StandardScaler(), Ridge()).fit(features, y)
        assert_allclose(fitted.predict(X), direct.predict(features), rtol=1e-4)
        (row,) = fitted.history_
        error = (fitted.predict(X) - y) / fitted.target_scale_
        assert_allclose(row["train_loss"], np.square(error).mean(), rtol=1e-3)

    @pytest.mark.parametrize("finetune", ["full", "layerwise", "lora"])
    def test_other_ways(self, checkpoint, X, strength, finetune):
        if finetune == "lora":
            pytest.importorskip("peft")
        fitted = tiny(pretrained=checkpoint, finetune=finetune, lr=1e-2, max_epochs=30)
        assert fitted.fit(X, strength).score(X, strength) > 0.5

    def test_frozen_at_first(self, checkpoint, X, strength):
        before = BIOT.from_checkpoint(checkpoint).tokens.projection.weight
        fitted = tiny(pretrained=checkpoint, freeze_epochs=1)
        fitted.partial_fit(X, strength)
        assert torch.equal(fitted.model_.tokens.projection.weight, before)
        fitted.partial_fit(X, strength)
        assert not torch.equal(fitted.model_.tokens.projection.weight, before)


class TestModelSelection:
    def test_grid_search(self, X, strength):
        search = GridSearchCV(
            tiny(max_epochs=25),
            {"lr": [1e-9, 1e-2]},
            cv=2,
            scoring="neg_mean_absolute_error",
            error_score="raise",
        ).fit(X, strength)
        assert search.best_params_ == {"lr": 1e-2}

    def test_cross_validate_with_groups_on_epochs(self, epochs):
        groups = np.repeat(np.arange(6), 4)
        results = cross_validate(
            tiny(sfreq=None),
            epochs,
            epochs.events[:, 2] / 2,
            groups=groups,
            cv=GroupKFold(2),
            params={"groups": groups},
            error_score="raise",
        )
        assert np.isfinite(results["test_score"]).all()

    def test_pickle(self, learned, X):
        again = pickle.loads(pickle.dumps(learned))
        assert_array_equal(again.predict(X), learned.predict(X))
