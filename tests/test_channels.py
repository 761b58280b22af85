"""What channels' names say, and which channels follow from which."""

import os
import subprocess
import sys
from string import ascii_letters

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import braindecode_biot.channels as channels_module
from braindecode_biot.channels import (
    TCP16,
    TCP18,
    VOCABULARIES,
    ChannelGraph,
    Derivation,
    Electrode,
    canonical,
    parse,
    rows_in,
    vocabulary,
)

TEN_TWENTY = ["Fp1", "F7", "T3", "T5", "O1", "Cz", "C3", "A2", "M1", "FCz", "AFF5h"]
# What recordings write around an electrode or derivation.
PREFIXES = ["", "EEG ", "eeg ", "EEG-", "POL ", "POL EEG ", " ", "EEG:"]
SUFFIXES = ["", ".", "..", " ", "-0", "-1"]
DASHES = ["-", " - ", "–", "−", "_", "/", ":"]
REFERENCES = {"": None, "REF": "REF", "Ref": "REF", "LE": "LE", "A1A2": "LE"}
REFERENCES |= dict.fromkeys(["AVG", "AV", "AR", "CAR"], "AVG")
spelled = st.sampled_from([str, str.lower, str.upper])


@st.composite
def channel_names(draw):
    """Draw an electrode or derivation as a recording may name it, and its parts."""
    anode = draw(st.sampled_from(TEN_TWENTY))
    rest = draw(st.sampled_from([*TEN_TWENTY, *REFERENCES]))
    dash = draw(st.sampled_from(DASHES)) if rest else ""
    name = draw(spelled)(f"{anode}{dash}{rest}")
    prefix, suffix = draw(st.sampled_from(PREFIXES)), draw(st.sampled_from(SUFFIXES))
    return f"{prefix}{name}{suffix}", anode, rest


class TestParse:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("EEG Fp1", "FP1"),
            ("EEG FP1-REF", "FP1"),
            ("EEG Fp1-LE", "FP1"),
            ("EEGFp1", "FP1"),
            ("EEG-Fp1", "FP1"),
            ("POL Fp1", "FP1"),
            ("Fc5.", "FC5"),
            ("C3..", "C3"),
            ("T10.", "T10"),
            ("FPz", "FPZ"),
            ("eeg cz-ar", "CZ"),
            ("T3", "T7"),
            ("T4", "T8"),
            ("T5", "P7"),
            ("T6", "P8"),
            ("M1", "A1"),
            ("M2", "A2"),
            ("T1", "T1"),
            ("FP1-F7", "FP1-F7"),
            ("EEG C3-A2", "C3-A2"),
            ("C3-M2", "C3-A2"),
            ("T3-C3", "T7-C3"),
            ("Fp1 – F7", "FP1-F7"),
            ("Fp1_F7", "FP1-F7"),
            ("T8-P8-0", "T8-P8"),
            ("T8-P8-1", "T8-P8"),
            ("EEG A2-A1", "A2-A1"),
        ],
    )
    def test_spellings(self, name, expected):
        assert canonical(name) == expected
        assert str(parse(name)) == expected

    @pytest.mark.parametrize(
        "name",
        [
            *("acc_x", "ACC_X", "ECG II", "ECG ECG", "EOG left", "EEG VEO", "EOG1"),
            *("E1", "E2", "EEG 20-REF", "EEG EKG1-REF", "EEG C3P-REF", "C23", "C7"),
            *("A3", "Fp3", "T11", "Tz", "STI 014", "Fp1 F7", "Fp1-F7-F3", "EMG-REF"),
            *("C3-C3", "T3-T7", "M1-A1", "ſp1", "C٣", "-", "EEG", "REF", "LE"),
        ],
    )
    def test_no_electrode_stays_itself(self, name):
        assert parse(name) is None
        assert canonical(name) == name
        assert canonical(f"\t{name} ") == name

    @pytest.mark.parametrize(
        "montage", ["colin27_1005", "colin27_1020", "biosemi64", "easycap-M1"]
    )
    def test_every_position_of_the_system(self, montage):
        names = mne.channels.make_standard_montage(montage).ch_names
        assert [name for name in names if not isinstance(parse(name), Electrode)] == []
        new = {canonical(name) for name in names}
        old = {"T3", "T4", "T5", "T6", "M1", "M2"} & set(names)
        also = {"T7", "T8", "P7", "P8", "A1", "A2"} & set(names)
        assert len(new) == len(names) - min(len(old), len(also))

    def test_numbers_of_nets_and_caps_are_no_positions(self):
        net = mne.channels.make_standard_montage("GSN-HydroCel-128").ch_names
        assert [name for name in net if parse(name)] == []

    def test_references(self):
        for name, reference in REFERENCES.items():
            assert parse(f"EEG T3-{name}" if name else "T3") == ("T7", reference)
        for name in ("LM", "CLE", "LER", "A1+A2", "M1M2"):
            assert parse(f"C3-{name}") == Electrode("C3", "LE")

    @given(channel_names())
    def test_parts_are_read_in_every_spelling(self, drawn):
        name, anode, rest = drawn
        if rest in REFERENCES:
            assert parse(name) == Electrode(canonical(anode), REFERENCES[rest])
        elif canonical(anode) != canonical(rest):
            assert parse(name) == Derivation(canonical(anode), canonical(rest))
        else:
            assert parse(name) is None

    @given(
        channel_names().map(lambda drawn: drawn[0])
        | st.text(alphabet=ascii_letters + "0123456789 -_.–ſıK\u00a0", max_size=12)
    )
    def test_canonical_is_idempotent(self, name):
        once = canonical(name)
        assert canonical(once) == once

    def test_no_string(self):
        for function in (parse, canonical):
            with pytest.raises(TypeError, match=r"named 3, a int, expected a string"):
                function(3)


