"""Contract of a coordinator: two cells a name, one conditional write, and a hint when something changed.

A part knows nothing of leases, epochs or time. The lease is a counter that its holder keeps changing and that others
watch, in the core, the same for every part: so no server's timer, clock, restart or session can end a reign early or
answer for it. Neither does a part retry a write: what an unknown outcome means is decided by the caller.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs

from mqcore.abc._context import CoordinatorContext
from mqcore.abc._storage import CONTRACT_VERSION
from mqcore.errors import CommandNotPossibleError, ConfigurationError
from mqcore.url import Url

__all__ = [
    "COORDINATOR_NAME_BYTES_MAX",
    "WRITE_ID_BYTES",
    "CellPair",
    "CellWrite",
    "Coordinator",
    "CoordinatorCapabilities",
    "CoordinatorCell",
    "check_coordinator_name",
]

COORDINATOR_NAME_BYTES_MAX = 200
"""Longest name of a pair of cells; every coordinator takes names of that length."""

WRITE_ID_BYTES = 16
"""Length of the id of a write."""

_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]*(/[a-z0-9_-][a-z0-9._-]*)*\Z")


def check_coordinator_name(name: str) -> None:
    """Refuse a name that a coordinator could not keep: ``ConfigurationError`` that says what is allowed.

    A name is one or more words with ``/`` between them; a word has lower-case letters, digits, ``.``, ``_`` and ``-``
    and does not begin with a dot. At most ``COORDINATOR_NAME_BYTES_MAX`` bytes.
    """
    if not _NAME.match(name):
        raise ConfigurationError(
            f"coordinator name {name!r}: use words of a-z, 0-9, '.', '_' and '-', not beginning with '.', joined by '/'"
        )
    if len(name) > COORDINATOR_NAME_BYTES_MAX:
        raise ConfigurationError(
            f"coordinator name {name[:40]!r}... has {len(name)} bytes; at most {COORDINATOR_NAME_BYTES_MAX}"
        )


@attrs.frozen
class CoordinatorCell:
    """A value and the 16-byte id of the write that put it there.

    Never written: ``value`` None and ``write_id`` empty. ``hint`` is the part's own (a server's version, say): nothing
    else compares it, and an expectation holds by the write id alone, since versions recur after a restore.
    """

    value: bytes | None = None
    write_id: bytes = b""
    hint: object = attrs.field(default=None, eq=False, repr=False)


@attrs.frozen
class CellPair:
    """The two cells of one name, as one read or one write showed them: what the next write expects."""

    record: CoordinatorCell = CoordinatorCell()
    lease: CoordinatorCell = CoordinatorCell()


@attrs.frozen
class CellWrite:
    """What a write puts into a cell: ``value``, and ``write_id``, 16 random bytes, fresh for every try."""

    value: bytes
    write_id: bytes


@attrs.frozen(kw_only=True)
class CoordinatorCapabilities:
    """What a coordinator declares.

    ``value_bytes_max``: largest value of a cell (at least 64 KiB). ``one_host``: it serves the processes of one machine
    only; ``one_process``: those of one program only. ``durable``: what a write has put outlives a power cut of every
    machine. ``simulable``: it does all its I/O through the ports of its context.
    """

    contract_version: int = CONTRACT_VERSION
    value_bytes_max: int = 64 * 1024
    one_host: bool = False
    one_process: bool = False
    durable: bool = True
    simulable: bool = False


class Coordinator(ABC):
    """A coordinator part, picked by the scheme of a URL.

    The constructor does no I/O and refuses what cannot work; connections are made by the first call that needs one, and
    made anew after they broke. Calls may run beside each other. Every call but ``watch`` ends within
    ``context.call_timeout_ms``, whatever the server does, and blocks no other task meanwhile.
    """

    options_class: ClassVar[type[Any]]
    """An attrs class of the options; a URL's query, a TOML table and flags fill it (see ``mqcore.config``)."""

    def __init__(self, url: Url, options: Any, context: CoordinatorContext) -> None:
        self.url = url
        self.options = options
        self.context = context

    @property
    @abstractmethod
    def capabilities(self) -> CoordinatorCapabilities:
        """What this coordinator promises; constant for its life."""

    @abstractmethod
    async def read(self, name: str) -> CellPair:
        """Return both cells of ``name`` from one moment; those of a name never written are empty.

        The moment lies between the call and its return: an answer from a copy that may be behind is not given. Even so
        it does not say what a write that is under way will do. Raises ``CoordinatorUnreachableError``,
        ``CoordinatorWentBackError``. A checkpoint. No effect if cancelled.
        """

    @abstractmethod
    async def write(
        self, name: str, expect: CellPair, *, record: CellWrite | None = None, lease: CellWrite | None = None
    ) -> CellPair:
        """Put ``record``, ``lease`` or both into ``name`` if both of its cells still have the write ids of ``expect``.

        One condition on both cells, whichever are written; durable, and seen by every later read of every client, when
        it returns. Returns the pair as this write left it. Tried once: it may be sent a second time only if it is
        certain that the first was not applied. Raises ``CoordinatorConflictError``, ``CoordinatorUnreachableError``,
        ``CoordinatorOutcomeUnknownError``, ``CoordinatorWentBackError``. A checkpoint. If cancelled, it may have been
        applied or may be later, and an answer that is still on its way is never taken for that of another call.
        Begins with ``check_write``.
        """

    @abstractmethod
    async def watch(self, name: str, changed: Callable[[], None]) -> None:
        """Call ``changed`` when ``name`` may have changed; run until cancelled.

        Called at once, after every reconnection, and soon after each change; it may be called for nothing and may miss
        a change, since the caller polls besides. Raises nothing: what fails is tried again, after 50 ms at first, then
        twice that, to 2 s at most, with jitter. ``changed`` does not block and does not raise.
        """

    @abstractmethod
    async def names(self, prefix: str) -> list[str]:
        """Return the names ever written that begin with ``prefix``, sorted; ``prefix`` is empty or ends with ``/``.

        Raises as ``read``. No effect if cancelled.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close every connection; a write under way ends unknown, a watch ends with its caller. Idempotent."""

    async def operate(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        """Carry out ``operation``, a verb of this part's own, and return what to show for it.

        Raises ``CommandNotPossibleError`` for one that this part does not have. If cancelled, it may have happened.
        """
        raise CommandNotPossibleError(f"coordinator {self.url.scheme} has no operation {operation!r}")

    def check_write(self, name: str, record: CellWrite | None, lease: CellWrite | None) -> None:
        """Refuse a write that no server has to be asked about: ``ConfigurationError`` for a name or a value's size.

        Raises ``ValueError`` for a write of nothing, or under an id that is not 16 bytes.
        """
        check_coordinator_name(name)
        puts = [put for put in (record, lease) if put is not None]
        if not puts or any(len(put.write_id) != WRITE_ID_BYTES for put in puts):
            raise ValueError(f"{self.url} {name}: write a record, a lease or both, each under an id of 16 bytes")
        size, size_max = max(len(put.value) for put in puts), self.capabilities.value_bytes_max
        if size > size_max:
            raise ConfigurationError(f"{self.url} {name}: a value of {size} bytes; this coordinator takes {size_max}")
