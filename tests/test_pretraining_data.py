"""Windows of any kind, rate, channels and length come into one pool and one batch."""

import warnings

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from braindecode.datasets import BaseConcatDataset, EEGWindowsDataset, RawDataset
from braindecode.preprocessing import create_fixed_length_windows
from lightning.pytorch import Trainer

from braindecode_biot import BIOT, RecordingError
from braindecode_biot.pretraining import ContrastivePretraining
from braindecode_biot.pretraining_data import PretrainingData, WindowPool, collate
from braindecode_biot.tasks import Task

SFREQ = 40.0
NAMES = ["C3", "C4", "Pz", "O1"]


def model(**arguments):
    options = dict(
        emb_size=16,
        att_num_heads=2,
        n_layers=1,
        sfreq=SFREQ,
        hop_length=20,
        n_outputs=1,
        n_times=80,
        channel_names=NAMES,
        missing="mask",
    )
    return BIOT(**(options | arguments))


def make_epochs(names, n, n_times=80, seed=0, sfreq=SFREQ):
    info = mne.create_info(names, sfreq, "eeg")
    data = np.random.default_rng(seed).normal(size=(n, len(names), n_times)) * 1e-5
    codes = np.tile([1, 2], n)[:n]
    events = np.c_[np.arange(n) * n_times, np.zeros(n, int), codes]
    return mne.EpochsArray(data, info, events, verbose="error")


def make_raw(names, seconds, seed=0):
    info = mne.create_info(names, SFREQ, "eeg")
    n = int(seconds * SFREQ)
    data = np.random.default_rng(seed).normal(size=(len(names), n)) * 1e-5
    return mne.io.RawArray(data, info, verbose="error")


def make_dataset(*raws, window=80):
    return create_fixed_length_windows(
        BaseConcatDataset([RawDataset(raw) for raw in raws]),
        window_size_samples=window,
        window_stride_samples=window,
        drop_last_window=True,
    )


