"""From an EDF file to one embedding per window: this package beside the usual pipeline.

    python benchmarks/recording.py [--hours 1] [--repeats 3] [--long 24] [--json FILE]

The usual pipeline is MNE and PyTorch as tutorials put them together: load, resample,
bipolar reference, fixed-length epochs, DataLoader, `braindecode.models.BIOT`. Both get
the same weights and an EDF file of 19 electrodes at 256 Hz that the script makes; they
take turns within one process. Before anything is timed, the embeddings are compared,
with the resampler of this package in both.

With `--long` the memory is measured as well: a child process embeds a file of that many
hours, 21 electrodes at 500 Hz, and reports how far it went above what the libraries and
the model need.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

warnings.simplefilter("ignore")  # braindecode's imports warn of what is not ours

import edfio  # noqa: E402
import mne  # noqa: E402
import torch  # noqa: E402
from braindecode.models import BIOT as HostBIOT  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from braindecode_biot import BIOT, embed_recording  # noqa: E402
from braindecode_biot.channels import TCP16  # noqa: E402

ELECTRODES = [
    *("Fp1", "Fp2", "F3", "F4", "C3", "C4", "P3", "P4", "O1", "O2", "F7", "F8"),
    *("T7", "T8", "P7", "P8", "Fz", "Cz", "Pz", "A1", "A2"),
]
WINDOW_SECONDS, BATCH = 10, 32


def make_edf(path: Path, hours: float, n_chans: int, sfreq: int) -> None:
    """Write noise with the spectrum of EEG; long files repeat their first hour."""
    rng = np.random.default_rng(0)
    seconds = int(min(hours, 1) * 3600)
    signals = []
    for name in ELECTRODES[:n_chans]:
        n = seconds * sfreq
        spectrum = np.fft.rfft(rng.normal(size=n))
        spectrum /= np.maximum(np.fft.rfftfreq(n, 1 / sfreq), 0.5)
        samples = np.fft.irfft(spectrum, n)
        samples *= 20 / samples.std()
        limits = -200.0, 200.0
        signals.append(
            edfio.EdfSignal(
                samples.clip(*limits),
                sfreq,
                label=f"EEG {name}-REF",
                physical_dimension="uV",
                physical_range=limits,
            )
        )
    edfio.Edf(signals).write(path)
    if hours > 1:
        header = 256 * (n_chans + 1)
        with path.open("r+b") as file:
            file.seek(236)
            n_records = int(file.read(8))
            file.seek(236)
            file.write(f"{round(n_records * hours):<8}".encode())
            file.seek(header)
            hour = file.read()
            for _ in range(round(hours) - 1):
                file.write(hour)


def usual(path: Path, model: torch.nn.Module, method: str) -> np.ndarray:
    """Embed a recording as tutorials do."""
    raw = mne.io.read_raw_edf(path, preload=True)
    raw.rename_channels(lambda name: name.removeprefix("EEG ").removesuffix("-REF"))
    raw.resample(200, method=method)
    anodes, cathodes = zip(*(name.split("-") for name in TCP16), strict=True)
    given = {name.upper(): name for name in raw.ch_names}
    raw = mne.set_bipolar_reference(
        raw,
        [given[name] for name in anodes],
        [given[name] for name in cathodes],
        ch_name=list(TCP16),
    ).pick(list(TCP16))
    epochs = mne.make_fixed_length_epochs(raw, WINDOW_SECONDS, preload=True)
    windows = torch.tensor(epochs.get_data() * 1e6, dtype=torch.float32)
    loader = DataLoader(TensorDataset(windows), batch_size=BATCH)
    model.eval()
    with torch.inference_mode():
        return torch.cat([model(x)[1] for (x,) in loader]).numpy()


def ours(path: Path, model: BIOT) -> np.ndarray:
    """Embed it with this package."""
    return embed_recording(model, path, batch_size=BATCH, verbose=0).embeddings


def models() -> dict[str, torch.nn.Module]:
    """Make braindecode's model, this one with its weights, and one that scales."""
    torch.manual_seed(0)
    shape = dict(n_times=200 * WINDOW_SECONDS, n_outputs=2)
    host = HostBIOT(n_chans=16, return_feature=True, **shape)
    plain = BIOT(channel_names="tcp-16", input_scaling=None, **shape)
    plain.load_state_dict(host.state_dict())
    scaled = BIOT(channel_names="tcp-16", **shape)
    return {"host": host, "plain": plain, "scaled": scaled}


def compare(hours: float, repeats: int) -> dict[str, object]:
    """Print how long both take."""
    made = models()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recording.edf"
        make_edf(path, hours, 19, 256)
        expected = usual(path, made["host"], "polyphase")
        error = np.abs(ours(path, made["plain"]) - expected).max()
        error /= np.abs(expected).max()
        print(f"{len(expected)} embeddings differ by {error:.1e} of their scale.")
        if error > 1e-5:
            raise SystemExit("That is no rounding: nothing to compare.")
        runs = {
            "usual pipeline": lambda: usual(path, made["host"], "fft"),
            "usual pipeline, polyphase": lambda: usual(path, made["host"], "polyphase"),
            "this package": lambda: ours(path, made["plain"]),
            "this package, with scaling": lambda: ours(path, made["scaled"]),
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
    base = statistics.median(seconds["usual pipeline"])
    print(f"\n| {hours:g} h, 19 electrodes, 256 Hz | median (s) | ratio |")
    print("|---|---|---|")
    for name, seen in seconds.items():
        median = statistics.median(seen)
        print(f"| {name} | {median:.2f} | {base / median:.2f} × |")
    return {"hours": hours, "seconds": seconds, "error": float(error)}


def peak_mib() -> float:
    """Tell how much memory this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def present_mib() -> float:
    """Tell how much memory this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def embed_alone(path: Path) -> None:
    """Embed one file, and print what memory that took; for a child process."""
    model = models()["scaled"]
    before = present_mib()
    start = time.perf_counter()
    found = embed_recording(model, path, batch_size=BATCH)
    print(
        json.dumps(
            {
                "windows": len(found),
                "seconds": time.perf_counter() - start,
                "model_mib": before,
                "peak_mib": peak_mib(),
            }
        )
    )


def measure_memory(hours: float) -> dict[str, object]:
    """Print how much memory a long file takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.edf"
        make_edf(path, hours, 21, 500)
        size = os.path.getsize(path) / 2**30
        command = [sys.executable, __file__, "--embed", str(path)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    told = json.loads(done.stdout.splitlines()[-1])
    above = told["peak_mib"] - told["model_mib"]
    print(
        f"\n{hours:g} h, 21 electrodes, 500 Hz, {size:.1f} GiB: {told['windows']} "
        f"embeddings in {told['seconds']:.0f} s, at most {above:.0f} MiB above the "
        f"{told['model_mib']:.0f} MiB of the model and its libraries."
    )
    return {"hours": hours, "gib": size, **told}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long", type=float, help="measure memory on so many hours")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--embed", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    mne.set_log_level("error")
    if args.embed:
        embed_alone(args.embed)
        return
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    results = {}
    if args.repeats:
        results["speed"] = compare(args.hours, args.repeats)
    if args.long:
        results["memory"] = measure_memory(args.long)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
