"""Does pretraining help on a small set? Rest versus arithmetic, across persons.

    python benchmarks/pretraining.py [--data FOLDER] [--seeds 3] [--folds 0 1 2 3]
        [--epochs 40] [--scaling q95] [--jobs 2] [--parts FOLDER] [--json FILE]
        [--table]

PhysioNet's eegmat and the recording that the package ships: TCP-16 at 200 Hz, windows
of 5 s, four folds that share no person. For each fold and seed an encoder (64 features,
two layers) is trained by contrastive pretraining on the unlabelled windows of the
training persons and the shipped recording: of the test persons nothing is seen. It is
then compared with the same encoder as it was drawn, before any training:

- probe: a logistic regression on the embeddings of the training persons' windows;
- fine-tuning: the whole network, as in eegmat.py, with the same budget for both.

Each with the labels of all training persons, and of three of them. A second probe tells
training persons apart, which says what else embeddings hold. Scores are computed
within each test person and averaged over seeds; intervals are a bootstrap over persons,
who are few, and differences are paired. The loss and what tells a collapse are measured
on the windows of the test persons after each epoch.

Each fold and seed is kept in --parts, so that an interrupted run goes on; remove them
if you change settings. --table prints what is there.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import platform
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

warnings.simplefilter("ignore")  # braindecode's imports warn of what is not ours

from lightning.pytorch import Trainer  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402
from sklearn.metrics import balanced_accuracy_score  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from braindecode_biot import BIOT, load_absence, save_weights, to_montage  # noqa: E402
from braindecode_biot.pretraining import ContrastivePretraining  # noqa: E402
from braindecode_biot.pretraining_data import PretrainingData  # noqa: E402
from eegmat import METRICS, Predict, biot, over_persons, powers, score  # noqa: E402
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

BATCH, LR = 128, 1e-3
SIZE = dict(emb_size=64, n_layers=2)
FEW = 3
MEASURES = ["loss", "alignment", "uniformity", "spread"]
INITS = ["random", "pretrained"]
KINDS = ["probe", "fine-tuning"]


def draw_model(seed: int, scaling: Any) -> BIOT:
    """Draw an encoder."""
    torch.manual_seed(seed)
    return BIOT(
        **SIZE,
        sfreq=SFREQ,
        n_times=WINDOW,
        channel_names="tcp-16",
        n_outputs=1,
        input_scaling=scaling,
    )


def shipped_windows() -> Array:
    """Cut the shipped recording into windows like those of eegmat."""
    raw = to_montage(load_absence(), "tcp-16")
    samples = raw.filter(0.5, 40, verbose="error").get_data()
    n = samples.shape[1] // WINDOW
    parts = samples[:, : n * WINDOW].reshape(16, n, WINDOW).swapaxes(0, 1)
    return np.ascontiguousarray(parts, np.float32)


class Watch(Callback):
    """Keeps what was measured on windows that are not trained on."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_validation_epoch_end(self, trainer: Trainer, module: Any) -> None:
        """Keep the means of an epoch."""
        found = trainer.callback_metrics
        self.rows.append({name: float(found[f"valid/{name}"]) for name in MEASURES})


def pretrain(
    model: BIOT, recordings: list[Array], held_out: Array, epochs: int, seed: int
) -> list[dict[str, float]]:
    """Pretrain on windows; return the measures before and after each epoch."""
    watch = Watch()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
        num_sanity_val_steps=-1,  # the first row: before any training
    )
    data = PretrainingData(
        recordings, validation=held_out, batch_size=BATCH, sfreq=SFREQ, seed=seed
    )
    trainer.fit(ContrastivePretraining(model, lr=LR, seed=seed), data)
    return watch.rows


def embed(model: BIOT, x: Array) -> Array:
    model.eval()
    with torch.no_grad():
        found = model(torch.from_numpy(x), return_features=True)["features"]
    return np.asarray(found)


