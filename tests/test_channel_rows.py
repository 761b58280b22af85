"""Channels known by name and by position."""

import warnings

import mne
import numpy as np
import pandas as pd
import pytest
import torch
from braindecode.datasets import BaseConcatDataset, pad_channels_collate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from braindecode_biot import BIOT
from braindecode_biot.channels import TCP18
from recordings import make_dataset, make_raw

SMALL = dict(n_outputs=2, n_times=40, sfreq=20, hop_length=10, emb_size=16, n_layers=1)
NAN = float("nan")
POSITIONS = mne.channels.make_standard_montage("colin27_1005").get_positions()["ch_pos"]


def named(*names: str) -> list[dict]:
    return [{"ch_name": name} for name in names]


def placed(*names: str) -> list[dict]:
    return [{"ch_name": n, "loc": [*POSITIONS[n], *[0] * 9]} for n in names]


def like(model: BIOT, **changes) -> BIOT:
    """Make a model with the same weights on other channels."""
    config = {"channel_names": model.channel_names, "missing": model.missing}
    other = BIOT(**SMALL | config | changes).eval()
    other.load_state_dict(model.state_dict())
    return other


@pytest.fixture(scope="module")
def model() -> BIOT:
    torch.manual_seed(0)
    return BIOT(**SMALL, channel_names="tcp-18", missing="mask").eval()


@given(names=st.permutations(TCP18), n=st.integers(1, 18))
@settings(max_examples=20, deadline=None)
def test_any_channels_in_any_order(model, names, n):
    names = names[:n]
    x = torch.randn(2, 18, 40)
    absent = [row for row, name in enumerate(TCP18) if name not in names]
    x[:, absent] = NAN
    rows = [TCP18.index(name) for name in names]
    for missing in ("raise", "mask"):
        subset = like(model, chs_info=named(*names), missing=missing)
        torch.testing.assert_close(subset(x[:, rows]), model(x), rtol=1e-4, atol=1e-5)


def test_names_are_those_of_the_field_not_letters(model):
    x = torch.randn(2, 2, 40)
    new, old = (
        like(model, chs_info=named(*names))(x)
        for names in (["F7-T7", "C3-A2"], ["EEG F7-T3", "c3–M2"])
    )
    assert torch.equal(new, old)
    assert not torch.allclose(new, like(model, chs_info=named("F7-T7", "C4-A1"))(x))


def test_a_vocabulary_alone_makes_all_its_channels(model):
    assert model.n_chans == 18
    assert model.channel_names == list(TCP18)
    own = BIOT(**SMALL, channel_names=("acc_x", "acc_y"))
    assert own.n_chans == 2
    assert own.tokens.channel_tokens.num_embeddings == 2


def test_without_a_vocabulary_place_is_identity():
    model = BIOT(**SMALL, chs_info=named("Cz", "Cz", "Pz"))
    assert model.channel_names is None
    assert model.channels.rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(channel_names="tcp-20", n_chans=18), "'tcp-16', 'tcp-18'"),
        (dict(channel_names=["C3", "EEG c3"]), "'C3' and 'EEG c3'"),
        (dict(channel_names=["C3", "C4"], chs_info=named("C3", "Oz")), r"lacks \['Oz'"),
        (dict(channel_names=["C3"], chs_info=named("C3", "C3-LE")), "'C3' and 'C3-LE'"),
        (dict(channel_names="tcp-18", n_chans=16), "18 names, but there are 16"),
    ],
)
def test_names_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        BIOT(**SMALL | given)


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Index, iter])
def test_a_vocabulary_of_any_kind_stays_in_the_configuration(kind):
    first = BIOT(**SMALL, chs_info=named("Pz", "C3"), channel_names=kind(["C3", "Pz"]))
    again = BIOT.from_config(first.get_config())
    assert again.channel_names == ["C3", "Pz"]
    assert again.channels.rows.tolist() == [1, 0]
    assert BIOT(**SMALL, channel_names=kind(["C3", "Pz"])).n_chans == 2


def test_the_vocabulary_stays_in_the_configuration(model):
    again = BIOT.from_config(model.get_config())
    assert again.channel_names == list(TCP18)
    assert again.missing == "mask"
    assert set(again.state_dict()) == set(model.state_dict())


