"""Time this BIOT against braindecode's, with the same weights on the same windows.

    python benchmarks/speed.py [--repeats 15] [--json FILE]

The two take turns within one process, so that whatever else the machine does hits both;
medians are compared. Parity is asserted before anything is timed. A second table tells
what the option to mask missing data costs, on complete batches and on others.
"""

import argparse
import json
import platform
import statistics
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
}
TRAINING = {"training step, batch 32": (32, 16, 2000)}


def pair(n_chans: int, n_times: int) -> tuple[BIOT, nn.Module]:
    """Make both models with the same weights; scaling off, which the host lacks."""
    shape = dict(n_chans=n_chans, n_times=n_times, n_outputs=2)
    host = HostBIOT(**shape, drop_prob=0.1)
    ours = BIOT(**shape, drop_prob=0.1, input_scaling=None)
    ours.load_state_dict(host.state_dict())
    return ours, host


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
    args = parser.parse_args()
    torch.manual_seed(0)

    cpu = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()}"
    print(f"torch {torch.__version__}, {cpu} threads, {args.repeats} repeats\n")
    print("| work | braindecode (ms) | this package (ms) | ratio |")
    print("|---|---|---|---|")
    rows: list[dict[str, object]] = []
    for name, (batch, n_chans, n_times) in (INFERENCE | TRAINING).items():
        x = torch.randn(batch, n_chans, n_times)
        ours, host = pair(n_chans, n_times)
        expected, got = host.eval()(x), ours.eval()(x)
        error = float((got - expected).abs().max() / expected.abs().max())
        if error > 1e-5:
            raise SystemExit(f"the models differ by {error:.1e}: nothing to compare")
        work = train if name in TRAINING else infer
        seen = interleave([work(host, x), work(ours, x)], args.repeats)
        theirs, mine = (statistics.median(times) for times in seen)
        print(
            f"| {name} | {theirs:.0f} | {mine:.0f} | {theirs / mine:.2f} × |",
            flush=True,
        )
        rows.append(dict(work=name, braindecode_ms=seen[0], ours_ms=seen[1]))
    rows += masking_table(args.repeats)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
