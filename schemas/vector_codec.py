"""Feature vectors on the wire: Avro in the Confluent wire format, one record per vector.

Output: messages; vectors.
Units: as in `schemas.vectors`; null is NaN inside.
Errors: RecordRefused for a value that is no vector of the feature set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from schemas import vector_avro
from schemas.columns import Int64
from schemas.errors import RecordRefused
from schemas.feature_sets import FeatureSet
from schemas.registry import SchemaRegistry
from schemas.vector_avro import Taken
from schemas.vectors import HEAD, Vectors
from schemas.wire import Wire

_INT = np.iinfo(np.int32)


def avro_schema(feature_set: FeatureSet) -> dict[str, Any]:
    """Avro schema of a feature set's vectors, generated from its columns."""
    head: list[dict[str, Any]] = [{"name": "instrument", "type": "string"}]
    head.extend({"name": name, "type": "int" if name == "partition" else "long"} for name in HEAD)
    features = [{"name": name, "type": ["null", "double"], "default": None} for name in feature_set.features]
    return {
        "type": "record",
        "name": f"Vector_{feature_set.name}_{feature_set.version}",
        "namespace": "onetape",
        "doc": f"Feature vector of {feature_set.id}; time is the Tick, (partition, as_of_offset) its position.",
        "fields": [*head, *features],
    }


class VectorCodec:
    """Vectors of one feature set to and from the wire, batch by batch in compiled passes.

    A message that no pass takes goes to fastavro, which alone refuses: passes only ever take what it would.
    """

    def __init__(self, registry: SchemaRegistry, feature_set: FeatureSet) -> None:
        self.feature_set = feature_set
        self._wire = Wire(registry, f"{feature_set.topic}-value", avro_schema(feature_set))
        self._plans: dict[bytes, Int64 | None] = {}
        vector_avro.load()

    def encode(self, vectors: Vectors) -> list[tuple[bytes, bytes]]:
        """(key, value) of each vector, in order."""
        names = [name.encode() for name in vectors.instruments()]
        numbers = np.array([getattr(vectors, name) for name in HEAD], np.int64)
        values, ends = vector_avro.laid(
            self._wire.header, names, numbers, np.ascontiguousarray(vectors.values, np.float64)
        )
        return [(name, values[first:last]) for name, (first, last) in zip(names, pairwise(ends), strict=True)]

    def decode(self, values: Sequence[bytes]) -> Vectors:
        """Vectors of the values of one or more messages. Errors: RecordRefused for the first that is none."""
        vectors, refused = self.decode_known(values)
        for reason in refused.values():
            raise RecordRefused(reason)
        return vectors

    def decode_known(self, values: Sequence[bytes]) -> tuple[Vectors, dict[int, str]]:
        """Vectors of those values that are one, and by its place why each of the others is none."""
        data, starts = b"".join(values), vector_avro.starts_of(values)
        taken = Taken.nothing(len(values), len(HEAD), len(self.feature_set.features))
        for header in self._headers(values, taken):
            plan = self._plan(header)
            if plan is not None:
                vector_avro.take(data, starts, header, plan, taken)
        names = [data[first:last] for first, last in taken.texts.tolist()]
        _give_back(names, taken)
        refused = self._by_fastavro(values, names, taken)
        if refused:
            names = [name for i, name in enumerate(names) if i not in refused]
        keys: dict[bytes, int] = {}
        key = np.array([keys.setdefault(name, len(keys)) for name in names], np.int32)
        rows = np.delete(np.arange(len(values)), list(refused)) if refused else slice(None)
        head: dict[str, Any] = dict(zip(HEAD, taken.numbers[:, rows], strict=True))
        head["partition"] = head["partition"].astype(np.int32)
        names_of = [name.decode() for name in keys]
        return Vectors(self.feature_set, names_of, key, values=taken.floats[rows], **head), refused

    def _headers(self, values: Sequence[bytes], taken: Taken) -> Iterator[bytes]:
        """Our own header and then, where it is not all there is, those of the other messages."""
        ours = self._wire.header
        yield ours
        if not taken.is_taken.all():
            found = {values[i][: len(ours)] for i in np.flatnonzero(~taken.is_taken).tolist()}
            found = {each for each in found if len(each) == len(ours) and each[:1] == ours[:1]}
            yield from sorted(found - {ours})

    def _plan(self, header: bytes) -> Int64 | None:
        """How a pass reads what begins with `header`, None where it cannot."""
        if header not in self._plans:
            ours = self._wire.writer(int.from_bytes(self._wire.header[1:]))
            try:
                self._plans[header] = vector_avro.plan_of(self._wire.writer(int.from_bytes(header[1:])), ours)
            except RecordRefused:
                return None
        return self._plans[header]

    def _by_fastavro(self, values: Sequence[bytes], names: list[bytes], taken: Taken) -> dict[int, str]:
        """Fill in the rows that are not taken; the reason of each that cannot be, by its place."""
        refused = {}
        for i in np.flatnonzero(~taken.is_taken).tolist():
            try:
                record = self._wire.decode(values[i])
                if not _INT.min <= record["partition"] <= _INT.max:
                    raise RecordRefused("number-too-large")
            except RecordRefused as error:
                refused[i] = error.reason
                continue
            names[i] = record["instrument"].encode()
            taken.numbers[:, i] = [record[name] for name in HEAD]
            taken.floats[i] = [record[name] for name in self.feature_set.features]
        return refused


def _give_back(names: Sequence[bytes], taken: Taken) -> None:
    """Leave records whose text is no UTF-8 to fastavro."""
    if not all(map(bytes.isascii, names)):
        for i, name in enumerate(names):
            try:
                name.decode()
            except UnicodeDecodeError:
                taken.is_taken[i] = False
