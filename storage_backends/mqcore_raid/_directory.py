"""The directory of a member: what lies there, its lock, its record. All calls block.

::

    mqcore-raid.member    the record (see ``_record``); its presence makes the directory a member
    mqcore-raid.member.new, .spare   room for the next record, which must have some on a full disk, too
    mqcore-raid.lock      held by the broker that uses the member
    mqcore-raid.place     where its storage stood, and the number of the array's last move (see ``_places``)
    storage/              the member's own storage, made by its backend
    sums/LOG              checksums of the log's blocks (see ``_sums``)
    sums/.scrub           what the last scrub found
    aside-GENERATION/     a storage that was put aside when the member was rebuilt; an operator removes it

Knows nothing of other members.
"""

from __future__ import annotations

import contextlib

from mqcore.errors import CorruptionError, StorageError
from mqcore.ports import FileBirth, FileSystem, Lock
from mqcore_raid._assembly import Finding
from mqcore_raid._record import RECORD_BYTES_MAX, ArrayRecord, decode_record, encode_record

__all__ = [
    "LOCK_NAME",
    "RECORD_NAME",
    "SUMS_NAME",
    "MemberDirectory",
    "eject_offline",
    "inspect",
    "keep_place",
    "make_member_directory",
    "places_above",
    "read_place",
    "set_aside",
]

RECORD_NAME = "mqcore-raid.member"
LOCK_NAME = "mqcore-raid.lock"
PLACE_NAME = "mqcore-raid.place"
PLACE_BYTES_MAX = 256
TEMPORARY = ".new"
SPARE = ".spare"
STORAGE_NAME = "storage"
ASIDE = "aside-"
EJECTED_NAME = "mqcore-raid.ejected"
SUMS_NAME = "sums"
DEPTH_MAX = 100
"""Directories that one may lie in; no path is longer."""
_OWN = frozenset(
    {LOCK_NAME, PLACE_NAME, PLACE_NAME + TEMPORARY, RECORD_NAME + TEMPORARY, RECORD_NAME + SPARE, "lost+found"}
)


class MemberDirectory:
    """The directory at ``path``, locked while a broker uses it."""

    def __init__(self, files: FileSystem, path: str) -> None:
        self.path = path
        self._files = files
        self._lock: Lock | None = None
        self._identity: tuple[int, int] | None = None
        self.stale_sums: set[str] = set()
        """Logs whose checksums are old and could not be given up; see ``_sums_files``."""

    def lock(self) -> None:
        """Lock it. Raises ``StorageError`` (kind ``busy``), ``OSError``."""
        try:
            self._lock = self._files.lock(f"{self.path}/{LOCK_NAME}")
        except BlockingIOError:
            raise StorageError(
                f"another broker has the array of {self.path}; stop it or name other directories",
                kind="busy",
                path=self.path,
            ) from None
        self._identity = self._find_identity()

    def release(self) -> None:
        """Give the lock up. Idempotent."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def identity(self) -> tuple[int, int] | None:
        """Device and inode of the directory that was locked."""
        return self._identity

    @property
    def files(self) -> FileSystem:
        """The file system that it is on."""
        return self._files

    def write(self, record: ArrayRecord) -> None:
        """Replace the record, durably. Raises ``OSError``, ``StorageError`` when the directory is another one now."""
        self.check_in_place()
        path, data = f"{self.path}/{RECORD_NAME}", encode_record(record)
        names = self._files.list(self.path)
        if RECORD_NAME + TEMPORARY not in names and RECORD_NAME + SPARE in names:
            self._files.rename(path + SPARE, path + TEMPORARY)
        file = self._files.open(path + TEMPORARY, create=True)
        try:
            file.pwritev([data], 0)  # over the room that is kept: cut off first, it would have to be found again
            file.truncate(len(data))
            file.flush()
        finally:
            file.close()
        self._files.rename(path + TEMPORARY, path)
        self._files.flush_directory(self.path)
        if record.committed:
            self._keep_room(len(data))

    def _keep_room(self, size: int) -> None:
        """Have room for the two files of the next generation: a member that is full must not leave over its record."""
        for name in (TEMPORARY, SPARE):
            with contextlib.suppress(OSError):  # there is none to keep: what the two records before left may do
                file = self._files.open(f"{self.path}/{RECORD_NAME}{name}", create=True)
                try:
                    file.pwritev([bytes(size)], 0)
                    file.flush()
                finally:
                    file.close()

    def check_in_place(self) -> None:
        """Raise ``StorageError`` when another directory stands at the path than the one that was locked."""
        try:
            is_other = self._identity is not None and self._find_identity() != self._identity
        except FileNotFoundError:
            text = f"{self.path} is not there any more: it was removed or moved"
            raise StorageError(text, kind="missing", path=self.path) from None
        if is_other:
            raise StorageError(
                f"{self.path} is no longer the directory that was opened: it was moved, replaced or covered",
                kind="foreign",
                path=self.path,
            )

    def look(self) -> None:
        """Raise ``StorageError``, ``OSError`` when the directory or its record is gone: no start would believe it."""
        self.check_in_place()
        try:
            self._files.stat(f"{self.path}/{RECORD_NAME}")
        except FileNotFoundError:
            raise StorageError(f"{self.path}/{RECORD_NAME} was removed", kind="missing", path=self.path) from None

    def find_storage(self) -> tuple[int, FileBirth]:
        """Inode and birth of the directory of its storage; none is known where there is none of that name."""
        try:
            path = f"{self.path}/{STORAGE_NAME}"
            return self._files.stat(path).inode, self._files.birth(path)
        except OSError:
            return 0, FileBirth()

    def _find_identity(self) -> tuple[int, int]:
        facts = self._files.stat(self.path)
        return facts.device, facts.inode


def inspect(files: FileSystem, path: str) -> tuple[Finding, tuple[int, int] | None]:
    """Say what lies at ``path``, and its device and inode. Raises ``StorageError`` for what is somebody else's."""
    try:
        facts = files.stat(path)
    except FileNotFoundError:
        return Finding(path, "absent"), None
    except OSError as error:
        return Finding(path, "unreadable", text=str(error)), None
    place = facts.device, facts.inode
    if not facts.is_directory:
        raise StorageError(f"{path} is not a directory; name another path", kind="foreign", path=path)
    try:
        names = files.list(path)
        if RECORD_NAME in names:
            return Finding(path, "record", _read(files, path)), place
    except (OSError, CorruptionError) as error:
        return Finding(path, "unreadable", text=str(error)), place
    if EJECTED_NAME in names:
        return Finding(path, "unreadable", text="an operator ejected it while the array was closed"), place
    foreign = [name for name in names if name not in _OWN and not name.startswith(ASIDE)]
    if foreign and {*foreign} <= {STORAGE_NAME, SUMS_NAME}:
        return Finding(path, "unreadable", text=f"it has a storage and no {RECORD_NAME}"), place
    if foreign:
        raise StorageError(
            f"{path} is not empty and is not a member of an array (it has {foreign[0]} and no {RECORD_NAME}); name an "
            "empty directory",
            kind="foreign",
            path=path,
        )
    return Finding(path, "blank"), place


