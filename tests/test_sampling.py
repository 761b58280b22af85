"""The order of windows: balanced, shared out, and the same after an interruption."""

import pickle
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from braindecode_biot.sampling import BalancedSampler, ResumableLoader, mixed

SIZES = st.lists(st.integers(0, 20), min_size=1, max_size=6).filter(sum)


def owners(sizes, drawn):
    """Tell of which recording each window is."""
    of = [i for i, n in enumerate(sizes) for _ in range(n)]
    return [of[i] for i in drawn]


@given(SIZES, st.integers(1, 100), st.integers(0, 50), st.integers(0, 5))
@settings(deadline=None, max_examples=150)
def test_each_recording_comes_as_often_and_each_window_of_it(sizes, n, seed, epoch):
    sampler = BalancedSampler(sizes, n, seed=seed)
    sampler.set_epoch(epoch)

    drawn = list(sampler)

    assert len(drawn) == len(sampler) == n
    turns = Counter(owners(sizes, drawn))
    held = [i for i, size in enumerate(sizes) if size]
    assert max(turns[i] for i in held) - min(turns[i] for i in held) <= 1
    for i in held:
        first = sum(sizes[:i])
        counts = Counter(w for w in drawn if first <= w < first + sizes[i])
        times = [counts[w] for w in range(first, first + sizes[i])]
        assert max(times) - min(times) <= 1


@given(SIZES, st.integers(1, 4), st.integers(1, 5), st.sampled_from([0, 3]))
@settings(deadline=None, max_examples=80)
def test_processes_see_what_one_would_with_their_joined_batch(sizes, world, batch, e):
    def batches(n_processes, rank, size):
        sampler = BalancedSampler(sizes, 40, num_replicas=n_processes, rank=rank)
        sampler.set_epoch(e)
        order = list(sampler)
        return [order[i : i + size] for i in range(0, len(order), size)]

    one = batches(1, 0, batch * world)
    each = [batches(world, rank, batch) for rank in range(world)]

    for i in range(40 // (batch * world)):
        joined = [window for rank in range(world) for window in each[rank][i]]
        assert sorted(joined) == sorted(one[i])


def test_windows_come_once_each_if_these_are_equal():
    sampler = BalancedSampler([3, 50, 1], balance="windows")

    first = list(sampler)
    sampler.set_epoch(1)

    assert sorted(first) == list(range(54))
    assert sorted(sampler) == list(range(54))
    assert first != list(range(54))


def test_order_follows_from_seed_and_epoch_alone():
    def order(seed, epoch):
        sampler = BalancedSampler([5, 9], 30, seed=seed)
        sampler.set_epoch(epoch)
        return tuple(sampler)

    torch.manual_seed(0)
    state = torch.get_rng_state()

    assert order(1, 2) == order(1, 2)
    assert len({order(s, e) for s in range(3) for e in range(3)}) == 9
    assert torch.equal(torch.get_rng_state(), state)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="There are no windows"):
        BalancedSampler([0, 0])
    with pytest.raises(ValueError, match=r"balance is .* got 'persons'"):
        BalancedSampler([1], balance="persons")


def loader(**options):
    data = TensorDataset(torch.arange(23))
    options = dict(batch_size=3, drop_last=True) | options
    return ResumableLoader(data, BalancedSampler([20, 3]), **options)


def values(batches):
    return [batch[0].tolist() for batch in batches]


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("n_done", [0, 1, 4, 7])
def test_another_loader_goes_on_where_one_was(n_done, n_workers):
    whole = loader()
    whole.sampler.set_epoch(2)
    expected = values(whole)
    stopped = loader(num_workers=n_workers)
    stopped.sampler.set_epoch(2)
    batches = iter(stopped)
    first = values(next(batches) for _ in range(n_done))
    state = pickle.loads(pickle.dumps(stopped.state_dict()))

    other = loader(num_workers=n_workers)
    other.load_state_dict(state)
    assert other.state_dict() == state
    rest = iter(other)
    other.sampler.set_epoch(2)  # engines do so only now

    assert len(other) == len(expected) == 7
    assert first + values(rest) == expected
    other.sampler.set_epoch(3)
    whole.sampler.set_epoch(3)
    assert values(other) == values(whole)


def test_state_of_another_epoch_skips_nothing():
    other = loader()
    other.load_state_dict({"epoch": 1, "batches": 4})
    other.sampler.set_epoch(2)

    assert len(values(other)) == 7
    assert len(values(other)) == 7


def test_iterating_anew_starts_anew():
    one = loader()

    assert values([next(iter(one))]) == values([next(iter(one))])


def test_mixed_seeds_differ():
    seeds = {mixed(a, b, c) for a in range(8) for b in range(8) for c in range(8)}

    assert len(seeds) == 512
    assert all(0 <= seed < 2**63 for seed in seeds)
