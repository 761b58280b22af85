"""Time a step of contrastive pretraining, beside the official way, and the loader.

    python benchmarks/pretraining_speed.py [--repeats 5] [--batch 32] [--json FILE]
    python benchmarks/pretraining_speed.py --device cuda --batch 256
        [--bf16] [--compile]

A step is both views, InfoNCE, the backward pass and Adam, on 16 channels of 10 s at
200 Hz. The other side is the official module: braindecode's encoder, which is that one,
with ``perturb=True``, and the predictor. It drops the same number of tokens, and the
same ones, from each window of the batch; this package draws for each window, and drops
channels besides. Without drops both give the same embeddings, which is asserted first.
The two take turns within one process; medians are compared, and what a step takes in
memory above what was held before.

The loader is measured on the shipped recording, as an archive on the disk from which
windows are read one by one: alone, in batches, with and without workers.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import date
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor, nn

warnings.simplefilter("ignore")  # braindecode's imports warn of what is not ours

from braindecode_biot import BIOT, open_archive, prepare_archive  # noqa: E402
from braindecode_biot.losses import info_nce  # noqa: E402
from braindecode_biot.pretraining import ContrastivePretraining  # noqa: E402
from braindecode_biot.pretraining_data import WindowPool, collate  # noqa: E402
from braindecode_biot.sampling import BalancedSampler, ResumableLoader  # noqa: E402
from speed import Setting, interleave, models, print_taken  # noqa: E402

N_CHANS, N_TIMES = 16, 2000
NAMES = ["official", "ours"]
Views = Callable[[Tensor], tuple[Tensor, Tensor]]


class Official(nn.Module):
    """The official module for unsupervised pretraining, on braindecode's encoder."""

    def __init__(self, encoder: nn.Module, prediction: nn.Module) -> None:
        super().__init__()
        self.encoder, self.prediction = encoder, prediction

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embed windows, and predict from a part of each."""
        predictions = self.prediction(self.encoder(x, perturb=True))
        return self.encoder(x), predictions


def make(name: str, setting: Setting) -> tuple[nn.Module, Views]:
    """Make one side; return its parameters and how it embeds both views."""
    torch.manual_seed(0)
    made = models(N_CHANS, N_TIMES, Setting(setting.device))
    module = ContrastivePretraining(made["ours"]).to(setting.device)
    if name == "ours":
        views: Views = module.views
        own: nn.Module = module
    else:
        own = Official(made["braindecode"].encoder, module.prediction)
        views = own
    return own, torch.compile(views) if setting.compiled else views


def check(x: Tensor) -> None:
    """Stop where there is nothing to compare."""
    sides = {name: make(name, Setting())[0].eval() for name in NAMES}
    with torch.no_grad():
        expected, got = sides["official"].encoder(x), sides["ours"](x)
    error = float((got - expected).abs().max() / expected.abs().max())
    if not error <= 1e-5:
        raise SystemExit(f"the encoders differ by {error:.1e}: nothing to compare")


def step(name: str, x: Tensor, setting: Setting) -> Callable[[], None]:
    """Return a function that takes one step of Adam."""
    module, views = make(name, setting)
    module.train()
    # A rate that learns nothing: gradients that vanish turn denormal, and crawl.
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-8)

    def run() -> None:
        optimizer.zero_grad()
        with setting.cast():
            loss = info_nce(*views(x))
        loss.backward()
        optimizer.step()
        setting.wait()

    return run


def peak_memory(name: str, batch: int, setting: Setting) -> float:
    """Measure in a process of its own the MB that a step takes at most."""
    call = [sys.executable, __file__, "--device", setting.device, "--peak", name]
    options = ["--bf16"] * setting.bf16 + ["--compile"] * setting.compiled
    call += ["--batch", str(batch), *options]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return float(done.stdout)


def print_peak(name: str, batch: int, setting: Setting) -> None:
    """Print what a step takes above what was held before."""
    x = torch.randn(batch, N_CHANS, N_TIMES, device=setting.device)
    call = step(name, x, setting)
    # Libraries, threads and the optimizer's state; compiled graphs hold for a shape.
    step(name, x if setting.compiled else x[:2], setting)()
    if setting.device == "cuda":
        call()  # makes the optimizer's state
    print_taken(call, setting)


def loader_rates(repeats: int) -> dict[str, float]:
    """Measure windows per second that come from an archive."""
    model = BIOT(channel_names="tcp-18", missing="mask", n_outputs=1, n_times=N_TIMES)
    source = files("braindecode_biot") / "data" / "absence.edf"
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        prepare_archive(str(source), folder, window=10, step=0.25)
        pool = WindowPool(open_archive(folder), model)
        order = list(BalancedSampler(pool.sizes))
        begin = time.perf_counter()
        for index in order:
            pool[index]
        rates["window by window"] = len(order) / (time.perf_counter() - begin)
        for n_workers in (0, 1, 2):
            loader = ResumableLoader(
                pool,
                BalancedSampler(pool.sizes),
                batch_size=32,
                num_workers=n_workers,
                persistent_workers=n_workers > 0,
                collate_fn=collate,
            )
            seen = []
            for i in range(repeats + 1):
                begin = time.perf_counter()
                n = sum(len(batch.windows) for batch in loader)
                if i:  # the first epoch starts the workers
                    seen.append(n / (time.perf_counter() - begin))
            rates[f"batches of 32, {n_workers} workers"] = statistics.median(seen)
    return rates


def main() -> None:
    """Time both sides, print the tables, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--bf16", action="store_true", help="run under autocast")
    parser.add_argument("--compile", action="store_true", help="compile both")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--peak", choices=NAMES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    setting = Setting(args.device, args.bf16, args.compile)
    if args.peak:
        print_peak(args.peak, args.batch, setting)
        return
    x = torch.randn(args.batch, N_CHANS, N_TIMES)
    check(x[:4])
    x = x.to(args.device)
    times = interleave([step(name, x, setting) for name in NAMES], args.repeats)
    medians = dict(zip(NAMES, map(statistics.median, times), strict=True))
    memory = {name: peak_memory(name, args.batch, setting) for name in NAMES}
    print(f"{setting}, batch {args.batch}, torch {torch.__version__}")
    for name in NAMES:
        rate = args.batch / medians[name] * 1e3
        print(
            f"{name:9} {medians[name]:8.0f} ms  {rate:8.1f} windows/s"
            f"  {memory[name]:6.0f} MB"
        )
    print(f"ratio     {medians['official'] / medians['ours']:8.2f} ×")
    rates = loader_rates(args.repeats)
    for name, rate in rates.items():
        print(f"loader, {name}: {rate:.0f} windows/s")
    if args.json:
        versions = dict(torch=torch.__version__, python=platform.python_version())
        about = dict(date=str(date.today()), versions=versions, setting=str(setting))
        figures = dict(batch=args.batch, ms=medians, mb=memory, loader=rates)
        args.json.write_text(json.dumps(about | figures, indent=1))


if __name__ == "__main__":
    main()