def probe(model: BIOT, x: Array, task: Array) -> Predict:
    """Fit a logistic regression to the embeddings of a model that stays as it is."""
    logistic = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    fitted = make_pipeline(StandardScaler(), logistic).fit(embed(model, x), task)
    return lambda x: fitted.predict_proba(embed(model, x))[:, 1]


def evaluate(
    data: dict[str, Array], fold: int, seed: int, epochs: int, scaling: Any, file: Path
) -> Any:
    """Pretrain for a fold, and compare with the encoder as it was drawn."""
    start = time.perf_counter()
    held = data["persons"] % N_FOLDS == fold
    once = data["for_test"]  # windows of arithmetic overlap but for these
    persons = np.unique(data["persons"][~held])
    # A recording is a person at rest, or a person at work.
    own = data["persons"] * 2 + data["task"]
    recordings = [
        data["x"][once & (own == recording)] for recording in np.unique(own[~held])
    ]
    test = {key: data[key][held & once] for key in ("x", "task", "persons")}
    model = draw_model(seed, scaling)
    files = {name: file.with_suffix(f".{name}.safetensors") for name in INITS}
    save_weights(model, files["random"], layout="official-encoder")
    history = pretrain(model, [*recordings, shipped_windows()], test["x"], epochs, seed)
    save_weights(model, files["pretrained"], layout="official-encoder")
    seconds = {"pretraining": time.perf_counter() - start}

    rng = np.random.default_rng(seed)
    few = rng.choice(persons, FEW, replace=False)
    scores: dict[str, Any] = {}
    for n, labelled in {len(persons): persons, FEW: few}.items():
        chosen = ~held & np.isin(data["persons"], labelled)
        x, task, whose = (data[key][chosen] for key in ("x", "task", "persons"))
        for name, weights in files.items():
            encoder = BIOT.from_checkpoint(weights, n_outputs=1)
            fits: dict[str, Predict] = {"probe": probe(encoder, x, task)}
            begin = time.perf_counter()
            fits["fine-tuning"] = biot(
                x,
                task,
                whose,
                seed,
                pretrained=weights,
                module__input_scaling=scaling,
                lr=LR,
            )
            seconds[f"fine-tuning, {n}, {name}"] = time.perf_counter() - begin
            for kind, predict in fits.items():
                p = predict(test["x"])
                scores[f"{kind}|{n}|{name}"] = score(test["task"], test["persons"], p)
        baseline = powers(band_powers, x, task, whose, seed)(test["x"])
        scores[f"band powers|{n}|"] = score(test["task"], test["persons"], baseline)
    identity = {
        name: know_persons(BIOT.from_checkpoint(weights, n_outputs=1), data, ~held)
        for name, weights in files.items()
    }
    return dict(history=history, scores=scores, identity=identity, seconds=seconds)


def know_persons(model: BIOT, data: dict[str, Array], chosen: Array) -> float:
    """Tell how well embeddings say who it is, in the last quarter of each recording."""
    late = data["time"] == N_FOLDS - 1
    before, after = chosen & ~late, chosen & late & data["for_test"]
    logistic = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
    fitted = make_pipeline(StandardScaler(), logistic)
    fitted.fit(embed(model, data["x"][before]), data["persons"][before])
    said = fitted.predict(embed(model, data["x"][after]))
    return float(balanced_accuracy_score(data["persons"][after], said))


def run(args: argparse.Namespace, fold: int, seed: int) -> None:
    """Do the part of one fold and seed."""
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    path = part(args, fold, seed)
    result = evaluate(load(args.data), fold, seed, args.epochs, args.scaling, path)
    write(path, result)
    minutes = sum(result["seconds"].values()) / 60
    say(f"fold {fold}, seed {seed}: {minutes:.1f} min")


def part(args: argparse.Namespace, fold: int, seed: int) -> Path:
    return args.parts / f"{args.scaling}-{args.epochs}-{fold}-{seed}.json"


