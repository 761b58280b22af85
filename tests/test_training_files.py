"""From annotated files to a classifier in a folder."""

import mne
import numpy as np
import pytest
from skorch.callbacks import Callback

from braindecode_biot.estimators import BIOTClassifier
from braindecode_biot.persistence import load_estimator
from braindecode_biot.reading import RecordingError
from braindecode_biot.training_files import train_on_files
from recordings import make_raw

SMALL = {
    "module__emb_size": 16,
    "module__n_layers": 1,
    "max_epochs": 1,
    "random_state": 0,
    "montage": ["C3-C4", "C4-CZ"],
    "sfreq": 100.0,
    "window": 2.0,
}
NAMES, TYPES = ["C3", "C4", "Cz"], ["eeg"] * 3


@pytest.fixture
def make_file(tmp_path):
    """Write a recording of 40 s with (onset, duration, description) in it."""

    def make(name, *notes, names=NAMES, seconds=40):
        raw = make_raw(
            names=names, types=TYPES[: len(names)], bads=[], n_times=100 * seconds,
            seed=len(list(tmp_path.iterdir())),
        )  # fmt: skip
        onset, duration, text = zip(*notes, strict=True) if notes else ([], [], [])
        raw.set_annotations(mne.Annotations(onset, duration, text))
        path = tmp_path / f"{name}_raw.fif"
        raw.save(path, verbose="error")
        return path

    return make


def train(files, folder, **kwargs):
    lines = []
    params = {"events": None, "say": lines.append} | SMALL | kwargs
    return train_on_files(files, folder, **params), lines


def spy(monkeypatch):
    """Catch what a fit is given."""
    given = {}
    fit = BIOTClassifier.fit

    def remembering(self, X, y, groups):
        given.update(y=y, groups=groups)
        return fit(self, X, y, groups)

    monkeypatch.setattr(BIOTClassifier, "fit", remembering)
    return given


SPELLS = [(4, 4, "spell"), (16, 4, "spell"), (30, 4, "spell")]


def test_one_file_is_split_in_blocks_around_its_events(
    make_file, tmp_path, monkeypatch
):
    given = spy(monkeypatch)
    folder = tmp_path / "new" / "model"
    classifier, lines = train([make_file("a", *SPELLS)], folder)
    assert set(given["groups"]) == {0, 1, 2}
    assert list(classifier.classes_) == ["background", "spell"]
    assert lines[0].endswith("a_raw.fif: 13 background, 6 spell")
    assert lines[-1] == f"1 epochs; saved in {folder}"
    loaded = load_estimator(folder)
    X = np.random.default_rng(0).normal(size=(2, 2, 200)) * 1e-5
    info = mne.create_info(["C3-C4", "C4-CZ"], 100.0, "eeg")
    windows = mne.EpochsArray(X, info, verbose="error")
    assert np.array_equal(
        loaded.predict_proba(windows), classifier.predict_proba(windows)
    )


def test_several_files_are_kept_whole(make_file, tmp_path, monkeypatch):
    given = spy(monkeypatch)
    files = [make_file(name, *SPELLS) for name in "abc"]
    train([*files, files[0]], tmp_path / "model")  # one is named twice
    assert np.array_equal(np.unique(given["groups"], return_counts=True)[1], [20] * 3)


def test_a_file_may_lack_a_class_or_all(make_file, tmp_path, monkeypatch):
    given = spy(monkeypatch)
    files = [
        make_file("a", *SPELLS),
        make_file("b", (4, 8, "blink"), (20, 4, "spell")),
        make_file("c"),
    ]
    classifier, lines = train(files, tmp_path / "model")
    assert list(classifier.classes_) == ["background", "blink", "spell"]
    assert lines[2].endswith("c_raw.fif: 20 background")
    assert len(given["y"]) == 60


def test_without_background_a_file_without_events_is_passed_over(
    make_file, tmp_path, monkeypatch
):
    given = spy(monkeypatch)
    notes = [*SPELLS, (8, 4, "blink"), (24, 4, "blink")]
    files = [make_file("a", *notes), make_file("b"), make_file("c", *notes)]
    classifier, lines = train(files, tmp_path / "model", background=None)
    assert lines[1].endswith("b_raw.fif: none of the events, passed over")
    assert list(classifier.classes_) == ["blink", "spell"]
    assert set(given["groups"]) == {0, 2}


