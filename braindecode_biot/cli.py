"""The `braindecode-biot` command. Parses arguments and calls; holds no logic.

Results go to files and tables to stdout; progress and what failed go to stderr. The
exit code is 0 where all went well, 1 where a file failed, 2 where the command was
wrong, 130 where it was interrupted.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from braindecode_biot.cli_helpers import (
    checked_montage,
    end,
    quietly,
    refused,
    teller,
)
from braindecode_biot.cli_options import (
    EVENTS,
    FILES,
    LENGTH,
    NUMBER,
    OUTPUT,
    POSITIVE,
    READING,
    RUNNING,
)
from braindecode_biot.cli_pretraining import prepare, pretrain

__all__ = ["main"]


class _Commands(click.Group):
    """Commands that say what became of the work when they are interrupted."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            click.echo(f"\n{str(error) or 'Interrupted.'}", err=True)
            ctx.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="braindecode-biot")
def main() -> None:
    """BIOT, the biosignal transformer, on your recordings."""
    # braindecode asks MNE for a montage by its old name, which users cannot change.
    warnings.filterwarnings("ignore", "Montage name", FutureWarning)


@main.command()
@FILES
@click.option(
    "--montage",
    default="tcp-18",
    show_default=True,
    help="Montage to report on: tcp-16, tcp-18, or a list such as 'C3-A2,C4-A1'.",
)
@click.option(
    "--window",
    type=POSITIVE,
    default=10.0,
    show_default=True,
    help="Length of windows in seconds, for the signal parameters.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line per file.")
def info(files: tuple[Path, ...], montage: str, window: float, as_json: bool) -> None:
    """Describe recordings and what they give of a montage.

    FILES are in any format that MNE reads (EDF, BDF, BrainVision, EEGLAB, FIF, ...).
    Shows length, sampling rate, channels, annotations, the signal parameters that a
    model would be given, and where each channel of the montage would come from.
    """
    import json

    from braindecode_biot.reading import open_recording
    from braindecode_biot.summaries import describe_recording, summarise

    names = checked_montage(montage)
    failures = []
    for file in files:
        try:
            raw = quietly(open_recording, file)
            if as_json:
                told = {"file": str(file), **describe_recording(raw, names, window)}
                text = json.dumps(told)
            else:
                text = f"{file}\n{summarise(raw, names, window)}\n"
        except Exception as error:  # one bad file must not end the others
            failures.append((file, str(error) or type(error).__name__))
        else:
            click.echo(text)
    end(failures, f"{len(failures)} of {len(files)} files failed")


@main.command()
@FILES
@OUTPUT
@click.option(
    "--model",
    "source",
    required=True,
    help="Whose embeddings: a checkpoint file or folder, a repository on the Hugging "
    "Face Hub, or a folder that `train` made.",
)
@click.option(
    "--format",
    "suffix",
    type=click.Choice(["npz", "parquet", "csv"]),
    default="npz",
    show_default=True,
    help="Arrays for NumPy, or a table as Parquet or CSV.",
)
@READING
@RUNNING
def embed(
    files: tuple[Path, ...],
    folder: Path,
    source: str,
    suffix: str,
    batch_size: int,
    overwrite: bool,
    quiet: bool,
    **reading: Any,
) -> None:
    """Embed the windows of recordings, a result each.

    FILES are in any format that MNE reads. Results hold start and stop of each window
    in seconds, and its embedding.
    """
    reading["montage"] = checked_montage(reading["montage"])
    settings = {"command": "embed", **reading}
    results = _prepared(files, folder, [f".{suffix}"], source, settings, overwrite)
    model = refused(_embedder, source, reading["window"])

    from braindecode_biot.recordings import embed_recording

    def work(file: Path, made: list[Path]) -> str:
        bar = {"batch_size": batch_size, "verbose": _shows_bars(quiet)}
        found = quietly(embed_recording, model, file, quiet=quiet, **bar, **reading)
        found.save(made[0])
        return f"{_about(found)}; in {made[0]}"

    _run(results, work, overwrite, quiet)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@FILES
