"""Faust and aiokafka are as they were when the seam was written against them."""

from __future__ import annotations

import hashlib
import inspect
from functools import reduce
from importlib import import_module

import pytest

READ = {
    "faust.transport.consumer:Consumer.getmany": "4b168d84",
    "faust.transport.consumer:Consumer._wait_next_records": "6218e196",
    "faust.transport.consumer:Consumer._set_active_tps": "401f4dc8",
    "faust.transport.consumer:Consumer._drain_messages": "44a25003",
    "faust.transport.consumer:Consumer._add_gap": "4df2573d",
    "faust.transport.consumer:Consumer.ack": "5fcf41cf",
    "faust.transport.consumer:Consumer.force_commit": "cc094614",
    "faust.transport.consumer:Consumer._commit_tps": "a20e230b",
    "faust.transport.consumer:Consumer._filter_committable_offsets": "dc5e9baf",
    "faust.transport.consumer:Consumer._handle_attached": "48efe89d",
    "faust.transport.consumer:Consumer._commit_offsets": "1a697990",
    "faust.transport.consumer:Consumer._new_offset": "1d2c7ea8",
    "faust.transport.consumer:Consumer._filter_tps_with_pending_acks": "f6f92397",
    "faust.transport.consumer:Consumer._should_commit": "5ce94179",
    "faust.transport.consumer:Consumer.perform_seek": "0e8c130f",
    "faust.transport.consumer:Consumer.on_partitions_revoked": "d04b7ae7",
    "faust.transport.consumer:ThreadDelegateConsumer._getmany": "f9d47aa9",
    "faust.transport.drivers.aiokafka:Consumer._to_message": "7c24f651",
    "faust.transport.drivers.aiokafka:Consumer._new_consumer_thread": "0870ec53",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._create_worker_consumer": "c2701bfc",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread._fetch_records": "39a2c6c7",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.seek_to_beginning": "bd4250b8",
    "aiokafka.consumer.fetcher:FetchResult.getall": "3e717e30",
    "aiokafka.consumer.fetcher:PartitionRecords._unpack_records": "b803e6d4",
    "aiokafka.consumer.fetcher:PartitionRecords._consumer_record": "e6685416",
    "aiokafka.consumer.fetcher:Fetcher._proc_fetch_request": "59bf948f",
    "aiokafka.consumer.fetcher:Fetcher.fetched_records": "be434889",
    "faust.transport.drivers.aiokafka:AIOKafkaConsumerThread.on_start": "38b4e8bd",
    "faust.transport.drivers.aiokafka:Producer.key_partition": "c713c4d7",
    "faust.cli.base:AppCommand.run_using_worker": "ce3b8367",
    "faust.cli.worker:worker._init_worker_options": "24f65ab5",
    "faust.stores.rocksdb:Store.apply_changelog_batch": "ea3344d3",
    "faust.stores.rocksdb:Store._open_for_partition": "1dc4e011",
    "faust.stores.rocksdb:Store.revoke_partitions": "3f85447a",
    "faust.stores.rocksdb:Store.stop": "2e98db0e",
    "faust.tables.recovery:Recovery.flush_buffers": "6fa9c17f",
    "faust.tables.recovery:Recovery.on_recovery_completed": "6ef567ac",
    "faust.tables.manager:TableManager.on_start": "365dd25f",
    "faust.tables.recovery:Recovery._slurp_changelogs.fun": "7825c7e5",
    "faust.tables.base:Collection._new_changelog_topic": "77bea64b",
    "aiokafka.consumer.group_coordinator:GroupCoordinator._maybe_leave_group": "016cd88a",
    "faust.app.base:App._on_partitions_revoked": "d5c895bb",
    "faust.app.base:App._on_partitions_assigned": "de932b79",
}
"""What of Faust 0.15.3 and aiokafka 0.14.0 we override or rely on, with the beginning of its source's SHA-256."""


@pytest.mark.parametrize("place", READ)
def test_faust_is_as_it_was_read(place: str) -> None:
    module, _, path = place.partition(":")
    source = inspect.getsource(reduce(getattr, path.split("."), import_module(module)))
    assert hashlib.sha256(source.encode()).hexdigest()[:8] == READ[place], (
        f"{place} has changed: read it against app/transport.py, app/fetching.py, tables/store.py, app/faust_app.py, "
        "run tests/test_worker.py, then put the new digest here"
    )
