"""Errors for people.

OnetapeError                 fact, expected, was, Action; exit_code
├── CheckFailed        (1)   the data or a proof is not right
│   ├── RecordingTorn        a recording ends in the middle
│   ├── SegmentTorn          an archived file is not what was written
│   ├── ArchiveHole          offsets missing or doubled
│   └── StateRefused         a stored state is corrupt or of another layout
├── UsageError         (2)   the request cannot be right
│   ├── UnknownFormat        no importer of that name
│   ├── RecordingForeign     the file is not of the declared format
│   └── ArchiveMissing       no archive at that path
└── DependencyDown     (3)   broker, Redis or a program is not there
    └── AccessRefused        it is there, and does not let us in
RecordRefused                one record is bad input: it becomes a dead letter, never an exit
"""

from __future__ import annotations


class OnetapeError(Exception):
    """A fact with what was expected, what was found and what to do about it."""

    exit_code = 1

    def __init__(self, fact: str, *, expected: str, was: str, action: str) -> None:
        self.fact, self.expected, self.was, self.action = fact, expected, was, action
        super().__init__(f"{fact}: expected {expected}, was {was}. Action: {action}")


class CheckFailed(OnetapeError):
    """The data or a proof is not right."""

    exit_code = 1


class RecordingTorn(CheckFailed):
    """A recording ends in the middle of a frame or of its compressed stream."""


class SegmentTorn(CheckFailed):
    """An archived file is cut, changed, missing or not what its manifest says."""


class ArchiveHole(CheckFailed):
    """Offsets of an archive are missing, doubled or out of order."""


class SchemaUnknown(CheckFailed):
    """A schema registry has answered that nobody registered an id."""


class StateRefused(CheckFailed):
    """A stored state is corrupt or of a layout this version does not read."""


class UsageError(OnetapeError):
    """The request cannot be right."""

    exit_code = 2


class UnknownFormat(UsageError):
    """No importer has that name."""


class RecordingForeign(UsageError):
    """The file is not a recording of the declared format."""


class ArchiveMissing(UsageError):
    """There is no archive at that path."""


class DependencyDown(OnetapeError):
    """A broker, Redis or a program that is needed is missing or down."""

    exit_code = 3


class AccessRefused(DependencyDown):
    """A broker, Redis or registry is there, but refuses the login, the certificate or the operation."""


class RecordRefused(Exception):
    """One record is bad input. `reason` is a short kebab-case word that is counted and stored."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)
