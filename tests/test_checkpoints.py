"""Files, folders and the Hub into state dicts, safely; bad input told apart."""

import io
import json
import os
import pickle
import subprocess
import sys
import warnings
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from braindecode_biot import BIOT, CheckpointError
from braindecode_biot.checkpoints import read_checkpoint
from braindecode_biot.published import PUBLISHED
from braindecode_biot.weights import to_braindecode, to_official
from layouts import lightning, small

WINDOW = dict(n_times=80, sfreq=40, hop_length=20)


def write(path: Path, content) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


def equal(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[key], value) for key, value in expected.items()
    )


# -- good files --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ""])
@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch(tmp_path, suffix, zipped):
    state = small().state_dict()
    path = tmp_path / f"mine{suffix}"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    for source in (path, str(path)):
        found = read_checkpoint(source)
        assert equal(found.tensors, state)
        assert found.config is None


@pytest.mark.parametrize("name", ["mine.safetensors", "pytorch_model.bin"])
def test_files_of_safetensors_under_any_name(tmp_path, name):
    state = to_official(small().state_dict())
    save_file(state, tmp_path / name)
    assert equal(read_checkpoint(tmp_path / name).tensors, state)


def test_what_lightning_puts_around_it(tmp_path):
    state = to_official(small().state_dict())
    path = write(tmp_path / "epoch=3.ckpt", lightning(state))
    found = read_checkpoint(path).tensors
    assert equal(found, {f"model.{key}": value for key, value in state.items()})