def fit(data, module=None, **options):
    options = dict(max_epochs=1, accelerator="cpu", logger=False) | options
    trainer = Trainer(
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(module or ContrastivePretraining(model()), data)
    return trainer


# -- the pool --------------------------------------------------------------------


def test_windows_of_all_kinds_stand_at_the_places_of_their_channels():
    epochs = make_epochs(["O1", "C3"], 5, n_times=60)
    raws = make_raw(["Pz", "C4", "C3"], 8.2, seed=1), make_raw(NAMES, 4.1, seed=2)
    dataset = make_dataset(*raws)
    array = np.random.default_rng(3).normal(size=(3, 4, 50)).astype("float32")

    pool = WindowPool([[epochs], dataset, array], model(), sfreq=SFREQ)

    assert pool.sizes == [5, 4, 2, 3]
    assert len(pool) == 14
    first, *others = pool[0]
    assert others == [0, 0, 0]
    expected = epochs.get_data(copy=False)[0] * 1e6
    np.testing.assert_allclose(first[[3, 0]], expected, rtol=1e-6)
    assert np.isnan(first[[1, 2]]).all()
    second = pool[6][0]
    np.testing.assert_allclose(
        second[[2, 1, 0]], raws[0].get_data()[:, 80:160], rtol=1e-6
    )
    assert np.isnan(second[3]).all()
    np.testing.assert_array_equal(pool[13][0], array[2])


def test_a_model_without_masking_takes_channels_in_any_order():
    epochs = make_epochs(["C4", "C3"], 4)
    whole = model(
        missing="raise",
        channel_names=None,
        chs_info=make_epochs(["C3", "C4"], 1).info["chs"],
    )

    window = WindowPool(epochs, whole)[1][0]

    swapped = epochs.get_data(copy=False)[1][::-1] * 1e6
    np.testing.assert_allclose(window, swapped, rtol=1e-6)
    with pytest.raises(ValueError, match="missing \\['C3'\\], unexpected \\['Pz'\\]"):
        WindowPool(make_epochs(["C4", "Pz"], 4), whole)
    with pytest.raises(ValueError, match="windows of 60 samples"):
        WindowPool(make_epochs(["C4", "C3"], 4, n_times=60), whole)


@pytest.mark.parametrize(
    ("windows", "match"),
    [
        (make_epochs(NAMES, 3, sfreq=50), "sampling rate of 50 Hz instead of 40 Hz"),
        (make_epochs(["C3", "Fz"], 3), "FZ|Fz"),
        (np.zeros((3, 3, 80)), "3 channels"),
        ([make_epochs(NAMES, 2), np.zeros((2, 2, 2, 2))], "item 1: .*shape"),
    ],
    ids=["rate", "channel", "number", "shape"],
)
def test_windows_that_do_not_fit(windows, match):
    with pytest.raises(ValueError, match=match):
        WindowPool(windows, model(), sfreq=SFREQ)


def test_other_bad_input():
    with pytest.raises(ValueError, match="does not know its channels by name"):
        WindowPool(make_epochs(NAMES, 3), model(channel_names=None, n_chans=4))
    for nothing in ([], {}):
        with pytest.raises(ValueError, match="There are no windows"):
            WindowPool(nothing, model())
    with pytest.raises(TypeError, match="str was given"):
        WindowPool("folder", model())
    with pytest.raises(ValueError, match="pass sfreq="):
        WindowPool(np.zeros((3, 4, 80)), model())
    with pytest.raises(ValueError, match="unit matters: Epochs are read in µV"):
        WindowPool(
            [make_epochs(NAMES, 3), np.zeros((3, 4, 80))],
            model(input_scaling=100),
            sfreq=SFREQ,
        )


class Broken(EEGWindowsDataset):
    """A recording of which some windows cannot be read, as of a file cut short."""

    broken: tuple[int, ...] = ()

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError(f"cut off at window {index}")
        return super().__getitem__(index)


def broken(raw, *windows):
    dataset = make_dataset(raw).datasets[0]
    dataset.__class__ = Broken
    dataset.broken = windows
    return dataset


def test_recordings_that_cannot_be_read_are_skipped_with_a_report():
    good = make_dataset(make_raw(NAMES, 8.2)).datasets[0]
    bad = broken(make_raw(NAMES, 8.2, 1), 3)
    data = PretrainingData(BaseConcatDataset([bad, good]), batch_size=2)

    with pytest.warns(UserWarning, match="1 of 2 recordings are not used: recording 0"):
        fit(data)

    assert data.skipped == {"recording 0": "it cannot be read: cut off at window 3"}


def test_no_usable_recording_is_an_error_that_says_why():
    bad = broken(make_raw(NAMES, 8.2, 1), 0)

    with pytest.raises(RecordingError, match=r"No recording can be used: .* cut off"):
        WindowPool(BaseConcatDataset([bad]), model())


def test_windows_that_cannot_be_used_are_replaced_by_the_next_one_with_a_warning():
    raw = make_raw(NAMES, 12.2)
    raw._data[:, 160:320] = np.nan  # windows 2 and 3
    raw._data[0, 330] = np.inf  # window 4
    pool = WindowPool(BaseConcatDataset([broken(raw, 1)]), model())

    with pytest.warns(
        UserWarning, match=r"Window 1 of recording 0 .*cut off at window"
    ):
        window = pool[1][0]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(window, pool[5][0])
        assert pool[5][3] == 5
    with pytest.warns(
        UserWarning, match="Window 2 .* no 40 samples in a row are there"
    ):
        pool[2]
    with pytest.warns(UserWarning, match="Window 4 .* holds inf"):
        pool[4]


def test_recordings_without_a_usable_window_are_skipped():
    """Too short, all missing, or sound but at its ends."""
    short = make_epochs(NAMES, 6, n_times=30)
    dead, sound = np.full((4, 4, 80), np.nan), np.ones((5, 4, 80))
    sound[[0, 1, 4]] = np.nan

    pool = WindowPool([short, dead, sound], model(), sfreq=SFREQ)

    assert pool.sizes == [5]
    assert list(pool.skipped) == ["item 0, the data", "item 1, the array"]
    assert "no 40 samples in a row are there" in pool.skipped["item 0, the data"]
    with pytest.warns(UserWarning, match="Window 4 of item 2.* takes its place"):
        assert pool[4][3] == 2  # the next one of the same recording
    with pytest.raises(RecordingError, match="No recording can be used"):
        WindowPool(dead, model(), sfreq=SFREQ)


def test_windows_come_to_an_end():
    pool = WindowPool(np.ones((3, 4, 80)), model(), sfreq=SFREQ)

    assert len(list(pool)) == 3
    assert pool[-1][3] == 2
    with pytest.raises(IndexError, match="no window 3 among 3"):
        pool[3]


def test_nan_that_the_model_does_not_take_is_told_of():
    whole = model(missing="raise")
    x = np.ones((3, 4, 80))
    x[1, 2, 70:] = np.nan
    pool = WindowPool(x, whole, sfreq=SFREQ)

    with pytest.warns(UserWarning, match=r"Window 1 of .* holds NaN, .*missing='mask'"):
        assert pool[1][3] == 2


# -- batches ---------------------------------------------------------------------


def test_a_batch_is_as_long_as_its_longest_window():
    long, short = (np.ones((2, n), np.float32) for n in (7, 5))
    padded = np.full((2, 9), np.nan, np.float32)
    padded[1, :6] = 3

    batch = collate([(short, 0, 2, 7), (padded, 1, 0, 5), (long, 0, 1, 9)])

    assert batch.windows.shape == (3, 2, 7)
    assert batch.windows.dtype == torch.float32
    n_there = (~batch.windows.isnan()).sum(2).tolist()
    assert n_there == [[5, 5], [0, 6], [7, 7]]
    assert batch.task.tolist() == [0, 1, 0]
    assert batch.target.tolist() == [2, 0, 1]
    assert batch.number.tolist() == [7, 5, 9]


def test_embeddings_do_not_hang_on_what_else_is_in_the_batch():
    windows = [make_epochs(["C3", "O1"], 3, 60), make_epochs(NAMES, 3, 120, seed=1)]
    pool = WindowPool(windows, model())
    net = model().eval()
    with torch.no_grad():
        together = net(collate([pool[i] for i in range(6)]).windows)
        alone = torch.cat([net(collate([pool[i]]).windows) for i in range(6)])

    torch.testing.assert_close(together, alone)


# -- the data module -------------------------------------------------------------


def test_lazy_datasets_are_read_by_workers(tmp_path):
    raws = [make_raw(["C4", "C3"], 20.2), make_raw(NAMES, 6.2, seed=1)]
    made = make_dataset(*raws)
    made.set_description({"age": [3, 4]})  # without one it cannot be saved
    made.save(str(tmp_path))
    from braindecode.datautil import load_concat_dataset

    dataset = load_concat_dataset(tmp_path, preload=False)
    seen = []

    class Watching(ContrastivePretraining):
        def training_step(self, batch, batch_idx):
            seen.append(batch.windows.clone())
            return super().training_step(batch, batch_idx)

    data = PretrainingData(dataset, batch_size=4, num_workers=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork in threads
        fit(data, Watching(model()))

    assert not dataset.datasets[0].raw.preload
    assert [len(batch) for batch in seen] == [4, 4, 4]
    complete = torch.cat([batch.isfinite().all(2).all(1) for batch in seen])
    assert complete.sum() == 6  # half are of the short recording


def test_datasets_in_zarr_are_read_lazily(tmp_path):
    from braindecode.datautil import hub_formats

    raws = [make_raw(["C4", "C3"], 8.2), make_raw(["C4", "C3"], 4.2, seed=1)]
    raws[0]._data[1, 85:90] = np.nan
    made = make_dataset(*raws)
    made.set_description({"age": [3, 4]})
    hub_formats.convert_to_zarr(made, tmp_path / "archive.zarr")
    lazy = hub_formats.load_from_zarr(tmp_path / "archive.zarr", preload=False)

    pools = [WindowPool(dataset, model()) for dataset in (made, lazy)]

    assert pools[0].sizes == pools[1].sizes == [4, 2]
    for i in range(6):
        np.testing.assert_allclose(pools[1][i][0], pools[0][i][0], rtol=1e-6)
    assert np.isnan(pools[1][1][0][0, 5:10]).all()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (dict(batch_size=0), "batch_size must be at least 1, got 0"),
        (dict(windows_per_epoch=0), "windows_per_epoch must be at least 1"),
    ],
)
def test_wrong_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        PretrainingData(np.zeros((4, 4, 80)), **arguments)


