"""The offset stores on real servers: the suite's checks that need no server of their own, and another schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import trio

from mqcore.abc import CommitStamp, Cursor, CursorKey, OffsetStore, OffsetStoreContext
from mqcore.errors import OffsetStoreForeignError, OffsetStoreUnavailableError
from mqcore.ports import system_ports
from mqcore.registry import create_offset_store
from mqcore_conformance.contract import CHECKS, check_part, checks_of
from mqcore_conformance.servers import PostgresServer, ServerProcess, ZookeeperServer
from mqcore_conformance.verdicts import Status

pytestmark = pytest.mark.slow

AT_ONCE = 3
OF_A_SERVER = "mqcore_conformance.contract._offset_store_servers"
SERVERS: dict[str, tuple[Callable[[], ServerProcess], str]] = {
    # Nothing here cuts the power: without flushes a database starts in a tenth of the time.
    "postgres": (lambda: PostgresServer(settings={"fsync": "off"}), "postgres?user=postgres&tls=disable"),
    "zookeeper": (ZookeeperServer, "mqcore"),
}
ONE = {CursorKey("t", 0): Cursor(1, 1)}


@pytest.fixture(scope="module", params=[pytest.param(scheme, marks=pytest.mark.needs(scheme)) for scheme in SERVERS])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a store on a server of each kind."""
    make, end = SERVERS[request.param]
    with make() as server:
        yield f"{request.param}://127.0.0.1:{server.port}/{end}"


def test_every_check_of_an_offset_store_passes(url: str) -> None:
    names = [one.name for one in checks_of("offset_store") if one.function.__module__ != OF_A_SERVER]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda name: check_part(CHECKS[name], url), names))
    failed = [
        f"{name}: {result.text}"
        for name, result in zip(names, results, strict=True)
        if result.status is not Status.PASS
    ]
    assert not failed, "\n".join(failed)


def of(url: str) -> OffsetStore:
    return create_offset_store(url, OffsetStoreContext(ports=system_ports(), call_timeout_ms=20_000))


def test_another_schema_on_the_server_is_refused_in_one_line(url: str) -> None:
    scheme = url.partition(":")[0]

    async def main() -> None:
        store = of(url)
        await store.commit("g", CommitStamp(1, 1), ONE)
        await trio.to_thread.run_sync(_spoil, scheme, url)
        for call in (store.load("g"), store.commit("g", CommitStamp(1, 2), ONE)):
            with pytest.raises(OffsetStoreForeignError, match="version 7") as told:
                await call
            assert "\n" not in str(told.value)
        await store.aclose()

    trio.run(main)


def _spoil(scheme: str, url: str) -> None:
    """Make the group's row or node one that another version wrote."""
    address = url.partition("://")[2].partition("/")[0]
    if scheme == "postgres":
        import psycopg

        with psycopg.connect(f"postgresql://postgres@{address}/postgres") as connection:
            connection.execute("update mqcore_offset_groups set schema_version = 7 where name = 'g'")
        return
    from kazoo.client import KazooClient

    client = KazooClient(hosts=address)
    client.start()
    try:
        client.set("/mqcore-offsets/g:g", b'{"mqcore-offsets": 7, "stamp": [1, 1], "marker": "x"}')
    finally:
        client.stop()
        client.close()


@pytest.mark.parametrize("scheme", ["postgres", "zookeeper"])
def test_a_store_without_a_server_says_so_with_the_remedy(scheme: str) -> None:
    pytest.importorskip({"postgres": "psycopg", "zookeeper": "kazoo"}[scheme])

    async def main() -> None:
        store = of(f"{scheme}://127.0.0.1:1/{SERVERS[scheme][1]}")
        with pytest.raises(OffsetStoreUnavailableError, match="check the servers, and what the URL says of them"):
            await store.load("g")
        await store.aclose()

    trio.run(main)