def test_a_folder_of_braindecode(tmp_path):
    model = small()
    config = {"embed_dim": 16, "num_heads": 4, "num_layers": 2, "sfreq": 40}
    config |= {"hop_length": 20, "n_outputs": 2, "n_chans": 3, "n_times": 80}
    config |= {"activation": "torch.nn.modules.activation.GELU", "drop_prob": 0.3}
    config |= {"max_seq_len": 1024, "att_drop_prob": 0.2, "braindecode_version": "1"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    write(tmp_path / "pytorch_model.bin", to_braindecode(model.state_dict()))
    loaded = BIOT.from_checkpoint(tmp_path, input_scaling=None)
    assert (loaded.att_num_heads, loaded.token_size) == (4, 40)
    assert loaded.activation is torch.nn.GELU
    assert loaded.get_config()["drop_prob"] == 0.3
    assert loaded.get_config()["input_scaling"] is None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_the_configuration_beside_a_file_counts(tmp_path, name):
    config = {"embed_dim": 16, "num_heads": 4, "num_layers": 2, "sfreq": 40}
    config |= {"hop_length": 20, "n_outputs": 2, "n_chans": 3, "n_times": 80}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = to_braindecode(small().state_dict())
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        write(tmp_path / name, state)
    model = BIOT.from_checkpoint(tmp_path / name, input_scaling=None)
    assert model.att_num_heads == 4
    with pytest.raises(CheckpointError, match="att_num_heads=4"):
        BIOT.from_checkpoint(tmp_path / name, input_scaling=None, att_num_heads=8)
    # Other names beside it may be anything's.
    write(tmp_path / "best.ckpt", state)
    assert read_checkpoint(tmp_path / "best.ckpt").config is None


@pytest.mark.parametrize(
    "told",
    [
        dict(emb_size=16, att_num_heads=4, n_layers=2, sfreq=40, token_size=40),
        dict(embed_dim=16, num_heads=4, num_layers=2, sfreq=40.0, n_fft=40),
        dict(heads=4, depth=2, sfreq=40, lr=1e-3, name="mine", n_outputs=9),
    ],
)
def test_lightnings_hyper_parameters_count(tmp_path, told):
    content = lightning(to_official(small().state_dict()))
    content["hyper_parameters"] = told | {"hop_length": 20}
    path = write(tmp_path / "epoch=3.ckpt", content)
    write(tmp_path / "pytorch_model.bin", content)
    for source in (path, content, tmp_path):
        model = BIOT.from_checkpoint(source, n_times=80)
        assert (model.att_num_heads, model.sfreq, model.token_size) == (4, 40, 40)
        assert (model.hop_length, model.n_outputs) == (20, 2)
    content["hyper_parameters"] = {"sfreq": float("nan"), "depth": float("inf")}
    assert BIOT.from_checkpoint(content, **WINDOW).n_layers == 2
    content["hyper_parameters"] = {"depth": 3}
    with pytest.raises(CheckpointError, match="n_layers: 3 stored, 2 in the tensors"):
        BIOT.from_checkpoint(content, n_times=80)


def test_other_weights_beside_are_noted():
    states = [small().state_dict() for _ in range(2)]
    checkpoint = {"state_dict": states[0], "ema_state_dict": states[1], "epoch": 3}
    model = BIOT.from_checkpoint(checkpoint, **WINDOW)
    assert equal(model.state_dict(), states[0])
    assert "under 'ema_state_dict', which were not" in " ".join(
        model.load_report_.notes
    )
    notes = BIOT.from_checkpoint(lightning(states[0]), **WINDOW).load_report_.notes
    assert not any("not taken" in note for note in notes)


# -- bad input ---------------------------------------------------------------------


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class TestCode:
    def test_is_never_run(self, tmp_path):
        trap = tmp_path / "trap"
        checkpoint = {"state_dict": small().state_dict(), "hparams": Evil(trap)}
        files = {
            "zipped.ckpt": checkpoint,
            "bare.ckpt": pickle.dumps(checkpoint["hparams"]),
            "named.safetensors": checkpoint,
        }
        for name, content in files.items():
            path = write(tmp_path / name, content)
            with pytest.raises(CheckpointError, match=r"holds code \((posix|as plain)"):
                BIOT.from_checkpoint(path, **WINDOW)
        assert not trap.exists()

    def test_is_told_how_to_get_rid_of(self, tmp_path):
        checkpoint = {"state_dict": small().state_dict(), "hparams": Namespace(lr=1)}
        path = write(tmp_path / "mine.ckpt", checkpoint)
        with pytest.raises(CheckpointError, match=r"Namespace.*\['state_dict'\], new"):
            read_checkpoint(path)
        write(path, torch.load(path, weights_only=False)["state_dict"])
        assert read_checkpoint(path).tensors

    @pytest.mark.parametrize(
        "path", ["os.system", "subprocess.Popen", "torch.nn.functional", "torch.load"]
    )
    def test_in_a_configuration(self, tmp_path, path):
        write(tmp_path / "pytorch_model.bin", small().state_dict())
        config = small().get_config() | {"activation": path}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=r"is none of torch.nn's"):
            BIOT.from_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "an empty file"),
        (b"\n<!DOCTYPE html><html>...", "an HTML page: the link leads to a page"),
        (b"<html><head>", "an HTML page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
            "a Git LFS pointer.*git lfs pull",
        ),
        (b"weights", "cut off, damaged, or no checkpoint"),
        (torch.zeros(3), "holds a Tensor, expected a state dict"),
        ({}, "it is an empty dict"),
        ({"state_dict": {}}, "it is an empty dict"),
        ({0: torch.zeros(1)}, r"\[0\] are no names of tensors"),
        ({"a": 1, "b": torch.zeros(1)}, r"\['a'\] are no names of .*is of a int"),
    ],
)
@pytest.mark.parametrize("name", ["mine.ckpt", "mine.safetensors"])
def test_what_is_no_checkpoint(tmp_path, content, match, name):
    if name == "mine.safetensors" and content == b"weights":
        match = "cut off or damaged"
    path = write(tmp_path / name, content)
    with pytest.raises(CheckpointError, match=match):
        read_checkpoint(path)


@pytest.fixture(scope="module")
def whole_files():
    """The same weights as each format's bytes; few, so that failures are legible."""
    state = {"tokens.projection.bias": torch.arange(3.0), "b": torch.ones(2, 2)}
    files = {}
    for kind, zipped in {"zip.ckpt": True, "legacy.ckpt": False}.items():
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=zipped)
        files[kind] = buffer.getvalue()
    try:
        from safetensors.torch import save
    except ImportError:
        return files
    return files | {"mine.safetensors": save(state)}


@given(share=st.floats(0, 1, exclude_max=True), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_file_that_is_cut_off(whole_files, tmp_path_factory, share, data):
    name = data.draw(st.sampled_from(sorted(whole_files)))
    whole = whole_files[name]
    path = tmp_path_factory.mktemp("cut") / name
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"cut off|empty file"):
        read_checkpoint(path)


