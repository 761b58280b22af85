"""What several test modules share: reference folder, oracle pairs, small data."""

import os
from pathlib import Path

import matplotlib as mpl
import mne
import numpy as np
import pytest
import torch

from braindecode_biot import plain

mpl.use("Agg")
# Models this small lose most of their time to more threads, and on a busy machine
# nearly all.
torch.set_num_threads(1)

ROOT = Path(__file__).parents[1]
# Reference outputs and public recordings that are too large for the repository. The
# behaviour they pin is tested on made or shipped data as well.
SHARED = Path(os.environ.get("BIOT_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of checkpoints with outputs computed by the official code."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"the official code's reference outputs are not in {folder}")
    return folder


@pytest.fixture(scope="session")
def epochs() -> mne.BaseEpochs:
    """Twenty-four windows of two seconds, code 2 with 10 Hz at C3, beside code 1.

    There are a bad and a stim channel besides, and the codes take turns.
    """
    names, sfreq, n_times = ["C3", "C4", "Pz", "Fz", "STI"], 40.0, 80
    info = mne.create_info(names, sfreq, ["eeg"] * 4 + ["stim"])
    info["bads"] = ["Fz"]
    codes = np.tile([1, 2], 12)
    data = np.random.default_rng(0).normal(size=(len(codes), len(names), n_times))
    data[codes == 2, 0] += 3 * np.sin(2 * np.pi * 10 * np.arange(n_times) / sfreq + 1)
    data[:, 3:] = 1e3  # what must not come along would be seen
    events = np.c_[np.arange(len(codes)) * n_times, np.zeros(len(codes)), codes]
    return mne.EpochsArray(data * 1e-5, info, events.astype(int), verbose="error")


@pytest.fixture(scope="session")
def microvolts(epochs) -> np.ndarray:
    """The same windows as an array in µV, shape (24, 3, 80)."""
    return epochs.get_data(picks=["C3", "C4", "Pz"]) * 1e6


@pytest.fixture
def short_is_long(monkeypatch):
    """Take small models for large ones."""
    monkeypatch.setattr(plain, "_LONG", 1)


@pytest.fixture(params=[1, 2, 3])
def n_threads(request):
    """Let torch use as many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)
