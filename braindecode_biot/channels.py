"""Names of electrodes and derivations, and the channels of the pretrained weights.

Owns what a channel's name says (:func:`parse`), the one name that all its spellings
share (:func:`canonical`), vocabularies of channels (:data:`TCP16` and :data:`TCP18`, in
the order of the pretrained weights' channel tokens), and which channels follow from
which (:class:`ChannelGraph`). Pure text: must not import torch, mne or another module
of the package.
"""

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Final, NamedTuple

__all__ = [
    "TCP16",
    "TCP18",
    "VOCABULARIES",
    "ChannelGraph",
    "Derivation",
    "Electrode",
    "ambiguous",
    "canonical",
    "numbered_contacts",
    "parse",
    "rows_in",
    "vocabulary",
]

#: Channels of the weights pretrained on PREST: temporal and parasagittal chains.
TCP16: Final = (
    *("FP1-F7", "F7-T7", "T7-P7", "P7-O1"),
    *("FP2-F8", "F8-T8", "T8-P8", "P8-O2"),
    *("FP1-F3", "F3-C3", "C3-P3", "P3-O1"),
    *("FP2-F4", "F4-C4", "C4-P4", "P4-O2"),
)
#: Channels of the weights pretrained on SHHS and PREST, or on six data sets.
TCP18: Final = (*TCP16, "C3-A2", "C4-A1")
#: What :func:`vocabulary` knows by name.
VOCABULARIES: Final[Mapping[str, tuple[str, ...]]] = {"tcp-16": TCP16, "tcp-18": TCP18}

# The positions of the 10-5 system (Oostenveld and Praamstra 2001,
# doi:10.1016/S1388-2457(00)00527-7), row by row: on the sides, on the vault, on rows
# that have only one name for both, and where the row is short. Then what it lacks: old
# names, ears and mastoids, and electrodes outside the grid.
_ELECTRODE = (
    r"(?:(?:FFT|FTT|TTP|TPP|FT|TP|T)(?:[789]|10)H?"
    r"|(?:FFC|FCC|CCP|CPP|FC|CP|C)(?:[1-6]H?|Z)"
    r"|(?:AFP|AFF|PPO|POO|AF|PO|F|P)(?:(?:10|[1-9])H?|Z)"
    r"|(?:FP|OI|O|I)(?:[12]H?|Z)"
    r"|T[1-6]|[AM][12]|NZ|O9|O10|SP[12]|PG[12]|CB[12])"
)
_RENAMED = {"T3": "T7", "T4": "T8", "T5": "P7", "T6": "P8", "M1": "A1", "M2": "A2"}
# References that are no electrode. "LE" is the ears (or mastoids) linked.
_REFERENCES = {
    **dict.fromkeys(["REF"], "REF"),
    **dict.fromkeys(["LE", "LER", "CLE", "LM", "A1A2", "A1+A2", "M1M2", "M1+M2"], "LE"),
    **dict.fromkeys(["A1/A2", "(A1+A2)/2", "M1/M2", "(M1+M2)/2"], "LE"),
    **dict.fromkeys(["AVG", "AVE", "AV", "AR", "CAR"], "AVG"),
    "AA": "AA",  # which writers use for the average as for the ears
    "CS2": "CS2",  # the second cervical vertebra, in some files of CHB-MIT
}
# What a channel is measured against when its name does not tell.
_BY_ITSELF = ("<unnamed>", "")
_ANY_REFERENCE = "|".join(map(re.escape, _REFERENCES))
_DASH = r"\s*[-‐‑‒–—−_:/]\s*"
_NAME = re.compile(
    r"\s*(?:(?:EEG|POL)[\s:._-]*)*"  # what EDF writers put before it
    rf"(?P<anode>{_ELECTRODE})"
    # MNE numbers names that occur twice. But "F3-4" is short for contacts F3 and F4.
    rf"(?:(?:{_DASH}(?P<cathode>{_ELECTRODE})"
    rf"|(?:{_DASH}|\s+)(?P<reference>{_ANY_REFERENCE}))(?:-\d+)?|-[01])?"
    r"[\s.]*",  # and some writers fill them up with dots
    re.IGNORECASE | re.ASCII,  # without ASCII, "ſp1" would be "SP1"
)


