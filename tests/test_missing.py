"""Missing data: the model with a mask equals the model on the tokens that are there."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.export import Dim, export

from braindecode_biot import BIOT
from braindecode_biot.encoder import Encoder
from braindecode_biot.tokens import scale_q95

TOKEN, HOP, N_CHANS, N_TIMES = 20, 10, 4, 100
N_FRAMES = 1 + (N_TIMES - TOKEN) // HOP
SMALL = dict(
    n_outputs=3, n_times=N_TIMES, sfreq=TOKEN, hop_length=HOP, emb_size=16, n_layers=2
)
NAN = float("nan")


@pytest.fixture(scope="module")
def model() -> BIOT:
    torch.manual_seed(0)
    return BIOT(n_chans=N_CHANS, **SMALL, missing="mask").double().eval()


def windows(n: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, N_CHANS, N_TIMES, generator=generator).double()


def by_dropping(model: BIOT, window: torch.Tensor) -> torch.Tensor:
    """Run the model on the tokens that are there and nothing else, one by one."""
    tokens, embed = [], model.tokens
    for c, samples in enumerate(window):
        there = samples[~samples.isnan()]
        if not len(there):
            continue
        q95 = np.quantile(there.detach().abs().numpy(), 0.95)
        for t in range(1 + (len(samples) - TOKEN) // HOP):
            frame = samples[t * HOP : t * HOP + TOKEN]
            if frame.isnan().any():
                continue
            spectrum = torch.fft.rfft(frame / q95).abs()
            position = embed.position[t]
            token = embed.projection(spectrum) + embed.channel_tokens.weight[c]
            tokens.append(token + position)
    return model.final_layer(model.encoder(torch.stack(tokens)[None]))[0]


def gradients(model: BIOT, logits: torch.Tensor) -> list[torch.Tensor]:
    weights = torch.arange(1.0, 1 + logits.numel()).reshape(logits.shape).double()
    return torch.autograd.grad((logits * weights).sum(), list(model.parameters()))


@st.composite
def damages(draw):
    """Lost channels, lost segments, a lost end; in each window something is left."""
    keep = draw(st.integers(0, N_CHANS - 1))
    start = draw(st.integers(0, N_TIMES - TOKEN))
    start -= start % HOP
    mask = np.zeros((N_CHANS, N_TIMES), bool)
    for channel in draw(st.lists(st.integers(0, N_CHANS - 1), max_size=3)):
        mask[channel] = True
    segment = st.tuples(
        st.integers(0, N_CHANS - 1), st.integers(0, N_TIMES - 1), st.integers(1, 30)
    )
    for channel, first, length in draw(st.lists(segment, max_size=6)):
        mask[channel, first : first + length] = True
    mask[:, draw(st.integers(TOKEN, N_TIMES)) :] = True
    mask[keep, start : start + TOKEN] = False
    return torch.as_tensor(mask)


@given(first=damages(), second=damages(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_masking_equals_dropping_forward_and_backward(model, first, second, seed):
    x = windows(3, seed)
    x[0, first], x[1, second] = NAN, NAN  # beside a complete one
    expected = torch.stack([by_dropping(model, window) for window in x])
    got = model(x)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    for mine, theirs in zip(
        gradients(model, got), gradients(model, expected), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


@given(damage=damages(), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_masking_is_exact_in_single_precision_too(model, damage, seed):
    x = windows(2, seed)
    x[0, damage] = NAN
    single = BIOT(n_chans=N_CHANS, **SMALL, missing="mask").eval()
    single.load_state_dict(model.state_dict())
    torch.testing.assert_close(
        single(x.float()).double(), model(x), rtol=1e-5, atol=1e-5
    )


@given(damage=damages(), n_more=st.integers(1, 60))
@settings(max_examples=20, deadline=None)
def test_padding_more_changes_nothing(model, damage, n_more):
    x = windows(2)
    x[0, damage] = NAN
    padded = torch.nn.functional.pad(x, (0, n_more), value=NAN)
    torch.testing.assert_close(model(padded), model(x), rtol=1e-9, atol=1e-9)
    # Also where a longer neighbour keeps the padding from being trimmed.
    longer = torch.cat([padded, torch.randn(1, *padded.shape[1:]).double()])
    torch.testing.assert_close(model(longer)[:2], model(x), rtol=1e-9, atol=1e-9)


@given(damage=damages(), others=damages())
@settings(max_examples=20, deadline=None)
def test_a_window_does_not_depend_on_its_neighbours(model, damage, others):
    x = windows(4)
    x[0, damage] = NAN
    alone = model(x[:1])
    x[1:, others] = NAN
    torch.testing.assert_close(model(x)[:1], alone, rtol=1e-9, atol=1e-9)
    x[1:] = windows(3, seed=5) * 1e6
    torch.testing.assert_close(model(x)[:1], alone, rtol=1e-9, atol=1e-9)


def test_complete_windows_are_those_of_a_model_that_knows_no_masks(model):
    plain = BIOT(n_chans=N_CHANS, **SMALL).double().eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(windows()), model(windows()))


def test_a_shorter_model_sees_the_same_in_a_shorter_window(model):
    short = BIOT(n_chans=N_CHANS, **SMALL | {"n_times": 60}).double().eval()
    short.load_state_dict(model.state_dict())
    x = windows()
    x[..., 60:] = NAN
    torch.testing.assert_close(model(x), short(x[..., :60]))
    torch.testing.assert_close(model(x[..., :60]), short(x[..., :60]))


def test_windows_may_be_longer_than_the_model_was_made_for(model):
    long = BIOT(n_chans=N_CHANS, **SMALL | {"n_times": 300}).double().eval()
    long.load_state_dict(model.state_dict())
    x = torch.randn(2, N_CHANS, 300).double()
    torch.testing.assert_close(model(x), long(x))


def test_without_input_scaling(model):
    x = windows()
    x[0, 1], x[1, :, 70:] = NAN, NAN
    bare = BIOT(n_chans=N_CHANS, **SMALL, missing="mask", input_scaling=None)
    bare = bare.double().eval()
    bare.load_state_dict(model.state_dict())
    fewer = BIOT(n_chans=N_CHANS, **SMALL | {"n_times": 70}, input_scaling=None)
    fewer = fewer.double().eval()
    fewer.load_state_dict(model.state_dict())
    torch.testing.assert_close(bare(x)[1:2], fewer(x[1:2, :, :70]))
    assert not torch.allclose(bare(x)[1:2], model(x)[1:2])


@pytest.mark.parametrize("scaling", ["q95", None])
def test_what_is_left_out_may_be_beyond_all_bounds(scaling):
    torch.manual_seed(0)
    half = BIOT(n_chans=N_CHANS, **SMALL, missing="mask", input_scaling=scaling)
    half = half.half().eval() if scaling else half.eval()
    x = windows().to(next(half.parameters()).dtype)
    x[0, :, 10], x[0, 0, 5] = NAN, 6e4 if scaling else 3e38
    logits = half(x)
    assert logits.isfinite().all()
    logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in half.parameters())


def test_many_tokens_are_not_too_many_for_half_precision():
    encoder = Encoder(16, 8, 1).half().eval()
    tokens = 10 + torch.randn(1, 9000, 16).half()
    present = torch.ones(1, 9000, dtype=torch.bool)
    present[:, -1] = False
    expected = encoder(tokens[:, :-1])
    torch.testing.assert_close(encoder(tokens, present), expected, rtol=0.01, atol=0.01)


def test_training_runs_through_missing_data(model):
    torch.manual_seed(0)
    training = BIOT(n_chans=N_CHANS, **SMALL, missing="mask")
    training.load_state_dict(model.state_dict())
    x = windows().float()
    x[0, :3], x[1, :, 30:] = NAN, NAN
    x.requires_grad_()
    training(x).square().sum().backward()
    for parameter in [x, *training.parameters()]:
        assert parameter.grad.isfinite().all()
    assert (x.grad[x.isnan()] == 0).all()
    assert (x.grad[2] != 0).any()


@given(n=st.integers(2, 60), n_missing=st.integers(0, 59), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_scaling_is_numpys_nanquantile(n, n_missing, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, n))
    x[0, rng.permutation(n)[: min(n_missing, n - 2)]] = np.nan
    missing = np.isnan(x)
    expected = x / np.nanquantile(np.abs(x), 0.95, axis=-1, keepdims=True)
    got = scale_q95(torch.as_tensor(x), torch.as_tensor(missing))
    np.testing.assert_allclose(got, np.nan_to_num(expected), rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_what_is_left_of_a_channel_may_be_flat(model, value):
    x = windows()
    x[0, 0, :40], x[0, 0, 40:] = NAN, value
    assert model(x).isfinite().all()
    scaled = scale_q95(x, x.isnan())
    assert (scaled[0, 0] == 0).all()


class TestNanNeverReachesALogit:
    """Whatever is missing, logits are finite or there is an error."""

    @given(
        share=st.sampled_from([0.001, 0.01, 0.05, 0.3, 0.9, 1.0]),
        seed=st.integers(0, 999),
    )
    @settings(max_examples=60, deadline=None)
    def test_scattered(self, model, share, seed):
        generator = torch.Generator().manual_seed(seed)
        x = windows(3, seed)
        x[torch.rand(x.shape, generator=generator) < share] = NAN
        try:
            logits = model(x)
        except ValueError as error:
            assert "Every token is missing" in str(error)  # noqa: PT017
            return
        assert logits.isfinite().all()

    @pytest.mark.parametrize("where", [np.s_[1], np.s_[1, :, ::TOKEN]])
    def test_a_window_without_a_token_is_named(self, model, where):
        x = windows()
        x[where] = NAN
        with pytest.raises(ValueError, match=r"1 of 3 windows .*: \[1\]"):
            model(x)
        x[:] = NAN
        with pytest.raises(ValueError, match=r"3 of 3 windows .*: \[0, 1, 2\]"):
            model(x)

    @pytest.mark.parametrize("value", [np.inf, -np.inf])
    def test_inf_is_not_missing(self, model, value):
        x = windows()
        x[0, 0] = NAN
        x[1, 2, 3] = value
        with pytest.raises(ValueError, match=r"inf in 1 of 3 windows, in channels \[2"):
            model(x)

    def test_by_default_nan_is_an_error_that_names_the_mask(self):
        x = windows().float()
        x[1, 2, 3] = NAN
        plain = BIOT(n_chans=N_CHANS, **SMALL)
        with pytest.raises(ValueError, match="missing='mask'"):
            plain(x)

    def test_a_compiled_graph_says_nan(self, model):
        x = windows()
        x[1] = NAN
        logits = torch.compile(model, backend="eager")(x)
        assert logits[[0, 2]].isfinite().all()
        assert logits[1].isnan().all()


class TestTheHostsMask:
    """``ch_mask`` as braindecode's ``pad_channels_collate`` makes it."""

    @pytest.mark.parametrize("missing", ["raise", "mask"])
    @pytest.mark.parametrize("padding", [0.0, NAN, 7.0, float("inf")])
    def test_padded_channels_are_left_out(self, model, missing, padding):
        masking = BIOT(n_chans=N_CHANS, **SMALL, missing=missing).double().eval()
        masking.load_state_dict(model.state_dict())
        x = windows()
        ch_mask = torch.ones(3, N_CHANS, dtype=torch.bool)
        ch_mask[0, 2:], ch_mask[1, 3] = False, False
        with_nan = x.masked_fill(~ch_mask[..., None], NAN)
        x[~ch_mask] = padding
        torch.testing.assert_close(masking(x, ch_mask=ch_mask), model(with_nan))

    def test_beside_nan(self, model):
        x, ch_mask = windows(), torch.ones(3, N_CHANS, dtype=torch.bool)
        x[0, 1] = NAN
        ch_mask[1, 2] = False
        expected = x.clone()
        expected[1, 2] = NAN
        torch.testing.assert_close(model(x, ch_mask=ch_mask), model(expected))

    def test_a_batch_of_fewer_channels(self, model):
        ch_mask = torch.tensor([[True, True], [True, False]])
        x = windows(2)[:, :2]
        expected = torch.full((2, N_CHANS, N_TIMES), NAN).double()
        expected[:, :2] = x
        expected[1, 1] = NAN
        torch.testing.assert_close(model(x, ch_mask=ch_mask), model(expected))

    def test_no_channel_at_all(self, model):
        ch_mask = torch.ones(3, N_CHANS, dtype=torch.bool)
        ch_mask[2] = False
        with pytest.raises(ValueError, match=r"1 of 3 windows .*: \[2\]"):
            model(windows(), ch_mask=ch_mask)

    @pytest.mark.parametrize(
        ("beside", "message"),
        [
            (
                {"ch_mask": torch.ones(3, 2, dtype=torch.bool)},
                r"ch_mask of shape \(3, ",
            ),
            ({"ch_mask": torch.ones(3, N_CHANS)}, "ch_mask of bool"),
            ({"pos": torch.ones(3, N_CHANS)}, r"pos of shape \(3, 4, 3\)"),
        ],
    )
    def test_of_another_shape_or_type(self, model, beside, message):
        with pytest.raises(ValueError, match=message):
            model(windows(), **beside)


@pytest.mark.parametrize(
    ("shape", "missing"),
    [((2, 4, 19), "mask"), ((2, 3, 100), "mask"), ((2, 4, 90), "raise")],
)
def test_other_shapes_are_refused(shape, missing):
    model = BIOT(n_chans=N_CHANS, **SMALL, missing=missing)
    with pytest.raises(ValueError, match="Expected windows of shape"):
        model(torch.randn(shape))


def test_missing_is_raise_or_mask():
    with pytest.raises(ValueError, match="missing is 'raise' or 'mask', got 'drop'"):
        BIOT(n_chans=N_CHANS, **SMALL, missing="drop")


def test_compiles_and_exports_with_missing_data(model):
    x = windows()
    x[0, 1], x[1, :, 50:] = NAN, NAN
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    exported = export(model, (x,), dynamic_shapes=[{0: Dim("batch", min=1)}])
    torch.testing.assert_close(exported.module()(x[:2]), model(x[:2]))
