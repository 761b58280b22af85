"""Explanations add up, find what is known to matter, and say what is wrong."""

import sys

import mne
import numpy as np
import pytest
import torch
from braindecode import EEGClassifier
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from skorch import NeuralNetRegressor
from skorch.exceptions import NotInitializedError
from torch import nn

from braindecode_biot import (
    BIOT,
    BIOTClassifier,
    BIOTEmbedding,
    BIOTRegressor,
    demo,
    label_windows,
    load_absence,
    to_montage,
)
from braindecode_biot.explain import deletion_curve, explain
from braindecode_biot.missing import whole_tokens
from conftest import SHARED
from recordings import make_dataset

N_CHANS, N_TIMES, SFREQ = 3, 80, 40.0
SMALL = {"emb_size": 16, "n_layers": 1, "att_num_heads": 2}


def make_model(n_outputs=3, seed=0, **kwargs) -> BIOT:
    torch.manual_seed(seed)
    sizes = {"n_chans": N_CHANS, "n_times": N_TIMES, "sfreq": SFREQ, "hop_length": 20}
    return BIOT(n_outputs=n_outputs, **(SMALL | sizes | kwargs)).double()


def make_windows(n=5, n_chans=N_CHANS, n_times=N_TIMES) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, n_chans, n_times, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def fitted(epochs) -> BIOTClassifier:
    """Tells 10 Hz at C3 from none."""
    labels = np.where(epochs.events[:, 2] == 2, "task", "rest")
    return BIOTClassifier(
        max_epochs=15, validation_fraction=0, random_state=0, device="cpu", lr=5e-3,
        **{f"module__{name}": value for name, value in SMALL.items()},
    ).fit(epochs, labels)  # fmt: skip


def test_values_add_up_to_the_rise_of_the_log_odds():
    model, x = make_model(), make_windows()
    attribution = explain(model, x, target=2, n_steps=400)
    odds = torch.logit(model.eval()(x).softmax(1)[:, 2]).detach()
    flat = torch.logit(model(0 * x).softmax(1)[:, 2]).detach()
    np.testing.assert_allclose(attribution.outputs, odds)
    np.testing.assert_allclose(attribution.baseline_outputs, flat)
    total = attribution.values.sum((1, 2, 3))
    np.testing.assert_allclose(total, odds - flat, atol=1e-5)
    assert np.abs(attribution.delta).max() < 1e-5
    fewer = explain(model, x, target=2, n_steps=20)
    assert np.abs(fewer.delta).max() > 100 * np.abs(attribution.delta).max()
    assert attribution.unit == "log-odds"


def test_batches_do_not_change_anything():
    model, x = make_model(), make_windows()
    whole = explain(model, x, target=0, batch_size=100)
    for batch_size in (1, 2, 7):
        part = explain(model, x, target=0, batch_size=batch_size)
        np.testing.assert_allclose(part.values, whole.values, atol=1e-9)


def test_a_linear_model_is_weight_times_spectrum(monkeypatch):
    """With an output linear in the spectra, integrated gradients are known."""
    model, x = make_model(n_outputs=1), make_windows()
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(N_CHANS, 3, 21, generator=generator, dtype=torch.float64)

    def embed(spectra, rows, present):
        return (weights * spectra).sum((1, 2, 3))[:, None]

    monkeypatch.setattr(model, "_embed", embed)
    model.final_layer = nn.Identity()
    background = make_windows(8) + 1
    attribution = explain(model, x, baseline=background, n_steps=3)
    spectra = model.spectra(x)
    mean = model.spectra(background).mean((0, 2))[:, None]
    expected = weights * (spectra - mean)
    np.testing.assert_allclose(attribution.values, expected, atol=1e-5)
    np.testing.assert_allclose(attribution.baseline, mean[:, 0])
    assert attribution.unit == "output"


