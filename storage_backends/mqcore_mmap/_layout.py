"""The directory of a storage: what makes it ours, who holds it, which file is what.

::

    mqcore-mmap.layout      magic, version, storage id, checksum; its presence makes the directory a storage. The broker
                            that uses it holds a lock on it
    lock                    held while a storage is made and opened
    journal-0, journal-1    see ``_journal``
    segments/NAME@BASE      a segment of log NAME whose first position is BASE
    segments/+unnamed-ID    a segment that has no name yet: what it is stands in its header
    segments/+free-ID       a file that may be used for a new segment
    segments/+gone-UID-LOW-HIGH   segments of log UID with LOW <= base < HIGH are gone, even if the files are not

It knows nothing of what segments and journals hold.
"""

from __future__ import annotations

import contextlib
import re
import struct

import attrs
from crc32c import crc32c

from mqcore.errors import CorruptionError, StorageError
from mqcore.ports import FileSystem, Lock, Ports
from mqcore_mmap._errors import storage_error
from mqcore_mmap._journal import encode_journal_header

__all__ = ["Tombstone", "StorageLayout", "Names", "is_in_use", "open_layout", "read_layout"]

LAYOUT_NAME = "mqcore-mmap.layout"
LOCK_NAME = "lock"
JOURNAL_NAMES = ("journal-0", "journal-1")
SEGMENTS_NAME = "segments"
TEMPORARY = ".new"
VERSION = 2

_MAGIC = b"MQMMAPST"
_LAYOUT = struct.Struct("<8sH16s")
_CRC = struct.Struct("<I")
_LAYOUT_BYTES = _LAYOUT.size + _CRC.size

_SEGMENT = re.compile(r"([a-z0-9_-][a-z0-9._-]*)@(\d{20})\Z")
_NUMBERED = re.compile(r"\+(unnamed|free)-([0-9a-f]{16})\Z")
_GONE = re.compile(r"\+gone-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{16})\Z")

_OWN = frozenset(
    {LOCK_NAME, SEGMENTS_NAME, LAYOUT_NAME + TEMPORARY}
    | set(JOURNAL_NAMES)
    | {name + TEMPORARY for name in JOURNAL_NAMES}
)


@attrs.frozen
class Tombstone:
    """A tombstone: segments of log ``uid`` with ``low <= base < high`` are gone."""

    uid: bytes
    low: int
    high: int


class Names:
    """Paths inside the directory ``root``."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.layout = f"{root}/{LAYOUT_NAME}"
        self.lock = f"{root}/{LOCK_NAME}"
        self.journals = tuple(f"{root}/{name}" for name in JOURNAL_NAMES)
        self.segments = f"{root}/{SEGMENTS_NAME}"

    def segment(self, name: str, base: int) -> str:
        """Path of a segment that has its name."""
        return f"{self.segments}/{name}@{base:020d}"

    def unnamed(self, number: int) -> str:
        """Path of a segment without a name."""
        return f"{self.segments}/+unnamed-{number:016x}"

    def free(self, number: int) -> str:
        """Path of a file that waits to be used."""
        return f"{self.segments}/+free-{number:016x}"

    def gone(self, gone: Tombstone) -> str:
        """Path of a tombstone."""
        return f"{self.segments}/+gone-{gone.uid.hex()}-{gone.low:016x}-{gone.high:016x}"

    @staticmethod
    def parse_segment(file_name: str) -> tuple[str, int] | None:
        """Log name and base of a segment's file name, None if it is none."""
        match = _SEGMENT.match(file_name)
        return (match[1], int(match[2])) if match else None

    @staticmethod
    def parse_numbered(file_name: str) -> tuple[str, int] | None:
        """``unnamed`` or ``free`` and the number, None if it is neither."""
        match = _NUMBERED.match(file_name)
        return (match[1], int(match[2], 16)) if match else None

    @staticmethod
    def parse_tombstone(file_name: str) -> Tombstone | None:
        """The tombstone that a file name states, None if it is none."""
        match = _GONE.match(file_name)
        return Tombstone(bytes.fromhex(match[1]), int(match[2], 16), int(match[3], 16)) if match else None


@attrs.define
class StorageLayout:
    """An opened, locked directory. ``identity`` is device and inode of the layout file, which is what is locked.

    ``mount`` is text of these and of when that file was made, where that is known: its inode number may be a copy's.

    The file that says what the directory is, is the one that is locked and looked at after every flush: a lock file of
    its own could be removed, and another broker let in, without anything being missing from the storage.
    """

    names: Names
    storage_id: bytes
    lock: Lock
    identity: tuple[int, int]
    mount: str
    is_new: bool

    def check_in_place(self, files: FileSystem) -> None:
        """Raise ``OSError`` or ``StorageError`` unless the directory is still the one that was opened."""
        facts = files.stat(self.names.layout)
        if (facts.device, facts.inode) != self.identity:
            raise StorageError(
                f"{self.names.root} is no longer the directory that was opened: it was moved or replaced",
                kind="foreign",
                path=self.names.root,
            )