def summarize(parts: list[Any]) -> dict[str, Any]:
    """Gather means with intervals, and paired differences."""
    summary: dict[str, Any] = {}
    for key in parts[0]["scores"]:
        kind, n, init = key.split("|")
        row = {}
        for metric in METRICS:
            values = over_persons([{"scores": p["scores"][key]} for p in parts], metric)
            row[metric] = interval(values)
            if init == "pretrained":
                other = f"{kind}|{n}|random"
                drawn = [{"scores": p["scores"][other]} for p in parts]
                gain = values - over_persons(drawn, metric)
                row[f"{metric} gained"] = interval(gain)
        summary[key] = row
    return summary


def measures(parts: list[Any]) -> list[dict[str, float]]:
    """Average what was measured on unseen persons, before and after each epoch."""
    return [
        {name: float(np.mean([row[name] for row in rows])) for name in MEASURES}
        for rows in zip(*(p["history"] for p in parts), strict=True)
    ]


def print_tables(summary: dict[str, Any], history: list[dict[str, float]]) -> None:
    print("| labels of | | encoder | AUROC | gained | balanced accuracy | gained |")
    print("|---" * 7 + "|")

    def cell(row: dict[str, Any], name: str) -> str:
        if name not in row:
            return ""
        sign = "+" if "gained" in name else ""
        value, low, high = row[name]
        return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"

    for key, row in summary.items():
        kind, n, init = key.split("|")
        names = ["AUROC", "AUROC gained", "balanced accuracy"]
        cells = [cell(row, name) for name in [*names, "balanced accuracy gained"]]
        print(f"| {n} persons | {kind} | {init} | {' | '.join(cells)} |")
    print("\n| epoch |", " | ".join(MEASURES), "|")
    print("|---" * 5 + "|")
    last = len(history) - 1
    for epoch in sorted({0, 1, last // 8, last // 4, last // 2, last}):
        row = history[epoch]
        print(f"| {epoch} |", " | ".join(f"{row[m]:.3f}" for m in MEASURES), "|")


def main() -> None:
    """Run what is not there yet, print the tables, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "eegmat")
    parser.add_argument("--seeds", type=int, default=3)
    folds = range(N_FOLDS)
    parser.add_argument("--folds", type=int, nargs="+", choices=folds, default=folds)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument(
        "--scaling",
        type=lambda text: text if text == "q95" else float(text),
        default="q95",
        help="q95, or a number of volts that is the same for all windows",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    out = ROOT / "build" / "pretraining"
    parser.add_argument("--parts", type=Path, default=out / "parts")
    parser.add_argument("--json", type=Path, default=out / "pretraining.json")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    args = parser.parse_args()
    keys = [(fold, seed) for seed in range(args.seeds) for fold in args.folds]
    args.parts.mkdir(parents=True, exist_ok=True)
    if not args.table:
        wanted = [key for key in keys if not part(args, *key).is_file()]
        begin = time.perf_counter()
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
            for done in [pool.submit(run, args, *key) for key in wanted]:
                done.result()
        say(f"{len(wanted)} parts in {(time.perf_counter() - begin) / 60:.1f} min")
    paths = [path for key in keys if (path := part(args, *key)).is_file()]
    if not paths:
        sys.exit("There are no results.")
    parts = [json.loads(path.read_text()) for path in paths]
    summary, history = summarize(parts), measures(parts)
    print_tables(summary, history)
    persons = sum(len(np.unique(list(p["scores"]["band powers|3|"]))) for p in parts)
    print(f"\n{len(parts)} parts, {persons} tests of persons")
    identity = {
        name: float(np.mean([p["identity"][name] for p in parts])) for name in INITS
    }
    print(f"who it is, balanced accuracy of the probe: {identity}")
    versions = dict(torch=torch.__version__, python=platform.python_version())
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    about = dict(date=str(date.today()), machine=machine, versions=versions)
    budget = dict(epochs=args.epochs, batch=BATCH, lr=LR, scaling=args.scaling, **SIZE)
    minutes = sum(s for p in parts for s in p["seconds"].values()) / 60
    content = dict(budget=budget, minutes_of_one_core=minutes, chance=math.log(BATCH))
    content |= dict(scores=summary, identity=identity, history=history)
    write(args.json, {**about, **content})


if __name__ == "__main__":
    main()
