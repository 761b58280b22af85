"""Checkpoints into models: every tensor accounted for, channels by name."""

import copy
import json
import pickle
import re
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from braindecode_biot import (
    BIOT,
    PUBLISHED,
    BIOTClassifier,
    CheckpointError,
    configs,
    load_weights,
)
from braindecode_biot.channels import TCP18
from braindecode_biot.checkpoints import Checkpoint
from braindecode_biot.layouts import translate
from braindecode_biot.weights import TABLE, to_braindecode, to_official
from layouts import LAYOUTS, WITH_HEAD, host, lightning, prefixed, small

HEAD = {"final_layer.linear.weight", "final_layer.linear.bias"}
WINDOW = dict(n_times=80, sfreq=40, hop_length=20)
SCALED = dict(input_scaling="q95")


def same(model, other, names=None):
    """Assert that tensors are bit-equal, by default all."""
    theirs = other.state_dict()
    for name, value in model.state_dict().items():
        if names is None or name in names:
            assert torch.equal(value, theirs[name]), name


# -- layouts -----------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
class TestLayouts:
    def test_into_a_model(self, layout):
        trained, model = small(), small()
        report = load_weights(model, LAYOUTS[layout](trained.state_dict()))
        names = set(model.state_dict())
        same(model, trained, names if layout in WITH_HEAD else names - HEAD)
        assert model.load_report_ is report
        untrained = set() if layout in WITH_HEAD else HEAD
        assert {record.name for record in report.missing} == untrained

    def test_makes_a_model(self, layout):
        trained = small()
        state = LAYOUTS[layout](trained.state_dict())
        model = BIOT.from_checkpoint(state, n_outputs=2, **WINDOW, **SCALED)
        assert (model.emb_size, model.n_layers, model.n_chans) == (16, 2, 3)
        assert model.token_size == 40
        same(model, trained, None if layout in WITH_HEAD else translate_names(model))
        x = torch.randn(2, 3, 80)
        features = [m(x, return_features=True)["features"] for m in (model, trained)]
        assert torch.equal(*features)

    def test_every_tensor_is_in_the_report(self, layout):
        model, checkpoint = small(), LAYOUTS[layout](small().state_dict())
        state = checkpoint.get("state_dict", checkpoint)
        report = load_weights(model, checkpoint)
        assert {r.key for r in report.records if r.key} == set(state)
        assert {r.name for r in report.records if r.name} == set(model.state_dict())
        assert report.n_loaded + sum(r.n_parameters for r in report.missing) == sum(
            p.numel() for p in model.parameters()
        )
        frame = report.to_dataframe()
        assert len(frame) == len(report.records)
        assert set(frame["status"]) <= {"matched", "renamed", "skipped", "missing"}
        assert all(r.reason for r in (*report.skipped, *report.missing))
        assert f"{report.parameter_share:.1%} of the model" in str(report)

    def test_a_tensor_less_is_an_error(self, layout):
        model, checkpoint = small(), LAYOUTS[layout](small().state_dict())
        before = copy.deepcopy(model.state_dict())
        state = checkpoint.get("state_dict", checkpoint)
        key = next(k for k in state if k.endswith("projection.bias"))
        del state[key]
        with pytest.raises(
            CheckpointError, match=r"tokens.projection.bias' is missing"
        ):
            load_weights(model, checkpoint)
        for name, value in model.state_dict().items():
            assert torch.equal(value, before[name])
        assert model.load_report_ is None

    def test_a_tensor_renamed_names_the_candidate(self, layout):
        checkpoint = LAYOUTS[layout](small().state_dict())
        state = checkpoint.get("state_dict", checkpoint)
        key = next(k for k in state if k.endswith("projection.bias"))
        renamed = key.replace("projection.bias", "projections.bias")
        state[renamed] = state.pop(key)
        stem = re.escape(renamed)
        with pytest.raises(
            CheckpointError,
            match=rf"'{stem}' is not known, perhaps '\S*projection.bias",
        ):
            load_weights(small(), checkpoint)


