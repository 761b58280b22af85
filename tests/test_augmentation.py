"""Missing data made on purpose."""

import numpy as np
import pytest
import torch
from braindecode.augmentation import AugmentedDataLoader
from hypothesis import given, settings
from hypothesis import strategies as st

from braindecode_biot.augmentation import RandomMissing

X = torch.arange(1.0, 1 + 200 * 6 * 300).reshape(200, 6, 300)
Y = torch.arange(200)


def damage(**params) -> torch.Tensor:
    return RandomMissing(**dict(probability=1, random_state=0) | params)(X, Y)[0]


def test_as_much_as_was_asked_for():
    out = damage(max_segments=3, mask_len_samples=20, max_channels=2)
    lost = out.isnan().all(2)
    assert set(lost.sum(1).tolist()) == {0, 1, 2}
    n_missing = out.isnan().sum(2)[~lost]
    assert n_missing.max() == 60
    assert {0, 20, 40, 60} <= set(n_missing.tolist())  # and between, by overlap
    assert torch.equal(out[~out.isnan()], X[~out.isnan()])
    # Segments fall everywhere, channels are lost everywhere.
    assert (out.isnan() & ~lost[..., None]).any(0).any(0).all()
    assert lost.any(0).all()


@given(
    n_chans=st.integers(1, 5),
    n_times=st.integers(1, 40),
    segments=st.integers(0, 9),
    length=st.integers(1, 60),
    channels=st.integers(0, 9),
    missing=st.sampled_from([0.0, 0.02, 0.3]),
    lost=st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_one_channel_always_stays(
    n_chans, n_times, segments, length, channels, missing, lost
):
    X = torch.ones(8, n_chans, n_times)
    generator = torch.Generator().manual_seed(n_times)
    X[torch.rand(X.shape, generator=generator) < missing] = torch.nan
    X[:, : min(lost, n_chans - 1)] = torch.nan
    out = RandomMissing(1, segments, length, channels, random_state=0)(X.clone())
    gone = X.isnan()
    assert (out.isnan() | ~gone).all()  # nothing comes back
    same = (out.isnan() == gone).all(2)
    is_left = same & ~gone.all(2)
    assert (is_left.any(1) | gone.all(2).all(1)).all()
    # What stays is worth something: enough for a token, where there was as much.
    enough = min(n_times, 4 * length)
    runs = (~gone).unfold(2, enough, 1).all(3).any(2)
    assert torch.equal((runs & same).any(1), runs.any(1))


def test_losses_are_of_channels_that_are_there():
    X = torch.ones(400, 18, 100)
    X[:, 9:] = torch.nan
    out = RandomMissing(1, 0, 10, 4, random_state=0)(X)
    n_lost = out.isnan().all(2)[:, :9].sum(1)
    assert torch.bincount(n_lost).tolist() == pytest.approx([80] * 5, abs=30)


def test_a_share_of_the_windows():
    damaged = damage(probability=0.3).isnan().any(2).any(1)
    assert 0.2 < damaged.float().mean() < 0.4
    assert not damage(probability=0).isnan().any()


def test_it_follows_its_seed_and_nothing_else():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = damage(), damage(), damage(random_state=1)
    assert not torch.equal(damage(random_state=None).isnan(), first.isnan())
    assert torch.equal(first.isnan(), second.isnan())
    assert not torch.equal(first.isnan(), other.isnan())
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_in_the_hosts_loader():
    data = torch.utils.data.TensorDataset(X, Y)
    loader = AugmentedDataLoader(data, [RandomMissing(1, random_state=0)], batch_size=9)
    x, y = next(iter(loader))
    assert x.isnan().any()
    assert torch.equal(y, Y[:9])


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (dict(probability=1.5), "probability must be from 0 to 1, got 1.5"),
        (dict(max_segments=-1), "max_segments must be a whole number ≥ 0"),
        (dict(mask_len_samples=0), "mask_len_samples must be a whole number ≥ 1"),
        (dict(max_channels=2.5), "max_channels must be a whole number ≥ 0, got 2.5"),
    ],
)
def test_numbers_out_of_range(params, message):
    with pytest.raises(ValueError, match=message):
        RandomMissing(**params)