def test_two_classes_speak_against_each_other():
    model, x = make_model(n_outputs=2), make_windows()
    one, other = (explain(model, x, target=i) for i in (0, 1))
    np.testing.assert_allclose(one.values, -other.values, atol=1e-12)


def test_what_shifts_all_logits_does_not_count():
    model, x = make_model(), make_windows()
    before = explain(model, x, target=1).values
    raw = explain(model, x, target=1, scale="output").values
    with torch.no_grad():
        model.final_layer.linear.weight += torch.randn(16)
    np.testing.assert_allclose(explain(model, x, target=1).values, before, atol=1e-9)
    assert not np.allclose(explain(model, x, target=1, scale="output").values, raw)


def test_channels_in_another_order_keep_their_attributions():
    names = ["C3", "C4", "Cz"]
    info = mne.create_info(names, SFREQ, "eeg")["chs"]
    one = make_model(n_chans=None, chs_info=info, channel_names=names)
    other = make_model(n_chans=None, chs_info=info[::-1], channel_names=names)
    other.load_state_dict(one.state_dict())
    x = make_windows()
    forth, back = explain(one, x, 0), explain(other, x.flip(1), 0)
    assert forth.ch_names == ("C3", "C4", "Cz")
    assert back.ch_names == ("Cz", "C4", "C3")
    np.testing.assert_allclose(back.values[:, ::-1], forth.values, atol=1e-9)


def test_times_and_frequencies_are_those_of_the_tokens():
    attribution = explain(make_model(), make_windows(), 0)
    np.testing.assert_allclose(attribution.times, [0.5, 1.0, 1.5])
    np.testing.assert_allclose(attribution.freqs, np.arange(21))
    assert attribution.ch_names == ("0", "1", "2")


def test_missing_tokens_have_no_attribution_and_the_others_add_up():
    model, x = make_model(missing="mask"), make_windows()
    x[0, 0, 30] = torch.nan
    x[1, 1] = torch.nan
    x[2, :, 60:] = torch.nan
    x[:, 2] = torch.nan  # what no window has keeps its place
    attribution = explain(model, x, target=1, n_steps=200)
    absent = ~whole_tokens(x.isnan(), 40, 20).reshape(5, 3, 3)
    np.testing.assert_array_equal(np.isnan(attribution.values).all(-1), absent)
    np.testing.assert_array_equal(np.isnan(attribution.values).any(-1), absent)
    assert np.abs(attribution.delta).max() < 1e-4
    odds = torch.logit(model.eval()(x).softmax(1)[:, 1]).detach()
    np.testing.assert_allclose(attribution.outputs, odds)


@pytest.mark.parametrize("baseline", ["mean", "background"])
def test_missing_tokens_are_not_in_the_mean_spectrum(baseline):
    model, x = make_model(missing="mask"), make_windows()
    x[0, 0, 30] = torch.nan
    x[:, 2] = torch.nan
    windows = x if baseline == "mean" else x.numpy()
    attribution = explain(
        model, x, 1, baseline="mean" if baseline == "mean" else windows
    )
    spectra = model.spectra(x[:, :2], x[:, :2].isnan())
    there = ~x[:, :2].isnan().unfold(-1, 40, 20).any(-1)
    mean = (spectra * there[..., None]).sum((0, 2)) / there.sum((0, 2))[:, None]
    np.testing.assert_allclose(attribution.baseline[:2], mean)
    assert np.abs(attribution.delta).max() < 1e-4


def test_a_window_that_is_the_baseline_leaves_nothing():
    model = make_model().float()
    x = make_windows(1)[..., :20].repeat(1, 1, 4).float()  # all frames are the same
    attribution = explain(model, x, 0, baseline="mean")
    np.testing.assert_allclose(attribution.values, 0, atol=1e-5)
    np.testing.assert_allclose(attribution.delta, 0, atol=1e-5)


