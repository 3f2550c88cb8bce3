"""A history told step by step: what the tests of the checkers, and who sabotages them, tell their stories with.

Knows events, no checker. Virtual time goes on by 1 ms an event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import attrs

from mqcore_conformance.histories import (
    DRAIN,
    Altered,
    Appended,
    Completed,
    Drained,
    Event,
    FaultInjected,
    FetchAnswered,
    FetchFailed,
    Flushed,
    Invoked,
    ReadBatch,
    Seeked,
    Setting,
    Started,
    TopicSetting,
)
from mqcore_conformance.verdicts import Anomaly

__all__ = ["OTHER", "PARTITION", "STORIES", "Story", "Case", "bad", "good"]

PARTITION = "t@1/0"
"""The partition of most stories."""
OTHER = "t@1/1"
"""Another one."""
BATCH_BYTES = 100
LEASE_MS = 10
"""Of a set. An event takes 1 ms."""

Batch: TypeAlias = tuple[int, int, list[str]]
"""Base offset, epoch and messages of a batch that is read."""


class Story:
    """A history of one topic ``t``. Each method adds what it says and returns the story."""

    def __init__(
        self,
        flush: str = "sync",
        append: str = "page-cache",
        reach: str = "disk",
        visible: str = "committed",
        total_bytes_max: int | None = None,
        weakest: str | None = None,
        retention: bool = False,
        replication: str = "none",
    ) -> None:
        policies = (flush,) if weakest is None else (flush, weakest)
        topic = TopicSetting(
            name="t", partitions=2, flush=policies, visible=visible, replication=replication, retention=retention
        )
        self.events: list[Event] = [
            Setting(
                time_us=0,
                storage="s",
                transport="c",
                append_level=append,
                flush_level=reach,
                topics=(topic,),
                total_bytes_max=total_bytes_max,
                lease_ms=LEASE_MS,
            )
        ]
        self.life = 0
        self.start()

    def add(self, kind: type[Any], /, **fields: Any) -> Story:
        """Any event."""
        self.events.append(kind(**{"time_us": len(self.events) * 1000, **fields}))
        return self

    # ---- the broker ------------------------------------------------------------------------------------------

    def start(self) -> Story:
        """The next life begins to serve; its epoch is its number."""
        self.life += 1
        return self.add(Started, life=self.life, identity="n", epoch=self.life)

    def fault(self, kind: str, **fields: Any) -> Story:
        """Something happens to this life."""
        return self.add(FaultInjected, kind=kind, **{"life": self.life, **fields})

    def rot(self, first: int, until: int, partition: str = PARTITION) -> Story:
        """Bits rot in the batch that holds offsets ``first`` to ``until``."""
        return self.fault("rot", hit=1, partition=partition, first_offset=first, next_offset=until)

    def restart(self, kind: str = "power-cut") -> Story:
        """This life ends and another one begins."""
        return self.fault(kind).start()

    def append(self, base: int, until: int, partition: str = PARTITION) -> Story:
        """The storage takes offsets ``base`` to ``until``, a message a batch."""
        return self.add(
            Appended,
            life=self.life,
            partition=partition,
            position=base * BATCH_BYTES,
            end_position=until * BATCH_BYTES,
            base_offset=base,
            next_offset=until,
            epoch=self.life,
        )

    def flush(self, until: int, *, failed: bool = False, partition: str = PARTITION, **fields: Any) -> Story:
        """A flush ends that covers what lies below offset ``until``."""
        return self.add(
            Flushed, ends=((partition, until * BATCH_BYTES),), failed=failed, **{"life": self.life, **fields}
        )

    def alter(self, outcome: str = "done", *, asked_at: int | None = None, topic: str = "t", **changes: str) -> Story:
        """The policies of a topic change, by a request that was made just before or at event ``asked_at``."""
        asked = len(self.events) if asked_at is None else asked_at
        return self.add(Altered, topic=topic, asked_at=asked, outcome=outcome, **changes)

    # ---- producers -------------------------------------------------------------------------------------------

    def invoke(self, send: str, *messages: str, attempt: int = 1, partition: str = PARTITION, **fields: Any) -> Story:
        """An attempt of ``send`` begins; its one message is called like it unless ``messages`` says otherwise."""
        return self.add(
            Invoked,
            process="p",
            send=send,
            attempt=attempt,
            partition=partition,
            messages=messages or (send,),
            **{"size_bytes": BATCH_BYTES, **fields},
        )

    def ack(self, send: str, offset: int, level: str = "disk", attempt: int = 1, **fields: Any) -> Story:
        """It is acknowledged by the present life."""
        return self.add(
            Completed,
            process="p",
            send=send,
            attempt=attempt,
            outcome="acknowledged",
            offset=offset,
            level=level,
            **{"life": self.life, "epoch": self.life, **fields},
        )

    def end(self, send: str, outcome: str, attempt: int = 1, code: str = "") -> Story:
        """It ends otherwise."""
        return self.add(Completed, process="p", send=send, attempt=attempt, outcome=outcome, code=code)

    def send(self, send: str, offset: int, level: str = "disk", **fields: Any) -> Story:
        """Both at once."""
        return self.invoke(send, **fields).ack(send, offset, level)

    def store(self, send: str, offset: int, *, partition: str = PARTITION, tags: tuple[str, ...] = ()) -> Story:
        """Sent, appended, flushed and acknowledged as it has to be."""
        self.invoke(send, partition=partition, tags=tags).append(offset, offset + 1, partition)
        return self.flush(offset + 1, partition=partition).ack(send, offset)

    # ---- readers ---------------------------------------------------------------------------------------------

    def fetch(self, process: str, offset: int, *batches: Batch, partition: str = PARTITION, **fields: Any) -> Story:
        """A fetch from ``offset`` is answered with ``batches``."""
        until = max([base + len(messages) for base, _, messages in batches], default=offset)
        given: dict[str, Any] = {
            "asked_at": len(self.events),
            "life": self.life,
            "epoch": 1,
            "next_offset": until,
            "start_offset": 0,
            "committed_offset": until,
            **fields,
        }
        read = tuple(
            ReadBatch(base_offset=base, epoch=epoch, messages=tuple(messages)) for base, epoch, messages in batches
        )
        return self.add(FetchAnswered, process=process, partition=partition, offset=offset, batches=read, **given)

    def refuse(self, process: str, offset: int, code: str, point: int = -1, until: int = -1, **fields: Any) -> Story:
        """A fetch is refused."""
        return self.add(
            FetchFailed,
            process=process,
            partition=PARTITION,
            asked_at=len(self.events),
            offset=offset,
            epoch=1,
            code=code,
            point=point,
            until=until,
            **{"life": self.life, **fields},
        )

    def seek(self, process: str, offset: int, why: str = "asked") -> Story:
        """A reader goes elsewhere by itself."""
        return self.add(Seeked, process=process, partition=PARTITION, offset=offset, why=why)

    def drain(self, *batches: Batch, start: int = 0, end: int | None = None, partition: str = PARTITION) -> Story:
        """The final drain of a partition."""
        until = max([base + len(messages) for base, _, messages in batches], default=start) if end is None else end
        self.fetch(DRAIN, start, *batches, partition=partition)
        return self.add(Drained, partition=partition, start_offset=start, end_offset=until)


@attrs.frozen
class Case:
    """A story with what has to be found in it: ``clauses`` are all that turn red, the first is what it is about."""

    name: str
    clauses: tuple[str, ...]
    anomaly: Anomaly | None
    tell: Callable[[], Story]

    @property
    def events(self) -> list[Event]:
        """The history."""
        return self.tell().events


STORIES: dict[str, Case] = {}
"""Every story by its name."""

Teller: TypeAlias = Callable[[], Story]


def _keep(tale: Case) -> None:
    if tale.name in STORIES:
        raise ValueError(f"two stories are called {tale.name}")
    STORIES[tale.name] = tale


def bad(clause: str, anomaly: Anomaly, *besides: str) -> Callable[[Teller], Teller]:
    """Decorator: the story breaks ``clause`` by ``anomaly``, and ``besides``, which is not to be had without it."""

    def keep(teller: Teller) -> Teller:
        _keep(Case(teller.__name__, (clause, *besides), anomaly, teller))
        return teller

    return keep


def good(teller: Teller) -> Teller:
    """Decorator: nothing is wrong with the story."""
    _keep(Case(teller.__name__, (), None, teller))
    return teller
