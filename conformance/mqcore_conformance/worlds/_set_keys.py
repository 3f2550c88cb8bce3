"""The configuration of one node of a set under test, the same for every tier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mqcore_conformance.plans import TOPIC, RunPlan

SET_NAME = "one"
LEASE_MS, HEARTBEAT_MS, REPLICA_TIMEOUT_MS = 1_000, 100, 1_000


def set_keys(
    keys: Mapping[str, Any],
    plan: RunPlan,
    name: str,
    urls: Mapping[str, str],
    peer_urls: Mapping[str, str],
    coordinator: str,
) -> dict[str, Any]:
    """Return ``keys``, those of a broker alone, with what makes it the node ``name`` of a set.

    ``urls``: where each node listens; ``peer_urls``: where the others find it.
    """
    topics = {TOPIC: {**keys["topics"][TOPIC], "replication": plan.replication}}
    nodes = [{"name": each, "urls": [url]} for each, url in peer_urls.items()]
    cluster = {
        "coordinator": coordinator,
        "lease_ms": LEASE_MS,
        "heartbeat_ms": HEARTBEAT_MS,
        "replica_timeout_ms": REPLICA_TIMEOUT_MS,
        "sets": [{"name": SET_NAME, "nodes": nodes}],
    }
    listen = {"url": urls[name], "advertise": peer_urls[name]}
    if plan.metadata_bytes is not None:
        keys = {**keys, "limits": {**keys.get("limits", {}), "metadata_log_bytes_max": plan.metadata_bytes}}
    return {**keys, "name": name, "listen": [listen], "topics": topics, "cluster": cluster}
