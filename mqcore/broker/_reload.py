"""Another configuration for a broker that runs: what can be applied is, at once; the rest is named.

Must not read files: who calls has read and checked the whole of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from mqcore.broker._descriptors import connections_max
from mqcore.broker._node import Node
from mqcore.config import BrokerConfig, changed_keys
from mqcore.ports import Ports

__all__ = ["APPLICABLE", "Reloaded", "apply_config"]

APPLICABLE = (
    "limits.connections_max",
    "retention.age_ms",
    "retention.check_interval_ms",
    "retention.partition_bytes",
    "retention.sync_hold_max_ms",
    "retention.total_bytes",
)
"""Keys that take effect while the broker runs."""


@attrs.frozen
class Reloaded:
    """What became of a new configuration: keys with their old and new values; those ``waiting`` wait for a restart."""

    applied: Mapping[str, tuple[object, object]]
    waiting: Mapping[str, tuple[object, object]]


def apply_config(node: Node, config: BrokerConfig, ports: Ports) -> Reloaded:
    """Apply what can be applied of ``config`` to ``node``, all of it in one step, and return what was done."""
    changed = changed_keys(node.config, config)
    now = node.config
    retention = attrs.evolve(config.retention, clock_step_max_ms=now.retention.clock_step_max_ms)
    limits = attrs.evolve(now.limits, connections_max=config.limits.connections_max)
    node.config = attrs.evolve(now, limits=limits, retention=retention)
    node.limits = limits
    node.connections_max = connections_max(limits, ports)
    if node.reign is not None:
        node.reign.retention.table = retention
    return Reloaded(
        applied={key: values for key, values in changed.items() if key in APPLICABLE},
        waiting={key: values for key, values in changed.items() if key not in APPLICABLE},
    )
