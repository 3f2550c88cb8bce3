"""PostgreSQL as a primary and its stand-by: what is promoted has every write that was answered, or is found out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from coordinator_parts import Place, put

from mqcore.abc import CellPair
from mqcore.errors import CoordinatorOutcomeUnknownError, CoordinatorUnreachableError, CoordinatorWentBackError
from mqcore_conformance.servers import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.needs("postgres")]


@pytest.fixture
def pair_of_servers() -> Iterator[Callable[[str], Place]]:
    """Makes a primary with a stand-by; the argument is ``synchronous_standby_names``."""
    made: list[PostgresServer] = []

    def make(synchronous: str) -> Place:
        primary = PostgresServer(settings={"fsync": "off", "synchronous_standby_names": synchronous})
        made.append(primary)
        primary.start()
        standby = PostgresServer("standby", settings={"synchronous_standby_names": ""}, standby_of=primary)
        made.append(standby)
        standby.start()
        return Place("postgres", made)

    yield make
    for server in reversed(made):
        server.remove()


def test_a_synchronous_standby_has_what_was_answered_and_neither_answers_without_the_other(
    pair_of_servers: Callable[[str], Place],
) -> None:
    place = pair_of_servers("*")
    primary, standby = place.servers
    assert isinstance(standby, PostgresServer)
    alone = Place("postgres", [standby])

    async def main() -> None:
        client = place.client(700)
        pair = await client.write(place.name, CellPair(), record=put(b"answered"))
        with pytest.raises(CoordinatorUnreachableError, match="it is a standby, which may be behind"):
            await alone.client().read(place.name)
        standby.freeze()
        with pytest.raises(CoordinatorOutcomeUnknownError):
            await client.write(place.name, pair, record=put(b"not answered"))
        with pytest.raises(CoordinatorUnreachableError):
            await client.read(place.name)
        standby.thaw()
        primary.kill()
        standby.promote()
        assert (await client.read(place.name)).record.value in (b"answered", b"not answered")
        await alone.aclose()

    place.run(main)


def test_r14_a_promotion_that_lost_answered_writes_is_noticed(pair_of_servers: Callable[[str], Place]) -> None:
    place = pair_of_servers("")
    primary, standby = place.servers
    assert isinstance(standby, PostgresServer)

    async def main() -> None:
        client = place.client(2_000)
        pair = await client.write(place.name, CellPair(), record=put(b"old"))
        standby.kill()
        await client.write(place.name, pair, record=put(b"lost"))
        primary.kill()
        standby.start()
        standby.promote()
        with pytest.raises(CoordinatorWentBackError, match="an older state was restored"):
            await client.read(place.name)

    place.run(main)
