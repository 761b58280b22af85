"""Every snippet of the README and of PRETRAINING.md runs, as a reader would copy it."""

import re
import shlex
import shutil
import warnings
from pathlib import Path

import mne
import pytest
import torch
from click.testing import CliRunner

from braindecode_biot import BIOTClassifier
from braindecode_biot.cli import main
from braindecode_biot.pretraining_config import read_config
from conftest import ROOT, SHARED

README = (ROOT / "README.md").read_text(encoding="utf-8")
PRETRAINING = (ROOT / "PRETRAINING.md").read_text(encoding="utf-8")
# Its configuration files by their names, which stand in their first lines.
CONFIGS = dict(re.findall(r"^```toml\n# (\S+)\n(.*?)^```", PRETRAINING, re.M | re.S))


SNIPPETS = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)


def run(snippets, names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for snippet in snippets:
            exec(compile(snippet, "README.md", "exec"), names)


@pytest.mark.filterwarnings("ignore")
def test_the_python_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(SNIPPETS) >= 8
    names: dict = {}
    run(SNIPPETS, names)
    # What the text beside the snippets claims.
    assert len(names["epochs"]) == 168
    assert names["logits"].shape == (8, 2)
    assert names["features"].shape == (8, 256)
    assert names["aurocs"].shape == (3,)
    assert names["X"].shape == (396, 18, 400)
    assert len(names["bipolar"].ch_names) == 18
    assert names["found"].embeddings.shape == (339, 64)
    assert names["embeddings"].shape == (8, 64)
    assert names["loaded"].n_outputs == 2
    assert names["other"].n_outputs == 6
    stand_in, trained = (names[n].encoder.state_dict() for n in ("stand_in", "loaded"))
    assert not any(torch.equal(stand_in[key], trained[key]) for key in stand_in)
    for figure in ("scores", "why", "where", "history"):
        assert (tmp_path / f"{figure}.png").stat().st_size > 10_000
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"scores.csv", "seizures-annot.fif", "embeddings.npz", "report.html"}
    assert made >= {"detector", "biot.onnx", "biot.pt2"}
    printed = capsys.readouterr().out
    assert "Montage tcp-18: 14 of 18 channels" in printed
    assert "A1" in printed
    assert "<RecordingScores of background, seizure: 677 windows" in printed
    assert "EEG-six-datasets-18-channels.ckpt (official layout)" in printed


EEGMAT = SHARED / "data" / "eegmat"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not EEGMAT.is_dir(), reason="eegmat is not here")
@pytest.mark.parametrize("name", ["Subject00_1.edf", "Subject07_2.edf"])
def test_a_whole_recording_of_others(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    last = next(i for i, text in enumerate(SNIPPETS) if "report_recording" in text)
    needed = ("label_windows", "to_montage", "masking = ", "_recording")
    snippets = [text for text in SNIPPETS[: last + 1] if any(n in text for n in needed)]
    path = f"{str(EEGMAT / name)!r}"
    snippets = [
        text.replace("load_absence().filenames[0]", path).replace(
            "scores.annotate(raw", "raw = mne.io.read_raw(path); scores.annotate(raw"
        )
        for text in snippets
    ]
    names: dict = {"mne": mne, "BIOTClassifier": BIOTClassifier}
    run(snippets, names)
    assert list(names["scores"].montage.missing) == ["C3-A2", "C4-A1"]
    assert names["found"].embeddings.shape[1] == 64
    assert name in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore")
def test_the_commands_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one.edf", "two.edf"):
        shutil.copy(ROOT / "braindecode_biot" / "data" / "absence.edf", name)
    blocks = re.findall(r"^```bash\n(.*?)^```", README, re.M | re.S)
    commands = [
        line.partition("#")[0]
        for block in blocks
        for line in block.splitlines()
        if line.startswith("braindecode-biot ")
    ]
    assert {command.split()[1] for command in commands} == set(main.commands) - {"demo"}
    Path("config.toml").write_text(CONFIGS["laptop.toml"])
    for command in commands:
        words = []
        for word in shlex.split(command)[1:]:
            words += ["one.edf", "two.edf"] if word == "*.edf" else [word]
        if words[0] == "train":  # as it stands but for the time it takes
            words += ["--epochs", "1", "--set", "module__emb_size=16"]
        if words[0] == "pretrain":
            words += ["--set", "trainer.max_epochs=1", "--set", "model.emb_size=16"]
        result = CliRunner().invoke(main, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    made = {path.name for path in (tmp_path / "scores").iterdir()}
    assert made >= {"one.csv", "two.csv", "one.html", "two.html"}
    assert (tmp_path / "embeddings" / "two.parquet").is_file()
    assert (tmp_path / "run" / "encoder.safetensors").is_file()


@pytest.mark.filterwarnings("ignore")
def test_the_page_on_pretraining_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "braindecode_biot" / "data" / "absence.edf", "absence.edf")
    page = PRETRAINING
    # As it stands but for the time it takes.
    for long, short in {
        "max_epochs = 30": "max_epochs = 1",
        "max_epochs=3": "max_epochs=1",
        "--step 2": "--step 5",
        "step=2": "step=10",
        "emb_size = 64": "emb_size = 16",
        "emb_size=64": "emb_size=16",
    }.items():
        assert long in page
        page = page.replace(long, short)
    names: dict = {}
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```", page, re.M | re.S):
        if kind == "toml":
            Path(block.partition("\n")[0].removeprefix("# ")).write_text(block)
        elif kind == "bash":
            result = CliRunner().invoke(main, shlex.split(block)[1:])
            assert result.exit_code == 0, result.output
        elif kind == "python":
            run([block], names)
    assert names["model"].channel_names == names["joint"].model.channel_names
    assert set(names["breathing"]) == {True, False}
    made = {path.name for path in tmp_path.iterdir()}
    assert made >= {"run", "mine.safetensors", "mine-official.ckpt", "seizures"}
    table = PRETRAINING.partition("| file |")[2].partition("\n\n")[0]
    for name in re.findall(r"^\| `([^`]+)`", table, re.M):
        there = (tmp_path / "run" / name.replace("_N", "_0")).is_file()
        assert there or name == "checkpoints/best.ckpt", name


def test_the_configurations_for_pretraining_are_valid(tmp_path):
    assert set(CONFIGS) == {"laptop.toml", "paper.toml"}
    for name, text in CONFIGS.items():
        path = tmp_path / name
        path.write_text(text)
        tables = read_config(path)
        assert tables["data"]["archives"][0] == str(tmp_path / "archive")
    recipe = tables["objective"] | {"batch": 4 * tables["data"]["batch_size"]}
    assert (recipe["batch"], recipe["lr"], recipe["weight_decay"]) == (1024, 1e-4, 1e-5)


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)", README)) - {"and"}
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_links_and_pictures_lead_somewhere():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README + PRETRAINING):
        assert (ROOT / link).exists(), link
