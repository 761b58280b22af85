"""From a configuration file to pretrained weights, over interruptions and processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from braindecode_biot import BIOT, BIOTClassifier, pretraining_run
from braindecode_biot.archive import prepare_archive
from braindecode_biot.cli import main
from braindecode_biot.engine import WholeFiles, launched
from braindecode_biot.pretraining import ContrastivePretraining
from braindecode_biot.pretraining_config import read_config
from braindecode_biot.pretraining_run import (
    PretrainingReport,
    hold_out,
    run_pretraining,
)
from braindecode_biot.tables import ConfigError
from recordings import make_raw

CONFIG = """
output = "run"
checkpoint_every = 2

[data]
archives = ["archive"]
validation_fraction = 0.25
batch_size = 5

[model]
emb_size = 16
n_layers = 1

[objective]
lr = 0.01
decay_steps = 5

[trainer]
max_epochs = 3
"""


def make_files(folder, n, sfreq=100.0, montage=("C3-C4", "C4-CZ"), **more):
    """Make an archive of recordings of ten windows each."""
    folder.mkdir(exist_ok=True)
    for i in range(n):
        raw = make_raw(
            sfreq, ["C3", "C4", "Cz"], ["eeg"] * 3, [], int(20 * sfreq), seed=i
        )
        raw.save(folder / f"{i}_raw.fif", verbose="error")
    settings = dict(window=2, montage=list(montage), sfreq=sfreq) | more
    prepare_archive(folder, folder / "archive", **settings)
    return folder / "archive"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An archive, a configuration, and a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("place")
    make_files(folder, 4)
    (folder / "run.toml").write_text(CONFIG)
    lines = []
    report = run_pretraining(folder / "run.toml", say=lines.append)
    return SimpleNamespace(
        folder=folder, config=folder / "run.toml", report=report, lines=lines
    )


def quiet(text):
    pass


def run(place, output, **changes):
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    changes["output"] = str(output)
    return run_pretraining(place.config, overrides=changes, say=quiet)


def state(folder):
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return content["state_dict"]


def assert_same(folder, other):
    expected = state(other)
    for name, value in state(folder).items():
        assert torch.equal(value, expected[name]), name
    one, two = ((f / "encoder.safetensors").read_bytes() for f in (folder, other))
    assert one == two


# -- a whole run -------------------------------------------------------------------


def test_a_run_leaves_weights_tables_and_what_was_run(place):
    folder = place.report.folder
    assert folder == place.folder / "run"
    made = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert made == {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "config.toml",
        "encoder.safetensors",
        "metrics/version_0/hparams.yaml",
        "metrics/version_0/metrics.csv",
        "official.ckpt",
    }
    table = pd.read_csv(folder / "metrics" / "version_0" / "metrics.csv")
    assert table["valid/loss"].count() == table["train/loss_epoch"].count() == 3
    assert read_config(folder / "config.toml") == read_config(place.config)


def test_the_report_sums_the_run_up(place):
    report = place.report
    assert (report.epochs, report.steps, report.batch) == (3, 18, 5)
    assert report.valid_batch == 5
    assert place.lines[0].startswith("3 recordings to train on (30 windows), 1 (10")
    assert (
        "Batches of 5 windows on 1 device(s): the loss by chance is 1.609"
        in (place.lines[0])
    )
    assert [line[:7] for line in place.lines[1:4]] == ["Epoch 1", "Epoch 2", "Epoch 3"]
    assert ", validation loss " in place.lines[1]
    last = place.lines[-1]
    assert "3 epochs, 18 steps of 5 windows" in last
    assert f"Training: loss {report.metrics['train/loss']:.3f}, alignment" in last
    assert "Validation: loss " in last
    assert "chance is 1.609" in last
    assert last.endswith(f"Weights: {place.folder / 'run' / 'encoder.safetensors'}")


def test_a_collapse_is_said():
    folder = Path("run")
    measures = dict(loss=1.6, alignment=0.1, uniformity=-0.01, spread=0.02)
    metrics = {f"train/{name}": value for name, value in measures.items()}

    told = str(PretrainingReport(folder, 1, 2, 5, metrics))
    assert "Warning: the embeddings are nearly one point (spread 0.020)" in told
    told = str(PretrainingReport(folder, 1, 2, 5, metrics | {"train/spread": 0.5}))
    assert "Warning" not in told


@pytest.mark.parametrize(
    "name", ["encoder.safetensors", "checkpoints/last.ckpt", "checkpoints/best.ckpt"]
)
def test_the_weights_make_models(place, name):
    path = place.report.folder / name

    model = BIOT.from_checkpoint(path, n_outputs=3)

    assert model.channel_names == ["C3-C4", "C4-CZ"]
    assert (model.sfreq, model.n_times, model.missing) == (100, 200, "mask")
    trained = state(place.report.folder)
    same = [
        torch.equal(value, trained[f"model.{key}"])
        for key, value in model.state_dict().items()
        if not key.startswith("final_layer")
    ]
    assert all(same) or name == "checkpoints/best.ckpt"


def test_the_weights_are_what_a_classifier_begins_with(place):
    x = np.random.default_rng(0).normal(size=(12, 2, 200)).astype("float32")
    classifier = BIOTClassifier(
        pretrained=place.report.weights,
        missing="mask",
        channel_names=["C3-C4", "C4-CZ"],
        sfreq=100,
        max_epochs=1,
        random_state=0,
    )
    assert classifier.fit(x, np.tile([0, 1], 6)).predict(x).shape == (12,)


def test_the_official_file_has_the_predictor(place):
    content = torch.load(place.report.folder / "official.ckpt", weights_only=True)
    assert {key.split(".")[0] for key in content} == {"biot", "prediction"}


def test_the_global_random_state_is_left_alone(place, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    run(place, tmp_path / "a", trainer__max_steps=1)
    assert torch.equal(torch.rand(1), expected)


# -- going on ----------------------------------------------------------------------


class Killed(RuntimeError):
    pass


def kill(monkeypatch, method, at, error=Killed):
    """Let a method of the module fail when it is called the so-manieth time."""
    original, calls = getattr(ContrastivePretraining, method), []

    def failing(self, *args, **kwargs):
        if self.trainer.sanity_checking or len(calls) != at:
            calls.extend([1] * (not self.trainer.sanity_checking))
            return original(self, *args, **kwargs)
        raise error

    monkeypatch.setattr(ContrastivePretraining, method, failing)


@pytest.mark.parametrize(
    ("method", "at"),
    [
        ("optimizer_step", 1),  # before the first checkpoint
        ("optimizer_step", 5),  # before the last step of an epoch
        ("optimizer_step", 6),  # behind an epoch
        ("optimizer_step", 9),
        ("validation_step", 1),  # with a checkpoint of the last step, but no epoch's
    ],
)
def test_a_run_goes_on_to_the_weights_of_an_unbroken_one(
    place, tmp_path, monkeypatch, method, at
):
    with monkeypatch.context() as patch:
        kill(patch, method, at)
        with pytest.raises(Killed):
            run(place, tmp_path)
    assert not (tmp_path / "encoder.safetensors").exists()

    report = run(place, tmp_path)

    assert (report.epochs, report.steps) == (3, 18)
    assert_same(tmp_path, place.report.folder)
    # What was logged before is there still.
    assert len(list((tmp_path / "metrics").glob("version_*"))) == 2


def test_an_interruption_says_what_is_kept(place, tmp_path, monkeypatch):
    handler = signal.getsignal(signal.SIGINT)
    for at, match in ((1, "after 1 steps. There was no"), (9, "9 steps. What was tr")):
        with monkeypatch.context() as patch:
            kill(patch, "optimizer_step", at, KeyboardInterrupt)
            with pytest.raises(KeyboardInterrupt, match=match):
                run(place, tmp_path)
    assert signal.getsignal(signal.SIGINT) is handler
    run(place, tmp_path)
    assert_same(tmp_path, place.report.folder)


def contents(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path, path.stat().st_mtime_ns, path.read_bytes()) for path in files]


def test_a_finished_run_is_left_alone_and_goes_on_with_more_epochs(place, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(place.report.folder, folder)
    before, lines = contents(folder), []
    changes = {"output": str(folder)}

    report = run_pretraining(place.config, overrides=changes, say=lines.append)

    assert contents(folder) == before
    assert (report.epochs, report.steps, report.batch) == (3, 18, 5)
    assert lines == [
        "Done before: 3 epochs, 18 steps. With a larger max_epochs it goes on.\n"
        f"Weights: {folder / 'encoder.safetensors'}"
    ]
    report = run(place, folder, trainer__max_epochs=4)
    assert (report.epochs, report.steps) == (4, 24)
    run(place, tmp_path / "whole", trainer__max_epochs=4)
    assert_same(folder, tmp_path / "whole")


def test_weights_that_are_lacking_are_made_of_the_last_checkpoint(place, tmp_path):
    shutil.copytree(place.report.folder, tmp_path / "run")
    (tmp_path / "run" / "encoder.safetensors").unlink()
    run(place, tmp_path / "run")
    assert_same(tmp_path / "run", place.report.folder)


def test_a_run_is_not_gone_on_with_where_that_is_not_wanted(place, tmp_path):
    with pytest.raises(FileExistsError, match=r"There is a run in .*resume = true"):
        run_pretraining(place.config, overrides={"resume": False})
    shutil.copytree(place.report.folder, tmp_path / "run")
    with pytest.raises(
        ValueError, match=r"another configuration \(lr: 0\.01 then, 0\.1"
    ):
        run(place, tmp_path / "run", objective__lr=0.1, trainer__max_epochs=9)
    with pytest.raises(ValueError, match=r"other data \(batch size: 5 then, 6 now"):
        run(place, tmp_path / "run", data__batch_size=6, trainer__max_epochs=9)
    config = tmp_path / "run" / "config.toml"
    assert config.read_text() == (place.report.folder / "config.toml").read_text()
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(b"junk")
    os.utime(tmp_path / "run" / "encoder.safetensors")
    with pytest.raises(OSError, match=r"last\.ckpt' cannot be read"):
        run(place, tmp_path / "run")


@pytest.mark.parametrize("stop", [2, 7, 12])
def test_a_run_stopped_by_its_steps_goes_on_as_if_it_had_not(place, tmp_path, stop):
    """In an epoch, at the end of one, and before the first checkpoint were due."""
    steps = dict(trainer__max_epochs=-1, checkpoint_every=3)
    run(place, tmp_path / "whole", trainer__max_steps=14, **steps)

    run(place, tmp_path / "run", trainer__max_steps=stop, **steps)
    again = run(place, tmp_path / "run", trainer__max_steps=stop, **steps)
    assert again.steps == stop  # it knows that it is done
    run(place, tmp_path / "run", trainer__max_steps=14, **steps)

    assert_same(tmp_path / "run", tmp_path / "whole")


def test_weights_that_went_astray_replace_no_checkpoint(place, tmp_path):
    shutil.copytree(place.report.folder, tmp_path / "run")
    before = state(tmp_path / "run")
    with pytest.raises(ValueError, match=r"NaN or inf after \d+ steps.*lower lr"):
        run(place, tmp_path / "other", objective__lr=1e30)
    assert not (tmp_path / "other" / "encoder.safetensors").exists()
    assert not (tmp_path / "other" / "checkpoints" / "last.ckpt").exists()
    assert all(torch.equal(v, before[k]) for k, v in state(tmp_path / "run").items())


def test_another_beginning_and_lost_checkpoints_are_refused(place, tmp_path):
    shutil.copytree(place.report.folder, tmp_path / "run")
    start = str(place.report.weights)
    with pytest.raises(ValueError, match="began from nothing, and start_from is"):
        run(place, tmp_path / "run", start_from=start, trainer__max_epochs=9)

    (tmp_path / "run" / "checkpoints" / "last.ckpt").unlink()
    before = contents(tmp_path / "run")
    with pytest.raises(FileExistsError, match=r"has weights .* no 'last.ckpt'"):
        run(place, tmp_path / "run")
    assert contents(tmp_path / "run") == before


def test_a_checkpoint_cut_short_is_named(place, tmp_path):
    shutil.copytree(place.report.folder, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(OSError, match=r"last\.ckpt' cannot be read"):
        run(place, tmp_path / "run", trainer__max_epochs=9)


def test_checkpoints_are_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    WholeFiles().save_checkpoint({"a": 1}, path)

    def full(*args):
        raise OSError("full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="full"):
        WholeFiles().save_checkpoint({"a": 2}, path)
    assert torch.load(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


# -- data and model ----------------------------------------------------------------


class Recording:
    def __init__(self, subject):
        told = {} if subject is None else {"subject": subject}
        self.description = pd.Series(told)


def recordings(*subjects):
    return [Recording(subject) for subject in subjects]


def test_persons_are_held_out_whole():
    given = recordings(*["a"] * 3, *["b"] * 3, *["c"] * 3, "X", "X", None, np.nan)
    seen = set()
    for seed in range(20):
        train, valid = hold_out(given, 0.1, seed)
        assert len(train) + len(valid) == len(given)
        sides = [
            {r.description.get("subject") for r in side} & set("abc")
            for side in (train, valid)
        ]
        assert not sides[0] & sides[1]
        assert 1 <= len(valid) <= 3  # a person, or one of whom nothing is known
        assert valid == hold_out(given, 0.1, seed)[1]
        seen.add(tuple(map(given.index, valid)))
    assert len(seen) > 3
    assert hold_out(given, 0) == (given, [])


def test_a_half_is_a_half_and_one_is_left_to_train_on():
    assert [len(side) for side in hold_out(recordings(*"abcd"), 0.5)] == [2, 2]
    assert [len(side) for side in hold_out(recordings("a", "b"), 0.9)] == [1, 1]
    with pytest.raises(ConfigError, match=r"of one person \(2\).*fraction = 0"):
        hold_out(recordings("a", "a"), 0.1)
    # A zero is a name where others are numbers.
    train, valid = hold_out(recordings("0", "0", "1", "2", "2"), 0.1)
    names = [{r.description["subject"] for r in side} for side in (train, valid)]
    assert not names[0] & names[1]
    assert len(hold_out(recordings("0", "0", "0"), 0.1)[1]) == 1


def test_the_model_is_for_what_is_in_the_archives(place, tmp_path, monkeypatch):
    other = make_files(
        tmp_path / "b", 2, montage=["C4-CZ", "C3-CZ"], window=3, min_seconds=1
    )
    seen = {}

    def look(trainer, module, data, last):
        seen["model"] = module.model

    monkeypatch.setattr(pretraining_run, "_fit", look)
    archives = ["archive", str(other)]
    run(place, tmp_path / "run", data__archives=archives, data__validation_fraction=0)

    model = seen["model"]
    assert model.channel_names == ["C3-C4", "C4-CZ", "C3-CZ"]
    assert (model.sfreq, model.n_times, model.missing) == (100, 300, "mask")
    assert model.training

    start = place.report.weights
    run(place, tmp_path / "on", start_from=str(start), model__drop_prob=0.3)
    trained, model = state(place.report.folder), seen["model"]
    assert model.training
    assert model.get_config()["drop_prob"] == 0.3
    for key, value in model.state_dict().items():
        if not key.startswith("final_layer"):
            assert torch.equal(value, trained[f"model.{key}"])


def test_archives_of_two_rates_are_refused(place, tmp_path):
    other = make_files(tmp_path / "b", 1, sfreq=50.0)
    with pytest.raises(ConfigError, match=r"sampling rates of 50\.0, 100\.0 Hz"):
        run(place, tmp_path / "run", data__archives=["archive", str(other)])


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"data__archives": []}, ConfigError, r"needs an output.* \[data\] archives"),
        ({"data__archives": ["no"]}, FileNotFoundError, "no' is no archive"),
        ({"data__validation_fraction": 1}, ConfigError, "to below 1, got 1"),
        ({"data__batch_size": 0}, ConfigError, r"\[data\]: batch_size must be at"),
        ({"data__batch_size": 31}, ValueError, "30 windows is less than one batch"),
        ({"data__batchsize": 8}, ConfigError, "did you mean batch_size"),
        ({"data__seed": 8}, ConfigError, r"\[data\]|data.seed"),
        ({"seed": -1}, ConfigError, "seed is at least 0"),
        ({"checkpoint_every": 0}, ConfigError, "checkpoint_every at least 1"),
        (
            {"start_from": "none.ckpt"},
            FileNotFoundError,
            "no file or folder 'none.ckpt'",
        ),
        ({"model__token_size": 500}, ConfigError, r"\[model\]: .*500"),
        ({"model__n_outputs": 2}, ConfigError, "n_outputs, which is not known"),
        ({"model__emb_size": 16.5}, ConfigError, "emb_size is a whole number"),
        ({"model__channel_names": ["C3-C4"]}, ValueError, "C4-CZ"),
        (
            {"model__sfreq": 50, "model__hop_length": 25},
            ValueError,
            "sampling rate of 100 Hz instead of 50",
        ),
        ({"objective__temperature": 0}, ConfigError, r"\[objective\]: temperature m"),
        ({"trainer__accelerator": "abacus"}, ConfigError, r"\[trainer\]: .*abacus"),
        (
            {"trainer__max_epochs": "3"},
            ConfigError,
            "max_epochs is a whole number, got",
        ),
        ({"trainer__logger": True}, ConfigError, "logger, which is not known"),
        ({"trainer__precision": "8"}, ConfigError, "precision is 64 or 32 or 16 or"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_are_said_before_the_training(place, tmp_path, changes, error, match):
    with pytest.raises(error, match=match):
        run(place, tmp_path / "run", **changes)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_file_says_little(tmp_path):
    (tmp_path / "run.toml").write_text('output = "x"\ndata.archives = ["a", "/b"]')

    tables = read_config(tmp_path / "run.toml")

    assert tables == {
        "": {
            "seed": 0,
            "resume": True,
            "checkpoint_every": 1000,
            "output": str(tmp_path / "x"),
        },
        "data": {"validation_fraction": 0.1, "archives": [f"{tmp_path / 'a'}", "/b"]},
        "model": {},
        "objective": {},
        "trainer": {"max_epochs": 100},
    }
    changed = read_config(tmp_path / "run.toml", {"trainer.max_steps": 5})
    assert changed["trainer"] == {"max_steps": 5}


# -- processes ---------------------------------------------------------------------


def test_launchers_say_how_many_processes_there_are(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    assert launched() == {}
    for name, value in {"TASKS": 8, "TASKS_PER_NODE": 4, "NODES": 2}.items():
        monkeypatch.setenv(f"SLURM_N{name}", str(value))
    monkeypatch.setenv("SLURM_JOB_NAME", "biot")
    assert launched() == {"devices": 4, "num_nodes": 2}
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("WORLD_SIZE", "6")
    assert launched() == {"devices": 2, "num_nodes": 3}


COMMAND = shutil.which("braindecode-biot", path=os.path.dirname(sys.executable))
ONE_OF_TWO = ["--set", "data.batch_size=3", "--set", "trainer.max_epochs=2"]


def start(place, output, *more, first=(), **options):
    if COMMAND is None:
        pytest.skip("the command is not installed")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    words = [*first, COMMAND, "pretrain", str(place.config)]
    words += ["--set", f"output={output}", *more]
    return subprocess.Popen(
        words,
        env=environment | options.pop("env", {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def finish(process):
    try:
        return process.communicate(timeout=120)
    finally:
        process.kill()


@pytest.mark.slow
def test_two_processes_of_lightning(place, tmp_path):
    process = start(place, tmp_path, *ONE_OF_TWO, "--set", "trainer.devices=2")
    stdout, stderr = finish(process)
    assert process.returncode == 0, stderr
    assert stdout == ""
    assert stderr.count("Batches of 6 windows on 2 device(s)") == 1
    assert stderr.count("2 epochs, 10 steps of 6 windows") == 1
    warned = [line for line in stderr.splitlines() if "Warning" in line]
    assert all("the embeddings are nearly one point" in line for line in warned)
    for noise in ("GPU", "Tip", "rank", "gloo"):
        assert noise not in stderr
    BIOT.from_checkpoint(tmp_path / "encoder.safetensors", n_outputs=2)


@pytest.mark.slow
def test_every_launcher_gives_the_same(place, tmp_path):
    lightning = start(
        place, tmp_path / "lightning", *ONE_OF_TWO, "--set", "trainer.devices=2"
    )
    finish(lightning)
    python = Path(sys.executable)
    torchrun = [str(python), "-m", "torch.distributed.run", "--nproc-per-node=2"]
    elastic = start(place, tmp_path / "torchrun", *ONE_OF_TWO, first=torchrun)
    finish(elastic)
    # What srun would set; there is none here.
    slurm = {"SLURM_JOB_ID": "12345", "SLURM_JOB_NAME": "biot", "SLURM_NODEID": "0"}
    slurm |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
    slurm |= {"SLURM_NODELIST": "127.0.0.1"}
    tasks = [
        start(
            place,
            tmp_path / "slurm",
            *ONE_OF_TWO,
            env=slurm | {"SLURM_PROCID": i, "SLURM_LOCALID": i},
        )
        for i in "01"
    ]
    for task in tasks:
        finish(task)
    assert [p.returncode for p in (lightning, elastic, *tasks)] == [0, 0, 0, 0]
    assert_same(tmp_path / "torchrun", tmp_path / "lightning")
    assert_same(tmp_path / "slurm", tmp_path / "lightning")


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_end_a_run_that_goes_on(place, tmp_path, devices, sign):
    more = ["--set", f"trainer.devices={devices}", "--set", "data.batch_size=3"]
    process = start(
        place,
        tmp_path / "broken",
        *more,
        "--set",
        "trainer.max_epochs=40",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    for line in process.stderr:
        if line.startswith("Epoch 2"):
            break
    process.send_signal(sign)
    _, stderr = finish(process)
    if sign == signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError):  # the second, left alone
            os.killpg(process.pid, sign)
    else:
        assert process.returncode == 130, stderr
        assert "What was trained until the last checkpoint is kept" in stderr
        assert "Traceback" not in stderr
    for name in ("broken", "whole"):
        again = start(place, tmp_path / name, *more, "--set", "trainer.max_epochs=5")
        _, stderr = finish(again)
        assert again.returncode == 0, stderr
        assert ("Going on from" in stderr) == (name == "broken")
    assert_same(tmp_path / "broken", tmp_path / "whole")


# -- commands ----------------------------------------------------------------------


def command(*args, code=0):
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    told = f"{result.output}\n{result.exception!r}"
    assert result.exit_code == code, told
    assert result.exception is None or isinstance(result.exception, SystemExit), told
    return result


SETTINGS = ["--window", 2, "--montage", "C3-C4,C4-CZ", "--sfreq", 100]


def test_prepare_makes_an_archive_and_names_what_it_skips(place, tmp_path):
    files = [place.folder / f"{i}_raw.fif" for i in range(2)]
    args = ["prepare", *files, "-o", tmp_path / "a", *SETTINGS]

    result = command(*args)

    assert "2 recordings of 0.0111 h, 20 windows (0 left out)." in result.stdout
    assert f"[1/2] {files[0]}: 10 windows of 2 channels" in result.stderr
    result = command(*args, tmp_path / "none.edf", code=1)
    assert result.stderr.count("done before") == 2
    assert "1 files were skipped:" in result.stderr
    assert "There is no file" in result.stderr
    assert "skipped" not in result.stdout
    assert command(*args, "-q").output == ""
    quiet_end = command(*args, "-q", tmp_path / "none.edf", code=1)
    assert quiet_end.stdout == ""
    assert quiet_end.stderr.startswith("\n1 files were skipped:")


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["none.edf"], 1, "Nothing is left to make an archive of"),
        (["--step", "0"], 2, "is not in the range"),
        (["--montage", ","], 2, "--montage is tcp-16, tcp-18 or a list"),
        (["--window", "0.001"], 2, "less than a sample"),
    ],
)
def test_prepare_says_what_is_wrong(tmp_path, args, code, message):
    base = ["prepare", tmp_path / "x.edf", "-o", tmp_path / "a", "--window", "10"]
    assert message in command(*base, *args, code=code).stderr


def test_prepare_says_that_it_was_interrupted(tmp_path, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("braindecode_biot.archive.prepare_archive", interrupted)
    args = ["prepare", "x.edf", "-o", tmp_path / "a", "--window", "10"]
    assert "What is done is kept; run again" in command(*args, code=130).stderr


def test_pretrain_is_the_function(place, tmp_path):
    sets = ["--set", f"output={tmp_path}", "--set", "trainer.max_epochs=1"]

    result = command("pretrain", place.config, *sets)

    assert result.stdout == ""
    assert "Epoch 1, step 6: training loss " in result.stderr
    assert "Weights: " in result.stderr
    assert "Warning: the embeddings" in result.stderr or "Warn" not in result.stderr
    assert "Done before: 1 epochs" in command("pretrain", place.config, *sets).stderr
    assert command("pretrain", place.config, *sets, "-q").output == ""
    values = (tmp_path / "config.toml").read_text()
    assert "max_epochs = 1" in values


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--set", "seed"], "--set takes NAME=VALUE, got 'seed'"),
        (["--set", "seed=a"], "seed is a whole number, got 'a'"),
        (["--set", "trainer.max_epoch=3"], "did you mean max_epochs?"),
        (["--set", "resume=false"], "There is a run in"),
    ],
)
def test_pretrain_says_what_is_wrong(place, args, message):
    assert message in command("pretrain", place.config, *args, code=2).stderr


def test_pretrain_says_what_is_kept(place, tmp_path, monkeypatch):
    kill(monkeypatch, "optimizer_step", 3, KeyboardInterrupt)
    result = command("pretrain", place.config, "--set", f"output={tmp_path}", code=130)
    assert "Interrupted after 3 steps. What was trained" in result.stderr


def test_warnings_come_at_once_and_once(place, tmp_path, monkeypatch):
    step = ContrastivePretraining.training_step

    def warning(self, *args):
        import warnings

        warnings.warn("look at this", UserWarning, stacklevel=1)
        return step(self, *args)

    monkeypatch.setattr(ContrastivePretraining, "training_step", warning)
    sets = ["--set", f"output={tmp_path}", "--set", "trainer.max_epochs=2"]
    lines = command("pretrain", place.config, *sets).stderr.splitlines()
    assert lines.count("Warning: look at this") == 1
    assert lines.index("Warning: look at this") == 1  # before the first epoch's end


def test_a_missing_lightning_is_named_with_its_extra(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    for name in ("engine", "pretraining_run"):
        monkeypatch.delitem(sys.modules, f"braindecode_biot.{name}")
    stderr = command("pretrain", place.config, code=2).stderr
    assert "braindecode-biot[pretrain]" in stderr
