"""Pretraining: what a step computes, over processes and interruptions, and saved."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch._subclasses.fake_tensor import FakeTensorMode

from braindecode_biot import BIOT, BIOTClassifier, save_weights
from braindecode_biot.losses import alignment, info_nce, spread, uniformity
from braindecode_biot.pretraining import ContrastivePretraining, JointPretraining
from braindecode_biot.pretraining_data import Batch, PretrainingData
from braindecode_biot.tasks import Task

SCRIPT = Path(__file__).with_name("pretraining_script.py")
SFREQ, NAMES = 40.0, ["C3", "C4", "Pz", "O1"]
TASKS = {
    "two": Task(["a", "b"], "focal", weight=3),
    "three": Task([1, 2, 3], channel_names=["C3", "O1"]),
}


def make_model(**arguments):
    torch.manual_seed(0)
    options = dict(
        emb_size=16,
        att_num_heads=2,
        n_layers=2,
        sfreq=SFREQ,
        hop_length=20,
        n_outputs=1,
        n_times=160,
        channel_names=NAMES,
        missing="mask",
    )
    return BIOT(**(options | arguments))


def windows(n, seed=0, n_chans=4):
    x = np.random.default_rng(seed).normal(size=(n, n_chans, 160))
    x[::3, 1, :70] = np.nan
    x[1::4, 0] = np.nan
    return x.astype(np.float32)


def joint_data(n=12):
    x = {"two": windows(n), "three": windows(n // 2, 1, 2)}
    labels = {"two": list("ab") * (n // 2), "three": [1, 2, 3] * (n // 6)}
    return x, labels


def fit(module, data, **options):
    options = dict(max_epochs=1, logger=False, enable_checkpointing=False) | options
    trainer = Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module, data, ckpt_path=None)
    return trainer


def start(*arguments):
    """Run the script in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # What says that this process is one of several is not for those that it starts.
    environment = {k: v for k, v in environment.items() if k not in ("LOCAL_RANK",)}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


# -- views and losses --------------------------------------------------------------


@pytest.mark.parametrize("drop", [0.0, 0.2])
def test_views_are_embeddings_of_the_window_and_of_what_is_kept_of_it(drop):
    model = make_model(drop_prob=drop, att_layer_drop_prob=drop).double()
    module = ContrastivePretraining(model, least_tokens=0.3, most_channels=0.5)
    module.double().eval()
    x = torch.tensor(windows(9)).double()
    drawn = []

    def draw(present):
        drawn.append(ContrastivePretraining.draw(module, present))
        return drawn[-1]

    module.draw = draw
    embeddings, predictions = module.views(x)

    torch.testing.assert_close(embeddings, module(x))
    (kept,) = drawn
    assert kept.any(2).any(1).all()
    spectra, rows, _ = model._read(x, None, None)
    tokens = model.tokens(spectra, rows)
    for i, window in enumerate(kept):
        alone = model.encoder(tokens[i : i + 1, window.flatten()])
        torch.testing.assert_close(predictions[i], module.prediction(alone)[0])


def test_the_loss_of_a_step_is_info_nce_of_the_views():
    seen = {}

    class Watching(ContrastivePretraining):
        def views(self, x):
            seen["views"] = super().views(x)
            return seen["views"]

        def training_step(self, batch, batch_idx):
            seen["loss"] = super().training_step(batch, batch_idx)
            return seen["loss"]

    module = Watching(make_model(), temperature=0.5)
    trainer = fit(module, PretrainingData(windows(8), sfreq=SFREQ, batch_size=8))

    expected = info_nce(*seen["views"], temperature=0.5)
    torch.testing.assert_close(seen["loss"], expected)
    logged = trainer.callback_metrics
    assert logged["train/loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    for name, value in {
        "alignment": alignment(*seen["views"]),
        "uniformity": uniformity(seen["views"][0]),
        "spread": spread(seen["views"][0]),
    }.items():
        assert logged[f"train/{name}"].item() == pytest.approx(value.item(), rel=1e-4)


def test_a_window_that_came_twice_is_no_negative_of_itself():
    module = ContrastivePretraining(make_model(drop_prob=0, att_layer_drop_prob=0))
    module.draw = lambda present: present  # so that copies have the same views
    data = PretrainingData(windows(3), sfreq=SFREQ, batch_size=6, windows_per_epoch=6)

    loss = fit(module, data).callback_metrics["train/loss"].item()

    # Untrained embeddings are all alike: each is told from itself and four others.
    assert loss == pytest.approx(math.log(5), abs=0.05)


