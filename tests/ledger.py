"""The ledger: what was received, what came of it, and everything that must not happen, as one line of JSON.

Input: the tape's positions and what the gate says of them, vectors and dead letters as they lie on their topics, in
    order, and the oracle's. Whoever runs a system reads them from it and hands them in: nothing here knows a broker.
Output: counts. Those of NONE must be 0, and accepted + refused = received; `check` fails otherwise, with the line.
Units: counts; recovery_ms_max in milliseconds from a fault to the first vector after it.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Final

Identity = tuple[str, str, int]
"""Feature set, instrument, T."""
Place = tuple[str, int, int]
"""Topic, partition, offset."""

NONE: Final = ("lost", "dup_visible", "conflicting", "wrong", "out_of_order", "unseen", "torn", "gap_undetected")
"""What must not be."""


@dataclass
class Ledger:
    """One run's counts; `+` joins those of several."""

    received: int = 0
    """Records on the tape."""
    accepted: int = 0
    """Of these, what the gate lets in, by the oracle."""
    refused: int = 0
    """Records with a dead letter."""
    lost: int = 0
    """Vectors, dead letters and states that must be there and are not."""
    dup_wire: int = 0
    """Repeats on the wire: legal, byte-identical."""
    dup_visible: int | None = 0
    """Repeats that a reader of ours shows. None: not counted here; so with the others."""
    conflicting: int = 0
    """Repeats with other bytes."""
    wrong: int = 0
    """Values, letters and states that are not the oracle's."""
    out_of_order: int = 0
    """Vectors of an instrument first seen behind a later one."""
    unseen: int = 0
    """Newest vectors that cannot be looked up."""
    torn: int | None = 0
    """Files that are not whole and are read."""
    gap_undetected: int | None = 0
    """Holes that nobody tells of."""
    kills: int = 0
    """Processes killed."""
    kills_at_points: int = 0
    """Of these, between two steps of what a worker does to the world outside."""
    faults: int = 0
    """Other faults than kills."""
    recovery_ms_max: float | None = 0.0
    seed: int | None = None

    def __add__(self, other: Ledger) -> Ledger:
        """Both together; the seed of the first."""
        ours, theirs = asdict(self), asdict(other)
        both = {name: [each for each in (ours[name], theirs[name]) if each is not None] for name in ours}
        joined = {name: sum(counts) if counts else None for name, counts in both.items()}
        worst = max(both["recovery_ms_max"], default=None)
        return Ledger(**joined | {"recovery_ms_max": worst, "seed": self.seed})

    def line(self) -> str:
        """One JSON object. Where none of n kills has done harm, `bound` is 3/n: the rate is below it with 95 %.

        Where nothing was killed n is the number of the other faults.
        """
        trials = self.kills or self.faults
        return json.dumps(asdict(self) | {"bound": 3 / trials if trials and self.ok else None})

    @property
    def ok(self) -> bool:
        """Whether nothing happened that must not."""
        return not any(getattr(self, name) for name in NONE) and self.accepted + self.refused == self.received

    def check(self) -> None:
        """Fail with the line."""
        assert self.ok, self.line()

    def count_vectors(self, wire: Iterable[tuple[Identity, bytes]], expected: Mapping[Identity, bytes]) -> None:
        """Vectors of one partition in the order of their topic, against all the oracle's of that partition."""
        seen: dict[Identity, bytes] = {}
        newest: dict[tuple[str, str], int] = {}
        for identity, value in wire:
            if identity in seen:
                self.dup_wire += 1
                self.conflicting += seen[identity] != value
                continue
            seen[identity] = value
            whose, time = identity[:2], identity[2]
            self.out_of_order += time < newest.get(whose, time)
            newest[whose] = max(time, newest.get(whose, time))
            self.wrong += expected.get(identity) != value
        self.lost += len(expected.keys() - seen.keys())

    def count_letters(
        self, received: Iterable[Place], wire: Iterable[tuple[Place, bytes]], expected: Mapping[Place, bytes]
    ) -> None:
        """Dead letters in the order of their topic; `expected` has those of all records the oracle's gate refuses."""
        places = set(received)
        self.received += len(places)
        self.accepted += len(places - expected.keys())
        seen: dict[Place, bytes] = {}
        for place, letter in wire:
            if place in seen:
                self.dup_wire += 1
                self.conflicting += seen[place] != letter
                continue
            seen[place] = letter
            self.wrong += expected.get(place) != letter
        self.refused += len(seen)
        self.lost += len(expected.keys() - seen.keys())

    def count_states(self, held: Mapping[Hashable, bytes], expected: Mapping[Hashable, bytes]) -> None:
        """Saved states, in the end."""
        self.lost += len(expected.keys() - held.keys())
        self.wrong += sum(expected.get(key) != blob for key, blob in held.items())

    def count_latest(self, readable: Mapping[Hashable, bytes | None], expected: Mapping[Hashable, bytes]) -> None:
        """Newest vectors as they can be looked up, in the end: an old one is as good as none, another one is wrong."""
        for key, value in expected.items():
            self.unseen += readable.get(key) != value
