"""What is sent under the names of producers, and which of it is taken: the check at each append (rule R12).

Must not know how a name is given, nor where names are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from mqcore.broker._sends import Send, fail_send
from mqcore.errors import RejectedError
from mqcore.groups import TopicNames
from mqcore.protocol import Code

__all__ = ["ClaimCheck"]


class NamesReady(Protocol):
    """Whether names are known: the log that has them was read. ``refused_total``: sends that were refused."""

    refused_total: int

    @property
    def why_refused(self) -> RejectedError | None:
        """What those are told who ask before; None: they are known."""
        ...


class ClaimCheck:
    """What of the sends to one topic is under a claim that is in force. Looked at with every append of them."""

    __slots__ = ("names", "ready", "topic_name")

    def __init__(self, names: TopicNames, ready: NamesReady, topic_name: str) -> None:
        self.names = names
        self.ready = ready
        self.topic_name = topic_name

    def admit(self, sends: Sequence[Send]) -> Sequence[Send]:
        """Return those that may be appended now; the others are answered. Most often all: it costs a look at each."""
        names = self.names
        for send in sends:
            if send.claim or (names.by_id and send.batch.header.producer_id in names.by_id):
                return [each for each in sends if self._admits(each)]
        return sends

    def _admits(self, send: Send) -> bool:
        if send.claim and (error := self.ready.why_refused) is not None:
            fail_send(send, Code(error.code), str(error))
            return False
        identity = send.batch.header.producer_id
        if self.names.admits(identity, send.claim):
            return True
        self.ready.refused_total += 1
        named, where = self.names.by_id.get(identity), f"of topic {self.topic_name!r}"
        if named is None:
            text = f"no such name of a producer {where} is in force any more: open the producer again"
            fail_send(send, Code.PRODUCER_FENCED, text)
        else:
            text = f"producer {named.name!r} {where} went on under epoch {named.epoch}, given to another process"
            if send.claim:
                text += f"; this one was given epoch {int.from_bytes(send.claim[:8], 'little')}"
            facts = {"name": named.name, "epoch": named.epoch, "producer_id": identity}
            fail_send(send, Code.PRODUCER_FENCED, text, facts)
        return False
