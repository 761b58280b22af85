"""Many files through one piece of work, with results each.

Owns the order of such a run: the place of the results is tried before the work begins,
a file that fails does not end the others, what is done already is passed over, and
results of other settings are not mixed. Must not know what the work is.
"""

import errno
import hashlib
import json
import reprlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from braindecode_biot.files import write_whole

__all__ = [
    "SettingsError",
    "check_writable",
    "checksum",
    "differing_settings",
    "open_folder",
    "plan_results",
    "run_files",
]

_SETTINGS = "settings.json"
# The disk or its quota is full, or it cannot be written any more.
_NO_PLACE = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}


class SettingsError(ValueError):
    """A folder holds results that were made with other settings."""


def check_writable(folder: Path) -> Path:
    """Make a folder, and say at once if nothing can be written in it.

    Parameters
    ----------
    folder : Path
        The folder.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    OSError
        It cannot be made, or nothing can be written in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{secrets.token_hex(4)}.part"
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        why = f"Nothing can be written in the folder: {error.strerror}"
        raise OSError(error.errno, why, str(folder)) from error
    return folder


def checksum(source: str | Path) -> str:
    """Tell models apart: the same name may stand for another one tomorrow.

    Parameters
    ----------
    source : str | Path
        A file or folder, or a name that is neither.

    Returns
    -------
    str
        SHA-256 of the file, or of the files in the folder; else the name.
    """
    path = Path(source).expanduser()
    if not path.exists():
        return str(source)
    total = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        if file.is_file():
            with file.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
    return total.hexdigest()


def plan_results(
    files: Sequence[Path], folder: Path, suffixes: Sequence[str]
) -> dict[Path, list[Path]]:
    """Settle the results of each file.

    Parameters
    ----------
    files : sequence of Path
        The files.
    folder : Path
        Where the results go: each under its file's name with another suffix.
    suffixes : sequence of str
        These, such as ``".csv"``.

    Returns
    -------
    dict
        Results by file, in order; a file that was named twice is there once.

    Raises
    ------
    ValueError
        Two files would have the same result, or one would be written over.
    """
    results = {
        file: [folder / f"{file.stem}{end}" for end in suffixes] for file in files
    }
    owners: dict[Path, Path] = {}
    given = {file.absolute() for file in files}
    for file, made in results.items():
        for result in made:
            if result in owners and owners[result].absolute() != file.absolute():
                raise ValueError(
                    f"'{owners[result]}' and '{file}' would both become '{result}'. "
                    "Put them through in runs of their own, with other output folders."
                )
            if result.absolute() in given:
                raise ValueError(
                    f"The result of '{file}' would replace '{result}', which is to be "
                    "read. Choose another output folder."
                )
            owners[result] = file
    return results


def open_folder(
    folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Make a folder ready for results, or say at once why it cannot be.

    Parameters
    ----------
    folder : Path
        The folder; it is made.
    settings : mapping
        What the results depend on beside their files, in JSON's types. They are kept in
        ``settings.json``. Results that are older than this file are not of these.
    overwrite : bool
        Whether results of other settings may be in it, which will be replaced.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    OSError
        It cannot be made, or nothing can be written in it.
    SettingsError
        It holds results of other settings.
    """
    check_writable(folder)
    path = folder / _SETTINGS
    if path.exists():
        differing = differing_settings(path, settings)
        if not differing:
            return folder  # left as old as it is, and so are its results
        if not overwrite and _has_results(folder):
            raise SettingsError(
                f"'{folder}' holds results that were made with other settings "
                f"({differing}). Choose another folder, or replace them (--overwrite)."
            )
    text = json.dumps(dict(settings), indent=2, sort_keys=True)
    write_whole(path, text.encode())
    return folder


def differing_settings(path: Path, settings: Mapping[str, Any]) -> str:
    """List the settings that differ from those in a file.

    Parameters
    ----------
    path : Path
        A file of settings, in JSON.
    settings : mapping
        Those of now, in JSON's types.

    Returns
    -------
    str
        Each with what it is there and now; empty where none differs.
    """
    try:
        old = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        return "they cannot be read"
    new = json.loads(json.dumps(dict(settings)))
    return "; ".join(
        f"{key}: {reprlib.repr(old.get(key))} there, {reprlib.repr(new.get(key))} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )


def run_files(
    results: Mapping[Path, Sequence[Path]],
    work: Callable[[Path, list[Path]], str],
    say: Callable[[str], None],
    *,
    overwrite: bool = False,
) -> list[tuple[Path, str]]:
    """Work on each file, and go on where one fails.

    Parameters
    ----------
    results : mapping of Path to sequence of Path
        Results by file, from :func:`plan_results`, in a folder that
        :func:`open_folder` made ready.
    work : callable
        Takes a file and the paths of its results, writes these, each whole or not at
        all, and returns a line about it.
    say : callable
        Takes each line of text for the reader.
    overwrite : bool
        Whether to work again on what is done. Otherwise a file is passed over of which
        all results are newer than it and than the settings.

    Returns
    -------
    list of (Path, str)
        Files that failed, and why.

    Raises
    ------
    OSError
        The disk is full: the others would fail as well.
    ImportError
        A package is not installed: the others would fail as well.
    """
    failures = []
    for i, (file, made) in enumerate(results.items(), start=1):
        count = f"[{i}/{len(results)}]"
        if not overwrite and all(_is_done(file, result) for result in made):
            say(f"{count} {file}: done before, in {made[0]}")
            continue
        try:
            told = work(file, list(made))
        except ImportError:
            raise
        except Exception as error:  # one bad file must not end the others
            if isinstance(error, OSError) and error.errno in _NO_PLACE:
                raise
            why = str(error) or type(error).__name__
            failures.append((file, why))
            say(f"{count} {file}: failed: {why}")
        else:
            say(f"{count} {file}: {told}")
    return failures


def _is_done(file: Path, result: Path) -> bool:
    if not result.is_file() or not file.exists():
        return False
    settings = result.parent / _SETTINGS
    known_by = [file, settings] if settings.exists() else [file]
    return result.stat().st_mtime >= max(path.stat().st_mtime for path in known_by)


def _has_results(folder: Path) -> bool:
    """Tell whether anything was put in a folder since its settings."""
    since = (folder / _SETTINGS).stat().st_mtime
    return any(
        entry.name != _SETTINGS and entry.is_file() and entry.stat().st_mtime >= since
        for entry in folder.iterdir()
    )
