"""The second view keeps what it must, and drops what it may."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from braindecode_biot.views import check_drops, drop_tokens


@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 12)),
    least=st.sampled_from([0.1, 0.5, 0.7, 1.0]),
    most=st.sampled_from([0.0, 0.25, 0.5, 0.9]),
    there=st.floats(0.2, 1),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None, max_examples=150)
def test_bounds_hold_for_each_window_and_channel(shape, least, most, there, seed):
    if least == 1 and most == 0:
        return
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(shape, generator=generator) <= there

    kept = drop_tokens(present, least, most, generator)

    assert not (kept & ~present).any()
    n_present, n_kept = present.sum(2), kept.sum(2)
    for window in range(shape[0]):
        chans = n_present[window] > 0
        lost = int((chans & (n_kept[window] == 0)).sum())
        assert lost <= int(chans.sum()) * most + 1e-6
        for n, n_left in zip(n_present[window], n_kept[window], strict=True):
            if n_left > 0:
                assert n_left >= max(1, least * n - 1e-6)
                assert n_left < n or n == 1 or least > 1 - 1 / n


def test_all_that_may_be_drawn_is_drawn():
    present = torch.ones(4000, 4, 5, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)

    kept = drop_tokens(present, 0.5, 0.5, generator)

    n_kept = kept.sum(2)
    n_lost = (n_kept == 0).sum(1)
    counts = torch.bincount(n_lost, minlength=5)
    assert (counts[:3] > 1200).all()  # none, one or two of four, alike
    assert counts[3:].sum() == 0
    counts = torch.bincount(n_kept[n_kept > 0], minlength=6)
    assert counts[[1, 2, 5]].sum() == 0  # three or four of five
    assert (counts[3] - counts[4]).abs() < 500
    # No channel and no time is preferred.
    shares = kept.float().mean(0)
    torch.testing.assert_close(shares, shares.mean().expand(4, 5), atol=0.03, rtol=0)


def test_one_token_per_channel_stays():
    present = torch.ones(50, 3, 1, dtype=torch.bool)

    assert torch.equal(drop_tokens(present, 0.5, 0), present)


def test_draws_follow_from_the_generator_alone():
    present = torch.ones(3, 4, 5, dtype=torch.bool)
    state = torch.get_rng_state()

    a, b = (
        drop_tokens(present, generator=torch.Generator().manual_seed(1))
        for _ in range(2)
    )

    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(a, drop_tokens(present, generator=torch.Generator()))


@pytest.mark.parametrize(
    ("shares", "match"),
    [
        ((0, 0.2), "least_tokens must be in"),
        ((1.2, 0.2), "least_tokens must be in"),
        ((float("nan"), 0.2), "least_tokens must be in"),
        ((0.5, 1), "most_channels must be in"),
        ((0.5, -0.1), "most_channels must be in"),
        ((1, 0), "nothing is dropped"),
    ],
)
def test_wrong_shares(shares, match):
    with pytest.raises(ValueError, match=match):
        check_drops(*shares)
    with pytest.raises(ValueError, match=match):
        drop_tokens(torch.ones(1, 1, 1, dtype=torch.bool), *shares)
