"""Recordings in an archive on the disk, and back."""

import errno
import json
import multiprocessing
import pickle
import re
import shutil

import mne
import numpy as np
import pytest
from braindecode.datasets import BaseConcatDataset
from braindecode.datautil import load_concat_dataset
from torch.utils.data import DataLoader

from braindecode_biot import archive
from braindecode_biot.archive import open_archive, prepare_archive
from braindecode_biot.archive_windows import WindowSettings
from braindecode_biot.batches import SettingsError
from braindecode_biot.montage import to_montage
from braindecode_biot.reading import RecordingError
from conftest import SHARED

NAMES = ["C3", "C4", "A1", "A2"]
SETTINGS = {"window": 2.0, "montage": ["C3-A2", "C4-A1"], "sfreq": 100.0}


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def write(source):
    """Write a recording of as many seconds, with (onset, duration, text) in it."""

    def write(name, *notes, seconds=10.0, names=NAMES, sfreq=100.0, change=None):
        rng = np.random.default_rng(len(name) + round(seconds))
        data = rng.normal(size=(len(names), round(seconds * sfreq))) * 1e-5
        if change is not None:
            change(data)
        info = mne.create_info(list(names), sfreq, "eeg")
        raw = mne.io.RawArray(data, info, verbose="error")
        onset, duration, text = zip(*notes, strict=True) if notes else ([], [], [])
        raw.set_annotations(mne.Annotations(onset, duration, text))
        path = source / name
        if path.suffix == ".edf":
            raw.export(path, verbose="error")
        else:
            raw.save(path, fmt="double", overwrite=True, verbose="error")
        return path

    return write


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "archive"


def prepare(files, folder, **kwargs):
    return prepare_archive(files, folder, **(SETTINGS | kwargs))


def starts(folder, i=0):
    return open_archive(folder).datasets[i].crop_inds[:, 1].tolist()


def only(report):
    """Return the one row of a report."""
    (row,) = report.recordings.to_dict("records")
    return row


def numbers(folder):
    return sorted(path.name for path in (folder / "recordings").iterdir())


def test_files_become_windows_of_their_montage(source, write, folder):
    """Of other formats, rates, electrodes and lengths; numbered in order."""
    write("a.edf", seconds=11, sfreq=200.0)
    write("b_raw.fif", names=["EEG C3-A2", "Fz"])
    write("c_raw.fif", names=["C3", "A2"], seconds=1.5)
    lines = []
    report = prepare(source, folder, say=lines.append)
    rows = report.recordings
    assert rows["file"].tolist() == [str(path) for path in sorted(source.iterdir())]
    assert rows["windows"].tolist() == [5, 5, 1]
    assert rows["channels"].tolist() == [2, 1, 1]
    assert rows["missing"].tolist() == ["", "C4-A1", "C4-A1"]
    assert report.skipped == {}
    assert numbers(folder) == ["0", "1", "2"]
    assert lines[0] == f"[1/3] {source / 'a.edf'}: 5 windows of 2 channels"
    dataset = open_archive(folder)
    window, target, place = dataset[10]
    assert (window.shape, window.dtype, target, place) == (
        (2, 150), np.float32, -1, [0, 0, 150],
    )  # fmt: skip
    assert np.isnan(window[1]).all()
    assert not np.isnan(window[0]).any()
    assert dataset.datasets[0].raw.info["sfreq"] == 100
    assert dataset.description["file"].tolist() == rows["file"].tolist()


def test_windows_are_those_of_to_montage(write, folder):
    path = write("a_raw.fif", sfreq=250.0)
    prepare(path, folder, step=1.5)
    raw = mne.io.read_raw(path, verbose="error")
    expected = to_montage(raw, SETTINGS["montage"], sfreq=100).get_data()
    dataset = open_archive(folder)
    assert starts(folder) == [0, 150, 300, 450, 600, 750]
    for window, _, (_, start, stop) in (dataset[i] for i in range(len(dataset))):
        volts = expected[:, start:stop].astype("f4")
        np.testing.assert_array_equal(window, (volts * 1e6).astype("f4"))


def test_braindecode_reads_it_and_writes_it(write, folder, tmp_path):
    write("a_raw.fif", names=["C3", "A2"])
    prepare([write("b_raw.fif"), write("a_raw.fif", names=["C3", "A2"])], folder)
    ours = open_archive(folder)
    ours.save(str(tmp_path / "again"))
    for path in (folder / "recordings", tmp_path / "again"):
        theirs = load_concat_dataset(path, preload=False)
        assert len(theirs) == len(ours) == 10
        assert theirs.description.equals(ours.description)
        (volts, *told), (microvolts, *others) = theirs[9], ours[9]
        assert told == others
        np.testing.assert_equal((volts * 1e6).astype("f4"), microvolts)


