"""Administration of names of producers: every set is asked for its own, and the answers are put together."""

from __future__ import annotations

from mqcore.client._admin import Admin
from mqcore.client._name_claims import NameClaims
from mqcore.client._owners import Owners
from mqcore.client._results import ask
from mqcore.client._router import Router
from mqcore.errors import RejectedError
from mqcore.operations import DeletedProducer, DeleteProducer, ListProducers, ProducerDescription, ProducerSummary
from mqcore.protocol import Code

__all__ = ["ProducerAdmin"]


class ProducerAdmin:
    """Requests about names of producers. Errors and cancellation as those of ``Admin``."""

    def __init__(self, router: Router, admin: Admin) -> None:
        self._router = router
        self._owners = Owners(router, admin)
        self._claims = NameClaims(router, self._owners)

    async def list_names(self) -> list[ProducerSummary]:
        """Return every name of a producer, by name and topic."""
        found: dict[tuple[str, str], ProducerSummary] = {}
        for session in await self._owners.all():
            after = ("", "")
            while True:
                page = await ask(
                    self._router,
                    ListProducers(after=after),
                    tuple[ProducerSummary, ...],
                    is_repeatable=True,
                    at=session,
                )
                if not page:
                    break
                for each in page:
                    known = found.get((each.name, each.topic), each)
                    found[each.name, each.topic] = max(known, each, key=lambda summary: summary.epoch)
                after = page[-1].name, page[-1].topic
        return [found[key] for key in sorted(found)]

    async def describe(self, name: str, topic: str) -> ProducerDescription:
        """Return who has a name, and what each partition of the topic has of it.

        Raises ``RejectedError``, ``unknown-producer`` where there is no such name.
        """
        return await self._claims.describe(await self._owners.resolve(topic), name, is_settled=False)

    async def delete(self, name: str, topic: str) -> int:
        """Forget a name and return its last epoch: its process is fenced, and the next one begins as a new one.

        Raises ``RejectedError``, ``unknown-producer`` where there is no such name. If cancelled, some sets may have
        done it; doing it again does the rest.
        """
        deleted: list[int] = []
        refusal: RejectedError | None = None
        for session in await self._owners.of_topic(topic):
            request = DeleteProducer(name=name, topic=topic)
            try:
                answer = await ask(self._router, request, DeletedProducer, is_repeatable=False, at=session)
                deleted.append(answer.epoch)
            except RejectedError as error:
                if error.code != Code.UNKNOWN_PRODUCER:
                    raise
                refusal = error
        if not deleted and refusal is not None:
            raise refusal
        return max(deleted)
