"""The host's contract, over every public model and estimator.

A class that is added to ``MODELS``, ``ESTIMATORS`` or ``EMBEDDERS`` must hold all of
it: estimators learn from windows, embedders only hold a model for them.
"""

import copy
import inspect
import io
import json
import pickle
import re
import subprocess
import sys

import mne
import numpy as np
import pytest
import torch
from braindecode import EEGClassifier
from braindecode.datasets import BaseConcatDataset, RawDataset
from braindecode.models.base import EEGModuleMixin
from braindecode.preprocessing import create_windows_from_events
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

import braindecode_biot
from braindecode_biot import BIOT, BIOTClassifier, BIOTEmbedding, BIOTRegressor

pytestmark = [
    # The host's own, at `from_config`.
    pytest.mark.filterwarnings("ignore:Modifying chs_info"),
]

MODELS = [BIOT]
ESTIMATORS = [BIOTClassifier, BIOTRegressor]
EMBEDDERS = [BIOTEmbedding]
SMALL = dict(emb_size=16, n_layers=1, hop_length=20)
SIGNAL = dict(n_outputs=2, n_chans=3, n_times=80, sfreq=40)

over_models = pytest.mark.parametrize("cls", MODELS)
over_estimators = pytest.mark.parametrize("cls", ESTIMATORS)
over_all = pytest.mark.parametrize("cls", ESTIMATORS + EMBEDDERS)


def make(cls, **params):
    torch.manual_seed(0)
    return cls(**(SMALL | SIGNAL | params)).eval()


def make_estimator(cls, **params):
    training = {} if cls in EMBEDDERS else {"max_epochs": 1}
    return cls(
        random_state=0,
        **training,
        **{f"module__{k}": v for k, v in (SMALL | params).items()},
    )


def answer(fitted, X):
    """Say what an estimator is for: its predictions, or its embeddings."""
    return fitted.predict(X) if hasattr(fitted, "predict") else fitted.transform(X)


def windows(batch=4, n_chans=3, n_times=80):
    return torch.randn(
        batch, n_chans, n_times, generator=torch.Generator().manual_seed(1)
    )


@pytest.fixture(scope="module")
def dataset(epochs):
    """Windows of the three good channels as a braindecode dataset."""
    good = epochs.copy().pick(["C3", "C4", "Pz"])
    raw = mne.io.RawArray(np.hstack(good.get_data()), good.info, verbose="error")
    codes = good.events[:, 2].astype(str)
    raw.set_annotations(mne.Annotations(2.0 * np.arange(len(codes)), 2, codes))
    recordings = BaseConcatDataset([RawDataset(raw, {"subject": 1})])
    return create_windows_from_events(
        recordings, mapping={"1": 0, "2": 1}, verbose="error"
    )


def test_tables_are_complete():
    public = {getattr(braindecode_biot, name) for name in braindecode_biot.__all__}
    classes = {cls for cls in public if isinstance(cls, type)}
    assert {c for c in classes if issubclass(c, EEGModuleMixin)} == set(MODELS)
    estimators = {c for c in classes if issubclass(c, BaseEstimator)}
    assert {c for c in estimators if hasattr(c, "predict")} == set(ESTIMATORS)
    assert {c for c in estimators if hasattr(c, "embed")} == {*ESTIMATORS, *EMBEDDERS}


def test_estimators_share_their_defaults():
    defaults = {}
    for cls in ESTIMATORS + EMBEDDERS:
        for name, value in make_estimator(cls).get_params().items():
            assert defaults.setdefault(name, value) == value, (cls, name)


@pytest.mark.parametrize("cls", MODELS + ESTIMATORS + EMBEDDERS)
def test_docstring_has_all_parameters(cls):
    documented = {
        name.strip("* ")
        for line in re.findall(r"^(\S.*?) :|^(\*\*\w+)$", inspect.getdoc(cls), re.M)
        for name in "".join(line).split(",")
    }
    assert inspect.signature(cls).parameters.keys() <= documented


