"""A recording scored as a whole is its windows scored one by one."""

import warnings

import edfio
import mne
import numpy as np
import pytest
import torch
from braindecode import EEGClassifier, EEGRegressor
from braindecode.models import ShallowFBCSPNet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from braindecode_biot import (
    BIOT,
    BIOTClassifier,
    BIOTEmbedding,
    BIOTRegressor,
    ToMontage,
    embed_recording,
    load_absence,
    score_recording,
    to_montage,
)
from braindecode_biot.montage import MontageStream
from braindecode_biot.reading import RecordingError
from conftest import SHARED

NAMES = ["F7-T7", "F8-T8", "C3-A2"]
SMALL = dict(module__emb_size=16, module__n_layers=1, max_epochs=1, random_state=0)


def windows_of(raw, duration=2.0):
    return mne.make_fixed_length_epochs(
        raw, duration, preload=True, reject_by_annotation=False, verbose="error"
    )


@pytest.fixture(scope="module")
def raw():
    """The shipped recording, at another rate."""
    return load_absence().crop(150, 250, include_tmax=False).resample(256)


@pytest.fixture(scope="module")
def fit_on(raw):
    """Windows and labels for a fit; what is learned does not matter."""
    epochs = windows_of(to_montage(raw, NAMES))
    return epochs, np.resize(["rest", "task"], len(epochs))


@pytest.fixture(scope="module")
def classifier(fit_on):
    return BIOTClassifier(**SMALL).fit(*fit_on)


@pytest.fixture(scope="module")
def masking(fit_on):
    return BIOTClassifier(missing="mask", **SMALL).fit(*fit_on)


@pytest.fixture(scope="module")
def path(tmp_path_factory, raw):
    """The recording as a file, of 19 electrodes under clinical names."""
    signals = [
        edfio.EdfSignal(
            raw.get_data(name)[0] * 1e6,
            256,
            label=f"EEG {name}-REF",
            physical_dimension="uV",
        )
        for name in raw.ch_names
    ]
    path = tmp_path_factory.mktemp("edf") / "patient.edf"
    edfio.Edf(signals).write(path)
    return path


def quietly(function, *args, **kwargs):
    return function(*args, verbose=0, **kwargs)


def test_scores_are_those_of_the_windows(classifier, raw, fit_on):
    found = quietly(score_recording, classifier, raw)
    np.testing.assert_array_equal(
        found.probabilities, classifier.predict_proba(fit_on[0])
    )
    assert found.classes == ["rest", "task"]
    np.testing.assert_array_equal(found.start, 2.0 * np.arange(50))
    np.testing.assert_array_equal(found.stop - found.start, 2)
    assert found.montage.derived == NAMES


def test_embeddings_are_those_of_the_model(classifier, raw, fit_on):
    model = classifier.net_.module_
    windows = torch.tensor(fit_on[0].get_data() * 1e6, dtype=torch.float32)
    with torch.inference_mode():
        expected = model.eval()(windows, return_features=True)["features"]
    model.train()
    model.encoder.eval()  # a part that is kept from training
    found = quietly(embed_recording, model, raw)
    assert model.training
    assert not model.encoder.training
    model.eval()
    assert found.embeddings.dtype == np.float32
    np.testing.assert_allclose(found.embeddings, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.start, 2.0 * np.arange(50))


def test_files_are_read_as_they_are_opened(classifier, path):
    expected = quietly(score_recording, classifier, mne.io.read_raw(path, preload=True))
    found = quietly(score_recording, classifier, path)
    np.testing.assert_array_equal(found.values, expected.values)
    assert found.source == str(path)
    raw = mne.io.read_raw(path)
    quietly(score_recording, classifier, raw)
    assert not raw.preload


@settings(
    max_examples=12, deadline=None, suppress_health_check=list(HealthCheck)
)  # fmt: skip
@given(
    st.sampled_from([0.5, 1.0, 1.3, 2.0, 5.0]),
    st.sampled_from([0.1, 3.0, 7.7, 40.0]),
    st.sampled_from([1, 3, 32]),
    st.booleans(),
)
def test_what_is_read_at_a_time_does_not_matter(
    classifier, masking, raw, step, seconds, batch, masked
):
    """Bit for bit, with gaps, bad stretches and another rate."""
    estimator = masking if masked else classifier
    raw = raw.copy().crop(0, 30)
    raw._data[3, 2000:2300] = np.nan
    raw.set_annotations(mne.Annotations([10.2], [1.5], ["BAD_move"]))
    options = dict(
        step=step, batch_size=batch, on_bad="mask" if masked else "skip", verbose=0
    )
    whole = score_recording(estimator, raw, chunk_seconds=1e6, **options)
    parts = score_recording(estimator, raw, chunk_seconds=seconds, **options)
    np.testing.assert_array_equal(parts.start, whole.start)
    np.testing.assert_array_equal(parts.values, whole.values)
    assert parts.skipped.equals(whole.skipped)
    assert len(whole) + len(whole.skipped) == int(28 / step + 1e-9) + 1


