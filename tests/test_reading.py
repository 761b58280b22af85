"""Files are opened, not loaded; what MNE would read wrongly is refused."""

import edfio
import mne
import numpy as np
import pytest

from braindecode_biot.reading import RecordingError, open_recording
from conftest import ROOT
from recordings import make_raw

SHIPPED = ROOT / "braindecode_biot" / "data" / "absence.edf"


def discontinuous(path, late=(), mark=b"EDF+D", duration=1.0):
    """Write ten records of a second, of which some begin late."""
    signals = [edfio.EdfSignal(np.sin(np.arange(1000)), 100, label="C3")]
    notes = [edfio.EdfAnnotation(0.5, None, "here")]
    edf = edfio.Edf(signals, annotations=notes, data_record_duration=duration)
    edf.write(path)
    content = bytearray(path.read_bytes())
    content[192:197] = mark
    shift = 0.0
    for record in range(1, 10):
        shift += dict(late).get(record, 0.0)
        old = f"+{record}\x14\x14".encode()
        new = f"+{record + shift:g}\x14\x14".encode()
        at = content.index(old + b"\x00")
        content[at : at + len(new)] = new
    path.write_bytes(content)
    return path


def test_a_file_is_opened_and_stays_on_the_disk():
    raw = open_recording(str(SHIPPED))
    assert not raw.preload
    assert raw.n_times == 68000


def test_a_recording_is_returned_as_it_is():
    raw = make_raw()
    assert open_recording(raw) is raw


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file '.*none.edf'"):
        open_recording(tmp_path / "none.edf")


@pytest.mark.parametrize("name", ["a.edf", "a.fif", "a.txt", "a"])
def test_what_is_no_recording(tmp_path, name):
    (tmp_path / name).write_text("a letter")
    with pytest.raises(RecordingError, match=f"cannot read '.*{name}'"):
        open_recording(tmp_path / name)


def test_a_folder(tmp_path):
    with pytest.raises(RecordingError, match="cannot read"):
        open_recording(tmp_path)


def test_a_torn_header(tmp_path):
    (tmp_path / "a.edf").write_bytes(SHIPPED.read_bytes()[:300])
    with pytest.raises(RecordingError, match="cannot read"):
        open_recording(tmp_path / "a.edf")


@pytest.mark.parametrize("given", [None, 3, np.zeros((2, 100))])
def test_what_is_neither(given):
    with pytest.raises(TypeError, match=r"expected an mne.io.Raw or the path"):
        open_recording(given)


def test_gaps_are_refused(tmp_path):
    path = discontinuous(tmp_path / "a.edf", late=[(4, 12.5), (7, 1)])
    with pytest.raises(RecordingError, match=r"2 gaps, the first of 12.5 s after 4 s"):
        open_recording(path)
    raw = mne.io.read_raw_edf(path, verbose="error")  # as if there were none
    with pytest.raises(RecordingError, match="2 gaps"):
        open_recording(raw)


def test_the_mark_alone_does_no_harm(tmp_path):
    assert open_recording(discontinuous(tmp_path / "a.edf")).n_times == 1000


def test_a_continuous_file_is_not_searched(tmp_path):
    path = discontinuous(tmp_path / "a.edf", late=[(4, 12.5)], mark=b"EDF+C")
    assert open_recording(path).n_times == 1000


def test_records_that_do_not_tell_their_time(tmp_path):
    path = discontinuous(tmp_path / "a.edf")
    content = path.read_bytes().replace(b"+3\x14\x14", b"-x\x14\x14")
    path.write_bytes(content)
    with pytest.raises(RecordingError, match=r"cannot be read: record 3 has no time"):
        open_recording(path)


def test_a_discontinuous_file_without_annotations(tmp_path):
    path = tmp_path / "a.edf"
    edfio.Edf([edfio.EdfSignal(np.sin(np.arange(1000)), 100, label="C3")]).write(path)
    content = bytearray(path.read_bytes())
    content[192:197] = b"EDF+D"
    path.write_bytes(content)
    with pytest.raises(RecordingError, match="has no annotations"):
        open_recording(path)