# -- models ------------------------------------------------------------------------


@over_models
class TestSignature:
    def test_begins_as_on_the_api_page(self, cls):
        assert str(inspect.signature(cls)).startswith(
            "(emb_size=256, att_num_heads=8, n_layers=4, sfreq=200, hop_length=100, "
            "return_feature=False, n_outputs=None, n_chans=None, chs_info=None, "
            "n_times=None, input_window_seconds=None"
        )

    def test_the_rest_is_by_keyword_with_default(self, cls):
        for parameter in list(inspect.signature(cls).parameters.values())[11:]:
            assert parameter.kind is parameter.KEYWORD_ONLY
            assert parameter.default is not parameter.empty

    def test_positionally(self, cls, epochs):
        chs = epochs.info["chs"][:3]
        model = cls(16, 4, 1, 40, 20, True, 2, 3, chs, 80, 2.0)
        assert (model.emb_size, model.att_num_heads, model.n_layers) == (16, 4, 1)
        assert (model.hop_length, model.return_feature) == (20, True)
        assert (model.n_outputs, model.n_chans, model.n_times) == (2, 3, 80)
        assert (model.sfreq, model.input_window_seconds) == (40, 2.0)
        assert model.chs_info == chs

    @pytest.mark.parametrize(
        ("given", "inferred"),
        [
            (dict(n_times=80, sfreq=40), dict(input_window_seconds=2)),
            (dict(n_times=None, input_window_seconds=2), dict(n_times=80)),
            (
                dict(sfreq=None, input_window_seconds=2, token_size=40),
                dict(sfreq=40),
            ),
        ],
    )
    def test_signal_arguments_are_inferred(self, cls, given, inferred):
        model = make(cls, **given)
        assert {name: getattr(model, name) for name in inferred} == inferred
        assert model(windows()).shape == (4, 2)

    def test_channels_are_inferred(self, cls, epochs):
        model = make(cls, n_chans=None, chs_info=epochs.info["chs"][:3])
        assert model.n_chans == 3

    @pytest.mark.parametrize(
        ("missing", "match"),
        [
            ("n_outputs", "n_outputs not specified"),
            ("n_chans", "n_chans could not be inferred"),
            ("n_times", "n_times could not be inferred"),
            ("sfreq", "sfreq could not be inferred"),
        ],
    )
    def test_or_an_error(self, cls, missing, match):
        with pytest.raises(ValueError, match=match):
            make(cls, **{missing: None})

    def test_contradiction(self, cls, epochs):
        with pytest.raises(ValueError, match="n_times=80 different"):
            make(cls, input_window_seconds=3)
        with pytest.raises(ValueError, match="n_chans=3 different"):
            make(cls, chs_info=epochs.info["chs"][:2])

    def test_token_dropout(self, cls):
        assert inspect.signature(cls).parameters["drop_prob"].default == 0.1
        dropouts = [m for m in make(cls).tokens.modules() if isinstance(m, nn.Dropout)]
        assert [dropout.p for dropout in dropouts] == [0.1]


