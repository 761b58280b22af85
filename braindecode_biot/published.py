"""The published weights: what their files do not say of themselves.

Owns a small registry of facts. Must not read files, nor import torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from braindecode_biot.channels import TCP16, TCP18

__all__ = ["PUBLISHED", "Published", "recognise"]


@dataclass(frozen=True)
class Published:
    """Weights that the authors of BIOT published.

    Attributes
    ----------
    name : str
        What they were pretrained on.
    hub_id : str
        Repository of braindecode's copy on the Hugging Face Hub.
    file_name : str
        The authors' file.
    channels : tuple of str
        What the rows of the table of channel tokens stand for.
    sfreq : float
        Sampling rate in Hz.
    token_size, hop_length : int
        Samples per token, and from the start of one to the start of the next.
    att_num_heads : int
        Number of attention heads.
    drop_prob : float
        Dropout on the tokens in the authors' training; braindecode's copies say 0.5,
        the default there.
    input_scaling : str
        How the authors scaled each channel of a window.
    licence : str
        Of the authors' repository, which holds the files.
    source : str
        Where the authors' file is.
    """

    name: str
    hub_id: str
    file_name: str
    channels: tuple[str, ...]
    sfreq: float = 200
    token_size: int = 200
    hop_length: int = 100
    att_num_heads: int = 8
    drop_prob: float = 0.1
    input_scaling: str = "q95"
    licence: str = "MIT"
    source: str = "https://github.com/ycq091044/BIOT/tree/main/pretrained-models"

    @property
    def arguments(self) -> Mapping[str, Any]:
        """Arguments of a BIOT for these weights."""
        names = ("sfreq", "token_size", "hop_length", "att_num_heads", "drop_prob")
        return {name: getattr(self, name) for name in (*names, "input_scaling")}


#: All of them. None has a trained head.
PUBLISHED: Final = (
    Published(
        "PREST",
        "braindecode/biot-pretrained-prest-16chs",
        "EEG-PREST-16-channels.ckpt",
        TCP16,
    ),
    Published(
        "SHHS+PREST",
        "braindecode/biot-pretrained-shhs-prest-18chs",
        "EEG-SHHS+PREST-18-channels.ckpt",
        TCP18,
    ),
    Published(
        "six data sets",
        "braindecode/biot-pretrained-six-datasets-18chs",
        "EEG-six-datasets-18-channels.ckpt",
        TCP18,
    ),
)


# What browsers and file managers add to a name that is taken, behind the stem.
_COPY = re.compile(r"(?:[ _-]*\(\d+\)|[ _-]+(?:copy|kopie)(?: \d+)?)+$", re.IGNORECASE)


def recognise(source: str | Path) -> Published | None:
    """Tell published weights by the name of their file, folder or repository.

    Parameters
    ----------
    source : str | Path
        A path, or a repository's name on the Hub.

    Returns
    -------
    Published | None
        None for any other name.

    Examples
    --------
    >>> recognise("downloads/EEG-PREST-16-channels.ckpt").name
    'PREST'
    >>> recognise("braindecode/biot-pretrained-six-datasets-18chs").name
    'six data sets'
    >>> recognise("EEG-SHHS%2BPREST-18-channels (1).ckpt").name
    'SHHS+PREST'
    >>> recognise("my-own.ckpt")
    """
    path = Path(source)
    plain = path.name.replace("%2B", "+").replace("%2b", "+").replace("%20", " ")
    stem, dot, suffix = plain.rpartition(".")
    name = (_COPY.sub("", stem) + dot + suffix).casefold()
    for row in PUBLISHED:
        cached = "models--" + row.hub_id.replace("/", "--")  # by huggingface_hub
        if name == row.file_name.casefold() or path.name == Path(row.hub_id).name:
            return row
        if cached in path.parts:
            return row
    return None