def test_fewer_windows_than_a_batch_are_an_error():
    data = PretrainingData(make_epochs(NAMES, 5), batch_size=6)

    with pytest.raises(
        ValueError, match="epoch of 5 windows is less than one batch of 6"
    ):
        fit(data)


def test_validation_draws_the_same_and_leaves_out_no_rest_that_is_too_small():
    epochs = make_epochs(NAMES, 8)
    sizes = []

    class Watching(ContrastivePretraining):
        def validation_step(self, batch, batch_idx):
            sizes.append(len(batch.windows))
            return super().validation_step(batch, batch_idx)

    module = Watching(model(drop_prob=0, att_layer_drop_prob=0), lr=1e-9)
    losses = []

    from lightning.pytorch.callbacks import LambdaCallback

    watch = LambdaCallback(
        on_validation_epoch_end=lambda trainer, _: losses.append(
            float(trainer.callback_metrics["valid/loss"])
        )
    )
    fit(
        PretrainingData(epochs, batch_size=4, validation=make_epochs(NAMES, 5, seed=2)),
        module,
        max_epochs=3,
        callbacks=[watch],
        num_sanity_val_steps=0,
    )

    assert sizes == [4, 4, 4]
    assert len(losses) == 3
    assert np.ptp(losses) < 1e-5


