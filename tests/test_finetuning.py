"""Fine-tuning: what moves, how fast, and from when."""

import copy
import pickle
import shutil
import sys
import warnings

import braindecode.models
import mne
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from braindecode_biot import BIOT, BIOTClassifier
from braindecode_biot.channels import TCP18
from braindecode_biot.finetuning import layer_rates

SIZES = dict(emb_size=16, n_layers=2, hop_length=10, token_size=20)


@pytest.fixture(scope="module")
def trained() -> BIOT:
    """Stand in for pretrained weights: C4, C3, Pz and Oz at 40 Hz."""
    torch.manual_seed(0)
    names = ["C4", "C3", "Pz", "Oz"]
    return BIOT(**SIZES, channel_names=names, n_times=80, sfreq=40, n_outputs=5)


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "trained"
    trained.save_pretrained(folder)
    return folder


def tuned(checkpoint, **params) -> BIOTClassifier:
    given = dict(max_epochs=2, random_state=0, pretrained=checkpoint, batch_size=8)
    return BIOTClassifier(**given | params)


def moved(model: BIOT, trained: BIOT) -> dict[str, float]:
    """Say how far each weight of tokens and encoder went, but for the table's rows."""
    before = dict(trained.named_parameters())
    return {
        name: float((weight - before[name]).detach().abs().max())
        for name, weight in model.named_parameters()
        if not name.startswith(("final_layer", "tokens.channel_tokens"))
    }


class TestPretrained:
    def test_sizes_and_weights_are_the_checkpoints(self, checkpoint, trained, epochs):
        model = tuned(checkpoint, lr=1e-12, weight_decay=0).fit(epochs).net_.module_
        assert max(moved(model, trained).values()) < 1e-6
        assert (model.emb_size, model.n_layers) == (16, 2)
        assert (model.token_size, model.hop_length) == (20, 10)
        assert model.n_outputs == 2
        # Rows follow from names: C3, C4 and Pz of the epochs.
        assert model.channels.rows.tolist() == [1, 0, 2]
        assert not model.load_report_.resized

    def test_a_state_dict_will_do(self, trained, epochs):
        names = ["C4", "C3", "Pz", "Oz"]
        params = dict(channel_names=names, module__token_size=20, module__hop_length=10)
        model = tuned(trained.state_dict(), **params).fit(epochs)
        assert model.predict(epochs).shape == (24,)

    def test_settings_of_ones_own_count_more(self, checkpoint, epochs):
        model = tuned(checkpoint, module__drop_prob=0.3).fit(epochs)
        assert model.net_.module_.tokens.dropout.p == 0.3

    def test_missing_channels_of_its_vocabulary(self, checkpoint, epochs):
        model = tuned(
            checkpoint, missing="mask", channel_names=["C4", "C3", "Pz", "Oz"]
        ).fit(epochs)
        fewer = epochs.copy().drop_channels(["C3"])
        assert model.predict(fewer).shape == (24,)

    def test_scikit_learns_contract(self, checkpoint, epochs):
        model = tuned(checkpoint, finetune="layerwise", freeze_epochs=1)
        scores = cross_val_score(model, epochs, epochs.events[:, 2], cv=2)
        assert scores.shape == (2,)
        first, second = clone(model).fit(epochs), clone(model).fit(epochs)
        again = pickle.loads(pickle.dumps(first))
        for other in (second, again, copy.deepcopy(first)):
            np.testing.assert_array_equal(
                first.predict_proba(epochs), other.predict_proba(epochs)
            )

    def test_going_on_does_not_begin_anew(self, checkpoint, trained, epochs):
        model = tuned(checkpoint, lr=0.01)
        for _ in range(3):
            model.partial_fit(epochs)
        assert len(model.history_) == 3
        far = moved(model.net_.module_, trained)
        model.set_params(warm_start=True, lr=1e-12, weight_decay=0).fit(epochs)
        assert moved(model.net_.module_, trained) == pytest.approx(far, abs=1e-4)


