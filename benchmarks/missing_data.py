"""Ask what missing data costs, and whether masking them pays, on real recordings.

    python benchmarks/missing_data.py [--data FOLDER] [--seeds 1] [--draws 3]
        [--token-size 200] [--parts FOLDER] [--json FILE] [--figure FILE]

The study of missing data in the BIOT paper (Yang et al. 2023), on rest versus mental
arithmetic of PhysioNet's eegmat: test windows of 5 s lose k half-second segments in
each channel, or c of their 16 channels. The paper goes to k = 5 and c = 4, this to 6
and 12. Two models per fold see complete windows or windows with random holes, a third
one the same holes as zeros; all are tested on the same damage. Each person's scores are
averaged over folds, draws and seeds; intervals are a bootstrap over persons.

Folds are over persons ("new persons") or over quarters of each recording ("known
persons", easier: the model has heard the same two recordings, at other times). Each
fold's result is kept in --parts, so that an interrupted run goes on; a change of the
settings, but not of the package, computes it anew.
"""

import argparse
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

mpl.use("Agg")
warnings.simplefilter("ignore")  # braindecode's imports warn of what is not ours

import matplotlib.pyplot as plt  # noqa: E402

from braindecode_biot import BIOTClassifier  # noqa: E402
from braindecode_biot.augmentation import RandomMissing, remove  # noqa: E402
from eegmat_windows import (  # noqa: E402
    N_FOLDS,
    ROOT,
    SFREQ,
    SHARED,
    WINDOW,
    Array,
    band_powers,
    interval,
    load,
    say,
    write,
)

SEGMENT = 100
DAMAGE = {"segments": [0, 1, 2, 3, 4, 5, 6], "channels": [0, 1, 2, 3, 4, 8, 12]}
AMOUNTS = [(kind, amount) for kind, amounts in DAMAGE.items() for amount in amounts]
PAPER = {"segments": 5, "channels": 4}  # how far the paper goes
SPLITS = {"persons": "New persons", "time": "Known persons, other times"}
MODEL = dict(module__emb_size=64, module__n_layers=1, lr=3e-3)
EPOCHS = {"persons": 12, "time": 30}  # new persons gain nothing from more
METRICS = ["balanced_accuracy", "auroc"]


def remove_as_zeros(X: Tensor, y: Tensor, **where: Any) -> tuple[Tensor, Tensor]:
    """Write zeros over channels and segments."""
    return remove(X, y, **where)[0].nan_to_num(0.0), y


class RandomZeros(RandomMissing):
    """The same random holes, as zeros."""

    operation = staticmethod(remove_as_zeros)


TRAINING = {"complete": 0.0, "holes": RandomMissing(), "zeros": RandomZeros()}
# Name: (how the model was trained, what stands for missing samples, colour, line)
HANDLINGS = {
    "masking": ("complete", np.nan, "#0072B2", "o-"),
    "zero filling": ("complete", 0.0, "#D55E00", "s-"),
    "masking, trained with holes": ("holes", np.nan, "#009E73", "^--"),
    "zero filling, trained with zeros": ("zeros", 0.0, "#CC79A7", "D--"),
}


def draw_holes(kind: str, amount: int, n: int, n_chans: int, seed: list[int]) -> Array:
    """Choose which samples are missing, shape (n, n_chans, WINDOW)."""
    rng = np.random.default_rng([*kind.encode(), amount, *seed])
    if kind == "channels":
        order = rng.random((n, n_chans)).argsort(1).argsort(1)
        return np.broadcast_to((order < amount)[..., None], (n, n_chans, WINDOW))
    # Segments that do not overlap: places in what is left, pushed apart.
    places = rng.integers(0, WINDOW - amount * SEGMENT + 1, (n, n_chans, amount))
    starts = np.sort(places, axis=2) + SEGMENT * np.arange(amount)
    since = np.arange(WINDOW) - starts[..., None]
    return ((since >= 0) & (since < SEGMENT)).any(2)