@over_models
class TestConfig:
    def test_json_round_trip(self, cls, epochs):
        model = make(
            cls,
            chs_info=epochs.info["chs"][:3],
            activation=nn.GELU,
            return_feature=True,
        )
        config = json.dumps(model.get_config())
        again = cls.from_config(json.loads(config))
        assert json.dumps(again.get_config()) == config
        assert [ch["ch_name"] for ch in again.chs_info] == ["C3", "C4", "Pz"]
        assert_array_equal(again.chs_info[0]["loc"], model.chs_info[0]["loc"])
        assert isinstance(again.final_layer.activation, nn.GELU)
        again.load_state_dict(model.state_dict())
        for ours, theirs in zip(again.eval()(windows()), model(windows()), strict=True):
            assert torch.equal(ours, theirs)

    def test_numpy_scalars(self, cls):
        scalars = dict(
            n_outputs=np.int64(2),
            sfreq=np.float64(40),
            emb_size=np.int32(16),
            drop_prob=np.float32(0.25),
        )
        config = json.loads(json.dumps(make(cls, **scalars).get_config()))
        assert scalars.items() <= config.items()
        assert cls.from_config(config).n_outputs == 2

    def test_every_parameter_is_in_it(self, cls, epochs):
        config = make(cls, chs_info=epochs.info["chs"][:3]).get_config()
        assert inspect.signature(cls).parameters.keys() <= config.keys()

    def test_reset_head(self, cls):
        model = make(cls)
        before = model(windows(), return_features=True)["features"]
        model.reset_head(5)
        assert model(windows()).shape == (4, 5)
        assert model.n_outputs == model.get_config()["n_outputs"] == 5
        assert torch.equal(model(windows(), return_features=True)["features"], before)
        cls.from_config(model.get_config()).load_state_dict(model.state_dict())
        with pytest.raises(ValueError, match="must be positive"):
            model.reset_head(0)

    def test_repr_and_str(self, cls):
        model = make(cls)
        assert repr(model).startswith(cls.__name__)
        assert "final_layer" in str(model)
        assert "Total params" in str(model)

    def test_hub_note_names_this_package(self, cls):
        assert "braindecode.models import" not in cls.__doc__