class TestPositions:
    """``pos`` of braindecode's data sets tells which channels a window has."""

    NAMES = ("C3", "C4", "Cz", "Pz", "Oz")

    @pytest.fixture(scope="class")
    def model(self):
        torch.manual_seed(0)
        return BIOT(**SMALL, chs_info=placed(*self.NAMES), missing="mask").eval()

    def where(self, *names):
        return torch.tensor(np.array([POSITIONS[name] for name in names])).float()

    @pytest.mark.parametrize("missing", ["raise", "mask"])
    def test_windows_with_other_channels(self, model, missing):
        x = torch.randn(2, 3, 40)
        pos = torch.stack([self.where("Oz", "C4", "Cz"), torch.zeros(3, 3)])
        pos[1, :2] = self.where("C3", "Pz")
        ch_mask = torch.tensor([[True, True, True], [True, True, False]])
        x[1, 2] = 0
        expected = torch.full((2, 5, 40), NAN)
        expected[0, [4, 1, 2]] = x[0]
        expected[1, [0, 3]] = x[1, :2]
        got = like(model, chs_info=placed(*self.NAMES), missing=missing)(
            x, pos=pos, ch_mask=ch_mask
        )
        torch.testing.assert_close(got, model(expected), rtol=1e-4, atol=1e-5)

    def test_in_another_order_of_a_vocabulary(self):
        vocabulary = BIOT(**SMALL, channel_names=self.NAMES).eval()
        x, order = torch.randn(1, 5, 40), [3, 0, 4, 2, 1]
        names = [self.NAMES[i] for i in order]
        known = like(vocabulary, chs_info=placed(*sorted(self.NAMES)))
        pos = self.where(*names)[None]
        torch.testing.assert_close(known(x[:, order], pos=pos), vocabulary(x))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
    def test_in_any_precision(self, model, dtype):
        x = torch.randn(1, 5, 40)
        pos = self.where(*self.NAMES)[None].to(dtype)
        assert torch.equal(model(x, pos=pos), model(x))

    def test_of_another_head(self, model):
        # The electrodes of one template may be nearest to others of another template.
        pos = 0.9 * self.where(*self.NAMES)[None]
        with pytest.raises(ValueError, match="knows no electrode"):
            model(torch.randn(1, 5, 40), pos=pos)

    def test_channels_of_one_position_cannot_be_told_apart(self):
        twins = [*placed("C3", "C4"), placed("C3")[0] | {"ch_name": "C3'"}]
        model = BIOT(**SMALL, chs_info=twins).eval()
        x, pos = torch.randn(1, 1, 40), self.where("C4")[None]
        assert model(x, pos=pos).isfinite().all()
        with pytest.raises(ValueError, match="several channels of the model have"):
            model(x, pos=self.where("C3")[None])

    def test_an_electrode_that_the_model_does_not_know(self, model):
        pos = self.where("C3", "Fz")[None]
        with pytest.raises(ValueError, match=r"Channel 1 of window 0 has the position"):
            model(torch.randn(1, 2, 40), pos=pos)

    @pytest.mark.parametrize("unknown", [0.0, NAN])
    def test_a_channel_without_a_position(self, model, unknown):
        pos = self.where("C3", "C4")[None]
        pos[0, 1] = unknown
        with pytest.raises(ValueError, match="knows no electrode"):
            model(torch.randn(1, 2, 40), pos=pos)

    def test_zero_is_no_position(self):
        chs_info = [*placed("C3", "C4"), {"ch_name": "ECG", "loc": [0.0] * 12}]
        model = BIOT(**SMALL, chs_info=chs_info).eval()
        pos = self.where("C3", "C4", "Cz")[None]
        pos[0, 2] = 0
        with pytest.raises(ValueError, match="Channel 2 of window 0"):
            model(torch.randn(1, 3, 40), pos=pos)

    def test_the_same_electrode_twice(self, model):
        pos = self.where("C3", "C4", "C3")[None].repeat(2, 1, 1)
        ch_mask = torch.tensor([[True, True, False], [True, True, True]])
        with pytest.raises(ValueError, match="Two channels of window 1"):
            model(torch.randn(2, 3, 40), pos=pos, ch_mask=ch_mask)

    def test_a_model_without_positions_goes_by_place(self):
        blind = BIOT(**SMALL, n_chans=2).eval()
        x, pos = torch.randn(2, 2, 40), self.where("C3", "C4").repeat(2, 1, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(blind(x, pos=pos), blind(x))
            assert torch.equal(blind(x, pos=pos * NAN), blind(x))
        pos[1] = self.where("C4", "C3")
        with pytest.warns(UserWarning, match="electrodes at different positions"):
            assert torch.equal(blind(x, pos=pos), blind(x))
        with pytest.raises(ValueError, match="Expected windows of shape"):
            blind(torch.randn(1, 3, 40), pos=torch.zeros(1, 3, 3))

    def test_padding_without_positions_is_said(self, model):
        ch_mask = torch.ones(2, 5, dtype=torch.bool)
        ch_mask[1, 3:] = False
        with pytest.warns(UserWarning, match=r"call set_return_ch_pos\(True\)"):
            model(torch.randn(2, 5, 40), ch_mask=ch_mask)
        with pytest.raises(ValueError, match="Expected windows of shape"):
            model(torch.randn(2, 4, 40), ch_mask=ch_mask[:, :4])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(torch.randn(2, 5, 40), ch_mask=ch_mask.flip(1))  # dead, not padded
            model(torch.randn(2, 5, 40), ch_mask=torch.ones_like(ch_mask))

    def test_the_hosts_own_batches(self, model):
        recordings = [["Pz", "C3"], ["Oz", "Cz", "C4", "C3"], ["C4"]]
        datasets = []
        for seed, names in enumerate(recordings):
            raw = make_raw(20.0, names, ["eeg"] * len(names), [], 80, seed)
            raw.set_montage("colin27_1005")
            datasets += make_dataset(raw, size=40).datasets
        data = BaseConcatDataset(datasets).set_return_ch_pos(True)
        loader = DataLoader(data, batch_size=6, collate_fn=pad_channels_collate)
        x, _, _, pos, ch_mask = next(iter(loader))
        info = make_raw(20.0, self.NAMES, ["eeg"] * 5, []).set_montage("colin27_1005")
        known = like(model, chs_info=info.info["chs"])
        expected = torch.full((6, 5, 40), NAN)
        for i, window in enumerate(data):
            for name, samples in zip(recordings[i // 2], window[0], strict=True):
                expected[i, self.NAMES.index(name)] = torch.as_tensor(samples)
        got = known(x, pos=pos, ch_mask=ch_mask)
        torch.testing.assert_close(got, model(expected), rtol=1e-4, atol=1e-5)
