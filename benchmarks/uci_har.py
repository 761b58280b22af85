"""Repeat the BIOT paper's experiment on human activity recognition.

    python benchmarks/uci_har.py [--data PATH] [--seeds 0 1 2 3 4] [--recipe paper]
        [--threads 1] [--parts FOLDER] [--json FILE] [--table]

The UCI HAR set in the protocol of Yang et al. (2023, section 3): trained on the
official training half; the official test half is cut at random into windows for
validation and windows for the test. These overlap by half and share their persons, so
that what is best on the one is near the best on the other. BIOT with tokens of 2 s
every 0.2 s; the cut and the initial weights follow from the seed. The recipes:

paper
    Each channel of a window is divided by its 95th percentile; Adam at 1e-3 with weight
    decay 1e-5, batches of 128, at most 100 epochs, stopped after five without a better
    kappa on the validation windows, of which the best is tested.
cosine
    The learning rate falls to zero along a cosine, over 12 epochs; the best is tested.
fixed scale
    As that, and channels are divided by their 95th percentile over the training half,
    so that windows keep their amplitudes.

Beside them stand a logistic regression on log spectra and a random forest on summary
features of the same windows, and what the paper reports. Each seed's result is kept in
--parts as it ends, so that an interrupted run goes on, and seeds can run one by one,
side by side; --table prints what is there.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

warnings.simplefilter("ignore")  # braindecode's imports warn of what is not ours

from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.metrics import (  # noqa: E402
    balanced_accuracy_score,
    cohen_kappa_score,
    f1_score,
    make_scorer,
)
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from skorch import NeuralNetClassifier  # noqa: E402
from skorch.callbacks import EarlyStopping, EpochScoring, LRScheduler  # noqa: E402
from skorch.dataset import Dataset  # noqa: E402
from skorch.helper import predefined_split  # noqa: E402
from torch.optim.lr_scheduler import CosineAnnealingLR  # noqa: E402

from braindecode_biot import BIOT  # noqa: E402
from braindecode_biot.datasets import read_uci_har  # noqa: E402
from braindecode_biot.files import write_whole  # noqa: E402

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("BIOT_SHARED", ROOT.parent / "shared"))
SEEDS = [0, 1, 2, 3, 4]
METRICS = ["balanced accuracy", "Cohen's kappa", "weighted F1"]
# Mean and standard deviation over five seeds (Yang et al. 2023, table of HAR).
PAPER = {
    "BIOT (the paper)": [(0.9461, 0.0134), (0.9351, 0.0160), (0.9458, 0.0136)],
}
TOKENS = dict(token_size=100, hop_length=10, sfreq=50)
RECIPES: dict[str, dict[str, Any]] = {
    "paper": dict(scale="window"),
    "cosine": dict(scale="window", cosine=12),
    "fixed scale": dict(scale="training half", cosine=12),
}

Array = NDArray[Any]


def load(path: Path, seed: int) -> tuple[dict[str, tuple[Array, Array]], Array]:
    """Read windows and classes, and cut the test half in two; tell whose is tested."""
    train, test = read_uci_har(path, "train"), read_uci_har(path, "test")
    classes = np.unique(train.y)
    order = np.random.default_rng(seed).permutation(len(test.y))
    valid, held = np.array_split(order, 2)
    parts = {
        "train": (train.X, train.y),
        "valid": (test.X[valid], test.y[valid]),
        "test": (test.X[held], test.y[held]),
    }
    encoded = {n: (x, np.searchsorted(classes, y)) for n, (x, y) in parts.items()}
    return encoded, test.subjects[held]


def score(truth: Array, predicted: Array) -> dict[str, float]:
    """Score predictions by the paper's three measures."""
    values = (
        balanced_accuracy_score(truth, predicted),
        cohen_kappa_score(truth, predicted),
        f1_score(truth, predicted, average="weighted"),
    )
    return dict(zip(METRICS, map(float, values), strict=True))


def train_biot(
    parts: dict[str, tuple[Array, Array]],
    persons: Array,
    seed: int,
    recipe: dict[str, Any],
    epochs: int,
) -> dict[str, Any]:
    """Train BIOT by a recipe, and test the best epoch; also person by person."""
    scaling = "q95" if recipe["scale"] == "window" else None
    if scaling is None:
        scale = np.quantile(np.abs(parts["train"][0]), 0.95, axis=(0, 2))[:, None]
        parts = {k: (np.float32(x / scale), y) for k, (x, y) in parts.items()}
    (x, y), valid, (x_test, y_test) = parts.values()
    epochs = recipe.get("cosine", epochs)
    if "cosine" in recipe:
        callbacks: list[Any] = [LRScheduler(CosineAnnealingLR, T_max=epochs)]
        patience = epochs
    else:
        callbacks, patience = [], 5
    torch.manual_seed(seed)
    net = NeuralNetClassifier(
        BIOT,
        module__n_chans=x.shape[1],
        module__n_times=x.shape[2],
        module__n_outputs=int(y.max()) + 1,
        module__input_scaling=scaling,
        **{f"module__{key}": value for key, value in TOKENS.items()},
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=1e-5,
        lr=1e-3,
        batch_size=128,
        max_epochs=epochs,
        iterator_train__shuffle=True,
        iterator_train__drop_last=True,
        train_split=predefined_split(Dataset(*valid)),
        callbacks=[
            *callbacks,
            EpochScoring(make_scorer(cohen_kappa_score), False, name="kappa"),
            EarlyStopping("kappa", patience, 0, lower_is_better=False, load_best=True),
        ],
        verbose=1,
    )
    start = time.perf_counter()
    net.fit(x, y)
    kappas = net.history[:, "kappa"]
    predicted = net.predict(x_test)
    by_person = {}
    for person in np.unique(persons):
        own = persons == person
        by_person[int(person)] = balanced_accuracy_score(y_test[own], predicted[own])
    return dict(
        score(y_test, predicted),
        by_person=by_person,
        minutes=(time.perf_counter() - start) / 60,
        epochs=len(kappas),
        best_epoch=int(np.argmax(kappas)) + 1,
        validation=[float(value) for value in kappas],
        train_loss=[float(value) for value in net.history[:, "train_loss"]],
    )


