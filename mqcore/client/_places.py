"""What a client knows of a cluster: its sets and their nodes, which node reigns, which set owns each partition.

Knowledge only, as ``topic.resolve`` and ``not-primary`` stated it: it may be old, and a server that is asked in vain
says so. No I/O, no trio; must not know of sessions.
"""

from __future__ import annotations

import attrs

from mqcore.operations import ClusterNode, ClusterSet, TopicInfo

__all__ = ["Places"]


class Places:
    """The sets of a cluster by name; empty for a broker that is alone."""

    def __init__(self) -> None:
        self._sets: dict[str, ClusterSet] = {}
        self._owners: dict[bytes, tuple[str, ...]] = {}

    def learn(self, info: TopicInfo) -> None:
        """Take over what an answer to ``topic.resolve`` says. What does not fit together is left out."""
        names = [each.name for each in info.sets]
        for each in info.sets:
            known = self._sets.get(each.name)
            # The server that answers may know of no primary where another did: silence is no news.
            self._sets[each.name] = attrs.evolve(each, primary=each.primary or (known.primary if known else ""))
        if all(0 <= number < len(names) for number in info.owners):
            self._owners[bytes.fromhex(info.id)] = tuple(names[number] for number in info.owners)

    @property
    def urls(self) -> list[str]:
        """Every URL of every node."""
        return [url for each in self._sets.values() for node in each.nodes for url in node.urls]

    def nodes(self, topic_id: bytes, partition: int) -> tuple[ClusterNode, ...]:
        """The nodes of the set that owns the partition; none while that is not known."""
        owner = self._owner(topic_id, partition)
        return () if owner is None else owner.nodes

    def primary(self, topic_id: bytes, partition: int) -> ClusterNode | None:
        """The node that reigns over the partition, as far as is known."""
        owner = self._owner(topic_id, partition)
        return None if owner is None else next((node for node in owner.nodes if node.name == owner.primary), None)

    def reigns(self, topic_id: bytes, partition: int, url: str) -> None:
        """Take note that the node at ``url`` is said to reign over the partition, and so over all of its set."""
        owner = self._owner(topic_id, partition)
        for node in owner.nodes if owner is not None else ():
            if url in node.urls and owner is not None:
                self._sets[owner.name] = attrs.evolve(owner, primary=node.name)

    def is_gone(self, url: str) -> None:
        """Take note that ``url`` is not reached: its node is not taken for a primary until it is said to be one."""
        for each in list(self._sets.values()):
            if any(node.name == each.primary and url in node.urls for node in each.nodes):
                self._sets[each.name] = attrs.evolve(each, primary="")

    def _owner(self, topic_id: bytes, partition: int) -> ClusterSet | None:
        owners = self._owners.get(topic_id, ())
        return self._sets.get(owners[partition]) if partition < len(owners) else None
