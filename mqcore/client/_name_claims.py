"""Claims the name of a producer for one that opens: at every set of its topic, with where earlier ones had come to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import attrs
import trio

from mqcore.client._claimed_name import ClaimedName
from mqcore.client._owners import Owners
from mqcore.client._results import ask
from mqcore.client._router import Router
from mqcore.client._session import Session
from mqcore.errors import NotReachedError, ProducerFencedError, RejectedError
from mqcore.operations import (
    ClaimedProducer,
    ClaimProducer,
    DescribeProducer,
    ProducerDescription,
    ProducerPartitionState,
    TopicInfo,
)
from mqcore.protocol import Code

__all__ = ["NameClaims"]

R = TypeVar("R")

CLAIMS_MAX = 3
"""How often a claim is asked for anew, beyond what another set has seen, before another process is said to have it."""


class NameClaims:
    """Claims names by way of ``router``; ``owners`` say which sets to ask."""

    def __init__(self, router: Router, owners: Owners) -> None:
        self._router = router
        self._owners = owners

    async def claim(self, found: TopicInfo, name: str) -> ClaimedName:
        """Have the name given to this process, and return what earlier ones have stored. Their sends are refused then.

        Waits for brokers that have just begun to serve, and for what is stored to be committed. Raises
        ``ProducerFencedError`` when another process claims it at the same time, and as the methods of ``Admin``. If
        cancelled, or after another error, earlier processes may be fenced.
        """
        given = await self._claim_everywhere(found, name)
        described = await self.describe(found, name, is_settled=True)
        if described.epoch != given.epoch:
            text = f"producer {name!r} of topic {found.name!r} was given epoch {described.epoch} by another process"
            raise ProducerFencedError(text, code=Code.PRODUCER_FENCED, producer_name=name, epoch=described.epoch)
        partitions = described.partitions
        return ClaimedName(
            name=name,
            producer_id=given.producer_id,
            epoch=given.epoch,
            claim=bytes.fromhex(given.claim),
            last={each.partition: each.last_offset for each in partitions if each.last_offset is not None},
            # Under the first epoch nobody has sent anything, whatever a log has forgotten.
            forgotten=frozenset(
                each.partition for each in partitions if each.status == "forgotten" and given.epoch > 1
            ),
            first_epochs={
                each.partition: each.producer_epoch + 1 for each in partitions if each.producer_epoch is not None
            },
        )

    async def _claim_everywhere(self, found: TopicInfo, name: str) -> ClaimedProducer:
        """Have the set of partition 0 give the name, and the others of the topic take that over."""
        first, *others = [session for session, _ in self._owners.owned(found, range(found.partitions))]
        request = ClaimProducer(name=name, topic=found.name)
        attempts_left = CLAIMS_MAX
        while True:
            attempts_left -= 1
            given = await self._patiently(request, ClaimedProducer, first)
            taken = attrs.evolve(request, above=0, claim=given.claim, producer_id=given.producer_id)
            try:
                for session in others:
                    await self._patiently(taken, ClaimedProducer, session)
                return given
            except ProducerFencedError as error:
                # The set of partition 0 has lost claims that another one has seen, or another process was faster.
                if not attempts_left:
                    raise
                request = attrs.evolve(request, above=error.epoch, producer_id=error.producer_id)

    async def describe(self, found: TopicInfo, name: str, *, is_settled: bool) -> ProducerDescription:
        """Return who has a name, and what each partition of the topic has of it; ``is_settled``: once committed."""
        whole: ProducerDescription | None = None
        states: list[ProducerPartitionState] = []
        refusal: RejectedError | None = None
        for session, own in self._owners.owned(found, range(found.partitions)):
            after = -1
            while after < own[-1]:
                request = DescribeProducer(name=name, topic=found.name, after=after, is_settled=is_settled)
                try:
                    page = await self._patiently(request, ProducerDescription, session)
                except RejectedError as error:
                    if error.code != Code.UNKNOWN_PRODUCER:
                        raise
                    refusal = error
                    break
                if whole is None or page.epoch > whole.epoch:
                    whole = page
                if not page.partitions:
                    break
                states += page.partitions
                after = page.partitions[-1].partition
        if whole is None:
            assert refusal is not None
            raise refusal
        return attrs.evolve(whole, partitions=tuple(sorted(states, key=lambda each: each.partition)))

    async def _patiently(self, request: object, kind: type[R], session: Session | None) -> R:
        """Ask, and ask again for as long as a request may take, while the broker says that it cannot tell yet."""

        async def once() -> R:
            return await ask(self._router, request, kind, is_repeatable=True, at=session)

        return await _until_ready(once, self._router.context.options.request_timeout_ms / 1000, self._pause)

    async def _pause(self, attempt: int) -> None:
        context = self._router.context
        await trio.sleep(context.backoff.pause(attempt, context.random))


async def _until_ready(
    once: Callable[[], Awaitable[R]], timeout_s: float, pause: Callable[[int], Awaitable[None]]
) -> R:
    refusal: RejectedError | None = None
    attempt = 0
    with trio.move_on_after(timeout_s):
        while True:
            try:
                return await once()
            except RejectedError as error:
                if not error.retryable:
                    raise
                refusal = error
            attempt += 1
            await pause(attempt)
    raise refusal or NotReachedError(f"no answer within {timeout_s:g} s")
