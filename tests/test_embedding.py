"""BIOTEmbedding: a pretrained model as a step of a pipeline."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline

from braindecode_biot import BIOT, BIOTClassifier, BIOTEmbedding

SFREQ = 40


@pytest.fixture(scope="module")
def trained():
    """Stand in for pretrained weights: C4, C3, Pz and Oz at 40 Hz."""
    torch.manual_seed(0)
    return BIOT(
        emb_size=16, n_layers=1, hop_length=10, token_size=20, n_times=80, sfreq=SFREQ,
        n_outputs=5, channel_names=["C4", "C3", "Pz", "Oz"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "trained"
    trained.save_pretrained(folder)
    return folder


def test_embeddings_are_those_of_the_checkpoint(checkpoint, trained, epochs):
    # The model has a fourth channel, and C4 and C3 the other way round.
    four = (
        epochs.copy().drop_channels(["STI"]).reorder_channels(["C4", "C3", "Pz", "Fz"])
    )
    four.rename_channels({"Fz": "Oz"}).info["bads"] = []
    with torch.no_grad():
        X = torch.as_tensor(four.get_data() * 1e6).float()
        expected = trained.eval()(X, return_features=True)["features"]
    for pretrained in (checkpoint, trained):
        embedding = BIOTEmbedding(pretrained).fit(four)
        assert_allclose(embedding.transform(four), expected, atol=1e-6)
        assert_array_equal(embedding.embed(four), embedding.transform(four))
        turned = four.copy().reorder_channels(["Oz", "C3", "C4", "Pz"])
        assert_array_equal(embedding.transform(turned), embedding.transform(four))


def test_sizes_are_the_checkpoints_and_nothing_is_trained(checkpoint, trained, epochs):
    model = BIOTEmbedding(checkpoint, random_state=0).fit(epochs).model_
    assert (model.emb_size, model.token_size, model.hop_length) == (16, 20, 10)
    assert model.channels.rows.tolist() == [1, 0, 2]
    for name, weight in trained.encoder.named_parameters():
        assert torch.equal(weight, model.encoder.get_parameter(name))
    assert model.load_report_ is not None
    finer = BIOTEmbedding(checkpoint, module__hop_length=5).fit(epochs)
    assert finer.model_.hop_length == 5


def test_a_fitted_classifiers_model(epochs):
    classifier = BIOTClassifier(
        max_epochs=1, random_state=0, module__emb_size=16, module__n_layers=1
    ).fit(epochs)
    embedding = BIOTEmbedding(classifier.model_).fit(epochs)
    assert_array_equal(embedding.transform(epochs), classifier.embed(epochs))


def test_random_weights_follow_the_seed_and_warn(epochs):
    embeddings = []
    for seed in (0, 0, 1):
        embedding = BIOTEmbedding(
            random_state=seed, module__emb_size=16, module__n_layers=1
        )
        with pytest.warns(UserWarning, match="Without pretrained=.* random") as caught:
            embedding.fit(epochs)
        assert caught[0].filename == __file__
        embeddings.append(embedding.transform(epochs))
    first, again, other = embeddings
    assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.filterwarnings("error")
def test_pretrained_weights_do_not_warn(checkpoint, epochs):
    BIOTEmbedding(checkpoint).fit(epochs)


def test_failed_fit_leaves_the_old_one(checkpoint, epochs):
    embedding = BIOTEmbedding(checkpoint).fit(epochs)
    expected = embedding.transform(epochs)
    holed = epochs.copy().pick(["C3"])
    holed._data[3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        embedding.fit(holed)
    assert_array_equal(embedding.transform(epochs), expected)
    assert embedding.n_features_in_ == 3


def test_missing_channels_and_shorter_windows(checkpoint, epochs):
    embedding = BIOTEmbedding(checkpoint, missing="mask").fit(epochs)
    without = epochs.copy().drop_channels("C4").crop(0, 1)
    holed = epochs.copy().pick(["C3", "C4", "Pz"])
    holed._data[:, 1] = holed._data[:, :, 41:] = np.nan
    assert_allclose(embedding.transform(without), embedding.transform(holed), atol=1e-6)


class TestInPipelines:
    @pytest.mark.parametrize("kind", ["epochs", "array"])
    def test_cross_val_score_and_grid_search(
        self, checkpoint, epochs, microvolts, kind
    ):
        if kind == "array":
            embedding = BIOTEmbedding(
                checkpoint, sfreq=SFREQ, channel_names=["C4", "C3", "Pz", "Oz"]
            )
            lost = np.full_like(microvolts[:, :1], 0.0)
            X = np.concatenate([microvolts[:, [1, 0, 2]], lost], axis=1)
        else:
            embedding, X = BIOTEmbedding(checkpoint), epochs
        y = np.array(["rest", "task"])[epochs.events[:, 2] - 1]
        pipeline = make_pipeline(embedding, LogisticRegression(C=100))
        scores = cross_val_score(pipeline, X, y, cv=3, error_score="raise")
        assert scores.mean() > 0.7
        grid = {
            "biotembedding__module__hop_length": [5, 20],
            "logisticregression__C": [1, 100],
        }
        search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, y)
        hop = search.best_params_["biotembedding__module__hop_length"]
        assert search.best_estimator_[0].model_.hop_length == hop
        assert len(search.predict(X)) == 24

    def test_names_of_features(self, checkpoint, epochs):
        embedding = BIOTEmbedding(checkpoint)
        with pytest.raises(NotFittedError, match="not fitted yet"):
            embedding.get_feature_names_out()
        names = embedding.fit(epochs).get_feature_names_out()
        assert list(names) == [f"biotembedding{i}" for i in range(16)]

    @pytest.mark.parametrize("kind", ["epochs", "list"])
    def test_pandas(self, checkpoint, epochs, kind):
        X = epochs if kind == "epochs" else [epochs[:5], epochs[5:]]
        plain = BIOTEmbedding(checkpoint).fit(X)
        frame = clone(plain).set_output(transform="pandas").fit_transform(X)
        assert list(frame.columns) == list(plain.get_feature_names_out())
        assert_array_equal(frame.to_numpy(), plain.transform(X))
        assert (frame.dtypes == np.float32).all()
