"""Compare models on a small EEG set across persons: rest versus mental arithmetic.

    python benchmarks/eegmat.py [--data FOLDER] [--models NAME ...] [--seeds 2]
        [--folds 0 1 2 3] [--pretrained CHECKPOINT] [--parts FOLDER] [--json FILE]
        [--table]

PhysioNet's eegmat: TCP-16 at 200 Hz, windows of 5 s, four folds that share no person.
Every network has the same windows and the same budget: AdamW along a cosine, batches of
32, class weights, at most 15 epochs, stopped after five without a lower loss on a
quarter of the training persons, of whom the best epoch is kept. The band powers'
regression has no use for such persons, and trains on them too. Balanced accuracy, AUROC
and Cohen's kappa are computed within each person and averaged over seeds; intervals are
a bootstrap over persons, who are few.

"BIOT, chosen" is nested: for each fold, each of the CHOICES is trained and scored
within the training persons alone, in two inner folds; the best by AUROC is then trained
on all of them, and tested once. What the choices scored there is printed as well.

The large models are trained once per fold, the others with --seeds seeds. Each result
is kept in --parts, so that an interrupted run goes on; remove those of a model whose
settings you change. --table prints what is there.
"""

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

warnings.simplefilter("ignore")  # braindecode's imports warn of what is not ours

from braindecode import EEGClassifier  # noqa: E402
from braindecode import models as host  # noqa: E402
from braindecode.augmentation import FTSurrogate, Transform  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.metrics import (  # noqa: E402
    balanced_accuracy_score,
    cohen_kappa_score,
    roc_auc_score,
)
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from skorch.callbacks import EarlyStopping, LRScheduler  # noqa: E402
from skorch.dataset import Dataset  # noqa: E402
from skorch.helper import predefined_split  # noqa: E402
from torch.optim.lr_scheduler import CosineAnnealingLR  # noqa: E402

from braindecode_biot import BIOTClassifier  # noqa: E402
from braindecode_biot.samples import split  # noqa: E402
from braindecode_biot.tokens import scale_q95  # noqa: E402
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

METRICS = ["balanced accuracy", "AUROC", "kappa"]
EPOCHS, PATIENCE, BATCH, SHARE = 15, 5, 32, 0.25
SMALL = dict(module__emb_size=64, module__n_layers=1, lr=3e-3)

# fit(x, task, persons, seed) returns what gives the probability of arithmetic.
Predict = Callable[[Array], Array]
Fit = Callable[[Array, Array, Array, int], Predict]


def powers(
    features: Callable[[Array], Array], x: Array, task: Array, persons: Array, seed: int
) -> Predict:
    """Fit a logistic regression to features such as log band powers."""
    logistic = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000)
    model = make_pipeline(StandardScaler(), logistic).fit(features(x), task)
    return lambda x: model.predict_proba(features(x))[:, 1]


class Varied(BIOTClassifier):
    """A classifier with a loss and an augmentation that it has no parameters for."""

    smoothing = 0.0
    transform: Transform | None = None

    def _loss(self, learned: Any, encoded: Any) -> dict[str, Any]:
        loss = super()._loss(learned, encoded)
        if self.smoothing:
            weight = loss["criterion"].weight
            loss["criterion"] = torch.nn.CrossEntropyLoss(
                weight, label_smoothing=self.smoothing
            )
        return loss

    def _augmentation(self, signal: Any, seed: int) -> Any:
        return self.transform or super()._augmentation(signal, seed)


def biot(
    x: Array,
    task: Array,
    persons: Array,
    seed: int,
    smoothing: float = 0.0,
    transform: Callable[[int], Transform] | None = None,
    differences: bool = False,
    **params: Any,
) -> Predict:
    """Fit this package's classifier."""

    def prepare(x: Array) -> Array:
        return np.diff(x, axis=-1, prepend=x[..., :1]) if differences else x

    budget = dict(max_epochs=EPOCHS, patience=PATIENCE, batch_size=BATCH)
    model = Varied(
        sfreq=SFREQ,
        channel_names="tcp-16",
        validation_fraction=SHARE,
        random_state=seed,
        device="cpu",
        **(budget | params),
    )
    model.smoothing = smoothing
    model.transform = transform(seed) if transform else None
    model.fit(prepare(x), task, groups=persons)
    return lambda x: model.predict_proba(prepare(x))[:, 1]