@pytest.mark.parametrize("date", [None, 1_000_000_000])
def test_bad_stretches(classifier, masking, raw, date):
    raw = raw.copy().crop(0, 40)
    raw.set_meas_date(date)
    raw.set_annotations(
        mne.Annotations([13, 27.5, 31], [1, 0, 2], ["bad_move", "BAD", "good"])
    )
    raw.crop(10)  # so that the first sample is not the clock's zero
    plain = quietly(score_recording, classifier, raw, on_bad="keep")
    assert len(plain) == 15
    found = quietly(score_recording, classifier, raw)
    assert found.skipped.values.tolist() == [[2, 4, "bad"], [16, 18, "bad"]]
    kept = np.isin(plain.start, found.start)
    np.testing.assert_allclose(found.values, plain.values[kept], atol=1e-6)
    masked = quietly(score_recording, masking, raw, on_bad="mask")
    whole = quietly(score_recording, masking, raw, on_bad="keep")
    differs = np.abs(masked.values - whole.values).max(axis=1) > 1e-6
    # A window that lost all its tokens is left out.
    assert set(masked.start[differs]) | set(masked.skipped.start) == {2, 16}


def test_bad_stretches_of_single_channels(classifier, masking, raw):
    raw = raw.copy().crop(0, 20)
    marks = mne.Annotations(
        [3, 9, 13], [2, 1, 1], ["bad", "BAD_x", "bad"],
        ch_names=[["F7"], ["Pz"], ["C3", "A2"]],
    )  # fmt: skip
    raw.set_annotations(marks)
    found = quietly(score_recording, classifier, raw)
    assert found.skipped.start.tolist() == [2, 4, 12]  # nothing derives from Pz
    masked = quietly(embed_recording, masking, raw, on_bad="mask")
    gone = to_montage(raw, NAMES)
    gone._data[2, 13 * 200 : 14 * 200] = np.nan
    window = gone.get_data(start=12 * 200, stop=14 * 200)[None] * 1e6
    expected = masking.net_.module_.eval()(
        torch.tensor(window, dtype=torch.float32), return_features=True
    )["features"]
    np.testing.assert_allclose(
        masked.embeddings[masked.start == 12], expected.detach(), atol=1e-5
    )


def test_lost_samples(classifier, masking, raw):
    raw = raw.copy().crop(0, 20)
    raw._data[:, 1000:2000] = np.nan  # 3.9 to 7.8 s
    found = quietly(score_recording, classifier, raw)
    assert found.skipped.start.tolist() == [2, 4, 6]
    assert set(found.skipped.reason) == {"missing"}
    masked = quietly(score_recording, masking, raw)
    assert masked.skipped.start.tolist() == [4, 6]
    assert np.isfinite(masked.values).all(axis=None)


def test_missing_channels(classifier, masking, raw):
    raw = raw.copy().drop_channels(["A2"])
    with pytest.raises(ValueError, match=r"cannot give 1:\n  C3-A2"):
        quietly(score_recording, classifier, raw)
    found = quietly(score_recording, masking, raw)
    assert list(found.montage.missing) == ["C3-A2"]
    assert "without C3-A2" in repr(found)
    bad = raw.copy()
    bad.info["bads"] = ["F7"]
    assert list(quietly(score_recording, masking, bad).montage.missing) == [
        "F7-T7", "C3-A2",
    ]  # fmt: skip
    used = quietly(score_recording, masking, bad, use_bads=True)
    np.testing.assert_array_equal(used.values, found.values)