def translate_names(model):
    return set(model.state_dict()) - HEAD


def test_official_layouts(reference):
    """The keys and shapes of all five official modules."""
    file = reference / "official_checkpoint_layouts.json"
    layouts = json.loads(file.read_text())
    assert len(layouts) == 5
    for name, layout in layouts.items():
        state = {
            key: torch.arange(shape[0])
            if dtype == "torch.int64"
            else torch.randn(shape)
            for key, (shape, dtype) in layout.items()
        }
        official = to_official(BIOT(n_chans=2, n_outputs=2, n_times=200).state_dict())
        position = official["biot.positional_encoding.pe"]
        state |= {key: position for key in state if key.endswith(".pe")}
        state |= {key: position for key in state if key == "positional_encoding.pe"}
        model = BIOT.from_checkpoint(state, n_outputs=6, n_times=2000)
        n_chans = 18 if "18" in name or "Unsupervised" in name else 16
        assert (model.n_chans, model.n_layers, model.emb_size) == (n_chans, 4, 256)
        assert model.load_report_.layout == "official"
        untrained = {record.name for record in model.load_report_.missing}
        assert untrained == (set() if "BIOTClassifier" in name else HEAD)
        for task in ("chb_mit", "iiic_seizure", "tuab", "tuev"):
            if "SupervisedPretrain" in name and "Unsupervised" not in name:
                head = f"classifier_{task}"
                whole = BIOT.from_checkpoint(state, head=head, n_times=2000)
                assert whole.n_outputs == len(state[f"{head}.clshead.1.bias"])
                weight = state[f"{head}.clshead.1.weight"]
                assert torch.equal(whole.final_layer.linear.weight, weight)


def test_braindecodes_own_models_load():
    theirs = host()
    model = BIOT.from_checkpoint(theirs.state_dict(), **WINDOW, input_scaling=None)
    x = torch.randn(2, 3, 80)
    torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_braindecodes_weights_without_a_word_on_scaling_warn():
    with pytest.warns(UserWarning, match="does not scale its input"):
        model = BIOT.from_checkpoint(host().state_dict(), **WINDOW)
    assert model.input_scaling == "q95"


def test_two_models_in_one_checkpoint_are_an_error():
    state = small().state_dict()
    both = prefixed(state, "student.") | prefixed(state, "teacher.")
    with pytest.raises(CheckpointError, match=r"2 BIOTs, under \['student.', 'teacher"):
        load_weights(small(), both)
    load_weights(small(), prefixed(state, "teacher."))


@pytest.mark.parametrize("prefix", ["biot.", "encoder.", "net.biot.", "model.encoder."])
@pytest.mark.parametrize("layout", WITH_HEAD[:3])
def test_a_model_within_a_training_module(prefix, layout):
    trained, model = small(), small()
    state = LAYOUTS[layout](trained.state_dict())
    report = load_weights(model, lightning(state, prefix))
    same(model, trained)
    assert not report.missing
    assert report.layout == ("official" if layout == "BIOTClassifier" else layout)


def test_into_a_model_within_others():
    trained, model = small(), small()
    load_weights(torch.nn.DataParallel(torch.compile(model)), trained.state_dict())
    same(model, trained)


# -- heads -------------------------------------------------------------------------