def places_above(files: FileSystem, path: str) -> set[tuple[int, int]]:
    """Device and inode of each directory that ``path`` lies in, or would be made in, whatever links lead there.

    Only ``..`` of what is there tells that: the path's own text does not where a part of it is a link.
    """
    found: set[tuple[int, int]] = set()
    try:
        facts = files.stat(path)
    except OSError:
        path = path.rpartition("/")[0]
        if not path:
            return found
        try:
            facts = files.stat(path)
        except OSError:
            return found
        found.add((facts.device, facts.inode))
    for _ in range(DEPTH_MAX):
        path += "/.."
        try:
            above = files.stat(path)
        except OSError:
            break
        if (above.device, above.inode) == (facts.device, facts.inode):
            break
        facts = above
        found.add((facts.device, facts.inode))
    return found


def _read(files: FileSystem, path: str) -> ArrayRecord:
    where = f"{path}/{RECORD_NAME}"
    file = files.open(where, write=False)
    try:
        data = file.pread(RECORD_BYTES_MAX, 0)
    finally:
        file.close()
    return decode_record(data, where)


def make_member_directory(files: FileSystem, path: str) -> None:
    """Make the directory of a new member and the one above it, durably. Raises ``OSError``.

    Two levels and no more: a path that is mistyped must not become a member on another disk.
    """
    for each in (path.rpartition("/")[0], path):
        parent = each.rpartition("/")[0]
        try:
            files.stat(each or "/")
        except FileNotFoundError:
            files.make_directory(each)
            files.flush_directory(parent or "/")


def set_aside(files: FileSystem, path: str, generation: int) -> None:
    """Keep what a former member's storage held under another name; an operator removes it. Raises ``OSError``."""
    for name in (EJECTED_NAME, PLACE_NAME):
        if name in files.list(path):
            files.unlink(f"{path}/{name}")
    if SUMS_NAME in files.list(path):
        for name in files.list(f"{path}/{SUMS_NAME}"):
            files.unlink(f"{path}/{SUMS_NAME}/{name}")
        files.flush_directory(f"{path}/{SUMS_NAME}")  # or a power cut brings them back, beside other logs
    if STORAGE_NAME in files.list(path):
        files.rename(f"{path}/{STORAGE_NAME}", f"{path}/{ASIDE}{generation}")
        files.flush_directory(path)


def eject_offline(files: FileSystem, path: str) -> None:
    """Take the record from the member at ``path``, durably, so that it is none any more. Raises ``OSError``."""
    directory = MemberDirectory(files, path)
    directory.lock()
    try:
        files.rename(f"{path}/{RECORD_NAME}", f"{path}/{EJECTED_NAME}")
        files.flush_directory(path)
    finally:
        directory.release()


def keep_place(directory: MemberDirectory, place: str, number: int) -> None:
    """Keep where the member stands and the number of its array's last move. Raises ``OSError``."""
    path, files = f"{directory.path}/{PLACE_NAME}", directory.files
    file = files.open(path + TEMPORARY, create=True)
    try:
        file.truncate(0)
        file.pwritev([f"{place} {number}\n".encode()], 0)
        file.flush()
    finally:
        file.close()
    files.rename(path + TEMPORARY, path)


def read_place(directory: MemberDirectory) -> tuple[str, int] | None:
    """What ``keep_place`` kept; None for anything else. Raises ``OSError`` where nothing is."""
    file = directory.files.open(f"{directory.path}/{PLACE_NAME}", write=False)
    try:
        place, _, number = file.pread(PLACE_BYTES_MAX, 0).decode("ascii", "replace").strip().rpartition(" ")
    finally:
        file.close()
    return (place, int(number)) if number.isascii() and number.isdecimal() else None
