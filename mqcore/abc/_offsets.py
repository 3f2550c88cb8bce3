"""Contract of an offset store: where each group of consumers goes on, kept outside the broker's own logs.

A part keeps what it is given and decides nothing: whether a cursor fits the log's history, who owns a partition and
what a group is are the broker's. What it has to get right is small: a commit is all or nothing, durable when it
returns, and never applied once a later one was.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import attrs
from attrs import validators

from mqcore.abc._context import OffsetStoreContext
from mqcore.abc._storage import CONTRACT_VERSION
from mqcore.errors import ConfigurationError
from mqcore.url import Url

__all__ = [
    "CURSOR_NAME_BYTES_MAX",
    "CURSOR_NUMBER_MAX",
    "CommitStamp",
    "Cursor",
    "CursorKey",
    "GroupCursors",
    "OffsetStore",
    "OffsetStoreCapabilities",
    "check_cursor_name",
]

CURSOR_NAME_BYTES_MAX = 255
"""Longest name of a group or a topic, in bytes of UTF-8; every store takes names of that length."""

CURSOR_NUMBER_MAX = 2**63 - 1
"""Largest offset, epoch, partition, generation and commit number: what a signed 64-bit column holds."""

_NUMBER = [validators.instance_of(int), validators.ge(0), validators.le(CURSOR_NUMBER_MAX)]


def check_cursor_name(what: str, name: str) -> None:
    """Refuse a name that a store could not keep: ``ConfigurationError`` that says what is allowed.

    ``what`` is ``"group"`` or ``"topic"``. A name has 1 to ``CURSOR_NAME_BYTES_MAX`` bytes of UTF-8 and printable
    characters only; every other character may be in it, and names that differ in case are different.
    """
    if not isinstance(name, str):
        raise ConfigurationError(f"{what} name {name!a:.60}: it is text, not {type(name).__name__}")
    if not name or not name.isprintable():
        raise ConfigurationError(f"{what} name {name[:60]!a}: use 1 or more printable characters")
    size = len(name.encode("utf-8", "replace"))
    if size > CURSOR_NAME_BYTES_MAX:
        raise ConfigurationError(f"{what} name {name[:40]!a}... has {size} bytes; at most {CURSOR_NAME_BYTES_MAX}")


@attrs.frozen(order=True)
class CursorKey:
    """What a group's cursor is about: a partition of a topic.

    ``topic`` is any text that ``check_cursor_name`` takes. A topic that was deleted and made again is another one: a
    caller that can tell them apart says so in the text.
    """

    topic: str
    partition: int = attrs.field(validator=_NUMBER)


@attrs.frozen
class Cursor:
    """Where a group goes on: the ``offset`` of the next message, and the ``epoch`` of the batch before it (G16)."""

    offset: int = attrs.field(validator=_NUMBER)
    epoch: int = attrs.field(validator=_NUMBER)


@attrs.frozen(order=True)
class CommitStamp:
    """The order of a group's commits: by ``generation``, and within one by ``number``.

    A generation has one owner, who gives each commit the next number; (0, 0) is that of a group never written. A store
    applies a commit only if its stamp is higher than the last one that it applied: so neither an owner that was
    replaced nor a write that was on its way when its caller gave up can take a cursor back.
    """

    generation: int = attrs.field(default=0, validator=_NUMBER)
    number: int = attrs.field(default=0, validator=_NUMBER)


@attrs.frozen
class GroupCursors:
    """Everything that a store keeps of one group, as one moment showed it.

    Of a group never written, or deleted, ``stamp`` is the lowest there is and ``cursors`` is empty.
    """

    stamp: CommitStamp = CommitStamp()
    cursors: Mapping[CursorKey, Cursor] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class OffsetStoreCapabilities:
    """What an offset store declares.

    ``commit_cursors_max``: most cursors of one commit (at least 100). ``durable``: what a commit has put outlives a
    power cut of every machine. ``one_host``: it serves the processes of one machine only. ``simulable``: it does all
    its I/O through the ports of its context.
    """

    contract_version: int = CONTRACT_VERSION
    commit_cursors_max: int = 1_000
    durable: bool = True
    one_host: bool = False
    simulable: bool = False


class OffsetStore(ABC):
    """An offset store, picked by the scheme of a URL.

    The constructor does no I/O and refuses what cannot work; files and connections are opened by the first call that
    needs them, and anew after they broke. Several stores, of several processes, may be on the same place. Calls may
    run beside each other, those of one group too. Every call ends within ``context.call_timeout_ms``, whatever the
    disk or the server does, and blocks no other task meanwhile.

    Errors of every call: ``OffsetStoreUnavailableError`` (nothing was done and nothing will be: down, too slow, full),
    ``OffsetStoreForeignError`` (what is there is of another schema, or damaged: an operator has to look). Each names
    the store's URL and the remedy in one line.
    """

    options_class: ClassVar[type[Any]]
    """An attrs class of the options; a URL's query, a TOML table and flags fill it (see ``mqcore.config``)."""

    def __init__(self, url: Url, options: Any, context: OffsetStoreContext) -> None:
        self.url = url
        self.options = options
        self.context = context

    @property
    @abstractmethod
    def capabilities(self) -> OffsetStoreCapabilities:
        """What this store promises; constant for its life."""

    @abstractmethod
    async def load(self, group: str) -> GroupCursors:
        """Return the cursors of ``group`` and the stamp of its last commit, from one moment and durable.

        The moment lies between the call and its return. Raises as the class says. A checkpoint. No effect if cancelled.
        """

    @abstractmethod
    async def commit(self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor]) -> None:
        """Put ``cursors`` beside those that ``group`` has, all or none, if ``stamp`` is higher than its last one.

        Durable, and seen by every later ``load``, when it returns. With the stamp of the last commit it returns and
        does nothing: that commit is done. Without cursors it puts the stamp only, which shuts out every owner of an
        earlier generation. An offset may be lower than before: who resets a group may say so. Raises
        ``OffsetStoreFencedError`` for a lower stamp, ``OffsetStoreOutcomeUnknownError``, and as the class says. A
        checkpoint. If cancelled, it may have been applied or may be later; the next commit settles it. Begins with
        ``check_commit``.
        """

    @abstractmethod
    async def delete(self, group: str, stamp: CommitStamp, topic: str | None = None) -> None:
        """Remove the cursors of ``topic`` from ``group``, under the condition of ``commit`` and with its errors.

        Without a topic, remove the group with everything that it has, its stamp included: a commit of before whose
        outcome is unknown might bring it back, so settle those first. A group or a topic that is not there is none to
        remove, and no error. Durable when it returns. A checkpoint. If cancelled, as ``commit``.
        """

    @abstractmethod
    async def groups(self) -> Sequence[str]:
        """Return the name of every group that has a stamp, sorted by code point.

        Raises as the class says. A checkpoint. No effect if cancelled.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close what is open; a commit under way ends unknown. Idempotent. A later call is unavailable."""

    def check_commit(self, group: str, cursors: Mapping[CursorKey, Cursor]) -> None:
        """Refuse a commit that no server has to be asked about: ``ConfigurationError`` for a name or too many."""
        check_cursor_name("group", group)
        for topic in {key.topic for key in cursors}:
            check_cursor_name("topic", topic)
        if len(cursors) > self.capabilities.commit_cursors_max:
            raise ConfigurationError(
                f"{self.url}: a commit of {len(cursors)} cursors; this store takes "
                f"{self.capabilities.commit_cursors_max}: commit them in parts"
            )
