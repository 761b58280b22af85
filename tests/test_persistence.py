"""Saved estimators: what comes back, and what is refused."""

import json
import warnings

import mne
import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from skorch.callbacks import Callback

from braindecode_biot import (
    BIOT,
    BIOTClassifier,
    BIOTEmbedding,
    BIOTRegressor,
    CheckpointError,
    load_estimator,
    persistence,
    save_estimator,
)
from braindecode_biot.augmentation import RandomMissing

pytestmark = pytest.mark.filterwarnings("ignore:Without pretrained=")

SFREQ = 40
TINY = dict(random_state=0, module__emb_size=16, module__n_layers=1)
FILES = {"model.safetensors", "config.json", "estimator.json"}


def tiny(cls=BIOTClassifier, **params):
    training = {} if cls is BIOTEmbedding else {"max_epochs": 1}
    return cls(**(TINY | training | params))


def answers(estimator, X):
    names = ["predict", "predict_proba", "decision_function", "transform", "embed"]
    return [getattr(estimator, n)(X) for n in names if hasattr(estimator, n)]


@pytest.fixture(scope="module")
def y(epochs):
    return epochs.events[:, 2]


@pytest.fixture
def saved(epochs, tmp_path):
    return save_estimator(tiny().fit(epochs), tmp_path / "saved")


def change(folder, **entries):
    """Write other entries in a saved estimator; None takes one away."""
    file = folder / "estimator.json"
    content = json.loads(file.read_text()) | entries
    content = {key: value for key, value in content.items() if value is not None}
    file.write_text(json.dumps(content))


