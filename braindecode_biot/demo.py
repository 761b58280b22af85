"""The demonstration: find absence seizures in the shipped recording.

Owns one experiment from recording to table, figure and predictions: bipolar
derivations, overlapping windows, BIOT beside a logistic regression on log spectra,
each tested on the seizure that it was not trained on. Must not hold anything that a
user would need for recordings of their own.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from braindecode_biot.annotated import label_windows
from braindecode_biot.datasets import load_absence
from braindecode_biot.estimators import BIOTClassifier
from braindecode_biot.montage import to_montage
from braindecode_biot.recordings import score_recording
from braindecode_biot.scores import RecordingScores
from braindecode_biot.viz import plot_scores

__all__ = ["run"]

WINDOW_SECONDS = 2.0
STEP_SECONDS = 0.5
# An alarm is an event in the scores; those less than a window apart are one.
ALARM = {"threshold": 0.5, "merge_gap": WINDOW_SECONDS}
REGRESSION = "logistic regression"


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
    raw = load_absence()
    bipolar = to_montage(raw, "tcp-16")
    # Blocks of time around a seizure each; no sample is both trained and tested on.
    epochs, labels, blocks = label_windows(
        bipolar, WINDOW_SECONDS, STEP_SECONDS, events="seizure", block="event"
    )
    seizures = seizure_times(bipolar)
    say(
        f"{bipolar.times[-1]:.0f} s of EEG, {len(bipolar.ch_names)} bipolar "
        f"derivations at {bipolar.info['sfreq']:.0f} Hz, {len(seizures)} absence "
        f"seizures; {len(epochs)} windows of {WINDOW_SECONDS:g} s, "
        f"{(labels == 'seizure').sum()} of them in a seizure.\nEach model is trained "
        "without one seizure and the EEG around it, and tested there."
    )
    baseline = log_spectra_regression(epochs.info["sfreq"])
    parts = []
    for train, test in LeaveOneGroupOut().split(labels, groups=blocks):
        left_out = blocks[test[0]] + 1
        say(f"Leaving out seizure {left_out}: {len(train)} windows to train on.")
        model = biot(verbose).fit(epochs[train], labels[train])
        scores = score_recording(model, raw, step=STEP_SECONDS, verbose=0)
        scores = only(scores, epochs.metadata["start"].to_numpy()[test])
        regression = baseline.fit(epochs[train], labels[train])
        part = scores.to_dataframe()[["start", "stop"]]
        part["seizure"] = (labels[test] == "seizure").astype(int)
        part["left_out"] = left_out
        part["BIOT"] = scores.probabilities["seizure"]
        part[REGRESSION] = regression.predict_proba(epochs[test])[:, 1]
        parts.append(part)
    tested = pd.concat(parts, ignore_index=True)
    found = {
        name: replace(
            scores,
            start=tested["start"].to_numpy(),
            stop=tested["stop"].to_numpy(),
            values=tested[[name]].rename(columns={name: "seizure"}),
        )
        for name in ("BIOT", REGRESSION)
    }
    say("\n" + table(tested, found, seizures) + "\n")

    folder.mkdir(parents=True, exist_ok=True)
    alarms = found["BIOT"].events(**ALARM)
    figure = plot_scores(
        bipolar,
        found["BIOT"].times,
        {name: tested[name].to_numpy() for name in found},
        events=seizures,
        detected=[(row.onset, row.onset + row.duration) for row in alarms.itertuples()],
        picks=["F3-C3", "F4-C4", "C3-P3", "P3-O1"],
        threshold=ALARM["threshold"],
    )
    figure.savefig(folder / "seizures.png", dpi=120)
    tested.to_csv(folder / "predictions.csv", index=False, float_format="%.4f")
    say(f"Figure:      {folder / 'seizures.png'}")
    say(f"Predictions: {folder / 'predictions.csv'}")


def seizure_times(raw: mne.io.BaseRaw) -> list[tuple[float, float]]:
    """Return onset and end of each seizure in seconds from the first sample."""
    onsets = raw.annotations.onset - raw.first_time
    return [
        (float(onset), float(onset + note["duration"]))
        for onset, note in zip(onsets, raw.annotations, strict=True)
        if note["description"] == "seizure"
    ]


def only(scores: RecordingScores, starts: NDArray[np.float64]) -> RecordingScores:
    """Keep the scores of the windows that begin at these times."""
    rows = np.isin(scores.start.round(6), starts.round(6))
    return replace(
        scores,
        start=scores.start[rows],
        stop=scores.stop[rows],
        values=scores.values[rows].reset_index(drop=True),
    )


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
    tested: pd.DataFrame,
    found: dict[str, RecordingScores],
    seizures: list[tuple[float, float]],
) -> str:
    """Return the scores as text: a row per left-out seizure, and one for all."""
    head = f"{'tested on':<12}{'model':<22}{'AUROC':>7}{'AP':>7}{'found':>8}"
    lines = [f"{head}{'false alarms/h':>17}"]
    parts = {f"seizure {i}": part for i, part in tested.groupby("left_out")}
    for part_name, part in {**parts, "all": tested}.items():
        for name, scores in found.items():
            here = only(scores, part["start"].to_numpy())
            hits, of, false = count_alarms(here, seizures)
            background = (part.seizure == 0).sum() * STEP_SECONDS / 3600
            lines.append(
                f"{part_name:<12}{name:<22}"
                f"{roc_auc_score(part.seizure, part[name]):>7.3f}"
                f"{average_precision_score(part.seizure, part[name]):>7.3f}"
                f"{f'{hits} of {of}':>8}{false / background:>17.1f}"
            )
    return "\n".join(lines)


def count_alarms(
    scores: RecordingScores, seizures: list[tuple[float, float]]
) -> tuple[int, int, int]:
    """Count seizures with an alarm, all seizures, and alarms without a seizure."""
    alarms = scores.events(**ALARM)
    onset, end = alarms.onset.to_numpy(), (alarms.onset + alarms.duration).to_numpy()
    first, last = scores.start.min(), scores.stop.max()
    here = [(b, e) for b, e in seizures if b < last and e > first]
    touches = np.array([(onset < e) & (end > b) for b, e in here], dtype=bool)
    touches = touches.reshape(len(here), len(alarms))
    return int(touches.any(1).sum()), len(here), int((~touches.any(0)).sum())
