"""Many files through one piece of work, one result each.

Owns the order of such a run: the place of the results is tried before the work begins,
a file that fails does not end the others, what is done already is passed over, and
results of other settings are not mixed. Must not know what the work is.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from braindecode_biot.files import write_whole

__all__ = ["SettingsError", "checksum", "open_folder", "run_files"]

_SETTINGS = "settings.json"


class SettingsError(ValueError):
    """A folder holds results that were made with other settings."""


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
    path = Path(source)
    if not path.exists():
        return str(source)
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


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
        ``settings.json``.
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
    path = folder / _SETTINGS
    text = json.dumps(dict(settings), indent=2, sort_keys=True)
    if path.exists() and not overwrite:
        before = path.read_text(encoding="utf-8")
        if before != text:
            differing = _differences(before, settings)
            raise SettingsError(
                f"'{folder}' holds results that were made with other settings "
                f"({differing}). Choose another folder, or replace them (--overwrite)."
            )
    write_whole(path, text.encode())
    return folder


def run_files(
    files: Sequence[Path],
    folder: Path,
    suffix: str,
    work: Callable[[Path, Path], str],
    say: Callable[[str], None],
    *,
    overwrite: bool = False,
) -> list[tuple[Path, str]]:
    """Work on each file, and go on where one fails.

    Parameters
    ----------
    files : sequence of Path
        The files.
    folder : Path
        Where the results go: each under its file's name with another suffix.
    suffix : str
        That suffix, such as ``".csv"``.
    work : callable
        Takes a file and the path of its result, writes that, whole or not at all, and
        returns a line about it.
    say : callable
        Takes each line of text for the reader.
    overwrite : bool
        Whether to work again on what is done. Otherwise a result that is newer than its
        file is kept.

    Returns
    -------
    list of (Path, str)
        Files that failed, and why.

    Raises
    ------
    ValueError
        Two files would have the same result.
    OSError
        The disk is full: the others would fail as well.
    """
    results = {file: folder / f"{file.stem}{suffix}" for file in files}
    owners: dict[Path, Path] = {}
    for file, result in results.items():
        if result in owners:
            raise ValueError(
                f"'{owners[result]}' and '{file}' would both become '{result}'. Put "
                "them through in runs of their own, with other output folders."
            )
        owners[result] = file
    failures = []
    for i, (file, result) in enumerate(results.items(), start=1):
        count = f"[{i}/{len(results)}]"
        if not overwrite and _is_done(file, result):
            say(f"{count} {file}: done before, in {result}")
            continue
        try:
            told = work(file, result)
        except Exception as error:  # one bad file must not end the others
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
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
    return result.stat().st_mtime >= file.stat().st_mtime


def _differences(before: str, settings: Mapping[str, Any]) -> str:
    """List the settings that differ from those in a file."""
    try:
        old = dict(json.loads(before))
    except (ValueError, TypeError):
        return "they cannot be read"
    new = json.loads(json.dumps(dict(settings)))
    return "; ".join(
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    )