class TestWhatMoves:
    def test_full(self, checkpoint, trained, epochs):
        model = tuned(checkpoint, lr=0.01).fit(epochs).net_.module_
        assert min(moved(model, trained).values()) > 1e-4

    def test_layerwise(self, checkpoint, trained, epochs):
        model = tuned(checkpoint, finetune="layerwise", layer_decay=0.1, lr=0.1)
        net = model.fit(epochs).net_
        far = moved(net.module_, trained)
        tokens, first, second = (
            max(v for k, v in far.items() if k.startswith(part))
            for part in ("tokens", "encoder.layers.0", "encoder.layers.1")
        )
        assert 5 * tokens < first < second / 5
        groups = net.optimizer_.param_groups
        assert sorted(g["initial_lr"] for g in groups) == pytest.approx(
            [1e-4, 1e-3, 1e-2, 0.1]
        )
        assert sum(len(g["params"]) for g in groups) == len(list(trained.parameters()))

    def test_frozen_at_first(self, checkpoint, trained, epochs):
        seen = []

        class Look(Callback):
            def on_epoch_end(self, net, **kwargs):
                seen.append(max(moved(net.module_, trained).values()))

        model = tuned(
            checkpoint, freeze_epochs=2, max_epochs=4, lr=0.01, callbacks=[Look()]
        ).fit(epochs)
        assert seen[:2] == [0, 0]
        assert seen[2] > 0
        assert all(p.requires_grad for p in model.net_.module_.parameters())

    @pytest.mark.parametrize("n_classes", [2, 3])
    def test_head_is_a_logistic_regression(
        self, checkpoint, trained, epochs, n_classes
    ):
        y = np.arange(24) % n_classes
        y[:9] = 0  # so that the weights of classes count
        model = tuned(checkpoint, finetune="head").fit(epochs, y)
        module = model.net_.module_
        assert max(moved(module, trained).values()) == 0
        assert len(model.history_) == 1
        X = torch.as_tensor(epochs.get_data(picks=["C3", "C4", "Pz"])).float()
        with torch.no_grad():
            features = module.eval()(X, return_features=True)["features"]
        features = torch.nn.functional.elu(features).double().numpy()
        direct = make_pipeline(
            StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000)
        ).fit(features, y)
        np.testing.assert_allclose(
            model.predict_proba(epochs), direct.predict_proba(features), atol=1e-3
        )

    def test_head_learns(self, checkpoint, epochs):
        assert tuned(checkpoint, finetune="head").fit(epochs).score(epochs) > 0.8

    def test_lora(self, checkpoint, trained, epochs):
        pytest.importorskip("peft")
        model = tuned(checkpoint, finetune="lora", lora_rank=2, lr=0.02, max_epochs=8)
        module = model.fit(epochs).net_.module_
        assert module.state_dict().keys() == trained.state_dict().keys()
        assert not any("lora" in name for name, _ in module.named_modules())
        assert all(p.requires_grad for p in module.parameters())
        before = dict(trained.named_parameters())
        for name, weight in module.named_parameters():
            update = (weight - before[name]).detach() if "encoder" in name else None
            if update is not None and weight.ndim == 2:
                # Of rank two, but for rounding.
                values = torch.linalg.svdvals(update)
                assert values[0] > 1e-4, name
                assert values[2:].max() < 1e-3 * values[0], name
            elif update is not None:
                assert (update == 0).all(), name
        assert model.score(epochs) > 0.8
        model.set_params(warm_start=True).fit(epochs)
        again = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(again.predict(epochs), model.predict(epochs))
        with pytest.raises(ValueError, match="cannot go on with them in partial_fit"):
            model.partial_fit(epochs)

    def test_lora_without_peft(self, checkpoint, epochs, monkeypatch):
        monkeypatch.setitem(sys.modules, "peft", None)
        with pytest.raises(
            ImportError, match=r"pip install 'braindecode-biot\[lora\]'"
        ):
            tuned(checkpoint, finetune="lora").fit(epochs)

    def test_head_by_partial_fit(self, checkpoint, trained, epochs):
        model = tuned(checkpoint, finetune="head", lr=0.1).partial_fit(epochs)
        assert max(moved(model.net_.module_, trained).values()) == 0
        assert all(p.requires_grad for p in model.net_.module_.parameters())


