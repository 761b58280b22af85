"""Many files through one piece of work: order, skipping, settings and failures."""

import errno
import json
import os
import re

import pytest

from braindecode_biot import batches
from braindecode_biot.batches import (
    SettingsError,
    check_writable,
    checksum,
    open_folder,
    plan_results,
    run_files,
)


class Work:
    """Copies a file to its results, and remembers what it was given."""

    def __init__(self, errors=None):
        self.done = []
        self.errors = errors or {}

    def __call__(self, file, made):
        self.done.append(file.name)
        if file.name in self.errors:
            raise self.errors[file.name]
        for result in made:
            result.write_bytes(file.read_bytes())
        return "copied"


@pytest.fixture
def files(tmp_path):
    names = ["a.edf", "b.edf", "c.edf"]
    for name in names:
        (tmp_path / name).write_text(name)
        set_age(tmp_path / name, 100)
    return [tmp_path / name for name in names]


def set_age(path, seconds):
    now = path.parent.stat().st_mtime
    os.utime(path, (now - seconds, now - seconds))


def go(files, folder, suffixes=(".csv",), work=None, settings=None, **kwargs):
    """Plan, open and run, as the commands do."""
    work, lines = work or Work(), []
    results = plan_results(files, folder, suffixes)
    open_folder(folder, settings or {}, **kwargs)
    failures = run_files(results, work, lines.append, **kwargs)
    return work.done, failures, lines


def test_each_file_has_its_results_and_a_line(files, tmp_path):
    done, failures, lines = go(files, tmp_path / "new" / "out", [".csv", ".html"])
    assert done == ["a.edf", "b.edf", "c.edf"]
    assert failures == []
    assert lines[1] == f"[2/3] {files[1]}: copied"
    made = {path.name for path in (tmp_path / "new" / "out").iterdir()}
    assert made == {"settings.json"} | {
        f"{stem}{end}" for stem in "abc" for end in (".csv", ".html")
    }


def test_what_is_done_is_passed_over(files, tmp_path):
    out = tmp_path / "out"
    go(files[:2], out)
    done, _, lines = go(files, out)
    assert done == ["c.edf"]
    assert "done before" in lines[0]
    assert go(files, out, overwrite=True)[0] == ["a.edf", "b.edf", "c.edf"]


def test_one_missing_result_of_two_is_made(files, tmp_path):
    out = tmp_path / "out"
    go(files, out, [".csv"])
    assert go(files[:1], out, [".csv", ".html"])[0] == ["a.edf"]
    assert go(files[:1], out, [".csv", ".html"])[0] == []
    assert go(files, out, ["-events.csv"])[0] == ["a.edf", "b.edf", "c.edf"]


def test_a_file_newer_than_its_result_is_done_again(files, tmp_path):
    go(files, tmp_path / "out")
    set_age(files[1], -100)
    assert go(files, tmp_path / "out")[0] == ["b.edf"]


def test_other_settings_are_refused(files, tmp_path):
    out = tmp_path / "out"
    go(files, out, settings={"threshold": 0.5, "montage": ["a" * 99]})
    with pytest.raises(SettingsError, match=r"\(threshold: 0.5 there, 0.7 now\)"):
        open_folder(out, {"threshold": 0.7, "montage": ["a" * 99]})
    assert json.loads((out / "settings.json").read_text())["threshold"] == 0.5
    with pytest.raises(SettingsError, match=r"aaa\.\.\.aaa"):  # long values are cut
        open_folder(out, {"threshold": 0.5, "montage": None})


def test_same_settings_in_another_layout_are_the_same(files, tmp_path):
    go(files, tmp_path, settings={"a": 1, "b": [None]})
    (tmp_path / "settings.json").write_text('{"b":[null],"a":1}')
    open_folder(tmp_path, {"a": 1, "b": [None]})