class TestVocabulary:
    def test_the_pretrained_weights(self):
        assert len(TCP16) == 16
        assert TCP18[:16] == TCP16
        assert TCP18[16:] == ("C3-A2", "C4-A1")
        for names in VOCABULARIES.values():
            assert [canonical(name) for name in names] == list(names)
            assert len(set(names)) == len(names)

    @pytest.mark.parametrize("name", ["tcp-16", "TCP-16"])
    def test_by_name(self, name):
        assert vocabulary(name) == list(TCP16)

    @pytest.mark.parametrize("make", [list, tuple, np.array])
    def test_own_names_as_given(self, make):
        names = vocabulary(make(["acc_x", "Fp1", "C3-M2"]))
        assert names == ["acc_x", "Fp1", "C3-M2"]
        assert {type(name) for name in names} == {str}

    @pytest.mark.parametrize("name", ["tcp-20", "", "C3"])
    def test_unknown(self, name):
        with pytest.raises(ValueError, match=r"no channel vocab.*'tcp-16', 'tcp-18'"):
            vocabulary(name)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            ([], "is empty, expected at least one"),
            (["C3", "T3", "T7"], r"has 'T3' and 'T7', which both mean 'T7'"),
            (["C3", "C3-LE"], r"has 'C3' and 'C3-LE', which both mean 'C3'"),
            (["C3", " "], "channel without a name: ' '"),
        ],
    )
    def test_lists_that_are_none(self, names, message):
        with pytest.raises(ValueError, match=message):
            vocabulary(names)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (18, "a int, expected 'tcp-16'"),
            (None, "a NoneType, expected 'tcp-16'"),
            ({"C3", "C4"}, r"a set, expected .* whose order counts"),
            ({"C3": 1}, "a dict, expected"),
            (b"C3", "a bytes, expected"),
            (["C3", 4], "named 4, a int"),
            ([["C3"]], r"named \['C3'\], a list"),
        ],
    )
    def test_no_names(self, names, message):
        with pytest.raises(TypeError, match=message):
            vocabulary(names)


class TestRowsIn:
    @given(st.lists(st.integers(0, 17), unique=True), st.data())
    def test_rows_follow_names(self, rows, data):
        names = [data.draw(spelled)(TCP18[row]) for row in rows]
        assert rows_in("tcp-18", names) == rows
        assert rows_in(TCP18, [f"EEG {name}" for name in names]) == rows

    def test_old_names(self):
        assert rows_in(["Fp1", "T7", "acc_x"], ["acc_x ", "T3-REF"]) == [2, 1]

    def test_case_of_other_names_counts(self):
        with pytest.raises(ValueError, match=r"lacks \['ACC_X'\]"):
            rows_in(["acc_x"], ["ACC_X"])

    def test_unknown(self):
        with pytest.raises(
            ValueError,
            match=r"lacks \['Pz'\]. The recording has \['C3', 'Pz'\], the vocabulary "
            r"\['C3', 'C4'\].*to_montage",
        ):
            rows_in(["C3", "C4"], ["C3", "Pz"])

    def test_doubled(self):
        with pytest.raises(ValueError, match="recording has 'T8-P8-0' and 'T8-P8-1'"):
            rows_in("tcp-18", ["T8-P8-0", "T8-P8-1"])


