"""The names of producers: which process may send under each, and the records that say so in a log (rule R12). Pure.

A name is of one topic. It has an id, under which the topic's logs know what was sent, and an epoch that grows with each
process that claims it. What a process sends under the name carries its *claim*: the epoch, and 64 random bits that were
given to it alone. It is taken only while the claim is the last one that is committed, so that of two processes of one
name never both are served, in whatever order claims are lost, found again or forgotten: an epoch that was given out,
and lost by a loss that its policy permits, is refused like every other that is not in force.

Records are absolute, the later one holds. A record: kind u8, length of the name u8, topic id 16 bytes, number u32 (1:
the name is in force; 0: it was deleted), the name, and for one that is in force id u64, epoch u64, random bits u64;
little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mqcore.abc import check_cursor_name
from mqcore.errors import ConfigurationError, CorruptionError

__all__ = [
    "NAMED_BYTES",
    "PRODUCER_NAME",
    "NamedProducer",
    "ProducerNames",
    "TopicNames",
    "check_producer_name",
    "pack_producer_name",
]

PRODUCER_NAME = 5
"""Kind of the record, among those of the log of cursors."""

_HEAD = struct.Struct("<BB16sI")
_NAMED = struct.Struct("<QQQ")
_CLAIM = struct.Struct("<QQ")
NAMED_BYTES = _NAMED.size
"""Of each name in force in a record, besides the name."""
NAME_BYTES_MAX = 200


def check_producer_name(name: str) -> None:
    """Refuse what cannot name a producer: 1 to 200 bytes of printable text can. Raises ``ConfigurationError``."""
    check_cursor_name("producer", name)
    size = len(name.encode("utf-8", "replace"))
    if size > NAME_BYTES_MAX:
        raise ConfigurationError(f"producer name {name[:40]!a}... has {size} bytes; at most {NAME_BYTES_MAX}")


class NamedProducer(NamedTuple):
    """Who may send under a name: the process that was given ``epoch``. ``token`` are its 64 random bits."""

    name: str
    producer_id: int
    epoch: int
    token: int

    @property
    def claim(self) -> bytes:
        """What everything that this process sends carries, 16 bytes."""
        return _CLAIM.pack(self.epoch, self.token)

    @classmethod
    def of_claim(cls, name: str, producer_id: int, claim: bytes) -> NamedProducer:
        """The same from its claim. Raises ``ValueError`` where that has not 16 bytes."""
        if len(claim) != _CLAIM.size:
            raise ValueError(f"a claim has {_CLAIM.size} bytes, not {len(claim)}")
        return cls(name, producer_id, *_CLAIM.unpack(claim))


class TopicNames:
    """The names of one topic, by name, by id and by the claim that is in force. Read only, and kept by who checks."""

    __slots__ = ("by_claim", "by_id", "by_name")

    def __init__(self) -> None:
        self.by_name: dict[str, NamedProducer] = {}
        self.by_id: dict[int, NamedProducer] = {}
        self.by_claim: dict[bytes, NamedProducer] = {}

    def admits(self, producer_id: int, claim: bytes) -> bool:
        """Whether a batch may be appended: one under a claim is of it, one without is of no name.

        ``producer_id`` 0: of a batch that is not idempotent.
        """
        if not claim:
            return producer_id not in self.by_id
        named = self.by_claim.get(claim)
        return named is not None and producer_id in (0, named.producer_id)

    def put(self, named: NamedProducer) -> None:
        """Have ``named`` in force, and no earlier claim of its name."""
        self.drop(named.name)
        self.by_name[named.name] = self.by_id[named.producer_id] = self.by_claim[named.claim] = named

    def drop(self, name: str) -> None:
        """Forget a name: no claim of it is in force."""
        known = self.by_name.pop(name, None)
        if known is not None:
            del self.by_id[known.producer_id], self.by_claim[known.claim]


class ProducerNames:
    """All names of a broker, by topic id. ``is_known`` is asked for a topic id, as by ``CursorTable``."""

    def __init__(self, is_known: Callable[[bytes], bool] = lambda topic_id: True) -> None:
        self.count = 0
        self.snapshot_bytes = 0
        """About how large records of all of them are."""
        self._topics: dict[bytes, TopicNames] = {}
        self._is_known = is_known

    def of_topic(self, topic_id: bytes) -> TopicNames:
        """The names of a topic, which stay up to date; none of one that is not there, of which nothing is kept."""
        names = self._topics.get(topic_id)
        if names is None:
            names = TopicNames()
            if self._is_known(topic_id):
                self._topics[topic_id] = names
        return names

    def items(self) -> Iterator[tuple[bytes, NamedProducer]]:
        """Every name, with its topic's id."""
        for topic_id, names in list(self._topics.items()):
            for named in list(names.by_name.values()):
                yield topic_id, named

    def drop_topic(self, topic_id: bytes) -> None:
        """Drop the names of a topic that was deleted."""
        names = self._topics.pop(topic_id, None)
        for name in [] if names is None else list(names.by_name):
            self._drop(names, name)

    def apply(self, name: str, topic_id: bytes, body: memoryview, where: str) -> None:
        """Take in one record; ``body`` is what follows the name, empty for a name that was deleted.

        Raises ``CorruptionError``.
        """
        if not body:
            self._drop(self._topics.get(topic_id), name)
            return
        named = NamedProducer(name, *_NAMED.unpack(body))
        if not named.producer_id or not named.epoch:
            raise CorruptionError(f"the name {name!r} of a producer has no id or no epoch", where=where)
        if self._is_known(topic_id):
            names = self.of_topic(topic_id)
            self._drop(names, name)
            other = names.by_id.get(named.producer_id)
            if other is not None:
                text = f"names {other.name!r} and {name!r} of producers have one id"
                raise CorruptionError(text, where=where, found=str(named.producer_id))
            names.put(named)
            self.count += 1
            self.snapshot_bytes += _record_bytes(name)

    def _drop(self, names: TopicNames | None, name: str) -> None:
        if names is not None and name in names.by_name:
            names.drop(name)
            self.count -= 1
            self.snapshot_bytes -= _record_bytes(name)

    def records(self) -> Iterator[bytes]:
        """Records of all names; what is deleted or claimed anew meanwhile is told as it is by then."""
        for topic_id, named in self.items():
            current = self.of_topic(topic_id).by_name.get(named.name)
            if current is not None:
                yield pack_producer_name(topic_id, current.name, current)


def pack_producer_name(topic_id: bytes, name: str, named: NamedProducer | None) -> bytes:
    """The record of a name: who may send under it from here on; None: it is deleted."""
    data = name.encode()
    head = _HEAD.pack(PRODUCER_NAME, len(data), topic_id, 0 if named is None else 1) + data
    return head if named is None else head + _NAMED.pack(*named[1:])


def _record_bytes(name: str) -> int:
    return _HEAD.size + len(name.encode()) + NAMED_BYTES
