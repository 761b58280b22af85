"""Time this BIOT against braindecode's, with the same weights on the same windows.

    python benchmarks/speed.py [--repeats 15] [--compile] [--json FILE]
    python benchmarks/speed.py --device cuda [--bf16] [--compile]

The two take turns within one process, so that whatever else the machine does hits both;
medians are compared, and minima, which know least of what else the machine did. Parity
of logits and, for the training step, of gradients is asserted before anything is timed,
and on a CPU so is that a long window gives the same bits alone and in a batch. Beside
them stands the share of the time that the products of matrices would take at the peak,
as measured between the runs, and the memory that a call takes above what was held
before, in a process of its own.

--compile adds both models through torch.compile, which takes minutes; --bf16 runs all
under autocast. On a CPU a second table tells what the option to mask missing data
costs, on complete batches and on others.
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
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

warnings.simplefilter("ignore")  # braindecode's imports warn of what is not ours

from braindecode.models import BIOT as HostBIOT  # noqa: E402

from braindecode_biot import BIOT  # noqa: E402
from braindecode_biot.weights import to_braindecode  # noqa: E402

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
TRAINING = {
    "training step, batch 32": (32, 16, 2000),
    "training step, batch 128": (128, 16, 2000),
}


class Setting(NamedTuple):
    """Where and how models run."""

    device: str = "cpu"
    bf16: bool = False
    compiled: bool = False

    def cast(self) -> AbstractContextManager[object]:
        """Return what runs operations in bf16, if they are to."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.bf16)

    def wait(self) -> None:
        """Wait until all is done."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    @property
    def tolerance(self) -> float:
        """Return by how much of their scale logits may differ."""
        if self.bf16:
            return 3e-2
        return 1e-5 if self == Setting() else 1e-4

    def __str__(self) -> str:
        """Say it in words."""
        words = [self.device, "bf16" if self.bf16 else "fp32"]
        return ", ".join([*words, "compiled"] if self.compiled else words)


def models(n_chans: int, n_times: int, setting: Setting) -> dict[str, nn.Module]:
    """Make the models with the same weights; the host has no scaling."""
    shape = dict(n_chans=n_chans, n_times=n_times, n_outputs=2, drop_prob=0.1)
    host = HostBIOT(**shape)
    ours, scaling = BIOT(**shape, input_scaling=None), BIOT(**shape)
    for model in (ours, scaling):
        model.load_state_dict(host.state_dict())
    made = dict(braindecode=host, ours=ours, ours_q95=scaling)
    made = {name: model.to(setting.device) for name, model in made.items()}
    if setting.compiled:
        made = {name: torch.compile(model) for name, model in made.items()}
    return made


def check(models: dict[str, nn.Module], x: Tensor, setting: Setting) -> None:
    """Stop where there is nothing to compare."""
    host, ours = models["braindecode"].eval(), models["ours"].eval()
    with torch.inference_mode(), setting.cast():
        expected, got = host(x).float(), ours(x).float()
    error = float((got - expected).abs().max() / expected.abs().max())
    if not error <= setting.tolerance:
        raise SystemExit(f"the models differ by {error:.1e}: nothing to compare")
    if setting != Setting():
        return
    x = x[:4]
    with torch.inference_mode():
        got, alone = ours(x), torch.cat([ours(window[None]) for window in x])
    # The modules, to which short sentences are left, do not promise that.
    tokens = x.shape[1] * (1 + (x.shape[2] - 200) // 100)
    if tokens >= 128 and not torch.equal(got, alone):
        raise SystemExit("a window gives other bits alone than in a batch")


def check_gradients(models: dict[str, nn.Module], x: Tensor, setting: Setting) -> None:
    """Stop where the training steps are not the same."""
    found = []
    for name in ("braindecode", "ours"):
        model = models[name].eval()  # no dropout, which draws otherwise in each
        with setting.cast():
            loss = nn.functional.cross_entropy(model(x).float(), labels(x))
        loss.backward()
        # A compiled model puts a prefix before its names.
        grads = {
            key.removeprefix("_orig_mod."): parameter.grad
            for key, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        found.append(grads if name == "braindecode" else to_braindecode(grads))
        model.zero_grad()
    theirs, mine = found
    # Rounding goes with that of all that a gradient was summed from.
    scale = max(float(grad.abs().max()) for grad in theirs.values())
    error = max(float((mine[key] - grad).abs().max()) for key, grad in theirs.items())
    if not error <= setting.tolerance * scale:
        raise SystemExit(f"gradients differ by {error / scale:.1e} of their scale")


def labels(x: Tensor) -> Tensor:
    return torch.arange(len(x), device=x.device) % 2


def gflop(batch: int, n_chans: int, n_times: int) -> float:
    """Return the work of one forward pass, as its equations stand."""
    n_tokens = n_chans * (1 + (n_times - 200) // 100)
    per_layer = 12 * 256**2 + 2 * 256 * 32
    return batch * n_tokens * 2 * (4 * per_layer + 101 * 256) / 1e9


def matrices(setting: Setting) -> Callable[[], None]:
    """Return a function that multiplies large matrices, 8.6 GFLOP."""
    dtype = torch.bfloat16 if setting.bf16 else torch.float32
    like = dict(device=setting.device, dtype=dtype)
    a, b = torch.randn(4096, 1024, **like), torch.randn(1024, 1024, **like)
    out = torch.empty(4096, 1024, **like)

    def run() -> None:
        with torch.inference_mode():
            torch.mm(a, b, out=out)

    return run


def peak_memory(
    name: str, shape: tuple[int, int, int], work: str, setting: Setting
) -> float:
    """Measure in a process of its own the MB that a call takes at most."""
    call = [sys.executable, __file__, "--device", setting.device, "--peak", name, work]
    options = ["--bf16"] * setting.bf16 + ["--compile"] * setting.compiled
    call += [*map(str, shape), *options]
    done = subprocess.run(call, check=True, capture_output=True, text=True)
    return float(done.stdout)


def resident(key: str) -> float:
    """Return VmRSS or VmHWM, the memory held now or at most, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def print_peak(setting: Setting, name: str, work: str, *shape: str) -> None:
    """Print what one call takes above what was held before."""
    batch, n_chans, n_times = (int(n) for n in shape)
    model = models(n_chans, n_times, setting)[name]
    run = train if work == "training" else infer
    x = torch.randn(batch, n_chans, n_times, device=setting.device)
    # Libraries, threads and the optimizer's state; compiled graphs hold for a shape.
    run(model, x if setting.compiled else x[:1], setting)()
    call = run(model, x, setting)
    print_taken(call, setting)


