"""How commands of `braindecode-biot` call, warn and end.

Owns what becomes of errors, warnings and text. Must not import what the commands do.
"""

import io
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

import click

__all__ = [
    "checked_montage",
    "end",
    "quietly",
    "refused",
    "refusing",
    "teller",
    "telling",
]


def checked_montage(text: str | None) -> str | list[str] | None:
    """Read a montage: a known one, or names with commas between them."""
    if text is None or text.lower() in ("tcp-16", "tcp-18"):
        return text
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--montage is tcp-16, tcp-18 or a list with commas.")
    return names


@contextmanager
def refusing() -> Iterator[None]:
    """Let errors that tell the user what to do end the command."""
    from braindecode_biot.reading import RecordingError

    try:
        yield
    except RecordingError as error:
        raise click.ClickException(str(error)) from error
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error


def refused(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call within :func:`refusing`, and :func:`quietly`."""
    with refusing():
        return quietly(function, *args, **kwargs)


def quietly(
    function: Callable[..., Any], *args: Any, quiet: bool = False, **kwargs: Any
) -> Any:
    """Call, and put warnings on stderr as lines a reader can use.

    What MNE logs, which goes to stdout, comes there as well.
    """
    stderr = io.StringIO() if quiet else sys.stderr
    with redirect_stdout(stderr), warnings.catch_warnings(record=True) as caught:
        _choose_warnings()
        result = function(*args, **kwargs)
    for text in dict.fromkeys(str(warning.message) for warning in caught):
        teller(quiet)(f"Warning: {text}")
    return result


@contextmanager
def telling(quiet: bool) -> Iterator[None]:
    """Do as :func:`quietly`, but put each warning there at once, for long work."""
    stderr = io.StringIO() if quiet else sys.stderr
    told = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        if str(message) not in told:
            told.add(str(message))
            teller(quiet)(f"Warning: {message}")

    with redirect_stdout(stderr), warnings.catch_warnings():
        _choose_warnings()
        warnings.showwarning = show
        yield


def teller(quiet: bool) -> Callable[[str], None]:
    """Make what puts a line of text on stderr, or nowhere."""
    return lambda text: None if quiet else click.echo(text, err=True)


def end(failures: list[tuple[Any, str]], told: str) -> None:
    """List what failed, and end with the exit code that tells."""
    if not failures:
        return
    click.echo(f"\n{told}:", err=True)
    for file, why in failures:
        click.echo(f"  {file}: {why}", err=True)
    sys.exit(1)


def _choose_warnings() -> None:
    """Leave out what users cannot change."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", UserWarning)
    warnings.simplefilter("default", RuntimeWarning)  # MNE's
