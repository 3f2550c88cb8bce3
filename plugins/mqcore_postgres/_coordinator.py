"""The PostgreSQL coordinator: a name is a row of one table; a write is one statement, conditional on both write ids.

Neither advisory locks nor the server's clock are used: a lock never falls while its holder is stopped (rule R11).
"""

from __future__ import annotations

from collections.abc import Callable

from mqcore.abc import (
    WRITE_ID_BYTES,
    CellPair,
    CellWrite,
    Coordinator,
    CoordinatorCapabilities,
    CoordinatorCell,
    CoordinatorContext,
    Url,
    check_coordinator_name,
)
from mqcore.ensembles import COORDINATOR_ERRORS, Revision, ServerFailureError, cell_after
from mqcore_postgres._config import PostgresOptions
from mqcore_postgres._connection import PostgresConnection
from mqcore_postgres._queries import number_of, only_row, postgres_ensemble, query, write
from mqcore_postgres._statements import CHANNEL, CREATE, INSERT, LISTEN, NAMES, READ, UPDATE

__all__ = ["PostgresCoordinator"]

_CAPABILITIES = CoordinatorCapabilities()


class PostgresCoordinator(Coordinator):
    """The coordinator part of the scheme ``postgres``: ``postgres://HOST:PORT,HOST:PORT/DATABASE``."""

    options_class = PostgresOptions

    def __init__(self, url: Url, options: PostgresOptions, context: CoordinatorContext) -> None:
        super().__init__(url, options, context)
        self._ensemble = postgres_ensemble(url, options, context, COORDINATOR_ERRORS)
        self._revision = Revision(url)

    @property
    def capabilities(self) -> CoordinatorCapabilities:
        """What PostgreSQL promises."""
        return _CAPABILITIES

    async def read(self, name: str) -> CellPair:
        """Return both cells, as ``Coordinator.read`` says."""
        check_coordinator_name(name)
        what = f"read of {name!r}"

        async def exchange(connection: PostgresConnection) -> CellPair:
            highest = self._revision.highest
            rows = await query(connection, READ, [name], no_table=[[None, None, None, None, bytes(8), None]])
            record, record_id, lease, lease_id, revision, _ = only_row(rows, 6)
            self._revision.check(what, number_of(revision), highest)
            return CellPair(_cell(record, record_id), _cell(lease, lease_id))

        return await self._ensemble.call(what, exchange)

    async def write(
        self, name: str, expect: CellPair, *, record: CellWrite | None = None, lease: CellWrite | None = None
    ) -> CellPair:
        """Put the cells, as ``Coordinator.write`` says."""
        self.check_write(name, record, lease)
        what = f"write of {name!r}"
        written: list[bytes | str | None] = [name]
        for put in (record, lease):
            written += [None, None] if put is None else [put.value, put.write_id]
        statement = INSERT
        if expect.record.write_id or expect.lease.write_id:
            statement = UPDATE
            written += [expect.record.write_id or None, expect.lease.write_id or None]

        async def exchange(connection: PostgresConnection) -> CellPair:
            highest = self._revision.highest
            rows = await write(connection, statement, written, [CREATE])
            if not rows:
                raise self._ensemble.conflict(what)
            self._revision.check(what, number_of(only_row(rows, 2)[0]), highest)
            return CellPair(cell_after(expect.record, record), cell_after(expect.lease, lease))

        return await self._ensemble.call(what, exchange, writes=True)

    async def watch(self, name: str, changed: Callable[[], None]) -> None:
        """Call ``changed``, as ``Coordinator.watch`` says: a write notifies in the transaction that it is."""
        check_coordinator_name(name)

        async def follow(connection: PostgresConnection) -> None:
            await query(connection, LISTEN)
            changed()
            await connection.notifications(CHANNEL, lambda text: changed() if text == name.encode() else None)

        await self._ensemble.watch(follow, changed)

    async def names(self, prefix: str) -> list[str]:
        """Return the names, as ``Coordinator.names`` says."""

        async def exchange(connection: PostgresConnection) -> list[str]:
            rows = await query(connection, NAMES, [prefix], no_table=[])
            return [(row[0] or b"").decode("utf-8", "replace") for row in rows]

        return await self._ensemble.call(f"names below {prefix!r}", exchange)

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        self._ensemble.close()


def _cell(value: bytes | None, write_id: bytes | None) -> CoordinatorCell:
    if write_id is None and value is None:
        return CoordinatorCell()
    if write_id is None or value is None or len(write_id) != WRITE_ID_BYTES:
        raise ServerFailureError("a cell has no write id of 16 bytes; is the table another program's?")
    return CoordinatorCell(value, write_id)