class TestHeads:
    def test_another_number_of_outputs_gets_a_new_head(self):
        trained = small()
        model = BIOT.from_checkpoint(trained.state_dict(), n_outputs=5, **WINDOW)
        assert model.n_outputs == model.get_config()["n_outputs"] == 5
        reasons = {record.reason for record in model.load_report_.skipped}
        assert reasons == {"a head of 2 outputs, the model has n_outputs=5"}

    def test_none_keeps_the_models(self):
        model, trained = small(), small()
        before = model.final_layer.linear.weight.clone()
        report = load_weights(model, trained.state_dict(), head=None)
        assert torch.equal(model.final_layer.linear.weight, before)
        assert {record.reason for record in report.skipped} == {"left out by head=None"}

    def test_several_are_named(self):
        state = LAYOUTS["SupervisedPretrain"](small().state_dict())
        report = load_weights(small(n_outputs=6), state)
        reasons = " ".join(record.reason for record in report.skipped)
        assert "one of 3 heads; head='classifier_tuev' takes it" in reasons
        model = BIOT.from_checkpoint(state, head="classifier_tuev", **WINDOW)
        weight = state["classifier_tuev.clshead.1.weight"]
        assert torch.equal(model.final_layer.linear.weight, weight)

    def test_one_that_is_not_there(self):
        state = LAYOUTS["SupervisedPretrain"](small().state_dict())
        with pytest.raises(CheckpointError, match=r"no head 'tuab'.*classifier_tuab"):
            load_weights(small(), state, head="tuab")

    def test_one_of_another_size(self):
        state = LAYOUTS["SupervisedPretrain"](small().state_dict())
        with pytest.raises(
            CheckpointError, match=r"n_outputs: 'final_layer.*\(6, 16\)"
        ):
            load_weights(small(), state, head="classifier_tuev")

    def test_n_outputs_is_asked_for(self):
        states = {
            "has no head: pass n_outputs=": LAYOUTS["BIOTEncoder"],
            "heads .*'classifier_tuev': 6.*pass head= or": LAYOUTS[
                "SupervisedPretrain"
            ],
        }
        for message, make in states.items():
            with pytest.raises(CheckpointError, match=message):
                BIOT.from_checkpoint(make(small().state_dict()), **WINDOW)

    def test_half_a_head(self):
        state = small().state_dict()
        del state["final_layer.linear.bias"]
        with pytest.raises(CheckpointError, match=r"'final_layer' .* has no bias"):
            load_weights(small(), state)