def test_estimator_is_explained_by_label_and_finds_what_matters(fitted, epochs):
    task = epochs[epochs.events[:, 2] == 2]
    attribution = explain(fitted, task, "task", baseline=epochs)
    assert set(attribution.targets) == {"task"}
    assert attribution.ch_names == ("C3", "C4", "Pz")
    np.testing.assert_allclose(
        attribution.outputs, fitted.decision_function(task), rtol=1e-4
    )
    mean = attribution.mean()
    channel, _, frequency = np.unravel_index(mean.values.argmax(), (3, 3, 21))
    assert attribution.ch_names[channel] == "C3"
    assert attribution.freqs[frequency] == 10
    assert mean.per_band().idxmax(axis=1)[0] == "alpha"


def test_predicted_class_is_explained_by_default(fitted, epochs):
    attribution = explain(fitted, epochs)
    np.testing.assert_array_equal(attribution.targets, fitted.predict(epochs))
    assert set(attribution.targets) == {"rest", "task"}
    again = explain(fitted, epochs, fitted.predict(epochs))
    np.testing.assert_array_equal(again.values, attribution.values)


def test_windows_are_read_as_the_estimator_does(fitted, epochs, microvolts):
    expected = explain(fitted, epochs, "task").values
    shuffled = epochs.copy().reorder_channels(["STI", "Pz", "C3", "Fz", "C4"])
    lists = [epochs[:10], epochs[10:]]
    for given in (shuffled, lists, microvolts):
        values = explain(fitted, given, "task").values
        np.testing.assert_allclose(values, expected, atol=1e-4)


def test_recordings_with_other_channels_and_lengths_are_explained(epochs):
    classifier = BIOTClassifier(
        missing="mask", max_epochs=1, validation_fraction=0, random_state=0,
        device="cpu", **{f"module__{name}": value for name, value in SMALL.items()},
    )  # fmt: skip
    classifier.fit(epochs)
    fewer = epochs[:4].copy().drop_channels("C4").crop(tmax=1.5)
    attribution = explain(classifier, [epochs[:2], fewer], 2)
    channels = attribution.per_channel()
    assert channels.columns.tolist() == ["C3", "C4", "Pz"]
    assert channels["C4"].isna().tolist() == [False] * 2 + [True] * 4
    assert np.isnan(attribution.values[2:, 0, 2]).all()  # which is past the end
    np.testing.assert_allclose(attribution.delta, 0, atol=1e-3)


def test_windows_of_datasets_are_explained():
    dataset = make_dataset(target=1)
    classifier = BIOTClassifier(
        max_epochs=1, validation_fraction=0, random_state=0, device="cpu",
        **{f"module__{name}": value for name, value in SMALL.items()},
    )  # fmt: skip
    classifier.fit(dataset, np.arange(len(dataset)) % 2)
    attribution = explain(classifier, dataset)
    assert attribution.ch_names == ("C3", "C4")
    np.testing.assert_array_equal(attribution.targets, classifier.predict(dataset))


def test_model_is_left_as_it_was(fitted, epochs):
    model = make_model()
    model.train()
    model.encoder.eval()
    model.tokens.requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        explain(model, make_windows(), 0)
    assert model.training
    assert not model.encoder.training
    for name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert torch.equal(parameter, before[name])


def test_nets_of_braindecode_are_explained(epochs, microvolts):
    model = make_model(n_outputs=2).float()
    classes = epochs.events[:, 2] - 1
    net = EEGClassifier(
        model, max_epochs=1, train_split=None, verbose=0, classes=[0, 1], batch_size=8
    )
    net.fit(microvolts.astype("float32"), classes)
    three = epochs.copy().pick(["C3", "C4", "Pz"])
    by_net = explain(net, three, 1)
    by_model = explain(net.module_, torch.as_tensor(microvolts).float(), 1)
    np.testing.assert_allclose(by_net.values, by_model.values, atol=1e-4)
    np.testing.assert_array_equal(explain(net, three).targets, net.predict(three))


