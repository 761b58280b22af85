"""The recording that comes with the package.

Owns the way to the packaged file and how it becomes an MNE recording. It must
not download anything, and must not import torch.
"""

from importlib.resources import as_file, files

import mne

__all__ = ["load_absence"]


def load_absence() -> mne.io.BaseRaw:
    """Load a clinical EEG with three absence seizures during hyperventilation.

    An excerpt of 340 s from the EEG of a child. The samples are the
    source's own: neither filtered nor resampled nor referenced anew. Their
    reference is the mean of C3 and C4: those two hold little by themselves,
    while the ears hold EEG. Derivations such as C3-A2 do not depend on it.

    Returns
    -------
    mne.io.BaseRaw
        The recording, in memory: ``get_data()`` is ``(21, 68000)``, in volts,
        at 200 Hz. The channels are the 19 electrodes of the 10-20 system under
        their old names (``T3``, ``T4``, ``T5``, ``T6``) and the ears ``A1`` and
        ``A2``, with the positions of MNE's montage ``colin27_1020``. There is no
        measurement date. Each call gives a recording of its own.

        ``annotations`` holds three ``"seizure"`` with onset and duration, as
        marked by the clinic, and the notes taken during the recording, with
        duration 0. ``HV`` in a note stands for hyperventilation. The notes are
        as the source has them: it cuts texts off after 20 characters.

    Notes
    -----
    The recording is de-identified: it says neither whose it is nor when it was
    made. It is 1180-1520 s of ``data/absence_epilepsy.eeg.h5`` in the source
    distribution of eeghdf 0.2.4 by Chris Lee-Messer
    (https://github.com/eegml/eeghdf), under the BSD 3-Clause licence, which
    lies beside the recording in ``absence.LICENSE.txt``.

    Examples
    --------
    >>> from braindecode_biot.datasets import load_absence
    >>> raw = load_absence()
    >>> raw.get_data().shape, raw.info["sfreq"]
    ((21, 68000), 200.0)
    >>> for note in raw.annotations:
    ...     if note["description"] == "seizure":
    ...         print(f"{note['onset']:.1f} s, for {note['duration']:.1f} s")
    200.5 s, for 3.7 s
    236.9 s, for 5.9 s
    296.9 s, for 6.3 s
    """
    # as_file: MNE wants a path, also where the package is read out of a zip.
    with as_file(files("braindecode_biot") / "data" / "absence.edf") as path:
        raw = mne.io.read_raw_edf(
            path,
            infer_types=True,  # "EEG Fp1" becomes the EEG channel "Fp1"
            preload=True,
            verbose="warning",
        )
    # An EDF header must hold a date, and has a stand-in where there is none.
    raw.set_meas_date(None)
    return raw.set_montage("colin27_1020", verbose="warning")
