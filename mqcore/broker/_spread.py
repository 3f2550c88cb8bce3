"""The map of topics over several sets: the primary of the first set keeps it and tells the others (rule R13).

What the first set's metadata log says is the map. The others take it over, topic by topic, and a primary that begins to
reign there tells all of it again, so that nothing that was missed stays missing. Must not know who asked for a change.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import trio

from mqcore.abc import Notice
from mqcore.broker._topic_config import config_to_json
from mqcore.broker._topics import Topics
from mqcore.config import SetTable
from mqcore.errors import MqcoreError, NotPrimaryError, NotReachedError
from mqcore.operations import ListTopics, PlacedTopic, PlaceTopics, TopicSummary, from_result, to_json

__all__ = ["TopicSpread"]

TOPICS_PER_CALL = 100
PAUSE_S_FIRST, PAUSE_S_MOST = 0.1, 5.0
WAIT_S_MAX = 5.0
"""How long one who changed a topic waits until the other sets know of it; they are told later all the same."""


class _Caller(Protocol):
    async def call(
        self, urls: Sequence[str], operation: str, arguments: Mapping[str, Any], *, timeout_s: float
    ) -> Any: ...


class _OtherSet:
    """A set that is told: what it does not know yet, and which attempts to tell it there were, by number."""

    def __init__(self, table: SetTable) -> None:
        self.table = table
        self.untold: dict[bytes, None] = {}
        self.telling: list[bytes] = []
        self.more = trio.Event()
        self.begun = 0
        self.ended = 0

    def knows(self, topic_id: bytes) -> bool:
        """Whether it was told of the last change of a topic, and has taken it over."""
        return topic_id not in self.untold and topic_id not in self.telling

    def tell_soon(self) -> None:
        """Have an attempt begin after this."""
        self.more.set()


class TopicSpread:
    """Tells the sets ``others`` of the topics of one reign. ``run`` it as long as that lasts."""

    def __init__(
        self,
        topics: Topics,
        others: Sequence[SetTable],
        caller: _Caller,
        *,
        report: Callable[[Notice], None],
        timeout_s: float,
    ) -> None:
        self._topics = topics
        self._others = [_OtherSet(each) for each in others]
        self._caller = caller
        self._report = report
        self._timeout_s = timeout_s
        self._attempt_ended = trio.Event()

    async def run(self) -> None:
        """Tell everything, then every change, until cancelled. What fails is tried again."""
        for topic_id in self._topics.by_id:
            self._note(topic_id)
        self._topics.changed, self._topics.told = self._note, self._until_told
        async with trio.open_nursery() as nursery:
            for each in self._others:
                nursery.start_soon(self._tell_on, each)

    def _note(self, topic_id: bytes) -> None:
        topic = self._topics.by_id.get(topic_id)
        if topic is None or topic.sets:
            for other in self._others:
                other.untold[topic_id] = None
                other.tell_soon()

    async def _until_told(self, topic_id: bytes) -> None:
        """Wait until every other set knows of the topic; of one that is away, until it was tried once more."""
        # An attempt that is under way now may have failed already: the next one counts.
        attempts = {other: other.begun + 1 for other in self._others}
        for other in self._others:
            other.tell_soon()
        with trio.move_on_after(WAIT_S_MAX):
            while any(other.ended < attempts[other] and not other.knows(topic_id) for other in self._others):
                await self._attempt_ended.wait()

    async def _tell_on(self, other: _OtherSet) -> None:
        pause_s, is_compared, is_reported = PAUSE_S_FIRST, False, False
        while True:
            other.more = trio.Event()
            other.begun += 1
            try:
                if not is_compared:
                    other.untold.update(dict.fromkeys(await self._unknown_here(other.table)))
                    is_compared = True
                await self._tell(other)
                pause_s, is_reported = PAUSE_S_FIRST, False
            except MqcoreError as error:
                if not is_reported:
                    text = f"set {other.table.name} does not take topics over, going on trying: {error}"
                    self._report(Notice("set-not-told", text))
                    is_reported = True
            other.ended = other.begun
            self._attempt_ended.set()
            self._attempt_ended = trio.Event()
            with trio.move_on_after(pause_s if other.untold or not is_compared else math.inf):
                await other.more.wait()
            pause_s = min(2 * pause_s, PAUSE_S_MOST)

    async def _tell(self, other: _OtherSet) -> None:
        while other.untold:
            ids = other.telling = list(other.untold)[:TOPICS_PER_CALL]
            placed = tuple(map(self._placed, ids))
            for topic_id in ids:  # before the call: what changes meanwhile is told once more
                del other.untold[topic_id]
            try:
                await self._ask(other.table, "topic.place", to_json(PlaceTopics(topics=placed)))
            except BaseException:
                other.untold.update(dict.fromkeys(ids))
                raise
            finally:
                other.telling = []

    def _placed(self, topic_id: bytes) -> PlacedTopic:
        topic = self._topics.by_id.get(topic_id)
        if topic is None:
            return PlacedTopic(id=topic_id.hex())
        return PlacedTopic(id=topic_id.hex(), name=topic.name, config=config_to_json(topic.config), sets=topic.sets)

    async def _unknown_here(self, other: SetTable) -> list[bytes]:
        """Ids of the topics of ``other`` that the map does not have: deleted while that set was away."""
        found: list[bytes] = []
        after = ""
        while True:
            answer = await self._ask(other, "topic.list", to_json(ListTopics(after=after)))
            try:
                page = from_result(tuple[TopicSummary, ...], answer)
                ids = [bytes.fromhex(topic.id) for topic in page]
            except ValueError as error:
                raise NotReachedError(f"set {other.name} answered what cannot be understood: {error}") from None
            found += [each for each in ids if each not in self._topics.by_id]
            if not page:
                return found
            after = page[-1].name

    async def _ask(self, other: SetTable, operation: str, arguments: Mapping[str, Any]) -> Any:
        """Ask the primary of ``other``, whichever of its nodes that is."""
        problems: list[str] = []
        waiting = [node.urls for node in other.nodes]
        while waiting and len(problems) <= 2 * len(other.nodes):
            urls = waiting.pop(0)
            try:
                return await self._caller.call(urls, operation, arguments, timeout_s=self._timeout_s)
            except NotPrimaryError as error:
                problems.append(str(error))
                waiting = ([error.urls] if error.urls else []) + waiting
            except NotReachedError as error:
                problems.append(str(error))
        raise NotReachedError("; ".join(problems))