def test_pretraining_learns_to_recognise_windows():
    """Windows of one rhythm each, which a half of the tokens tells."""
    time = np.arange(160) / SFREQ
    rates = np.linspace(2, 18, 16)[:, None, None]
    x = np.sin(2 * np.pi * rates * time).repeat(4, 1).astype(np.float32)
    x += np.random.default_rng(0).normal(size=x.shape).astype(np.float32) * 0.1
    module = ContrastivePretraining(make_model(), lr=3e-3)
    data = PretrainingData(x, sfreq=SFREQ, batch_size=16)

    trainer = fit(module, data, max_epochs=60)

    assert trainer.callback_metrics["train/loss"] < 0.7 * math.log(16)
    assert trainer.callback_metrics["train/spread"] > 0.5


def test_a_batch_of_one_is_an_error_with_the_remedy():
    data = PretrainingData(windows(4), sfreq=SFREQ, batch_size=1)

    with pytest.raises(ValueError, match=r"batch of 1: .* batch_size of at least 2"):
        fit(ContrastivePretraining(make_model()), data)


def test_windows_with_one_frame():
    one_frame = make_model(n_times=40)
    x = windows(8)[..., 100:140]
    module = ContrastivePretraining(one_frame)
    trainer = fit(module, PretrainingData(x, sfreq=SFREQ, batch_size=4))
    assert trainer.callback_metrics["train/loss"].isfinite()

    with pytest.raises(ValueError, match="1 tokens per channel, of which nothing can"):
        ContrastivePretraining(one_frame, most_channels=0.2)
    with pytest.raises(ValueError, match="nothing can be dropped"):
        ContrastivePretraining(make_model(n_times=40, channel_names=["C3"]))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (dict(temperature=0), "temperature must be positive"),
        (dict(least_tokens=0), "least_tokens must be in"),
        (dict(lr=0), "lr > 0"),
        (dict(weight_decay=-1), "weight_decay ≥ 0"),
        (dict(decay=0), "0 < decay ≤ 1"),
        (dict(decay_steps=0), "decay_steps ≥ 1"),
    ],
)
def test_wrong_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        ContrastivePretraining(make_model(), **arguments)


def test_wrong_models_and_tasks():
    with pytest.raises(TypeError, match="Expected a BIOT to train, got a Linear"):
        ContrastivePretraining(torch.nn.Linear(1, 1))
    for tasks in ({}, {"a b": TASKS["two"]}, {"a.b": TASKS["two"]}):
        with pytest.raises(ValueError, match="tasks by names such as 'tuab'"):
            JointPretraining(make_model(), tasks)


