"""Made recordings and windows, with bad and non-EEG channels among theirs."""

import mne
import numpy as np
from braindecode.datasets import BaseConcatDataset, RawDataset
from braindecode.preprocessing import create_fixed_length_windows

NAMES = ["C3", "C4", "Cz", "EOG", "ECG", "STI"]
TYPES = ["eeg", "eeg", "eeg", "eog", "ecg", "stim"]
BAD = ["Cz"]
GOOD = ["C3", "C4"]
# Picks and exclude, and the channels that MNE keeps for them.
PICKS = [
    (None, "bads", GOOD),
    (None, (), ["C3", "C4", "Cz"]),
    (None, ["C3"], ["C4", "Cz"]),
    (["eeg", "ecg"], "bads", ["C3", "C4", "ECG"]),
    ("eog", "bads", ["EOG"]),
    (["STI", "C4"], "bads", ["STI", "C4"]),
    ("Cz", "bads", ["Cz"]),  # a channel asked for by name is kept
    ([4, 0], "bads", ["ECG", "C3"]),
    (slice(0, 2), "bads", GOOD),
    ("all", (), NAMES),
    ("all", "bads", [name for name in NAMES if name not in BAD]),
]


def make_raw(sfreq=100.0, names=NAMES, types=TYPES, bads=BAD, n_times=1000, seed=0):
    info = mne.create_info(list(names), sfreq, list(types))
    info["bads"] = list(bads)
    data = np.random.default_rng(seed).normal(size=(len(names), n_times)) * 1e-5
    return mne.io.RawArray(data, info, verbose="error")


def make_epochs(raw=None, codes=(1, 2, 1, 3), n_times=200, preload=True, **kwargs):
    raw = make_raw() if raw is None else raw
    events = np.column_stack([200 * np.arange(len(codes)), np.zeros_like(codes), codes])
    return mne.Epochs(
        raw,
        events.astype(int),
        tmin=0,
        tmax=(n_times - 1) / raw.info["sfreq"],
        baseline=None,
        preload=preload,
        verbose="error",
        **kwargs,
    )


def make_dataset(raw=None, subject=1, target=None, size=200, **kwargs):
    """Make a dataset of one recording in windows of fixed length."""
    description = {"subject": subject} | ({} if target is None else {"label": target})
    recording = RawDataset(
        make_raw() if raw is None else raw,
        description,
        target_name=None if target is None else "label",
    )
    return create_fixed_length_windows(
        BaseConcatDataset([recording]),
        window_size_samples=size,
        window_stride_samples=size,
        on_last_window="drop",
        verbose="error",
        **kwargs,
    )


def names_of(signal):
    return [ch["ch_name"] for ch in signal["chs_info"]]