@pytest.mark.filterwarnings("error:::braindecode_biot")
class TestRoundTrip:
    @pytest.mark.parametrize("cls", [BIOTClassifier, BIOTRegressor, BIOTEmbedding])
    @pytest.mark.parametrize("kind", ["epochs", "array"])
    def test_to_the_last_bit(self, cls, kind, epochs, microvolts, y, tmp_path):
        X = epochs if kind == "epochs" else microvolts
        fitted = tiny(cls, sfreq=None if kind == "epochs" else SFREQ).fit(X, y)
        assert save_estimator(fitted, str(tmp_path / "new" / "one")) == (
            tmp_path / "new" / "one"
        )
        assert {file.name for file in (tmp_path / "new/one").iterdir()} >= FILES
        loaded = load_estimator(tmp_path / "new" / "one")
        assert type(loaded) is cls
        for before, after in zip(answers(fitted, X), answers(loaded, X), strict=True):
            assert_array_equal(before, after)
            assert before.dtype == after.dtype
        assert repr(loaded.get_params()) == repr(fitted.get_params())
        assert loaded.microvolts_ is fitted.microvolts_
        assert loaded.n_features_in_ == 3
        assert repr(loaded.signal_) == repr(fitted.signal_)
        again = load_estimator(save_estimator(loaded, tmp_path / "again"))
        assert_array_equal(again.embed(X), fitted.embed(X))

    @pytest.mark.parametrize(
        "classes",
        [
            np.array(["rest", "task"]),
            np.array(["rest", "task"], dtype=object),
            np.array([-3, 7], dtype=np.int8),
            np.array([False, True]),
            np.array([0.0, 2.0]),
        ],
        ids=lambda classes: str(classes.dtype),
    )
    def test_classes(self, epochs, y, classes, tmp_path):
        fitted = tiny().fit(epochs, classes[y - 1])
        loaded = load_estimator(save_estimator(fitted, tmp_path))
        assert loaded.classes_.dtype == fitted.classes_.dtype
        assert_array_equal(loaded.classes_, fitted.classes_)

    @pytest.mark.parametrize("n_targets", [1, 2])
    def test_targets(self, epochs, y, n_targets, tmp_path):
        targets = np.repeat(y[:, None] / 3, n_targets, axis=1).squeeze()
        fitted = tiny(BIOTRegressor).fit(epochs, targets)
        loaded = load_estimator(save_estimator(fitted, tmp_path))
        assert_array_equal(loaded.target_mean_, fitted.target_mean_)
        assert loaded.target_scale_.shape == fitted.target_scale_.shape
        assert loaded.predict(epochs).shape == targets.shape

    def test_places_of_electrodes_and_none(self, epochs, y, tmp_path):
        placed = epochs.copy().set_montage(
            mne.channels.make_dig_montage({"C3": [0.1, 1 / 3, 0]}), on_missing="ignore"
        )
        fitted = tiny().fit(placed)
        loaded = load_estimator(save_estimator(fitted, tmp_path))
        for before, after in zip(
            fitted.signal_["chs_info"], loaded.signal_["chs_info"], strict=True
        ):
            assert_array_equal(before["loc"], after["loc"])
        assert np.isnan(loaded.signal_["chs_info"][1]["loc"]).any()
        json.loads(
            (tmp_path / "estimator.json").read_text(), parse_constant=pytest.fail
        )

    def test_what_was_checked_is_checked(self, saved, epochs):
        loaded = load_estimator(saved)
        turned = epochs.copy().reorder_channels(["Pz", "STI", "C4", "Fz", "C3"])
        assert_array_equal(loaded.embed(turned), loaded.embed(epochs))
        with pytest.raises(ValueError, match="80 Hz instead of 40 Hz"):
            loaded.predict(epochs.copy().resample(80, verbose="error"))

    def test_masked_channels_of_a_vocabulary(self, epochs, tmp_path):
        names = ["Cz", "Pz", "C4", "C3"]
        fitted = tiny(missing="mask", channel_names=names).fit(epochs)
        loaded = load_estimator(save_estimator(fitted, tmp_path))
        without = epochs.copy().drop_channels("C4")
        assert_array_equal(loaded.embed(without), fitted.embed(without))
        assert loaded.model_.channel_names == names

    def test_unscaled_units_still_matter(self, epochs, microvolts, tmp_path):
        fitted = tiny(module__input_scaling=None).fit(epochs)
        loaded = load_estimator(save_estimator(fitted, tmp_path))
        with pytest.raises(ValueError, match="fitted on Epochs"):
            loaded.predict(microvolts)

    @pytest.mark.parametrize("cls", [BIOTClassifier, BIOTRegressor])
    def test_goes_on(self, cls, epochs, y, tmp_path):
        fitted = tiny(cls, warm_start=True).fit(epochs, y)
        loaded = load_estimator(save_estimator(fitted, tmp_path))
        still = loaded.set_params(lr=0.0, weight_decay=0.0).fit(epochs, y)
        assert_array_equal(still.predict(epochs), fitted.predict(epochs))
        loaded.set_params(lr=0.01).partial_fit(epochs, y)
        assert (loaded.embed(epochs) != fitted.embed(epochs)).any()

    def test_parameters_keep_their_types(self, epochs, tmp_path):
        params = dict(
            class_weight={1: 0.5, 2: 2},
            picks=np.array(["C3", "Pz"]),
            exclude=(),
            lr=np.float64(0.01),
            batch_size=np.int64(8),
        )
        fitted = tiny(**params).fit(epochs)
        loaded = load_estimator(save_estimator(fitted, tmp_path))
        assert loaded.class_weight == {1: 0.5, 2: 2}
        assert loaded.picks == ["C3", "Pz"]
        assert (loaded.exclude, loaded.lr, loaded.batch_size) == ([], 0.01, 8)
        assert_array_equal(loaded.predict_proba(epochs), fitted.predict_proba(epochs))

    def test_the_folder_holds_a_model_as_well(self, saved, epochs):
        model = BIOT.from_checkpoint(saved)
        X = torch.as_tensor(epochs.get_data(picks=["C3", "C4", "Pz"]) * 1e6).float()
        with torch.no_grad():
            embeddings = model(X, return_features=True)["features"]
        np.testing.assert_allclose(
            load_estimator(saved).embed(epochs), embeddings, atol=1e-6
        )

    def test_where_pretrained_weights_came_from(self, saved, epochs, tmp_path):
        fitted = BIOTEmbedding(saved).fit(epochs)
        loaded = load_estimator(save_estimator(fitted, tmp_path / "embedding"))
        assert loaded.pretrained == str(saved)

    def test_device(self, saved):
        assert load_estimator(saved, device="cpu").device == "cpu"
        with pytest.raises(ValueError, match="device='x' cannot be used here"):
            load_estimator(saved, device="x")