def test_import_without_huggingface_hub():
    code = "import sys; sys.modules['huggingface_hub'] = None\n" + "\n".join(
        f"from braindecode_biot import {cls.__name__}\n{cls.__name__}.__doc__"
        for cls in MODELS + ESTIMATORS + EMBEDDERS
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


@over_models
class TestForward:
    def test_return_feature(self, cls):
        x, plain = windows(), make(cls)
        logits, embedding = make(cls, return_feature=True)(x)
        assert (logits.shape, embedding.shape) == ((4, 2), (4, 16))
        assert torch.equal(logits, plain(x))
        assert torch.equal(plain.final_layer(embedding), logits)

    @pytest.mark.parametrize("return_feature", [False, True])
    def test_return_features(self, cls, return_feature):
        model = make(cls, return_feature=return_feature)
        features = model(windows(), return_features=True)
        assert features.keys() == {"features", "cls_token"}
        assert features["cls_token"] is None
        assert torch.equal(
            model.final_layer(features["features"]), make(cls)(windows())
        )

    def test_final_layer_is_among_the_last(self, cls):
        model = make(cls)
        assert "final_layer" in [name for name, _ in model.named_children()][-2:]
        assert list(model.final_layer.modules())[-1].out_features == 2

    def test_logits_not_probabilities(self, cls):
        out = make(cls)(windows())
        assert not torch.allclose(out.exp().sum(1), torch.ones(4), atol=1e-2)

    def test_gradient_reaches_every_parameter(self, cls):
        model = make(cls, n_layers=2).train()
        model(windows(batch=8)).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert (parameter.grad != 0).any(), name

    def test_eval_is_deterministic(self, cls):
        model = make(cls)
        assert torch.equal(model(windows()), model(windows()))
        model.train()
        assert not torch.equal(model(windows()), model(windows()))

    def test_windows_do_not_see_each_other(self, cls):
        model, x = make(cls), windows()
        one_by_one = torch.cat([model(window[None]) for window in x])
        assert_allclose(model(x).detach(), one_by_one.detach(), atol=1e-5)

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nan_is_an_error(self, cls, bad):
        x = windows()
        x[2, 1, 5] = bad
        with pytest.raises(ValueError, match=r"in 1 of 4 windows, in channels \[1\]"):
            make(cls)(x)

    @pytest.mark.parametrize("n_chans", [2, 4])
    def test_fewer_or_more_channels_are_an_error(self, cls, n_chans):
        with pytest.raises(ValueError, match=rf"n_chans=3.*got \(4, {n_chans}, 80\)"):
            make(cls)(windows(n_chans=n_chans))

    @pytest.mark.parametrize("n_times", [79, 81, 160])
    def test_another_length_is_an_error(self, cls, n_times):
        with pytest.raises(ValueError, match=rf"n_times=80.*got \(4, 3, {n_times}\)"):
            make(cls)(windows(n_times=n_times))

    def test_more_than_a_thousand_frames(self, cls):
        model = make(cls, n_times=1100, token_size=4, hop_length=1)
        assert model.n_frames == 1097
        assert torch.isfinite(model(windows(n_times=1100))).all()

    def test_hop_length_is_never_stale(self, cls):
        assert make(cls, hop_length=7).hop_length == 7
        with pytest.raises(ValueError, match="hop_length=41 is larger than the token"):
            make(cls, hop_length=41)


@over_models
class TestSaving:
    def test_state_dict(self, cls):
        model, file = make(cls), io.BytesIO()
        torch.save(model.state_dict(), file)
        file.seek(0)
        other = make(cls)
        other.apply(lambda m: hasattr(m, "reset_parameters") and m.reset_parameters())
        assert not torch.equal(other(windows()), model(windows()))
        other.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(other(windows()), model(windows()))

    @pytest.mark.parametrize(
        "duplicate",
        [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
        ids=["deepcopy", "pickle"],
    )
    def test_copies(self, cls, duplicate):
        model = make(cls)
        expected = model(windows())
        other = duplicate(model)
        assert torch.equal(other(windows()), expected)
        assert other.get_config() == model.get_config()
        with torch.no_grad():
            next(other.parameters()).add_(1)
        assert torch.equal(model(windows()), expected)


@over_models
class TestInsideTheHost:
    """``EEGClassifier(module=...)`` works as for any model of the host."""

    @pytest.fixture
    def classifier(self, cls):
        return EEGClassifier(
            cls,
            max_epochs=1,
            batch_size=8,
            train_split=None,
            verbose=0,
            **{f"module__{name}": value for name, value in SMALL.items()},
        )

    @pytest.fixture
    def y(self, epochs):
        return epochs.events[:, 2] - 1

    def test_epochs(self, classifier, epochs, y):
        classifier.fit(epochs, y)
        assert classifier.module_.sfreq == 40
        assert classifier.predict_proba(epochs).shape == (24, 2)

    def test_arrays(self, classifier, microvolts, y):
        classifier.set_params(module__sfreq=40).fit(microvolts.astype("float32"), y)
        assert classifier.module_.n_times == 80
        assert classifier.predict(microvolts.astype("float32")).shape == (24,)

    def test_windows_dataset(self, classifier, dataset):
        # The host reads the rate of Epochs, but not of datasets.
        classifier.set_params(module__sfreq=40).fit(dataset, y=None)
        assert classifier.module_.n_chans == 3
        assert classifier.predict(dataset).shape == (24,)

    def test_pipeline_and_cross_val_score(self, classifier, microvolts, y):
        pipeline = make_pipeline(
            FunctionTransformer(np.float32), classifier.set_params(module__sfreq=40)
        )
        assert pipeline.fit(microvolts, y).predict(microvolts).shape == (24,)
        scores = cross_val_score(
            clone(pipeline), microvolts, y, cv=2, error_score="raise"
        )
        assert np.isfinite(scores).all()


# -- estimators --------------------------------------------------------------------


@pytest.fixture(scope="module")
def y(epochs):
    return epochs.events[:, 2]


@over_all
@pytest.mark.filterwarnings("ignore:Without pretrained=")
class TestEstimatorsInheritNoFailing:
    """What fails in the host's own estimator, in the order of its list."""

    def test_volts_and_microvolts(self, cls, epochs, microvolts, y):
        fitted = make_estimator(cls).fit(epochs, y)
        expected = answer(fitted, epochs)
        assert_allclose(answer(fitted, microvolts), expected, atol=1e-6)
        assert_allclose(answer(fitted, microvolts * 1e-6), expected, atol=1e-4)

    def test_stim_and_bad_channels_stay_out(self, cls, epochs, y):
        fitted = make_estimator(cls).fit(epochs, y)
        names = [ch["ch_name"] for ch in fitted.signal_["chs_info"]]
        assert names == ["C3", "C4", "Pz"]
        asked = clone(fitted).set_params(exclude=()).fit(epochs, y)
        assert [ch["ch_name"] for ch in asked.signal_["chs_info"]] == [*names, "Fz"]

    def test_cross_val_score_on_epochs(self, cls, epochs, y):
        estimator = make_estimator(cls)
        if cls in EMBEDDERS:
            estimator = make_pipeline(estimator, LogisticRegression())
        scores = cross_val_score(estimator, epochs, y, cv=2, error_score="raise")
        assert np.isfinite(scores).all()
        assert scores.shape == (2,)

    def test_refit_on_another_channel_count(self, cls, epochs, y):
        fitted = make_estimator(cls).fit(epochs, y)
        fitted.fit(epochs.copy().pick(["C3", "Pz"]), y)
        assert fitted.n_features_in_ == fitted.model_.n_chans == 2
        with pytest.raises(ValueError, match=r"unexpected \['C4'\]"):
            answer(fitted, epochs)

    def test_windows_dataset(self, cls, dataset):
        assert len(answer(make_estimator(cls).fit(dataset), dataset)) == 24


@over_estimators
class TestTraining:
    def test_batch_larger_than_the_training_set(self, cls, epochs, y):
        fitted = make_estimator(cls).set_params(batch_size=512).fit(epochs, y)
        assert fitted.history_[0]["train_batch_count"] == 1
        still = clone(fitted).set_params(lr=0.0).fit(epochs, y)
        pairs = zip(fitted.model_.parameters(), still.model_.parameters(), strict=True)
        assert all(not torch.equal(trained, untrained) for trained, untrained in pairs)

    @pytest.mark.parametrize("classes", [[1, 2], ["rest", "task"]], ids=str)
    def test_labels(self, cls, epochs, classes, y):
        if cls is BIOTRegressor:
            classes = [1.5, 200.0]
        labels = np.asarray(classes)[y - 1]
        fitted = make_estimator(cls).fit(epochs, labels)
        predicted = fitted.predict(epochs)
        if cls is BIOTRegressor:
            assert_allclose(fitted.target_mean_, 100.75)
            assert predicted.dtype == float
        else:
            assert_array_equal(fitted.classes_, classes)
            assert set(predicted) <= set(classes)


@over_all
@pytest.mark.filterwarnings("ignore:Without pretrained=")
class TestEveryEstimator:
    """What holds for whatever is fitted to windows."""

    @pytest.fixture
    def fitted(self, cls, epochs, y):
        return make_estimator(cls).fit(epochs, y)

    def test_fitted_attributes(self, cls, fitted):
        assert isinstance(fitted.model_, BIOT)
        assert fitted.model_ is fitted.net_.module_
        assert not fitted.model_.training
        assert fitted.n_features_in_ == fitted.signal_["n_chans"] == 3
        assert fitted.microvolts_

    def test_embed(self, cls, fitted, epochs, microvolts):
        embeddings = fitted.embed(epochs)
        assert embeddings.dtype == np.float32
        X = torch.as_tensor(microvolts).float()
        with torch.no_grad():
            expected = fitted.model_(X, return_features=True)["features"]
        assert_allclose(embeddings, expected, atol=1e-5)
        for repeated in (fitted.embed([epochs[:5], epochs[5:]]), fitted.embed(epochs)):
            assert_array_equal(repeated, embeddings)

    @pytest.mark.parametrize("batch_size", [1, 7])
    def test_batch_size_does_not_matter(self, cls, fitted, epochs, batch_size):
        expected = answer(fitted, epochs)
        fitted.net_.set_params(batch_size=batch_size)
        assert_allclose(answer(fitted, epochs), expected, atol=1e-5)
        assert_allclose(answer(fitted, epochs[3]), expected[[3]], atol=1e-5)

    def test_channels_are_reordered_by_name(self, cls, fitted, epochs):
        turned = epochs.copy().reorder_channels(["Pz", "STI", "C4", "Fz", "C3"])
        assert_array_equal(answer(fitted, turned), answer(fitted, epochs))
        assert_array_equal(fitted.embed(turned), fitted.embed(epochs))

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda e: e.resample(80, verbose="error"), "80 Hz instead of 40 Hz"),
            (lambda e: e.drop_channels(["C4"]), r"missing \['C4'\]"),
            (lambda e: e.crop(0, 1), "windows of 41 samples"),
        ],
    )
    def test_misfits(self, cls, fitted, epochs, change, match):
        for method in (answer, cls.embed):
            with pytest.raises(ValueError, match=match):
                method(fitted, change(epochs.copy()))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_nan_and_inf(self, cls, fitted, epochs, y, bad):
        holed = epochs.copy()
        holed._data[3:5, 1, 7] = bad
        for call in (answer, cls.embed, lambda e, X: clone(e).fit(X, y)):
            with pytest.raises(ValueError, match=r"2 of 24 windows.*\(C4\)"):
                call(fitted, holed)

    def test_missing_channels_are_masked(self, cls, epochs, y):
        fitted = make_estimator(cls).set_params(missing="mask").fit(epochs, y)
        holed = epochs.copy().pick(["C3", "C4", "Pz"])
        holed._data[:, 1] = np.nan
        without = epochs.copy().drop_channels("C4")
        assert_allclose(fitted.embed(without), fitted.embed(holed), atol=1e-6)
        assert fitted.__sklearn_tags__().input_tags.allow_nan

    def test_outputs_that_are_not_finite(self, cls, fitted, epochs):
        with torch.no_grad():
            fitted.model_.tokens.projection.weight.fill_(torch.inf)
        with pytest.raises(ValueError, match="outputs are not finite for windows"):
            fitted.embed(epochs)

    def test_pickle_and_deepcopy(self, cls, fitted, epochs):
        for again in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
            assert_array_equal(answer(again, epochs), answer(fitted, epochs))
            assert again.model_ is again.net_.module_

    def test_clone_and_params(self, cls, fitted):
        assert clone(fitted).get_params() == fitted.get_params()
        assert fitted.set_params(module__emb_size=24) is fitted
        assert clone(fitted).get_params()["module__emb_size"] == 24
        with pytest.raises(TypeError, match=f"{cls.__name__} has no argument 'other'"):
            cls(other=1)

    def test_repeatable(self, cls, fitted, epochs, y):
        before = torch.get_rng_state()
        again = clone(fitted).fit(epochs, y)
        assert_array_equal(answer(again, epochs), answer(fitted, epochs))
        other = clone(fitted).set_params(random_state=1).fit(epochs, y)
        assert (other.embed(epochs) != fitted.embed(epochs)).any()
        assert torch.equal(torch.get_rng_state(), before)

    def test_not_fitted(self, cls, epochs):
        for call in (answer, cls.embed, lambda e, X: e.model_):
            with pytest.raises(NotFittedError, match="not fitted yet"):
                call(make_estimator(cls), epochs)

    def test_bad_parameters(self, cls, epochs, y):
        for params, match in [
            (dict(batch_size=0), "batch_size must be a whole number ≥ 1, got 0"),
            (dict(missing="drop"), "missing is 'raise' or 'mask', got 'drop'"),
            (dict(device="x"), "device='x' cannot be used here"),
        ]:
            with pytest.raises(ValueError, match=match):
                make_estimator(cls).set_params(**params).fit(epochs, y)
