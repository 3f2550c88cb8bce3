"""One connection to a PostgreSQL server: libpq does the protocol, Trio waits on its socket. Must not know any SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import trio
from psycopg import OperationalError, conninfo, pq
from psycopg.pq import abc
from trio import socket as tsocket

from mqcore.ensembles import EnsembleMember, ServerConnection, ServerFailureError, ServerRefusalError, is_readable

__all__ = ["PostgresConnection", "Rows", "SqlError"]

Rows = list[list[bytes | None]]

_TEXT_MAX = 300
_BINARY = pq.Format.BINARY
_BYTEA, _TEXT = 17, 25
# Through libpq's own options, so that they hold for the log-in too. Kerberos would block while it asks for a ticket.
_PARAMETERS: Mapping[str, str] = {
    "application_name": "mqcore",
    "client_encoding": "UTF8",
    "gssencmode": "disable",
    "keepalives_idle": "2",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": "5000",
    "options": r"-c synchronous_commit=on -c default_transaction_isolation=read\ committed",
}


class SqlError(Exception):
    """An error that the server answered in order: its SQLSTATE and its message. Stays in the part."""

    def __init__(self, state: str, text: str) -> None:
        super().__init__(text)
        self.state = state


class PostgresConnection(ServerConnection):
    """An open connection, logged in."""

    def __init__(self, machine: abc.PGconn) -> None:
        self._machine = machine
        self._warned = ""
        machine.nonblocking = 1
        machine.notice_handler = self._notice

    @classmethod
    async def open(cls, member: EnsembleMember, parameters: Mapping[str, str]) -> PostgresConnection:
        """Connect to ``member`` and log in. Raises ``OSError``, ``ServerFailureError``.

        If cancelled, nothing stays open.
        """
        # libpq would look a name up itself, and block everything meanwhile. It still verifies the certificate's name.
        found = await tsocket.getaddrinfo(member.host, member.port, type=tsocket.SOCK_STREAM)
        problem = f"{member.host} is not known"
        for *_, address in found:
            text = conninfo.make_conninfo(
                "", host=member.host, hostaddr=str(address[0]), port=member.port, **_PARAMETERS, **parameters
            )
            machine = pq.PGconn.connect_start(text.encode())
            try:
                problem = await _log_in(machine)
            except BaseException:
                _finish(machine)
                raise
            if not problem:
                return cls(machine)
            _finish(machine)
        raise ServerFailureError(problem)

    def is_usable(self) -> bool:
        """Whether it can carry another query."""
        return self._machine.status == pq.ConnStatus.OK and not is_readable(self._machine.socket)

    def close(self) -> None:
        """Close it at once. Idempotent."""
        _finish(self._machine)

    async def query(self, statement: bytes, arguments: Sequence[bytes | str | None] = ()) -> Rows:
        """Return the rows of one statement, each value as PostgreSQL's binary format has it.

        ``arguments``: bytes, text or NULL. Raises ``SqlError``, ``ServerFailureError``; ``ServerRefusalError`` for a
        commit that the server warned about.
        """
        machine = self._machine
        self.sent = True  # before the first byte goes: a send that fails half-way may have reached the server
        self._warned = ""
        values = [value.encode() if isinstance(value, str) else value for value in arguments]
        types = [_TEXT if isinstance(value, str) else _BYTEA for value in arguments]
        try:
            machine.send_query_params(statement, values, types, [_BINARY] * len(values), _BINARY)
            while machine.flush():
                await self._wait_writable()
            rows, error = await self._results()
        except OperationalError as failure:
            raise ServerFailureError(_one_line(str(failure))) from None
        if error is not None:
            raise error
        if self._warned:
            raise ServerRefusalError(self._warned, sure=False, elsewhere=True)
        return rows

    async def notifications(self, channel: bytes, notified: Callable[[bytes], None]) -> None:
        """Call ``notified`` with what each notification on ``channel`` says, until the connection breaks."""
        try:
            while True:
                while (notification := self._machine.notifies()) is not None:
                    if notification.relname == channel:
                        notified(notification.extra)
                await trio.lowlevel.wait_readable(self._machine.socket)
                self._machine.consume_input()
        except OperationalError as error:
            raise ServerFailureError(_one_line(str(error))) from None

    async def _results(self) -> tuple[Rows, SqlError | None]:
        machine = self._machine
        rows: Rows = []
        error: SqlError | None = None
        while True:
            while machine.is_busy():
                await trio.lowlevel.wait_readable(machine.socket)
                machine.consume_input()
            result = machine.get_result()
            if result is None:
                return rows, error
            if result.status == pq.ExecStatus.TUPLES_OK:
                columns = range(result.nfields)
                rows = [[result.get_value(row, column) for column in columns] for row in range(result.ntuples)]
            elif result.status != pq.ExecStatus.COMMAND_OK:
                state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode("ascii", "replace")
                message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode("utf-8", "replace")
                if not state:  # libpq's own: the connection broke
                    raise ServerFailureError(_one_line(result.error_message.decode("utf-8", "replace")))
                error = SqlError(state, _one_line(message))

    async def _wait_writable(self) -> None:
        # A server that answers before it has read everything would otherwise wait for us while we wait for it.
        async with trio.open_nursery() as nursery:

            async def readable() -> None:
                await trio.lowlevel.wait_readable(self._machine.socket)
                self._machine.consume_input()
                nursery.cancel_scope.cancel()

            nursery.start_soon(readable)
            await trio.lowlevel.wait_writable(self._machine.socket)
            nursery.cancel_scope.cancel()

    def _notice(self, result: abc.PGresult) -> None:
        """Note a warning: so a commit is answered whose wait for a standby was broken off, and may be lost with it."""
        if result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED) == b"WARNING":
            message = result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b""
            self._warned = _one_line(message.decode("utf-8", "replace"))


async def _log_in(machine: abc.PGconn) -> str:
    """Return why the log-in failed; empty when it did not."""
    while True:
        status = machine.connect_poll()
        if status == pq.PollingStatus.OK:
            return ""
        if status == pq.PollingStatus.FAILED:
            return _one_line(machine.error_message.decode("utf-8", "replace"))
        if status == pq.PollingStatus.READING:
            await trio.lowlevel.wait_readable(machine.socket)
        else:
            await trio.lowlevel.wait_writable(machine.socket)


def _finish(machine: abc.PGconn) -> None:
    if machine.status != pq.ConnStatus.BAD and machine.socket >= 0:
        trio.lowlevel.notify_closing(machine.socket)
    machine.finish()


def _one_line(text: str) -> str:
    words = " ".join(text.split())[:_TEXT_MAX]
    return "".join(character if character.isprintable() else "?" for character in words)