@OUTPUT
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "events", "fif", "edf"]),
    default="csv",
    show_default=True,
    help="A table of the windows' scores, a table of events, or events as annotations "
    "in FIF or EDF+.",
)
@click.option(
    "--threshold",
    type=NUMBER,
    default=0.5,
    show_default=True,
    help="Least score that makes an event.",
)
@click.option(
    "--low",
    type=NUMBER,
    help="Score down to which an event goes on.  [default: the threshold]",
)
@click.option(
    "--min-duration",
    type=LENGTH,
    default=0.0,
    show_default=True,
    help="Shortest event in seconds.",
)
@click.option(
    "--merge-gap",
    type=LENGTH,
    default=0.0,
    show_default=True,
    help="Longest gap in seconds between events that are made one.",
)
@click.option("--report", is_flag=True, help="Make an HTML report beside each result.")
@READING
@RUNNING
def predict(
    model: Path,
    files: tuple[Path, ...],
    folder: Path,
    kind: str,
    threshold: float,
    low: float | None,
    min_duration: float,
    merge_gap: float,
    report: bool,
    batch_size: int,
    overwrite: bool,
    quiet: bool,
    **reading: Any,
) -> None:
    """Score the windows of recordings, a result each.

    MODEL is a folder that `train` or save_estimator made. FILES are in any format that
    MNE reads. Events are stretches of high scores of the second of two classes, or of
    each of more.
    """
    reading["montage"] = checked_montage(reading["montage"])
    if low is not None and low > threshold:
        raise click.UsageError(f"--low {low:g} is above --threshold {threshold:g}.")
    events: dict[str, Any] = dict(
        threshold=threshold, low=low, min_duration=min_duration, merge_gap=merge_gap
    )
    settings = {"command": "predict", **reading, **events}
    suffixes = [".csv" if kind == "csv" else EVENTS[kind], *[".html"] * report]
    results = _prepared(files, folder, suffixes, model, settings, overwrite)

    from braindecode_biot.persistence import load_estimator
    from braindecode_biot.recordings import score_recording

    estimator = refused(load_estimator, model)

    def work(file: Path, made: list[Path]) -> str:
        bar = {"batch_size": batch_size, "verbose": _shows_bars(quiet)}
        scores = quietly(
            score_recording, estimator, file, quiet=quiet, **bar, **reading
        )
        if kind == "csv":
            scores.to_csv(made[0])
        else:
            scores.save_events(made[0], **events)
        if report:
            from braindecode_biot.recording_report import report_recording, save_report

            page = quietly(report_recording, scores, file, quiet=quiet, **events)
            save_report(page, made[1])
        n_events = len(scores.events(**events))
        return f"{_about(scores)}; events: {n_events}; in {made[0]}"

    _run(results, work, overwrite, quiet)


@main.command()
@FILES
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the model, which is made.",
)
@click.option(
    "--event",
    "events",
    multiple=True,
    help="Annotation that makes a class; may be repeated.  [default: all that have a "
    "duration]",
)
@click.option(
    "--background",
    default="background",
    show_default=True,
    help="Class of windows without such an annotation; '' leaves them out.",
)
@click.option(
    "--window", type=POSITIVE, required=True, help="Length of a window in seconds."
)
@click.option(
    "--step",
    type=POSITIVE,
    help="Seconds from the start of one window to the next.  [default: a window]",
)
@click.option(
    "--montage",
    default="tcp-16",
    show_default=True,
    help="Channels: tcp-16, tcp-18, or a list such as 'C3-A2,C4-A1'.",
)
@click.option(
    "--sfreq",
    type=POSITIVE,
    default=200.0,
    show_default=True,
    help="Sampling rate of the model in Hz, to which recordings are brought.",
)
@click.option(
    "--pretrained",
    help="Checkpoint to begin with: a file, a folder, or a repository on the Hugging "
    "Face Hub.",
)
@click.option(
    "--finetune",
    type=click.Choice(["full", "layerwise", "lora", "head"]),
    default="full",
    show_default=True,
    help="What to tune of pretrained weights.",
)
@click.option(
    "--missing",
    type=click.Choice(["raise", "mask"]),
    default="mask",
    show_default=True,
    help="Channels of the montage that a file lacks: refuse the file, or leave them "
    "out of its windows.",
)
@click.option(
    "--epochs",
    "max_epochs",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="Most rounds over the training windows; it ends earlier where validation "
    "gets no better.",
)
@click.option(
    "--lr", type=POSITIVE, default=1e-3, show_default=True, help="Learning rate."
)
@click.option(
    "--seed",
    "random_state",
    type=int,
    default=0,
    show_default=True,
    help="Seed of all that is random.",
)
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any other parameter of BIOTClassifier, such as module__emb_size=64; may be "
    "repeated.",
)
@click.option("--overwrite", is_flag=True, help="Replace a model that is there.")
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def train(
    files: tuple[Path, ...],
    folder: Path,
    events: tuple[str, ...],
    background: str,
    window: float,
    step: float | None,
    montage: str,
    sfreq: float,
    overwrite: bool,
    quiet: bool,
    sets: tuple[str, ...],
    **parameters: Any,
) -> None:
    """Train a classifier on annotated recordings.

    FILES are in any format that MNE reads. Each window is labelled by the annotation
    that covers at least half of it. A fifth of the recordings, or of a single one a
    fifth of it in blocks around events, is kept to choose the best epoch by. Interrupt
    it (Ctrl-C) to end with the epochs that are done, which are saved unless they would
    replace a model.
    """
    parameters |= {
        "events": list(events) or None,
        "background": background or None,
        "window": window,
        "step": step,
        "montage": checked_montage(montage),
        "sfreq": sfreq,
        "overwrite": overwrite,
        "verbose": not quiet,
    }
    parameters |= _set(sets, {*parameters, "say", "channel_names"})

    from braindecode_biot.training_files import train_on_files

    say = teller(quiet)
    refused(train_on_files, files, folder, quiet=quiet, say=say, **parameters)


