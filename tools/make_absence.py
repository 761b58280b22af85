"""Make the shipped recording anew from the data that eeghdf 0.2.4 publishes.

    python tools/make_absence.py [--source eeghdf-0.2.4.tar.gz] [--folder FOLDER]

Without ``--source`` the source distribution comes from the package index. The
result is the same to the byte wherever it is made, and its samples are the
source's own integers: nothing is filtered, scaled or resampled.
"""

import argparse
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import edfio
import h5py

RELEASE = "eeghdf-0.2.4"
SHA256 = "e9b3f91ed5dadb99ff6ab3ba48ba40cbb2146925069a3d450deef1089c5039a2"
FOLDER = Path(__file__).parents[1] / "braindecode_biot" / "data"

# The 19 electrodes of the 10-20 system, then the ears.
ELECTRODES = (
    *("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2"),
    *("F7", "F8", "T3", "T4", "T5", "T6", "Fz", "Cz", "Pz", "A1", "A2"),
)
START, STOP = 1180, 1520  # seconds of the source
SFREQ = 200
TICKS = 10_000_000  # the source counts time in units of 100 ns

ATTRIBUTION = f"""\
absence.edf is an excerpt of data/absence_epilepsy.eeg.h5 in {RELEASE}, by
Chris Lee-Messer, https://github.com/eegml/eeghdf
(sha256 of {RELEASE}.tar.gz: {SHA256}),
used and redistributed under the licence below.

"""


def download(folder: Path) -> Path:
    """Fetch the source distribution from the package index into `folder`."""
    # With the hash at hand, pip refuses another file before it looks inside.
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{RELEASE.replace('-', '==')} --hash=sha256:{SHA256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", ":all:", "--require-hashes"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    subprocess.run(command, check=True)
    return folder / f"{RELEASE}.tar.gz"


def check(source: Path) -> None:
    """Raise ValueError unless `source` is the release this script was made for."""
    with source.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != SHA256:
        raise ValueError(
            f"{source} is not {RELEASE}.tar.gz as published: its sha256 is {found}, "
            f"expected {SHA256}. Download it again, or leave out --source."
        )


def read_signals(record: h5py.Group) -> list[edfio.EdfSignal]:
    """Cut the electrodes' digital samples, with the ranges that give them a unit."""
    rows = {label.decode(): row for row, label in enumerate(record["signal_labels"])}

    def limits(kind: str, row: int) -> tuple[float, float]:
        lowest, highest = record[f"signal_{kind}_mins"], record[f"signal_{kind}_maxs"]
        return lowest[row].item(), highest[row].item()

    return [
        edfio.EdfSignal.from_digital(
            record["signals"][rows[label], START * SFREQ : STOP * SFREQ],
            SFREQ,
            label=label,
            physical_dimension="uV",
            physical_range=limits("physical", rows[label]),
            digital_range=limits("digital", rows[label]),
        )
        for label in (f"EEG {electrode}" for electrode in ELECTRODES)
    ]


def read_annotations(record: h5py.Group) -> list[edfio.EdfAnnotation]:
    """Take the interval's notes as they are, and each seizure's two as one."""
    notes = record["edf_annotations"]
    annotations = []
    seizure_start = None
    for tick, text in zip(notes["starts_100ns"], notes["texts"].asstr(), strict=True):
        # Counted in whole ticks, so that no rounding reaches the file.
        onset = int(tick) - START * TICKS
        if not 0 <= onset < (STOP - START) * TICKS:
            continue
        if text == "SZ START":
            seizure_start = onset
        elif text == "SZ END":
            duration = (onset - seizure_start) / TICKS
            annotations.append(
                edfio.EdfAnnotation(seizure_start / TICKS, duration, "seizure")
            )
        else:
            annotations.append(edfio.EdfAnnotation(onset / TICKS, None, text))
    return annotations


def make(source: Path, folder: Path) -> None:
    """Write ``absence.edf`` and its licence from `source` into `folder`."""
    check(source)
    with tarfile.open(source) as archive:
        licence = archive.extractfile(f"{RELEASE}/LICENSE").read().decode()
        data = archive.extractfile(f"{RELEASE}/data/absence_epilepsy.eeg.h5").read()
    with h5py.File(io.BytesIO(data)) as file:
        record = file["record-0"]
        edf = edfio.Edf(
            read_signals(record),
            # Who and when are left out: X in each field, and 01.01.85 00.00.00.
            patient=edfio.Patient(),
            recording=edfio.Recording(),
            data_record_duration=1,
            annotations=read_annotations(record),
        )
    # Written beside and renamed: a half-written recording never has the name.
    recording = folder / "absence.edf"
    beside = recording.with_suffix(".part")
    edf.write(beside)
    beside.replace(recording)
    (folder / "absence.LICENSE.txt").write_text(
        ATTRIBUTION + licence, encoding="utf-8", newline="\n"
    )


def main() -> None:
    """Read the command line, and make the recording."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, help=f"{RELEASE}.tar.gz, if at hand")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        try:
            make(options.source or download(Path(folder)), options.folder)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            sys.exit(f"{parser.prog}: {error}")


if __name__ == "__main__":
    main()
