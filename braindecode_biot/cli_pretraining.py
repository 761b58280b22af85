"""The commands of `braindecode-biot` that pretrain.

Parses arguments and calls; holds no logic.
"""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

import click

from braindecode_biot.cli_helpers import (
    checked_montage,
    end,
    refused,
    refusing,
    teller,
    telling,
)
from braindecode_biot.cli_options import FILES, POSITIVE

__all__ = ["prepare", "pretrain"]


@click.command()
@FILES
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of the archive, which is made. What is in it already is passed over.",
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
    default="tcp-18",
    show_default=True,
    help="Channels: tcp-16, tcp-18, or a list such as 'C3-A2,C4-A1'. What a file "
    "lacks is marked as missing.",
)
@click.option(
    "--sfreq",
    type=POSITIVE,
    default=200.0,
    show_default=True,
    help="Sampling rate of the archive in Hz, to which recordings are brought.",
)
@click.option(
    "--on-bad",
    type=click.Choice(["skip", "keep"]),
    default="skip",
    show_default=True,
    help="Windows that touch annotations whose names begin with BAD: leave them out, "
    "or ignore the marks.",
)
@click.option("--use-bads", is_flag=True, help="Use channels that are marked as bad.")
@click.option(
    "--upsample", is_flag=True, help="Take files of a lower sampling rate, too."
)
@click.option(
    "--min-seconds",
    type=POSITIVE,
    help="Shortest recording in seconds that is used, as a shorter window.  "
    "[default: 1]",
)
@click.option("--overwrite", is_flag=True, help="Begin anew, with an empty archive.")
@click.option("-q", "--quiet", is_flag=True, help="Say only what was skipped.")
def prepare(
    files: tuple[Path, ...], folder: Path, quiet: bool, montage: str, **settings: Any
) -> None:
    """Make an archive of recordings to pretrain on.

    FILES are in any format that MNE reads, or folders, which are searched. The same
    command goes on where it was interrupted, and brings an archive up to date.
    """
    from braindecode_biot.archive import prepare_archive

    settings |= {"montage": checked_montage(montage), "say": teller(quiet)}
    try:
        report = refused(prepare_archive, files, folder, quiet=quiet, **settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "Interrupted. What is done is kept; run again to go on."
        ) from None
    if not quiet:
        click.echo(dataclasses.replace(report, skipped={}))
    skipped = list(report.skipped.items())
    end(skipped, f"{len(skipped)} files were skipped")


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME=VALUE",
    help="A value that counts more than the file's, such as trainer.max_epochs=3; may "
    "be repeated.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def pretrain(config: Path, sets: tuple[str, ...], quiet: bool) -> None:
    """Pretrain on archives, as a file says.

    CONFIG is a TOML file; PRETRAINING.md tells what stands in it. The same command goes
    on where it was interrupted. Within `torchrun` or `srun` it is one of several
    processes.
    """
    changes = dict(_set(text) for text in sets)
    with refusing(), telling(quiet):
        from braindecode_biot.pretraining_run import run_pretraining

        run_pretraining(config, overrides=changes, say=teller(quiet))


def _set(text: str) -> tuple[str, Any]:
    """Read what `--set` gives: a value as in TOML; anything else is text."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise click.UsageError(f"--set takes NAME=VALUE, got {text!r}.")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value
