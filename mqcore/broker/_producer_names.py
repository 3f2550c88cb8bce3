"""Names of producers in one reign: which process gets one, and until when (rule R12).

A claim is in force once its record is committed in the log of cursors, under the strongest policy that the set offers,
and before anybody is told of it. Must not know of connections, nor of what producers have sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from mqcore.broker._claims import ClaimCheck
from mqcore.broker._cursor_log import CursorLog
from mqcore.broker._group_making import refused
from mqcore.broker._topics import Topic
from mqcore.errors import ConfigurationError, MqcoreError, ProducerFencedError, RejectedError
from mqcore.groups import NamedProducer, TopicNames, check_producer_name, pack_producer_name
from mqcore.limits import Limits
from mqcore.ports import Ports
from mqcore.protocol import Code

__all__ = ["NameRoom"]

EPOCH_MAX = 2**63 - 1
ID_MAX = 2**64 - 1


class NameRoom:
    """The names of producers of one reign, kept in ``cursors``. ``ports`` give the chance of ids and claims."""

    def __init__(self, cursors: CursorLog, limits: Limits, ports: Ports) -> None:
        self._cursors = cursors
        self._limits = limits
        self._random = ports.random
        self.refused_total = 0
        """Sends that were refused in this reign because their claim was not in force."""
        self._coming: dict[tuple[bytes, str], NamedProducer] = {}
        """Claims that are being written: the next one of the name comes after them."""

    @property
    def why_refused(self) -> RejectedError | None:
        """Why nothing can be said of names now; None while it can."""
        cursors = self._cursors
        if cursors.is_read:
            return None
        if cursors.failure is not None:
            return refused(Code.STORAGE_STOPPED, f"names of producers cannot be read: {cursors.failure}")
        return refused(Code.CURSORS_NOT_READY, "the broker is still reading names of producers: wait")

    def of_topic(self, topic_id: bytes) -> TopicNames:
        """The names of a topic, which stay up to date."""
        return self._cursors.table.names.of_topic(topic_id)

    def check_for(self, topic_id: bytes, topic_name: str) -> ClaimCheck:
        """What the partitions of a topic ask."""
        return ClaimCheck(self.of_topic(topic_id), self, topic_name)

    async def claim(self, topic: Topic, name: str, above: int, seen_id: int = 0) -> NamedProducer:
        """Give the name to who asks, under an epoch beyond ``above`` and every one before. Committed when it returns.

        ``seen_id``: under which another set has the name with the epoch ``above``. If this one had lost the name and
        began it anew, it goes back to that: else what was stored under it would count as nothing. 0: none.
        Raises ``RejectedError``, ``ProducerFencedError`` where another process has claimed it meanwhile, and what the
        log of cursors raised: the claim may be in force all the same, and is nobody's. If cancelled, so too.
        """
        self._check(topic, name)
        known = self._coming.get((topic.id, name)) or self.of_topic(topic.id).by_name.get(name)
        epoch = 1 + max(above, 0 if known is None else known.epoch)
        if epoch > EPOCH_MAX:
            raise refused(Code.INVALID_REQUEST, f"epoch {above}: at most {EPOCH_MAX - 1}")
        identity = self._new_id(topic) if known is None else known.producer_id
        is_behind = known is None or known.epoch <= above
        if is_behind and 0 < seen_id <= ID_MAX and not self._is_taken(topic, name, seen_id):
            identity = seen_id
        named = NamedProducer(name, identity, epoch, self._random.getrandbits(64))
        await self._put(topic, named)
        return named

    async def take_over(self, topic: Topic, named: NamedProducer) -> None:
        """Have a claim in force here that another set gave. Raises and is cancelled as ``claim``."""
        self._check(topic, named.name)
        known = self._coming.get((topic.id, named.name)) or self.of_topic(topic.id).by_name.get(named.name)
        if known is not None and known != named and known.epoch >= named.epoch:
            raise self._fenced(topic, known)
        is_id = 0 < named.producer_id <= ID_MAX
        if not (0 < named.epoch <= EPOCH_MAX and is_id) or self._is_taken(topic, named.name, named.producer_id):
            raise refused(Code.INVALID_REQUEST, f"producer {named.name!r}: no claim that a set of this cluster gave")
        await self._put(topic, named)

    async def delete(self, topic: Topic, name: str) -> NamedProducer:
        """Forget a name; return who had it last. Committed when it returns. Raises and is cancelled as ``claim``."""
        self._check_writable()
        known = self.get(topic, name)
        await self._write(pack_producer_name(topic.id, name, None))
        return known

    def get(self, topic: Topic, name: str) -> NamedProducer:
        """Return who has a name. Raises ``RejectedError`` where nobody does."""
        known = self.of_topic(topic.id).by_name.get(name)
        if known is None:
            text = f"no producer {name!r} of topic {topic.name!r} here; 'mqcore producer list' shows them all"
            raise refused(Code.UNKNOWN_PRODUCER, text)
        return known

    def named(self) -> Iterable[tuple[bytes, NamedProducer]]:
        """Every name, with the id of its topic."""
        return self._cursors.table.names.items()

    @property
    def count(self) -> int:
        """How many names there are."""
        return self._cursors.table.names.count

    def _check(self, topic: Topic, name: str) -> None:
        self._check_writable()
        try:
            check_producer_name(name)
        except ConfigurationError as error:
            raise refused(Code.INVALID_REQUEST, str(error)) from None
        coming = sum(key[1] not in self.of_topic(key[0]).by_name for key in self._coming)
        is_new = name not in self.of_topic(topic.id).by_name and (topic.id, name) not in self._coming
        most = self._limits.producer_names_max
        if is_new and self.count + coming >= most:
            # None is dropped to make room: what is not remembered could be sent, and stored, twice.
            text = f"{most} names of producers are kept (limit producer_names_max): 'mqcore producer delete' ends some"
            raise refused(Code.LIMIT_REACHED, text)

    def _check_writable(self) -> None:
        if (error := self.why_refused) is not None:
            raise error
        if self._cursors.is_full:
            raise refused(Code.CURSORS_NOT_READY, self._cursors.why_not_ready)

    def _is_taken(self, topic: Topic, name: str, identity: int) -> bool:
        """Whether another name has ``identity``, or is about to: a log that says so could not be read any more."""
        other = self.of_topic(topic.id).by_id.get(identity)
        return (other is not None and other.name != name) or any(
            topic_id == topic.id and each.producer_id == identity and each.name != name
            for (topic_id, _), each in self._coming.items()
        )

    def _new_id(self, topic: Topic) -> int:
        taken = {0, *self.of_topic(topic.id).by_id, *(each.producer_id for each in self._coming.values())}
        while (identity := self._random.getrandbits(64)) in taken:
            pass
        return identity

    async def _put(self, topic: Topic, named: NamedProducer) -> None:
        key = (topic.id, named.name)
        self._coming[key] = named

        def written() -> None:
            if self._coming.get(key) is named:
                del self._coming[key]

        await self._write(pack_producer_name(topic.id, named.name, named), written)
        known = self.of_topic(topic.id).by_name.get(named.name)
        if known is None:
            raise refused(Code.UNKNOWN_TOPIC, f"topic {topic.name!r} was deleted, or the name of the producer")
        if known != named:
            raise self._fenced(topic, known)

    async def _write(self, record: bytes, written: Callable[[], None] = lambda: None) -> None:
        """Have ``record`` committed. ``written`` is called when that is over, be it after this was cancelled."""
        over = trio.Event()
        failures: list[MqcoreError] = []

        def done(error: MqcoreError | None) -> None:
            written()
            failures.extend([] if error is None else [error])
            over.set()

        self._cursors.write(record, done)
        await over.wait()
        if failures:
            raise failures[0]

    @staticmethod
    def _fenced(topic: Topic, known: NamedProducer) -> ProducerFencedError:
        text = f"producer {known.name!r} of topic {topic.name!r} was given epoch {known.epoch} by another process"
        return ProducerFencedError(
            text, code=Code.PRODUCER_FENCED, producer_name=known.name, epoch=known.epoch, producer_id=known.producer_id
        )
