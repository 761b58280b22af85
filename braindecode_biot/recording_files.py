"""Which files of a folder are recordings.

Owns the search of folders, by names alone. Must not open what it finds.
"""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

__all__ = ["find_recordings"]

# Formats that MNE reads. It reads others whose suffixes many files bear that are no
# recordings (.txt, .mat, .dat, .eeg): such files are to be named.
_FORMATS = re.compile(
    r"\.(edf|bdf|gdf|vhdr|ahdr|fif|fif\.gz|set|cnt|nedf|cdt|lay|snirf|con|sqd)$"
)
_FOLDERS = (".mff", ".ds", ".mefd")
# MNE's names for files of other things, and BIDS' for later parts of a recording.
_OTHER = re.compile(
    r"[-_](annot|ave|bem|cov|epo|eve|events|fwd|ica|inv|proj|sol|spectrum|src|stc|tfr"
    r"|trans)(-\d+)?\.fif(\.gz)?$|_split-0*([2-9]|1\d)\d*_"
)


def find_recordings(
    given: Iterable[str | os.PathLike[str]], but: Collection[Path] = ()
) -> tuple[list[Path], list[Path]]:
    """Find recordings.

    Parameters
    ----------
    given : iterable of paths
        Files, which are taken whatever their names, and folders, which are searched
        with the folders in them: for names of EEG formats that MNE reads. Hidden ones
        are passed over, and of FIF what MNE names otherwise (``-epo.fif``) and later
        parts (``_raw-1.fif``). Formats that are folders count as files.
    but : collection of Path
        Folders that are not searched.

    Returns
    -------
    recordings : list of Path
        Absolute, in the order given, and of a folder sorted. A file is there once,
        though several links lead to it; one that does not exist is there too.
    empty : list of Path
        The folders given that have none.

    Examples
    --------
    >>> from importlib.resources import files
    >>> recordings, empty = find_recordings([files("braindecode_biot") / "data"])
    >>> [path.name for path in recordings], empty
    (['absence.edf'], [])
    """
    found: dict[Path, Path] = {}
    empty = []
    for path in (Path(item).expanduser().absolute() for item in given):
        inside = [path]
        if path.is_dir() and not path.name.lower().endswith(_FOLDERS):
            inside = list(_search(path, {folder.resolve() for folder in but}))
            if not inside:
                empty.append(path)
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values()), empty


def _search(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Search a folder, unless it was seen: links may lead in circles."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if name.startswith(".") or _OTHER.search(name) or _is_later_part(path):
            continue
        if path.is_dir() and not name.endswith(_FOLDERS):
            yield from _search(path, seen)
        elif path.is_dir() or _FORMATS.search(name):
            yield path


def _is_later_part(path: Path) -> bool:
    """Tell whether MNE reads a file with another one, as it names parts of FIF."""
    first = re.sub(r"-\d+(\.fif(\.gz)?)$", r"\1", path.name)
    return first != path.name and path.with_name(first).exists()
