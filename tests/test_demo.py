"""The demonstration: its splits, its counting of alarms, and one whole run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.metrics import average_precision_score, roc_auc_score

from braindecode_biot import BIOTClassifier, demo, load_absence, to_montage
from braindecode_biot.channels import canonical
from braindecode_biot.cli import main


@pytest.fixture(scope="module")
def raw():
    return to_montage(load_absence(), "tcp-16")


def test_derivations_are_differences(raw):
    original = load_absence()
    original.rename_channels(canonical)
    assert len(raw.ch_names) == 16
    for name in raw.ch_names:
        anode, cathode = (original.get_data(part)[0] for part in name.split("-"))
        np.testing.assert_allclose(raw.get_data(name)[0], anode - cathode, atol=1e-15)


def test_windows_are_labelled_by_half_their_length(raw):
    epochs, windows = demo.cut(raw)
    assert len(epochs) == len(windows) == 677
    seizure = np.zeros(len(raw.times))
    for onset, end in demo.seizure_times(raw):
        seizure[(raw.times >= onset) & (raw.times < end)] = 1
    for (start, _, _), label in zip(epochs.events, windows.seizure, strict=True):
        share = seizure[start : start + 400].mean()
        assert label == (share >= 0.5) or abs(share - 0.5) <= 1 / 400


def test_no_sample_is_both_trained_and_tested_on(raw):
    _, windows = demo.cut(raw)
    seizures = demo.seizure_times(raw)
    tested = []
    for left_out, train, test in demo.folds(windows, seizures):
        onset, end = seizures[left_out]
        first, last = windows.start[test].min(), windows.stop[test].max()
        assert first < onset < end < last
        outside = (windows.stop[train] <= first) | (windows.start[train] >= last)
        assert outside.all()
        assert windows.seizure[test].any()
        assert windows.seizure[train].any()
        tested.extend(test)
    assert len(set(tested)) == len(tested)


def test_alarms_are_runs_of_windows():
    start = np.arange(0, 20, 0.5)
    windows = pd.DataFrame({"start": start, "stop": start + 2})
    probability = np.zeros(len(start))
    # One run over the first seizure, another far from any; the second seizure is
    # missed, and the third lies elsewhere.
    probability[8:12] = 0.9
    probability[30:33] = 0.5
    found, of, false = demo.alarms(windows, probability, [(5, 6), (11, 12), (50, 51)])
    assert (found, of, false) == (1, 2, 1)
    assert demo.alarms(windows, np.zeros(len(start)), [(5, 6)]) == (0, 1, 0)
    assert demo.alarms(windows, probability, []) == (0, 0, 2)


def run_demo(folder) -> tuple[str, pd.DataFrame]:
    result = CliRunner().invoke(
        main, ["demo", "--quiet", "-o", str(folder)], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert (folder / "seizures.png").stat().st_size > 10_000
    return result.output, pd.read_csv(folder / "predictions.csv")


def test_a_small_run_writes_table_figure_and_predictions(tmp_path, monkeypatch):
    def tiny(verbose: int) -> BIOTClassifier:
        return BIOTClassifier(
            max_epochs=1, validation_fraction=0, random_state=0,
            module__emb_size=16, module__n_layers=1,
        )  # fmt: skip

    monkeypatch.setattr(demo, "biot", tiny)
    output, predictions = run_demo(tmp_path / "new" / "folder")
    for word in [
        "AUROC",
        "found",
        "false alarms/h",
        "logistic regression",
        "seizures.png",
    ]:
        assert word in output
    assert predictions.seizure.sum() == 32
    assert predictions[["BIOT", "logistic regression"]].notna().all(axis=None)
    score = average_precision_score(
        predictions.seizure, predictions["logistic regression"]
    )
    assert f"{score:.3f}" in output.splitlines()[-4]


@pytest.mark.slow
def test_the_command_finds_the_seizures(tmp_path):
    command = Path(sys.executable).with_name("braindecode-biot")
    result = subprocess.run(
        [command, "demo", "--quiet"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert result.stderr == ""
    predictions = pd.read_csv(tmp_path / "demo_output" / "predictions.csv")
    assert roc_auc_score(predictions.seizure, predictions.BIOT) > 0.98
    assert average_precision_score(predictions.seizure, predictions.BIOT) > 0.85


def test_help_says_what_there_is():
    output = CliRunner().invoke(main, ["--help"]).output
    assert "demo" in output
    assert "seizures" in output
