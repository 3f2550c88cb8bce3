"""Contract of a storage backend: named logs of bytes, made durable many at once.

Small on purpose. Batches, checksums, indexes, epochs, recovery scans and retention are built on this once, in
``mqcore.log``, for every backend. ``docs/storage-backend.md`` shows a complete backend in about a hundred lines.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import attrs
import trio

from mqcore.abc._context import StorageContext
from mqcore.errors import CommandNotPossibleError, StorageError
from mqcore.guarantees import Level, OnDegraded
from mqcore.ports import Buffer
from mqcore.url import Url

__all__ = [
    "CONTRACT_VERSION",
    "END_MARK_BYTES",
    "Capabilities",
    "FlushedLog",
    "Log",
    "StorageBackend",
    "StoredAt",
    "check_log_name",
]

CONTRACT_VERSION = 2
"""Version of the contracts in this package; a part that declares another one is refused by name at composition."""


END_MARK_BYTES = 16
"""Zero bytes that stand behind the last append where bytes of another time may follow; see ``Log.may_be_stale``."""


@attrs.frozen(kw_only=True)
class Capabilities:
    """What a storage backend declares. The conformance suite probes it; composition refuses what cannot be.

    ``append_level`` and ``flush_level``: level that a completed ``append``/``flush`` reaches on this node.
    ``member_losses_survived``: dead member devices that lose nothing. ``simulable``: all I/O goes through the ports.
    ``append_bytes_max``: largest single append. ``log_name_bytes_max``: longest log name (at least 64).
    ``proves_durable_end``: ``Log.durable_end`` after an unclean stop is what flushed bytes prove, at most one flush
    behind (else it is ``start``, and damage below it cannot be told from a torn tail). ``on_degraded``: what its URL
    says that becomes of sends while a member is missing; None: it says nothing, and the build's promises decide.
    """

    contract_version: int = CONTRACT_VERSION
    append_level: Level
    flush_level: Level
    member_losses_survived: int = 0
    simulable: bool = False
    proves_durable_end: bool = False
    append_bytes_max: int = 64 * 1024 * 1024
    log_name_bytes_max: int = 128
    logs_max: int | None = None
    on_degraded: OnDegraded | None = None


@attrs.frozen(kw_only=True)
class StoredAt:
    """One directory of the machine that a storage keeps bytes in, so that what lies below it can be looked at.

    ``mirror_group``: directories of one number hold the same bytes, on different disks; None: this one stands alone.
    ``segment_bytes``: size of its files, where it is fixed.
    """

    directory: str
    mirror_group: int | None = None
    segment_bytes: int | None = None


_LOG_NAME = re.compile(r"[a-z0-9_-][a-z0-9._-]*\Z")


def check_log_name(name: str, bytes_max: int) -> None:
    """Refuse a name that a backend could not store: ``StorageError`` (kind ``limit``) that says what is allowed.

    Names are lower-case letters, digits, ``.``, ``_`` and ``-``, do not begin with a dot, and have at most
    ``bytes_max`` bytes.
    """
    if not _LOG_NAME.match(name):
        raise StorageError(f"log name {name!r}: use a-z, 0-9, '.', '_' and '-', not beginning with '.'", kind="limit")
    if len(name) > bytes_max:
        raise StorageError(f"log name {name[:40]!r}... has {len(name)} bytes; at most {bytes_max}", kind="limit")


class FlushedLog(NamedTuple):
    """What a flush reached of one log: everything below ``end`` is at ``level`` now."""

    end: int
    level: Level


class Log(ABC):
    """Bytes at positions, appended at the end. Positions count from 0 for the life of the log and never go back.

    One task uses a log for ``append``, ``truncate`` and ``trim`` at a time; ``read`` may run beside them.
    """

    name: str

    @property
    @abstractmethod
    def start(self) -> int:
        """Position of the first byte kept; never goes back."""

    @property
    @abstractmethod
    def end(self) -> int:
        """Position after the last byte.

        After an unclean stop it is an upper bound: what was never appended there reads as zeros or as bytes of
        another time, and the caller finds the true end and truncates.
        """

    @property
    @abstractmethod
    def durable_end(self) -> int:
        """Position below which everything is at the backend's flush level; see ``Capabilities.proves_durable_end``."""

    @property
    @abstractmethod
    def level(self) -> Level:
        """Level that a completed flush gives this log now: the flush level declared, less while a member is missing.

        The capabilities are what the backend can reach; this is what it does reach, and what a receipt states.
        """

    @property
    def may_be_stale(self) -> bool:
        """Whether what was never appended above ``durable_end`` may read as bytes of another time, not only as zeros.

        A backend that uses storage again without clearing it says so, and leaves ``END_MARK_BYTES`` zeros behind the
        last byte of every append: so recovery can tell what was never begun from what was torn.
        """
        return False

    @abstractmethod
    async def append(self, chunks: Sequence[Buffer]) -> int:
        """Append ``chunks`` one after the other and return the position of the first byte.

        The bytes are contiguous and readable when it returns, and the caller may reuse the buffers. The position is
        taken before the first checkpoint. Raises ``StorageError``; with ``appended`` False not a byte was written and
        ``end`` is unchanged (no space: kind ``full``; no descriptor: kind ``too-many-files``; both retryable).
        It observes cancellation and may return without letting other tasks run. If cancelled, it may have appended.
        """

    @abstractmethod
    async def read(self, position: int, size: int) -> memoryview:
        """Return up to ``size`` bytes at ``position``; at least one byte unless ``position`` is ``end``.

        Fewer where a segment ends. The view stays valid as long as it is held. Raises ``StorageError`` (kind ``io``)
        with the position when the device fails, ``ValueError`` below ``start`` or beyond ``end``. No effect if
        cancelled.
        """

    async def mend(self, position: int, size_max: int, whole: Callable[[memoryview], int]) -> int:
        """Put right what is wrong at ``position`` on one copy and not on another; return how many bytes, 0 for none.

        The caller has read something there that cannot be what was appended. ``whole(view)`` is asked of the bytes of
        each copy: it returns how many of them, from the first on, are one whole thing, 0 for none, or how many it has
        to see, at most ``size_max``. Raises ``StorageError``. If cancelled, it may be mended. A storage with one copy
        has nothing to mend with.
        """
        return 0

    async def overwrite(self, position: int, data: Buffer) -> None:
        """Write ``data`` over what stands at ``position``, below ``durable_end``, durably: to mend what rotted.

        Optional: a backend without it raises ``CommandNotPossibleError``. Raises ``StorageError``; then, and if
        cancelled, any part of the range may be written.
        """
        raise CommandNotPossibleError(f"log {self.name}: this storage writes nothing in place")

    @abstractmethod
    async def truncate(self, position: int) -> None:
        """Cut everything from ``position`` on, durably: after a crash the cut bytes read as zeros or not at all.

        If cancelled or failed, the end is unknown until the log is opened again.
        """

    @abstractmethod
    async def trim(self, position: int) -> int:
        """Give up whole segments below ``position``, durably; return the new ``start`` (at most ``position``)."""

    @abstractmethod
    async def aclose(self) -> None:
        """Flush what is not flushed, record a clean end, release resources. Idempotent."""


