"""What the configuration file of a pretraining run may say.

Owns its tables, their defaults, and where its paths lead. Must not open what they lead
to, nor run anything.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from braindecode_biot.engine import Trainer
from braindecode_biot.model import BIOT
from braindecode_biot.pretraining import ContrastivePretraining
from braindecode_biot.pretraining_data import PretrainingData
from braindecode_biot.tables import (
    ConfigError,
    Hints,
    Tables,
    arguments_of,
    read_tables,
)

__all__ = ["read_config"]

# Arguments that a run sets itself, or that no file can say.
_SET = {
    "data": {"windows", "labels", "validation", "validation_labels", "sfreq", "picks"}
    | {"exclude", "seed"},
    "model": {"n_outputs", "n_chans", "chs_info", "activation", "return_feature"},
    "objective": {"model", "seed"},
    "trainer": {"logger", "callbacks", "plugins", "default_root_dir", "model_registry"}
    | {"enable_checkpointing", "fast_dev_run", "barebones", "overfit_batches"},
}


def read_config(path: Path, overrides: Mapping[str, Any] | None = None) -> Tables:
    """Read the configuration of a run.

    In no table stand ``output``, the run's folder; ``seed`` (0); ``start_from``, a
    checkpoint to begin with, as for :meth:`BIOT.from_checkpoint`; ``resume`` (true),
    whether to go on with a run that is in the folder; and ``checkpoint_every`` (1000),
    steps after which a checkpoint is written, beside each epoch's end. ``[data]`` has
    ``archives``, a list of folders of :func:`~braindecode_biot.prepare_archive`;
    ``validation_fraction`` (0.1), the share of the recordings that is held out, with
    all of a person's; and arguments of
    :class:`~braindecode_biot.pretraining_data.PretrainingData`. ``[model]`` has those
    of :class:`~braindecode_biot.BIOT`, of which channels, sampling rate and length are
    the archives' if nothing is said; ``[objective]`` those of
    :class:`~braindecode_biot.pretraining.ContrastivePretraining`; ``[trainer]`` those
    of Lightning's ``Trainer``, with 100 epochs if no end is said.

    Parameters
    ----------
    path : Path
        A TOML file, absolute. Relative paths in it start at its folder.
    overrides : mapping of str to value | None
        What counts more than the file, such as ``{"trainer.max_epochs": 3}``.

    Returns
    -------
    dict of str to dict
        Values by table, "" for those in none: with defaults, and paths in full.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ConfigError
        It lacks what is needed, or holds what is not known or out of range.
    """
    known: dict[str, Hints] = {
        "": {
            "output": str,
            "seed": int,
            "start_from": str,
            "resume": bool,
            "checkpoint_every": int,
        },
        "data": {"archives": list[str], "validation_fraction": float}
        | arguments_of(PretrainingData, _SET["data"]),
        # As it stands on the host's API page, it has no annotations.
        "model": arguments_of(BIOT, _SET["model"])
        | {"sfreq": float, "n_times": int, "input_window_seconds": float},
        "objective": arguments_of(ContrastivePretraining, _SET["objective"]),
        "trainer": arguments_of(Trainer, _SET["trainer"]),
    }
    tables = read_tables(path, known, overrides)
    top: dict[str, Any] = {"seed": 0, "resume": True, "checkpoint_every": 1000}
    top |= tables[""]
    data: dict[str, Any] = {"validation_fraction": 0.1} | tables["data"]
    trainer = tables["trainer"]
    if not trainer.keys() & {"max_epochs", "max_steps", "max_time"}:
        trainer = {"max_epochs": 100} | trainer  # as in the paper
    if not top.get("output") or not data.get("archives"):
        raise ConfigError(
            f"'{path}' needs an output, the run's folder, and [data] archives, folders "
            "that `braindecode-biot prepare` or prepare_archive made."
        )
    if top["seed"] < 0 or top["checkpoint_every"] < 1:
        raise ConfigError(
            f"'{path}': seed is at least 0 and checkpoint_every at least 1, got "
            f"{top['seed']} and {top['checkpoint_every']}."
        )
    if not 0 <= data["validation_fraction"] < 1:
        raise ConfigError(
            f"'{path}': [data] validation_fraction is from 0 to below 1, got "
            f"{data['validation_fraction']}."
        )
    top["output"] = _place(path, top["output"])
    data["archives"] = [_place(path, name) for name in data["archives"]]
    places = [Path(place).resolve() for place in data["archives"]]
    if len(set(places)) < len(places):
        raise ConfigError(f"'{path}': [data] archives names one twice.")
    start = top.get("start_from")
    if start and Path(_place(path, start)).exists():  # else a name on the Hub, perhaps
        top["start_from"] = _place(path, start)
    return tables | {"": top, "data": data, "trainer": trainer}


def _place(path: Path, name: str) -> str:
    """Find what is named relative to a file's folder."""
    return str(path.parent / Path(name).expanduser())