class Electrode(NamedTuple):
    """One electrode, against a reference that is no electrode.

    Attributes
    ----------
    name : str
        Its canonical name, such as ``"FP1"``.
    reference : str or None
        The reference that the channel's name tells: ``"REF"``, ``"LE"`` (linked ears
        or mastoids) or ``"AVG"``; None where it tells none.
    """

    name: str
    reference: str | None = None

    def __str__(self) -> str:
        """Give the canonical name, which is without the reference."""
        return self.name


class Derivation(NamedTuple):
    """The potential of one electrode minus that of another.

    Attributes
    ----------
    anode, cathode : str
        Canonical names of the two electrodes.
    """

    anode: str
    cathode: str

    def __str__(self) -> str:
        """Give the canonical name."""
        return f"{self.anode}-{self.cathode}"


def parse(name: str) -> Electrode | Derivation | None:
    """Read what a channel's name says.

    Electrodes are those of the 10-20, 10-10 and 10-5 systems, with ears (``A1``) or
    mastoids (``M1``), which count as the same, and a few outside the grid (``SP1``,
    ``PG1``, ``CB1``). Letter case, ``EEG`` and ``POL`` in front, dots behind, MNE's
    running numbers (``T8-P8-0``) and the kind of dash do not matter.

    Parameters
    ----------
    name : str
        A channel's name in a recording.

    Returns
    -------
    Electrode, Derivation or None
        None where the name is neither.

    Raises
    ------
    TypeError
        ``name`` is no string.

    Examples
    --------
    >>> parse("EEG T3-REF")
    Electrode(name='T7', reference='REF')
    >>> parse("EEG A2-A1")
    Derivation(anode='A2', cathode='A1')
    >>> parse("EOG left")
    """
    if not isinstance(name, str):
        raise TypeError(
            f"A channel is named {name!r}, a {type(name).__name__}, expected a string "
            "such as 'C3' or 'FP1-F7'."
        )
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    anode, cathode, reference = match.group("anode", "cathode", "reference")
    anode = _new_name(anode)
    if cathode is None:
        return Electrode(anode, reference and _REFERENCES[reference.upper()])
    cathode = _new_name(cathode)
    # An electrode minus itself is no derivation, whatever the channel may hold.
    return None if anode == cathode else Derivation(anode, cathode)


def canonical(name: str) -> str:
    """Give a channel the one name that all spellings of it share.

    Parameters
    ----------
    name : str
        A channel's name in a recording.

    Returns
    -------
    str
        Of an electrode, its new name in upper case; of a derivation, two of these with
        a hyphen. The reference of an electrode is left out. Every other name stays as
        it is, letter case too, but for white space around it.

    Raises
    ------
    TypeError
        ``name`` is no string.

    Examples
    --------
    >>> [canonical(name) for name in ["EEG Fp1-LE", "Fc5.", "T3–C3", "C3-M2", " acc_x"]]
    ['FP1', 'FC5', 'T7-C3', 'C3-A2', 'acc_x']
    """
    parsed = parse(name)
    return name.strip() if parsed is None else str(parsed)


def vocabulary(channel_names: str | Sequence[str]) -> list[str]:
    """Look up a vocabulary by name, or check one's own.

    Parameters
    ----------
    channel_names : str or sequence of str
        ``"tcp-16"`` or ``"tcp-18"``, or the names themselves.

    Returns
    -------
    list of str
        The names in their order, spelled as given.

    Raises
    ------
    ValueError
        There is no vocabulary of that name, or no channel in it, or two names that
        mean the same channel.
    TypeError
        ``channel_names`` is no sequence of strings.

    Examples
    --------
    >>> len(vocabulary("tcp-18"))
    18
    >>> vocabulary(["acc_x", "acc_y"])
    ['acc_x', 'acc_y']
    """
    if isinstance(channel_names, str):
        if channel_names.lower() not in VOCABULARIES:
            known = ", ".join(map(repr, VOCABULARIES))
            raise ValueError(
                f"There is no channel vocabulary {channel_names!r}, expected {known}, "
                "or a list of channel names."
            )
        return list(VOCABULARIES[channel_names.lower()])
    if not isinstance(channel_names, Iterable) or isinstance(
        channel_names, Set | Mapping | bytes
    ):
        raise TypeError(
            f"The channel names are a {type(channel_names).__name__}, expected "
            f"{', '.join(map(repr, VOCABULARIES))} or a list of strings, whose order "
            "counts."
        )
    names = list(channel_names)
    if not names:
        raise ValueError("The list of channel names is empty, expected at least one.")
    _by_canonical(names, "The channel vocabulary")
    return [str(name) for name in names]