def test_windows_of_another_length(classifier, masking, raw):
    found = quietly(score_recording, masking, raw, window=5, step=2.5)
    assert len(found) == 39
    longer = windows_of(to_montage(raw, NAMES), 5.0)
    np.testing.assert_allclose(
        found.values[::2], masking.predict_proba(longer), atol=1e-6
    )
    with pytest.raises(
        ValueError, match=r"window=5 s has 1000 samples .* fitted on 400"
    ):
        quietly(score_recording, classifier, raw, window=5)
    assert len(quietly(score_recording, classifier, raw, window=2)) == 50
    with pytest.raises(ValueError, match="fewer than a token of 200"):
        quietly(score_recording, masking, raw, window=0.5)


def test_joined_recordings_stay_apart(classifier, raw):
    parts = [raw.copy().crop(0, 11), raw.copy().crop(20, 31)]
    joined = mne.concatenate_raws(parts, verbose="error")
    joined.set_annotations(None)
    found = quietly(score_recording, classifier, joined)
    assert found.skipped.values.tolist() == [[10, 12, "across a join"]]


@pytest.mark.filterwarnings("ignore")
class TestEstimators:
    """What may be given, beside BIOTClassifier."""

    def test_braindecode(self, fit_on, raw):
        epochs, y = fit_on
        net = EEGClassifier(
            BIOT, module__emb_size=16, module__n_layers=1, max_epochs=1,
            train_split=None, verbose=0,
        ).fit(epochs, (y == "task").astype(int))  # fmt: skip
        found = quietly(score_recording, net, raw)
        np.testing.assert_allclose(found.values, net.predict_proba(epochs), atol=1e-6)
        assert found.classes == [0, 1]

    def test_braindecode_without_names(self, fit_on, raw):
        epochs, y = fit_on
        net = EEGClassifier(
            BIOT, module__emb_size=16, module__n_layers=1, module__sfreq=200,
            max_epochs=1, train_split=None, verbose=0,
        )  # fmt: skip
        X = (epochs.get_data() * 1e6).astype(np.float32)
        net.fit(X, (y == "task").astype(int))
        with pytest.raises(ValueError, match="Say so with montage="):
            quietly(score_recording, net, raw)
        found = quietly(score_recording, net, raw, montage=NAMES)
        np.testing.assert_allclose(found.values, net.predict_proba(X), atol=1e-6)

    def test_fitted_on_an_array(self, fit_on, raw, classifier):
        epochs, y = fit_on
        array = BIOTClassifier(sfreq=200, **SMALL).fit(epochs.get_data(), y)
        with pytest.raises(ValueError, match="Say so with montage="):
            quietly(score_recording, array, raw)
        found = quietly(score_recording, array, raw, montage=NAMES)
        np.testing.assert_allclose(
            found.values, array.predict_proba(epochs.get_data()), atol=1e-5
        )
        with pytest.raises(ValueError, match="montage has 2 channels"):
            quietly(score_recording, array, raw, montage=NAMES[:2])
        with pytest.raises(ValueError, match="differs from the channels"):
            quietly(score_recording, classifier, raw, montage=NAMES[::-1])

    def test_pipelines_and_searches(self, fit_on, raw, classifier):
        epochs, y = fit_on
        expected = quietly(score_recording, classifier, raw).values
        pipeline = make_pipeline(ToMontage(NAMES), BIOTClassifier(**SMALL)).fit(
            epochs, y
        )
        np.testing.assert_array_equal(
            quietly(score_recording, pipeline, raw).values, expected
        )
        search = GridSearchCV(BIOTClassifier(**SMALL), {"lr": [1e-3]}, cv=2)
        search.fit(epochs, y)
        np.testing.assert_array_equal(
            quietly(score_recording, search, raw).values, expected
        )

    def test_picks_of_the_fit(self, fit_on, raw):
        epochs, y = fit_on
        part = BIOTClassifier(picks=[2, 0], **SMALL).fit(epochs, y)
        found = quietly(score_recording, part, raw)
        np.testing.assert_array_equal(found.values, part.predict_proba(epochs))
        assert part.picks == [2, 0]

    def test_electrodes_by_name_without_a_warning(self, raw):
        epochs = windows_of(raw.copy().resample(200).pick(["Fp1", "C3", "A2"]))
        y = np.resize(["rest", "task"], len(epochs))
        electrodes = BIOTClassifier(**SMALL).fit(epochs, y)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            found = quietly(score_recording, electrodes, raw)
        assert found.montage.found == ["Fp1", "C3", "A2"]
        renamed = raw.copy().rename_channels({"Fp1": "EEG FP1"})
        with pytest.warns(UserWarning, match="carry their reference"):
            quietly(score_recording, electrodes, renamed)

    def test_a_vocabulary_of_a_bare_model(self, raw):
        model = BIOT(
            channel_names="tcp-18", missing="mask", n_times=400, n_outputs=2,
            emb_size=16, n_layers=1,
        )  # fmt: skip
        found = quietly(embed_recording, model, raw.copy().drop_channels(["O1"]))
        assert found.embeddings.shape == (50, 16)
        assert list(found.montage.missing) == ["P7-O1", "P3-O1"]
        nameless = BIOT(n_chans=3, n_times=400, n_outputs=2, emb_size=16, n_layers=1)
        with pytest.raises(ValueError, match="Say so with montage="):
            quietly(embed_recording, nameless, raw)
        assert len(quietly(embed_recording, nameless, raw, montage=NAMES)) == 50

    def test_what_is_none(self, raw, fit_on, classifier):
        flat = make_pipeline(
            FunctionTransformer(lambda X: X.get_data().mean(-1)), LogisticRegression()
        ).fit(*fit_on)
        for estimator in (flat, None, "model", torch.nn.Linear(2, 2)):
            with pytest.raises(TypeError, match="expected a fitted BIOTClassifier"):
                quietly(score_recording, estimator, raw)
        with pytest.raises(TypeError, match="pipeline within a pipeline"):
            quietly(score_recording, make_pipeline(make_pipeline(classifier)), raw)
        with pytest.raises(Exception, match="not fitted"):
            quietly(score_recording, BIOTClassifier(), raw)
        model = classifier.net_.module_
        with pytest.raises(TypeError, match="BIOT gives embeddings"):
            quietly(score_recording, model, raw)