# -- what does not fit -------------------------------------------------------------


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            (dict(n_chans=4), r"n_chans or channel_names: 'tokens.* is \(3, 16\) in"),
            (dict(token_size=20), r"token_size: 'tokens.proj.* \(16, 21\).*\(16, 11\)"),
            (dict(emb_size=32), r"emb_size: .* \(16, 21\) .*\(and 2\d other tensors\)"),
            (dict(n_layers=1), "n_layers: 2 in the checkpoint, 1 in the model$"),
            (dict(n_layers=3), "n_layers: 2 in the checkpoint, 3 in the model$"),
        ],
    )
    @pytest.mark.parametrize("make", [dict, to_official], ids=["biot", "official"])
    def test_the_argument_is_named(self, arguments, match, make):
        with pytest.raises(CheckpointError, match=match):
            load_weights(small(**arguments), make(small().state_dict()))
        with pytest.raises(CheckpointError, match=match):
            BIOT.from_checkpoint(make(small().state_dict()), **WINDOW, **arguments)

    def test_values_that_are_not_finite_are_named(self):
        state = to_official(small().state_dict())
        state["biot.patch_embedding.projection.weight"][0, :3] = torch.nan
        state["biot.channel_tokens.weight"][1, 1] = torch.inf
        with pytest.raises(CheckpointError) as error:
            load_weights(small(), state)
        assert (
            "'biot.patch_embedding.projection.weight' holds NaN or inf in 3 of 336"
            in (str(error.value))
        )
        assert "'biot.channel_tokens.weight' holds NaN or inf in 1 of 48" in str(
            error.value
        )

    def test_integers(self):
        state = small().state_dict()
        state[TABLE] = state[TABLE].long()
        with pytest.raises(CheckpointError, match=r"torch.int64, expected floats"):
            load_weights(small(), state)

    @pytest.mark.parametrize(
        "other", [torch.nn.TransformerEncoderLayer(8, 2), torch.nn.Conv1d(2, 2, 3)]
    )
    def test_another_architecture(self, other):
        state = other.state_dict()
        with pytest.raises(CheckpointError, match=r"Nothing in .*is a BIOT's.*such as"):
            load_weights(small(), state)

    def test_something_else_beside(self):
        trained = small()
        state = trained.state_dict() | {"projector.weight": torch.ones(2)}
        with pytest.raises(
            CheckpointError, match=r"'projector.weight' is not known"
        ) as error:
            load_weights(small(), state)
        advice = str(error.value).partition("leave out: load ")[2].rstrip(".")
        model = small()
        load_weights(model, eval(advice, {"state_dict": state}))
        same(model, trained)

    @pytest.mark.parametrize("prefix", ["", "model.", "biot.", "encoder."])
    @pytest.mark.parametrize("layout", ["biot", "braindecode", "BIOTClassifier"])
    def test_losses_and_metrics_beside(self, prefix, layout):
        trained, model = small(), small()
        names = ("criterion.weight", "loss_fn.weight", "loss.pos_weight")
        names += (f"{prefix}criterion.weight",)
        names += ("bce_loss.weight", "val_metrics.auc.thresholds", "train_metric.sum")
        beside = dict.fromkeys(names, torch.ones(2))
        state = prefixed(LAYOUTS[layout](trained.state_dict()), prefix) | beside
        report = load_weights(model, state)
        same(model, trained)
        reasons = {r.key: r.reason for r in report.skipped}
        assert all("loss or metric" in reasons[name] for name in names)

    @pytest.mark.parametrize("make", [dict, to_official], ids=["biot", "official"])
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda t: t.to("meta"), "is on the meta device"),
            (lambda t: t.to_sparse(), "torch.sparse_coo, expected a dense"),
            (lambda t: t.to(torch.float8_e4m3fn), "float8_e4m3fn"),
            (lambda t: t.double() * 1e300, "too large for the model's torch.float32"),
        ],
    )
    def test_values_that_cannot_be_taken(self, make, change, match):
        state = {
            k: change(v) if v.is_floating_point() and not k.endswith(".pe") else v
            for k, v in make(small().state_dict()).items()
        }
        for load in (partial(load_weights, small()), BIOT.from_checkpoint):
            with pytest.raises(CheckpointError, match=match):
                load(state, **(WINDOW if load == BIOT.from_checkpoint else {}))
        state = to_official(small().state_dict())
        for key in ("biot.positional_encoding.pe", "biot.index"):
            if "float32" not in match and not ("float8" in match and "index" in key):
                with pytest.raises(CheckpointError, match=match):
                    load_weights(small(), state | {key: change(state[key].clone())})

    @pytest.mark.parametrize(
        "name", ["final_layer.linear.bias", TABLE, "tokens.projection.weight"]
    )
    def test_tensors_without_axes(self, name):
        state = small().state_dict() | {name: torch.tensor(1.0)}
        for load in (partial(load_weights, small()), BIOT.from_checkpoint):
            with pytest.raises(CheckpointError, match=r"of shape \(\), expected"):
                load(state)

    def test_channel_tokens_in_another_order(self):
        state = to_official(small().state_dict())
        state["biot.index"] = torch.tensor([2, 1, 0])
        with pytest.raises(CheckpointError, match=r"as \[2, 1, 0\], expected 0, 1"):
            load_weights(small(), state)

    def test_another_position_table(self):
        state = to_official(small().state_dict())
        state["biot.positional_encoding.pe"] += 0.01
        with pytest.raises(CheckpointError, match="not the sinusoidal position table"):
            load_weights(small(), state)

    def test_heads_of_attention(self):
        checkpoint = Checkpoint("mine", small().state_dict(), {"num_heads": 4})
        with pytest.raises(CheckpointError, match=r"att_num_heads=4, the model has"):
            load_weights(small(), checkpoint)
        with pytest.raises(ValueError, match="emb_size=16 and att_num_heads=3"):
            BIOT.from_checkpoint(small().state_dict(), att_num_heads=3, **WINDOW)
        odd = small(emb_size=12, att_num_heads=6)
        with pytest.raises(
            CheckpointError, match=r"divide emb_size=12: pass att_num_h"
        ):
            BIOT.from_checkpoint(odd.state_dict(), **WINDOW)
        BIOT.from_checkpoint(odd.state_dict(), att_num_heads=6, **WINDOW)

    def test_no_window_length(self):
        with pytest.raises(
            CheckpointError, match="how long a window is: pass n_times="
        ):
            BIOT.from_checkpoint(small().state_dict())

    def test_arguments(self):
        with pytest.raises(
            ValueError, match="new_channels is 'mean' or 'fresh', got 1"
        ):
            load_weights(small(), small().state_dict(), new_channels=1)
        for model in (host(), BIOTClassifier()):
            with pytest.raises(TypeError, match="expected a BIOT of this package"):
                load_weights(model, small().state_dict())
        with pytest.raises(TypeError, match="emb_sizes"):
            BIOT.from_checkpoint(small().state_dict(), emb_sizes=3, **WINDOW)