class TestWhatWasSilent:
    """Each of these once gave a wrong answer, or an error that helped nobody."""

    def test_frozen_epochs_of_partial_fit_end(self, checkpoint, trained, epochs):
        model = tuned(checkpoint, freeze_epochs=1, lr=0.01)
        model.partial_fit(epochs)
        assert max(moved(model.net_.module_, trained).values()) == 0
        model.partial_fit(epochs)
        assert min(moved(model.net_.module_, trained).values()) > 0

    def test_frozen_epochs_do_not_stop_a_fit(self, checkpoint, trained, epochs):
        # At such a rate the head gets worse from the start.
        model = tuned(
            checkpoint, freeze_epochs=6, max_epochs=9, patience=2, lr=2.0,
            lr_schedule=None,
        ).fit(epochs)  # fmt: skip
        assert len(model.history_) > 6
        assert max(moved(model.net_.module_, trained).values()) > 0

    def test_half_a_token_where_the_checkpoint_tells_no_hop(self, trained, epochs):
        names = trained.channel_names
        state = trained.state_dict()
        model = tuned(state, channel_names=names, finetune="head").fit(epochs)
        assert model.net_.module_.hop_length == model.net_.module_.token_size // 2

    def test_units_of_unscaled_checkpoints(self, trained, epochs, tmp_path):
        unscaled = BIOT.from_config(trained.get_config() | {"input_scaling": None})
        unscaled.save_pretrained(tmp_path / "unscaled")
        model = tuned(tmp_path / "unscaled", finetune="head").fit(epochs)
        with pytest.raises(ValueError, match="the unit matters"):
            model.predict(np.ones((2, 4, 80)))

    @pytest.mark.parametrize(
        "change",
        [
            dict(module__att_num_heads=2),
            dict(module__hop_length=5),
            dict(module__input_scaling=None),
        ],
    )
    @pytest.mark.parametrize("pretrained", [True, False])
    def test_warm_start_with_other_settings(
        self, checkpoint, epochs, change, pretrained
    ):
        model = tuned(checkpoint if pretrained else None, module__emb_size=16)
        model.set_params(warm_start=True).fit(epochs)
        model.set_params(**change)
        for go_on in (model.fit, model.partial_fit):
            with pytest.raises(ValueError, match="do not fit a model of the present"):
                go_on(epochs)

    def test_a_model_will_do(self, trained, epochs):
        model = clone(tuned(trained, lr=1e-12, weight_decay=0)).fit(epochs)
        assert max(moved(model.net_.module_, trained).values()) < 1e-6
        assert model.net_.module_.channels.rows.tolist() == [1, 0, 2]
        assert model.net_.module_.token_size == 20

    def test_the_checkpoint_is_not_needed_to_go_on(self, checkpoint, epochs, tmp_path):
        folder = tmp_path / "moved"
        shutil.copytree(checkpoint, folder)
        model = tuned(folder, warm_start=True).fit(epochs)
        shutil.rmtree(folder)
        model.partial_fit(epochs).fit(epochs)

    def test_head_needs_every_class(self, checkpoint, epochs):
        y = np.arange(24) % 3
        model = tuned(checkpoint, finetune="head", warm_start=True).fit(epochs, y)
        with pytest.raises(ValueError, match="all 3 classes are needed, got 2"):
            model.fit(epochs[y < 2], y[y < 2])

    def test_head_needs_no_validation(self, checkpoint, epochs):
        model = tuned(checkpoint, finetune="head")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model.fit(epochs[:4], groups=np.zeros(4))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (dict(finetune="some"), "'full', 'layerwise', 'lora' or 'head', got 'some'"),
        (dict(finetune="lora", freeze_epochs=1), "Use one of them"),
        (dict(lora_rank=0), "lora_rank must be a whole number ≥ 1, got 0"),
        (dict(layer_decay=0), "layer_decay must be above 0 and at most 1, got 0"),
        (dict(layer_decay="x"), "layer_decay must be above 0"),
        (dict(freeze_epochs=2), "below max_epochs=2, got 2"),
        (dict(freeze_epochs=-1), "freeze_epochs must be a whole number"),
        (dict(pretrained=None, finetune="head"), "but pretrained is None"),
        (dict(pretrained=None, freeze_epochs=1), "but pretrained is None"),
    ],
)
def test_bad_parameters(checkpoint, epochs, params, message):
    with pytest.raises(ValueError, match=message):
        tuned(checkpoint, **params).fit(epochs)


def test_a_checkpoint_of_other_channels_is_reported(checkpoint, epochs):
    other = epochs.copy().rename_channels({"Pz": "Fz2", "C3": "F3"})
    model = tuned(checkpoint, channel_names=["F3", "C4", "Fz2"]).fit(other)
    assert model.net_.module_.load_report_.resized


def test_braindecodes_weights_warn_unless_the_scaling_is_told(microvolts):
    torch.manual_seed(0)
    theirs = braindecode.models.BIOT(
        embed_dim=16, num_heads=4, num_layers=1, n_chans=3, n_times=80, sfreq=40,
        hop_length=20, n_outputs=2,
    )  # fmt: skip
    given = dict(module__att_num_heads=4, module__hop_length=20, finetune="head")
    model, y = tuned(theirs.state_dict(), sfreq=40, **given), np.arange(24) % 2
    with pytest.warns(UserWarning, match="does not scale its input"):
        model.fit(microvolts, y)
    for scaling in ("q95", None):
        told = clone(model).set_params(module__input_scaling=scaling)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert told.fit(microvolts, y).model_.input_scaling == scaling


def test_layer_rates_reach_from_tokens_to_the_top():
    rates = [group["lr"] for _, group in layer_rates(4, 1e-3, 0.75)]
    assert rates == pytest.approx([1e-3 * 0.75**k for k in (5, 4, 3, 2, 1)])


def test_some_channels_of_eighteen(tmp_path):
    """The way of most users: weights of 18 channels, a montage of some."""
    torch.manual_seed(0)
    published = BIOT(
        channel_names="tcp-18", n_times=400, n_outputs=1, emb_size=16, n_layers=1
    )
    published.save_pretrained(tmp_path / "weights")
    names = [*TCP18[:4], "C3-A2"]
    info = mne.create_info(names, 200.0, "eeg")
    data = np.random.default_rng(0).normal(size=(12, 5, 400)) * 1e-5
    epochs = mne.EpochsArray(data, info, verbose="error")
    model = BIOTClassifier(
        pretrained=tmp_path / "weights", channel_names="tcp-18", finetune="head"
    ).fit(epochs, np.arange(12) % 2)
    assert model.net_.module_.channels.rows.tolist() == [0, 1, 2, 3, 16]


def test_a_model_that_returns_features_too_can_be_tuned(epochs):
    model = BIOT(
        emb_size=16, n_layers=1, n_chans=3, n_times=80, sfreq=40, hop_length=20,
        n_outputs=2, return_feature=True,
    )  # fmt: skip
    tuned = BIOTClassifier(pretrained=model, max_epochs=1, random_state=0).fit(epochs)
    assert tuned.predict(epochs).shape == (24,)
