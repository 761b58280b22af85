"""Time this BIOT against braindecode's, with the same weights on the same windows.

    python benchmarks/speed.py [--repeats 15] [--json FILE]

The two take turns within one process, so that whatever else the machine does hits both;
medians are compared, and minima, which know least of what else the machine did. Parity
is asserted before anything is timed, and so is that a long window gives the same bits
alone and in a batch. Beside them stands the share of the time that the products of
matrices would take at the peak, as measured between the runs, and the memory that a
call takes above what the process held before, in a process of its own. A second table
tells what the option to mask missing data costs, on complete batches and on others.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

warnings.simplefilter("ignore")  # braindecode's imports warn of what is not ours

from braindecode.models import BIOT as HostBIOT  # noqa: E402

from braindecode_biot import BIOT  # noqa: E402

# Name: (batch, channels, samples at 200 Hz)
INFERENCE = {
    "inference, batch 1": (1, 16, 2000),
    "inference, batch 32": (32, 16, 2000),
    "inference, batch 128": (128, 16, 2000),
    "inference, 18 channels, 30 s, batch 8": (8, 18, 6000),
    "inference, 64 channels, 10 s, batch 8": (8, 64, 2000),
    "inference, 2 channels, 5 s, batch 64": (64, 2, 1000),
    "inference, 19 channels, 5 min, batch 1": (1, 19, 60000),
}
TRAINING = {"training step, batch 32": (32, 16, 2000)}


def models(n_chans: int, n_times: int) -> dict[str, nn.Module]:
    """Make the models with the same weights; the host has no scaling."""
    shape = dict(n_chans=n_chans, n_times=n_times, n_outputs=2, drop_prob=0.1)
    host = HostBIOT(**shape)
    ours, scaling = BIOT(**shape, input_scaling=None), BIOT(**shape)
    for model in (ours, scaling):
        model.load_state_dict(host.state_dict())
    return dict(braindecode=host, ours=ours, ours_q95=scaling)


def check(models: dict[str, nn.Module], x: Tensor) -> None:
    """Stop where there is nothing to compare."""
    host, ours = models["braindecode"].eval(), models["ours"].eval()
    x = x[:4]
    with torch.inference_mode():
        expected, got = host(x), ours(x)
        alone = torch.cat([ours(window[None]) for window in x])
    error = float((got - expected).abs().max() / expected.abs().max())
    if error > 1e-5:
        raise SystemExit(f"the models differ by {error:.1e}: nothing to compare")
    # The modules, to which short sentences are left, do not promise that.
    tokens = x.shape[1] * (1 + (x.shape[2] - 200) // 100)
    if tokens >= 128 and not torch.equal(got, alone):
        raise SystemExit("a window gives other bits alone than in a batch")


def gflop(batch: int, n_chans: int, n_times: int) -> float:
    """Return the work of one forward pass, as its equations stand."""
    n_tokens = n_chans * (1 + (n_times - 200) // 100)
    per_layer = 12 * 256**2 + 2 * 256 * 32
    return batch * n_tokens * 2 * (4 * per_layer + 101 * 256) / 1e9


def matrices() -> Callable[[], None]:
    """Return a function that multiplies large matrices, 8.6 GFLOP."""
    a = torch.randn(4096, 1024)
    b, out = torch.randn(1024, 1024), torch.empty(4096, 1024)

    def run() -> None:
        with torch.inference_mode():
            torch.mm(a, b, out=out)

    return run


def peak_memory(name: str, batch: int, n_chans: int, n_times: int, work: str) -> float:
    """Measure in a process of its own the MB that a call takes at most."""
    call = [sys.executable, __file__, "--peak", name, work]
    shape = [str(n) for n in (batch, n_chans, n_times)]
    done = subprocess.run([*call, *shape], check=True, capture_output=True, text=True)
    return float(done.stdout)


def resident(key: str) -> float:
    """Return VmRSS or VmHWM, the memory held now or at most, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def print_peak(name: str, work: str, *shape: str) -> None:
    """Print what one call takes above what the process held before."""
    batch, n_chans, n_times = (int(n) for n in shape)
    model = models(n_chans, n_times)[name]
    run = train if work == "training" else infer
    x = torch.randn(batch, n_chans, n_times)
    run(model, x[:1])()  # libraries and threads
    call = run(model, x)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest starts again from now
    call()
    print(resident("VmHWM") - before)