def test_another_sampling_rate_warns():
    checkpoint = Checkpoint("mine", small().state_dict(), {"sfreq": 40})
    model = small(sfreq=50, token_size=40)
    with pytest.warns(
        UserWarning, match=r"trained at 40 Hz.*50 Hz.*raw.resample\(40\)"
    ):
        load_weights(model, checkpoint)


@pytest.mark.parametrize(
    ("ours", "theirs"), [("q95", None), (None, "q95"), ("q95", 20.0)]
)
def test_another_scaling_warns(ours, theirs):
    config = small(input_scaling=theirs).get_config()
    checkpoint = Checkpoint("mine", small().state_dict(), config)
    with pytest.warns(UserWarning, match=f"trained with input_scaling={theirs!r}"):
        load_weights(small(input_scaling=ours), checkpoint)


def test_what_the_checkpoint_cannot_tell_is_noted():
    report = load_weights(small(), small().state_dict())
    assert "does not tell att_num_heads: the model's 8" in " ".join(report.notes)
    config = small().get_config()
    report = load_weights(small(), Checkpoint("mine", small().state_dict(), config))
    assert report.notes == ()
    half = {k: v.half() for k, v in small().state_dict().items()}
    report = load_weights(small(hop_length=10), Checkpoint("mine", half, config))
    assert report.notes == (
        "trained with hop_length=20, the model has 10",
        "converted from float16 to float32",
    )


def test_the_report_stays_with_copies_and_out_of_the_weights():
    model = small()
    assert model.load_report_ is None
    config, names = model.get_config(), set(model.state_dict())
    load_weights(model, small().state_dict())
    assert model.get_config() == config
    assert set(model.state_dict()) == names
    for duplicate in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert duplicate.load_report_ == model.load_report_


# -- channels by name --------------------------------------------------------------


CHANNELS = ["C3", "C4", "Cz", "Pz", "acc_x"]


@given(
    known=st.lists(st.sampled_from(CHANNELS), min_size=1, unique=True),
    wanted=st.lists(st.sampled_from(CHANNELS), min_size=1, unique=True),
    new_channels=st.sampled_from(["mean", "fresh"]),
)
@settings(max_examples=40, deadline=None)
def test_each_channel_keeps_its_token(known, wanted, new_channels):
    trained = small(channel_names=known, n_chans=len(known))
    model = small(channel_names=wanted, n_chans=len(wanted))
    own, theirs = (m.tokens.channel_tokens.weight.clone() for m in (model, trained))
    if not set(known) & set(wanted) and new_channels == "mean":
        with pytest.raises(CheckpointError, match="none in common"):
            load_weights(model, trained.state_dict(), checkpoint_channels=known)
        return
    report = load_weights(
        model,
        trained.state_dict(),
        checkpoint_channels=known,
        new_channels=new_channels,
    )
    expected = [
        theirs[known.index(name)]
        if name in known
        else theirs.mean(0)
        if new_channels == "mean"
        else own[i]
        for i, name in enumerate(wanted)
    ]
    assert torch.equal(model.tokens.channel_tokens.weight, torch.stack(expected))
    told = " ".join(r.reason for r in (*report.resized, *report.missing))
    assert all(name in told for name in wanted) or known == wanted
    unused = " ".join(r.reason for r in report.skipped)
    assert all(name in unused for name in set(known) - set(wanted))