class TestChannelGraph:
    @pytest.mark.parametrize(
        ("ch_names", "name", "walk"),
        [
            (["C3", "C4"], "C3-C4", [([0], 1), ([1], -1)]),
            (["C3-C4"], "C3-C4", [([0], 1)]),
            (["C4-C3"], "C3-C4", [([0], -1)]),
            (["Fp1-F7", "F7-T3"], "FP1-T7", [([0], 1), ([1], 1)]),
            (["Fp1-F7", "T3-F7", "T3"], "FP1-T7", [([0], 1), ([1], -1)]),
            # A channel is preferred to a difference, and that to a chain.
            (["C3", "C4", "C4-C3", "C3-C4"], "C3-C4", [([3], 1)]),
            (["C3-Cz", "Cz-C4", "C4", "C3"], "C3-C4", [([3], 1), ([2], -1)]),
            (["C3-Pz", "Pz-C4", "C3-Cz", "Cz-C4"], "C3-C4", [([2], 1), ([3], 1)]),
            # References
            (["C3-LE", "C4-LE", "C4-AVG"], "C3-C4", [([0], 1), ([1], -1)]),
            (["C3-LE", "C4-AVG"], "C3-C4", []),
            (["C3-REF", "C4"], "C3-C4", []),
            (["C3-A2", "C4-A1"], "C3-C4", []),
            (["C3", "A2-A1"], "C3-A2", []),
            (["C3-A1", "EEG A2-A1"], "C3-A2", [([0], 1), ([1], -1)]),
            # Single channels
            (["C3-LE"], "C3", [([0], 1)]),
            (["EEG C3"], "C3", [([0], 1)]),
            (["C3-A2", "A2"], "C3", []),
            (["C3-A2", "A2-LE"], "C3-LE", [([0], 1), ([1], 1)]),
            (["C3"], "C3-LE", []),
            (["acc_y", " acc_x"], "acc_x", [([1], 1)]),
            (["acc_y", "acc_x"], "ACC_X", []),
            (["ECG"], "C3", []),
            ([], "C3-C4", []),
            # Doubled
            (["T8-P8-0", "T8-P8-1"], "T8-P8", [([0, 1], 1)]),
            (["T3", "C3", "T7"], "T7-C3", [([0, 2], 1), ([1], -1)]),
        ],
    )
    def test_walks(self, ch_names, name, walk):
        assert ChannelGraph(ch_names, {}).walk_to(name) == walk

    @pytest.mark.parametrize(
        ("ch_names", "obstacles", "name", "why"),
        [
            (["C3"], {}, "C3-A2", "no channel holds A2"),
            (["Cz"], {}, "C3-A2", "no channel holds C3; no channel holds A2"),
            (["T8", "P8"], {"T8": "'T8' is bad"}, "T8-P8", "'T8' is bad"),
            (["P8-T8"], {"P8-T8": "it is bad"}, "T8-P8", "it is bad"),
            (["T8", "A2"], {"T8": "bad"}, "T8-P8", "bad; no channel holds P8"),
            (
                ["C3", "Cz", "A2-A1"],
                {},
                "C3-A2",
                "C3 (C3) and A2 (A2-A1) have no reference in common",
            ),
            (
                ["C3-A2", "C3-A1", "C3-Cz", "O1"],
                {},
                "C3",
                "only derivations hold C3 (C3-A2, C3-A1, ...)",
            ),
            (["C3"], {}, "C3-LE", "no channel holds <LE>"),
            (["acc_y"], {}, "acc_x", "no channel holds acc_x"),
        ],
    )
    def test_why_missing(self, ch_names, obstacles, name, why):
        graph = ChannelGraph(ch_names, obstacles)
        assert graph.walk_to(name) == []
        assert graph.why_missing(name) == why

    def test_one_electrode_against_two_references(self):
        graph = ChannelGraph(["C3-LE", "C4", "C3"], {})
        with pytest.raises(ValueError, match=r"'C3-LE' and 'C3' mean the same.*drop"):
            graph.walk_to("C3")
        assert graph.walk_to("C3-LE") == [([0], 1)]

    @settings(max_examples=50, deadline=None)
    @given(st.permutations(range(8)))
    def test_order_of_channels_does_not_matter(self, order):
        names = ["C3-Pz", "Pz-C4", "C3-Cz", "C4-Cz", "O1", "O2", "O2-Pz", "Oz-LE"]
        graph = ChannelGraph([names[i] for i in order], {})
        for name, walk in {
            "C3-C4": [(2, 1), (3, -1)],
            "O1-C4": [(4, 1), (5, -1), (6, 1), (1, 1)],
        }.items():
            found = graph.walk_to(name)
            assert [(order[i], sign) for (i,), sign in found] == walk


def test_needs_nothing():
    code = (
        "import sys; package = type(sys)('braindecode_biot')"
        f"; package.__path__ = [{os.path.dirname(channels_module.__file__)!r}]"
        "; sys.modules['braindecode_biot'] = package"
        "; import braindecode_biot.channels"
        "; sys.exit(bool({'torch', 'mne', 'numpy'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("EEG Fp1 Ref", ("FP1", "REF")),
        ("C3-A1/A2", ("C3", "LE")),
        ("Fp1-(A1+A2)/2", ("FP1", "LE")),
        ("F7-CS2", ("F7", "CS2")),
        ("Fp1-AA", ("FP1", "AA")),
        ("C3-1", ("C3", None)),
        ("FP1-REF-12", ("FP1", "REF")),
    ],
)
def test_more_references(name, expected):
    assert parse(name) == expected


@pytest.mark.parametrize("name", ["F3-4", "O1-2", "C3 4", "O2-Sat", "EEG", "C3A2"])
def test_what_only_looks_like_an_electrode(name):
    assert parse(name) is None
