"""Who a worker is to its consumer groups: the same member after a crash, so that it need not wait for its dead self.

A member without a name of its own is given a new one with each start, and the broker keeps the partitions for the old
one until its session has timed out. A named one (`group.instance.id`) that comes back has its partitions at once, and
no other worker is stopped for it. Whoever stops in order leaves the group all the same: the others take over at once.

State: `member.json` in the data folder. The folder is locked by its worker, so that no two have the same name.
Errors: OSError when the folder cannot be written.
Source: KIP-345, static membership.
"""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Final
from uuid import uuid4

from app.config import Settings
from app.topics import sources
from schemas.durable import write_json

NOTE: Final = "member.json"


def member_name(settings: Settings, role: str) -> str:
    """The worker's name in the group of a role. The data folder must be locked.

    It depends on the host and the folder's path, for a copied folder is another worker's, and on all that a member
    tells its group: the broker gives a name that comes back what it had, and would not notice another subscription.
    """
    told = [
        _own(settings.data_dir), socket.gethostname(), str(settings.data_dir.resolve()), *sources(settings, role),
        settings.partitions, settings.table_standby_replicas, settings.web_host, settings.web_port,
    ]  # fmt: skip
    return f"onetape-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]}"


def _own(data_dir: Path) -> str:
    """What this folder alone has, made with the first start; a damaged one is made anew at the cost of one wait."""
    note = data_dir / NOTE
    try:
        return str(json.loads(note.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        own = uuid4().hex
        write_json(note, {"id": own})
        return own
