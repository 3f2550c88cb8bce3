"""The build that a configuration states, as ``mqcore.guarantees`` computes promises from it."""

from __future__ import annotations

from collections.abc import Mapping

from mqcore.abc import Capabilities
from mqcore.config._model import BrokerConfig, TopicConfig
from mqcore.errors import ConfigurationError
from mqcore.guarantees import Build, TopicBuild

__all__ = ["build_of"]


def build_of(
    config: BrokerConfig, capabilities: Capabilities, topics: Mapping[str, TopicConfig] | None = None
) -> Build:
    """Return the build of ``config`` on a storage with ``capabilities``.

    ``topics``: those that the broker really has (None: those of the configuration).
    """
    cluster, own_set = config.cluster, config.own_set
    return Build(
        storage=config.storage.url,
        append_level=capabilities.append_level,
        flush_level=capabilities.flush_level,
        flush=config.flush.value,
        replication=config.replication.value,
        topics=tuple(_topic(name, topic) for name, topic in (config.topics if topics is None else topics).items()),
        survive=config.survive,
        total_bytes_max=config.flush.total_bytes_max,
        nodes=None if own_set is None else len(own_set.nodes),
        coordinator=cluster is not None and not cluster.coordinator.is_manual,
        failover="automatic" if cluster is not None and cluster.fails_over else "manual",
        on_degraded=capabilities.on_degraded,
        array_below=config.storage.array == "mirror",
    )


def _topic(name: str, topic: TopicConfig) -> TopicBuild:
    if topic.dead_letter == name:
        raise ConfigurationError(f"topic {name!r} cannot be its own dead-letter topic; name another one")
    return TopicBuild(
        name=name,
        partitions=topic.partitions,
        flush=topic.flush,
        replication=topic.replication,
        weakest_send=topic.weakest_send,
        visible=topic.visible,
    )
