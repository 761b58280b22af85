"""The demonstration: its splits, its counting of alarms, and one whole run."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.metrics import average_precision_score, roc_auc_score

from braindecode_biot import BIOTClassifier, demo, load_absence
from braindecode_biot.cli import main
from braindecode_biot.coverage import MontageReport
from braindecode_biot.scores import RecordingScores


def scores_of(probability):
    start = np.arange(len(probability)) * 0.5
    return RecordingScores(
        start=start,
        stop=start + 2,
        skipped=pd.DataFrame(),
        montage=MontageReport("own", (), ()),
        duration=start[-1] + 2,
        source="",
        values=pd.DataFrame({"seizure": probability}),
    )


def test_seizures_are_where_the_clinic_marked_them():
    raw = load_absence()
    times = demo.seizure_times(raw)
    assert [round(onset, 1) for onset, _ in times] == [200.5, 236.9, 296.9]
    later = demo.seizure_times(raw.crop(100))
    np.testing.assert_allclose(later, np.array(times) - 100, atol=1e-6)


def test_alarms_are_events():
    probability = np.zeros(40)
    # One alarm at the first seizure, of two runs; another far from any; the second
    # seizure is missed, and the third lies elsewhere.
    probability[8:10] = probability[12:14] = 0.9
    probability[30:33] = 0.5
    seizures = [(5, 6), (11, 12), (50, 51)]
    assert demo.count_alarms(scores_of(probability), seizures) == (1, 2, 1)
    assert demo.count_alarms(scores_of(np.zeros(40)), [(5, 6)]) == (0, 1, 0)
    assert demo.count_alarms(scores_of(probability), []) == (0, 0, 2)


def test_only_some_windows():
    scores = demo.only(scores_of(np.arange(5) / 10), np.array([0.5, 2.0]))
    assert scores.start.tolist() == [0.5, 2]
    assert scores.values["seizure"].tolist() == [0.1, 0.4]


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
