"""Which files of a folder are recordings."""

from pathlib import Path

import pytest

from braindecode_biot.recording_files import find_recordings


@pytest.fixture
def folder(tmp_path):
    """Make files by their names alone."""

    def make(*names):
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        return tmp_path

    return make


def found(*given, **kwargs):
    return [path.name for path in find_recordings(given, **kwargs)[0]]


def test_a_folder_is_searched_with_those_in_it(folder):
    root = folder("b/x.EDF", "a.bdf", "b/c/y.vhdr", "b/c/y.eeg", "notes.txt", "z.mat")
    assert found(root) == ["a.bdf", "y.vhdr", "x.EDF"]


def test_what_is_hidden_or_no_raw_is_passed_over(folder):
    root = folder(
        ".x.edf", ".trash/a.edf", "a_raw.fif", "a_raw-1.fif", "a_raw-2.fif",
        "a-epo.fif", "a-annot.fif", "a_eve.fif.gz", "a-epo-1.fif", "a-ica.fif",
        "b-1.fif", "c_split-01_eeg.fif", "c_split-02_eeg.fif", "c_split-10_eeg.fif",
        "d.fif.gz",
    )  # fmt: skip
    kept = ["a_raw.fif", "b-1.fif", "c_split-01_eeg.fif", "d.fif.gz"]
    assert found(root) == kept


def test_formats_that_are_folders_are_not_searched(folder):
    root = folder("s1.mff/signal1.edf", "s2/meg.ds/x.edf")
    assert found(root) == ["s1.mff", "meg.ds"]
    assert found(root / "s1.mff") == ["s1.mff"]


def test_files_that_are_named_are_taken_once_and_in_order(folder):
    root = folder("a.edf", "b.txt")
    assert found(root / "b.txt", root, root / "a.edf") == ["b.txt", "a.edf"]
    assert found(root / "gone.edf") == ["gone.edf"]  # for an error that names it


def test_links_may_lead_in_circles(folder):
    root = folder("a/x.edf")
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    (root / "y.edf").symlink_to(root / "a" / "x.edf")
    assert found(root) == ["x.edf"]


def test_folders_without_recordings_are_told(folder, monkeypatch):
    root = folder("a/x.txt", "b/x.edf")
    monkeypatch.chdir(root)
    recordings, empty = find_recordings(["a", "b"])
    assert (recordings, empty) == ([root / "b" / "x.edf"], [Path(root / "a")])


def test_a_folder_can_be_left_out(folder):
    root = folder("a.edf", "archive/recordings/0/0-raw.fif")
    assert found(root, but=[root / "archive"]) == ["a.edf"]