def braindecode(
    module: type[torch.nn.Module],
    prepare: Callable[[Array], Array],
    x: Array,
    task: Array,
    persons: Array,
    seed: int,
    lr: float = 1e-3,
    **params: Any,
) -> Predict:
    """Fit a model of braindecode through its EEGClassifier."""
    train, valid = split(task, persons, SHARE, seed)
    x = prepare(x)
    torch.manual_seed(seed)
    counts = np.bincount(task[train])
    net = EEGClassifier(
        module,
        module__n_chans=x.shape[1],
        module__n_times=x.shape[2],
        module__n_outputs=2,
        module__sfreq=SFREQ,
        **{f"module__{key}": value for key, value in params.items()},
        criterion=torch.nn.CrossEntropyLoss(
            torch.tensor(counts.sum() / counts / 2).float()
        ),
        optimizer=torch.optim.AdamW,
        optimizer__weight_decay=1e-5,
        lr=lr,
        batch_size=BATCH,
        max_epochs=EPOCHS,
        iterator_train__drop_last=False,
        train_split=predefined_split(Dataset(x[valid], task[valid])),
        callbacks=[
            ("rate", LRScheduler(CosineAnnealingLR, T_max=EPOCHS)),
            ("stop", EarlyStopping(patience=PATIENCE, threshold=0, load_best=True)),
        ],
        classes=[0, 1],
        verbose=0,
    )
    net.fit(x[train], task[train])
    return lambda x: net.predict_proba(prepare(x))[:, 1]


def microvolts(x: Array) -> Array:
    return x * np.float32(1e6)


def scaled(x: Array) -> Array:
    """Scale as the official pipeline does, for models that do not."""
    return scale_q95(torch.from_numpy(x)).numpy()


def surrogates(seed: int) -> Transform:
    """Shift the phases of half of the windows at random."""
    return FTSurrogate(0.5, phase_noise_magnitude=0.9, random_state=seed)


# What is chosen among within the training persons, beside the small model as it is.
CHOICES: dict[str, dict[str, Any]] = {
    "small (64, one layer)": {},
    "two layers": dict(module__n_layers=2),
    "more dropout": dict(module__drop_prob=0.3, module__att_layer_drop_prob=0.4),
    "label smoothing": dict(smoothing=0.1),
    "constant rate": dict(lr_schedule=None),
    "phase surrogates": dict(transform=surrogates),
    "missing data": dict(missing="mask", augment_missing=0.5),
    "half-second tokens": dict(module__token_size=100, module__hop_length=50),
    "first differences": dict(differences=True),
    "one scale, 20 µV": dict(module__input_scaling=20e-6),
    "one scale, 100 µV": dict(module__input_scaling=100e-6),
}


def choice(name: str) -> Fit:
    """Return how one of the choices is fitted."""
    return partial(biot, **(SMALL | CHOICES[name]))


POWERS = "band powers"
MODELS: dict[str, Fit] = {
    POWERS: partial(powers, band_powers),
    "band powers without logarithm": partial(powers, lambda x: np.exp(band_powers(x))),
    "band powers of scaled windows": partial(powers, lambda x: band_powers(scaled(x))),
    "EEGNet": partial(braindecode, host.EEGNet, microvolts),
    "ShallowFBCSPNet": partial(braindecode, host.ShallowFBCSPNet, microvolts),
    "BIOT, 64 and one layer": partial(biot, **SMALL),
    "BIOT, default size": biot,
    "braindecode's BIOT": partial(braindecode, host.BIOT, scaled),
}
LARGE = {"BIOT, default size", "braindecode's BIOT"}
CHOSEN = "BIOT, chosen"


def score(task: Array, persons: Array, p: Array) -> dict[str, dict[str, float]]:
    """Score the probabilities of arithmetic, for each person."""
    scores = {}
    for person in np.unique(persons):
        own = persons == person
        truth, said = task[own], p[own] > 0.5
        values = (
            balanced_accuracy_score(truth, said),
            roc_auc_score(truth, p[own]),
            cohen_kappa_score(truth, said),
        )
        scores[str(person)] = dict(zip(METRICS, map(float, values), strict=True))
    return scores


def evaluate(
    fit: Fit, data: dict[str, Array], train: Array, test: Array, seed: int
) -> Any:
    """Fit to some persons, score others."""
    test = test & data["for_test"]
    start = time.perf_counter()
    predict = fit(*(data[key][train] for key in ("x", "task", "persons")), seed)
    scores = score(data["task"][test], data["persons"][test], predict(data["x"][test]))
    return dict(scores=scores, seconds=time.perf_counter() - start)


def mean(results: list[Any], metric: str) -> float:
    return float(np.mean([p[metric] for r in results for p in r["scores"].values()]))


class Parts:
    """Results that are kept as they come."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, *key: str | int, make: Callable[[], Any] | None = None) -> Any:
        """Return a result that is there, or make and keep it."""
        name = "-".join(str(k) for k in key).replace(" ", "_").replace("'", "")
        path = self.folder / f"{name}.json"
        if path.is_file():
            return json.loads(path.read_text())
        if make is None:
            return None
        result = make()
        write(path, result)
        say(f"{name}: AUROC {mean([result], 'AUROC'):.3f}, {result['seconds']:.0f} s")
        return result


def run_fold(
    name: str, fit: Fit, data: dict[str, Array], fold: int, seed: int, parts: Parts
) -> None:
    held = data["persons"] % N_FOLDS == fold
    parts.get(name, fold, seed, make=lambda: evaluate(fit, data, ~held, held, seed))


def choose(data: dict[str, Array], fold: int, parts: Parts) -> str:
    """Return the best choice within the training persons of a fold."""
    held = data["persons"] % N_FOLDS == fold
    aurocs = {}
    for name in CHOICES:
        results = []
        for inner in range(2):
            test = ~held & (data["persons"] // N_FOLDS % 2 == inner)
            make = partial(evaluate, choice(name), data, ~held & ~test, test, 0)
            results.append(parts.get("inner", name, fold, inner, make=make))
        aurocs[name] = mean(results, "AUROC")
    return max(aurocs, key=lambda name: aurocs[name])


def over_persons(results: list[Any], metric: str) -> Array:
    """Average each person's scores over seeds, shape (n_persons,)."""
    persons = sorted({p for r in results for p in r["scores"]}, key=int)
    seen = [
        [r["scores"][p][metric] for r in results if p in r["scores"]] for p in persons
    ]
    return np.array([np.mean(values) for values in seen])


