"""Every snippet of the README runs, in order, as a reader would copy it."""

import re
import warnings

import pytest
import torch

from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore")
def test_the_python_snippets_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert len(snippets) >= 8
    names: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for snippet in snippets:
            exec(compile(snippet, "README.md", "exec"), names)
    # What the text beside the snippets claims.
    assert len(names["epochs"]) == 170
    assert names["logits"].shape == (8, 2)
    assert names["features"].shape == (8, 256)
    assert names["scores"].shape == (3,)
    assert (tmp_path / "scores.png").stat().st_size > 10_000
    assert names["X"].shape == (396, 18, 400)
    assert len(names["bipolar"].ch_names) == 18
    assert names["embeddings"].shape == (8, 64)
    assert names["same"].n_outputs == 2
    assert names["other"].n_outputs == 6
    stand_in, trained = (names[n].encoder.state_dict() for n in ("stand_in", "same"))
    assert not any(torch.equal(stand_in[key], trained[key]) for key in stand_in)
    printed = capsys.readouterr().out
    assert "Montage tcp-18: 14 of 18 channels" in printed
    assert "A1" in printed
    assert "EEG-six-datasets-18-channels.ckpt (official layout)" in printed


def test_the_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)", README)) - {"and"}
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_links_and_pictures_lead_somewhere():
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