def test_data_may_be_used_for_another_module():
    epochs = make_epochs(NAMES, 6)
    data = PretrainingData(epochs, batch_size=6)
    seen = []

    class Watching(ContrastivePretraining):
        def training_step(self, batch, batch_idx):
            seen.append(batch.windows[batch.number.argsort()])
            return super().training_step(batch, batch_idx)

    fit(data, Watching(model()))
    fit(data, Watching(model(channel_names=NAMES[::-1])))

    torch.testing.assert_close(seen[1], seen[0].flip(1))


@pytest.mark.parametrize(
    ("data", "options", "match"),
    [
        (dict(validation=make_epochs(NAMES, 1)), {}, "one window to validate on"),
        ({}, dict(overfit_batches=1), "overfit_batches does not go with"),
    ],
)
def test_what_cannot_be_done(data, options, match):
    with pytest.raises(ValueError, match=match):
        fit(PretrainingData(make_epochs(NAMES, 6), batch_size=3, **data), **options)


def test_units_of_validation_count_too():
    epochs = make_epochs(NAMES, 4)
    data = PretrainingData(
        epochs, validation=epochs.get_data(), batch_size=2, sfreq=SFREQ
    )
    with pytest.raises(ValueError, match="unit matters"):
        fit(data, ContrastivePretraining(model(input_scaling=100)))


def test_samples_in_another_unit_than_the_scale_are_warned_of():
    epochs, scaled = make_epochs(NAMES, 4), model(input_scaling=100)
    with pytest.warns(UserWarning, match="about 7e-06, .* input_scaling=100. Are both"):
        WindowPool(epochs.get_data(), scaled, sfreq=SFREQ)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WindowPool(epochs, scaled)


def test_processes_that_read_other_recordings_are_an_error(monkeypatch):
    from lightning.pytorch.strategies import SingleDeviceStrategy

    def others(self, tensor, **kwargs):
        return torch.stack([tensor, tensor + 1])

    monkeypatch.setattr(SingleDeviceStrategy, "all_gather", others)
    with pytest.raises(RecordingError, match="Not all processes can read the same"):
        fit(PretrainingData(make_epochs(NAMES, 4), batch_size=2))


