"""Resampling gives in parts what it gives in whole, and keeps gaps where they are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from braindecode_biot.resampling import Resampler

RATES = [(256, 200), (500, 200), (160, 200), (2048, 200), (512.03, 200), (199.99, 200)]


def noise(n_times, n_chans=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n_chans, n_times))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_part_is_bit_equal_to_the_whole(data):
    resampler = Resampler(*data.draw(st.sampled_from(RATES)))
    n_times = data.draw(st.integers(1, 5000))
    x = noise(n_times)
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, n_times - 1))
        length = data.draw(st.sampled_from([1, 5, 30, 300]))
        row = data.draw(st.integers(0, 1))
        x[row, at : at + length] = data.draw(st.sampled_from([np.nan, np.inf]))
    whole = resampler(x)
    n_new = resampler.length(n_times)
    assert whole.shape == (2, n_new)
    start = data.draw(st.integers(0, n_new - 1))
    stop = data.draw(st.integers(start + 1, n_new))
    first, last = resampler.span(start, stop, n_times)
    part = resampler(x[:, first:last], (start, stop), (first, n_times))
    np.testing.assert_array_equal(part, whole[:, start:stop])


@pytest.mark.parametrize(("rate", "new_rate", "up", "down"), [
    (256, 200, 25, 32), (500, 200, 2, 5), (160, 200, 5, 4),
])  # fmt: skip
def test_equals_scipy(rate, new_rate, up, down):
    x = noise(4 * down * 50)
    expected = resample_poly(x, up, down, axis=-1, padtype="reflect")
    np.testing.assert_array_equal(Resampler(rate, new_rate)(x), expected)


@pytest.mark.parametrize(("rate", "new_rate"), RATES)
def test_a_sine_comes_out_at_the_right_times(rate, new_rate):
    times = np.arange(20 * round(rate)) / rate
    y = Resampler(rate, new_rate)(np.sin(2 * np.pi * 7 * times))
    expected = np.sin(2 * np.pi * 7 * np.arange(len(y)) / new_rate)
    inner = slice(200, -200)
    np.testing.assert_allclose(y[inner], expected[inner], atol=5e-3)


def test_what_the_new_rate_cannot_hold_goes():
    times = np.arange(20 * 500) / 500
    y = Resampler(500, 200)(np.sin(2 * np.pi * 130 * times))
    assert np.abs(y[200:-200]).max() < 2e-3


def test_rates_drift_by_less_than_a_millisecond_in_a_day():
    resampler = Resampler(256.017, 200)
    assert abs(resampler.length(round(86400 * 256.017)) / 200 - 86400) < 1e-2


@pytest.mark.parametrize("length", [1, 20, 200])
def test_only_the_surroundings_of_a_gap_change(length):
    x = 5 + 0.1 * noise(4000, 1)
    resampler = Resampler(500, 200)
    whole = resampler(x)[0]
    x[0, 2000 : 2000 + length] = np.nan
    gappy = resampler(x)[0]
    lost = np.flatnonzero(np.isnan(gappy))
    times = np.arange(len(gappy)) / 200
    near = (times > 4 - 0.005 - 1e-9) & (times < 4 + (length - 1) / 500 + 0.005 + 1e-9)
    np.testing.assert_array_equal(lost, np.flatnonzero(near))
    there = np.isfinite(gappy)
    assert np.abs(gappy - whole)[there].max() < 0.1  # though a gap of zeros is 5 off
    far = there & (np.abs(times - 4 - length / 1000) > 0.06 + length / 1000)
    np.testing.assert_array_equal(gappy[far], whole[far])


def test_input_stays_as_it_is_and_windows_have_an_axis_more():
    x = noise(300, 6).reshape(3, 2, 300)
    x[0, 0, 10] = np.nan
    before = x.copy()
    y = Resampler(500, 200)(x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(y[1], Resampler(500, 200)(x[1]))


def test_a_row_of_nothing_stays_nothing():
    x = noise(300)
    x[1] = np.nan
    y = Resampler(500, 200)(x)
    assert np.isnan(y[1]).all()
    assert np.isfinite(y[0]).all()
