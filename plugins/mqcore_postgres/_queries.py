"""What the parts on PostgreSQL have in common: whom to ask, how to log in, and tables that the first write creates."""

from __future__ import annotations

from collections.abc import Sequence

from mqcore.abc import CoordinatorContext, OffsetStoreContext, Url
from mqcore.ensembles import (
    Ensemble,
    EnsembleErrors,
    EnsembleMember,
    ServerFailureError,
    ServerRefusalError,
    parse_ensemble,
    read_secret,
)
from mqcore.errors import ConfigurationError
from mqcore_postgres._config import PostgresOptions
from mqcore_postgres._connection import PostgresConnection, Rows, SqlError
from mqcore_postgres._statements import IS_STANDBY, NO_TABLE, refusal

__all__ = ["Arguments", "number_of", "only_row", "postgres_ensemble", "query", "write"]

_PORT, _DATABASE = 5432, "mqcore"

Arguments = Sequence[bytes | str | None]


def postgres_ensemble(
    url: Url, options: PostgresOptions, context: CoordinatorContext | OffsetStoreContext, errors: EnsembleErrors
) -> Ensemble[PostgresConnection]:
    """Return the servers of ``url``, connected to as ``options`` say. Raises ``ConfigurationError``."""
    members, database = parse_ensemble(url, _PORT, _DATABASE)
    if options.tls == "disable" and options.ca_file:
        raise ConfigurationError(f"{url}: ca_file has no use with tls = disable; leave one of them out")
    parameters = {"dbname": database, "user": options.user, "sslmode": options.tls}
    if options.tls != "disable":
        parameters["sslrootcert"] = options.ca_file or "system"
    if options.password_file:
        parameters["password"] = read_secret("password_file", options.password_file)

    async def open_connection(member: EnsembleMember) -> PostgresConnection:
        connection = await PostgresConnection.open(member, parameters)
        try:
            if only_row(await query(connection, IS_STANDBY), 1) != [b"\0"]:
                raise ServerRefusalError("it is a standby, which may be behind", sure=True, elsewhere=True)
        except BaseException:
            connection.close()
            raise
        return connection

    return Ensemble(url, members, context, open_connection, errors)


async def query(
    connection: PostgresConnection, statement: bytes, arguments: Arguments = (), *, no_table: Rows | None = None
) -> Rows:
    """Return the rows, or ``no_table`` where nothing was ever written. Raises ``ServerRefusalError``."""
    try:
        return await connection.query(statement, arguments)
    except SqlError as error:
        if error.state == NO_TABLE and no_table is not None:
            return no_table
        raise refusal(error.state, str(error)) from None


async def write(
    connection: PostgresConnection, statement: bytes, arguments: Arguments, creates: Sequence[bytes]
) -> Rows:
    """Write, and create the tables if there are none: then what was sent first certainly did nothing."""
    missing: Rows = [[None]]
    rows = await query(connection, statement, arguments, no_table=missing)
    if rows is not missing:
        return rows
    for create in creates:
        try:
            await connection.query(create)
        except SqlError as error:
            # Of two that create it at a time one meets the other's: then it is there, or the next error says why not.
            if error.state[:2] not in ("23", "42"):
                raise refusal(error.state, str(error)) from None
    return await query(connection, statement, arguments)


def only_row(rows: Rows, columns: int) -> list[bytes | None]:
    """Return the row of an answer that has one. Raises ``ServerFailureError``."""
    if len(rows) != 1 or len(rows[0]) != columns:
        raise ServerFailureError(f"expected one row of {columns} columns, got {len(rows)} rows")
    return rows[0]


def number_of(value: bytes | None) -> int:
    """Return a value of 64 bits. Raises ``ServerFailureError``."""
    if value is None or len(value) != 8:
        raise ServerFailureError("a revision is not a number of 64 bits; is the table another program's?")
    return int.from_bytes(value, "big", signed=True)
