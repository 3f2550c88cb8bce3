"""The server side: pairs of cells, in the order of their writes. It can stand still and be put back to an older state.

Must not know of clients or timeouts: a request that its sender has given up is served all the same, as a server would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from mqcore.abc import CellPair, CellWrite, CoordinatorCell

__all__ = ["MemoryServer", "server_called"]

_servers: trio.lowlevel.RunVar[dict[str, MemoryServer]] = trio.lowlevel.RunVar("mqcore_memory_coordinator.servers")


def server_called(name: str) -> MemoryServer:
    """Return the server of that name in this Trio run, made by the first call. Two runs of one process never meet."""
    try:
        servers = _servers.get()
    except LookupError:
        servers = {}
        _servers.set(servers)
    return servers.setdefault(name, MemoryServer())


class MemoryServer:
    """Pairs by name. ``submit`` runs a request at once, or after ``thaw`` while the server is frozen."""

    def __init__(self) -> None:
        self._pairs: dict[str, CellPair] = {}
        self._waiting: list[Callable[[], None]] = []
        self._watchers: dict[Callable[[str], None], None] = {}
        self._is_frozen = False

    def submit(self, request: Callable[[], None]) -> None:
        """Serve ``request`` in its turn; it does not raise."""
        if self._is_frozen:
            self._waiting.append(request)
        else:
            request()

    def freeze(self) -> None:
        """Serve nothing until ``thaw``; what comes meanwhile waits, as in the socket of a stopped process."""
        self._is_frozen = True

    def thaw(self) -> None:
        """Serve what waits, in order, and go on."""
        self._is_frozen = False
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            request()

    def copy(self) -> Mapping[str, CellPair]:
        """Return everything that is stored, as a backup would have it."""
        return dict(self._pairs)

    def restore(self, copy: Mapping[str, CellPair]) -> None:
        """Go back to ``copy``; what waits is lost, as with a server that is stopped for it."""
        self._waiting.clear()
        changed = [name for name in {**self._pairs, **copy} if self._pairs.get(name) != copy.get(name)]
        self._pairs = dict(copy)
        for name in changed:
            self._tell(name)

    def pair(self, name: str) -> CellPair:
        """Return both cells of ``name``."""
        return self._pairs.get(name, CellPair())

    def names(self) -> list[str]:
        """Return every name ever written, sorted."""
        return sorted(self._pairs)

    def put(self, name: str, expect: CellPair, record: CellWrite | None, lease: CellWrite | None) -> CellPair | None:
        """Write if both cells have the expected write ids; return the pair, or None for a conflict."""
        now = self.pair(name)
        if (now.record.write_id, now.lease.write_id) != (expect.record.write_id, expect.lease.write_id):
            return None
        pair = CellPair(_after(now.record, record), _after(now.lease, lease))
        self._pairs[name] = pair
        self._tell(name)
        return pair

    def add_watcher(self, watcher: Callable[[str], None]) -> None:
        """Call ``watcher`` with each name that changes, until ``remove_watcher``."""
        self._watchers[watcher] = None

    def remove_watcher(self, watcher: Callable[[str], None]) -> None:
        """Forget ``watcher``. Idempotent."""
        self._watchers.pop(watcher, None)

    def _tell(self, name: str) -> None:
        for watcher in list(self._watchers):
            watcher(name)


def _after(cell: CoordinatorCell, put: CellWrite | None) -> CoordinatorCell:
    return cell if put is None else CoordinatorCell(put.value, put.write_id)
