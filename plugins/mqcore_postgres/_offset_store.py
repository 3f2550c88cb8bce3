"""The PostgreSQL offset store: a group is a row with its stamp, a cursor a row; a commit is one statement."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence

from mqcore.abc import (
    CommitStamp,
    Cursor,
    CursorKey,
    GroupCursors,
    OffsetStore,
    OffsetStoreCapabilities,
    OffsetStoreContext,
    Url,
    check_cursor_name,
)
from mqcore.ensembles import OFFSET_STORE_ERRORS, ServerFailureError, ServerRefusalError
from mqcore.errors import OffsetStoreFencedError, OffsetStoreForeignError
from mqcore_postgres import _offset_statements as sql
from mqcore_postgres._config import PostgresOptions
from mqcore_postgres._connection import PostgresConnection, Rows
from mqcore_postgres._queries import Arguments, number_of, only_row, postgres_ensemble, query, write

__all__ = ["PostgresOffsetStore"]

_CAPABILITIES = OffsetStoreCapabilities(commit_cursors_max=10_000)
_FOREIGN_STATES = ("(SQLSTATE 42703)", "(SQLSTATE 42804)", "(SQLSTATE 42P10)", "(SQLSTATE 42883)")
"""No such column, another type, no such key, no such operator: a table of that name that is not this store's."""


class PostgresOffsetStore(OffsetStore):
    """The offset store of the scheme ``postgres``: ``postgres://HOST:PORT,HOST:PORT/DATABASE``."""

    options_class = PostgresOptions

    def __init__(self, url: Url, options: PostgresOptions, context: OffsetStoreContext) -> None:
        super().__init__(url, options, context)
        self._ensemble = postgres_ensemble(url, options, context, OFFSET_STORE_ERRORS)

    @property
    def capabilities(self) -> OffsetStoreCapabilities:
        """What PostgreSQL promises."""
        return _CAPABILITIES

    async def load(self, group: str) -> GroupCursors:
        """See ``OffsetStore``."""
        check_cursor_name("group", group)
        what = f"group {group!r}"

        async def exchange(connection: PostgresConnection) -> GroupCursors:
            with self._foreign_told(what):
                rows = await query(connection, sql.LOAD, [group], no_table=[])
            return self._decoded(what, rows)

        return await self._ensemble.call(what, exchange)

    async def commit(self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor]) -> None:
        """See ``OffsetStore``."""
        self.check_commit(group, cursors)
        rows = [
            {"topic": key.topic, "partition": key.partition, "next_offset": cursor.offset, "epoch": cursor.epoch}
            for key, cursor in cursors.items()
        ]
        await self._write(group, stamp, sql.PUT, [json.dumps(rows, ensure_ascii=False)])

    async def delete(self, group: str, stamp: CommitStamp, topic: str | None = None) -> None:
        """See ``OffsetStore``."""
        check_cursor_name("group", group)
        if topic is None:
            await self._write(group, stamp, sql.DELETE_GROUP, [])
            return
        check_cursor_name("topic", topic)
        await self._write(group, stamp, sql.DELETE_TOPIC, [topic])

    async def groups(self) -> Sequence[str]:
        """See ``OffsetStore``."""

        async def exchange(connection: PostgresConnection) -> list[str]:
            with self._foreign_told("groups"):
                rows = await query(connection, sql.GROUPS, no_table=[])
            return [(row[0] or b"").decode("utf-8", "replace") for row in rows]

        return await self._ensemble.call("groups", exchange)

    async def aclose(self) -> None:
        """See ``OffsetStore``."""
        self._ensemble.close()

    async def _write(self, group: str, stamp: CommitStamp, statement: bytes, arguments: Sequence[str]) -> None:
        what = f"group {group!r}"
        values: Arguments = [group, str(stamp.generation), str(stamp.number), str(sql.SCHEMA_VERSION), *arguments]

        async def exchange(connection: PostgresConnection) -> None:
            with self._foreign_told(what):
                if await write(connection, statement, values, sql.CREATE):
                    return
                rows = await query(connection, sql.STAMP, [group])
            if not rows:
                return  # a group that is not there is none to remove
            last = self._stamp(what, only_row(rows, 3))
            if stamp < last:
                raise OffsetStoreFencedError(
                    self._ensemble.error_text(
                        what,
                        f"its last commit is of generation {last.generation} number {last.number}, this one of "
                        f"generation {stamp.generation} number {stamp.number}: another owner has the group; load it",
                    )
                )
            if stamp > last:
                raise ServerFailureError("the group changed twice while it was written")

        await self._ensemble.call(what, exchange, writes=True)

    def _decoded(self, what: str, rows: Rows) -> GroupCursors:
        if not rows:
            return GroupCursors()
        stamp = self._stamp(what, rows[0])
        try:
            return GroupCursors(
                stamp,
                {
                    CursorKey(row[3].decode(), number_of(row[4])): Cursor(number_of(row[5]), number_of(row[6]))
                    for row in rows
                    if row[3] is not None
                },
            )
        except ValueError as error:
            raise self._foreign(what, f"a row is not this store's ({error})") from None

    def _stamp(self, what: str, row: Sequence[bytes | None]) -> CommitStamp:
        generation, number, version = map(number_of, row[:3])
        if version != sql.SCHEMA_VERSION:
            raise self._foreign(what, f"it is of schema version {version}, and this mqcore knows {sql.SCHEMA_VERSION}")
        return CommitStamp(generation, number)

    def _foreign(self, what: str, problem: str) -> OffsetStoreForeignError:
        return OffsetStoreForeignError(
            self._ensemble.error_text(
                what, f"{problem}: use the mqcore that wrote it, or give the store a database of its own"
            )
        )

    @contextlib.contextmanager
    def _foreign_told(self, what: str) -> Iterator[None]:
        try:
            yield
        except ServerRefusalError as error:
            if str(error).endswith(_FOREIGN_STATES):
                raise self._foreign(what, str(error)) from None
            raise