def test_regressors_are_explained_in_their_own_unit():
    x, y = make_windows().float().numpy(), np.zeros((5, 2), "float32")
    module = make_model(n_outputs=2).float()
    net = NeuralNetRegressor(module, max_epochs=1, train_split=None, verbose=0)
    net.fit(x, y)
    attribution = explain(net, x, target=1)
    np.testing.assert_allclose(attribution.outputs, net.predict(x)[:, 1], rtol=1e-5)
    assert attribution.unit == "output"
    with pytest.raises(ValueError, match="regressor has 2 outputs: say which"):
        explain(net, x)
    with pytest.raises(ValueError, match="needs a classifier"):
        explain(net, x, 1, scale="log-odds")


def test_regressors_of_this_package_are_explained_in_the_unit_of_the_targets(epochs):
    codes = epochs.events[:, 2]
    targets = np.stack([codes * 100.0, 40.0 - codes], axis=1)
    regressor = BIOTRegressor(
        max_epochs=2, validation_fraction=0, random_state=0, device="cpu",
        **{f"module__{name}": value for name, value in SMALL.items()},
    ).fit(epochs, targets)  # fmt: skip
    attribution = explain(regressor, epochs, target=0)
    predicted = regressor.predict(epochs)[:, 0]
    np.testing.assert_allclose(attribution.outputs, predicted, rtol=1e-4)
    scale = np.abs(attribution.values).sum((1, 2, 3))
    assert np.abs(attribution.delta / scale).max() < 1e-3
    curve = deletion_curve(regressor, epochs, attribution, shares=[0, 1])
    np.testing.assert_allclose(curve.attributed[::2], predicted, rtol=1e-4)
    one = BIOTRegressor(
        max_epochs=1, validation_fraction=0, random_state=0, device="cpu",
        **{f"module__{name}": value for name, value in SMALL.items()},
    ).fit(epochs, targets[:, 0])  # fmt: skip
    outputs = explain(one, epochs).outputs
    np.testing.assert_allclose(outputs, one.predict(epochs), rtol=1e-4)


def test_few_steps_are_warned_of():
    model, x = make_model(), 3 * make_windows()
    with torch.no_grad():
        model.tokens.projection.weight *= 20
    with pytest.warns(UserWarning, match=r"do not add up.*such as n_steps=4\."):
        explain(model, x, 0, n_steps=1)


def test_most_attributed_tokens_matter_most_in_a_seizure():
    """On the shipped recording, and of a seizure that was not trained on."""
    raw = to_montage(load_absence(), "tcp-16")
    epochs, labels, blocks = label_windows(raw, 2, 0.5, events="seizure", block="event")
    train, test = np.flatnonzero(blocks != 0), np.flatnonzero(blocks == 0)
    few = np.concatenate([train[labels[train] == "seizure"], train[::8]])
    classifier = demo.biot(0).set_params(
        module__emb_size=32, module__n_layers=1, max_epochs=15
    )
    classifier.fit(epochs[few], labels[few])
    seizure = epochs[test[labels[test] == "seizure"]]
    attribution = explain(classifier, seizure, "seizure")
    curve = deletion_curve(
        classifier, seizure, attribution, shares=[0, 0.2, 1], random_state=0
    )
    mean = curve.groupby("share")[["attributed", "random"]].mean()
    drop = mean.loc[0] - mean
    assert drop.loc[0.2, "attributed"] > 1.5 * drop.loc[0.2, "random"] > 0
    # Absence seizures are spikes and waves at 3 per second.
    spectrum = attribution.mean().values[0].sum((0, 1))
    assert attribution.freqs[spectrum.argmax()] == 3