def tokens_left(holes: Array, token_size: int) -> Array:
    """Return the share of each window's tokens that masking keeps, shape (n,)."""
    frames = np.lib.stride_tricks.sliding_window_view(holes, token_size, axis=2)
    share: Array = 1 - frames[:, :, :: token_size // 2].any(3).mean((1, 2))
    return share


def score(task: Array, persons: Array, p: Array) -> dict[str, dict[str, float]]:
    """Score the probabilities of arithmetic, for each person."""
    scores: dict[str, dict[str, float]] = {}
    for person in np.unique(persons):
        own = persons == person
        accuracy = balanced_accuracy_score(task[own], p[own] > 0.5)
        auroc = roc_auc_score(task[own], p[own])
        scores[str(person)] = dict(balanced_accuracy=accuracy, auroc=auroc)
    return scores


def run_fold(
    data: dict[str, Array], split: str, fold: int, seed: int, draws: int, token: int
) -> dict[str, Any]:
    """Train on three folds, test on the damaged windows of the fourth."""
    held = data[split] % N_FOLDS == fold
    x, task = data["x"][~held], data["task"][~held]
    test = held & data["for_test"]
    x_test, truth = data["x"][test], (data["task"][test], data["persons"][test])

    logistic = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000)
    powers = make_pipeline(StandardScaler(), logistic).fit(band_powers(x), task)
    p = powers.predict_proba(band_powers(x_test))[:, 1]
    result: dict[str, Any] = {"band powers": score(*truth, p), "rows": []}

    models = {}
    for name, augment in TRAINING.items():
        models[name] = BIOTClassifier(
            sfreq=SFREQ,
            channel_names="tcp-16",
            missing="mask",
            augment_missing=augment,
            max_epochs=EPOCHS[split],
            validation_fraction=0,
            random_state=seed,
            module__token_size=token,
            device="cpu",
            **MODEL,
        ).fit(x, task)
    for kind, amount in AMOUNTS:
        for draw in range(draws if amount else 1):
            holes = draw_holes(kind, amount, *x_test.shape[:2], [draw, fold])
            left = tokens_left(holes, token)
            row = dict(kind=kind, amount=amount, tokens=float(left.mean()))
            row["empty"] = float((left == 0).mean())
            for name, (model, filler, *_) in HANDLINGS.items():
                # Of a window without any token masking knows nothing but that both
                # classes are as likely, which counts as rest.
                p = np.full(len(x_test), 0.5)
                known = left > 0 if np.isnan(filler) else left >= 0
                damaged = np.where(holes, np.float32(filler), x_test)[known]
                if known.any():
                    p[known] = models[model].predict_proba(damaged)[:, 1]
                row[name] = score(*truth, p)
            result["rows"].append(row)
    return result


def over_persons(scores: list[dict[str, dict[str, float]]], metric: str) -> Array:
    """Average each person's scores, shape (n_persons,)."""
    names = sorted({name for one in scores for name in one}, key=int)
    seen = [[one[name][metric] for one in scores if name in one] for name in names]
    return np.array([np.mean(values) for values in seen])


def summarize(parts: list[dict[str, Any]], split: str) -> dict[str, Any]:
    """Put folds, seeds and draws of one split together."""
    parts = [part for part in parts if part["split"] == split]
    baseline = [part["band powers"] for part in parts]
    summary: dict[str, Any] = {
        "band powers": {m: interval(over_persons(baseline, m)) for m in METRICS},
        "rows": [],
    }
    for kind, amount in AMOUNTS:
        rows = [row for part in parts for row in part["rows"]]
        rows = [r for r in rows if (r["kind"], r["amount"]) == (kind, amount)]
        entry = dict(kind=kind, amount=amount)
        for key in ("tokens", "empty"):
            entry[key] = float(np.mean([row[key] for row in rows]))
        for metric in METRICS:
            got = {h: over_persons([r[h] for r in rows], metric) for h in HANDLINGS}
            entry[metric] = {name: interval(values) for name, values in got.items()}
            plain, zeros, holes, trained_zeros = got.values()
            entry[f"masking − zeros, {metric}"] = {
                "trained on complete windows": interval(plain - zeros),
                "each trained with its own holes": interval(holes - trained_zeros),
            }
        summary["rows"].append(entry)
    return summary


