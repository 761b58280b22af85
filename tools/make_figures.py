"""Draw the README's figures anew from the shipped recording.

    python tools/make_figures.py

Writes seizures.png, attribution.png and importance.png to docs/. The other figures come
from the benchmarks and from the README's own snippets.
"""

import shutil
import tempfile
import warnings
from pathlib import Path

warnings.simplefilter("ignore")  # braindecode's imports warn of what is not ours

from braindecode_biot import label_windows, load_absence, to_montage  # noqa: E402
from braindecode_biot.demo import biot, run  # noqa: E402
from braindecode_biot.explain import explain  # noqa: E402
from braindecode_biot.viz import plot_attribution, plot_channel_importance  # noqa: E402

DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Draw them."""
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), verbose=0)
        shutil.copy(Path(folder) / "seizures.png", DOCS)
    raw = to_montage(load_absence(), "tcp-16")
    epochs, labels, blocks = label_windows(raw, 2, 0.5, events="seizure", block="event")
    known, new = blocks != 2, blocks == 2
    classifier = biot(verbose=0).fit(epochs[known], labels[known])
    seizure = epochs[new & (labels == "seizure")]
    background = epochs[known & (labels != "seizure")][::5]
    attribution = explain(classifier, seizure, "seizure", baseline=background)
    plot_attribution(attribution).savefig(DOCS / "attribution.png", dpi=90)
    figure = plot_channel_importance(attribution)
    figure.savefig(DOCS / "importance.png", dpi=110)
    print(attribution.per_band().mean().round(2).to_string())


if __name__ == "__main__":
    main()
