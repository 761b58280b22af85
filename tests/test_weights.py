"""Names of weights, here and in braindecode."""

import pytest
import torch

from braindecode_biot import BIOT
from braindecode_biot.weights import (
    braindecode_names,
    drop_position_table,
    to_braindecode,
)

SMALL = dict(n_chans=2, n_outputs=3, n_times=200, sfreq=100, hop_length=50, emb_size=16)


def test_the_names_are_one_to_one_and_cover_the_model():
    names = braindecode_names(n_layers=2)
    assert len(set(names.values())) == len(names)
    assert set(names.values()) == set(BIOT(**SMALL, n_layers=2).state_dict())


def test_loading_takes_over_every_tensor():
    torch.manual_seed(0)
    first = BIOT(**SMALL)
    second = BIOT(**SMALL)
    second.load_state_dict(to_braindecode(first.state_dict()))
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value), name


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_a_state_dict_that_does_not_fit_lists_the_difference(change):
    state = dict(BIOT(**SMALL).state_dict())
    if change == "missing":
        del state["tokens.projection.bias"]
        message = r"lacks \['tokens.projection.bias'\]"
    else:
        state["predictor.weight"] = torch.zeros(1)
        message = r"unknown entries \['predictor.weight'\]"
    with pytest.raises(ValueError, match=message):
        to_braindecode(state)


def test_braindecodes_layout_with_a_tensor_missing_is_refused():
    state = to_braindecode(BIOT(**SMALL).state_dict())
    del state["encoder.channel_tokens.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key.*channel_tokens"):
        BIOT(**SMALL).load_state_dict(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_sinusoidal_position_table_is_left_out(dtype):
    state = to_braindecode(BIOT(**SMALL).to(dtype).state_dict())
    table = state["encoder.positional_encoding.pe"]
    assert table.dtype == dtype
    assert drop_position_table(state).keys() == state.keys() - {
        "encoder.positional_encoding.pe"
    }


def test_another_position_table_is_refused():
    state = to_braindecode(BIOT(**SMALL).state_dict())
    state["encoder.positional_encoding.pe"] += 0.01
    with pytest.raises(ValueError, match="not the sinusoidal position table"):
        BIOT(**SMALL).load_state_dict(state)