def infer(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a function that runs one batch."""
    model.eval()

    def run() -> None:
        with torch.inference_mode():
            model(x)

    return run


def train(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Return a function that takes one step of Adam."""
    model.train()
    # A rate that learns nothing: gradients that vanish turn denormal, and crawl.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-8)
    labels = torch.arange(len(x)) % 2

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()

    return run


def interleave(runs: list[Callable[[], None]], repeats: int) -> list[list[float]]:
    """Time functions in turn; return the milliseconds of each."""
    times: list[list[float]] = [[] for _ in runs]
    for i in range(repeats + 2):
        for run, seen in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            if i >= 2:  # the first two warm up
                seen.append((time.perf_counter() - start) * 1e3)
    return times


def masking_table(repeats: int) -> list[dict[str, object]]:
    """Time a model with missing="mask" against one without."""
    print("\n| batch of 32 | without the option (ms) | missing='mask' (ms) | cost |")
    print("|---|---|---|---|")
    rows: list[dict[str, object]] = []
    shape = dict(n_chans=16, n_times=2000, n_outputs=2)
    plain, masking = BIOT(**shape), BIOT(**shape, missing="mask")
    masking.load_state_dict(plain.state_dict())
    complete = torch.randn(32, 16, 2000)
    gaps, few, short = complete.clone(), complete.clone(), complete.clone()
    gaps[::2, ::3, 700:800] = torch.nan
    few[:, 2:] = torch.nan
    short[..., 1000:] = torch.nan
    for name, x, work in [
        ("inference, complete", complete, infer),
        ("training step, complete", complete, train),
        ("inference, a gap in every sixth channel", gaps, infer),
        ("training step, a gap in every sixth channel", gaps, train),
        ("inference, 2 of 16 channels there", few, infer),
        ("inference, 5 of 10 s there", short, infer),
    ]:
        seen = interleave([work(plain, complete), work(masking, x)], repeats)
        without, with_mask = (statistics.median(times) for times in seen)
        cost = 100 * (with_mask / without - 1)
        print(
            f"| {name} | {without:.0f} | {with_mask:.0f} | {cost:+.0f} % |", flush=True
        )
        rows.append(dict(work=name, without_ms=seen[0], mask_ms=seen[1]))
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--only", default="", help="rows whose names hold this")
    parser.add_argument("--peak", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    if args.peak:
        print_peak(*args.peak)
        return

    cpu = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()}"
    print(f"torch {torch.__version__}, {cpu} threads, {args.repeats} repeats")
    print("Times in ms, median and minimum; memory in MB\n")
    print("| work | braindecode | ours | ratio | with q95 | ratio | of peak | memory |")
    print("|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, object]] = []
    for name, shape in (INFERENCE | TRAINING).items():
        if args.only in name:
            rows.append(compare(name, shape, args.repeats))
    if not args.only:
        rows += masking_table(args.repeats)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def compare(name: str, shape: tuple[int, int, int], repeats: int) -> dict[str, object]:
    """Print one row, and return its numbers."""
    work = "training" if name in TRAINING else "inference"
    memory = {
        model: peak_memory(model, *shape, work) for model in ("braindecode", "ours")
    }
    x = torch.randn(*shape)
    made = models(*shape[1:])
    check(made, x)
    make = train if name in TRAINING else infer
    runs = [make(model, x) for model in made.values()]
    *times, peak = interleave([*runs, matrices()], repeats)
    seen = dict(zip(made, times, strict=True))
    median = {model: statistics.median(times) for model, times in seen.items()}
    least = {model: min(times) for model, times in seen.items()}
    both = {model: f"{median[model]:.1f}, {least[model]:.1f}" for model in made}
    ratio = {
        model: " ×, ".join(
            f"{of['braindecode'] / of[model]:.2f}" for of in (median, least)
        )
        for model in made
    }
    share = "–"
    if work == "inference":
        at_peak = gflop(*shape) / 8.59 * min(peak)
        share = " → ".join(
            f"{at_peak / least[model]:.2f}" for model in ("braindecode", "ours")
        )
    print(
        f"| {name} | {both['braindecode']} | {both['ours']} | {ratio['ours']} × | "
        f"{both['ours_q95']} | {ratio['ours_q95']} × | {share} | "
        f"{memory['braindecode']:.0f} → {memory['ours']:.0f} |",
        flush=True,
    )
    return dict(work=name, shape=shape, ms=seen, peak_ms=peak, memory_mb=memory)


if __name__ == "__main__":
    main()