def test_zarr_of_it_holds_the_same(write, folder, tmp_path):
    hub_formats = pytest.importorskip("braindecode.datautil.hub_formats")
    pytest.importorskip("zarr")
    prepare(write("a_raw.fif", names=["C3", "A2"]), folder)
    ours = open_archive(folder)
    place = hub_formats.convert_to_zarr(ours, tmp_path / "a.zarr")
    theirs = hub_formats.load_from_zarr(place, preload=False)
    for i in range(len(ours)):
        np.testing.assert_equal((theirs[i][0] * 1e6).astype("f4"), ours[i][0])


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_it(write, folder, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {method}")
    prepare([write("a_raw.fif"), write("bb_raw.fif")], folder)
    dataset = open_archive(folder)
    loader = DataLoader(
        dataset, batch_size=5, num_workers=1, multiprocessing_context=method
    )
    batches = [batch[0].numpy() for batch in loader]
    expected = np.stack([dataset[i][0] for i in range(10)])
    np.testing.assert_array_equal(np.concatenate(batches), expected)


def test_it_is_lazy_unless_told_otherwise(write, folder):
    prepare(write("a_raw.fif"), folder)
    lazy, loaded = (open_archive(folder, preload) for preload in (False, True))
    assert [d.datasets[0].raw.preload for d in (lazy, loaded)] == [False, True]
    assert len(pickle.dumps(lazy)) < 20_000
    np.testing.assert_array_equal(lazy[1][0], loaded[1][0])


def test_a_copy_reads_its_own_files_and_writes_none(write, folder, tmp_path):
    prepare(write("a_raw.fif"), folder)
    expected = open_archive(folder)[0][0]
    load_concat_dataset(folder / "recordings", preload=False)  # leaves its pickle
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(folder)
    before = sorted(copy.rglob("*"))
    np.testing.assert_array_equal(open_archive(copy)[0][0], expected)
    assert sorted(copy.rglob("*")) == before


def test_bad_stretches_are_left_out_or_kept(write, folder, tmp_path):
    path = write("a_raw.fif", (2.5, 0.1, "BAD_move"), (6.0, 1, "seizure"))
    row = only(prepare(path, folder))
    assert (row["windows"], row["left_out"], row["reasons"]) == (4, 1, "1 bad")
    assert starts(folder) == [0, 400, 600, 800]
    assert only(prepare(path, tmp_path / "all", on_bad="keep"))["windows"] == 5


def test_windows_across_a_join_are_left_out(write, folder, source):
    """At another rate, and where both pieces come from one file."""
    pieces = [
        mne.io.read_raw(write(f"{n}_raw.fif", seconds=n, sfreq=250), verbose="error")
        for n in (5, 6)
    ]
    whole = mne.concatenate_raws(pieces, verbose="error")
    whole.save(source / "joined_raw.fif", verbose="error")
    row = only(prepare(source / "joined_raw.fif", folder, on_bad="keep"))
    assert row["reasons"] == "1 across a join"
    assert starts(folder) == [0, 200, 600, 800]


def put(*places):
    """Write values into channels, at samples."""

    def change(data):
        for channels, samples, value in places:
            data[channels, samples] = value

    return change


FIRST, SECOND, ALL = [0, 3], [1, 2], slice(None)  # electrodes of C3-A2 and of C4-A1
WINDOW = slice(200, 400)


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (put((ALL, WINDOW, 1e-3)), "1 flat or missing"),
        (put((ALL, WINDOW, np.nan)), "1 missing"),
        (put((ALL, slice(250, 400, 100), np.nan)), "1 missing"),  # in each second
        (put((FIRST, WINDOW, 0), (SECOND, WINDOW, np.nan)), "1 flat or missing"),
        (put((FIRST, WINDOW, np.inf), (SECOND, WINDOW, 0)), "1 flat or missing"),
        (put((0, 300, 1e39)), "1 infinite"),  # as float32
        (put((FIRST, WINDOW, np.nan)), ""),
        (put((FIRST, WINDOW, 0), (SECOND, slice(300, 400), np.nan)), ""),
    ],
)
def test_windows_with_nothing_in_them_are_left_out(write, folder, change, reasons):
    row = only(prepare(write("a_raw.fif", change=change), folder))
    assert row["reasons"] == reasons
    assert (200 in starts(folder)) == (reasons == "")
    assert row["windows"] + row["left_out"] == 5


