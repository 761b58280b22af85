"""A TOML file of tables, checked against the arguments that they are for.

Owns reading and writing, and how a wrong key or value is told. Must not know what is
done with the values.
"""

import collections.abc
import difflib
import inspect
import json
import tomllib
import types
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

__all__ = ["ConfigError", "Hints", "Tables", "arguments_of", "read_tables", "toml_of"]

# By table and key; the keys that stand in no table are in the table "".
Tables = dict[str, dict[str, Any]]
Hints = dict[str, Any]
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class ConfigError(ValueError):
    """A configuration file says what cannot be done."""


def arguments_of(function: Callable[..., Any], but: Collection[str] = ()) -> Hints:
    """Tell the types of a function's arguments.

    Parameters
    ----------
    function : callable
        A function or class. The type of what it does not annotate is its default's.
    but : collection of str
        Arguments to leave out.

    Returns
    -------
    mapping of str to type
        By name.

    Examples
    --------
    >>> arguments_of(inspect.cleandoc)
    {'doc': typing.Any}
    """
    of_class: Any = function.__init__ if inspect.isclass(function) else None
    hints = get_type_hints(of_class or function)
    told = {}
    for name, parameter in inspect.signature(function).parameters.items():
        default = parameter.default
        guess = Any if default in (None, parameter.empty) else type(default)
        if name not in but:
            told[name] = hints.get(name, guess)
    return told


def read_tables(
    path: Path, known: Mapping[str, Hints], changes: Mapping[str, Any] | None = None
) -> Tables:
    r"""Read a TOML file, and check its keys and the types of their values.

    Parameters
    ----------
    path : Path
        The file.
    known : mapping of str to mapping
        The tables that there may be, and the types of their keys; "" is of the keys
        that stand in no table.
    changes : mapping of str to value | None
        Values that count more than the file's, by key, such as "trainer.max_epochs".

    Returns
    -------
    dict of str to dict
        Values, for each of the tables.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ConfigError
        It is no TOML, or a table, a key or the type of a value is not known.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "run.toml"
    ...     _ = path.write_text("[trainer]\nmax_epoch = 3")
    ...     try:
    ...         read_tables(path, {"": {}, "trainer": {"max_epochs": int}})
    ...     except ConfigError as error:
    ...         print(str(error).replace(str(path), "run.toml"))
    'run.toml' has [trainer] max_epoch, which is not known; did you mean max_epochs?
    Known there: max_epochs.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no configuration file '{path}'.")
    try:
        text = path.read_text(encoding="utf-8")
        given = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"'{path}' is no TOML: {error}.") from error
    tables: Tables = {name: {} for name in known}
    for name, value in given.items():
        if isinstance(value, dict) and name not in known[""]:
            if name not in known:
                raise _unknown(path, f"[{name}]", name, [n for n in known if n])
            tables[name] = value
        else:
            tables[""][name] = value
    for key, value in (changes or {}).items():
        table, _, name = key.rpartition(".")
        if table not in known:
            raise _unknown(path, f"{key}", table, [n for n in known if n])
        tables[table][name] = value
    for table, values in tables.items():
        for name, value in values.items():
            where = f"[{table}] {name}" if table else name
            if name not in known[table]:
                raise _unknown(path, where, name, known[table])
            if not _fits(value, known[table][name]):
                raise ConfigError(
                    f"'{path}': {where} is {_told(known[table][name])}, got {value!r}."
                )
    return tables


def toml_of(tables: Tables) -> str:
    """Write tables as TOML.

    Parameters
    ----------
    tables : dict of str to dict
        As :func:`read_tables` returns.

    Returns
    -------
    str
        The text of a file.

    Examples
    --------
    >>> print(toml_of({"": {"seed": 0}, "model": {"emb_size": 64, "names": ["C3"]}}))
    seed = 0
    <BLANKLINE>
    [model]
    emb_size = 64
    names = ["C3"]
    <BLANKLINE>
    """
    parts = [
        "".join(
            [f"[{table}]\n"] * bool(table)
            + [f"{key} = {_literal(value)}\n" for key, value in values.items()]
        )
        for table, values in tables.items()
        if values
    ]
    return "\n".join(parts)


def _unknown(path: Path, what: str, name: str, known: Collection[str]) -> ConfigError:
    near = difflib.get_close_matches(name, known, 1)
    guess = f"; did you mean {near[0]}?\n" if near else ".\n"
    return ConfigError(
        f"'{path}' has {what}, which is not known{guess}Known there: "
        f"{', '.join(known)}."
    )


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a value is of a type, as far as TOML has it."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in inner)
    if origin in (list, collections.abc.Sequence):
        return isinstance(value, list) and all(_fits(v, inner[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(one, inner[1]) for one in value.values()
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return hint in (bool, str) and isinstance(value, hint)


def _told(hint: Any) -> str:
    """Say what a value may be; nothing of what TOML does not have."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(filter(None, dict.fromkeys(_told(one) for one in inner)))
    if origin is Literal:
        return " or ".join(_literal(one) for one in inner)
    if origin in (list, collections.abc.Sequence):
        return f"a list of {_told(inner[0])}"
    return "a table" if origin is dict else _WORDS.get(hint, "")


def _literal(value: Any) -> str:
    """Write a value. JSON's text, lists and finite numbers are TOML's too."""
    if isinstance(value, dict):
        inner = ", ".join(f"{k} = {_literal(v)}" for k, v in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, float):
        return str(value)
    return json.dumps(value, ensure_ascii=False)