# -- tasks -----------------------------------------------------------------------

TASKS = {
    "rest": Task([1, 2], "balanced", n_times=80),
    "three": Task(["a", "b", "c"], channel_names=["O1", "C3"]),
}


def test_data_sets_with_other_channels_lengths_and_labels_come_into_one_pool():
    short = np.random.default_rng(0).normal(size=(3, 2, 60)).astype("float32")
    windows = {"rest": make_epochs(NAMES, 4), "three": short}

    pool = WindowPool(
        windows, model(), tasks=TASKS, labels={"three": ["c", "a", "b"]}, sfreq=SFREQ
    )

    items = [pool[i] for i in range(7)]
    assert [(task, target) for _, task, target, _ in items] == [
        (0, 0), (0, 1), (0, 0), (0, 1), (1, 2), (1, 0), (1, 1),
    ]  # fmt: skip
    np.testing.assert_array_equal(items[4][0][[3, 0]], short[0])
    assert np.isnan(items[4][0][[1, 2]]).all()


@pytest.mark.parametrize(
    ("change", "labels", "match"),
    [
        ({}, ["a", "b", "d"], r"three: The labels \['d'\] are none of the classes"),
        ({}, ["a", "b"], "three: Got 2 labels for 3 windows"),
        ({}, None, "three: Its windows have no labels"),
        ({"rest": make_epochs(NAMES, 4, 100)}, "abc", "rest: .*up to 100 samples"),
        ({"other": None}, "abc", r"for each of the tasks \['rest', 'three'\]"),
        ({"three": make_epochs(["C4"], 3)}, "abc", "three: .*C4"),
    ],
    ids=["label", "number", "none", "length", "name", "channel"],
)
def test_data_that_do_not_fit_their_task(change, labels, match):
    windows = {"rest": make_epochs(NAMES, 4), "three": np.zeros((3, 2, 60))} | change
    given = {} if labels is None else {"three": list(labels)}

    with pytest.raises(ValueError, match=match):
        WindowPool(windows, model(), tasks=TASKS, labels=given, sfreq=SFREQ)


def test_without_masking_a_tasks_channels_come_to_their_places():
    whole = model(missing="raise")
    x = np.arange(4.0)[:, None] + np.random.default_rng(0).normal(size=(3, 4, 80)) / 9
    tasks = {"one": Task([0, 1], channel_names=NAMES[::-1])}
    options = dict(tasks=tasks, labels={"one": [0, 1, 1]}, sfreq=SFREQ)

    pool = WindowPool({"one": x}, whole, **options)

    assert pool[0][0].mean(1).round().tolist() == [3, 2, 1, 0]
    tasks["one"] = Task([0, 1], channel_names=NAMES[:3])
    with pytest.raises(ValueError, match=r"one: channel_names=.* are not those of"):
        WindowPool({"one": x[:, :3]}, whole, **options)


def test_labels_for_no_windows():
    with pytest.raises(ValueError, match=r"labels for \['a'\], but no tasks"):
        WindowPool(make_epochs(NAMES, 4), model(), labels={"a": [1]})
    with pytest.raises(ValueError, match=r"labels for \['four'\], but windows for"):
        WindowPool(
            {"rest": make_epochs(NAMES, 4), "three": np.zeros((3, 2, 60))},
            model(),
            tasks=TASKS,
            labels={"four": [1]},
        )


def test_recordings_are_named_by_their_file():
    dataset = make_dataset(make_raw(NAMES, 4.2))
    dataset.datasets[0].set_description(pd.Series({"file": "night.edf"}))
    dataset.datasets[0].__class__ = Broken
    dataset.datasets[0].broken = (0,)

    with pytest.raises(RecordingError, match=r"recording 0 \(file night.edf\)"):
        WindowPool(dataset, model())


def test_missing_extra_is_named(monkeypatch):
    import importlib
    import sys

    from braindecode_biot import engine

    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(
        ImportError, match=r'pip install "braindecode-biot\[pretrain\]"'
    ):
        importlib.reload(engine)