class TestWhatWasWrong:
    """Each of these once gave a wrong answer, or an error that helped nobody."""

    def test_nets_for_regression(self, fit_on, raw):
        epochs, _ = fit_on
        y = np.arange(len(epochs), dtype=np.float32)[:, None]
        net = EEGRegressor(ShallowFBCSPNet, max_epochs=1, train_split=None, verbose=0)
        net.fit(epochs, y)
        found = quietly(score_recording, net, raw)
        assert not found.is_probability
        np.testing.assert_allclose(found.values, net.predict(epochs), atol=1e-5)

    def test_regressors(self, fit_on, raw):
        epochs, _ = fit_on
        regressor = BIOTRegressor(**SMALL).fit(epochs, np.arange(len(epochs)) / 7)
        found = quietly(score_recording, regressor, raw)
        np.testing.assert_array_equal(
            found.values["prediction"], regressor.predict(epochs)
        )
        np.testing.assert_array_equal(
            quietly(embed_recording, regressor, raw).embeddings, regressor.embed(epochs)
        )

    def test_pipelines_from_embeddings(self, fit_on, raw, classifier):
        epochs, y = fit_on
        embedding = BIOTEmbedding(classifier.model_)
        pipeline = make_pipeline(embedding, LogisticRegression()).fit(epochs, y)
        found = quietly(score_recording, pipeline, raw)
        np.testing.assert_array_equal(found.values, pipeline.predict_proba(epochs))
        hard = make_pipeline(embedding, RidgeClassifier()).fit(epochs, y)
        with pytest.raises(TypeError, match="gives no probabilities"):
            quietly(score_recording, hard, raw)
        search = make_pipeline(
            ToMontage(NAMES),
            GridSearchCV(BIOTClassifier(**SMALL), {"lr": [1e-3]}, cv=2),
        ).fit(epochs, y)
        np.testing.assert_array_equal(
            quietly(score_recording, search, raw).values,
            quietly(score_recording, classifier, raw).values,
        )

    def test_nets_that_do_not_know_their_classes(self, fit_on, raw):
        epochs, y = fit_on
        net = EEGClassifier(
            BIOT, module__emb_size=16, module__n_layers=1, max_epochs=1,
            train_split=None, verbose=0,
        ).fit(epochs, (y == "task").astype(int))  # fmt: skip
        del net.classes_inferred_  # as after a fit without y
        with pytest.raises(ValueError, match="does not know its classes"):
            quietly(score_recording, net, raw)

    def test_embeddings_of_a_braindecode_net(self, fit_on, raw):
        epochs, y = fit_on
        net = EEGClassifier(
            BIOT, module__emb_size=16, module__n_layers=1, max_epochs=1,
            train_split=None, verbose=0,
        ).fit(epochs, (y == "task").astype(int))  # fmt: skip
        found = quietly(embed_recording, net, raw)
        expected = quietly(embed_recording, net.module_, raw)
        np.testing.assert_array_equal(found.embeddings, expected.embeddings)

    @pytest.mark.parametrize(
        "options", [dict(exclude=["F8-T8"]), dict(picks=["F7-T7", "C3-A2"])]
    )
    def test_what_an_estimator_leaves_out_of_its_vocabulary(self, fit_on, raw, options):
        epochs, y = fit_on
        part = BIOTClassifier(
            missing="mask", channel_names=NAMES, **options, **SMALL
        ).fit(epochs, y)  # fmt: skip
        found = quietly(score_recording, part, raw)
        np.testing.assert_allclose(found.values, part.predict_proba(epochs), atol=1e-6)
        assert found.montage.missing == {"F8-T8": "the model was fitted without it"}

    def test_projectors_that_are_not_applied(self, raw):
        whole = raw.copy().set_eeg_reference("average", projection=True, verbose=0)
        electrodes = whole.copy().pick(["Fp1", "C3", "O2"]).resample(200)
        epochs = windows_of(electrodes)
        fitted = BIOTClassifier(**SMALL).fit(epochs, np.resize([0, 1], len(epochs)))
        with pytest.warns(UserWarning, match="are not applied"):
            quietly(score_recording, fitted, whole)

    @pytest.mark.parametrize("scaling", [None, 1e-4])
    def test_units_of_an_array_without_scaling(self, fit_on, raw, scaling):
        epochs, y = fit_on
        unscaled = BIOTClassifier(sfreq=200, module__input_scaling=scaling, **SMALL)
        unscaled.fit(epochs.get_data(), y)
        with pytest.raises(ValueError, match="whose unit is not known"):
            quietly(score_recording, unscaled, raw, montage=NAMES)

    @pytest.mark.parametrize("rate", [200.0003, 199.9995])
    def test_rates_that_differ_by_millionths(self, classifier, raw, rate):
        other = raw.copy().resample(200)
        expected = quietly(score_recording, classifier, other)
        with other.info._unlock():
            other.info["sfreq"] = rate
        found = quietly(score_recording, classifier, other)
        np.testing.assert_array_equal(found.values, expected.values)

    def test_split_files_have_no_joins(self, classifier, raw, tmp_path):
        expected = quietly(score_recording, classifier, raw)
        file = tmp_path / "a_raw.fif"
        raw.save(file, split_size="2MB", fmt="double", verbose="error")
        split = mne.io.read_raw_fif(file, verbose="error")
        assert len(split.filenames) > 1
        found = quietly(score_recording, classifier, split)
        np.testing.assert_array_equal(found.values, expected.values)

    @pytest.mark.parametrize("mark", ["EDGE boundary", "boundary"])
    def test_joins_that_only_annotations_tell(self, classifier, raw, mark):
        raw = raw.copy().crop(0, 20, include_tmax=False)
        raw._data[:, 11 * 256 :] += 1e-2  # which a filter would smear
        raw.set_annotations(mne.Annotations([11], [0], [mark]))
        found = quietly(score_recording, classifier, raw, on_bad="keep")
        assert found.skipped.values.tolist() == [[10, 12, "across a join"]]
        alone = quietly(score_recording, classifier, raw.copy().crop(0, 10.999))
        np.testing.assert_array_equal(found.values[:5], alone.values)

    def test_what_it_was_fitted_on_can_be_scored(self, raw):
        for names, kind in [
            (["A1", "A2", "A3", "A4"], "seeg"), (["F1", "F2", "F9"], "eeg"),
            (["Fp1", "Fp2"], "eog"), (["C3", "x"], "misc"), (["T3", "T7"], "eeg"),
        ]:  # fmt: skip
            own = raw.copy().resample(200).pick(raw.ch_names[: len(names)])
            own.rename_channels(dict(zip(own.ch_names, names, strict=True)))
            own.set_channel_types(dict.fromkeys(names, kind), verbose="error")
            epochs = windows_of(own)
            fitted = BIOTClassifier(picks="all", **SMALL)
            fitted.fit(epochs, np.resize([0, 1], len(epochs)))
            found = quietly(score_recording, fitted, own)
            np.testing.assert_array_equal(found.values, fitted.predict_proba(epochs))

    def test_windows_far_apart_are_read_one_by_one(self, classifier, raw, monkeypatch):
        read, lengths = MontageStream.read, []

        def spy(self, start, stop):
            lengths.append(stop - start)
            return read(self, start, stop)

        monkeypatch.setattr(MontageStream, "read", spy)
        found = quietly(score_recording, classifier, raw, step=20)
        assert lengths == [400] * 5
        assert found.start.tolist() == [0, 20, 40, 60, 80]

    def test_the_file_that_was_given_is_the_source(self, masking):
        path = SHARED / "data" / "eeglab" / "eeglab_data.set"
        if not path.is_file():
            pytest.skip("the real recordings are not here")
        names = ["P7-O1", "P8-O2"]
        model = BIOT(
            channel_names=names, n_times=256, sfreq=128, n_outputs=2, emb_size=16,
            n_layers=1, hop_length=64,
        )  # fmt: skip
        assert quietly(embed_recording, model, path).source == str(path)

    def test_marks_of_no_duration_at_the_start_of_a_window(self, classifier, raw):
        raw = raw.copy().crop(0, 10)
        raw.set_annotations(mne.Annotations([4.0, 7.0], [0, 0], ["BAD", "BAD"]))
        found = quietly(score_recording, classifier, raw)
        assert found.skipped.start.tolist() == [6]  # as MNE's Epochs