@pytest.fixture(scope="module")
def arithmetic() -> tuple[mne.BaseEpochs, np.ndarray, np.ndarray]:
    """Half a minute each of rest and of mental arithmetic, with labels and subjects."""
    folder = SHARED / "data" / "eegmat"
    if not folder.is_dir():
        pytest.skip(f"the recordings of mental arithmetic are not in {folder}")
    parts, labels, subjects = [], [], []
    for subject in range(8):
        for session, label in ((1, "rest"), (2, "arithmetic")):
            path = folder / f"Subject{subject:02d}_{session}.edf"
            raw = mne.io.read_raw_edf(path, verbose="error").crop(0, 30)
            raw = to_montage(raw.load_data(verbose="error"), "tcp-16")
            epochs = mne.make_fixed_length_epochs(raw, 2, preload=True, verbose="error")
            parts.append(epochs)
            labels += [label] * len(parts[-1])
            subjects += [subject] * len(parts[-1])
    epochs = mne.concatenate_epochs(parts, verbose="error")
    return epochs, np.array(labels), np.array(subjects)


@pytest.mark.parametrize("baseline", ["flat", "mean"])
def test_most_attributed_tokens_matter_most_in_other_subjects(arithmetic, baseline):
    epochs, labels, subjects = arithmetic
    classifier = demo.biot(0).set_params(
        module__emb_size=32, module__n_layers=1, max_epochs=10
    )
    train, test = np.flatnonzero(subjects < 6), np.flatnonzero(subjects >= 6)
    classifier.fit(epochs[train], labels[train])
    attribution = explain(classifier, epochs[test], baseline=baseline)
    curve = deletion_curve(
        classifier, epochs[test], attribution, shares=[0, 0.2], random_state=0
    )
    mean = curve.groupby("share")[["attributed", "random"]].mean()
    drop = mean.loc[0] - mean.loc[0.2]
    assert drop["attributed"] > 2 * drop["random"]


def test_ends_of_the_deletion_curve_are_window_and_baseline():
    model, x = make_model(missing="mask"), make_windows()
    x[1, 0, 3] = torch.nan
    attribution = explain(model, x, baseline="mean")
    curve = deletion_curve(model, x, attribution, shares=[0, 1], batch_size=2)
    for column in ("attributed", "random"):
        ends = curve.pivot(index="window", columns="share", values=column)
        np.testing.assert_allclose(ends[0.0], attribution.outputs)
        np.testing.assert_allclose(ends[1.0], attribution.baseline_outputs)


def test_deletion_takes_the_greatest_attributions_first():
    model, x = make_model().eval(), make_windows()
    attribution = explain(model, x, 0)
    worth = attribution.values.sum(-1).reshape(5, 9)
    gone = np.zeros((5, 9), bool)
    np.put_along_axis(gone, np.argsort(-worth, 1)[:, :3], True, 1)
    spectra = model.spectra(x) * torch.as_tensor(~gone.reshape(5, 3, 3, 1))
    logits = model.final_layer(model._embed(spectra, model.channels.rows, None))
    curve = deletion_curve(model, x, attribution, shares=[1 / 3])
    odds = torch.logit(logits.softmax(1)[:, 0]).detach()
    np.testing.assert_allclose(curve.attributed, odds)


def test_random_choices_can_be_repeated():
    model, x = make_model(), make_windows()
    attribution = explain(model, x, 0)
    one, same, other = (
        deletion_curve(model, x, attribution, random_state=seed) for seed in (0, 0, 1)
    )
    assert one.equals(same)
    assert not one.random.equals(other.random)


def test_without_captum_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"pip install 'braindecode-biot\[explain\]'"):
        explain(make_model(), make_windows())


def test_unknown_targets_are_refused(fitted, epochs):
    with pytest.raises(ValueError, match=r"\['seizure'\], .* \['rest', 'task'\]"):
        explain(fitted, epochs, "seizure")
    with pytest.raises(ValueError, match=r"target holds \[1\]"):  # a label, no index
        explain(fitted, epochs, 1)
    with pytest.raises(ValueError, match=r"target holds \[3\], .* \[0, 1, 2\]"):
        explain(make_model(), make_windows(), 3)
    with pytest.raises(ValueError, match=r"shape \(2,\) for 24 windows"):
        explain(fitted, epochs, ["task", "rest"])


