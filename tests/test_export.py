"""Exported models: the numbers of the model, what the file says, what is refused."""

import json
import logging
import sys

import mne
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from braindecode import EEGClassifier
from braindecode.models import BIOT as HostBIOT
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from torch import nn

from braindecode_biot import (
    BIOT,
    BIOTClassifier,
    export_onnx,
    export_torch,
    load_absence,
    to_montage,
)
from layouts import small

TINY = dict(emb_size=16, n_layers=1, n_outputs=2)
GEOMETRIES = {
    "odd": dict(n_chans=3, n_times=1001, sfreq=97.5, token_size=97, hop_length=33),
    "long tokens": dict(
        n_chans=12, n_times=2500, sfreq=500, token_size=1000, hop_length=200
    ),
    "one sample, unscaled": dict(
        n_chans=2, n_times=9, sfreq=5, token_size=1, hop_length=1, input_scaling=None
    ),
}


def session_of(path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options)


def run(path, windows) -> list[np.ndarray]:
    windows = np.asarray(windows, dtype=np.float32)
    return session_of(path).run(None, {"windows": windows})


@torch.no_grad()
def expected(model, windows) -> list[torch.Tensor]:
    embedding = model(windows, return_features=True)["features"]
    return [model.final_layer(embedding), embedding]


def assert_same(path, model, windows, atol=1e-5):
    program = torch.export.load(path.with_suffix(".pt2")).module()
    for got in (run(path, windows), program(windows)):
        for mine, its in zip(expected(model, windows), got, strict=True):
            torch.testing.assert_close(
                torch.as_tensor(its), mine, atol=atol, rtol=1e-4, equal_nan=True
            )


def export(model, folder):
    """Write both files, with embeddings, and return the ONNX one's path."""
    export_torch(model, folder / "biot.pt2", embedding=True)
    return export_onnx(model, folder / "biot.onnx", embedding=True)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_every_geometry_gives_the_models_numbers_in_batches_of_any_size(
    geometry, tmp_path
):
    torch.manual_seed(0)
    model = BIOT(**TINY, **geometry).eval()
    path = export(model, tmp_path)
    for n_windows in (1, 3, 32):
        assert_same(path, model, torch.randn(n_windows, model.n_chans, model.n_times))


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    """A model of the default size, and its files."""
    torch.manual_seed(0)
    model = BIOT(n_chans=16, n_outputs=2, n_times=2000, sfreq=200).eval()
    return model, export(model, tmp_path_factory.mktemp("default"))


def test_the_default_size_on_real_windows_in_volts_and_microvolts(default):
    model, path = default
    raw = to_montage(load_absence(), "tcp-16")
    windows = mne.make_fixed_length_epochs(raw, 10, preload=True, verbose="error")
    volts = torch.tensor(windows.get_data()[::4], dtype=torch.float32)
    assert_same(path, model, volts)
    in_volts, in_microvolts = run(path, volts), run(path, volts * 1e6)
    np.testing.assert_allclose(in_volts[0], in_microvolts[0], atol=1e-5)


