"""The options that commands of `braindecode-biot` share.

Owns their names, limits and help. Must not import what the commands do.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = [
    "EVENTS",
    "FILES",
    "LENGTH",
    "NUMBER",
    "OUTPUT",
    "POSITIVE",
    "READING",
    "RUNNING",
]


class Number(click.FloatRange):
    """A finite number; click takes "nan" for one."""

    name = "number"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number.", param, ctx)
        return number


NUMBER = Number()
LENGTH = Number(min=0)
POSITIVE = Number(min=0, min_open=True)
FILES = click.argument(
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


OUTPUT = click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the results, which is made. Each is named after its recording; "
    "what is there and newer than its recording is not made again.",
)
EVENTS = {"events": "-events.csv", "fif": "-annot.fif", "edf": "-events.edf"}
READING = _options(
    click.option(
        "--window",
        type=POSITIVE,
        help="Length of a window in seconds.  [default: the model's]",
    ),
    click.option(
        "--step",
        type=POSITIVE,
        help="Seconds from the start of one window to the next.  [default: a window]",
    ),
    click.option(
        "--on-bad",
        type=click.Choice(["skip", "mask", "keep"]),
        default="skip",
        show_default=True,
        help="Windows that touch annotations whose names begin with BAD: leave them "
        "out, mask what is marked (models that take missing data), or ignore the "
        "marks.",
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
        "--upsample",
        is_flag=True,
        help="Take files of a lower sampling rate than the model's, too.",
    ),
)
RUNNING = _options(
    click.option(
        "--batch-size",
        type=click.IntRange(min=1),
        default=32,
        show_default=True,
        help="Windows that the model gets at a time.",
    ),
    click.option(
        "--overwrite",
        is_flag=True,
        help="Make again what is done, also results of other settings.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Say only what failed."),
)