@main.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo_output"),
    show_default=True,
    help="Folder for the figure and the predictions.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bars.")
def demo(output: Path, quiet: bool) -> None:
    """Find absence seizures in the shipped EEG.

    Trains BIOT and a logistic regression three times, each time without one of the
    three seizures, and tests them there. Takes one to two minutes on two cores.
    """
    # Imported here: `--help` need not wait for torch.
    from braindecode_biot.batches import check_writable
    from braindecode_biot.demo import run

    refused(check_writable, output)
    run(output, say=click.echo, verbose=0 if quiet else 1)


main.add_command(prepare)
main.add_command(pretrain)


def _embedder(source: str, window: float | None) -> Any:
    """Load what makes embeddings: a saved estimator, or a model of a checkpoint."""
    from braindecode_biot.persistence import ESTIMATOR_FILE, load_estimator

    if (Path(source) / ESTIMATOR_FILE).is_file():
        return load_estimator(source)
    from braindecode_biot.model import BIOT

    length: dict[str, Any] = {}
    if window is not None:
        length["input_window_seconds"] = window
    return BIOT.from_checkpoint(source, n_outputs=1, missing="mask", **length)


def _literal(value: str) -> Any:
    """Read a number, True, False or None; anything else is text."""
    import ast

    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _set(texts: tuple[str, ...], taken: set[str]) -> dict[str, Any]:
    """Read what `--set` gives."""
    given = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise click.UsageError(f"--set takes NAME=VALUE, got {text!r}.")
        if name in taken:
            raise click.UsageError(
                f"--set {name} is what another option says; see --help."
            )
        given[name] = _literal(value)
    return given


def _prepared(
    files: tuple[Path, ...],
    folder: Path,
    suffixes: list[str],
    model: str | Path,
    settings: dict[str, Any],
    overwrite: bool,
) -> dict[Path, list[Path]]:
    """Say before the work begins that its results could not be written."""
    from braindecode_biot.batches import checksum, open_folder, plan_results

    if folder.resolve() == Path(model).resolve():
        raise click.UsageError("The output folder is the model's; choose another one.")
    results = refused(plan_results, files, folder, suffixes)
    settings["model"] = refused(checksum, model)
    refused(open_folder, folder, settings, overwrite=overwrite)
    return dict(results)


def _shows_bars(quiet: bool) -> bool:
    """Tell whether to show progress within a file: in a log it would be noise."""
    return not quiet and sys.stderr.isatty()


def _about(found: Any) -> str:
    """Say what a result is, without the name of its class."""
    return repr(found)[1:-1].partition(" of ")[2]


def _run(
    results: dict[Path, list[Path]],
    work: Callable[[Path, list[Path]], str],
    overwrite: bool,
    quiet: bool,
) -> None:
    from braindecode_biot.batches import run_files

    try:
        failures = run_files(results, work, teller(quiet), overwrite=overwrite)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Interrupted. What is done is kept; run again to go on."
        ) from None
    except (OSError, ImportError) as error:
        raise click.ClickException(
            f"Stopped: {error}. What is done is kept; run again to go on."
        ) from error
    end(failures, f"{len(failures)} of {len(results)} files failed")
