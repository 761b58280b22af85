"""Configuration files: what is read, written, and said of mistakes."""

from collections.abc import Sequence
from typing import Literal

import pytest

from braindecode_biot.tables import ConfigError, arguments_of, read_tables, toml_of

KNOWN = {
    "": {"output": str, "seed": int},
    "model": {
        "size": int,
        "rate": float | None,
        "kind": Literal["q95", 3] | None,
        "names": str | Sequence[str],
        "fast": bool,
        "time": dict[str, int],
    },
}


def read(tmp_path, text, **changes):
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return read_tables(path, KNOWN, changes.get("changes"))


def test_values_come_by_table_and_changes_count_more(tmp_path):
    text = 'output = "a"\n[model]\nsize = 3\nrate = 2\nnames = ["Ü"]'

    tables = read(tmp_path, text, changes={"model.size": 4, "seed": 1})

    assert tables == {
        "": {"output": "a", "seed": 1},
        "model": {"size": 4, "rate": 2, "names": ["Ü"]},
    }
    assert read(tmp_path, "") == {"": {}, "model": {}}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("[modell]\nsize = 3", r"\[modell\], which.*mean model\?\nKnown there: model"),
        ("[model]\nsise = 3", r"\[model\] sise, which.*mean size\?\n.*size, rate, ki"),
        ("sed = 3", "has sed, which is not known; did you mean seed?"),
        ("[model]\nzzz = 3", r"zzz, which is not known\.\nKnown there: size, "),
        ("[model]\nsize = 3.5", r"\[model\] size is a whole number, got 3.5"),
        ("[model]\nsize = true", "size is a whole number, got True"),
        ('seed = "3"', "seed is a whole number, got '3'"),
        ('[model]\nrate = "x"', "rate is a number, got 'x'"),
        ("[model]\nfast = 1", "fast is true or false, got 1"),
        ('[model]\nkind = "q96"', "kind is \"q95\" or 3, got 'q96'"),
        ("[model]\nnames = [1]", r"names is text or a list of text, got \[1\]"),
        ('[model]\ntime = {days = "1"}', "time is a table, got {'days': '1'}"),
        ("seed = ", r"run\.toml' is no TOML: Invalid value"),
    ],
)
def test_mistakes_are_named(tmp_path, text, match):
    with pytest.raises(ConfigError, match=match):
        read(tmp_path, text)


def test_mistakes_in_changes_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"tranier\.x, which is not known"):
        read(tmp_path, "", changes={"tranier.x": 1})
    with pytest.raises(ConfigError, match="size is a whole number, got 'big'"):
        read(tmp_path, "", changes={"model.size": "big"})
    with pytest.raises(
        FileNotFoundError, match=r"no configuration file '.*none\.toml'"
    ):
        read_tables(tmp_path / "none.toml", KNOWN)


def test_what_is_written_is_read_again(tmp_path):
    tables = {
        "": {"output": 'C:\\a "b" ü', "seed": 0},
        "model": {
            "rate": 1e-05,
            "names": ["a", "b"],
            "fast": True,
            "time": {"days": 1},
        },
    }

    assert read(tmp_path, toml_of(tables)) == tables


def test_arguments_are_those_of_functions_and_classes():
    class Thing:
        def __init__(self, a, b=2, *, c: str | None = None, d: float = 1):
            pass

    hints = arguments_of(Thing, {"a"})

    assert hints == {"b": int, "c": str | None, "d": float}
