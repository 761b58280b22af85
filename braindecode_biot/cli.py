"""The `braindecode-biot` command. Parses arguments and calls; holds no logic.

Results go to files and tables to stdout; progress and what failed go to stderr. The
exit code is 0 where all went well, 1 where a file failed, 2 where the command was
wrong.
"""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = ["main"]

_FILES = click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILES...",
)


def _options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


_output = click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the results; it is made. One file each, by the recording's name.",
)
_reading = _options(
    click.option("--window", type=float, help="Length of a window in seconds."),
    click.option(
        "--step", type=float, help="From one window to the next, in seconds [a window]."
    ),
    click.option(
        "--on-bad",
        type=click.Choice(["skip", "mask", "keep"]),
        default="skip",
        show_default=True,
        help="Windows that touch annotations beginning with BAD: leave them out, mask "
        "what is marked (models that take missing data), or ignore the marks.",
    ),
    click.option(
        "--montage",
        help="Channels, where the model does not tell them: tcp-16, tcp-18, or a list "
        "such as 'C3-A2,C4-A1'.",
    ),
    click.option(
        "--use-bads", is_flag=True, help="Use channels that are marked as bad."
    ),
    click.option(
        "--upsample", is_flag=True, help="Take files of a lower sampling rate."
    ),
)
_running = _options(
    click.option("--batch-size", type=click.IntRange(min=1), default=32, hidden=True),
    click.option("--overwrite", is_flag=True, help="Work again on what is done."),
    click.option("-q", "--quiet", is_flag=True, help="Say only what failed."),
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="braindecode-biot")
def main() -> None:
    """BIOT, the biosignal transformer, on your recordings."""
    # braindecode asks MNE for a montage by its old name, which users cannot change.
    warnings.filterwarnings("ignore", "Montage name", FutureWarning)


@main.command()
@_FILES
@click.option(
    "--montage",
    default="tcp-18",
    show_default=True,
    help="Montage to report on: tcp-16, tcp-18, or a list such as 'C3-A2,C4-A1'.",
)
@click.option(
    "--window",
    type=float,
    default=10.0,
    show_default=True,
    help="Length of windows in seconds, for the signal parameters.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a line per file.")
def info(files: tuple[Path, ...], montage: str, window: float, as_json: bool) -> None:
    """Say what recordings hold, and which channels of a montage they can give."""
    import json

    from braindecode_biot.reading import open_recording
    from braindecode_biot.summaries import describe_recording, summarise

    names = _checked_montage(montage)
    failures = []
    for file in files:
        try:
            raw = _quietly(open_recording, file)
            if as_json:
                told = {"file": str(file), **describe_recording(raw, names, window)}
                click.echo(json.dumps(told))
            else:
                click.echo(f"{file}\n{summarise(raw, names, window)}\n")
        except Exception as error:  # one bad file must not end the others
            failures.append((file, str(error) or type(error).__name__))
    _end(failures, len(files))


@main.command()
@_FILES
@_output
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
    help="What the results are.",
)
@_reading
@_running
def embed(
    files: tuple[Path, ...],
    folder: Path,
    source: str,
    suffix: str,
    overwrite: bool,
    quiet: bool,
    **reading: Any,
) -> None:
    """Embed each window of recordings, one result per file."""
    reading["montage"] = _checked_montage(reading["montage"])
    from braindecode_biot.batches import checksum

    settings = {"command": "embed", "model": checksum(source), **reading}
    _open(folder, settings, overwrite)
    model = _refused(_embedder, source, reading["window"])

    from braindecode_biot.recordings import embed_recording

    def work(file: Path, result: Path) -> str:
        found = _quietly(embed_recording, model, file, verbose=not quiet, **reading)
        found.save(result)
        return f"{str(found)[1:-1]}, in {result}"

    _run(files, folder, f".{suffix}", work, overwrite, quiet)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@_FILES
@_output
@click.option(
    "--format",
    "kind",
    type=click.Choice(["csv", "events", "fif", "edf"]),
    default="csv",
    show_default=True,
    help="A table of windows, a table of events, or annotations as FIF or EDF+.",
)
@click.option(
    "--threshold",
    type=float,
    default=0.5,
    show_default=True,
    help="Score from which on there is an event.",
)
@click.option("--low", type=float, help="Score down to which it goes on [threshold].")
@click.option(
    "--min-duration", type=float, default=0.0, help="Shortest event in seconds."
)
@click.option(
    "--merge-gap", type=float, default=0.0, help="Longest gap within one, in seconds."
)
@click.option("--report", is_flag=True, help="Write an HTML report beside each result.")
@_reading
@_running
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
    overwrite: bool,
    quiet: bool,
    **reading: Any,
) -> None:
    """Score recordings with MODEL, a folder that `train` made; one result per file."""
    reading["montage"] = _checked_montage(reading["montage"])
    events: dict[str, Any] = dict(
        threshold=threshold, low=low, min_duration=min_duration, merge_gap=merge_gap
    )
    from braindecode_biot.batches import checksum

    settings = {"command": "predict", "model": checksum(model), **reading, **events}
    _open(folder, settings, overwrite)

    from braindecode_biot.persistence import load_estimator
    from braindecode_biot.recordings import score_recording

    estimator = _refused(load_estimator, model)

    def work(file: Path, result: Path) -> str:
        scores = _quietly(
            score_recording, estimator, file, verbose=not quiet, **reading
        )
        if report:
            from braindecode_biot.recording_report import report_recording, save_report

            page = folder / f"{file.stem}.html"
            save_report(report_recording(scores, file, **events), page)
        if kind == "csv":
            scores.to_csv(result)
        else:
            scores.save_events(result, **events)
        n_events = len(scores.events(**events))
        return f"{str(scores)[1:-1]}; {n_events} events; in {result}"

    suffix = {"csv": ".csv", "events": "-events.csv", "fif": "-annot.fif"}
    _run(files, folder, suffix.get(kind, ".edf"), work, overwrite, quiet)


