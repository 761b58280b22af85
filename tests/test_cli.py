"""The command, as its users run it."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from importlib.resources import files as resources
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from braindecode_biot import BIOT, batches, persistence, scores
from braindecode_biot.cli import main
from recordings import make_raw

ABSENCE = str(resources("braindecode_biot") / "data" / "absence.edf")
SMALL = [
    *["--window", "2", "--epochs", "1", "--montage", "C3-C4,C4-CZ", "--sfreq", "100"],
    *["--set", "module__emb_size=16", "--set", "module__n_layers=1"],
]
COMMANDS = ["info", "embed", "predict", "train", "demo"]


def run(*args, code=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    told = f"{result.output}\n{result.exception!r}"
    assert result.exit_code == code, told
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    return result


def write(path, *notes, seconds=40, sfreq=100.0):
    names = ["C3", "C4", "Cz"]
    raw = make_raw(sfreq, names, ["eeg"] * 3, [], int(sfreq * seconds), len(path.name))
    onset, duration, text = zip(*notes, strict=True) if notes else ([], [], [])
    raw.set_annotations(mne.Annotations(onset, duration, text))
    path.parent.mkdir(exist_ok=True)
    raw.save(path, verbose="error")
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three recordings, one short of a window, one of junk, and a model."""
    folder = tmp_path_factory.mktemp("cli")
    spells = [(4, 4, "spell"), (16, 4, "spell"), (30, 4, "spell")]
    for name in "abc":
        write(folder / f"{name}_raw.fif", *spells)
    write(folder / "short_raw.fif", seconds=1)
    (folder / "junk.edf").write_text("junk")
    run("train", folder / "a_raw.fif", "-o", folder / "model", *SMALL)
    model = BIOT(channel_names=["C3-C4"], sfreq=100, n_times=200, n_outputs=1,
                 emb_size=16, n_layers=1)  # fmt: skip
    model.save_pretrained(folder / "plain")
    old = time.time() - 100
    for path in folder.iterdir():
        os.utime(path, (old, old))
    return folder