def rows_in(channel_names: str | Sequence[str], ch_names: Sequence[str]) -> list[int]:
    """Find the channels of a recording in a vocabulary.

    Parameters
    ----------
    channel_names : str or sequence of str
        The vocabulary, as for :func:`vocabulary`.
    ch_names : sequence of str
        Names in the recording, compared by their canonical names.

    Returns
    -------
    list of int
        Of each channel of the recording, its row in the vocabulary.

    Raises
    ------
    ValueError
        The vocabulary lacks a channel, or two names on one side mean the same channel.
    TypeError
        A name is no string.

    Examples
    --------
    >>> rows_in("tcp-18", ["FP1-F7", "EEG T3-T5"])
    [0, 2]
    """
    names = vocabulary(channel_names)
    rows = {canonical(name): row for row, name in enumerate(names)}
    given = _by_canonical(ch_names, "The recording")
    if unknown := [name for known, name in given.items() if known not in rows]:
        raise ValueError(
            f"The channel vocabulary lacks {unknown}. The recording has "
            f"{list(ch_names)}, the vocabulary {names}. Pick and rename the "
            "recording's channels (raw.pick, raw.rename_channels), or derive the "
            "vocabulary's with to_montage."
        )
    return [rows[name] for name in given]


class ChannelGraph:
    """The channels of a recording as edges between electrodes and references.

    ``C3`` lies between C3 and the recording's unnamed reference, ``C3-LE`` between C3
    and the linked ears, ``EEG A2-A1`` between A2 and A1. A−B follows from the shortest
    walk from A to B: a channel counts +1, or −1 where it is walked from its cathode to
    its anode. Electrodes with different references are not connected by these.

    Parameters
    ----------
    ch_names : sequence of str
        Names in the recording.
    obstacles : mapping of str to str
        Of names that are not to be used, why.

    Attributes
    ----------
    edges : dict of {(str, str): list of int}
        Indices of the channels between an anode and what that is measured against:
        an electrode, a reference in angle brackets, or "" for what is no electrode.
    """

    def __init__(self, ch_names: Sequence[str], obstacles: Mapping[str, str]) -> None:
        self.ch_names = ch_names
        self.edges: dict[tuple[str, str], list[int]] = {}
        self._obstacles: dict[str, list[str]] = {}  # of each end of an edge
        for index, name in enumerate(ch_names):
            if name not in obstacles:
                self.edges.setdefault(_edge(name), []).append(index)
                continue
            for end in _edge(name):
                self._obstacles.setdefault(end, []).append(obstacles[name])

    def walk_to(self, name: str) -> list[tuple[list[int], int]]:
        """Find the channels that make another one.

        Parameters
        ----------
        name : str
            An electrode (against its reference, whatever that is, unless the name
            tells one), a derivation, or another channel.

        Returns
        -------
        list of (list of int, int)
            Indices of the channels on an edge, more than one where names are doubled,
            with the sign of the edge. Empty where nothing makes this channel. Does not
            depend on the order of the channels.

        Raises
        ------
        ValueError
            An electrode is there against several references.
        """
        start, goal = _edge(name)
        if goal not in _BY_ITSELF:
            walk = self._shortest_walk(start, goal)
        else:
            ours = [e for e in self.edges if e[0] == start and e[1][:1] in ("", "<")]
            if len(ours) > 1:
                raise ambiguous([self.ch_names[self.edges[e][0]] for e in ours])
            walk = [(edge, 1) for edge in ours]
        return [(self.edges[edge], sign) for edge, sign in walk]

    def why_missing(self, name: str) -> str:
        """Say why nothing makes a channel.

        Parameters
        ----------
        name : str
            A name for which :meth:`walk_to` finds nothing.

        Returns
        -------
        str
            The obstacles, or what is not there, or not connected.
        """
        start, goal = _edge(name)
        ends = [start] if goal in _BY_ITSELF else [start, goal]
        reasons = [text for end in ends for text in self._obstacles.get(end, [])]
        there = []
        for end in ends:
            held = [
                self.ch_names[i[0]] for edge, i in self.edges.items() if end in edge
            ]
            if held:
                there.append(
                    f"{end} ({', '.join(held[:2])}{', ...' * (len(held) > 2)})"
                )
            elif end not in self._obstacles:
                reasons.append(f"no channel holds {end}")
        if len(there) == len(ends) == 2:
            reasons.append(f"{' and '.join(there)} have no reference in common")
        elif len(there) == len(ends):
            reasons.append(f"only derivations hold {there[0]}")
        return "; ".join(dict.fromkeys(reasons))

    def _shortest_walk(
        self, start: str, goal: str
    ) -> list[tuple[tuple[str, str], int]]:
        walks: dict[str, list[tuple[tuple[str, str], int]]] = {start: []}
        queue = deque([start])
        while queue and goal not in walks:
            node = queue.popleft()
            steps = [(b, 0, (a, b)) for a, b in self.edges if a == node]
            steps += [(a, 1, (a, b)) for a, b in self.edges if b == node]
            # Among walks of one length, those by a common reference ("<") come before
            # chains, and A-B before B-A.
            for other, backwards, edge in sorted(steps):
                if other not in walks:
                    walks[other] = [*walks[node], (edge, -1 if backwards else 1)]
                    queue.append(other)
        return walks.get(goal, [])