def log_spectra(x: Array) -> Array:
    """Return the log of the power spectrum of each channel."""
    return np.log(np.abs(np.fft.rfft(x)) ** 2 + 1e-6).reshape(len(x), -1)


def summaries(x: Array) -> Array:
    """Return what a glance at each channel tells, gravity among it."""
    steps = np.abs(np.diff(x)).mean(-1)
    quantiles = np.moveaxis(np.quantile(x, [0, 0.25, 0.5, 0.75, 1], axis=-1), 0, -1)
    cross = np.stack(
        [np.corrcoef(window)[np.triu_indices(x.shape[1], 1)] for window in x]
    )
    parts = [x.mean(-1), x.std(-1), steps, quantiles.reshape(len(x), -1), cross]
    return np.concatenate(parts, axis=1)


def fit_baselines(
    parts: dict[str, tuple[Array, Array]], seed: int
) -> dict[str, dict[str, float]]:
    """Fit simple models; the validation windows choose the regression's penalty."""
    (x, y), (x_valid, y_valid), (x_test, y_test) = parts.values()
    fits = []
    for c in (1e-3, 1e-2, 1e-1):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500))
        model.fit(log_spectra(x), y)
        fits.append((model.score(log_spectra(x_valid), y_valid), c, model))
    logistic = max(fits, key=lambda fit: fit[:2])[2]
    forest = RandomForestClassifier(500, random_state=seed).fit(summaries(x), y)
    return {
        "logistic regression, log spectra": score(
            y_test, logistic.predict(log_spectra(x_test))
        ),
        "random forest, summary features": score(
            y_test, forest.predict(summaries(x_test))
        ),
    }


def write(path: Path, content: Any) -> None:
    write_whole(path, json.dumps(content, indent=1).encode())


def summarize(folder: Path) -> dict[str, Any]:
    """Gather the seeds that are there, by model."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*-seed*.json")):
        part = json.loads(file.read_text())
        for name, scores in part["scores"].items():
            found.setdefault(name, {})[str(part["seed"])] = scores
    return found


def print_table(found: dict[str, Any]) -> None:
    """Print means and standard deviations over seeds, as Markdown."""
    print("| model |", " | ".join(METRICS), "| seeds | epochs |")
    print("|---" * 6 + "|")
    for name, row in PAPER.items():
        cells = " | ".join(f"{mean:.4f} ± {sd:.4f}" for mean, sd in row)
        print(f"| {name} | {cells} | 5 | |")
    for name, seeds in found.items():
        cells = []
        for metric in METRICS:
            values = [scores[metric] for scores in seeds.values()]
            sd = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.4f}{sd}")
        epochs = [str(s["best_epoch"]) for s in seeds.values() if "best_epoch" in s]
        print(f"| {name} | {' | '.join(cells)} | {len(seeds)} | {', '.join(epochs)} |")


def main() -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "uci_har")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--recipe", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--epochs", type=int, default=100, help="at most")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    out = ROOT / "build" / "uci_har"
    parser.add_argument("--parts", type=Path, default=out / "parts")
    parser.add_argument("--json", type=Path, default=out / "uci_har.json")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    jobs = [(seed, name) for seed in args.seeds for name in ["baselines", *args.recipe]]
    for seed, name in [] if args.table else jobs:
        path = args.parts / f"{name.replace(' ', '-')}-seed{seed}.json"
        settings = dict(RECIPES.get(name, {}), tokens=TOKENS, epochs=args.epochs)
        if path.is_file() and json.loads(path.read_text())["settings"] == settings:
            continue
        parts, persons = load(args.data, seed)
        if name == "baselines":
            scores: dict[str, Any] = fit_baselines(parts, seed)
        else:
            result = train_biot(parts, persons, seed, RECIPES[name], args.epochs)
            scores = {f"this package, {name}": result}
        write(path, dict(seed=seed, settings=settings, scores=scores))
    found = summarize(args.parts)
    print_table(found)
    versions = dict(torch=torch.__version__, python=platform.python_version())
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    about = dict(date=str(date.today()), machine=machine, versions=versions)
    write(args.json, {**about, "results": found})


if __name__ == "__main__":
    main()