class TestLeftOut:
    def test_of_training(self, epochs, tmp_path):
        model = tiny().fit(epochs).model_
        fitted = BIOTClassifier(
            max_epochs=1,
            missing="mask",
            pretrained=model,
            augment_missing=RandomMissing(mask_len_samples=10),
            callbacks=[Callback()],
            random_state=np.random.RandomState(0),
            module__activation=torch.nn.GELU,
            lr=0.002,
        ).fit(epochs)
        with pytest.warns(UserWarning, match="'augment_missing'.*defaults") as caught:
            save_estimator(fitted, tmp_path)
        (told,) = caught
        assert told.filename == __file__
        for name in ["callbacks", "random_state", "module__activation", "pretrained"]:
            assert repr(name) in str(told.message)
        loaded = load_estimator(tmp_path)
        assert loaded.get_params() == clone(loaded).get_params()
        assert (loaded.lr, loaded.callbacks, loaded.pretrained) == (0.002, None, None)
        assert_array_equal(loaded.predict_proba(epochs), fitted.predict_proba(epochs))

    def test_what_says_how_windows_are_read_is_not(self, epochs, tmp_path):
        fitted = tiny(picks=slice(0, 2)).fit(epochs)
        with pytest.raises(TypeError, match=r"picks=slice.* cannot be saved .*names"):
            save_estimator(fitted, tmp_path / "none")
        assert not (tmp_path / "none").exists()

    def test_classes_that_json_cannot_hold(self, epochs, y, tmp_path):
        days = np.array(["2024-01-01", "2024-01-02"], dtype="datetime64[D]")
        fitted = tiny().fit(epochs, days[y - 1])
        with pytest.raises(
            TypeError, match=r"classes_ of dtype datetime64\[D\] cannot"
        ):
            save_estimator(fitted, tmp_path / "none")
        assert not (tmp_path / "none").exists()


class TestErrors:
    @pytest.mark.parametrize("cls", [BIOTClassifier, BIOTRegressor, BIOTEmbedding])
    def test_not_fitted(self, cls, tmp_path):
        with pytest.raises(NotFittedError, match="not fitted yet"):
            save_estimator(tiny(cls), tmp_path / "none")
        assert not (tmp_path / "none").exists()

    def test_other_estimators(self, epochs, tmp_path):
        class Own(BIOTClassifier):
            pass

        for other in (
            make_pipeline(FunctionTransformer()),
            Own(max_epochs=1, module__emb_size=16).fit(epochs),
            tiny().fit(epochs).model_,
        ):
            with pytest.raises(TypeError, match=r"Expected one of \['BIOTClassifier'"):
                save_estimator(other, tmp_path / "none")

    def test_a_file_in_the_way(self, epochs, tmp_path):
        (tmp_path / "taken").write_text("")
        with pytest.raises(FileExistsError, match="is a file, where a folder"):
            save_estimator(tiny().fit(epochs), tmp_path / "taken")

    def test_nothing_there(self, saved, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no folder .*save_estimator made"):
            load_estimator(tmp_path / "none")
        with pytest.raises(FileNotFoundError, match="no folder"):
            load_estimator(saved / "estimator.json")
        (saved / "estimator.json").unlink()
        with pytest.raises(
            FileNotFoundError, match=r"no estimator.json .*loads models"
        ):
            load_estimator(saved)

    @pytest.mark.parametrize("text", ["", "[1]", "{}", '{"format": 1}', "\xff"])
    def test_damaged(self, saved, text):
        (saved / "estimator.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(CheckpointError, match="not what save_estimator writes"):
            load_estimator(saved)

    @pytest.mark.parametrize(
        ("entries", "match"),
        [
            ({"params": []}, "not what save_estimator writes"),
            ({"params": {"no_such": 1}}, "not what save_estimator writes"),
            ({"learned": {}}, "not what save_estimator writes"),
            ({"class": []}, r"holds a \[\], expected one of"),
            ({"class": "EEGClassifier"}, "holds a 'EEGClassifier', expected one of"),
            ({"format": 2, "version": "9.1"}, r"format 2, written by .* 9\.1.*newer"),
            ({"signal": None, "learned": None}, r"lacks \['learned', 'signal'\]"),
            ({"weights_sha256": "0"}, "is not the file that estimator.json was"),
        ],
    )
    def test_of_others(self, saved, entries, match):
        change(saved, **entries)
        with pytest.raises(CheckpointError, match=match):
            load_estimator(saved)

    def test_half_old_and_half_new(self, saved, epochs, monkeypatch):
        def interrupted(*args):
            raise OSError("no space left")

        monkeypatch.setattr(persistence, "write_whole", interrupted)
        other = tiny(random_state=1).fit(epochs)
        with pytest.raises(OSError, match="no space left"):
            save_estimator(other, saved)
        with pytest.raises(CheckpointError, match="saving was interrupted"):
            load_estimator(saved)
        monkeypatch.undo()
        save_estimator(other, saved)
        assert_array_equal(load_estimator(saved).embed(epochs), other.embed(epochs))

    def test_without_weights(self, saved):
        (saved / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match="is not the file"):
            load_estimator(saved)

    def test_nothing_of_it_is_a_pickle(self, saved):
        for file in saved.iterdir():
            assert not file.read_bytes().startswith((b"\x80", b"PK"))


def test_loading_says_nothing(saved, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_estimator(saved)
    assert capfd.readouterr() == ("", "")
