"""The ZooKeeper coordinator: a write is one ``multi``, conditional on the nodes that are called as the write ids.

Neither ephemeral nodes nor sessions are used: a client that was cut off with its follower still read that a node was
its own five seconds after the others had dropped it (rule R11).
"""

from __future__ import annotations

from collections.abc import Callable

from kazoo.protocol import serialization as wire

from mqcore.abc import (
    CellPair,
    CellWrite,
    Coordinator,
    CoordinatorCapabilities,
    CoordinatorContext,
    Url,
    check_coordinator_name,
)
from mqcore.ensembles import Ensemble, Revision, cell_after
from mqcore_zookeeper._config import ZookeeperOptions
from mqcore_zookeeper._login import session_opener
from mqcore_zookeeper._nodes import (
    LEASE,
    NO_NODE,
    NODE_EXISTS,
    RECORD,
    MultiAnswer,
    NodeTree,
    Operation,
    multi_answer,
    refusal,
    stored_cell,
)
from mqcore_zookeeper._session import ZookeeperSession, decode

__all__ = ["ZookeeperCoordinator"]

_CAPABILITIES = CoordinatorCapabilities()


class ZookeeperCoordinator(Coordinator):
    """The coordinator part of the scheme ``zookeeper``: ``zookeeper://HOST:PORT,HOST:PORT,HOST:PORT/PREFIX``."""

    options_class = ZookeeperOptions

    def __init__(self, url: Url, options: ZookeeperOptions, context: CoordinatorContext) -> None:
        super().__init__(url, options, context)
        members, prefix, open_session = session_opener(url, options)
        self._tree = NodeTree(prefix, has_user=bool(options.user))
        self._ensemble: Ensemble[ZookeeperSession] = Ensemble(url, members, context, open_session)
        self._revisions: dict[str, Revision] = {}

    @property
    def capabilities(self) -> CoordinatorCapabilities:
        """What ZooKeeper promises."""
        return _CAPABILITIES

    async def read(self, name: str) -> CellPair:
        """Return both cells, as ``Coordinator.read`` says: after a write that a majority agrees to, from one server."""
        check_coordinator_name(name)
        what = f"read of {name!r}"
        record_request, lease_request = (wire.GetData(path, False) for path in self._paths(name))
        requests = (record_request, lease_request, record_request)
        revisions = [self._revision(request.path) for request in requests[:2]]

        async def exchange(session: ZookeeperSession) -> CellPair:
            highest = [revision.highest for revision in revisions]
            while True:
                barrier, *replies = await session.ask(self._tree.barrier(), *requests)
                if barrier.error != NO_NODE:
                    raise refusal(barrier.error)
                record, lease, again = map(stored_cell, requests, replies)
                # Two nodes are not read at one moment; but the lease was read between two at which the record was one.
                if record.changed_at == again.changed_at:
                    for revision, cell, before in zip(revisions, (record, lease), highest, strict=True):
                        revision.check(what, cell.changes, before)
                    return CellPair(record.cell, lease.cell)

        return await self._ensemble.call(what, exchange)

    async def write(
        self, name: str, expect: CellPair, *, record: CellWrite | None = None, lease: CellWrite | None = None
    ) -> CellPair:
        """Put the cells, as ``Coordinator.write`` says."""
        self.check_write(name, record, lease)
        what = f"write of {name!r}"
        operations = self._tree.write(name, expect, record, lease)

        async def exchange(session: ZookeeperSession) -> CellPair:
            highest = {path: self._revision(path).highest for path in self._paths(name)}
            answer = await self._multi(session, operations)
            # The first operation of a name that was never written creates its node: then what is missing is the root.
            if answer.failed == (0, NO_NODE) and isinstance(operations[0], wire.Create):
                await self._make_root(session)
                answer = await self._multi(session, operations)
            if answer.failed is not None and answer.failed[1] not in (NO_NODE, NODE_EXISTS):
                raise refusal(answer.failed[1])
            if answer.failed is not None:
                raise self._ensemble.conflict(what)
            for path, before in highest.items():
                if path in answer.changes:
                    self._revision(path).check(what, answer.changes[path], before)
            return CellPair(cell_after(expect.record, record), cell_after(expect.lease, lease))

        return await self._ensemble.call(what, exchange, writes=True)

    async def watch(self, name: str, changed: Callable[[], None]) -> None:
        """Call ``changed``, as ``Coordinator.watch`` says: a server's watch fires once, and is set anew before that."""
        check_coordinator_name(name)
        requests = [wire.Exists(path, True) for path in self._paths(name)]

        async def follow(session: ZookeeperSession) -> None:
            while True:
                for reply in await session.ask(*requests):
                    if reply.error not in (0, NO_NODE):
                        raise refusal(reply.error)
                changed()
                await session.next_event()

        await self._ensemble.watch(follow, changed)

    async def names(self, prefix: str) -> list[str]:
        """Return the names, as ``Coordinator.names`` says."""
        request = wire.GetChildren(self._tree.root, False)

        async def exchange(session: ZookeeperSession) -> list[str]:
            barrier, reply = await session.ask(self._tree.barrier(), request)
            if barrier.error != NO_NODE or reply.error not in (0, NO_NODE):
                raise refusal(barrier.error if barrier.error != NO_NODE else reply.error)
            children = decode(request, reply) if reply.error == 0 else []
            return sorted(name for child in children if (name := self._tree.name(child)).startswith(prefix))

        return await self._ensemble.call(f"names below {prefix!r}", exchange)

    async def aclose(self) -> None:
        """Close every connection. Idempotent."""
        self._ensemble.close()

    def _paths(self, name: str) -> tuple[str, str]:
        node = self._tree.node(name)
        return f"{node}/{RECORD}", f"{node}/{LEASE}"

    async def _multi(self, session: ZookeeperSession, operations: list[Operation]) -> MultiAnswer:
        (reply,) = await session.ask(wire.Transaction(operations))
        if reply.error:
            raise refusal(reply.error)
        return multi_answer(operations, reply)

    def _revision(self, path: str) -> Revision:
        """Return how often the cell at ``path`` was written, as far as is known: it is per cell, the tree has none."""
        return self._revisions.setdefault(path, Revision(self.url))

    async def _make_root(self, session: ZookeeperSession) -> None:
        for reply in await session.ask(*self._tree.roots()):
            if reply.error not in (0, NODE_EXISTS):
                raise refusal(reply.error)