@pytest.mark.parametrize(("options", "match"), [
    (dict(on_bad="drop"), "on_bad is 'skip', 'mask' or 'keep'"),
    (dict(on_bad="mask"), "fitted with missing='mask'"),
    (dict(batch_size=0), "batch_size must be a whole number"),
    (dict(step=0), "step must be a number of seconds above 0"),
    (dict(step=1e-4), "less than a sample at 200 Hz"),
    (dict(window="2"), "window must be a number"),
    (dict(chunk_seconds=None), "chunk_seconds must be a number"),
    (dict(chunk_seconds=float("inf")), "chunk_seconds must be a number"),
    (dict(window=True), "window must be a number"),
    (dict(batch_size=True), "batch_size must be a whole number"),
])  # fmt: skip
def test_bad_arguments(classifier, raw, options, match):
    with pytest.raises(ValueError, match=match):
        quietly(score_recording, classifier, raw, **options)


def test_recordings_that_will_not_do(classifier, raw, tmp_path):
    with pytest.raises(
        RecordingError, match=r"lasts 1.\d+ s, less than a window of 2 s"
    ):
        quietly(score_recording, classifier, raw.copy().crop(0, 1))
    marked = raw.copy().set_annotations(mne.Annotations([0], [100], ["BAD"]))
    with pytest.raises(
        RecordingError, match="No window of the recording is left: 50 bad"
    ):
        quietly(score_recording, classifier, marked)
    with pytest.raises(ValueError, match="has 128 Hz, less than sfreq=200"):
        quietly(score_recording, classifier, raw.copy().resample(128))
    slow = raw.copy().resample(128)
    assert len(quietly(score_recording, classifier, slow, upsample=True)) == 50
    ecg = raw.copy().pick(["C3"]).rename_channels({"C3": "ECG"})
    ecg.set_channel_types({"ECG": "ecg"}, verbose="error")
    with pytest.raises(ValueError, match="cannot give 3"):
        quietly(score_recording, classifier, ecg)
    with pytest.raises(FileNotFoundError):
        quietly(score_recording, classifier, tmp_path / "none.edf")


def test_progress_is_shown_unless_silent(classifier, raw, capsys):
    score_recording(classifier, raw)
    assert "50/50" in capsys.readouterr().err
    quietly(score_recording, classifier, raw)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


needs_data = pytest.mark.skipif(
    not (SHARED / "data").is_dir(), reason="the real recordings are not here"
)


@needs_data
@pytest.mark.parametrize("name", ["eegmat/Subject03_1.edf", "eegmmidb/S001R04.edf"])
def test_real_files(masking, name):
    path = SHARED / "data" / name
    if not name.startswith("eegmat"):
        with pytest.raises(ValueError, match="less than sfreq=200"):
            quietly(score_recording, masking, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = to_montage(mne.io.read_raw(path, verbose="error"), NAMES, upsample=True)
        found = quietly(score_recording, masking, path, upsample=True)
    np.testing.assert_array_equal(
        found.values, masking.predict_proba(windows_of(whole))
    )
    assert list(found.montage.missing) == ["C3-A2"]
