"""Reading the UCI HAR set: the official one, small ones made here, and broken ones."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from braindecode_biot import datasets
from braindecode_biot.datasets import read_uci_har
from conftest import SHARED

NAMES = [
    "WALKING",
    "WALKING_UPSTAIRS",
    "WALKING_DOWNSTAIRS",
    "SITTING",
    "STANDING",
    "LAYING",
]
WINDOWS = {"train": 4, "test": 3}


def table(values: np.ndarray) -> str:
    return "\n".join("  " + "  ".join(f"{v:.7e}" for v in row) for row in values)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make a set of seven windows in the official layout."""
    monkeypatch.setattr(datasets, "_HAR_WINDOWS", WINDOWS)
    root = tmp_path / "UCI HAR Dataset"
    signals = [
        f"{kind}_{axis}"
        for kind in ("body_acc", "body_gyro", "total_acc")
        for axis in "xyz"
    ]
    for half, n in WINDOWS.items():
        (root / half / "Inertial Signals").mkdir(parents=True)
        for i, name in enumerate(signals):
            values = i + np.arange(n * 128).reshape(n, 128) / 1000
            file = root / half / "Inertial Signals" / f"{name}_{half}.txt"
            file.write_text(table(values))
        (root / half / f"y_{half}.txt").write_text("5\n6\n1\n1\n"[: 2 * n])
        (root / half / f"subject_{half}.txt").write_text(
            "30\n7\n7\n9\n"[: 3 + 2 * n - 2]
        )
    labels = "".join(f"{i + 1} {name}\n" for i, name in enumerate(NAMES))
    (root / "activity_labels.txt").write_text(labels)
    return root


def packed(folder: Path) -> Path:
    path = folder.parent / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.rglob("*.txt"):
            archive.write(file, file.relative_to(folder.parent))
    return path


def test_windows_channels_and_labels_are_in_order(folder):
    windows = read_uci_har(folder, "train")
    assert windows.X.shape == (4, 9, 128)
    assert windows.X.dtype == np.float32
    np.testing.assert_allclose(windows.X[:, :, 0], np.add.outer(
        np.arange(4) * 0.128, np.arange(9)
    ), rtol=1e-6)  # fmt: skip
    assert windows.channel_names[0] == "body_acc_x"
    assert windows.channel_names[-1] == "total_acc_z"
    assert windows.y.tolist() == ["STANDING", "LAYING", "WALKING", "WALKING"]
    assert windows.subjects.tolist() == [30, 7, 7, 9]
    assert windows.sfreq == 50


def test_the_archive_gives_what_the_folder_gives(folder):
    one, other = read_uci_har(folder, "test"), read_uci_har(packed(folder), "test")
    np.testing.assert_array_equal(one.X, other.X)
    np.testing.assert_array_equal(one.y, other.y)


def test_it_is_found_in_a_folder(folder):
    assert len(read_uci_har(folder.parent, "test").X) == 3
    packed(folder).rename(folder.parent / "elsewhere.zip")
    assert len(read_uci_har(str(folder.parent / "elsewhere.zip"), "test").X) == 3


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no UCI HAR set in"):
        read_uci_har(tmp_path, "train")


def test_no_archive(tmp_path):
    path = tmp_path / "UCI HAR Dataset.zip"
    path.write_bytes(b"an error page")
    with pytest.raises(ValueError, match="is no zip archive"):
        read_uci_har(path, "train")


def test_another_archive(folder, tmp_path):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(FileNotFoundError, match=r"activity_labels\.txt is not in"):
        read_uci_har(path, "train")


def test_another_half(folder):
    with pytest.raises(ValueError, match="half is 'train' or 'test', got 'valid'"):
        read_uci_har(folder, "valid")


SIGNAL = "test/Inertial Signals/body_gyro_y_test.txt"


@pytest.mark.parametrize(
    ("file", "text", "error", "match"),
    [
        (SIGNAL, None, FileNotFoundError, "body_gyro_y_test.txt is not in"),
        (SIGNAL, "", ValueError, "cannot be read"),
        (SIGNAL, table(np.ones((2, 128))), ValueError, "holds 2 rows of up to 128"),
        (SIGNAL, table(np.ones((3, 127))), ValueError, "3 of 128 were expected"),
        (SIGNAL, table(np.ones((3, 128)))[:-20], ValueError, "cut short"),
        (SIGNAL, table(np.ones((3, 128))) + " 1", ValueError, "cannot be read"),
        (
            SIGNAL,
            table(np.ones((3, 128))).replace("1.0", "one", 1),
            ValueError,
            "no number",
        ),
        ("test/y_test.txt", "1\n2\n", ValueError, "holds 2 rows"),
        ("test/y_test.txt", "1\n2\n7\n", ValueError, r"\[7\], which are no activities"),
        ("test/subject_test.txt", "1\n", ValueError, "subject_test.txt"),
        ("activity_labels.txt", "1 WALKING\n", ValueError, "holds 1 rows"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_broken_files_are_named(folder, file, text, error, match, zipped):
    if text is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(text)
    path = packed(folder) if zipped else folder
    with pytest.raises(error, match=match):
        read_uci_har(path, "test")


def test_a_broken_archive(folder):
    path = packed(folder)
    content = bytearray(path.read_bytes())
    content[200:230] = b"?" * 30
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cannot be read"):
        [read_uci_har(path, half) for half in WINDOWS]


def test_the_official_set():
    path = SHARED / "data" / "uci_har"
    if not path.is_dir():
        pytest.skip(f"the UCI HAR set is not in {path}")
    test = read_uci_har(path, "test")
    assert test.X.shape == (2947, 9, 128)
    assert sorted(set(test.y.tolist())) == sorted(NAMES)
    assert sorted(set(test.subjects.tolist())) == [2, 4, 9, 10, 12, 13, 18, 20, 24]
    # Who lies has gravity along another axis than who stands.
    gravity = test.X[:, 6:].mean(2)
    assert gravity[test.y == "STANDING", 0].mean() > 0.8
    assert abs(gravity[test.y == "LAYING", 0].mean()) < 0.4
