"""What the benchmarks on PhysioNet's eegmat share: windows, band powers, intervals.

Rest versus mental arithmetic (https://physionet.org/content/eegmat/1.0.0/), of the
persons whose two files lie in a local folder.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import mne
import numpy as np
from numpy.typing import NDArray

from braindecode_biot import to_montage
from braindecode_biot.files import write_whole

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("BIOT_SHARED", ROOT.parent / "shared"))

SFREQ, WINDOW, N_FOLDS = 200, 1000, 4
BANDS = [(1, 4), (4, 8), (8, 13), (13, 30), (30, 40)]

Array = NDArray[Any]


def load(folder: Path) -> dict[str, Array]:
    """Cut all recordings into windows; tell whose they are, when, and what is done."""
    pairs = [[folder / f"Subject{s:02d}_{c}.edf" for c in "12"] for s in range(36)]
    pairs = [pair for pair in pairs if all(file.is_file() for file in pair)]
    files = [file for pair in pairs for file in pair]
    if len(pairs) < N_FOLDS:
        say(f"{folder} has both recordings of {len(pairs)} persons: at least {N_FOLDS}")
        say("are needed. Get physionet.org/content/eegmat/1.0.0 and give --data.")
        raise SystemExit(2)
    rows = []
    for i, file in enumerate(files):
        raw = to_montage(mne.io.read_raw_edf(file, verbose="error"), "tcp-16")
        # Some files are low-passed at 45 Hz, more often those of arithmetic: made
        # alike, for a model could tell tasks apart by that.
        samples = raw.filter(0.5, 40, verbose="error").get_data(verbose="error")
        for quarter, part in enumerate(np.array_split(samples, N_FOLDS, axis=1)):
            # Arithmetic is the shorter recording: in training its windows overlap.
            for start in range(0, part.shape[1] - WINDOW + 1, WINDOW // (1 + i % 2)):
                window = part[:, start : start + WINDOW].astype(np.float32)
                rows.append((window, i % 2, i // 2, quarter, start % WINDOW == 0))
    names = ["x", "task", "persons", "time", "for_test"]
    return dict(zip(names, map(np.array, zip(*rows, strict=True)), strict=True))


def band_powers(x: Array) -> Array:
    """Return log band powers of each channel, shape (n, n_chans * n_bands)."""
    power = np.abs(np.fft.rfft(x.reshape(*x.shape[:2], -1, SFREQ))) ** 2
    power = power.mean(2)  # over the seconds
    bands = [np.log(power[..., low:high].mean(-1)) for low, high in BANDS]
    return np.concatenate(bands, axis=1)


def write(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, json.dumps(content, indent=1).encode())


def interval(values: Array) -> list[float]:
    """Return the mean over persons and its 95 % interval, by bootstrap."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (10_000, len(values)))].mean(1)
    return [float(v) for v in (values.mean(), *np.percentile(means, [2.5, 97.5]))]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