@main.command()
@_FILES
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the model; it is made.",
)
@click.option(
    "--event",
    "events",
    multiple=True,
    help="Annotation that makes a class; may be repeated [all there are].",
)
@click.option(
    "--background",
    default="background",
    show_default=True,
    help="Class of windows without such an annotation; '' leaves them out.",
)
@click.option("--window", type=float, required=True, help="Length in seconds.")
@click.option("--step", type=float, help="From one to the next, in seconds [a window].")
@click.option(
    "--montage",
    default="tcp-16",
    show_default=True,
    help="Channels: tcp-16, tcp-18, or a list such as 'C3-A2,C4-A1'.",
)
@click.option("--sfreq", type=float, default=200.0, show_default=True, help="In Hz.")
@click.option("--pretrained", help="Checkpoint to begin with.")
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
    help="Whether files may lack channels of the montage.",
)
@click.option("--epochs", "max_epochs", type=click.IntRange(min=1), default=50)
@click.option("--lr", type=float, default=1e-3, show_default=True)
@click.option("--seed", "random_state", type=int, default=0, show_default=True)
@click.option("--set", "sets", multiple=True, metavar="NAME=VALUE", help="Any other "
              "parameter of BIOTClassifier, such as module__emb_size=64.")  # fmt: skip
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
    """Train BIOTClassifier on annotated recordings, and keep it in a folder."""
    names = _checked_montage(montage)
    for text in sets:
        name, sign, value = text.partition("=")
        if not sign:
            raise click.UsageError(f"--set takes NAME=VALUE, got {text!r}.")
        parameters[name] = _literal(value)

    from braindecode_biot.training_files import train_on_files

    _refused(
        train_on_files,
        files,
        folder,
        events=list(events) or None,
        background=background or None,
        window=window,
        step=step,
        montage=names,
        sfreq=sfreq,
        overwrite=overwrite,
        verbose=not quiet,
        say=_say(quiet),
        **parameters,
    )


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
    """Find absence seizures in the EEG that comes with the package.

    Trains BIOT and a logistic regression three times, each time without one of the
    three seizures, and tests them there. Takes one to two minutes on two cores.
    """
    # Imported here: `--help` need not wait for torch.
    from braindecode_biot.demo import run

    run(output, say=click.echo, verbose=0 if quiet else 1)


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


def _checked_montage(text: str | None) -> str | list[str] | None:
    """Read a montage: a known one, or names with commas between them."""
    if text is None or text.lower() in ("tcp-16", "tcp-18"):
        return text
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--montage is tcp-16, tcp-18 or a list with commas.")
    return names


def _literal(value: str) -> Any:
    """Read a number, True, False or None; anything else is text."""
    import ast

    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _open(folder: Path, settings: dict[str, Any], overwrite: bool) -> None:
    """Say before the work begins that its results could not be written."""
    from braindecode_biot.batches import open_folder

    try:
        open_folder(folder, settings, overwrite=overwrite)
    except OSError as error:
        raise click.UsageError(f"Cannot write to '{folder}': {error}") from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _refused(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call, and let errors that tell the user what to do end the command."""
    try:
        return _quietly(function, *args, **kwargs)
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def _quietly(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call, and put warnings on stderr as lines a reader can use."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")  # what users cannot change
        warnings.simplefilter("default", UserWarning)
        warnings.simplefilter("default", RuntimeWarning)  # MNE's
        result = function(*args, **kwargs)
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        click.echo(f"Warning: {text}", err=True)
    return result


def _say(quiet: bool) -> Callable[[str], None]:
    return lambda text: None if quiet else click.echo(text, err=True)


def _run(
    files: tuple[Path, ...],
    folder: Path,
    suffix: str,
    work: Callable[[Path, Path], str],
    overwrite: bool,
    quiet: bool,
) -> None:
    from braindecode_biot.batches import run_files

    try:
        failures = run_files(
            files, folder, suffix, work, _say(quiet), overwrite=overwrite
        )
    except KeyboardInterrupt:
        click.echo("Interrupted. What is done is kept; run again to go on.", err=True)
        sys.exit(130)
    except OSError as error:
        click.echo(f"Stopped: {error}. What is done is kept.", err=True)
        sys.exit(1)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    _end(failures, len(files))


def _end(failures: list[tuple[Path, str]], n_files: int) -> None:
    """List what failed, and end with the exit code that tells."""
    if not failures:
        return
    click.echo(f"\n{len(failures)} of {n_files} files failed:", err=True)
    for file, why in failures:
        click.echo(f"  {file}: {why}", err=True)
    sys.exit(1)
