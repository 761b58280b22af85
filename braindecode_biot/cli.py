"""The `braindecode-biot` command. Parses arguments and calls; holds no logic."""

import warnings
from pathlib import Path

import click

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="braindecode-biot")
def main() -> None:
    """BIOT, the biosignal transformer, on your recordings."""
    # braindecode asks MNE for a montage by its old name, which users cannot change.
    warnings.filterwarnings("ignore", "Montage name", FutureWarning)


@main.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo_output"),
    show_default=True,
    help="Folder for the figure and the predictions.",
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress bars.")
def demo(output: Path, quiet: bool) -> None:
    """Find absence seizures in the EEG that comes with the package.

    Trains BIOT and a logistic regression three times, each time without one of the
    three seizures, and tests them there. Takes one to two minutes on two cores.
    """
    # Imported here: `--help` need not wait for torch.
    from braindecode_biot.demo import run

    run(output, say=click.echo, verbose=0 if quiet else 1)
