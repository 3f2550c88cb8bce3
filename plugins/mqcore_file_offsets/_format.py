"""One file: a line that says whose it is, then a line for each commit, with a checksum, for an operator's eyes. Pure.

A line that a crash cut off is the last one and has no newline or no checksum that fits: it never was answered, and is
left out. The same in front of a line that is whole is damage.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import attrs
from crc32c import crc32c

from mqcore.abc import CommitStamp, Cursor, CursorKey, GroupCursors
from mqcore.errors import CorruptionError

__all__ = ["FILE_SUFFIX", "OffsetFile", "commit_line", "decode_file", "encode_file", "file_name", "group_of"]

FILE_SUFFIX = ".cursors"
_HEAD = "mqcore-offsets 1"
_READABLE_CHARS = 40
_CHECKSUM_CHARS = 8
_UNREADABLE = re.compile(r"[^A-Za-z0-9._-]")


@attrs.frozen
class OffsetFile:
    """What a file holds. ``torn_bytes``: at its end, of a commit that a crash cut off."""

    cursors: GroupCursors
    torn_bytes: int = 0


def file_name(group: str) -> str:
    """Return the name of the file of ``group``: what can be read of it, and a digest that makes it its own."""
    digest = hashlib.blake2b(group.encode(), digest_size=16).hexdigest()
    return f"{_UNREADABLE.sub('_', group)[:_READABLE_CHARS].lstrip('.')}-{digest}{FILE_SUFFIX}"


def commit_line(stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor], deleted_topic: str | None = None) -> bytes:
    """Return the line of one commit, which puts ``cursors``, or of one that removes a topic's."""
    topics: dict[str, list[list[int]]] = {}
    for key, cursor in cursors.items():
        topics.setdefault(key.topic, []).append([key.partition, cursor.offset, cursor.epoch])
    record: dict[str, object] = {"stamp": [stamp.generation, stamp.number], "put": topics}
    if deleted_topic is not None:
        record["deleted"] = deleted_topic
    return _line(json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode())


def encode_file(group: str, cursors: GroupCursors) -> bytes:
    """Return the bytes of a file that holds ``cursors`` and nothing that was replaced."""
    return _line(f"{_HEAD} {group}".encode()) + commit_line(cursors.stamp, cursors.cursors)


def group_of(data: bytes, path: str) -> str:
    """Return whose file begins with ``data``. Raises ``CorruptionError`` that names ``path``."""
    line, newline, _ = data.partition(b"\n")
    text = _checked(line) if newline else None
    if text is None or not text.startswith(_HEAD.encode() + b" "):
        raise CorruptionError("no file of this offset store", where=path, expected=repr(_HEAD), found=repr(line[:60]))
    return text[len(_HEAD) + 1 :].decode("utf-8", "replace")


def decode_file(data: bytes, path: str, group: str) -> OffsetFile:
    """Return what the file of ``group`` holds. Raises ``CorruptionError`` that names ``path`` and the line."""
    found = group_of(data, path)
    if found != group:
        raise CorruptionError("the file of another group", where=path, expected=repr(group), found=repr(found))
    stamp = CommitStamp()
    cursors: dict[CursorKey, Cursor] = {}
    *lines, rest = data.split(b"\n")
    torn = len(rest)
    for number, line in enumerate(lines[1:], 2):
        text = _checked(line)
        if text is None:
            if any(_checked(later) is not None for later in lines[number:]):
                raise CorruptionError(f"line {number} is damaged", where=path, found=repr(line[:60]))
            torn += sum(len(each) + 1 for each in lines[number - 1 :])
            break
        stamp = _apply(text, cursors, f"{path} line {number}", stamp)
    if not stamp.generation and not stamp.number and not cursors:
        raise CorruptionError("it has no commit", where=path)
    return OffsetFile(GroupCursors(stamp, cursors), torn)


def _apply(text: bytes, cursors: dict[CursorKey, Cursor], where: str, before: CommitStamp) -> CommitStamp:
    try:
        record: Any = json.loads(text)
        stamp = CommitStamp(*record["stamp"])
        deleted = record.get("deleted")
        if deleted is not None:
            for key in [key for key in cursors if key.topic == deleted]:
                del cursors[key]
        for topic, rows in record["put"].items():
            for partition, offset, epoch in rows:
                cursors[CursorKey(topic, partition)] = Cursor(offset, epoch)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise CorruptionError(f"no commit of this version ({error!r})", where=where) from None
    if stamp <= before:
        raise CorruptionError("commits out of order", where=where, expected=f"after {before}", found=str(stamp))
    return stamp


def _line(body: bytes) -> bytes:
    return f"{crc32c(body):0{_CHECKSUM_CHARS}x} ".encode() + body + b"\n"


def _checked(line: bytes) -> bytes | None:
    """Return the body of a line, None if its checksum does not fit."""
    checksum, body = line[:_CHECKSUM_CHARS], line[_CHECKSUM_CHARS + 1 :]
    return body if checksum == f"{crc32c(body):0{_CHECKSUM_CHARS}x}".encode() else None
