"""The files of one directory: read and replaced under a lock, in calls that block. A device thread makes them.

A file is replaced by a new one that was flushed before, then the directory is flushed; the lock falls with the process
that holds it. Must not know of tasks or timeouts.
"""

from __future__ import annotations

from mqcore.abc import CellPair, CellWrite, CoordinatorCell
from mqcore.directories import SharedDirectory
from mqcore.errors import CoordinatorConflictError, CoordinatorOutcomeUnknownError
from mqcore.ports import FileSystem
from mqcore_file_coordinator._format import decode_pair, encode_pair

__all__ = ["CellFiles"]

# A name's "/" would make directories, each to be flushed; names have no "+".
_SEPARATOR = "+"


class CellFiles:
    """Pairs by name in ``directory``. Calls raise ``OSError``; what that leaves behind each of them says."""

    def __init__(self, files: FileSystem, directory: str) -> None:
        self._directory = SharedDirectory(files, directory)
        self._flushed: dict[str, CellPair] = {}  # pairs that are known to outlive a power cut

    def read(self, name: str) -> CellPair:
        """Return the pair of ``name`` once it is durable; ``CorruptionError`` when its file is damaged."""
        pair = self._load(name)
        if pair != self._flushed.get(name, CellPair()):
            # Whoever wrote it may have been killed before the directory was flushed: it must not be gone after a power
            # cut when somebody has acted on it.
            self._directory.flush()
            self._flushed[name] = pair
        return pair

    def write(self, name: str, expect: CellPair, record: CellWrite | None, lease: CellWrite | None) -> CellPair:
        """Write if both cells have the expected write ids. ``BlockingIOError`` when another process is writing.

        Raises ``CoordinatorConflictError``; ``OSError`` when nothing was written; ``CoordinatorOutcomeUnknownError``
        when the new file is in place and may or may not outlive a power cut.
        """
        self._directory.make()
        with self._directory.locked():
            now = self.read(name)
            if (now.record.write_id, now.lease.write_id) != (expect.record.write_id, expect.lease.write_id):
                raise CoordinatorConflictError("it was changed since it was read: read it again")
            pair = CellPair(_after(now.record, record), _after(now.lease, lease))
            self._directory.replace(_file_name(name), encode_pair(pair))
            try:
                self._directory.flush()
            except OSError as error:
                raise CoordinatorOutcomeUnknownError(f"{self._directory.path} was not flushed: {error}") from error
            self._flushed[name] = pair
        return pair

    def names(self) -> list[str]:
        """Return every name ever written."""
        return [each.replace(_SEPARATOR, "/") for each in self._directory.names()]

    def _load(self, name: str) -> CellPair:
        try:
            with self._directory.opened(_file_name(name)) as file:
                return decode_pair(file.pread(file.size(), 0), file.path)
        except FileNotFoundError:
            return CellPair()


def _file_name(name: str) -> str:
    return name.replace("/", _SEPARATOR)


def _after(cell: CoordinatorCell, put: CellWrite | None) -> CoordinatorCell:
    return cell if put is None else CoordinatorCell(put.value, put.write_id)
