"""Attributions: their sums, tables and choices."""

import numpy as np
import pytest

from braindecode_biot.attribution import Attribution


@pytest.fixture
def attribution() -> Attribution:
    """Three windows of two channels; of the last one, C4 is missing."""
    values = np.random.default_rng(0).normal(size=(3, 2, 4, 51))
    values[2, 1] = np.nan
    values[0, 0, :2] = np.nan
    return Attribution(
        values=values,
        ch_names=("C3", "C4"),
        times=np.array([0.5, 1.0, 1.5, 2.0]),
        freqs=np.arange(51.0),
        targets=np.array(["rest", "task", "rest"]),
        outputs=np.array([1.0, 2.0, 3.0]),
        baseline_outputs=np.array([0.5, 0.5, 0.5]),
        baseline=np.zeros((2, 51)),
        unit="log-odds",
    )


def test_sums_are_over_all_other_axes(attribution):
    values = np.nan_to_num(attribution.values)
    by_channel, by_time = attribution.per_channel(), attribution.per_time()
    assert by_channel.columns.tolist() == ["C3", "C4"]
    assert by_time.columns.tolist() == [0.5, 1.0, 1.5, 2.0]
    np.testing.assert_allclose(by_channel["C3"], values[:, 0].sum((1, 2)))
    np.testing.assert_allclose(by_time, values.sum((1, 3)))
    assert np.isnan(by_channel.loc[2, "C4"])  # for nothing was there
    np.testing.assert_allclose(
        attribution.delta, values.sum((1, 2, 3)) - [0.5, 1.5, 2.5]
    )


def test_bands_end_below_their_upper_frequency_and_at_nyquist(attribution):
    values = np.nan_to_num(attribution.values).sum((1, 2))
    bands = attribution.per_band()
    assert bands.columns.tolist() == ["delta", "theta", "alpha", "beta", "gamma"]
    np.testing.assert_allclose(bands["alpha"], values[:, 8:13].sum(1))
    np.testing.assert_allclose(bands["gamma"], values[:, 30:].sum(1))
    np.testing.assert_allclose(bands.sum(axis=1), values[:, 1:].sum(1))
    own = attribution.per_band({"spikes": (3, 4)})
    np.testing.assert_allclose(own["spikes"], values[:, 3])


def test_only_bands_that_the_model_sees(attribution):
    coarse = Attribution(**{**vars(attribution), "freqs": np.arange(51) * 0.5})
    assert coarse.per_band().columns.tolist() == ["delta", "theta", "alpha", "beta"]
    with pytest.raises(ValueError, match=r"\['ripple'\] hold none .* 0 to 25 Hz in"):
        coarse.per_band({"delta": (1, 4), "ripple": (80, 200)})


def test_windows_are_chosen_like_those_of_an_array(attribution):
    assert len(attribution) == 3
    rest = attribution[attribution.targets == "rest"]
    np.testing.assert_array_equal(rest.outputs, [1, 3])
    np.testing.assert_array_equal(rest.values, attribution.values[[0, 2]])
    assert len(attribution[1]) == len(attribution[-1:]) == len(attribution[[0]]) == 1
    with pytest.raises(IndexError):
        attribution[3]


def test_mean_adds_up_as_its_windows_do(attribution):
    rest = attribution[attribution.targets == "rest"]
    mean = rest.mean()
    np.testing.assert_allclose(mean.delta, rest.delta.mean(keepdims=True))
    assert mean.values.shape == (1, 2, 4, 51)
    assert not np.isnan(mean.values).any()  # each token is there in one of the windows
    assert np.isnan(attribution[2].mean().values[0, 1]).all()


def test_mean_over_several_targets_is_refused(attribution):
    with pytest.raises(ValueError, match=r"targets \['rest', 'task'\], expected one"):
        attribution.mean()


def test_table_has_a_row_per_value(attribution):
    table = attribution.to_dataframe()
    assert len(table) == attribution.values.size
    row = table[
        (table.window == 1)
        & (table.channel == "C4")
        & (table.time == 1.5)
        & (table.frequency == 7)
    ].squeeze()
    assert row.target == "task"
    assert row.attribution == attribution.values[1, 1, 2, 7]


def test_it_says_what_it_is(attribution):
    assert repr(attribution) == (
        "Attribution(3 windows, 2 channels, 4 times, 51 frequencies; of 'rest', "
        "'task', in log-odds)"
    )
