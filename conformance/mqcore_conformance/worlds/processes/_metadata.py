"""What the metadata logs of a set's processes say, as their disks have it while they run, for the comparison of nodes.

Must not know what was done to them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b

from mqcore.abc import StorageContext
from mqcore.errors import CorruptionError
from mqcore.limits import Limits
from mqcore.log import METADATA_NAME, StorageInspection
from mqcore.ports import system_ports
from mqcore.registry import create_storage

__all__ = ["metadata_of"]


async def metadata_of(urls: Mapping[str, str]) -> dict[str, tuple[int, str]]:
    """Return of the storage of each node, by its name, where its metadata log begins, and what it is in all.

    Raises ``StorageError`` where a broker is changing it just now, ``CorruptionError`` for what is not whole.
    """
    found: dict[str, tuple[int, str]] = {}
    for name, url in urls.items():
        backend = create_storage(url, StorageContext(ports=system_ports()), {})
        async with StorageInspection(backend, Limits()) as inspection:
            findings = [each async for each in inspection.findings(METADATA_NAME) if each.name == METADATA_NAME]
        if len(findings) != 1 or findings[0].state == "damaged":
            raise CorruptionError(f"the metadata log of {name}: {[each.text for each in findings]}", where=url)
        (log,) = findings
        says = blake2b(json.dumps(inspection.records).encode(), digest_size=8).hexdigest()
        found[name] = log.start_position, f"positions {log.start_position} to {log.end_position} ({says})"
    return found