def summarize(names: list[str], seeds: int, parts: Parts) -> dict[str, Any]:
    """Gather means with intervals, and differences from the band powers."""
    summary: dict[str, Any] = {}
    baseline: dict[str, Array] = {}
    for name in sorted(names, key=lambda name: name != POWERS):  # that one first
        keys = [(fold, seed) for fold in range(N_FOLDS) for seed in range(seeds)]
        results = [r for key in keys if (r := parts.get(name, *key))]
        if not results:
            continue
        values = {metric: over_persons(results, metric) for metric in METRICS}
        if name == POWERS:
            baseline = values
        summary[name] = {
            "fits": len(results),
            "seconds per fit": float(np.mean([r["seconds"] for r in results])),
            **{metric: interval(v) for metric, v in values.items()},
        }
        if baseline and len(v := values["AUROC"]) == len(baseline["AUROC"]):
            summary[name][f"AUROC − {POWERS}"] = interval(v - baseline["AUROC"])
    return summary


def summarize_choices(parts: Parts) -> dict[str, Any]:
    """Gather what the choices scored within the training persons."""
    table = {}
    for name in CHOICES:
        keys = [(fold, inner) for fold in range(N_FOLDS) for inner in range(2)]
        results = [r for key in keys if (r := parts.get("inner", name, *key))]
        if results:
            table[name] = {metric: mean(results, metric) for metric in METRICS}
    return table


def print_tables(summary: dict[str, Any], choices: dict[str, Any]) -> None:
    difference = f"AUROC − {POWERS}"
    print("| model |", " | ".join(METRICS), f"| {difference} | s per fit |")
    print("|---" * 6 + "|")
    for name, row in summary.items():
        cells = []
        for metric in [*METRICS, difference]:
            if metric not in row:  # not all folds are there yet
                cells.append("")
                continue
            value, low, high = row[metric]
            sign = "+" if "−" in metric else ""
            cells.append(f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]")
        print(f"| {name} | {' | '.join(cells)} | {row['seconds per fit']:.0f} |")
    print("\nWithin the training persons:\n")
    print("| choice |", " | ".join(METRICS), "|")
    print("|---" * 4 + "|")
    for name, row in choices.items():
        print(f"| {name} |", " | ".join(f"{row[m]:.3f}" for m in METRICS), "|")


def main() -> None:
    """Run what is not there yet, print the tables, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "eegmat")
    parser.add_argument("--models", nargs="+", choices=[*MODELS, CHOSEN])
    parser.add_argument("--seeds", type=int, default=2)
    folds = range(N_FOLDS)
    parser.add_argument("--folds", type=int, nargs="+", choices=folds, default=folds)
    parser.add_argument(
        "--pretrained", type=Path, help="also fine-tune this checkpoint"
    )
    out = ROOT / "build" / "eegmat"
    parser.add_argument("--parts", type=Path, default=out / "parts")
    parser.add_argument("--json", type=Path, default=out / "eegmat.json")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = Parts(args.parts)
    models = dict(MODELS)
    if args.pretrained:
        models["BIOT, pretrained"] = partial(biot, pretrained=args.pretrained)
    chosen: dict[int, str] = {}
    if not args.table:
        data = load(args.data)
        wanted = args.models or [*models, CHOSEN]
        for name in wanted:
            for fold in args.folds:
                if name == CHOSEN:
                    chosen[fold] = choose(data, fold, parts)
                    say(f"fold {fold}: {chosen[fold]}")
                for seed in range(1 if name in LARGE else args.seeds):
                    fit = choice(chosen[fold]) if name == CHOSEN else models[name]
                    run_fold(name, fit, data, fold, seed, parts)
    summary = summarize([*models, CHOSEN], args.seeds, parts)
    choices = summarize_choices(parts)
    print_tables(summary, choices)
    versions = dict(torch=torch.__version__, python=platform.python_version())
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    about = dict(date=str(date.today()), machine=machine, versions=versions)
    budget = dict(epochs=EPOCHS, patience=PATIENCE, batch=BATCH, window=WINDOW)
    write(args.json, {**about, "budget": budget, "models": summary, "inner": choices})


if __name__ == "__main__":
    main()
