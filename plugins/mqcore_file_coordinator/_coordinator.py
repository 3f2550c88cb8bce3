"""The coordinator part ``file``: calls of ``CellFiles`` in a device thread, each with its time limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from mqcore.abc import (
    CellPair,
    CellWrite,
    Coordinator,
    CoordinatorCapabilities,
    CoordinatorContext,
    Url,
    check_coordinator_name,
)
from mqcore.blocking import BlockingCalls, CallLate
from mqcore.errors import (
    ConfigurationError,
    CoordinatorConflictError,
    CoordinatorOutcomeUnknownError,
    CoordinatorUnreachableError,
    CorruptionError,
)
from mqcore_file_coordinator._config import FileCoordinatorOptions
from mqcore_file_coordinator._files import CellFiles

__all__ = ["FileCoordinator"]

T = TypeVar("T")

_CAPABILITIES = CoordinatorCapabilities(one_host=True, simulable=True)


class FileCoordinator(Coordinator):
    """The coordinator part of the scheme ``file``. The directory is made by the first write; its parent has to exist.

    On one host's own file systems only: on a network's, locks may fall and two processes may both have one.
    """

    options_class = FileCoordinatorOptions

    def __init__(self, url: Url, options: FileCoordinatorOptions, context: CoordinatorContext) -> None:
        super().__init__(url, options, context)
        directory = url.path.rstrip("/")
        if not directory:
            raise ConfigurationError(f"{url}: needs the path of a directory, as in file:///var/lib/mqcore-coordinator")
        self._watch_ms: int = options.watch_ms
        self._cells = CellFiles(context.ports.files, directory)
        self._calls = BlockingCalls(
            context.ports,
            "coordinator",
            timeout_ms=context.call_timeout_ms,
            closed=lambda: CoordinatorUnreachableError(f"{url}: this coordinator is closed"),
        )

    @property
    def capabilities(self) -> CoordinatorCapabilities:
        """What files of one host promise."""
        return _CAPABILITIES

    async def read(self, name: str) -> CellPair:
        """See ``Coordinator``. Raises ``CorruptionError`` as well, when the file is damaged."""
        check_coordinator_name(name)
        return await self._read(name, lambda: self._cells.read(name))

    async def write(
        self, name: str, expect: CellPair, *, record: CellWrite | None = None, lease: CellWrite | None = None
    ) -> CellPair:
        """See ``Coordinator``. Raises ``CorruptionError`` as well, when the file is damaged."""
        self.check_write(name, record, lease)
        where = f"{self.url} {name}"
        try:
            return await self._calls.call(lambda: self._cells.write(name, expect, record, lease))
        except OSError as error:
            raise CoordinatorUnreachableError(f"{where}: {error}: mend the file system and go on") from error
        except CoordinatorConflictError as error:
            raise CoordinatorConflictError(f"{where}: {error}") from error
        except CoordinatorOutcomeUnknownError as error:
            raise CoordinatorOutcomeUnknownError(f"{where}: {error}") from error
        except CallLate as late:
            if late.is_begun:
                raise CoordinatorOutcomeUnknownError(f"{where}: the disk gave no answer within {self._limit}") from None
            raise CoordinatorUnreachableError(f"{where}: other processes wrote for {self._limit}") from None

    async def watch(self, name: str, changed: Callable[[], None]) -> None:
        """See ``Coordinator``. Looks every ``watch_ms``; a file system tells one host's processes no sooner."""
        check_coordinator_name(name)
        seen: CellPair | None = None
        while True:
            try:
                pair = await self._read(name, lambda: self._cells.read(name))
            except (CoordinatorUnreachableError, CorruptionError):
                pair = None  # the caller's next look says what is wrong
            if pair != seen or seen is None:
                seen = pair
                changed()
            await trio.sleep(self._watch_ms / 1000)

    async def names(self, prefix: str) -> list[str]:
        """See ``Coordinator``."""
        found = await self._read(prefix, self._cells.names)
        return sorted(name for name in found if name.startswith(prefix))

    async def aclose(self) -> None:
        """See ``Coordinator``."""
        await self._calls.aclose()

    @property
    def _limit(self) -> str:
        return f"{self.context.call_timeout_ms} ms"

    async def _read(self, name: str, function: Callable[[], T]) -> T:
        try:
            return await self._calls.call(function)
        except OSError as error:
            raise CoordinatorUnreachableError(f"{self.url} {name}: {error}: mend the file system") from error
        except CallLate:
            text = f"{self.url} {name}: the disk gave no answer within {self._limit}"
            raise CoordinatorUnreachableError(text) from None