def open_layout(ports: Ports, root: str) -> StorageLayout:
    """Lock ``root`` and check what it is; make it a storage when it is empty or missing. Blocks.

    Raises ``StorageError``: ``busy``, ``foreign``, ``permission``, ``missing`` (the parent); ``CorruptionError``.
    """
    files = ports.files
    names = Names(root)
    try:
        _ensure_directory(files, root)
        is_new = _is_new(files, root)
        making = _lock(files, names, names.lock, create=True)
    except OSError as error:
        raise storage_error(error, "open storage", root) from error
    lock: Lock | None = None
    try:
        is_new = is_new and _is_new(files, root)  # looked at again, now that no other process can be making it
        if is_new:
            _initialise(ports, names)
        lock = _lock(files, names, names.layout, create=False)
        storage_id = _read(files, names.layout)
        facts = files.stat(names.layout)
        birth = files.birth(names.layout)
    except BaseException as error:
        if lock is not None:
            lock.release()
        if isinstance(error, OSError):
            raise storage_error(error, "open storage", root) from error
        raise
    finally:
        making.release()
    mount = f"{facts.device}:{facts.inode}" + (f":{birth.born_ns}" if birth.born_ns else "")
    return StorageLayout(names, storage_id, lock, (facts.device, facts.inode), mount, is_new)


def read_layout(files: FileSystem, names: Names) -> bytes:
    """Return the storage id of an existing storage; nothing is made. Raises as ``open_layout``. Blocks."""
    try:
        return _read(files, names.layout)
    except FileNotFoundError:
        text = f"{names.root} is not a storage of mqcore: it has no {LAYOUT_NAME}"
        raise StorageError(text, kind="missing", path=names.root) from None
    except OSError as error:
        raise storage_error(error, "open storage", names.root) from error


def is_in_use(files: FileSystem, names: Names) -> bool:
    """Whether a broker has the storage now. Blocks."""
    try:
        files.lock(names.layout, create=False).release()
    except BlockingIOError:
        return True
    except OSError as error:
        raise storage_error(error, "open storage", names.root) from error
    return False


def _ensure_directory(files: FileSystem, root: str) -> None:
    try:
        facts = files.stat(root)
    except FileNotFoundError:
        parent = root.rpartition("/")[0] or "/"
        try:
            files.make_directory(root)
        except FileNotFoundError:
            raise StorageError(
                f"cannot make storage {root}: {parent} does not exist, or takes no directories; make it first",
                kind="foreign",  # nothing was lost: the path is not one for a storage
                path=root,
            ) from None
        return
    if not facts.is_directory:
        raise StorageError(f"{root} is not a directory; name another path", kind="foreign", path=root)


def _is_new(files: FileSystem, root: str) -> bool:
    """Whether ``root`` has no layout file; refuses what somebody else put there."""
    found = files.list(root)
    if LAYOUT_NAME in found:
        return False
    foreign = [name for name in found if name not in _OWN]
    if not foreign and SEGMENTS_NAME in found:
        foreign = [f"{SEGMENTS_NAME}/{name}" for name in files.list(f"{root}/{SEGMENTS_NAME}")]
    if foreign:
        raise StorageError(
            f"{root} is not empty and is not a storage of mqcore (it has {foreign[0]} and no {LAYOUT_NAME}); "
            "name an empty directory",
            kind="foreign",
            path=root,
        )
    return True


def _lock(files: FileSystem, names: Names, path: str, *, create: bool) -> Lock:
    try:
        return files.lock(path, create=create)
    except BlockingIOError:
        raise StorageError(
            f"another broker has {names.root}; stop it or name another directory", kind="busy", path=names.root
        ) from None


def _initialise(ports: Ports, names: Names) -> None:
    storage_id = ports.random.getrandbits(128).to_bytes(16, "little")
    with contextlib.suppress(PermissionError):  # a parent that we may not read was not made by us
        ports.files.flush_directory(names.root.rpartition("/")[0] or "/")
    ports.files.make_directory(names.segments)
    for generation, path in enumerate(names.journals, start=1):
        write_new(ports.files, path, encode_journal_header(storage_id, generation))
    body = _LAYOUT.pack(_MAGIC, VERSION, storage_id)
    ports.files.flush_directory(names.root)
    write_new(ports.files, names.layout, body + _CRC.pack(crc32c(body)))
    ports.files.flush_directory(names.root)


def write_new(files: FileSystem, path: str, data: bytes) -> None:
    """Put ``data`` at ``path`` by temporary file, flush and rename; the caller flushes the directory."""
    file = files.open(path + TEMPORARY, create=True)
    try:
        file.truncate(0)
        file.pwritev([data], 0)
        file.flush()
    finally:
        file.close()
    files.rename(path + TEMPORARY, path)


def _read(files: FileSystem, path: str) -> bytes:
    file = files.open(path, write=False)
    try:
        data = file.pread(4096, 0)
    finally:
        file.close()
    if len(data) != _LAYOUT_BYTES:
        raise CorruptionError(
            "damaged layout file; restore it from a copy",
            where=path,
            expected=f"{_LAYOUT_BYTES} bytes",
            found=str(len(data)),
        )
    magic, version, storage_id = _LAYOUT.unpack_from(data)
    (found,) = _CRC.unpack_from(data, _LAYOUT.size)
    expected = crc32c(data[: _LAYOUT.size])
    if magic != _MAGIC or found != expected:
        raise CorruptionError(
            "damaged layout file; restore it from a copy", where=path, expected=f"{expected:08x}", found=f"{found:08x}"
        )
    if version != VERSION:
        raise StorageError(
            f"{path}: storage of layout version {version}, this is version {VERSION}; use the mqcore that wrote it",
            kind="foreign",
            path=path,
        )
    return bytes(storage_id)
