"""The offset store part ``file``: calls of ``CursorFiles`` in a device thread, each with its time limit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

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
from mqcore.blocking import BlockingCalls, CallLate
from mqcore.errors import (
    ConfigurationError,
    CorruptionError,
    OffsetStoreFencedError,
    OffsetStoreForeignError,
    OffsetStoreOutcomeUnknownError,
    OffsetStoreUnavailableError,
)
from mqcore_file_offsets._config import FileOffsetStoreOptions
from mqcore_file_offsets._files import CursorFiles

__all__ = ["FileOffsetStore"]

T = TypeVar("T")

_CAPABILITIES = OffsetStoreCapabilities(commit_cursors_max=10_000, one_host=True, simulable=True)
_REMEDY = "make room, or mend the file system or its permissions; nothing was changed"


class FileOffsetStore(OffsetStore):
    """The offset store of the scheme ``file``. The directory is made by the first commit; its parent has to exist.

    On one host's own file systems only: on a network's, locks may fall and two processes may both have one.
    """

    options_class = FileOffsetStoreOptions

    def __init__(self, url: Url, options: FileOffsetStoreOptions, context: OffsetStoreContext) -> None:
        super().__init__(url, options, context)
        directory = url.path.rstrip("/")
        if not directory:
            raise ConfigurationError(f"{url}: needs the path of a directory, as in file:///var/lib/mqcore-offsets")
        self._cursors = CursorFiles(context.ports.files, directory, options.rewrite_bytes_min)
        self._calls = BlockingCalls(
            context.ports,
            "offset-store",
            timeout_ms=context.call_timeout_ms,
            closed=lambda: OffsetStoreUnavailableError(f"{url}: this offset store is closed; compose another one"),
        )

    @property
    def capabilities(self) -> OffsetStoreCapabilities:
        """What files of one host promise."""
        return _CAPABILITIES

    async def load(self, group: str) -> GroupCursors:
        """See ``OffsetStore``."""
        check_cursor_name("group", group)
        return await self._call(f"group {group!r}", lambda: self._cursors.load(group))

    async def commit(self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor]) -> None:
        """See ``OffsetStore``."""
        self.check_commit(group, cursors)
        await self._call(f"group {group!r}", lambda: self._cursors.commit(group, stamp, cursors), writes=True)

    async def delete(self, group: str, stamp: CommitStamp, topic: str | None = None) -> None:
        """See ``OffsetStore``."""
        check_cursor_name("group", group)
        if topic is None:
            await self._call(f"group {group!r}", lambda: self._cursors.delete(group, stamp), writes=True)
            return
        check_cursor_name("topic", topic)
        await self._call(f"group {group!r}", lambda: self._cursors.commit(group, stamp, {}, topic), writes=True)

    async def groups(self) -> Sequence[str]:
        """See ``OffsetStore``."""
        return await self._call("groups", self._cursors.groups)

    async def aclose(self) -> None:
        """See ``OffsetStore``."""
        await self._calls.aclose()

    async def _call(self, what: str, function: Callable[[], T], *, writes: bool = False) -> T:
        where = f"{self.url}: {what}"
        limit = f"{self.context.call_timeout_ms} ms"
        try:
            return await self._calls.call(function)
        except OSError as error:
            raise OffsetStoreUnavailableError(f"{where}: {error}: {_REMEDY}") from error
        except CorruptionError as error:
            raise OffsetStoreForeignError(
                f"{where}: {error}: put back a copy of it, or move it away and reset the group"
            ) from error
        except OffsetStoreFencedError as error:
            raise OffsetStoreFencedError(f"{where}: {error}") from error
        except OffsetStoreOutcomeUnknownError as error:
            raise OffsetStoreOutcomeUnknownError(f"{where}: {error}; the next commit settles it") from error
        except CallLate as late:
            if late.is_begun and writes:
                raise OffsetStoreOutcomeUnknownError(
                    f"{where}: the disk gave no answer within {limit}; the next commit settles it"
                ) from None
            problem = "the disk gave no answer" if late.is_begun else "other processes wrote"
            text = f"{where}: {problem} for {limit}; nothing was done, try again later"
            raise OffsetStoreUnavailableError(text) from None
