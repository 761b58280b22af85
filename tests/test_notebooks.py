"""The notebooks run, and lie in the repository with the outputs of a clean run."""

import json
import os
import re
import runpy
import sys
import sysconfig
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools" / "run_notebooks.py"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# By notebook, what is replaced in its code so that it takes seconds.
SHORTER = {
    "01_quickstart.ipynb": [
        ("max_epochs=20", "max_epochs=1"),
        ("max_epochs=5", "max_epochs=1"),
        ("window, step = 2.0, 1.0", "window, step = 2.0, 2.0"),
    ],
    "02_your_own_montage.ipynb": [
        ("max_epochs=20", "max_epochs=1"),
        ("n_draws = 5", "n_draws = 1"),
    ],
    "03_pretrained_and_finetuning.ipynb": [
        ('max_epochs": 20', 'max_epochs": 2'),
        ('freeze_epochs": 5', 'freeze_epochs": 1'),
        ("n_draws = 3", "n_draws = 1"),
    ],
    "04_recordings_to_annotations.ipynb": [
        ("max_epochs=10", "max_epochs=1"),
        ("duration=2, step=0.5", "duration=2, step=1.0"),
        ("block=20", "block=110"),
        ("np.linspace(0, 1, 11)", "[0, 1]"),
        ("--report --quiet", "--quiet"),
    ],
    "05_other_biosignals.ipynb": [
        ("max_epochs=12", "max_epochs=1"),
        ("max_epochs=15", "max_epochs=1"),
        ("1600, seed=0", "400, seed=0"),
        ("800, seed=1", "100, seed=1"),
    ],
    "06_pretraining.ipynb": [
        ("max_epochs=60", "max_epochs=2"),
        ("n_draws = 30", "n_draws = 2"),
    ],
}

every_notebook = pytest.mark.parametrize(
    "path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS]
)


@pytest.fixture(scope="module")
def tool() -> dict[str, Any]:
    if not TOOL.exists():
        pytest.skip("tools/ is not part of the source distribution")
    return runpy.run_path(str(TOOL))


@pytest.fixture
def write(tmp_path):
    """Write a notebook of a headline and these code cells; return its path."""

    def write(*sources: str) -> Path:
        cells = [new_markdown_cell("# Made by a test", id="headline")]
        for i, source in enumerate(sources):
            cells.append(new_code_cell(source, id=f"code-{i}"))
        path = tmp_path / "made.ipynb"
        nbformat.write(new_notebook(cells=cells), path)
        return path

    return write


def code_cells(notebook) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds_of_output(cell) -> list[tuple[str, list[str]]]:
    return [
        (output.output_type, sorted(output.get("data", [output.get("name")])))
        for output in cell.outputs
    ]


@every_notebook
def test_shortened_notebook_runs_to_outputs_of_the_same_kinds(tool, path):
    executed = code_cells(tool["run"](path, SHORTER[path.name]))

    for cell, kept in zip(executed, code_cells(nbformat.read(path, 4)), strict=True):
        assert kinds_of_output(cell) == kinds_of_output(kept), cell.source


@every_notebook
def test_kept_outputs_are_those_of_one_clean_run(path):
    cells = code_cells(nbformat.read(path, 4))

    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.text
            # An image's text is no prose, and may hold anything.
            texts = {
                k: v for k, v in output.get("data", {}).items() if "image" not in k
            }
            said = json.dumps([texts, output.get("text")])
            assert not re.search(r"/(home|root|Users|tmp|work)/|[A-Z]:\\\\", said), said
            assert str(ROOT) not in said
    assert path.stat().st_size < 1_500_000


def test_run_uses_this_interpreter_whatever_kernels_there_are(
    tool, write, tmp_path, monkeypatch, capsys
):
    other = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    other.parent.mkdir(parents=True)
    other.write_text('{"argv": ["false"], "display_name": "", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    path = write("import sys", "print(sys.executable)")

    tool["main"]([str(path)])

    notebook = nbformat.read(path, 4)
    assert notebook.cells[2].outputs[0].text.strip() == sys.executable
    assert notebook.metadata.language_info == {"name": "python"}
    assert all(cell.metadata == {} for cell in notebook.cells)
    assert re.fullmatch(r"made\.ipynb: \d+ s\n", capsys.readouterr().out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["jupyter", "made.ipynb"]


def test_commands_are_those_of_this_interpreter(tool, write, monkeypatch):
    monkeypatch.setenv("PATH", os.defpath)
    command = "braindecode-biot"
    path = write(f"import shutil; print(shutil.which({command!r}))")

    tool["main"]([str(path)])

    found = nbformat.read(path, 4).cells[1].outputs[0].text.strip()
    assert Path(found).parent == Path(sysconfig.get_path("scripts"))


def test_failing_notebook_is_named_and_left_as_it_was(tool, write, tmp_path):
    path = write("print('fine')", "1 / 0")
    before = path.read_bytes()

    with pytest.raises(SystemExit, match=r"made\.ipynb: cell 3 failed(.|\n)*1 / 0"):
        tool["main"]([str(path)])

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_text_to_replace_must_be_there(tool, write):
    path = write("max_epochs = 20")

    with pytest.raises(ValueError, match="holds 'max_epochs=20'"):
        tool["run"](path, [("max_epochs=20", "max_epochs=1")])
