"""What several test modules share: reference folder, oracle pairs, small data."""

import os
from pathlib import Path

import matplotlib as mpl
import pytest

mpl.use("Agg")

ROOT = Path(__file__).parents[1]
# Reference outputs and public recordings that are too large for the repository. The
# behaviour they pin is tested on made or shipped data as well.
SHARED = Path(os.environ.get("BIOT_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of checkpoints with outputs computed by the official code."""
    folder = SHARED / "reference"
    if not folder.is_dir():
        pytest.skip(f"the official code's reference outputs are not in {folder}")
    return folder
