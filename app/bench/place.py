"""Where the live bench happens: a prefix of its own on a broker, a temporary folder, and what is cleared afterwards.

Input: settings; a broker that answers.
State: topics and groups under the prefix, deleted at the end.
Errors: DependencyDown when no broker answers.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

from confluent_kafka import KafkaException

from agents.engine import Engine
from app.bench.curve import stamped_topic
from app.bench.stream import Stream, names
from app.bench.wire import TapeWire
from app.config import Settings, load_settings, unsecured
from app.connection import BROKER_ANSWER_S, Admin
from app.topics import ensure_topics
from schemas.codec import TapeCodec
from schemas.columns import Columns
from schemas.errors import DependencyDown
from schemas.feature_sets import FeatureSet, load
from schemas.registry import open_registry
from schemas.topics import TAPE
from schemas.vector_codec import VectorCodec

PARTITIONS: Final = 4
ROLES: Final = ("features",)
_VERSION: Final = re.compile(r"^version: .*$", re.MULTILINE)
_CADENCE: Final = re.compile(r"^cadence_ms: .*$", re.MULTILINE)


class Place:
    """Settings and feature sets for one run after another, inside the `with` block."""

    def __init__(self, spec: Path | None = None) -> None:
        """`spec`: the YAML file of a set that is benched in the place of the bench's own."""
        self._spec = spec
        self._runs = 0
        self.prefix = f"bench-{uuid4().hex[:8]}."

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="onetape-bench-")
        self.folder = Path(self._folder.name)
        try:
            self.base = self._settings(self.prefix)
            self._admin = Admin(self.base)
            self._admin.list_topics(timeout=BROKER_ANSWER_S)
        except KafkaException as error:
            self._folder.cleanup()
            raise DependencyDown(
                "the live bench needs a Kafka", expected=f"a broker at {self.base.brokers}",
                was=error.args[0].str(), action="run `make kafka` elsewhere, and here the export line it prints",
            ) from error  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(KafkaException):  # a broker that is gone has nothing left to clear
            mine = [name for name in self._admin.list_topics(timeout=BROKER_ANSWER_S).topics if self.prefix in name]
            for future in (self._admin.delete_topics(mine) if mine else {}).values():
                future.result()
            listed = self._admin.list_consumer_groups().result(BROKER_ANSWER_S).valid
            groups = [group.group_id for group in listed if group.group_id.startswith(self.prefix)]
            for future in (self._admin.delete_consumer_groups(groups) if groups else {}).values():
                with suppress(KafkaException):
                    future.result()
        self._folder.cleanup()

    def tape(self, name: str) -> Settings:
        """Settings under a further prefix: a tape of its own, made here."""
        settings = self._settings(f"{self.prefix}{name}.")
        ensure_topics(settings)
        return settings

    def run(self, tape: Settings, *, cadence_ms: int | None = None, **chosen: Any) -> tuple[Settings, FeatureSet]:
        """Settings for one worker on a tape that reads it from its beginning, and the feature set it computes.

        The set gets a version of its own, and with it a consumer group, a changelog, and topics: nothing is left from
        the run before.
        """
        self._runs += 1
        spec = self._spec_file(str(self._runs), self._runs, cadence_ms)
        settings = load_settings(**(tape.model_dump() | {"feature_sets": str(spec), "data_dir": spec.parent} | chosen))
        feature_set = load(str(spec))
        stamped_topic(settings, feature_set)
        ensure_topics(settings)
        return settings, feature_set

    def owners(self, group: str) -> int:
        """How many members of a consumer group have partitions."""
        found = self._admin.describe_consumer_groups([group])[group].result(BROKER_ANSWER_S)
        return sum(bool(member.assignment and member.assignment.topic_partitions) for member in found.members)

    def compile(self) -> None:
        """Have what every worker runs in numba's cache, so that none of them is timed while it compiles."""
        feature_set, registry = load(str(self._spec_file("compiled"))), open_registry(self.base.registry)
        stream, codec = Stream(names(1)), VectorCodec(registry, feature_set)
        messages = TapeWire(registry).encode(Columns.concat([stream.begin(), stream.take(300)]))
        keys, values = [key for key, _ in messages], [value for _, value in messages]
        columns, _ = TapeCodec(registry).decode_batch(TAPE, 0, range(len(values)), keys, values)
        codec.decode([value for _, value in codec.encode(Engine([feature_set], 0).apply(columns)[0])])

    def log(self, name: str) -> Path:
        """File for the log of a side in the present run."""
        return self._folder_of(str(self._runs)) / f"{name}.log"

    def _spec_file(self, folder: str, version: int = 1, cadence_ms: int | None = None) -> Path:
        text = _VERSION.sub(f"version: {version}", self._text())
        if cadence_ms is not None:
            text = _CADENCE.sub(f"cadence_ms: {cadence_ms}", text)
        path = self._folder_of(folder) / "live.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    def _folder_of(self, run: str) -> Path:
        folder = self.folder / run
        folder.mkdir(exist_ok=True)
        return folder

    def _text(self) -> str:
        if self._spec is not None:
            return self._spec.read_text(encoding="utf-8")
        return files("app.bench").joinpath("live.yaml").read_text(encoding="utf-8")

    def _settings(self, prefix: str) -> Settings:
        return load_settings(
            topic_prefix=prefix, partitions=PARTITIONS, registry=str(self.folder / "schemas.json"),
            data_dir=self.folder, archive_dir=self.folder / "archive", broker_is_embedded=False,
            **unsecured("registry"),
        )  # fmt: skip