def test_what_cannot_be_used_is_told_and_the_others_are_made(write, folder, source):
    (source / "broken.edf").write_bytes(b"0       " + b"\x00" * 300)
    write("cut.edf").write_bytes((source / "cut.edf").read_bytes()[:700])
    write("flat_raw.fif", change=put((ALL, ALL, 0)))
    write("good_raw.fif")
    write("other_raw.fif", names=["Fz", "Pz"])
    write("short_raw.fif", seconds=0.9)
    write("slow_raw.fif", sfreq=50.0)
    gone, empty = source / "gone.edf", source / "empty"
    empty.mkdir()
    report = prepare([source, gone, empty], folder)
    assert only(report)["file"] == str(source / "good_raw.fif")
    reasons = {
        "broken.edf": "cannot read", "cut.edf": "", "flat_raw.fif": "5 flat or missing",
        "other_raw.fif": "cannot give 2", "short_raw.fif": "0.9 s, less than 1 s",
        "slow_raw.fif": "50 Hz, less than sfreq=100", "gone.edf": "There is no file",
        "empty": "no recording was found in it",
    }  # fmt: skip
    assert report.skipped.keys() == {str(source / name) for name in reasons}
    for name, reason in reasons.items():
        assert reason in report.skipped[str(source / name)]
    assert numbers(folder) == ["0"]


def test_a_short_recording_is_one_window_if_long_enough(write, folder, tmp_path):
    path = write("a_raw.fif", seconds=0.6)
    report = prepare(path, folder, min_seconds=0.5)
    assert only(report)["windows"] == 1
    assert open_archive(folder)[0][0].shape == (2, 60)
    with pytest.raises(RecordingError, match=r"lasts 0\.6 s, less than 0\.7 s"):
        prepare(path, tmp_path / "b", min_seconds=0.7)
    # What makes a whole window is long enough.
    assert only(prepare(path, tmp_path / "c", window=0.5))["windows"] == 1


def test_bad_channels_and_slow_ones_are_used_only_if_wanted(write, folder, tmp_path):
    path = write("a_raw.fif", sfreq=50.0)
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    raw.info["bads"] = ["A1"]
    raw.save(path, overwrite=True, verbose="error")
    row = only(prepare(path, folder, upsample=True))
    assert (row["channels"], row["missing"]) == (1, "C4-A1")
    row = only(prepare(path, tmp_path / "all", upsample=True, use_bads=True))
    assert row["channels"] == 2
    # A reader that leaves bad channels out must not lose what was asked for.
    assert open_archive(tmp_path / "all").datasets[0].raw.info["bads"] == []


def test_warnings_are_notes(write, folder):
    path = write("a_raw.fif")
    raw = mne.io.read_raw(path, preload=True, verbose="error").filter(None, 20)
    raw.save(path, overwrite=True, verbose="error")
    report = prepare(path, folder, montage=["C3", "C3-A2"], sfreq=100.0)
    assert "reference" in only(report)["notes"]
    assert "Of 1 recordings: Single electrodes" in str(report)


def test_the_subject_is_kept(write, folder):
    path = write("a_raw.fif")
    raw = mne.io.read_raw(path, preload=True, verbose="error")
    raw.info["subject_info"] = {"his_id": "007"}
    raw.save(path, overwrite=True, verbose="error")
    prepare([path, write("bb_raw.fif")], folder)
    descriptions = [dataset.description for dataset in open_archive(folder).datasets]
    assert [told.get("subject") for told in descriptions] == ["007", None]


def test_again_passes_over_what_is_done(write, folder, monkeypatch):
    first, second = write("a_raw.fif"), write("b_raw.fif")
    prepare([first], folder)
    before = (folder / "recordings/0/0-raw.fif").stat().st_mtime_ns
    monkeypatch.chdir(first.parent)  # the same file by another name
    lines = []
    report = prepare([first.name, second], folder, say=lines.append)
    assert lines[0] == f"[1/2] {first}: done before, as 0"
    assert report.recordings["file"].tolist() == [str(first), str(second)]
    assert (folder / "recordings/0/0-raw.fif").stat().st_mtime_ns == before
    # What was done stays, and is told of, though it is not asked for again.
    assert len(prepare([second], folder).recordings) == 2