@given(at=st.floats(0, 1, exclude_max=True), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_damaged_file_is_never_another_error(whole_files, tmp_path_factory, at, data):
    name = data.draw(st.sampled_from(sorted(whole_files)))
    content = bytearray(whole_files[name])
    content[int(at * len(content))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = read_checkpoint(path).tensors
        except CheckpointError:
            return
    if name == "zip.ckpt" and not any("checksums" in str(w.message) for w in told):
        # What is left is padding and file attributes, outside of the tensors.
        original = torch.load(io.BytesIO(whole_files[name]), weights_only=True)
        assert equal(found, original)


def test_a_damaged_value_warns(tmp_path):
    path = write(tmp_path / "mine.ckpt", {"a": torch.ones(1000)})
    content = path.read_bytes()
    at = content.index(torch.ones(1).numpy().tobytes() * 10)
    path.write_bytes(content[:at] + b"\1" + content[at + 1 :])
    with pytest.warns(UserWarning, match="checksums in .*mine.ckpt' do not match"):
        read_checkpoint(path)


class TestPaths:
    def test_a_missing_file_names_the_nearest(self, tmp_path):
        write(tmp_path / "epoch=12.ckpt", {})
        with pytest.raises(FileNotFoundError, match=r"Nearest there: \['epoch=12.ckpt"):
            read_checkpoint(tmp_path / "epoch=13.ckpt")

    def test_a_missing_published_file_says_where_it_is(self):
        for row in PUBLISHED:
            message = f"https://.* or pass '{row.hub_id}'"
            with pytest.raises(FileNotFoundError, match=message):
                read_checkpoint(row.file_name)
        with pytest.raises(FileNotFoundError, match=r"On the Hub there are.*prest-16"):
            read_checkpoint("PREST.ckpt")

    def test_a_folder_without_weights(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(FileNotFoundError, match=r"no model.safetensors or pyt"):
            read_checkpoint(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"no best.pt in .*\['notes.txt'\]"):
            read_checkpoint(tmp_path, filename="best.pt")

    def test_a_folder_without_configuration(self, tmp_path):
        path = write(tmp_path / "pytorch_model.bin", small().state_dict())
        with pytest.raises(CheckpointError, match=r"no config.json in .*pass the file"):
            BIOT.from_checkpoint(tmp_path, **WINDOW)
        assert BIOT.from_checkpoint(path, **WINDOW).n_outputs == 2

    @pytest.mark.parametrize(
        ("text", "match"),
        [("{", "is not JSON"), ("[]", "is a list, expected a JSON")],
    )
    def test_a_folder_with_a_bad_configuration(self, tmp_path, text, match):
        write(tmp_path / "pytorch_model.bin", small().state_dict())
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=match):
            read_checkpoint(tmp_path)

    @pytest.mark.parametrize("source", [None, 3, torch.zeros(2), ["a"]])
    def test_what_is_no_source(self, source):
        with pytest.raises(TypeError, match="expected a state dict, a path, or"):
            read_checkpoint(source)


@pytest.mark.parametrize(
    ("config", "match"), [("{", "is not JSON"), ("3", "is a int, expected a JSON obj")]
)
def test_a_bad_configuration_in_a_file(tmp_path, config, match):
    path = tmp_path / "mine.safetensors"
    save_file(small().state_dict(), path, {"config": config})
    with pytest.raises(CheckpointError, match=match):
        read_checkpoint(path)


def test_a_zip_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "mine.ckpt", "w") as archive:
        archive.writestr("notes.txt", "weights")
    with pytest.raises(CheckpointError, match="or no checkpoint"):
        read_checkpoint(tmp_path / "mine.ckpt")


# -- the Hub, without network ------------------------------------------------------


class TestHub:
    @pytest.fixture
    def hub(self, tmp_path, monkeypatch):
        """The Hub with what the test puts into a folder."""
        huggingface_hub = pytest.importorskip("huggingface_hub")

        def download(repo_id, filename, **options):
            asked.append((repo_id, filename, options))
            path = tmp_path / repo_id / filename
            if not path.parent.is_dir():
                raise ConnectionError("no network")
            if not path.is_file():
                raise huggingface_hub.errors.EntryNotFoundError(filename)
            return str(path)

        asked: list = []
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        monkeypatch.chdir(tmp_path / "..")
        return tmp_path, asked

    def put(self, folder, name, state, config=None, file="pytorch_model.bin"):
        (folder / name).mkdir(parents=True)
        write(folder / name / file, state)
        if config is not None:
            (folder / name / "config.json").write_text(json.dumps(config))

    def test_a_repository(self, hub):
        folder, asked = hub
        model = small()
        self.put(folder, "me/biot", model.state_dict(), model.get_config())
        loaded = BIOT.from_pretrained("me/biot", revision="v1", token="secret")
        assert equal(loaded.state_dict(), model.state_dict())
        assert loaded.get_config() == model.get_config()
        assert {repo for repo, _, _ in asked} == {"me/biot"}
        assert all(o["revision"] == "v1" and o["token"] == "secret" for *_, o in asked)
        again = BIOT.from_pretrained("me/biot", n_outputs=7)
        assert again.n_outputs == again.get_config()["n_outputs"] == 7

    @pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
    def test_the_published_ones(self, hub, row):
        folder, _ = hub
        n_chans = len(row.channels)
        model = small(n_chans=n_chans, sfreq=200, n_times=2000, hop_length=100)
        config = {"embed_dim": 16, "num_heads": 8, "num_layers": 2, "n_chans": n_chans}
        config |= {"n_outputs": 2, "n_times": 2000, "sfreq": 200, "hop_length": 100}
        config |= {"drop_prob": 0.5, "att_layer_drop_prob": 0.2}
        self.put(folder, row.hub_id, to_braindecode(model.state_dict()), config)
        loaded = BIOT.from_pretrained(row.hub_id, n_outputs=4)
        assert loaded.channel_names == list(row.channels)
        assert (loaded.n_times, loaded.input_scaling) == (2000, "q95")
        assert loaded.get_config()["drop_prob"] == 0.1  # as the authors trained

    @pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row.name)
    def test_a_copy_of_a_published_one(self, hub, row):
        folder, _ = hub
        cached = f"hub/models--{row.hub_id.replace('/', '--')}/snapshots/0123abc"
        sizes = dict(sfreq=200, n_times=400)
        state = small(n_chans=len(row.channels), **sizes).state_dict()
        for name in (cached, f"downloads/{row.hub_id.partition('/')[2]}"):
            self.put(folder, name, to_official(state))
            loaded = BIOT.from_pretrained(folder / name, n_times=400, hop_length=20)
            assert loaded.channel_names == list(row.channels)
        # A model of one's own in a folder of that name goes by its own configuration.
        model = small()
        torch.save(model.state_dict(), folder / name / "pytorch_model.bin")
        config = json.dumps(model.get_config())
        (folder / name / "config.json").write_text(config)
        assert BIOT.from_pretrained(folder / name).n_chans == 3

    def test_a_file_of_it(self, hub):
        folder, _ = hub
        model = small()
        state, config = model.state_dict(), model.get_config()
        self.put(folder, "me/biot", state, config, file="best.ckpt")
        with pytest.raises(FileNotFoundError, match="of the repository 'me/biot'"):
            BIOT.from_pretrained("me/biot")
        assert BIOT.from_pretrained("me/biot", filename="best.ckpt").n_chans == 3

    def test_without_configuration(self, hub):
        self.put(hub[0], "me/biot", small().state_dict())
        with pytest.raises(CheckpointError, match=r"'me/biot' has no config.json"):
            BIOT.from_pretrained("me/biot")

    def test_offline(self, hub, monkeypatch):
        folder, _ = hub
        huggingface_hub = pytest.importorskip("huggingface_hub")

        def cached(repo_id, filename, **_):
            path = folder / repo_id / filename
            if path.is_file():
                return str(path)
            raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", cached)
        model = small()
        self.put(folder, "me/biot", model.state_dict(), model.get_config())
        loaded = BIOT.from_pretrained("me/biot", local_files_only=True)
        assert equal(loaded.state_dict(), model.state_dict())
        with pytest.raises(FileNotFoundError, match="'me/other' in the local cache"):
            BIOT.from_pretrained("me/other", local_files_only=True)
        with pytest.raises(OSError, match="pass their folder"):
            BIOT.from_pretrained("me/other")

    def test_without_network(self, hub):
        with pytest.raises(OSError, match=r"could not be read from the .*: no network"):
            BIOT.from_pretrained("me/other")


def test_without_huggingface_hub(tmp_path):
    """Files and folders load; repositories name what is to be installed."""
    code = """
import sys; sys.modules["huggingface_hub"] = None
import torch
from braindecode_biot import BIOT
model = BIOT(emb_size=16, n_layers=1, n_chans=2, n_outputs=2, n_times=400)
def refused(call, *args, **kwargs):
    try: call(*args, **kwargs)
    except ImportError as error: assert '"braindecode-biot[hub]"' in str(error)
    else: raise AssertionError
refused(BIOT.from_pretrained, "braindecode/biot-pretrained-prest-16chs")
refused(model.save_pretrained, "mine", push_to_hub=True)
torch.save(model.state_dict(), "mine.ckpt")
BIOT.from_checkpoint("mine.ckpt", n_times=400)
try: import safetensors
except ImportError: sys.exit()
model.save_pretrained("mine")
again = BIOT.from_pretrained("mine", n_outputs=3)
assert again.get_config() == model.get_config() | {"n_outputs": 3}
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        check=True,
        cwd=tmp_path,
        env=environment,
    )
