"""Execute the notebooks, and keep their outputs in them.

    python tools/run_notebooks.py [NOTEBOOK ...]

Without arguments, every notebook in ``notebooks/``. A notebook is written when all of
it ran, and is left as it was otherwise.
"""

import argparse
import os
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[1] / "notebooks"
SECONDS_PER_CELL = 600
# With one thread the numbers do not depend on how many cores a machine has. It costs
# small models little; several threads wait for each other on a busy machine.
# Commands in notebooks are those of this interpreter's environment, active or not.
SCRIPTS = sysconfig.get_path("scripts")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    **os.environ,
    "PATH": os.pathsep.join([SCRIPTS, os.environ.get("PATH", os.defpath)]),
}


def run(path: Path, replacements: Iterable[tuple[str, str]] = ()) -> NotebookNode:
    """Execute a notebook in a new kernel of this very interpreter.

    Parameters
    ----------
    path : Path
        The notebook; it is only read.
    replacements : iterable of (str, str)
        Texts to replace in the code before it is executed, and their replacements.

    Returns
    -------
    NotebookNode
        The notebook with its outputs, and without what differs between machines and
        runs. It ran in an empty folder, which is gone.

    Raises
    ------
    ValueError
        If a text to replace is not in the code.
    RuntimeError
        If a cell fails; the message tells which and why.
    """
    notebook = nbformat.read(path, as_version=4)
    replace(notebook, replacements)
    # A manager that looks nowhere for kernels offers the running interpreter's own.
    manager = AsyncKernelManager(
        kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[])
    )
    current: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            km=manager,
            timeout=SECONDS_PER_CELL,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
            # Else the kernel warns that it is not encrypted on this very machine.
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
            on_cell_start=current.update,
        )
        try:
            client.execute(cleanup_kc=True, env=ENVIRONMENT)
        except (CellControlSignal, DeadKernelError) as error:
            number = current["cell_index"] + 1
            raise RuntimeError(f"cell {number} failed.\n{error}") from error
    strip(notebook)
    return notebook


def replace(notebook: NotebookNode, replacements: Iterable[tuple[str, str]]) -> None:
    """Replace texts in the code cells; each must be there."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for old, new in replacements:
        if not any(old in cell.source for cell in cells):
            raise ValueError(f"No code cell holds {old!r}, which is to be replaced.")
        for cell in cells:
            cell.source = cell.source.replace(old, new)


def strip(notebook: NotebookNode) -> None:
    """Leave out what differs between machines and runs that give the same outputs."""
    notebook.metadata = {
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all."""
    beside = path.with_suffix(".part")
    nbformat.write(notebook, beside)
    beside.replace(path)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, and run the notebooks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, metavar="NOTEBOOK")
    options = parser.parse_args(arguments)
    for path in options.notebooks or sorted(FOLDER.glob("*.ipynb")):
        begin = time.perf_counter()
        try:
            write(run(path), path)
        except (OSError, RuntimeError, ValueError) as error:
            sys.exit(f"{path.name}: {error}")
        print(f"{path.name}: {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
