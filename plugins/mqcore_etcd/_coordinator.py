"""The etcd coordinator: a cell is a key, its value the write id and what was written; a write is one transaction.

The condition is the value that a key has, with the write id in it, or that it does not exist: a key's versions recur
after a restore. etcd's own leases are not used: they ended early when a leader's disk hung (rule R11).
"""

from __future__ import annotations

from collections.abc import Callable

from mqcore.abc import (
    CellPair,
    CellWrite,
    Coordinator,
    CoordinatorCapabilities,
    CoordinatorCell,
    CoordinatorContext,
    Url,
    check_coordinator_name,
)
from mqcore.ensembles import (
    Ensemble,
    EnsembleMember,
    Revision,
    ServerFailureError,
    cell_after,
    client_tls,
    parse_ensemble,
    read_secret,
)
from mqcore.errors import ConfigurationError, CoordinatorWentBackError
from mqcore_etcd._answers import TxnAnswer, json_object, keys_of, token_of, txn_answer, watch_event
from mqcore_etcd._config import EtcdOptions
from mqcore_etcd._http import HttpConnection
from mqcore_etcd._requests import (
    Part,
    authenticate_body,
    compare_absent,
    compare_id,
    end_of_prefix,
    get_key,
    keys_body,
    put_value,
    stored_value,
    txn_body,
    watch_body,
)

__all__ = ["EtcdCoordinator"]

_PORT, _PREFIX = 2379, "mqcore"
_RECORD, _LEASE = b":record", b":lease"  # no name has a colon, so that no key stands for two things
_KEYS_PER_REQUEST = 1_000
_CAPABILITIES = CoordinatorCapabilities()


class EtcdCoordinator(Coordinator):
    """The coordinator part of the scheme ``etcd``: ``etcd://HOST:PORT,HOST:PORT,HOST:PORT/PREFIX``."""

    options_class = EtcdOptions

    def __init__(self, url: Url, options: EtcdOptions, context: CoordinatorContext) -> None:
        super().__init__(url, options, context)
        members, prefix = parse_ensemble(url, _PORT, _PREFIX)
        if bool(options.user) != bool(options.password_file):
            raise ConfigurationError(f"{url}: user and password_file go together; give both or neither")
        self._user, self._password = options.user or "", read_secret("password_file", options.password_file)
        self._tls = client_tls(options.ca_file, options.certificate_file, options.key_file) if options.tls else None
        self._prefix = prefix.encode() + b"/"
        self._ensemble = Ensemble(url, members, context, self._open)
        self._revision = Revision(url)
        self._cluster = ""

    @property
    def capabilities(self) -> CoordinatorCapabilities:
        """What etcd promises."""
        return _CAPABILITIES

    async def read(self, name: str) -> CellPair:
        """Return both cells, as ``Coordinator.read`` says: one transaction, answered by a majority."""
        what = f"read of {name!r}"
        body = txn_body([], [get_key(key) for key in self._keys(name)])

        async def exchange(connection: HttpConnection) -> CellPair:
            answer = await self._txn(connection, what, body)
            if len(answer.cells) != 2:
                raise ServerFailureError(f"asked for two keys, answered with {len(answer.cells)}")
            return CellPair(*answer.cells)

        return await self._ensemble.call(what, exchange)

    async def write(
        self, name: str, expect: CellPair, *, record: CellWrite | None = None, lease: CellWrite | None = None
    ) -> CellPair:
        """Put the cells, as ``Coordinator.write`` says."""
        self.check_write(name, record, lease)
        what = f"write of {name!r}"
        record_key, lease_key = self._keys(name)
        conditions = [*_unchanged(record_key, expect.record), *_unchanged(lease_key, expect.lease)]
        operations = [
            put_value(key, stored_value(write.write_id, write.value))
            for key, write in ((record_key, record), (lease_key, lease))
            if write is not None
        ]
        body = txn_body(conditions, operations)

        async def exchange(connection: HttpConnection) -> CellPair:
            answer = await self._txn(connection, what, body)
            if not answer.succeeded:
                raise self._ensemble.conflict(what)
            return CellPair(cell_after(expect.record, record), cell_after(expect.lease, lease))

        return await self._ensemble.call(what, exchange, writes=True)

    async def watch(self, name: str, changed: Callable[[], None]) -> None:
        """Call ``changed``, as ``Coordinator.watch`` says: etcd's own watch, without a revision to start from."""
        record_key, _ = self._keys(name)
        first = record_key.removesuffix(_RECORD) + b":"
        body = watch_body(first, end_of_prefix(first))

        def take(line: bytes) -> None:
            if line.strip() and watch_event(line):
                changed()

        async def follow(connection: HttpConnection) -> None:
            await connection.follow("/v3/watch", body, take)

        await self._ensemble.watch(follow, changed)

    async def names(self, prefix: str) -> list[str]:
        """Return the names, as ``Coordinator.names`` says; many of them take several requests."""
        first = self._prefix + prefix.encode()
        end = end_of_prefix(first)

        async def exchange(connection: HttpConnection) -> list[str]:
            found: set[str] = set()
            start = first
            while True:
                keys = keys_of(
                    json_object(await connection.ask("/v3/kv/range", keys_body(start, end, _KEYS_PER_REQUEST)))
                )
                found.update(name for key in keys if (name := self._name(key)))
                if len(keys) < _KEYS_PER_REQUEST or keys[-1] < start:
                    return sorted(found)
                start = keys[-1] + b"\0"

        return await self._ensemble.call(f"names below {prefix!r}", exchange)

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        self._ensemble.close()

    async def _open(self, member: EnsembleMember) -> HttpConnection:
        connection = await HttpConnection.open(member, self._tls)
        try:
            if self._user:
                body = authenticate_body(self._user, self._password)
                connection.token = token_of(json_object(await connection.ask("/v3/auth/authenticate", body)))
        except BaseException:
            connection.close()
            raise
        return connection

    async def _txn(self, connection: HttpConnection, what: str, body: bytes) -> TxnAnswer:
        highest = self._revision.highest
        answer = txn_answer(json_object(await connection.ask("/v3/kv/txn", body)))
        # A member restored from a snapshot counts as another cluster, however far its revision has come since.
        self._cluster = self._cluster or answer.cluster
        if answer.cluster != self._cluster:
            raise CoordinatorWentBackError(
                f"{self.url.scheme}://{self.url.rest}: {what}: the servers are another cluster than before "
                f"({answer.cluster}, was {self._cluster}): a snapshot was restored, or they began anew; "
                "restart the nodes of the set, then run mqcore cluster recover NODE"
            )
        self._revision.check(what, answer.revision, highest)
        return answer

    def _keys(self, name: str) -> tuple[bytes, bytes]:
        check_coordinator_name(name)
        key = self._prefix + name.encode()
        return key + _RECORD, key + _LEASE

    def _name(self, key: bytes) -> str:
        """Return the name that ``key`` belongs to; empty for a key that is not ours."""
        for suffix in (_RECORD, _LEASE):
            if key.endswith(suffix):
                return key.removeprefix(self._prefix).removesuffix(suffix).decode("utf-8", "replace")
        return ""


def _unchanged(key: bytes, cell: CoordinatorCell) -> list[Part]:
    return compare_id(key, cell.write_id) if cell.write_id else [compare_absent(key)]
