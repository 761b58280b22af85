"""Scaling, frames, spectra and the token table."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from braindecode_biot.tokens import (
    TokenEmbedding,
    check_geometry,
    frame,
    scale_q95,
    spectra,
)


@given(n_times=st.integers(2, 300), unit=st.sampled_from([1e-6, 1e-3, 1e6]))
@settings(max_examples=50, deadline=None)
def test_scaling_is_numpys_quantile_in_any_unit(n_times, unit):
    torch.manual_seed(n_times)
    x = torch.randn(2, 3, n_times, dtype=torch.float64)
    q = np.quantile(x.abs().numpy(), 0.95, axis=-1, keepdims=True)
    np.testing.assert_allclose(scale_q95(x), x.numpy() / q, rtol=1e-9)
    torch.testing.assert_close(scale_q95(x * unit), scale_q95(x))


@pytest.mark.parametrize("value", [0.0, 5.0, -1e-6])
def test_a_flat_channel_becomes_zeros_and_leaves_the_others_alone(value):
    x = torch.randn(2, 3, 100)
    x[:, 1] = value
    scaled = scale_q95(x)
    assert (scaled[:, 1] == 0).all()
    assert torch.equal(scaled[:, [0, 2]], scale_q95(x[:, [0, 2]]))


def test_a_channel_with_a_lone_spike_is_finite_with_finite_gradient():
    x = torch.zeros(1, 1, 200)
    x[..., 7] = 3.0
    x.requires_grad_()
    scaled = scale_q95(x)
    scaled.sum().backward()
    assert torch.isfinite(scaled).all()
    assert torch.isfinite(x.grad).all()


def test_one_sample_is_a_flat_channel():
    assert (scale_q95(torch.tensor([[2.0]])) == 0).all()


@given(
    n_times=st.integers(1, 200), token_size=st.integers(1, 60), hop=st.integers(1, 80)
)
@settings(max_examples=200, deadline=None)
def test_geometry_agrees_with_the_frames_or_says_no(n_times, token_size, hop):
    x = torch.arange(float(n_times))
    if token_size > n_times or hop > token_size:
        with pytest.raises(ValueError, match=r"token_size|hop_length"):
            check_geometry(n_times, 100, token_size, hop)
        return
    size, n_frames = check_geometry(n_times, 100, token_size, hop)
    frames = frame(x, size, hop)
    assert frames.shape == (n_frames, size)
    for i in range(n_frames):
        assert torch.equal(frames[i], x[i * hop : i * hop + size])


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ((100, 200, None, 50), r"100 samples \(0.5 s at 200 Hz\).*the default of one"),
        ((100, 200, 128, 50), "token_size of at most 100"),
        ((100, 200, 50, 101), "hop_length=101 is larger than the token size of 50"),
        ((400, 200, 50, 60), "10 samples between two tokens would never be seen"),
        ((400, 200, 50, 0), "hop_length must be a whole number ≥ 1, got 0"),
        ((400, 200, math.nan, 10), "token_size must be a whole number ≥ 1, got nan"),
        ((400, 0.5, None, 10), "got 0, the default of one second"),
        ((400, 200, 50.5, 10), "token_size must be a whole number ≥ 1, got 50.5"),
        ((400, 0, None, 10), "positive sampling rate"),
        ((400, math.nan, None, 10), "positive sampling rate"),
        ((0, 200, None, 10), "positive sampling rate and window length"),
    ],
)
def test_impossible_geometry_is_refused_with_the_numbers(geometry, message):
    with pytest.raises(ValueError, match=message):
        check_geometry(*geometry)


def test_a_sine_stands_in_its_own_bin():
    t = torch.arange(200) / 200
    magnitudes = spectra(torch.sin(2 * math.pi * 10 * t))
    assert magnitudes.shape == (101,)
    assert magnitudes.argmax() == 10
    torch.testing.assert_close(magnitudes[10], torch.tensor(100.0))


def test_tokens_are_content_plus_channel_plus_position():
    embedding = TokenEmbedding(
        emb_size=8, n_rows=5, n_frames=4, token_size=10, drop_prob=0
    )
    s, rows = torch.rand(2, 3, 4, 6), torch.tensor([[4, 0, 1], [1, 2, 3]])
    tokens = embedding(s, rows).reshape(2, 3, 4, 8)
    for window in range(2):
        for channel in range(3):
            for time in range(4):
                expected = (
                    embedding.projection(s[window, channel, time])
                    + embedding.channel_tokens.weight[rows[window, channel]]
                    + embedding.position[time]
                )
                torch.testing.assert_close(tokens[window, channel, time], expected)


def test_positions_go_on_behind_the_table():
    short, long = (
        TokenEmbedding(8, n_rows=2, n_frames=n, token_size=10, drop_prob=0)
        for n in (3, 7)
    )
    short.load_state_dict(long.state_dict())
    s = torch.rand(1, 2, 7, 6)
    rows = torch.arange(2)
    torch.testing.assert_close(short(s, rows), long(s, rows))


def test_the_position_table_is_not_a_stored_weight():
    state = TokenEmbedding(8, n_rows=2, n_frames=3, token_size=10).state_dict()
    assert set(state) == {
        "projection.weight", "projection.bias", "channel_tokens.weight"
    }  # fmt: skip