def test_files_may_lack_channels_that_others_have(make_file, tmp_path):
    files = [make_file("a", *SPELLS), make_file("b", *SPELLS, names=NAMES[:2])]
    train(files, tmp_path / "model")
    with pytest.raises(RecordingError, match=r"(?s)b_raw\.fif: .*C4-CZ"):
        train(files, tmp_path / "other", missing="raise")
    with pytest.raises(ValueError, match=r"No recording gives the channels .*C4-CZ"):
        train(files[1:], tmp_path / "other")


def test_an_event_that_no_file_has_is_refused(make_file, tmp_path):
    files = [make_file("a", *SPELLS), make_file("b", (3, 0, "mark"))]
    with pytest.raises(ValueError, match=r"annotation \['spel'\].*'spell' \(3\)"):
        train(files, tmp_path / "model", events=["spell", "spel"])
    with pytest.raises(ValueError, match=r"with a duration.*'mark' \(1\)"):
        train(files[1:], tmp_path / "model")
    with pytest.raises(RecordingError, match=r"b_raw\.fif: Annotations of no duration"):
        train(files, tmp_path / "model", events=["spell", "mark"])


def test_one_class_is_refused(make_file, tmp_path):
    file = make_file("a", *SPELLS)
    with pytest.raises(ValueError, match="All 6 windows are 'spell'"):
        train([file], tmp_path / "model", background=None, events="spell")
    assert not (tmp_path / "model" / "estimator.json").exists()


def test_a_file_that_cannot_be_read_is_named(make_file, tmp_path):
    short = make_file("short", (0.2, 0.5, "spell"), seconds=1)
    with pytest.raises(RecordingError, match=r"short_raw\.fif: A window of 2 s is lon"):
        train([short], tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=r"none\.edf"):
        train([tmp_path / "none.edf"], tmp_path / "model")


def test_a_model_is_replaced_only_on_request(make_file, tmp_path):
    file = make_file("a", *SPELLS)
    train([file], tmp_path / "model")
    before = (tmp_path / "model" / "estimator.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"There is a model in .*--overwrite"):
        train([tmp_path / "never looked at"], tmp_path / "model")
    train([file], tmp_path / "model", overwrite=True, random_state=1)
    assert (tmp_path / "model" / "estimator.json").read_bytes() != before


def test_a_place_that_cannot_be_written_is_said_first(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Nothing can be written"):
        train([tmp_path / "never looked at"], tmp_path / "file" / "model")


def interrupt_in(epoch):

    class Interrupt(Callback):
        def on_batch_begin(self, net, **kwargs):
            if len(net.history) == epoch:
                raise KeyboardInterrupt

    return {"callbacks": [Interrupt()], "max_epochs": 3}


def test_an_interrupted_fit_keeps_whole_epochs(make_file, tmp_path, monkeypatch):
    stop = interrupt_in(3)
    with pytest.raises(KeyboardInterrupt, match="What 2 whole epochs gave is saved"):
        train([make_file("a", *SPELLS)], tmp_path / "model", **stop)
    assert list(load_estimator(tmp_path / "model").classes_) == ["background", "spell"]


def test_an_interruption_in_the_first_epoch_saves_nothing(
    make_file, tmp_path, monkeypatch
):
    stop = interrupt_in(1)
    with pytest.raises(KeyboardInterrupt, match="nothing was saved"):
        train([make_file("a", *SPELLS)], tmp_path / "model", **stop)
    assert list((tmp_path / "model").iterdir()) == []


def test_an_interrupted_fit_replaces_no_model(make_file, tmp_path, monkeypatch):
    file = make_file("a", *SPELLS)
    train([file], tmp_path / "model")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    stop = interrupt_in(2)
    with pytest.raises(KeyboardInterrupt, match="is still there"):
        train([file], tmp_path / "model", overwrite=True, **stop)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before