def print_taken(call: Callable[[], None], setting: Setting) -> None:
    """Print the MB that a call takes at most above what is held before."""
    if setting.device == "cuda":
        before = torch.cuda.memory_allocated() / 2**20
        torch.cuda.reset_peak_memory_stats()
        call()
        print(torch.cuda.max_memory_allocated() / 2**20 - before)
        return
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest starts again from now
    call()
    print(resident("VmHWM") - before)


def infer(model: nn.Module, x: Tensor, setting: Setting) -> Callable[[], None]:
    """Return a function that runs one batch."""
    model.eval()

    def run() -> None:
        with torch.inference_mode(), setting.cast():
            model(x)
        setting.wait()

    return run


def train(model: nn.Module, x: Tensor, setting: Setting) -> Callable[[], None]:
    """Return a function that takes one step of Adam."""
    model.train()
    # A rate that learns nothing: gradients that vanish turn denormal, and crawl.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-8)
    truth = labels(x)

    def run() -> None:
        optimizer.zero_grad()
        with setting.cast():
            loss = nn.functional.cross_entropy(model(x), truth)
        loss.backward()
        optimizer.step()
        setting.wait()

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
        runs = [work(plain, complete, Setting()), work(masking, x, Setting())]
        seen = interleave(runs, repeats)
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
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--bf16", action="store_true", help="run under autocast")
    parser.add_argument("--compile", action="store_true", help="also compiled")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    parser.add_argument("--only", default="", help="rows whose names hold this")
    parser.add_argument("--peak", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.manual_seed(0)
    setting = Setting(args.device, args.bf16)
    if args.peak:
        print_peak(setting._replace(compiled=args.compile), *args.peak)
        return

    machine = f"{platform.machine()}, {torch.get_num_threads()} threads"
    if args.device == "cuda":
        machine = torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, {machine}, {args.repeats} repeats")
    print("Times in ms, median and minimum; memory in MB\n")
    print("| work | braindecode | ours | ratio | with q95 | ratio | of peak | memory |")
    print("|---|---|---|---|---|---|---|---|")
    rows: list[dict[str, object]] = []
    for name, shape in (INFERENCE | TRAINING).items():
        for compiled in (False, True)[: 1 + args.compile]:
            if args.only in name:
                how = setting._replace(compiled=compiled)
                rows.append(compare(name, shape, args.repeats, how))
    if not args.only and args.device == "cpu":
        rows += masking_table(args.repeats)
    if args.json:
        about = dict(date=str(date.today()), torch=torch.__version__, machine=machine)
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=1))


def compare(
    name: str, shape: tuple[int, int, int], repeats: int, setting: Setting
) -> dict[str, object]:
    """Print one row, and return its numbers."""
    work = "training" if name in TRAINING else "inference"
    memory = {
        model: peak_memory(model, shape, work, setting)
        for model in ("braindecode", "ours")
    }
    torch.compiler.reset()
    x = torch.randn(*shape, device=setting.device)
    made = models(*shape[1:], setting)
    check(made, x, setting)
    if name in TRAINING:
        check_gradients(made, x, setting)
    make = train if name in TRAINING else infer
    runs = [make(model, x, setting) for model in made.values()]
    *times, peak = interleave([*runs, matrices(setting)], repeats)
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
    at_peak = gflop(*shape) / 8.59 * min(peak) * (3 if work == "training" else 1)
    share = " → ".join(
        f"{at_peak / least[model]:.2f}" for model in ("braindecode", "ours")
    )
    title = f"{name}, compiled" if setting.compiled else name
    print(
        f"| {title} | {both['braindecode']} | {both['ours']} | {ratio['ours']} × | "
        f"{both['ours_q95']} | {ratio['ours_q95']} × | {share} | "
        f"{memory['braindecode']:.0f} → {memory['ours']:.0f} |",
        flush=True,
    )
    numbers = dict(shape=shape, ms=seen, peak_ms=peak, memory_mb=memory)
    return dict(work=name, setting=str(setting), **numbers)


if __name__ == "__main__":
    main()