class StorageBackend(ABC):
    """A storage part, picked by the scheme of a URL.

    The constructor does no I/O: it is called when the broker is composed and refuses what cannot work.
    """

    options_class: ClassVar[type[Any]]
    """An attrs class of the options; a URL's query, a TOML table and flags fill it (see ``mqcore.config``)."""

    def __init__(self, url: Url, options: Any, context: StorageContext) -> None:
        self.url = url
        self.options = options
        self.context = context

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What this backend promises; constant for its life."""

    @abstractmethod
    async def open(self) -> None:
        """Take the storage: lock it, check its layout, replay what has to be replayed.

        Raises ``StorageError`` (``busy`` when another broker has it, ``foreign`` when it is something else,
        ``permission``) or ``CorruptionError``; never starts empty on what it cannot read.
        """

    async def open_readonly(self) -> bool:
        """Open for reading beside the broker that has the storage; return False, with nothing open, when none has it.

        Nothing is made, locked, replayed, repaired or changed. After True ``list_logs``, ``open_log``, ``Log.read`` and
        ``aclose`` work, everything else raises; below ``durable_end`` a log stands still, above it belongs to the
        broker. Raises as ``open``; kind ``missing`` when there is no storage. Optional: a backend without it raises
        ``CommandNotPossibleError``.
        """
        raise CommandNotPossibleError(f"storage {self.url} cannot be read beside its broker: stop the broker first")

    @abstractmethod
    async def aclose(self) -> None:
        """Close every log (flushing each), record a clean stop, release the lock. Idempotent."""

    @property
    def may_lack_reported(self) -> bool:
        """Whether, once open, something may be missing that was there before, however clean the last stop was.

        A storage of several members says so when it opens without one that may know more than the others. The broker
        then takes a new incarnation (R2). Constant from one ``open`` to the next.
        """
        return False

    @abstractmethod
    async def list_logs(self) -> list[str]:
        """Names of the logs that exist, sorted."""

    @abstractmethod
    async def open_log(self, name: str) -> Log:
        """Open the log called ``name``, made empty when there is none (an empty log may cost no storage).

        The same name gives the same object while it is open. What an earlier process left unflushed is flushed,
        dropped from the page cache and read back from the device before this returns.
        """

    async def begin_log(self, name: str, start: int) -> Log:
        """Make the log called ``name``, which does not exist, to begin at position ``start`` of its life; open it.

        For a copy of a log of which the beginning was trimmed. It costs no storage before its first append, and may be
        gone after a stop without one. Optional: a backend without it raises ``CommandNotPossibleError`` unless
        ``start`` is 0. Raises as ``open_log``.
        """
        if start:
            raise CommandNotPossibleError(f"storage {self.url.scheme} makes no log that begins at {start}")
        return await self.open_log(name)

    @abstractmethod
    async def delete_log(self, name: str) -> None:
        """Delete a log and its bytes, durably; open handles become closed. No error when there is none."""

    @abstractmethod
    async def flush(self, logs: Sequence[Log]) -> list[FlushedLog]:
        """Make everything appended to ``logs`` before this call durable; return what was reached of each, in order.

        One call at a time. Appends go on meanwhile. Raises ``FlushFailedError`` naming every log that the flush
        covered: each of them refuses appends from then on, and its unflushed bytes are not served (clause G11). So too
        when a log among ``logs``, dirty or not, is not where it was any more: its file was removed, say. Raises
        ``StorageError`` of kind ``too-many-files``, retryable, when it could not begin: then nothing has changed.
        If cancelled, the flush goes on and its outcome is seen in ``durable_end``.
        """

    async def check_in_place(self, logs: Sequence[Log] = ()) -> None:
        """Raise ``StorageError`` when the storage, or a file of ``logs``, is not where it was; changes nothing.

        What a flush looks at, for a storage that has nothing to flush. Optional: without it only flushes notice. No
        effect if cancelled.
        """
        await trio.lowlevel.checkpoint()

    async def operate(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        """Carry out ``operation``, a verb of this part's own (``rebuild``, say), and return what to show for it.

        The core knows no operation: it passes on what an administrator asks of a running broker. Raises
        ``CommandNotPossibleError`` for one that this part does not have. If cancelled, it may have happened.
        """
        raise CommandNotPossibleError(f"storage {self.url.scheme} has no operation {operation!r}")

    @property
    def directories(self) -> Sequence[StoredAt]:
        """Directories that it keeps bytes in, as its URL says; empty where it keeps them elsewhere. Opens nothing."""
        return ()

    def facts(self) -> dict[str, object]:
        """Facts to print at start and in ``describe``, such as ``open_files_max``.

        ``mount``, once open: text that names where the bytes are (device and inode, say), at most 64 bytes, another one
        after they were moved or copied. Without it every stop that was not clean counts as a power cut (R2 c).
        """
        return {}