def test_what_is_not_fitted_is_refused(epochs):
    with pytest.raises(NotFittedError):
        explain(BIOTClassifier(), epochs)
    with pytest.raises(NotInitializedError):
        explain(EEGClassifier(BIOT), epochs)


def test_what_holds_no_model_is_refused(fitted, epochs):
    with pytest.raises(TypeError, match=r"A Pipeline was given.*the last step"):
        explain(make_pipeline(fitted), epochs)
    with pytest.raises(TypeError, match="is a Linear, expected a BIOT"):
        explain(nn.Linear(2, 2), make_windows())
    with pytest.raises(TypeError, match="A BIOTEmbedding was given"):
        explain(BIOTEmbedding(), epochs)
    headless = nn.Linear(2, 2)
    headless.channel_names = None
    with pytest.raises(TypeError, match="is a Linear, expected a BIOT with a head"):
        explain(headless, make_windows())


def test_windows_that_do_not_fit_are_refused(fitted, epochs):
    model = make_model()
    with pytest.raises(ValueError, match="Expected windows of shape"):
        explain(model, make_windows(n_chans=4))
    with pytest.raises(ValueError, match="Expected windows of shape"):
        explain(model, make_windows()[0])
    with pytest.raises(ValueError, match="Got no windows"):
        explain(model, make_windows()[:0])
    with pytest.raises(TypeError, match=r"got a EpochsArray\. epochs.get_data"):
        explain(model, epochs)
    with pytest.raises(ValueError, match="NaN or inf in 5 of 5 windows"):
        explain(model, make_windows() * torch.nan)
    with pytest.raises(ValueError, match="channels"):
        explain(fitted, epochs.copy().pick(["C3", "C4"]))


def test_baselines_that_do_not_fit_are_refused():
    model, x = make_model(missing="mask"), make_windows()
    with pytest.raises(ValueError, match="'flat', 'mean' or windows, got 'zero'"):
        explain(model, x, baseline="zero")
    part = x.clone()
    part[:, 1] = torch.nan
    with pytest.raises(ValueError, match=r"no whole token of \['1'\]"):
        explain(model, x, baseline=part)


@pytest.mark.parametrize("name", ["n_steps", "batch_size"])
@pytest.mark.parametrize("value", [0, 2.5])
def test_numbers_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number"):
        explain(make_model(), make_windows(), **{name: value})


def test_scale_is_checked():
    with pytest.raises(ValueError, match="'log-odds', 'output' or None, got 'p'"):
        explain(make_model(), make_windows(), scale="p")
    with pytest.raises(ValueError, match="needs a classifier"):
        explain(make_model(n_outputs=1), make_windows(), scale="log-odds")


def test_outputs_that_are_not_finite_are_refused():
    model = make_model()
    with torch.no_grad():
        model.final_layer.linear.weight *= torch.inf
    with pytest.raises(ValueError, match=r"not finite for windows \[0, 1, 2, 3, 4\]"):
        explain(model, make_windows(), 0)


def test_deletion_needs_the_windows_that_were_explained():
    model, x = make_model(), make_windows()
    attribution = explain(model, x, 0)
    with pytest.raises(ValueError, match="Got 4 windows, and attributions of 5"):
        deletion_curve(model, x[:4], attribution)
    longer = make_model(missing="mask")
    with pytest.raises(ValueError, match=r"the windows \(3, 4, 21\)"):
        deletion_curve(longer, make_windows(n_times=100), attribution)
    with pytest.raises(ValueError, match=r"from 0 to 1, got \[20\]"):
        deletion_curve(model, x, attribution, shares=[0.1, 20])
    with pytest.raises(ValueError, match="n_random must be a whole number"):
        deletion_curve(model, x, attribution, n_random=0)
