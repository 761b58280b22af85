"""Models into files: round trips bit by bit, whole or not at all."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from braindecode_biot import BIOT, CheckpointError, files, save_weights
from braindecode_biot.checkpoints import read_checkpoint
from braindecode_biot.weights import to_official
from layouts import host, small

WINDOW = dict(n_times=80, sfreq=40, hop_length=20)


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
        assert found[name].dtype == value.dtype, name


# -- round trips -------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["official", "official-encoder"])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_official_ours_official(tmp_path, layout, suffix):
    state = to_official(small().state_dict(), head=layout == "official")
    torch.save(state, tmp_path / "theirs.ckpt")
    model = BIOT.from_checkpoint(tmp_path / "theirs.ckpt", n_outputs=2, **WINDOW)
    path = save_weights(model, tmp_path / f"back{suffix}", layout=layout)
    equal(read_checkpoint(path).tensors, state)


def test_the_reference_official_ours_official(reference, tmp_path):
    cases = {
        "encoder_16ch_10s": ("official-encoder", dict(n_outputs=1, n_times=2000)),
        "encoder_18ch_offset16_30s": (
            "official-encoder",
            dict(n_outputs=1, n_times=6000, channel_names="tcp-18"),
        ),
        "classifier_har_9ch": ("official", dict(n_times=128, sfreq=50, hop_length=10)),
    }
    for name, (layout, arguments) in cases.items():
        theirs = torch.load(reference / f"{name}.ckpt", weights_only=True)
        model = BIOT.from_checkpoint(reference / f"{name}.ckpt", **arguments)
        path = save_weights(model, tmp_path / f"{name}.ckpt", layout=layout)
        ours = torch.load(path, weights_only=True)
        # The position table is computed, and processors round sines differently.
        table = next(key for key in theirs if key.endswith("positional_encoding.pe"))
        torch.testing.assert_close(ours[table], theirs[table], rtol=0, atol=1e-4)
        equal(ours, dict(theirs) | {table: ours[table]})


@pytest.mark.parametrize("file", ["theirs.pt", "theirs.bin", "theirs.safetensors", ""])
def test_braindecode_ours_braindecode(tmp_path, file):
    theirs = host()
    model = BIOT.from_checkpoint(theirs.state_dict(), input_scaling=None, **WINDOW)
    path = save_weights(model, tmp_path / file, layout="braindecode")
    found = read_checkpoint(path).tensors
    equal(found, dict(theirs.state_dict()))
    host().load_state_dict(found, strict=True)


@given(
    emb_size=st.sampled_from([8, 24]),
    n_layers=st.integers(1, 3),
    n_chans=st.integers(1, 5),
    n_outputs=st.integers(1, 4),
    token_size=st.integers(2, 41),
    dtype=st.sampled_from([torch.float32, torch.float16]),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_ours_official_ours(tmp_path_factory, dtype, seed, **arguments):
    torch.manual_seed(seed)
    model = BIOT(sfreq=40, n_times=80, hop_length=2, **arguments).to(dtype)
    path = tmp_path_factory.mktemp("official") / "mine.ckpt"
    save_weights(model, path, layout="official")
    given = dict(n_times=80, sfreq=40, hop_length=2)
    if arguments["token_size"] % 2:
        given["token_size"] = arguments["token_size"]  # which the tensors do not tell
    again = BIOT.from_checkpoint(path, **given)
    equal(again.to(dtype).state_dict(), model.state_dict())
    names = ("emb_size", "n_layers", "n_chans", "n_outputs", "token_size")
    for name in names:
        assert getattr(again, name) == getattr(model, name)


class TestOurFolder:
    @pytest.mark.parametrize(
        "arguments",
        [
            {},
            dict(input_scaling=None, missing="mask", drop_prob=0.3),
            dict(channel_names=["C3", "C4", "Cz"], activation=torch.nn.GELU),
            dict(token_size=30, return_feature=True, input_scaling=2.5),
            dict(
                channel_names="tcp-16",
                n_chans=None,
                chs_info=[{"ch_name": "P7-O1", "loc": [0.1] * 12}],
            ),
        ],
    )
    @pytest.mark.parametrize("name", ["folder", "mine.safetensors"])
    def test_holds_the_model(self, tmp_path, arguments, name):
        model = small(**arguments)
        path = save_weights(model, tmp_path / name)
        assert path == tmp_path / name
        for load in (BIOT.from_checkpoint, BIOT.from_pretrained):
            again = load(path)
            equal(again.state_dict(), model.state_dict())
            assert json.dumps(again.get_config()) == json.dumps(model.get_config())
            assert not again.training
            assert again.load_report_.notes == ()

    def test_is_what_save_pretrained_makes(self, tmp_path):
        model = small()
        model.save_pretrained(tmp_path / "a")
        save_weights(model, tmp_path / "b")
        for name in ("config.json", "model.safetensors"):
            ours, hubs = ((tmp_path / f / name).read_bytes() for f in "ab")
            assert ours == hubs

    def test_has_a_card_that_names_this_package(self, tmp_path):
        pytest.importorskip("huggingface_hub")
        small().save_pretrained(tmp_path)
        card = (tmp_path / "README.md").read_text()
        assert "library_name: braindecode-biot" in card
        assert "arXiv.2305.10351" in card
        assert "braindecode.org" not in card

    def test_the_configuration_follows_a_new_head(self, tmp_path):
        model = small()
        model.save_pretrained(tmp_path)
        again = BIOT.from_pretrained(tmp_path, n_outputs=5)
        again.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["n_outputs"] == 5
        assert BIOT.from_pretrained(tmp_path).n_outputs == 5

    def test_other_channels_and_windows_than_stored(self, tmp_path):
        names = ["C3", "C4", "Cz"]
        model = small(chs_info=[{"ch_name": name} for name in names])
        model.save_pretrained(tmp_path)
        turned = BIOT.from_pretrained(
            tmp_path, chs_info=[{"ch_name": "EEG Cz"}, {"ch_name": "C3"}], n_times=120
        )
        assert turned.channel_names == names
        assert turned.channels.rows.tolist() == [2, 0]
        assert turned.n_times == 120
        with pytest.raises(ValueError, match=r"lacks \['Pz'\]"):
            BIOT.from_pretrained(tmp_path, chs_info=[{"ch_name": "Pz"}])

    def test_on_another_device_type(self, tmp_path):
        small().save_pretrained(tmp_path)
        model = BIOT.from_pretrained(tmp_path, map_location="meta")
        assert next(model.parameters()).is_meta


class TestBraindecodesFolder:
    def test_loads_there(self, tmp_path):
        pytest.importorskip("huggingface_hub")
        model = small(input_scaling=None, activation=torch.nn.GELU)
        save_weights(model, tmp_path, layout="braindecode")
        theirs = type(host()).from_pretrained(tmp_path)
        x = torch.randn(2, 3, 80)
        torch.testing.assert_close(theirs(x), model(x), rtol=1e-5, atol=1e-5)
        equal(BIOT.from_pretrained(tmp_path).state_dict(), model.state_dict())

    def test_loads_from_there(self, tmp_path):
        pytest.importorskip("huggingface_hub")
        theirs = host(activation=torch.nn.GELU)
        theirs.save_pretrained(tmp_path)
        model = BIOT.from_pretrained(tmp_path, input_scaling=None)
        x = torch.randn(2, 3, 80)
        torch.testing.assert_close(theirs(x), model(x), rtol=1e-5, atol=1e-5)
        save_weights(model, tmp_path / "back", layout="braindecode")
        found = read_checkpoint(tmp_path / "back").tensors
        equal(found, dict(theirs.state_dict()))

    def test_has_a_vocabulary_as_its_channels(self, tmp_path):
        names = ["C3", "C4", "Cz"]
        model = small(channel_names=names, n_chans=1, chs_info=[{"ch_name": "Cz"}])
        save_weights(model, tmp_path, layout="braindecode")
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["chs_info"] == [{"ch_name": name} for name in names]
        assert config["n_chans"] == 3

    def test_is_refused_where_the_token_is_not_a_second(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"one second, 40 .*token_size=30"):
            save_weights(small(token_size=30), tmp_path / "a", layout="braindecode")
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("name", "layout", "match"),
    [
        ("mine", "pytorch", "There is no layout 'pytorch', expected 'biot'"),
        ("mine", "official", r"ends in .ckpt or .safetensors for .* 'official'"),
        ("mine.ckpt", "biot", r"ends in .safetensors for the layout 'biot'"),
    ],
)
def test_names_and_layouts(tmp_path, name, layout, match):
    with pytest.raises(ValueError, match=match):
        save_weights(small(), tmp_path / name, layout=layout)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("wrap", [torch.compile, torch.nn.DataParallel])
def test_a_model_within_another(tmp_path, wrap):
    model = small()
    for layout in ("biot", "braindecode"):
        path = save_weights(wrap(model), tmp_path / layout, layout=layout)
        again = BIOT.from_checkpoint(path, input_scaling="q95")
        equal(again.state_dict(), model.state_dict())


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), host()])
def test_another_model(tmp_path, model):
    with pytest.raises(TypeError, match="expected a BIOT of this package"):
        save_weights(model, tmp_path / "mine")
    assert not any(tmp_path.iterdir())


def test_places_that_are_taken(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "mine.safetensors").mkdir()
    for name in ("file", "file/folder"):
        with pytest.raises(FileExistsError, match=r"file' is a file, where a folder"):
            save_weights(small(), tmp_path / name)
        with pytest.raises(FileExistsError, match=r"file' is a file, where a folder"):
            small().save_pretrained(tmp_path / name)
    with pytest.raises(IsADirectoryError, match="is a folder, and its name that of a"):
        save_weights(small(), tmp_path / "mine.safetensors")


def test_a_folder_of_any_name(tmp_path):
    for name in ("mine.safetensors", "mine.pt"):
        model = small()
        model.save_pretrained(tmp_path / name)
        equal(BIOT.from_pretrained(tmp_path / name).state_dict(), model.state_dict())


def test_a_model_without_values(tmp_path):
    with pytest.raises(ValueError, match="on the meta device, without values"):
        save_weights(small().to("meta"), tmp_path / "mine")
    assert not any(tmp_path.iterdir())


# -- whole or not at all -----------------------------------------------------------


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_weights(small(), tmp_path / "mine.ckpt", layout="official")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_weights(small(), path, layout="official")
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["mine.ckpt"]


def test_a_full_disk_leaves_the_old_folder(tmp_path, monkeypatch):
    old = small()
    old.save_pretrained(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors"} <= before.keys()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            small(n_layers=1).save_pretrained(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    equal(BIOT.from_pretrained(tmp_path).state_dict(), old.state_dict())


def test_what_is_pushed_to_the_hub(tmp_path, monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    seen = {}

    class Api:
        def __init__(self, token=None):
            seen["token"] = token

        def create_repo(self, repo_id, **_):
            return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

        def upload_folder(self, *, repo_id, folder_path, **_):
            seen["files"] = {f.name for f in folder_path.iterdir()}
            seen["repo_id"] = repo_id
            return "https://address"

    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    address = small().save_pretrained(
        tmp_path / "biot", push_to_hub=True, repo_id="me/biot", token="secret"
    )
    assert address == "https://address"
    assert seen == {
        "token": "secret",
        "repo_id": "me/biot",
        "files": {"config.json", "model.safetensors", "README.md"},
    }


CHILD = """
import os, sys, time, torch
from braindecode_biot import BIOT, files, saving
path, layout, stage, nth = sys.argv[1:]
model = BIOT(emb_size=16, n_layers=2, n_chans=3, n_outputs=4, n_times=400)
for p in model.parameters(): torch.nn.init.constant_(p, 2.0)
call, count = getattr(os, stage), 0
def stop(*args):
    global count
    count += 1
    if count == int(nth):
        print("now", flush=True)
        time.sleep(60)
    return call(*args)
