"""The shipped recording: what it holds, and what it must not hold."""

import importlib.util
import os
import warnings
from importlib.resources import files
from pathlib import Path

import mne
import numpy as np
import pytest

from braindecode_biot.datasets import load_absence

DATA = files("braindecode_biot") / "data"
TOOL = Path(__file__).parents[1] / "tools" / "make_absence.py"
ELECTRODES = [
    *("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"),
    *("F7", "F8", "T3", "T4", "T5", "T6", "Fz", "Cz", "Pz", "A1", "A2"),
]
SEIZURES = [(200.512, 3.734), (236.897, 5.946), (296.933, 6.336)]


@pytest.fixture(scope="module")
def raw():
    return load_absence()


@pytest.fixture(scope="module")
def make_absence():
    """Import the tool, which lies outside the package."""
    pytest.importorskip("edfio")
    pytest.importorskip("h5py")
    if not TOOL.exists():
        pytest.skip("tools/ is not part of the source distribution")
    spec = importlib.util.spec_from_file_location("make_absence", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def band_power(raw, channel, start, duration):
    """Mean power density at 2.5-4 Hz."""
    spectrum = raw.compute_psd(
        method="welch",
        fmin=2.5,
        fmax=4,
        tmin=start,
        tmax=start + duration,
        picks=channel,
        n_fft=400,
    )
    return spectrum.get_data().mean()


def test_channels_rate_and_length(raw):
    assert raw.ch_names == ELECTRODES
    assert set(raw.get_channel_types()) == {"eeg"}
    assert raw.info["sfreq"] == 200
    assert raw.n_times == 340 * 200
    assert raw.preload


def test_every_electrode_has_its_position(raw):
    positions = raw.get_montage().get_positions()["ch_pos"]
    assert list(positions) == ELECTRODES
    assert np.isfinite(list(positions.values())).all()
    assert positions["T3"][0] < 0 < positions["T4"][0]


def test_seizures_have_onset_and_duration(raw):
    seizures = raw.annotations[raw.annotations.description == "seizure"]
    np.testing.assert_allclose(
        np.c_[seizures.onset, seizures.duration], SEIZURES, atol=1e-9
    )


def test_other_notes_are_kept_as_they_are(raw):
    texts = list(raw.annotations.description)
    assert len(texts) == 30
    assert {"HV START", "paused blowing", "#11", 'could not recall "pu'} < set(texts)
    assert not {"SZ START", "SZ END"} & set(texts)
    hyperventilation = raw.annotations[texts.index("HV START")]
    assert hyperventilation["onset"] == pytest.approx(108.38)
    assert hyperventilation["duration"] == 0


def test_annotations_follow_a_crop(raw):
    """Without a date, onsets stay those of the whole recording's clock."""
    events, codes = mne.events_from_annotations(raw.copy().crop(190, 230))
    onsets = events[events[:, 2] == codes["seizure"], 0]
    assert onsets.tolist() == [round(200.512 * 200)]


def test_no_date_and_no_identity(raw):
    assert raw.info["meas_date"] is None
    assert raw.annotations.orig_time is None
    content = (DATA / "absence.edf").read_bytes()
    header = content[: int(content[184:192])].decode("ascii")
    assert header[8:88].rstrip() == "X X X X"
    assert header[88:168].rstrip() == "Startdate X X X X"
    assert header[168:184] == "01.01.8500.00.00"
    notes = " ".join(raw.annotations.description)
    code = "3fe61c07d97e5b5595d647f9c1dc469e"
    for identifier in (code, "2619", "Subject", "Male", "1990", "17.01.00", "2000"):
        assert identifier not in header
        assert identifier not in notes


def test_samples_are_plausible_volts(raw):
    deviation = raw.get_data().std(axis=1)
    assert (deviation > 10e-6).all()
    assert (deviation < 200e-6).all()
    assert np.abs(raw.get_data()).max() < 2e-3


@pytest.mark.parametrize("channel", ["F3", "F4", "Fz"])
def test_spike_and_wave_stands_inside_the_marks(raw, channel):
    inside = [band_power(raw, channel, *seizure) for seizure in SEIZURES]
    rest = [band_power(raw, channel, start, 6) for start in range(0, 190, 6)]
    assert min(inside) > 10 * max(rest)


def test_reference_is_the_mean_of_c3_and_c4(raw):
    """The docstring says so; the user's choice of derivations hangs on it."""
    assert np.abs(raw.get_data(["C3", "C4"]).sum(axis=0)).max() < 7e-6


def test_each_call_gives_its_own_recording(raw):
    other = load_absence()
    other.apply_function(lambda signal: 0 * signal)
    other.annotations.delete(0)
    assert raw.get_data().any()
    assert len(raw.annotations) == len(other.annotations) + 1


def test_loading_is_silent(capsys):
    with mne.use_log_level("INFO"), warnings.catch_warnings():
        warnings.simplefilter("error")
        load_absence()
    assert capsys.readouterr() == ("", "")


def test_file_is_small_and_brings_its_licence():
    assert len((DATA / "absence.edf").read_bytes()) <= 4e6
    licence = (DATA / "absence.LICENSE.txt").read_text(encoding="utf-8")
    assert "eeghdf-0.2.4" in licence
    assert "https://github.com/eegml/eeghdf" in licence
    assert "BSD 3-Clause License" in licence
    assert "Copyright (c) 2017, Chris Lee-Messer" in licence
    assert "BSD" in (DATA / "README.md").read_text(encoding="utf-8")


def test_another_source_is_refused(make_absence, tmp_path):
    source = tmp_path / "eeghdf-0.2.4.tar.gz"
    source.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"sha256 is \w{64}, expected e9b3f91e"):
        make_absence.make(source, tmp_path)
    assert not (tmp_path / "absence.edf").exists()


def test_recording_is_made_anew_to_the_byte(make_absence, tmp_path):
    source = os.environ.get("ABSENCE_SOURCE")
    if source is None:
        pytest.skip("ABSENCE_SOURCE names no copy of eeghdf-0.2.4.tar.gz")
    make_absence.make(Path(source), tmp_path)
    made = sorted(path.name for path in tmp_path.iterdir())
    assert made == ["absence.LICENSE.txt", "absence.edf"]
    for name in made:
        assert (tmp_path / name).read_bytes() == (DATA / name).read_bytes()