@pytest.mark.filterwarnings("ignore")
def test_views_compile_to_one_graph():
    module = ContrastivePretraining(make_model(drop_prob=0, att_layer_drop_prob=0))
    module.draw = lambda present: present & (torch.arange(7) % 2 == 0)
    x = torch.tensor(windows(6))

    compiled = torch.compile(module.views, backend="aot_eager", fullgraph=True)

    for found, expected in zip(compiled(x), module.views(x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_nothing_waits_for_a_gpu():
    class Loss(ContrastivePretraining):
        def forward(self, x, number):
            same = number[:, None] == number
            return info_nce(*self.views(x), excluded=same)

    module = Loss(make_model())
    # Tensors that say they are on a GPU and have no values: asking for one is an error.
    with FakeTensorMode():
        state = {
            name: torch.empty(value.shape, dtype=value.dtype, device="cuda")
            for name, value in [*module.named_parameters(), *module.named_buffers()]
        }
        x = torch.empty(8, 4, 160, device="cuda")
        number = torch.empty(8, dtype=torch.long, device="cuda")
        loss = torch.func.functional_call(module, state, (x, number))
    assert loss.device.type == "cuda"


# -- joint -------------------------------------------------------------------------


def test_the_joint_loss_is_the_weighted_sum_of_each_tasks_mean():
    module = JointPretraining(make_model(), TASKS).eval()
    x = torch.tensor(windows(6))
    task, target = torch.tensor([0, 1, 1, 0, 1, 0]), torch.tensor([1, 2, 0, 0, 1, 1])
    batch = Batch(x, task, target, torch.arange(6))
    trainer = fit(module, PretrainingData(*joint_data()[:1], labels=joint_data()[1],
                  sfreq=SFREQ, batch_size=6))  # fmt: skip
    module.eval()
    module.log = lambda *args, **kwargs: None

    loss = module._step("train", batch)

    expected = 0
    features = module(x)
    for i, (name, task) in enumerate(TASKS.items()):
        own = batch.task == i
        logits = module.heads[name](features[own])
        expected += task.weight * task.losses(logits, batch.target[own]).mean()
    torch.testing.assert_close(loss, expected)
    names = {"train/two", "train/three", "train/loss"}
    assert names <= trainer.callback_metrics.keys()


def test_what_is_logged_of_a_task_is_the_mean_over_its_windows():
    module = JointPretraining(
        make_model(drop_prob=0, att_layer_drop_prob=0), TASKS, lr=1e-9
    )
    x, labels = joint_data(12)
    data = PretrainingData(
        x, labels=labels, validation=x, validation_labels=labels, sfreq=SFREQ,
        batch_size=4, balance="windows",
    )  # fmt: skip
    logged = fit(module, data, max_epochs=1).callback_metrics

    module.eval()
    for name, task in TASKS.items():
        own = torch.full((len(x[name]), 4, 160), torch.nan)
        own[:, [NAMES.index(n) for n in task.channel_names or NAMES]] = torch.tensor(
            x[name]
        )
        targets = torch.tensor(task.encode(labels[name]))
        losses = task.losses(module.heads[name](module(own)), targets)
        expected = pytest.approx(losses.mean().item(), rel=1e-3)
        assert logged[f"valid/{name}"].item() == expected


def test_a_checkpoint_within_an_accumulation_warns(tmp_path):
    def run(every):
        fit(
            ContrastivePretraining(make_model()),
            PretrainingData(
                windows(16), validation=windows(4), sfreq=SFREQ, batch_size=4
            ),
            accumulate_grad_batches=2,
            val_check_interval=every,
            enable_checkpointing=True,
            default_root_dir=tmp_path,
            callbacks=[ModelCheckpoint(tmp_path, monitor="valid/loss")],
        )

    run(2)
    with pytest.warns(UserWarning, match="1 batches into the accumulation"):
        run(3)


def test_a_batch_without_windows_of_a_task_trains_the_others():
    x, labels = joint_data()
    module = JointPretraining(make_model(), TASKS)
    data = PretrainingData(x, labels=labels, sfreq=SFREQ, batch_size=1)

    trainer = fit(module, data, max_steps=7)

    assert trainer.callback_metrics["train/loss"].isfinite()
    assert all(p.isfinite().all() for p in module.parameters())


def test_a_classifier_is_the_encoder_with_a_tasks_head():
    x, labels = joint_data()
    module = JointPretraining(make_model(), TASKS)
    fit(module, PretrainingData(x, labels=labels, sfreq=SFREQ, batch_size=6))
    module.eval()
    own = torch.tensor(windows(5))

    classifier = module.classifier("three")

    torch.testing.assert_close(classifier(own), module.heads["three"](module(own)))
    assert not classifier.training
    with pytest.raises(KeyError, match=r"no task .four.; there are"):
        module.classifier("four")


# -- engines -----------------------------------------------------------------------


def test_two_processes_give_loss_and_gradients_of_one_with_the_joined_batch(tmp_path):
    for world in (1, 2):
        done = start("gradients", tmp_path / f"{world}.pt", world)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (torch.load(tmp_path / f"{n}.pt") for n in (1, 2))

    assert one.keys() == two.keys() == {"contrastive", "joint"}
    for kind, steps in one.items():
        assert len(steps) == 3
        for (loss, gradients), (other, others) in zip(steps, two[kind], strict=True):
            torch.testing.assert_close(other, loss, rtol=1e-6, atol=1e-6)
            largest = max(g.abs().max() for g in gradients.values())
            assert largest > 1e-3
            for name, gradient in gradients.items():
                torch.testing.assert_close(others[name], gradient, rtol=0, atol=1e-6)


def test_a_killed_run_goes_on_to_the_weights_of_an_unbroken_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
    assert start("run", whole, -1, 0).returncode == 0

    # In the middle of the second epoch, two steps behind the last checkpoint.
    killed = start("run", broken, 7, 2)
    assert killed.returncode == -signal.SIGKILL
    assert not (broken / "end.pt").exists()
    resumed = start("run", broken, -1, 2)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert "not resumable" not in resumed.stderr

    (steps, expected), (other_steps, found) = (
        torch.load(folder / "end.pt") for folder in (whole, broken)
    )
    assert steps == other_steps == 15
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_accumulated_gradients_mixed_precision_and_clipping_are_the_trainers():
    module = ContrastivePretraining(make_model())
    trainer = fit(
        module,
        PretrainingData(windows(16), sfreq=SFREQ, batch_size=4),
        precision="bf16-mixed",
        accumulate_grad_batches=2,
        gradient_clip_val=1.0,
    )

    assert trainer.global_step == 2
    assert trainer.callback_metrics["train/loss"].isfinite()
    assert module.model.tokens.projection.weight.dtype == torch.float32


def test_the_optimiser_is_the_recipes_and_leaves_the_models_own_head():
    model = make_model()
    head = {k: v.clone() for k, v in model.final_layer.state_dict().items()}
    module = ContrastivePretraining(model, decay_steps=2, decay=0.1, lr=1e-2)
    trainer = fit(
        module,
        PretrainingData(windows(16), sfreq=SFREQ, batch_size=4),
        max_epochs=1,
    )

    (optimizer,) = trainer.optimizers
    assert isinstance(optimizer, torch.optim.Adam)
    group = optimizer.param_groups[0]
    assert (group["initial_lr"], group["weight_decay"]) == (1e-2, 1e-5)
    assert group["lr"] == pytest.approx(1e-4)  # four steps, by step and not by epoch
    for name, value in model.final_layer.state_dict().items():
        assert torch.equal(value, head[name])
    assert all(p.requires_grad for p in model.parameters())


def test_draws_follow_from_the_seed_alone():
    others = iter(range(10))

    def weights(seed):
        module = ContrastivePretraining(make_model(), seed=seed, lr=1e-2)
        torch.manual_seed(next(others))
        fit(module, PretrainingData(windows(8), sfreq=SFREQ, batch_size=4))
        return module.model.tokens.projection.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


# -- checkpoints -------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of both kinds, with the modules that they are of."""
    folder = tmp_path_factory.mktemp("trained")
    x, labels = joint_data()
    runs = {
        "contrastive": (
            ContrastivePretraining(make_model(), lr=1e-2),
            PretrainingData(windows(8), sfreq=SFREQ, batch_size=4),
        ),
        "joint": (
            JointPretraining(make_model(), TASKS),
            PretrainingData(x, labels=labels, sfreq=SFREQ, batch_size=4),
        ),
    }
    made = {}
    for name, (module, data) in runs.items():
        trainer = fit(module, data, enable_checkpointing=True, default_root_dir=folder)
        trainer.save_checkpoint(folder / f"{name}.ckpt")
        made[name] = module.eval(), folder / f"{name}.ckpt"
    return made


@pytest.mark.parametrize("kind", ["contrastive", "joint"])
def test_a_lightning_checkpoint_makes_the_model(trained, kind):
    module, path = trained[kind]
    x = torch.tensor(windows(5))

    model = BIOT.from_checkpoint(path, n_outputs=1)

    features = model(x, return_features=True)["features"]
    torch.testing.assert_close(features, module(x), rtol=0, atol=0)
    assert model.channel_names == NAMES
    assert (model.missing, model.sfreq, model.token_size) == ("mask", 40, 40)
    report = str(model.load_report_)
    assert "a new head" in report
    assert ("predictor" in report) == (kind == "contrastive")
    assert "unknown" not in report
    content = torch.load(path, weights_only=True)
    assert not any("final_layer" in name for name in content["state_dict"])
    assert BIOT.from_checkpoint(content, n_outputs=7).channel_names == NAMES


def test_heads_of_joint_pretraining_load_by_name(trained):
    module, path = trained["joint"]
    x = torch.tensor(windows(5))

    model = BIOT.from_checkpoint(path, head="three")

    torch.testing.assert_close(model(x), module.heads["three"](module(x)))


@pytest.mark.parametrize("kind", ["contrastive", "joint"])
@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_the_official_layout_is_theirs_and_comes_back(trained, kind, suffix, tmp_path):
    module, _ = trained[kind]
    path = module.save_official(tmp_path / f"official{suffix}")

    model = BIOT.from_checkpoint(
        path,
        n_outputs=7,
        n_times=160,
        sfreq=SFREQ,
        hop_length=20,
        att_num_heads=2,
        channel_names=NAMES,
        missing="mask",
    )

    x = torch.tensor(windows(5))
    features = model(x, return_features=True)["features"]
    torch.testing.assert_close(features, module(x), rtol=0, atol=0)
    assert model.load_report_.layout == "official"


def test_the_official_layout_has_the_official_names(reference, tmp_path):
    layouts = json.loads((reference / "official_checkpoint_layouts.json").read_text())
    heads = {"chb_mit": 1, "iiic_seizure": 6, "tuab": 1, "tuev": 6}
    tasks = {
        name: Task(range(n)) if n > 1 else Task([0, 1], "focal")
        for name, n in heads.items()
    }
    modules = {
        "UnsupervisedPretrain(n_channels=18)": ContrastivePretraining(
            BIOT(channel_names="tcp-18", n_times=2000, n_outputs=1)
        ),
        "SupervisedPretrain()": JointPretraining(
            BIOT(channel_names="tcp-16", n_times=2000, n_outputs=1), tasks
        ),
    }
    for name, module in modules.items():
        path = module.save_official(tmp_path / "official.ckpt")
        state = torch.load(path, weights_only=True)
        found = {k: [list(v.shape), str(v.dtype)] for k, v in state.items()}
        assert found == layouts[name]


@pytest.mark.parametrize("kind", ["contrastive", "joint"])
def test_an_estimator_takes_what_was_pretrained(trained, kind, tmp_path):
    module, checkpoint = trained[kind]
    file = save_weights(
        module.model, tmp_path / "encoder.safetensors", layout="official-encoder"
    )
    x, y = windows(12, 5), np.array(list("xyz") * 4)
    for source in (checkpoint, file):
        classifier = BIOTClassifier(
            pretrained=source,
            finetune="head",
            missing="mask",
            channel_names=NAMES,
            sfreq=SFREQ,
            random_state=0,
            device="cpu",
        )
        classifier.fit(x, y)
        with torch.no_grad():
            features = classifier.model_(torch.tensor(x), return_features=True)
        torch.testing.assert_close(features["features"], module(torch.tensor(x)))


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (
            lambda: ContrastivePretraining(make_model(n_layers=1), lr=1e-2),
            "n_layers: 2 then, 1 now",
        ),
        *(
            (
                lambda name=name: ContrastivePretraining(
                    make_model(), **{"lr": 1e-2, name: 0.1}
                ),
                f"{name}: .* then, 0.1 now",
            )
            for name in ("temperature", "least_tokens", "most_channels", "decay")
        ),
        (lambda: JointPretraining(make_model(), TASKS), "another configuration"),
    ],
)
def test_resuming_with_another_configuration_is_an_error(trained, module, match):
    _, path = trained["contrastive"]
    module, (x, labels) = module(), joint_data()
    data = PretrainingData(windows(8), sfreq=SFREQ, batch_size=4)
    if isinstance(module, JointPretraining):
        data = PretrainingData(x, labels=labels, sfreq=SFREQ, batch_size=4)
    trainer = Trainer(accelerator="cpu", logger=False, max_epochs=2)

    with pytest.raises(ValueError, match=match):
        trainer.fit(module, data, ckpt_path=path, weights_only=True)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (dict(batch_size=8), "batch size: 4 then, 8 now"),
        (dict(seed=1), "seed: 0 then, 1 now"),
        (dict(windows=windows(9)), "windows: 8 then, 9 now"),
        (dict(windows=[windows(4), windows(4)]), "names, sizes and labels: "),
    ],
)
def test_resuming_with_other_data_is_an_error(trained, data, match):
    _, path = trained["contrastive"]
    options = dict(windows=windows(8), batch_size=4) | data
    trainer = Trainer(accelerator="cpu", logger=False, max_epochs=2)

    with pytest.raises(ValueError, match=match):
        trainer.fit(
            ContrastivePretraining(make_model(), lr=1e-2),
            PretrainingData(options.pop("windows"), sfreq=SFREQ, **options),
            ckpt_path=path,
            weights_only=True,
        )


def test_checkpoints_of_others_are_refused(trained, tmp_path):
    _, path = trained["contrastive"]
    content = torch.load(path, weights_only=True)
    del content["biot_config"]
    torch.save(content, tmp_path / "other.ckpt")
    trainer = Trainer(accelerator="cpu", logger=False, max_epochs=2)

    with pytest.raises(ValueError, match="of no pretraining by this package"):
        trainer.fit(
            ContrastivePretraining(make_model(), lr=1e-2),
            PretrainingData(windows(8), sfreq=SFREQ, batch_size=4),
            ckpt_path=tmp_path / "other.ckpt",
            weights_only=True,
        )
