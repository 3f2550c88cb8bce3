"""What one connection says of consumer groups: who it is, whether it may, and where the answers go.

Must not know what a group is.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from mqcore.broker._codes import code_of
from mqcore.broker._copy import PartitionCopy
from mqcore.broker._gate import Permit
from mqcore.broker._group_room import GroupRoom
from mqcore.broker._outbox import Outbox
from mqcore.broker._partition import Partition
from mqcore.errors import MqcoreError, NotPrimaryError
from mqcore.protocol import Code, Commit, Failed, Message, Sync

__all__ = ["GroupHost", "GroupVisits"]


class GroupHost(Protocol):
    """What is asked of the node."""

    @property
    def groups(self) -> GroupRoom:
        """Those of the present reign. Raises ``NotPrimaryError``."""
        ...

    async def open_partition(self, topic_id: bytes, index: int, *, may_be_copy: bool) -> Partition | PartitionCopy:
        """Open a partition of the present reign."""
        ...

    def topic_name(self, topic_id: bytes) -> str | None:
        """The name of a topic."""
        ...

    def report_defect(self, action: str, error: Exception) -> str:
        """Report what no part should ever raise."""
        ...


class GroupVisits:
    """The members of groups that are on one connection."""

    def __init__(self, node: GroupHost, outbox: Outbox, permit: Permit | None) -> None:
        self._node = node
        self._outbox = outbox
        self._permit = permit
        self._visited: GroupRoom | None = None

    def end(self) -> None:
        """Take note that the connection is over: its members live on for their session."""
        if self._visited is not None:
            self._visited.forget(self._outbox)

    def answer_all(self) -> None:
        """Answer what waits: the connection is about to end."""
        if self._visited is not None:
            self._visited.answer_all(self._outbox)

    def needs_opening(self, message: Sync | Commit) -> bool:
        """Whether logs have to be opened first, which ``open_and_take`` does in a task of its own."""
        try:
            return isinstance(message, Commit) and bool(self._node.groups.unopened(message))
        except NotPrimaryError:
            return False

    async def open_and_take(self, message: Sync | Commit, client: str) -> None:
        """Open the logs that ``message`` is about, then take it in."""
        try:
            self._check(message)  # before anything is opened for it
            for partition in self._node.groups.unopened(message) if isinstance(message, Commit) else ():
                await self._node.open_partition(message.topic_id, partition, may_be_copy=False)
        except MqcoreError as error:
            self._fail(message, error)
        except Exception as error:  # a defect of a part ends the request that met it, loudly, and nothing else
            self._outbox.failed(
                message.request_id, Code.STORAGE_STOPPED, self._node.report_defect("opening a partition", error)
            )
        else:
            self.take(message, client)
        await self._outbox.flush()

    def take(self, message: Sync | Commit, client: str) -> None:
        """Take in what a member says."""
        try:
            self._check(message)
            groups = self._visited = self._node.groups
            if isinstance(message, Sync):
                groups.sync(message, self._outbox, client)
            else:
                groups.commit(message, partial(self._reply, message))
        except MqcoreError as error:
            self._fail(message, error)

    def _check(self, message: Sync | Commit) -> None:
        """Raise ``RejectedError``, naming the rule, unless the peer may read the topic, and be of the group."""
        if self._permit is not None:
            name = self._node.topic_name(message.topic_id)
            if name is not None:  # else there is nothing to protect: the group says that it is not known
                self._permit.check("consume", f"topic:{name}")
                self._permit.check("consume", f"group:{message.group}")

    def _reply(self, message: Commit, answer: Message | MqcoreError) -> None:
        if isinstance(answer, MqcoreError):
            self._fail(message, answer)
        else:
            self._outbox.push(answer)
            self._outbox.replied(now=False)

    def _fail(self, message: Sync | Commit, error: MqcoreError) -> None:
        facts: dict[str, object] = {}
        if isinstance(error, NotPrimaryError):
            facts = {"epoch": error.epoch, "urls": list(error.urls)}
        self._outbox.push(Failed(message.request_id, code_of(error), str(error), facts))
        self._outbox.replied(now=False)
