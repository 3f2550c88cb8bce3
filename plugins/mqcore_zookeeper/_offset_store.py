"""The ZooKeeper offset store: what a commit changes is read, and written by one ``multi`` if nothing of it changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kazoo.protocol import serialization as wire

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
from mqcore.ensembles import OFFSET_STORE_ERRORS, Ensemble
from mqcore.errors import OffsetStoreFencedError, OffsetStoreForeignError
from mqcore_zookeeper._config import ZookeeperOptions
from mqcore_zookeeper._login import session_opener
from mqcore_zookeeper._nodes import BAD_VERSION, NO_NODE, NODE_EXISTS, Operation, multi_answer, refusal
from mqcore_zookeeper._offset_nodes import (
    BLOCK_PARTITIONS,
    BlockKey,
    GroupNode,
    NotOurNodeError,
    OffsetTree,
    block_of,
    decode_block,
    encode_block,
)
from mqcore_zookeeper._session import Reply, ZookeeperSession, decode

__all__ = ["ZookeeperOffsetStore"]

# A server takes requests of 1 MiB: 100 nodes of cursors and their paths are three quarters of that at the most.
_CAPABILITIES = OffsetStoreCapabilities(commit_cursors_max=100)
_REMOVED_AT_ONCE_MAX = 500
_READ_AT_ONCE_MAX = 200
_CHANGED = (NO_NODE, NODE_EXISTS, BAD_VERSION)


class ZookeeperOffsetStore(OffsetStore):
    """The offset store of the scheme ``zookeeper``: ``zookeeper://HOST:PORT,HOST:PORT,HOST:PORT/PREFIX``.

    A group with more than 500 nodes of cursors, each of 256 partitions, is removed in steps.
    """

    options_class = ZookeeperOptions

    def __init__(self, url: Url, options: ZookeeperOptions, context: OffsetStoreContext) -> None:
        super().__init__(url, options, context)
        members, prefix, open_session = session_opener(url, options)
        self._tree = OffsetTree(prefix, has_user=bool(options.user))
        self._ensemble: Ensemble[ZookeeperSession] = Ensemble(url, members, context, open_session, OFFSET_STORE_ERRORS)

    @property
    def capabilities(self) -> OffsetStoreCapabilities:
        """What ZooKeeper promises."""
        return _CAPABILITIES

    async def load(self, group: str) -> GroupCursors:
        """See ``OffsetStore``."""
        check_cursor_name("group", group)
        what = f"group {group!r}"

        async def exchange(session: ZookeeperSession) -> GroupCursors:
            await self._barrier(session)
            while True:
                held, children = await self._read_group(session, what, group)
                if held is None:
                    return GroupCursors()
                keys = [key for child in children if (key := self._tree.block_key(child)) is not None]
                blocks = await self._read_blocks(session, what, group, keys)
                # Several nodes are not read at one moment; but every write changes the group's node as well.
                if await self._read_group(session, what, group) == (held, children):
                    break
            cursors = {
                CursorKey(topic, partition): cursor
                for (topic, _), block in blocks.items()
                for partition, cursor in block.items()
            }
            return GroupCursors(held.stamp, cursors)

        return await self._ensemble.call(what, exchange)

    async def commit(self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor]) -> None:
        """See ``OffsetStore``."""
        self.check_commit(group, cursors)
        what = f"group {group!r}"
        changes: dict[BlockKey, dict[int, Cursor]] = {}
        for key, cursor in cursors.items():
            changes.setdefault(block_of(key), {})[key.partition] = cursor

        async def exchange(session: ZookeeperSession) -> None:
            while True:
                held, _ = await self._read_group(session, what, group)
                if self._is_done(what, stamp, held):
                    return
                blocks = await self._read_blocks(session, what, group, list(changes)) if held is not None else {}
                operations = self._tree.fence(group, held, self._next(stamp, held))
                for key, change in changes.items():
                    data = encode_block({**blocks.get(key, {}), **change})
                    operations.append(self._tree.put_block(group, key, data, exists=key in blocks))
                if await self._write(session, operations):
                    return

        await self._ensemble.call(what, exchange, writes=True)

    async def delete(self, group: str, stamp: CommitStamp, topic: str | None = None) -> None:
        """See ``OffsetStore``."""
        check_cursor_name("group", group)
        if topic is not None:
            check_cursor_name("topic", topic)
        what = f"group {group!r}"

        async def exchange(session: ZookeeperSession) -> None:
            while True:
                held, children = await self._read_group(session, what, group)
                if (held is None and topic is None) or self._is_done(what, stamp, held):
                    return
                keys = {child: key for child in children if (key := self._tree.block_key(child)) is not None}
                gone = [child for child, key in keys.items() if topic in (None, key[0])]
                part = self._tree.remove(group, gone[:_REMOVED_AT_ONCE_MAX])
                is_last = len(gone) <= _REMOVED_AT_ONCE_MAX
                if held is not None and topic is None and is_last:
                    operations = [*part, *self._tree.remove_group(group, held)]
                else:
                    # The stamp of a step that others follow is the old one: the whole may be asked for again.
                    put = self._next(stamp if is_last or held is None else held.stamp, held)
                    operations = [*self._tree.fence(group, held, put), *part]
                if await self._write(session, operations) and is_last:
                    return

        await self._ensemble.call(what, exchange, writes=True)

    async def groups(self) -> Sequence[str]:
        """See ``OffsetStore``."""
        request = wire.GetChildren(self._tree.root, False)

        async def exchange(session: ZookeeperSession) -> list[str]:
            await self._barrier(session)
            (reply,) = await session.ask(request)
            if reply.error not in (0, NO_NODE):
                raise refusal(reply.error)
            children = decode(request, reply) if reply.error == 0 else []
            return sorted(filter(None, map(self._tree.name, children)))

        return await self._ensemble.call("groups", exchange)

    async def aclose(self) -> None:
        """See ``OffsetStore``."""
        self._ensemble.close()

    def _next(self, stamp: CommitStamp, held: GroupNode | None) -> GroupNode:
        marker = f"{self.context.ports.random.getrandbits(64):016x}" if held is None else held.marker
        return GroupNode(stamp, marker)

    def _is_done(self, what: str, stamp: CommitStamp, held: GroupNode | None) -> bool:
        """Whether the commit of ``stamp`` was applied. Raises ``OffsetStoreFencedError``."""
        last = CommitStamp() if held is None else held.stamp
        if stamp < last:
            raise OffsetStoreFencedError(
                self._ensemble.error_text(
                    what,
                    f"its last commit is of generation {last.generation} number {last.number}, this one of generation "
                    f"{stamp.generation} number {stamp.number}: another owner has the group; load it",
                )
            )
        return stamp == last

    async def _barrier(self, session: ZookeeperSession) -> None:
        (reply,) = await session.ask(self._tree.barrier())
        if reply.error != NO_NODE:
            raise refusal(reply.error)

    async def _read_group(self, session: ZookeeperSession, what: str, group: str) -> tuple[GroupNode | None, list[str]]:
        """Return the group's node and the names of what is below it."""
        path = self._tree.group(group)
        requests = wire.GetData(path, False), wire.GetChildren(path, False)
        node, children = await session.ask(*requests)
        found = self._data(requests[0], node)
        if found is None or children.error == NO_NODE:
            return None, []
        if children.error:
            raise refusal(children.error)
        data, version = found
        try:
            return GroupNode.decode(data, version), sorted(decode(requests[1], children))
        except NotOurNodeError as error:
            raise self._foreign(what, error) from None

    async def _read_blocks(
        self, session: ZookeeperSession, what: str, group: str, keys: Sequence[BlockKey]
    ) -> dict[BlockKey, dict[int, Cursor]]:
        """Return what those of ``keys`` hold that there are."""
        blocks: dict[BlockKey, dict[int, Cursor]] = {}
        for first in range(0, len(keys), _READ_AT_ONCE_MAX):
            asked = keys[first : first + _READ_AT_ONCE_MAX]
            requests = [wire.GetData(self._tree.block(group, key), False) for key in asked]
            for key, request, reply in zip(asked, requests, await session.ask(*requests), strict=True):
                found = self._data(request, reply)
                if found is not None:
                    blocks[key] = self._block(what, key, found[0])
        return blocks

    def _block(self, what: str, key: BlockKey, data: bytes) -> dict[int, Cursor]:
        try:
            block = decode_block(data)
            if any(partition // BLOCK_PARTITIONS != key[1] for partition in block):
                raise NotOurNodeError("a node with the cursors of other partitions")
        except NotOurNodeError as error:
            raise self._foreign(what, error) from None
        return block

    @staticmethod
    def _data(request: Any, reply: Reply) -> tuple[bytes, int] | None:
        if reply.error == NO_NODE:
            return None
        if reply.error:
            raise refusal(reply.error)
        data, stat = decode(request, reply)
        return bytes(data or b""), stat.version

    async def _write(self, session: ZookeeperSession, operations: list[Operation]) -> bool:
        """Do all of ``operations`` or none; False when something changed since it was read."""
        for is_last in (False, True):
            (reply,) = await session.ask(wire.Transaction(operations))
            if reply.error:
                raise refusal(reply.error)
            answer = multi_answer(operations, reply)
            if answer.failed is None:
                return True
            number, error = answer.failed
            if error not in _CHANGED:
                raise refusal(error)
            # The first operation of a group that was never written creates its node: what is missing is the root then.
            if is_last or number or error != NO_NODE or not isinstance(operations[0], wire.Create):
                return False
            for each in await session.ask(*self._tree.roots()):
                if each.error not in (0, NODE_EXISTS):
                    raise refusal(each.error)
        return False

    def _foreign(self, what: str, problem: Exception) -> OffsetStoreForeignError:
        return OffsetStoreForeignError(
            self._ensemble.error_text(
                what, f"{problem}: use the mqcore that wrote it, or give the store a prefix of its own"
            )
        )
