"""What a recording is, as a table of words for those who have just received it.

Owns the summary that ``braindecode-biot info`` prints. Must not know networks, nor
import torch.
"""

from collections import Counter
from typing import Any

import mne

from braindecode_biot.montage import montage_report
from braindecode_biot.signal import signal_params

__all__ = ["describe_recording", "summarise"]


def describe_recording(
    raw: mne.io.BaseRaw, montage: Any = "tcp-18", window: float = 10.0
) -> dict[str, Any]:
    """Describe a recording in plain values.

    Parameters
    ----------
    raw : mne.io.BaseRaw
        The recording; it is not loaded.
    montage : "tcp-16" | "tcp-18" | list of str
        Montage to report on.
    window : float
        Length of windows in seconds, for the signal parameters.

    Returns
    -------
    dict
        ``duration`` in seconds, ``date``, ``lowpass`` and ``highpass`` in Hz,
        ``channel_types``, ``bads``, ``annotations`` (how many of each description),
        ``signal`` (what a model would be given for these windows, without
        ``chs_info``; or why there are none), ``montage`` (its table) and ``coverage``.
    """
    info = raw.info
    signal: Any
    try:
        signal = dict(signal_params(raw, input_window_seconds=window))
        signal.pop("chs_info")
    except ValueError as error:
        signal = str(error)
    report = montage_report(raw, montage)
    date = info["meas_date"]
    return {
        "duration": float(raw.n_times / info["sfreq"]),
        "sfreq": float(info["sfreq"]),
        "date": None if date is None else date.isoformat(),
        "highpass": float(info["highpass"]),
        "lowpass": float(info["lowpass"]),
        "channel_types": dict(Counter(raw.get_channel_types())),
        "bads": list(info["bads"]),
        "annotations": dict(Counter(map(str, raw.annotations.description))),
        "signal": signal,
        "montage": report.to_dataframe().to_dict("records"),
        "coverage": report.coverage,
    }


def summarise(
    raw: mne.io.BaseRaw, montage: Any = "tcp-18", window: float = 10.0
) -> str:
    """Put the description of a recording in lines for a reader.

    Parameters
    ----------
    raw, montage, window
        As for :func:`describe_recording`.

    Returns
    -------
    str
        Length, channels, annotations, signal parameters, and the montage's table.

    Examples
    --------
    >>> from braindecode_biot import load_absence
    >>> print(summarise(load_absence(), ["C3-A2"]))
    340 s (0:05:40) at 200 Hz, filtered from 0 to 100 Hz, no date
    Channels: 21 eeg; bad: none
    Annotations: 3 eyes closed, 3 eyes open, 3 seizure, ...
    Signal parameters of 10-s windows: n_chans=21, n_times=2000, sfreq=200, \
input_window_seconds=10
    Montage own: 1 of 1 channels
    channel  status   from     note
    C3-A2    derived  C3 − A2
    Not used: Fp1, ...
    """
    told = describe_recording(raw, montage, window)
    minutes, seconds = divmod(round(told["duration"]), 60)
    clock = f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
    types = ", ".join(f"{n} {kind}" for kind, n in told["channel_types"].items())
    common = Counter(told["annotations"]).most_common()
    notes = ", ".join(f"{n} {text}" for text, n in common[:8]) or "none"
    if len(common) > 8:
        notes += f", and {len(common) - 8} more"
    signal = told["signal"]
    if not isinstance(signal, str):
        signal = ", ".join(f"{key}={value:.10g}" for key, value in signal.items())
    return "\n".join(
        [
            f"{told['duration']:.10g} s ({clock}) at {told['sfreq']:.10g} Hz, filtered "
            f"from {told['highpass']:.10g} to {told['lowpass']:.10g} Hz, "
            f"{told['date'] or 'no date'}",
            f"Channels: {types}; bad: {', '.join(told['bads']) or 'none'}",
            f"Annotations: {notes}",
            f"Signal parameters of {window:.10g}-s windows: {signal}",
            str(montage_report(raw, montage)),
        ]
    )
