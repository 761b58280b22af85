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
)
@settings(max_examples=50, deadline=None)
def test_one_channel_always_stays_whole(n_chans, n_times, segments, length, channels):
    transform = RandomMissing(1, segments, length, channels, random_state=0)
    out = transform(torch.ones(4, n_chans, n_times))
    assert (~out.isnan()).all(2).any(1).all()


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
