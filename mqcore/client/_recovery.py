"""Local recovery: what a consumer failed to handle, and could not give to a dead-letter topic, on its own disk.

A file of lines, each with a checksum: one for each message that is kept, one for each that is done. A line that a crash
cut off is the last one and is left out: its message had not been counted as handled, so the broker has it. Beside it
lies a small file of what is being handled right now, which is not flushed: it tells, after the process has ended
amid a message, that this one has had an attempt more. Calls block; a device thread makes them.
"""

from __future__ import annotations

import base64
import contextlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import attrs
from crc32c import crc32c

from mqcore.client._consumed import Message
from mqcore.delivery import HandlingFailure
from mqcore.errors import ConfigurationError, CorruptionError
from mqcore.ports import File, FileSystem, Lock

__all__ = ["KeptMessage", "RecoveryFull", "RecoveryFolder"]

_HEAD = b"mqcore-recovery 1"
_KEPT_NAME, _IN_HAND_NAME, _LOCK_NAME, _NEW_NAME = "kept", "in-hand", ".lock", ".new"
_SLOT = struct.Struct("<IQIIQ")
"""One message in hand: checksum, offset, partition, attempts, digest of its topic. All zeros: none."""


class RecoveryFull(Exception):
    """Keeping a message would exceed the limit; nothing was written. Stays in the client."""


@attrs.frozen
class KeptMessage:
    """A message on this disk, with how it failed. ``number``: its own in the folder."""

    number: int
    message: Message
    failure: HandlingFailure