class TestPublished:
    @pytest.fixture(params=PUBLISHED, ids=lambda row: row.name)
    def published(self, request, tmp_path):
        row = request.param
        trained = BIOT(
            emb_size=16, n_layers=1, n_chans=len(row.channels), n_outputs=1, n_times=400
        )
        file = tmp_path / row.file_name
        torch.save(to_official(trained.state_dict(), head=False), file)
        return row, file, trained

    def test_the_name_tells_the_settings(self, published):
        row, file, trained = published
        model = BIOT.from_checkpoint(file, n_outputs=3, n_times=1000)
        assert model.channel_names == list(row.channels)
        assert (model.sfreq, model.token_size, model.hop_length) == (200, 200, 100)
        assert model.input_scaling == "q95"
        same(model, trained, translate_names(model))
        assert model.load_report_.notes == (
            "published without a trained head: train it for your task",
        )

    def test_channels_of_a_recording(self, published):
        row, file, trained = published
        x = torch.randn(2, 2, 400)
        chs_info = [{"ch_name": "EEG T3-T5"}, {"ch_name": "Fp1-F7"}]
        model = BIOT.from_checkpoint(file, chs_info=chs_info, n_outputs=3, n_times=400)
        whole = torch.full((2, len(row.channels), 400), torch.nan)
        whole[:, [2, 0]] = x
        masked = BIOT(
            emb_size=16,
            n_layers=1,
            n_chans=len(row.channels),
            n_outputs=1,
            n_times=400,
            missing="mask",
        ).eval()
        load_weights(masked, trained.state_dict())
        ours, theirs = (
            m(data, return_features=True)["features"]
            for m, data in ((model, x), (masked, whole))
        )
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    def test_channels_of_ones_own(self, published):
        _, file, trained = published
        model = BIOT.from_checkpoint(
            file, channel_names=["Fp1-F7", "ECG"], n_outputs=2, n_times=400
        )
        table = trained.tokens.channel_tokens.weight
        ours = model.tokens.channel_tokens.weight
        assert torch.equal(ours, torch.stack([table[0], table.mean(0)]))

    def test_another_rate_warns(self, published):
        with pytest.warns(UserWarning, match="trained at 200 Hz"):
            BIOT.from_checkpoint(published[1], n_outputs=2, n_times=512, sfreq=256)

    def test_another_table_is_an_error(self, published):
        row, file, _ = published
        state = small(sfreq=200, n_times=400).state_dict()
        torch.save(to_official(state, head=False), file)
        message = rf"has 3 rows, but '{re.escape(row.file_name)}' has 1[68] channels"
        with pytest.raises(CheckpointError, match=message):
            BIOT.from_checkpoint(file, n_outputs=2, n_times=400)


@pytest.mark.parametrize(
    "name",
    [
        "EEG-six-datasets-18-channels (1).ckpt",
        "EEG-six-datasets-18-channels(2).ckpt",
        "EEG-SHHS%2BPREST-18-channels.ckpt",
        "eeg-SHHS+PREST-18-channels - Copy (2).ckpt",
        "biot-pretrained-six-datasets-18chs/pytorch_model.bin",
        "biot-pretrained-six-datasets-18chs/other.ckpt",
    ],
)
def test_published_under_another_name(tmp_path, name):
    trained = small(n_chans=18, sfreq=200, n_times=400)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    torch.save(to_official(trained.state_dict(), head=False), tmp_path / name)
    chs_info = [{"ch_name": name} for name in TCP18[::-1]]
    model = BIOT.from_checkpoint(
        tmp_path / name, chs_info=chs_info, n_outputs=2, n_times=400
    )
    assert model.channel_names == list(TCP18)
    assert model.channels.rows.tolist() == list(range(18))[::-1]