def test_the_default_size_is_one_file_without_this_machines_folders(default):
    _, path = default
    assert sorted(p.name for p in path.parent.iterdir()) == ["biot.onnx", "biot.pt2"]
    assert path.stat().st_size < 15e6  # 3.2 million parameters
    for file in (path, path.with_suffix(".pt2")):
        assert b"braindecode_biot/model.py" not in file.read_bytes()


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A model that takes no NaN, whose last sample is behind the last whole token."""
    torch.manual_seed(0)
    model = small(n_times=81, activation=nn.ReLU)  # which would turn NaN into 0
    return model, export(model, tmp_path_factory.mktemp("strict"))


def test_flat_channels_and_lone_spikes(strict):
    model, path = strict
    windows = torch.randn(5, 3, 81)
    windows[0, 1] = 0
    windows[1, 2] = 5.0
    windows[2] = 0
    windows[3, 0] = 0
    windows[3, 0, 7] = 1e-3
    assert_same(path, model, windows)


def test_what_the_model_refuses_is_nan_in_that_window_alone(strict):
    model, path = strict
    windows = torch.randn(10, 3, 81)
    whole = run(path, windows)
    bad = [(b, t) for b in (torch.nan, torch.inf, -torch.inf) for t in (0, 40, -1)]
    for window, (value, time) in enumerate(bad):
        windows[window, 2, time] = value
        with pytest.raises(ValueError, match="NaN or inf in 1 of 1 windows"):
            model(windows[[window]])
    program = torch.export.load(path.with_suffix(".pt2")).module()
    for got in (run(path, windows), program(windows)):
        for before, after in zip(whole, got, strict=True):
            assert np.isnan(np.asarray(after)[:9]).all()
            np.testing.assert_allclose(np.asarray(after)[9], before[9], atol=1e-5)


@pytest.fixture(scope="module")
def masking(tmp_path_factory):
    """A model that leaves out what is missing, with a last sample as above."""
    torch.manual_seed(0)
    model = small(n_times=81, missing="mask", activation=nn.ReLU)
    return model, export(model, tmp_path_factory.mktemp("masking"))


def test_missing_data_is_left_out_as_in_the_model(masking):
    model, path = masking
    windows = torch.randn(6, 3, 81)
    windows[0, 1] = torch.nan
    windows[1, :, 50:] = torch.nan
    windows[2, 0, 30:33] = torch.nan
    windows[3, 2, ::4] = torch.nan
    windows[4, :2, 5:] = torch.nan
    assert_same(path, model, windows)
    assert_same(path, model, windows[:1])
    assert all(np.isfinite(output).all() for output in run(path, windows))
    # A shorter window, filled up, is what the model makes of it alone.
    alone = expected(model, windows[1:2, :, :50])[0]
    np.testing.assert_allclose(run(path, windows[1:2])[0], alone, atol=1e-5)


def test_a_masking_model_refuses_inf_and_windows_of_which_nothing_is_left(masking):
    _, path = masking
    windows = torch.randn(5, 3, 81)
    windows[0, 0, 3] = torch.inf
    windows[1] = torch.nan
    windows[2, :, ::20] = torch.nan  # samples are left, but no whole token
    windows[3, 1, -1] = -torch.inf
    program = torch.export.load(path.with_suffix(".pt2")).module()
    for got in (run(path, windows), program(windows)):
        for output in got:
            finite = np.isfinite(np.asarray(output)).all(1)
            assert finite.tolist() == [False, False, False, False, True]
            assert np.isnan(np.asarray(output)[:4]).all()


def notes_of(path) -> dict[str, str]:
    return {note.key: note.value for note in onnx.load(path).metadata_props}


def program_notes(model, path) -> dict[str, str]:
    export_torch(model, path)
    extra = {"metadata.json": ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra["metadata.json"])


def test_the_file_of_an_estimator_says_what_it_takes_and_gives(epochs, tmp_path):
    labels = np.where(epochs.events[:, 2] == 1, "rest", "left")
    classifier = BIOTClassifier(
        max_epochs=1, random_state=0, module__emb_size=16, module__n_layers=1
    ).fit(epochs, labels)
    path = export_onnx(classifier, tmp_path / "new" / "biot.onnx")
    session = session_of(path)
    (windows,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (windows.name, windows.type) == ("windows", "tensor(float)")
    assert windows.shape == ["batch", 3, 80]
    assert (logits.name, logits.shape) == ("logits", ["batch", 2])
    notes = notes_of(path)
    assert notes.pop("version")
    assert notes == {
        "package": "braindecode-biot",
        "channels": '["C3", "C4", "Pz"]',
        "classes": '["left", "rest"]',
        "sfreq": "40",
        "n_times": "80",
        "missing": "raise",
        "unit": "any",
    }
    X = epochs.get_data(json.loads(notes["channels"]))
    predicted = np.array(json.loads(notes["classes"]))[run(path, X)[0].argmax(1)]
    assert predicted.tolist() == classifier.predict(epochs).tolist()

    assert program_notes(classifier, tmp_path / "biot.pt2") == notes_of(path)


def test_numbers_as_classes_and_microvolts_where_nothing_is_scaled(epochs, tmp_path):
    classifier = BIOTClassifier(
        max_epochs=1, module__emb_size=16, module__n_layers=1,
        module__input_scaling=None,
    ).fit(epochs)  # fmt: skip
    notes = program_notes(classifier, tmp_path / "biot.pt2")
    assert (notes["classes"], notes["unit"]) == ("[1, 2]", "uV")


def test_braindecodes_classifier(epochs, tmp_path):
    net = EEGClassifier(
        BIOT, module__emb_size=16, module__n_layers=1, module__hop_length=20,
        max_epochs=1, train_split=None, verbose=0, batch_size=8,
    )  # fmt: skip
    eeg = epochs.copy().pick(["C3", "C4", "Pz"])
    net.fit(eeg, epochs.events[:, 2] - 1)
    path = export_onnx(net, tmp_path / "biot.onnx")
    assert notes_of(path)["classes"] == "[0, 1]"
    predicted = run(path, eeg.get_data())[0].argmax(1)
    assert predicted.tolist() == net.predict(eeg).tolist()


def test_a_vocabulary_tells_the_channels_and_a_bare_model_none(tmp_path):
    named = small(n_chans=None, channel_names=["C3", "C4", "Pz"])
    notes = program_notes(named, tmp_path / "named.pt2")
    assert json.loads(notes["channels"]) == ["C3", "C4", "Pz"]
    for scaling in (None, 100.0):
        bare = program_notes(small(input_scaling=scaling), tmp_path / "bare.pt2")
        assert not {"channels", "classes", "unit"} & set(bare)


def test_the_model_stays_as_it_was_and_nothing_is_said(tmp_path, capfd, recwarn):
    model = small(return_feature=True).train().double()
    model.encoder.requires_grad_(False)
    model(torch.randn(2, 3, 80).double())[0].sum().backward()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    wanted = [p.requires_grad for p in model.parameters()]
    random = torch.get_rng_state()
    export(model, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert torch.equal(random, torch.get_rng_state())
    assert all(part.training for part in model.modules())
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert model.final_layer.linear.weight.grad is not None
    for name, value in model.state_dict().items():
        assert value.dtype == before[name].dtype
        assert torch.equal(value, before[name])
    assert_same(tmp_path / "biot.onnx", model.eval().float(), torch.randn(2, 3, 80))


def test_a_compiled_model_is_the_model_within():
    model = small()
    windows = torch.randn(2, 3, 80)
    got = export_torch(torch.compile(model)).module()(windows)
    torch.testing.assert_close(got, expected(model, windows)[0])


def test_an_older_opset_over_an_old_file(tmp_path):
    model = small()
    path = tmp_path / "biot.onnx"
    path.write_text("old")
    assert export_onnx(model, str(path), opset=18) == path
    assert onnx.load(path).opset_import[0].version == 18
    windows = torch.randn(2, 3, 80)
    logits = expected(model, windows)[0]
    np.testing.assert_allclose(run(path, windows)[0], logits, atol=1e-5)


def test_an_opset_that_the_exporter_does_not_know(tmp_path):
    with pytest.raises(ValueError, match=r"cannot make opset=99.*from 18 on"):
        export_onnx(small(), tmp_path / "biot.onnx", opset=99)
    assert not list(tmp_path.iterdir())


def test_the_loggers_level_is_as_before(tmp_path):
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    with pytest.raises(ValueError, match="meta device, without values"):
        export_onnx(small().to("meta"), tmp_path / "biot.onnx")
    assert logger.level == before


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Linear(2, 2), TypeError, "is a Linear, expected a BIOT of this package"),
        (HostBIOT, TypeError, "expected a BIOT of this package or a fitted"),
        ("biot.pt", TypeError, "The model is a str"),
        (BIOTClassifier(), NotFittedError, "This BIOTClassifier holds no fitted BIOT"),
        (EEGClassifier(BIOT), NotFittedError, "This EEGClassifier holds no fitted"),
        (
            make_pipeline(FunctionTransformer(), BIOTClassifier()),
            NotFittedError,
            "This Pipeline holds no fitted BIOT: .* that is within",
        ),
    ],
)
def test_what_is_no_fitted_biot_is_refused(model, error, message, tmp_path):
    with pytest.raises(error, match=message):
        export_onnx(model, tmp_path / "biot.onnx")
    with pytest.raises(error, match=message):
        export_torch(model)
    assert not list(tmp_path.iterdir())


def test_places_where_no_file_can_be(tmp_path):
    model = small()
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").write_text("here")
    for path, error, message in [
        ("biot.pt2", ValueError, r"ends in \.onnx, got"),
        ("biot", ValueError, r"ends in \.onnx, got"),
        ("folder.onnx", IsADirectoryError, "is a folder, and its name that of the"),
        ("file/biot.onnx", FileExistsError, r"file' is a file, where a folder is to"),
    ]:
        with pytest.raises(error, match=message):
            export_onnx(model, tmp_path / path)
    with pytest.raises(ValueError, match=r"ends in \.pt2, got"):
        export_torch(model, tmp_path / "biot.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.onnx"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_without_the_extra(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"pip install 'braindecode-biot\[onnx\]'"):
        export_onnx(small(), tmp_path / "biot.onnx")