class RecoveryFolder:
    """The folder ``directory``, which one process uses at a time; it is made if its parent is there.

    Raises ``ConfigurationError`` when another process uses it or it cannot be used, ``CorruptionError`` when it is
    damaged. Methods raise ``OSError`` when nothing can be relied on that they should have done.
    """

    def __init__(self, files: FileSystem, directory: str, bytes_max: int, slots: int) -> None:
        self._files, self._directory = files, directory.rstrip("/")
        self._bytes_max = bytes_max
        try:
            self._lock = self._take_lock()
        except BlockingIOError:
            raise ConfigurationError(
                f"recovery folder {directory}: another process uses it; give each consumer one of its own"
            ) from None
        except OSError as error:
            raise ConfigurationError(
                f"recovery folder {directory}: {error.strerror or error}; name a folder that may be written to"
            ) from error
        try:
            self.kept = self._read()
            self._next = max(self.kept, default=0) + 1
            self._file, self._size = self._write_anew()
            self._in_hand = self._open(_IN_HAND_NAME)
            self._interrupted = self._read_in_hand()
            self._in_hand.truncate(0)
        except OSError as error:
            self._lock.release()
            raise ConfigurationError(
                f"recovery folder {directory}: {error.strerror or error}; mend the disk, or name another folder"
            ) from error
        except BaseException:
            self._lock.release()
            raise
        self._free = list(range(slots))[::-1]
        self._broken = False

    def attempts_of(self, message: Message) -> int:
        """Return how many attempts at ``message`` are known of an earlier process, which ended amid the last one."""
        return self._interrupted.pop((_digest(message.topic), message.partition, message.offset), 0)

    def begin(self, message: Message, attempts: int) -> int | None:
        """Note that ``message`` is being handled; return what ``end`` takes. None: there is no room for the note."""
        if not self._free:
            return None
        slot = self._free.pop()
        body = struct.pack("<QIIQ", message.offset, message.partition, attempts + 1, _digest(message.topic))
        self._in_hand.pwritev([struct.pack("<I", crc32c(body)) + body], slot * _SLOT.size)
        return slot

    def end(self, slot: int | None) -> None:
        """Note that it is not being handled any more."""
        if slot is not None:
            self._in_hand.pwritev([bytes(_SLOT.size)], slot * _SLOT.size)
            self._free.append(slot)

    def keep(self, message: Message, failure: HandlingFailure) -> None:
        """Keep ``message``: durable when it returns. Raises ``RecoveryFull``."""
        entry = KeptMessage(self._next, message, failure)
        self._add(_line({"number": entry.number, "message": _as_json(message), "failure": attrs.asdict(failure)}))
        self._next += 1
        self.kept[entry.number] = entry

    def settle(self, number: int) -> None:
        """Note that a kept message is done: durable when it returns."""
        if len(self.kept) == 1 and number in self.kept:
            del self.kept[number]
            self._file.close()
            self._file, self._size = self._write_anew()
        else:
            self._add(_line({"done": number}), limited=False)
            del self.kept[number]

    def close(self) -> None:
        """Give the folder to other processes. Idempotent."""
        self._file.close()
        self._in_hand.close()
        self._lock.release()

    def _add(self, line: bytes, *, limited: bool = True) -> None:
        if self._broken:  # what a failed flush left is not known: a new file says it all again
            self._file.close()
            self._file, self._size = self._write_anew()
            self._broken = False
        if limited and self._size + len(line) > self._bytes_max:
            raise RecoveryFull(f"{self._directory} would have more than {self._bytes_max} bytes")
        self._broken = True
        self._file.pwritev([line], self._size)
        self._file.flush()
        self._broken = False
        self._size += len(line)

    def _read(self) -> dict[int, KeptMessage]:
        path = self._path(_KEPT_NAME)
        try:
            file = self._files.open(path, write=False)
        except FileNotFoundError:
            return {}
        try:
            data = file.pread(file.size(), 0)
        finally:
            file.close()
        head, *lines = data.split(b"\n")
        if head != _HEAD:
            raise CorruptionError(
                "no recovery file of this version", where=path, expected=repr(_HEAD), found=repr(head[:40])
            )
        kept: dict[int, KeptMessage] = {}
        for number, line in enumerate(lines[:-1], 2):
            record = _record_of(line)
            if record is None:
                if number == len(lines):
                    break
                raise CorruptionError(f"line {number} is damaged", where=path, found=repr(line[:60]))
            if "done" in record:
                kept.pop(record["done"], None)
            else:
                kept[record["number"]] = _from_json(record, f"{path} line {number}")
        return kept

    def _write_anew(self) -> tuple[File, int]:
        """Write the file of what is kept now, and put it in the place of the old one."""
        path, new = self._path(_KEPT_NAME), self._path(_NEW_NAME)
        with contextlib.suppress(FileNotFoundError):
            self._files.unlink(new)
        lines = [
            _line({"number": each.number, "message": _as_json(each.message), "failure": attrs.asdict(each.failure)})
            for each in self.kept.values()
        ]
        data = _HEAD + b"\n" + b"".join(lines)
        file = self._files.open(new, create=True, exclusive=True)
        try:
            file.pwritev([data], 0)
            file.flush()
            self._files.rename(new, path)
            self._files.flush_directory(self._directory)
        except BaseException:
            file.close()
            raise
        return file, len(data)

    def _read_in_hand(self) -> dict[tuple[int, int, int], int]:
        data = self._in_hand.pread(self._in_hand.size(), 0)
        found = {}
        for at in range(0, len(data) - _SLOT.size + 1, _SLOT.size):
            checksum, offset, partition, attempts, digest = _SLOT.unpack_from(data, at)
            if attempts and checksum == crc32c(data[at + 4 : at + _SLOT.size]):
                found[digest, partition, offset] = attempts
        return found

    def _take_lock(self) -> Lock:
        try:
            self._files.stat(self._directory)
        except FileNotFoundError:
            self._files.make_directory(self._directory)
            self._files.flush_directory(self._directory.rpartition("/")[0] or "/")
        return self._files.lock(self._path(_LOCK_NAME))

    def _open(self, name: str) -> File:
        return self._files.open(self._path(name), create=True)

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"


def _digest(topic: str) -> int:
    return crc32c(topic.encode()) << 32 | crc32c(topic.encode()[::-1])


def _line(record: Mapping[str, object]) -> bytes:
    body = json.dumps(record, separators=(",", ":")).encode()
    return f"{crc32c(body):08x} ".encode() + body + b"\n"


def _record_of(line: bytes) -> dict[str, Any] | None:
    checksum, body = line[:8], line[9:]
    if checksum != f"{crc32c(body):08x}".encode():
        return None
    found: dict[str, Any] = json.loads(body)
    return found


def _as_json(message: Message) -> dict[str, object]:
    fields: dict[str, object] = message._asdict()
    fields["value"] = base64.b64encode(message.value).decode()
    fields["key"] = None if message.key is None else base64.b64encode(message.key).decode()
    fields["headers"] = [[name, base64.b64encode(value).decode()] for name, value in message.headers]
    return fields


def _from_json(record: dict[str, Any], where: str) -> KeptMessage:
    try:
        fields = dict(record["message"])
        fields["value"] = base64.b64decode(fields["value"])
        fields["key"] = None if fields["key"] is None else base64.b64decode(fields["key"])
        fields["headers"] = tuple((name, base64.b64decode(value)) for name, value in fields["headers"])
        return KeptMessage(record["number"], Message(**fields), HandlingFailure(**record["failure"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptionError(f"no kept message of this version ({error!r})", where=where) from None