def print_table(split: str, summary: dict[str, Any]) -> None:
    """Print the means of each handling, and differences with their intervals."""
    both = " / ".join(f"{summary['band powers'][m][0]:.3f}" for m in METRICS)
    print(f"\n{SPLITS[split]}: balanced accuracy / AUROC within persons,")
    print("differences of balanced accuracy with 95 % intervals. Logistic regression")
    print(f"on band powers of complete windows: {both}.\n")
    heads = ["lost", "tokens left", "windows without", *HANDLINGS]
    heads += ["masking − zeros", "the same, trained with them"]
    print("|", " | ".join(heads), "|")
    print("|---" * len(heads) + "|")
    for row in summary["rows"]:
        cells = [f"{row['amount']} {row['kind']}"]
        cells += [f"{row['tokens']:.0%}", f"{row['empty']:.0%}"]
        for name in HANDLINGS:
            cells.append(" / ".join(f"{row[m][name][0]:.3f}" for m in METRICS))
        for mean, low, high in row["masking − zeros, balanced_accuracy"].values():
            cells.append(f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]")
        print("|", " | ".join(cells), "|")


def plot(summary: dict[str, Any], path: Path) -> None:
    """Draw balanced accuracy over damage: segments left, channels right."""
    figure, axes = plt.subplots(
        2, 2, figsize=(9, 7), sharex="col", sharey=True, layout="constrained"
    )
    for (split, title), line in zip(SPLITS.items(), axes, strict=True):
        for kind, ax in zip(DAMAGE, line, strict=True):
            rows = [row for row in summary[split]["rows"] if row["kind"] == kind]
            x = [row["amount"] for row in rows]
            ax.axvline(PAPER[kind], color="0.75", lw=0.9, zorder=0)
            ax.axhline(0.5, color="0.4", lw=0.9, ls=":", zorder=0)
            for name, (_, _, colour, style) in HANDLINGS.items():
                y, low, high = np.array([row[METRICS[0]][name] for row in rows]).T
                ax.fill_between(x, low, high, color=colour, alpha=0.09, lw=0)
                ax.plot(x, y, style, color=colour, ms=4.5, lw=1.6, label=name)
            ax.set_title(title, loc="left", fontsize=10)
            ax.spines[["top", "right"]].set_visible(False)
            ax.margins(x=0.02)
        line[0].set_ylabel("Balanced accuracy")
    axes[1, 0].set_xlabel("Half-second segments lost in each channel, of 5 s")
    axes[1, 1].set_xlabel("Channels lost, of 16")
    small = dict(fontsize=8, color="0.4")
    axes[1, 1].text(12, 0.497, "chance", ha="right", va="top", **small)
    for ax, end in zip(axes[0], PAPER.values(), strict=True):
        where = dict(transform=ax.get_xaxis_transform(), ha="right", va="top")
        ax.text(end - 0.07, 1, "the paper's range", **where, **small)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"part-{path.name}")
    figure.savefig(beside, dpi=120)
    os.replace(beside, path)


def main() -> None:
    """Run what is not there yet, print the tables, write the numbers, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "eegmat")
    parser.add_argument("--seeds", type=int, default=1, help="trainings per fold")
    parser.add_argument("--draws", type=int, default=3, help="damages per amount")
    parser.add_argument("--token-size", type=int, default=SFREQ, help="in samples")
    out = ROOT / "build" / "missing_data"
    parser.add_argument("--parts", type=Path, default=out / "parts")
    parser.add_argument("--json", type=Path, default=out / "missing_data.json")
    parser.add_argument("--figure", type=Path, default=out / "missing_data.png")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load(args.data)
    settings = dict(draws=args.draws, token_size=args.token_size)
    settings |= dict(damage=DAMAGE, model=MODEL, epochs=EPOCHS)

    parts, start = [], time.perf_counter()
    jobs = [
        (s, f, k) for s in range(args.seeds) for k in SPLITS for f in range(N_FOLDS)
    ]
    for i, (seed, fold, split) in enumerate(jobs):
        path = args.parts / f"{split}-fold{fold}-seed{seed}.json"
        part = json.loads(path.read_text()) if path.is_file() else {}
        if part.get("settings") != settings:
            result = run_fold(data, split, fold, seed, args.draws, args.token_size)
            part = dict(settings=settings, split=split, **result)
            write(path, part)
        parts.append(part)
        passed = time.perf_counter() - start
        say(f"{i + 1}/{len(jobs)}: {split}, fold {fold}, seed {seed}; {passed:.0f} s")
    summary: dict[str, Any] = {split: summarize(parts, split) for split in SPLITS}
    for split in SPLITS:
        print_table(split, summary[split])
    write(args.json, {"seeds": args.seeds, **settings, **summary})
    plot(summary, args.figure)
    say(f"The numbers are in {args.json}, the figure in {args.figure}.")


if __name__ == "__main__":
    main()