def test_published_weights_of_another_token_size_or_scaling(tmp_path):
    path = tmp_path / PUBLISHED[0].file_name
    trained = small(n_chans=16, sfreq=200, n_times=400)
    torch.save(to_official(trained.state_dict(), head=False), path)
    given = dict(n_outputs=2, n_times=400)
    with pytest.raises(CheckpointError, match=r"with token_size=200, the model has"):
        BIOT.from_checkpoint(path, token_size=201, **given)
    with pytest.warns(UserWarning, match="trained with input_scaling='q95'"):
        BIOT.from_checkpoint(path, input_scaling=None, **given)


class TestTokenSize:
    @pytest.mark.parametrize("sfreq", [125, 124])
    def test_goes_by_the_rate_that_is_given(self, sfreq):
        theirs = host(sfreq=sfreq, n_times=250)
        model = BIOT.from_checkpoint(
            theirs.state_dict(),
            sfreq=sfreq,
            n_times=250,
            hop_length=20,
            input_scaling=None,
        )
        assert model.token_size == sfreq
        x = torch.randn(2, 3, 250)
        torch.testing.assert_close(model(x), theirs(x), rtol=1e-5, atol=1e-5)
        other = 249 - sfreq
        notes = " ".join(model.load_report_.notes)
        assert f"{sfreq} is taken, and {other} would fit as well" in notes

    def test_goes_by_what_is_stored_first(self):
        state = small(token_size=41).state_dict()
        config = small(token_size=41).get_config()
        model = small(token_size=40)
        with pytest.raises(CheckpointError, match="trained with token_size=41"):
            load_weights(model, Checkpoint("mine", state, config))


@pytest.mark.parametrize("layout", ["biot", "braindecode"])
@pytest.mark.parametrize(
    ("stored", "match"),
    [
        (dict(n_layers=3), "n_layers: 3 stored, 2 in the tensors"),
        (dict(emb_size=32), "emb_size: 32 stored, 16 in"),
        (dict(n_chans=4), "n_chans: 4 stored, 3 in"),
        (dict(sfreq=50), "token_size: 50 stored, 40 or 41 in"),
    ],
)
def test_tensors_that_contradict_their_configuration(layout, stored, match):
    config = small().get_config() | stored
    if layout == "braindecode":
        config = configs.braindecode_config(config, config["n_chans"])
    state = LAYOUTS[layout](small().state_dict())
    checkpoint = Checkpoint("mine", state, config)
    with pytest.raises(CheckpointError, match=match):
        load_weights(small(), checkpoint)


def test_a_layer_that_is_lost_is_not_left_out(tmp_path):
    model = small(n_layers=3)
    state = {k: v for k, v in model.state_dict().items() if "layers.2" not in k}
    torch.save(state, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(model.get_config()))
    with pytest.raises(CheckpointError, match="n_layers: 3 stored, 2 in the tensors"):
        BIOT.from_checkpoint(tmp_path)


def test_the_scaling_of_braindecodes_warns_in_any_way():
    with pytest.warns(UserWarning, match="does not scale its input") as told:
        load_weights(small(), host().state_dict())
    assert told[0].filename == __file__
    with pytest.warns(UserWarning, match="does not scale its input") as told:
        BIOT.from_checkpoint(host().state_dict(), **WINDOW)
    assert told[0].filename == __file__
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_weights(small(input_scaling=None), host().state_dict())