_CONTACT = re.compile(r"\s*((?:(?:EEG|POL)\W*)*)([A-Z])(\d+)(.*)", re.I | re.ASCII)


def numbered_contacts(ch_names: Sequence[str]) -> set[str]:
    """Find names that count the contacts of an array, and are no electrodes.

    Caps and depth electrodes may number their contacts A1, A2, A3 and so on, B1, ...,
    whose A1, C3 and F4 are other places than those of the 10-20 system.

    Parameters
    ----------
    ch_names : sequence of str
        All names in a recording.

    Returns
    -------
    set of str
        Every name of one letter and a number, among names that are written alike, where
        some letter has two or more numbers that the 10-20 system lacks (A3, C7, O3), or
        has 1 to 5 in a recording without a midline.

    Examples
    --------
    >>> sorted(numbered_contacts(["A1", "A2", "A3", "A4", "C3", "Cz"]))
    ['A1', 'A2', 'A3', 'A4', 'C3']
    >>> numbered_contacts(["A1", "A2", "C3", "C4", "Cz", "T3", "T4", "T5", "T6"])
    set()
    """
    alike: dict[tuple[str, str], dict[str, dict[int, str]]] = {}
    for name in ch_names:
        match = _CONTACT.fullmatch(name)
        if match is not None and not isinstance(parse(name), Derivation):
            prefix, letter, number, rest = match.groups()
            key = re.sub(r"\W", "", prefix).upper(), re.sub(r"[\W\d]", "", rest).upper()
            letters = alike.setdefault(key, {})
            letters.setdefault(letter.upper(), {})[int(number)] = name
    # No midline at all, which caps with as many electrodes have.
    no_midline = not any(canonical(name).endswith("Z") for name in ch_names)
    found: set[str] = set()
    for letters in alike.values():
        for letter, numbers in letters.items():
            unknown = [n for n in numbers if parse(f"{letter}{n}") is None]
            counts = letter in "ACO" and len(unknown) > 1
            counts |= letter in "FPT" and sum(n > 12 for n in unknown) > 1
            row = letter in "CFOP" and {1, 2, 3, 4, 5} <= numbers.keys()
            counts |= row and no_midline
            if counts:
                found.update(name for n in letters.values() for name in n.values())
    return found


def ambiguous(names: Sequence[str]) -> ValueError:
    """Make the error for channels of which only one can be meant."""
    return ValueError(
        f"{' and '.join(map(repr, names))} mean the same channel, but differ. Keep the "
        f"right one: raw.drop_channels({list(names[1:])}) leaves {names[0]!r}."
    )


def _edge(name: str) -> tuple[str, str]:
    """Read a channel as an edge of the graph."""
    parsed = parse(name)
    if isinstance(parsed, Derivation):
        return parsed.anode, parsed.cathode
    if isinstance(parsed, Electrode):
        return parsed.name, f"<{parsed.reference or 'unnamed'}>"
    return name.strip(), ""


def _new_name(electrode: str) -> str:
    name = electrode.upper()
    return _RENAMED.get(name, name)


def _by_canonical(names: Sequence[str], owner: str) -> dict[str, str]:
    """Map canonical names to the original ones, and require that none recurs."""
    seen: dict[str, str] = {}
    for name in names:
        known = canonical(name)
        if not known:
            raise ValueError(f"{owner} has a channel without a name: {name!r}.")
        if known in seen:
            raise ValueError(
                f"{owner} has {seen[known]!r} and {name!r}, which both mean {known!r}, "
                "expected each channel once. Leave one out (raw.drop_channels) or "
                "rename it."
            )
        seen[known] = name
    return seen