def test_a_file_that_changed_is_made_again(write, folder):
    files = [write("a_raw.fif"), write("b_raw.fif")]
    prepare(files, folder)
    write("a_raw.fif", seconds=4)
    assert prepare(files, folder).recordings["windows"].tolist() == [2, 5]
    assert numbers(folder) == ["0", "1"]
    files[0].write_bytes(b"")  # broken since
    report = prepare(files, folder)
    assert report.recordings["windows"].tolist() == [2, 5]
    assert report.skipped[str(files[0])].endswith("stays in the archive)")


def test_other_settings_are_refused_or_begin_anew(write, folder):
    files = [write("a_raw.fif"), write("b_raw.fif")]
    prepare(files, folder)
    prepare(files, folder, window=2, step=2.0)  # the same, said otherwise
    for other, told in [
        ({"window": 1.0}, r"window: 2\.0 there, 1\.0 now"),
        ({"montage": ["C3-A2"]}, "montage"),
        ({"sfreq": 50.0}, "sfreq"),
    ]:
        with pytest.raises(SettingsError, match=told):
            prepare(files, folder, **other)
    report = prepare(files[1], folder, window=1.0, overwrite=True)
    assert only(report)["windows"] == 10
    assert numbers(folder) == ["0"]


def test_settings_without_recordings_do_not_bind(write, folder, source):
    (source / "a.edf").write_bytes(b"no")
    with pytest.raises(
        RecordingError, match=r"Nothing is left.*\n.*a\.edf: MNE cannot"
    ):
        prepare(source, folder)
    with pytest.raises(RecordingError, match="holds no recording"):
        open_archive(folder)
    assert only(prepare(write("b_raw.fif"), folder, window=1.0))["windows"] == 10


def test_nothing_given_is_said(folder):
    with pytest.raises(RecordingError, match="no file was given"):
        prepare([], folder)


@pytest.mark.parametrize("step", ["_save_signals", "_save_metadata", "_save_kwargs"])
@pytest.mark.parametrize("is_killed", [False, True])
def test_an_interruption_leaves_whole_recordings(
    write, folder, monkeypatch, step, is_killed
):
    """Ctrl-C, or a signal upon which nothing can be tidied up."""
    files = [write("a_raw.fif"), write("b_raw.fif"), write("c_raw.fif")]
    save = getattr(BaseConcatDataset, step)

    def interrupted(sub_dir, *args):
        if sub_dir.endswith("1"):
            raise KeyboardInterrupt
        save(sub_dir, *args)

    with monkeypatch.context() as patch:
        patch.setattr(BaseConcatDataset, step, staticmethod(interrupted))
        if is_killed:
            patch.setattr(archive.shutil, "rmtree", lambda *args, **kwargs: None)
        with pytest.raises(KeyboardInterrupt):
            prepare(files, folder)
    assert (folder / ".archive.part").exists() == is_killed
    assert len(open_archive(folder)) == 5
    assert load_concat_dataset(folder / "recordings", preload=False).datasets
    lines = []
    prepare(files, folder, say=lines.append)
    assert [line.rpartition(": ")[2] for line in lines] == [
        "done before, as 0", "5 windows of 2 channels", "5 windows of 2 channels",
    ]  # fmt: skip
    assert numbers(folder) == ["0", "1", "2"]
    assert not (folder / ".archive.part").exists()