def test_settings_without_results_do_not_bind(files, tmp_path):
    out = tmp_path / "out"
    open_folder(out, {"threshold": 0.5})
    open_folder(out, {"threshold": 0.7})
    assert json.loads((out / "settings.json").read_text()) == {"threshold": 0.7}


def test_damaged_settings_are_refused(files, tmp_path):
    go(files, tmp_path / "out")
    (tmp_path / "out" / "settings.json").write_text("{")
    set_age(tmp_path / "out" / "settings.json", 100)
    with pytest.raises(SettingsError, match="they cannot be read"):
        open_folder(tmp_path / "out", {})


def test_results_of_replaced_settings_are_never_taken_for_new_ones(files, tmp_path):
    # An interrupted --overwrite leaves old results beside new ones.
    out = tmp_path / "out"
    go(files, out, settings={"threshold": 0.5})
    for result in out.iterdir():
        set_age(result, 50)
    work = Work({"b.edf": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        go(files, out, work=work, settings={"threshold": 0.7}, overwrite=True)
    assert go(files, out, settings={"threshold": 0.7})[0] == ["b.edf", "c.edf"]


def test_a_failure_does_not_end_the_others(files, tmp_path):
    work = Work({"a.edf": ValueError("no EEG"), "b.edf": RuntimeError()})
    done, failures, lines = go(files, tmp_path / "out", work=work)
    assert done == ["a.edf", "b.edf", "c.edf"]
    assert failures == [(files[0], "no EEG"), (files[1], "RuntimeError")]
    assert lines[0].endswith("a.edf: failed: no EEG")
    assert go(files, tmp_path / "out")[0] == ["a.edf", "b.edf"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), OSError(errno.EROFS, "read-only"),
     ImportError("pyarrow")],
)  # fmt: skip
def test_what_fails_for_all_ends_the_run(files, tmp_path, error):
    work = Work({"b.edf": error})
    with pytest.raises(type(error)):
        go(files, tmp_path / "out", work=work)
    assert work.done == ["a.edf", "b.edf"]
    assert go(files, tmp_path / "out")[0] == ["b.edf", "c.edf"]


def test_another_error_of_the_system_is_the_files(files, tmp_path):
    work = Work({"b.edf": OSError(errno.ENOENT, "gone")})
    assert len(go(files, tmp_path / "out", work=work)[1]) == 1


def test_two_files_of_one_result_are_refused(tmp_path):
    pair = [tmp_path / "1" / "a.edf", tmp_path / "2" / "a.bdf"]
    with pytest.raises(ValueError, match=r"a\.edf' and .*a\.bdf' would both become"):
        plan_results(pair, tmp_path, [".csv"])
    assert list(plan_results([pair[0]] * 2, tmp_path, [".csv"])) == [pair[0]]


def test_no_recording_is_written_over(files, tmp_path):
    with pytest.raises(ValueError, match=r"would replace .*a\.edf', which is to be"):
        plan_results(files, tmp_path, [".edf"])


def test_a_folder_that_cannot_be_written_is_said_at_once(files, tmp_path, monkeypatch):
    with pytest.raises(NotADirectoryError, match="Nothing can be written"):
        open_folder(files[0] / "out", {})

    def refuse(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(batches.Path, "touch", refuse)
    with pytest.raises(PermissionError, match=re.escape(str(tmp_path / "out"))):
        check_writable(tmp_path / "out")


def test_trying_leaves_nothing_behind(tmp_path):
    assert check_writable(tmp_path / "out") == tmp_path / "out"
    assert list((tmp_path / "out").iterdir()) == []


def test_checksum_tells_contents_apart(files, tmp_path):
    assert checksum("user/repository") == "user/repository"
    one, two = (checksum(file) for file in files[:2])
    assert one != two
    assert re.fullmatch("[0-9a-f]{64}", one)
    before = checksum(tmp_path)
    files[0].write_text("else")
    assert checksum(tmp_path) != before