def recordings(place):
    return [place / f"{name}_raw.fif" for name in "abc"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# Help and arguments.


def test_help_is_whole():
    text = run("--help").output
    assert "..." not in text.partition("Commands:")[2]
    for command in COMMANDS:
        assert f"\n  {command} " in text


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_has_a_text(command):
    for param in main.commands[command].params:
        if param.param_type_name == "option":
            assert param.help, param.name
            takes_number = "number" in param.type.name
            if takes_number and param.name not in ("threshold", "low", "lr"):
                assert "second" in param.help.lower() or "Hz" in param.help
    assert "Usage: " in run(command, "-h").output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["info"], "Missing argument 'FILES...'"),
        (["info", "x", "--window", "0"], "0.0 is not in the range x>0"),
        (["info", "x", "--window", "nan"], "'nan' is no finite number"),
        (["info", "x", "--montage", ","], "--montage is tcp-16, tcp-18 or a list"),
        (["predict", "m", "x", "-o", "o", "--low", "0.6"], "--low 0.6 is above"),
        (["predict", "m", "x", "-o", "o", "--merge-gap", "-1"], "not in the range"),
        (["embed", "x", "-o", "o"], "Missing option '--model'"),
        (["train", "x", "-o", "o"], "Missing option '--window'"),
        (["train", "x", "-o", "o", "--window", "2", "--set", "a"], "got 'a'"),
        (["train", "x", "-o", "o", "--window", "2", "--set", "window=3"],
         "--set window is what another option says"),
        (["train", "x", "-o", "o", "--window", "2", "--set", "foo=3"],
         "no argument 'foo'"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_said(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in run(*args, code=2).stderr


# info.


def test_info_prints_tables_and_goes_on_after_a_failure(place):
    junk = place / "junk.edf"
    result = run("info", junk, ABSENCE, place / "none.edf", "--montage", "A,B", code=1)
    assert result.stdout.startswith(f"{ABSENCE}\n340 s (0:05:40)")
    assert "Montage own: 0 of 2" in result.stdout
    assert "2 of 3 files failed:" in result.stderr
    assert f"  {junk}: MNE cannot read" in result.stderr
    assert "There is no file" in result.stderr


def test_info_prints_json_lines(place):
    result = run("info", *recordings(place), "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [Path(one["file"]).name[0] for one in told] == ["a", "b", "c"]
    assert told[0]["duration"] == 40
    assert result.stderr == ""


# predict.


def test_predict_makes_each_format_in_one_folder(place, tmp_path):
    pytest.importorskip("edfio")
    base = ["predict", place / "model", *recordings(place), "-o", tmp_path / "o"]
    for kind in ["csv", "events", "fif", "edf"]:
        result = run(*base, "--threshold", "0.1", "--format", kind)
        assert "done before" not in result.stderr
        assert result.stdout == ""
    run(*base, "--threshold", "0.1", "--report")  # of which the tables are there
    ends = [".csv", "-events.csv", "-annot.fif", "-events.edf", ".html"]
    expected = [f"{name}_raw{end}" for name in "abc" for end in ends]
    assert names(tmp_path / "o") == sorted([*expected, "settings.json"])
    table = pd.read_csv(tmp_path / "o" / "a_raw.csv")
    assert list(table) == ["start", "stop", "background", "spell"]
    assert len(table) == 20
    events = pd.read_csv(tmp_path / "o" / "a_raw-events.csv")
    for end in ["-annot.fif", "-events.edf"]:
        found = mne.read_annotations(tmp_path / "o" / f"a_raw{end}")
        assert np.allclose(found.onset, events.onset, atol=1e-3)


def test_predict_goes_on_where_it_was(place, tmp_path):
    base = ["predict", place / "model", "-o", tmp_path]
    files = recordings(place)
    run(*base, files[0])
    result = run(*base, *files)
    assert result.stderr.count("done before") == 1
    assert "[3/3]" in result.stderr
    assert run(*base, *files, "--overwrite").stderr.count("done before") == 0
    assert (
        "threshold: 0.5 there, 0.7 now"
        in run(*base, *files, "--threshold", "0.7", code=2).stderr
    )
    # How many windows the model gets at a time changes no result.
    assert run(*base, *files, "--batch-size", "3").stderr.count("done before") == 3


def test_predict_names_what_failed(place, tmp_path):
    bad = [place / "short_raw.fif", place / "junk.edf", place / "none.edf"]
    args = ["predict", place / "model", *bad, place / "a_raw.fif", "-o", tmp_path]
    result = run(*args, code=1)
    for path in bad:
        assert result.stderr.count(f"{path}: ") == 2  # when it failed, and at the end
    assert "3 of 4 files failed:" in result.stderr
    assert names(tmp_path) == ["a_raw.csv", "settings.json"]
    quiet = run(*args, "--quiet", "--overwrite", code=1)
    assert quiet.stdout == ""
    assert quiet.stderr.startswith("\n3 of 4 files failed:")


def test_quiet_is_silent(place, tmp_path):
    args = ["predict", place / "model", place / "a_raw.fif", "-o", tmp_path, "-q"]
    assert run(*args, "--report").output == ""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("plain", "There is no estimator.json"),
        ("junk.edf", "There is no folder"),
        ("empty", "There is no estimator.json"),
        ("none", "There is no folder"),
    ],
)
def test_what_is_no_model_is_said_and_binds_nothing(place, tmp_path, model, message):
    (place / "empty").mkdir(exist_ok=True)
    args = [place / "a_raw.fif", "-o", tmp_path / "o"]
    assert message in run("predict", place / model, *args, code=2).stderr
    run("predict", place / "model", *args)


def test_places_that_cannot_be_used_are_said_first(place, tmp_path):
    base = ["predict", place / "model", place / "a_raw.fif", "-o"]
    assert "the model's" in run(*base, place / "model", code=2).stderr
    assert "is a file" in run(*base, place / "junk.edf", code=2).stderr
    below = run(*base, place / "junk.edf" / "o", code=2).stderr
    assert "Nothing can be written" in below
    twins = [tmp_path / "1" / "a_raw.fif", tmp_path / "2" / "a_raw.fif"]
    stderr = run("predict", place / "model", *twins, "-o", tmp_path, code=2).stderr
    assert "would both become" in stderr


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_read_only_folder_is_said_first(place, tmp_path):
    tmp_path.chmod(0o555)
    args = ["predict", place / "model", place / "none.edf", "-o", tmp_path]
    assert "Nothing can be written" in run(*args, code=2).stderr


@pytest.fixture
def full_after(monkeypatch):
    """Let the disk be full after so many files."""

    def fill(n, error=None):
        write_whole, written = scores.write_whole, []

        def writing(path, data):
            if len(written) >= n:
                raise error or OSError(errno.ENOSPC, "No space left on device")
            written.append(path)
            return write_whole(path, data)

        monkeypatch.setattr(scores, "write_whole", writing)

    return fill


def test_a_full_disk_ends_the_run(place, tmp_path, full_after):
    args = ["predict", place / "model", *recordings(place), "-o", tmp_path]
    full_after(1)
    result = run(*args, code=1)
    assert "Stopped: [Errno 28] No space left on device" in result.stderr
    assert "[2/3]" not in result.stderr
    assert names(tmp_path) == ["a_raw.csv", "settings.json"]


def test_an_interruption_keeps_what_is_done(place, tmp_path, full_after):
    args = ["predict", place / "model", *recordings(place), "-o", tmp_path]
    full_after(1, KeyboardInterrupt())
    result = run(*args, code=130)
    assert "Interrupted. What is done is kept; run again to go on." in result.stderr
    assert names(tmp_path) == ["a_raw.csv", "settings.json"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are others there")
def test_ctrl_c_of_a_process_and_the_run_after(place, tmp_path):
    files = [tmp_path / f"{i}_raw.fif" for i in range(300)]
    for file in files:
        file.symlink_to(place / "a_raw.fif")
    code = "from braindecode_biot.cli import main; main()"
    command = [sys.executable, "-c", code, "predict", place / "model", *files]
    command += ["-o", tmp_path / "o"]
    process = subprocess.Popen(
        [str(part) for part in command], stderr=subprocess.PIPE, text=True,
        stdout=subprocess.PIPE, preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        first = process.stderr.readline()
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert first.startswith("[1/300]")
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert "Warning" not in stderr
    assert stdout == ""
    made = names(tmp_path / "o")
    assert 1 < len(made) < 301
    assert not [name for name in made if name.endswith(".part")]
    result = run("predict", place / "model", *files[:5], "-o", tmp_path / "o")
    assert "[1/5]" in result.stderr
    assert "done before" in result.stderr


# embed.


@pytest.mark.parametrize("model", ["plain", "model"])
def test_embed_takes_models_and_estimators(place, tmp_path, model):
    pytest.importorskip("pyarrow")
    base = ["embed", "--model", place / model, place / "a_raw.fif", "-o", tmp_path]
    for kind in ["npz", "parquet", "csv"]:
        result = run(*base, "--format", kind)
        assert result.stdout == ""
        assert "size 16: 20 windows (2 s, of 40 s" in result.stderr
    with np.load(tmp_path / "a_raw.npz") as made:
        table = pd.read_parquet(tmp_path / "a_raw.parquet")
        assert made["embeddings"].shape == (20, 16)
        assert np.array_equal(table.iloc[:, 2:], made["embeddings"])
        assert np.array_equal(pd.read_csv(tmp_path / "a_raw.csv")["start"],
                              made["start"])  # fmt: skip


def test_embed_takes_other_windows(place, tmp_path):
    base = ["embed", "--model", place / "plain", place / "a_raw.fif", "-o", tmp_path]
    result = run(*base, "--window", "4", "--step", "1")
    assert "37 windows (4 s" in result.stderr
    assert (
        "step: 1.0 there, 2.0 now"
        in run(*base, "--window", "4", "--step", "2", code=2).stderr
    )
    other = ["predict", place / "model", place / "a_raw.fif", "-o", tmp_path]
    assert "command: 'embed' there" in run(*other, code=2).stderr


def test_embed_says_what_is_no_checkpoint(place, tmp_path):
    base = ["embed", place / "a_raw.fif", "-o", tmp_path, "--model"]
    assert "cannot be read" in run(*base, place / "junk.edf", code=2).stderr
    assert "no file or folder" in run(*base, place / "none", code=2).stderr


def test_a_package_that_is_not_there_is_said_once(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    base = ["embed", "--model", place / "plain", *recordings(place), "-o", tmp_path]
    result = run(*base, "--format", "parquet", code=1)
    assert result.stderr.count("pip install 'braindecode-biot[parquet]'") == 1


# train.


def test_train_says_what_it_does(place, tmp_path):
    result = run("train", *recordings(place), "-o", tmp_path / "m", *SMALL)
    assert result.stdout == ""
    assert "a_raw.fif: 14 background, 6 spell" in result.stderr
    assert f"1 epochs; saved in {tmp_path / 'm'}" in result.stderr
    estimator = persistence.load_estimator(tmp_path / "m")
    assert estimator.missing == "mask"
    assert list(estimator.classes_) == ["background", "spell"]


def test_train_refuses_and_replaces_a_model(place, tmp_path):
    args = ["train", place / "a_raw.fif", "-o", tmp_path, *SMALL, "-q"]
    assert run(*args).output == ""
    assert "There is a model in" in run(*args, code=2).stderr
    run(*args, "--overwrite")


def test_train_tells_wrong_files_from_wrong_arguments(place, tmp_path):
    base = ["train", "-o", tmp_path, *SMALL]
    pair = [place / "a_raw.fif", place / "short_raw.fif"]
    assert "short_raw.fif: A window of 2 s is" in run(*base, *pair, code=1).stderr
    assert "MNE cannot read" in run(*base, place / "junk.edf", code=1).stderr
    stderr = run(*base, place / "a_raw.fif", "--event", "spel", code=2).stderr
    assert "'spell' (3)" in stderr
    stderr = run(*base, place / "a_raw.fif", "--background", "", code=2).stderr
    assert "All 6 windows are 'spell'" in stderr
    assert names(tmp_path) == []


def test_an_interrupted_training_says_what_became_of_it(place, tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt("Interrupted; nothing was saved.")

    monkeypatch.setattr("braindecode_biot.training_files.train_on_files", interrupted)
    args = ["train", place / "a_raw.fif", "-o", tmp_path, *SMALL]
    assert "nothing was saved" in run(*args, code=130).stderr


def test_warnings_are_lines(place, tmp_path):
    write(tmp_path / "one_raw.fif", (2, 4, "spell"), seconds=10)
    write(tmp_path / "two_raw.fif", (2, 4, "spell"), seconds=10)
    files = [tmp_path / "one_raw.fif", tmp_path / "two_raw.fif"]
    three = write(tmp_path / "three_raw.fif", (2, 4, "blink"), seconds=10)
    args = ["train", *files, three, "-o", tmp_path / "m", *SMALL]
    result = run(*args)
    assert "Warning: The groups kept for validation hold" in result.stderr
    assert "UserWarning" not in result.stderr
    assert run(*args, "--overwrite", "--quiet").output == ""


# demo.


def test_demo_says_first_where_it_cannot_write(place):
    stderr = run("demo", "-o", place / "junk.edf" / "o", code=2).stderr
    assert "Nothing can be written" in stderr


def test_interruptions_before_any_work_end_alike(place, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(batches, "checksum", interrupted)
    args = ["predict", place / "model", place / "a_raw.fif", "-o", tmp_path]
    assert "Interrupted." in run(*args, code=130).stderr