def test_a_full_disk_ends_the_run(write, folder, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(BaseConcatDataset, "_save_metadata", staticmethod(full))
    with pytest.raises(OSError, match="No space left"):
        prepare([write("a_raw.fif"), write("b_raw.fif")], folder)
    assert numbers(folder) == []


def test_files_of_several_parts_are_read_in_their_place(write, folder, monkeypatch):
    """MNE splits large files, which know the names of their next parts."""
    path = write("a_raw.fif", seconds=3600)
    save = mne.io.RawArray.save

    def split(self, name, **kwargs):
        save(self, name, split_size="2MB", **kwargs)

    monkeypatch.setattr(mne.io.RawArray, "save", split)
    prepare(path, folder)
    place = folder / "recordings" / "0"
    assert (place / "0-raw-1.fif").exists()
    raw = mne.io.read_raw(path, verbose="error")
    expected = to_montage(raw, SETTINGS["montage"], sfreq=100)[:, -200:][0]
    volts = open_archive(folder)[-1][0] / 1e6
    np.testing.assert_allclose(volts, expected.astype("f4"), rtol=1e-6)
    assert len(load_concat_dataset(folder / "recordings", preload=False)) == 1800


def test_a_folder_of_other_data_is_not_touched(write, folder):
    kept = folder / "recordings" / "mine.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("mine")
    with pytest.raises(FileExistsError, match="is no archive's"):
        prepare(write("a_raw.fif"), folder, overwrite=True)
    assert kept.read_text() == "mine"


def test_an_archive_does_not_take_in_itself(write, source):
    write("a_raw.fif")
    for _ in range(2):
        report = prepare(source, source / "archive")
    assert only(report)["file"] == str(source / "a_raw.fif")


def test_no_archive_is_told(tmp_path, folder, write):
    with pytest.raises(FileNotFoundError, match=r"is no archive: it has no settings"):
        open_archive(tmp_path / "gone")
    (tmp_path / "settings.json").write_text(json.dumps([1]))
    with pytest.raises(FileNotFoundError, match="is no archive"):
        open_archive(tmp_path)


def test_pickles_are_not_read(write, folder):
    prepare([write("a_raw.fif")], folder)
    (pickle,) = folder.glob("recordings/*/*.pkl")
    pickle.unlink()
    assert len(open_archive(folder)) > 0


@pytest.mark.parametrize("name", ["1-raw.fif", "windows.csv", "description.json"])
def test_a_damaged_recording_is_named(write, folder, name):
    """Such as of an archive that was copied by halves."""
    prepare([write("a_raw.fif"), write("b_raw.fif")], folder)
    place = folder / "recordings" / "1"
    for damage in (lambda path: path.write_bytes(b"{"), lambda path: path.unlink()):
        damage(place / name)
        with pytest.raises(RecordingError, match=re.escape(f"'{place}' cannot be")):
            open_archive(folder)
    shutil.rmtree(place)  # as the error says
    report = prepare([write("a_raw.fif"), write("b_raw.fif")], folder)
    assert report.recordings["windows"].tolist() == [5, 5]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"window": 0}, ValueError, "window must be a number above 0, got 0"),
        ({"step": "1"}, ValueError, "step must be a number above 0, got '1'"),
        ({"window": True}, ValueError, "window must be"),
        ({"sfreq": None}, ValueError, "sfreq must be"),
        ({"min_seconds": np.inf}, ValueError, "min_seconds must be"),
        ({"step": 0.001}, ValueError, r"step=0\.001 s is less than a sample at 100 Hz"),
        ({"on_bad": "mask"}, ValueError, "on_bad is 'skip' or 'keep', got 'mask'"),
        ({"montage": "tcp-17"}, ValueError, "tcp-17"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(
    write, folder, wrong, error, message
):
    with pytest.raises(error, match=message):
        prepare(write("a_raw.fif"), folder, **wrong)
    assert not folder.exists()


def test_a_report_is_a_few_lines(write, folder, source):
    write("a_raw.fif", seconds=3600, names=["C3", "A2"])
    write("b_raw.fif", (0, 1, "BAD"))
    for i in range(7):
        (source / f"{i}.edf").write_bytes(b"no")
    lines = str(prepare(source, folder)).splitlines()
    assert lines[0] == (
        f"Archive '{folder}': 2 recordings of 1 h, 1804 windows (1 left out)."
    )
    assert lines[1:3] == [
        "1 recordings lack channels of the montage.",
        "7 files were skipped:",
    ]
    assert lines[3].startswith(f"  {source / '0.edf'}: MNE cannot read")
    assert lines[-1] == "  and 2 more"


def test_settings_are_as_they_will_be_read():
    settings = WindowSettings(["C3"], 10, 5, 1, 200, False, False, "skip")
    assert [type(value) for value in (settings.window, settings.sfreq)] == [float] * 2


def test_real_recordings(folder):
    recordings = SHARED / "data" / "eegmat"
    if not recordings.is_dir():
        pytest.skip(f"the recordings are not in {recordings}")
    files = [recordings / f"Subject00_{i}.edf" for i in (1, 2)]
    report = prepare_archive(files, folder, window=10)
    assert report.recordings["channels"].tolist() == [16, 16]
    dataset = open_archive(folder)
    assert len(dataset) == report.recordings["windows"].sum() > 20
    window = dataset[len(dataset) - 1][0]
    assert window.shape == (18, 2000)
    assert np.isfinite(window[:16]).all()


def test_the_folder_of_recordings_is_not_made_an_archive(write, folder):
    path = write("a_raw.fif")
    with pytest.raises(ValueError, match="to be searched, and to be the archive"):
        prepare(path.parent, path.parent)
    assert not (path.parent / "settings.json").exists()