def test_the_official_encoder_as_encoder_is_not_braindecodes():
    state = prefixed(to_official(small().state_dict(), head=False), "encoder.")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_weights(small(), state).layout == "official"


class TestChannelsOfUnknownOrigin:
    @pytest.fixture
    def state(self):
        return to_official(small().state_dict())

    def test_go_by_place(self, state):
        model = BIOT.from_checkpoint(state, **WINDOW)
        assert model.channel_names is None
        assert "taken by place" in str(model.load_report_.notes)
        named = BIOT.from_checkpoint(state, channel_names=["a", "b", "c"], **WINDOW)
        assert "taken to be the model's channel_names" in str(named.load_report_)

    def test_but_not_under_names(self, state):
        chs_info = [{"ch_name": name} for name in CHANNELS[:3]]
        for layout in (dict, lambda state: prefixed(state, "model.")):
            for more in ({}, {"channel_names": None}):
                with pytest.raises(
                    CheckpointError, match=r"unknown channels.*n_chans instead of chs"
                ):
                    BIOT.from_checkpoint(
                        layout(state), chs_info=chs_info, **more, **WINDOW
                    )
        config = {"n_chans": 3, "num_heads": 8}
        theirs = Checkpoint("theirs", host().state_dict(), config)
        assert "taken by place" in str(load_weights(small(), theirs).notes)

    def test_of_ones_own_with_a_name_twice(self):
        twice = [{"ch_name": name} for name in ("C3", "C4", "C3")]
        config = small().get_config() | {"chs_info": twice}
        state = small().state_dict()
        arguments_for = partial(
            configs.arguments_for,
            Checkpoint("mine", state, config),
            head="auto",
            checkpoint_channels=None,
            known=config,
        )
        arguments_for({"chs_info": twice})
        with pytest.raises(CheckpointError, match="unknown channels"):
            arguments_for({"chs_info": twice[::-1][:2]})

    def test_unless_told(self, state):
        names = CHANNELS[:3]
        chs_info = [{"ch_name": name} for name in names[:0:-1]]
        for told in ("channel_names", "checkpoint_channels"):
            model = BIOT.from_checkpoint(
                state, **{told: names}, chs_info=chs_info, **WINDOW
            )
            assert model.channel_names == names
            assert model.channels.rows.tolist() == [2, 1]

    def test_another_vocabulary_asks(self, state):
        with pytest.raises(
            CheckpointError, match=r"3 rows of unknown channels.*Say whi"
        ):
            BIOT.from_checkpoint(state, channel_names=["C3", "Cz"], **WINDOW)

    def test_too_many_names(self, state):
        with pytest.raises(
            CheckpointError, match=r"3 rows, but checkpoint_channels=\["
        ):
            BIOT.from_checkpoint(state, checkpoint_channels=CHANNELS, **WINDOW)


def test_stored_channels_in_another_order():
    stored = [{"ch_name": name} for name in CHANNELS[:3]]
    trained = small(chs_info=stored)
    checkpoint = Checkpoint("mine", trained.state_dict(), trained.get_config())
    with pytest.raises(CheckpointError, match="each takes the token of its place"):
        load_weights(small(chs_info=stored[::-1]), checkpoint)
    by_name = small(chs_info=stored[::-1], channel_names=CHANNELS[2::-1])
    load_weights(by_name, checkpoint)
    x = torch.randn(2, 3, 80)
    ours, theirs = by_name(x[:, [2, 1, 0]]), trained(x)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    trained = small().to(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for state in (trained.state_dict(), to_braindecode(trained.state_dict())):
            model = BIOT.from_checkpoint(lightning(state), **WINDOW, **SCALED)
    same(model.to(dtype), trained)


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_layout_is_told(name):
    checkpoint = LAYOUTS[name](small().state_dict())
    layout = translate(checkpoint.get("state_dict", checkpoint)).layout
    inner = name.removeprefix("Lightning(").removesuffix(")")
    assert layout == (inner if inner in ("biot", "braindecode") else "official")
