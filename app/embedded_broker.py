"""The embedded broker's own process: librdkafka's mock cluster behind a pipe.

It runs by its path in a Python of its own (see app.embedded), so it imports nothing of this product.

Input: one JSON object {topic: partitions} per line on stdin. The end of stdin ends the process: a parent that dies
    takes the broker with it.
Output: the bootstrap address as the first line on stdout, then one line per request: "ok" or librdkafka's error text.
State: topics, records, groups and committed offsets, in memory only.
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Final

from confluent_kafka import cimpl

_PRODUCER: Final = 0
_BROKERS: Final = 1
_REPLICAS: Final = 1
_ERROR_BYTES: Final = 512


def _library() -> ctypes.CDLL:
    """The librdkafka that the confluent-kafka wheel carries, with the signatures used here.

    Symbols are looked up through the extension module that links the library, so the file name inside the wheel, which
    differs with every release and platform, does not matter.
    """
    library = ctypes.CDLL(str(cimpl.__file__))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[object, list[object]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set_log_cb": (None, [pointer, pointer]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_err2str": (text, [number]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def main() -> int:
    """Serve until stdin ends. Exit code 1, with the reason on stderr, when librdkafka cannot start."""
    kafka = _library()
    settings = kafka.rd_kafka_conf_new()
    kafka.rd_kafka_conf_set_log_cb(settings, None)  # otherwise librdkafka logs to the terminal
    error = ctypes.create_string_buffer(_ERROR_BYTES)
    client = kafka.rd_kafka_new(_PRODUCER, settings, error, _ERROR_BYTES)
    cluster = kafka.rd_kafka_mock_cluster_new(client, _BROKERS) if client else None
    if not cluster:
        sys.stderr.write(error.value.decode() or "librdkafka made no mock cluster")
        return 1
    kafka.rd_kafka_mock_group_initial_rebalance_delay_ms(cluster, 0)
    _answer(kafka.rd_kafka_mock_cluster_bootstraps(cluster).decode())
    for line in sys.stdin:
        answer = "ok"
        for topic, partitions in json.loads(line).items():
            code = kafka.rd_kafka_mock_topic_create(cluster, topic.encode(), partitions, _REPLICAS)
            if code:
                answer = f"{topic}: {kafka.rd_kafka_err2str(code).decode()}"
                break
        _answer(answer)
    return 0


def _answer(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