setattr(files.os, stage, stop)
saving.save_weights(model, path, layout=layout)
"""


@pytest.mark.parametrize(
    ("name", "layout", "stage", "nth", "finds"),
    [
        ("mine.ckpt", "official", "fsync", 1, "old"),  # written, not yet in its place
        ("folder", "biot", "fsync", 1, "old"),
        ("folder", "biot", "replace", 2, "new"),  # weights yes, config.json not yet
    ],
)
def test_a_kill_in_the_middle_of_saving(tmp_path, name, layout, stage, nth, finds):
    path = tmp_path / name
    old = BIOT(emb_size=16, n_layers=1, n_chans=3, n_outputs=2, n_times=400)
    for parameter in old.parameters():
        torch.nn.init.constant_(parameter, 1.0)
    save_weights(old, path, layout=layout)

    arguments = [str(path), layout, stage, str(nth)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", CHILD, *arguments],
        stdout=subprocess.PIPE,
        env=environment,
    ) as child:
        assert child.stdout.readline() == b"now\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL

    found = BIOT.from_checkpoint(path, n_times=400)
    value, n_layers, n_outputs = {"old": (1, 1, 2), "new": (2, 2, 4)}[finds]
    assert (found.n_layers, found.n_outputs) == (n_layers, n_outputs)
    assert all((parameter == value).all() for parameter in found.parameters())
