"""The demonstration: find absence seizures in the shipped recording.

Owns one experiment from recording to table, figure and predictions: bipolar
derivations, overlapping windows, BIOT beside a logistic regression on log spectra,
each tested on the seizure that it was not trained on. Must not hold anything that a
user would need for recordings of their own.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from braindecode_biot.datasets import load_absence
from braindecode_biot.estimators import BIOTClassifier
from braindecode_biot.montage import to_montage
from braindecode_biot.viz import plot_scores

__all__ = ["run"]

WINDOW_SECONDS = 2.0
STEP_SECONDS = 0.5
# An alarm is a run of windows with at least this probability.
THRESHOLD = 0.5


def run(folder: Path, say: Callable[[str], None] = print, verbose: int = 1) -> None:
    """Run the demonstration.

    Parameters
    ----------
    folder : Path
        Where ``seizures.png`` and ``predictions.csv`` are written; made if needed.
    say : callable
        Takes each line of text for the reader.
    verbose : int
        1 shows a progress bar per fit, 0 none.
    """
    raw = to_montage(load_absence(), "tcp-16")
    epochs, windows = cut(raw)
    seizures = seizure_times(raw)
    say(
        f"{raw.times[-1]:.0f} s of EEG, {len(raw.ch_names)} bipolar derivations at "
        f"{raw.info['sfreq']:.0f} Hz, {len(seizures)} absence seizures; "
        f"{len(epochs)} windows of {WINDOW_SECONDS:g} s, {windows.seizure.sum()} of "
        "them in a seizure.\nEach model is trained without one seizure and the EEG "
        "around it, and tested there."
    )
    models: dict[str, BIOTClassifier | Pipeline] = {
        "BIOT": biot(verbose),
        "logistic regression": log_spectra_regression(epochs.info["sfreq"]),
    }
    for name in models:
        windows[name] = np.nan
    for left_out, train, test in folds(windows, seizures):
        say(f"Leaving out seizure {left_out + 1}: {len(train)} windows to train on.")
        windows.loc[test, "left_out"] = left_out + 1
        for name, model in models.items():
            model.fit(epochs[train], windows.seizure[train].to_numpy())
            windows.loc[test, name] = model.predict_proba(epochs[test])[:, 1]
    tested = windows.dropna(subset=list(models)).astype({"left_out": int})
    say("\n" + table(tested, seizures, list(models)) + "\n")

    folder.mkdir(parents=True, exist_ok=True)
    figure = plot_scores(
        raw,
        tested.start.to_numpy() + WINDOW_SECONDS / 2,
        {name: tested[name].to_numpy() for name in models},
        events=seizures,
        picks=["F3-C3", "F4-C4", "C3-P3", "P3-O1"],
        threshold=THRESHOLD,
    )
    figure.savefig(folder / "seizures.png", dpi=120)
    tested.to_csv(folder / "predictions.csv", index=False, float_format="%.4f")
    say(f"Figure:      {folder / 'seizures.png'}")
    say(f"Predictions: {folder / 'predictions.csv'}")


def cut(raw: mne.io.BaseRaw) -> tuple[mne.Epochs, pd.DataFrame]:
    """Cut overlapping windows; say when each is, and whether it is in a seizure."""
    epochs = mne.make_fixed_length_epochs(
        raw,
        WINDOW_SECONDS,
        overlap=WINDOW_SECONDS - STEP_SECONDS,
        preload=True,
        verbose="error",
    )
    start = (epochs.events[:, 0] - raw.first_samp) / raw.info["sfreq"]
    stop = start + WINDOW_SECONDS
    inside = sum(
        np.clip(np.minimum(stop, end) - np.maximum(start, begin), 0, None)
        for begin, end in seizure_times(raw)
    )
    seizure = (inside >= WINDOW_SECONDS / 2).astype(int)
    return epochs, pd.DataFrame({"start": start, "stop": stop, "seizure": seizure})


def seizure_times(raw: mne.io.BaseRaw) -> list[tuple[float, float]]:
    """Return onset and end of each seizure in seconds."""
    return [
        (note["onset"], note["onset"] + note["duration"])
        for note in raw.annotations
        if note["description"] == "seizure"
    ]


def folds(
    windows: pd.DataFrame, seizures: list[tuple[float, float]]
) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.intp]]]:
    """Yield which seizure is left out, and the windows to train on and to test on.

    The recording is cut midway between seizures into one block per seizure. Windows
    across a cut are left out, so that no sample is both trained and tested on.
    """
    cuts = [(end + begin) / 2 for (_, end), (begin, _) in pairwise(seizures)]
    edges = [-np.inf, *cuts, np.inf]
    for i, (first, last) in enumerate(pairwise(edges)):
        test = (windows.start >= first) & (windows.stop <= last)
        train = (windows.stop <= first) | (windows.start >= last)
        yield i, np.flatnonzero(train), np.flatnonzero(test)


def biot(verbose: int) -> BIOTClassifier:
    """Return BIOT, in a size that a laptop trains in seconds."""
    return BIOTClassifier(
        max_epochs=20,
        # There are two seizures to train on: none to spare for validation.
        validation_fraction=0,
        random_state=0,
        verbose=verbose,
        device="cpu",
        module__emb_size=64,
        module__n_layers=2,
    )


def log_spectra_regression(sfreq: float) -> Pipeline:
    """Return the baseline: logistic regression on log magnitude spectra to 40 Hz."""

    def log_spectra(epochs: mne.Epochs) -> NDArray[np.float64]:
        X = epochs.get_data(units="uV", verbose="error")
        spectra = np.abs(np.fft.rfft(X))[..., : int(40 * X.shape[-1] / sfreq)]
        features: NDArray[np.float64] = np.log(spectra + 1).reshape(len(X), -1)
        return features

    return make_pipeline(
        FunctionTransformer(log_spectra),
        StandardScaler(),
        LogisticRegression(class_weight="balanced", C=0.01, max_iter=1000),
    )


def table(
    tested: pd.DataFrame, seizures: list[tuple[float, float]], models: list[str]
) -> str:
    """Return the scores as text: a row per left-out seizure, and one for all."""
    head = f"{'tested on':<12}{'model':<22}{'AUROC':>7}{'AP':>7}{'found':>8}"
    lines = [head + f"{'false alarms/h':>17}"]
    parts = {f"seizure {int(i)}": part for i, part in tested.groupby("left_out")}
    for name, part in {**parts, "all": tested}.items():
        for model in models:
            found, of, false = alarms(part, part[model].to_numpy(), seizures)
            background = (part.seizure == 0).sum() * STEP_SECONDS / 3600
            lines.append(
                f"{name:<12}{model:<22}"
                f"{roc_auc_score(part.seizure, part[model]):>7.3f}"
                f"{average_precision_score(part.seizure, part[model]):>7.3f}"
                f"{f'{found} of {of}':>8}{false / background:>17.1f}"
            )
    return "\n".join(lines)


def alarms(
    windows: pd.DataFrame,
    probability: NDArray[np.float64],
    seizures: list[tuple[float, float]],
) -> tuple[int, int, int]:
    """Count seizures with an alarm, all seizures, and alarms without a seizure."""
    hits = windows[probability >= THRESHOLD]
    # Windows that overlap or touch make one alarm.
    run_of = (hits.start > hits.stop.shift()).cumsum()
    runs = hits.groupby(run_of).agg(start=("start", "min"), stop=("stop", "max"))
    first, last = windows.start.min(), windows.stop.max()
    here = [(b, e) for b, e in seizures if b < last and e > first]
    touches = np.array(
        [(runs.start < end) & (runs.stop > begin) for begin, end in here], dtype=bool
    ).reshape(len(here), len(runs))
    return int(touches.any(1).sum()), len(here), int((~touches.any(0)).sum())
