"""The undo log of a broker under test: what pages held before writes that no flush has made durable yet.

The child writes it beside its data, so that it outlives the child; the suite reads it when it makes the disk of a power
cut. Going back to these contents is what a power cut may do: nothing was promised about pages that were not flushed.
Must not know of brokers, faults or signals.
"""

from __future__ import annotations

import os
import struct
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import attrs

from mqcore_conformance.broker_process.pages import PAGE_BYTES, dirty_pages

__all__ = ["Flushing", "UndoLog", "read_undo"]

_RECORD = struct.Struct("<BxHQQ")
_BEFORE, _DURABLE, _FORGET, _DOOMED = range(4)


class UndoPage:
    """A page that was written and not flushed: what it held before, and before the last write of a flush under way."""

    __slots__ = ("before", "doomed", "newer", "writes")

    def __init__(self, before: bytes) -> None:
        self.before = before
        self.newer: bytes | None = None
        self.writes = 0
        self.doomed = False


@attrs.define
class Flushing:
    """A flush under way: the file, and how often it and each of its pages had been written when it began."""

    inode: int
    writes: int
    pages: dict[int, int]


class UndoLog:
    """Called around every write and flush of a file. ``lock`` is held around a write and what is noted of it."""

    def __init__(self, path: str) -> None:
        self.lock = threading.RLock()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._pages: dict[int, dict[int, UndoPage]] = defaultdict(dict)
        self._writes: dict[int, int] = defaultdict(int)
        self._flushes: dict[int, int] = defaultdict(int)

    def writing(self, descriptor: int, position: int, size: int) -> None:
        """``size`` bytes at ``position`` are about to be written."""
        facts = os.fstat(descriptor)
        inode = facts.st_ino
        self._writes[inode] += 1
        for number in range(position // PAGE_BYTES, (position + size + PAGE_BYTES - 1) // PAGE_BYTES):
            page = self._pages[inode].get(number)
            is_flushing = self._flushes[inode] > 0
            # The kernel may have written a page back by itself, or writes of the file may be durable at once: what it
            # holds then is on the disk, and going back further would accuse a sound storage.
            if page is not None and not page.doomed and not is_flushing and not _is_dirty(descriptor, number):
                page = None
            if page is None or is_flushing:
                content = os.pread(descriptor, PAGE_BYTES, number * PAGE_BYTES).rstrip(b"\0")
                if page is None:
                    page = self._pages[inode][number] = UndoPage(content)
                    self._write(_BEFORE, inode, number, content)
                if is_flushing:
                    page.newer = content
            page.writes += 1
            page.doomed = False

    def truncating(self, descriptor: int, size: int) -> None:
        """The file is about to get ``size``: what lay beyond it never comes back."""
        inode = os.fstat(descriptor).st_ino
        last, rest = divmod(size, PAGE_BYTES)
        if rest:
            self.writing(descriptor, size, 1)
        for number, page in list(self._pages[inode].items()):
            if number > last or (number == last and not rest):
                del self._pages[inode][number]
                self._write(_DURABLE, inode, number)
            elif number == last:
                page.before = page.before[:rest].rstrip(b"\0")
                page.newer = None if page.newer is None else page.newer[:rest].rstrip(b"\0")
                self._write(_BEFORE, inode, number, page.before)

    def forget(self, inode: int) -> None:
        """The inode stands for another file from now on, or for none."""
        self._pages.pop(inode, None)
        self._write(_FORGET, inode, 0)

    def flush_begins(self, descriptor: int) -> Flushing:
        """A flush of a file is about to be asked for."""
        inode = os.fstat(descriptor).st_ino
        self._flushes[inode] += 1
        pages = {number: page.writes for number, page in self._pages[inode].items() if not page.doomed}
        return Flushing(inode, self._writes[inode], pages)

    def flush_ended(self, descriptor: int, flushing: Flushing) -> None:
        """It succeeded. Believed, unless the file was left alone meanwhile and its pages are dirty all the same."""
        inode = flushing.inode
        untouched = self._writes[inode] == flushing.writes
        for number, writes in flushing.pages.items():
            page = self._pages[inode].get(number)
            if page is None or (untouched and _is_dirty(descriptor, number)):
                continue
            if page.writes == writes:
                del self._pages[inode][number]
                self._write(_DURABLE, inode, number)
            elif page.newer is not None:  # written again meanwhile: what it held just before that is believed flushed
                page.before = page.newer
                self._write(_BEFORE, inode, number, page.before)
        self._flush_over(inode)

    def flush_failed(self, flushing: Flushing) -> None:
        """It failed: what it was to write is lost, and clean from now on as far as the kernel is concerned."""
        for number in flushing.pages:
            page = self._pages[flushing.inode].get(number)
            if page is not None and page.writes == flushing.pages[number]:
                page.doomed = True
                self._write(_DOOMED, flushing.inode, number)
        self._flush_over(flushing.inode)

    def _flush_over(self, inode: int) -> None:
        self._flushes[inode] -= 1
        if not self._flushes[inode]:
            for page in self._pages[inode].values():
                page.newer = None

    def _write(self, kind: int, inode: int, number: int, content: bytes = b"") -> None:
        os.write(self._descriptor, _RECORD.pack(kind, len(content), inode, number) + content)


def _is_dirty(descriptor: int, number: int) -> bool:
    try:
        return dirty_pages(descriptor, number * PAGE_BYTES, PAGE_BYTES) > 0
    except OSError:
        return False


def read_undo(path: Path) -> Mapping[int, Mapping[int, tuple[bytes, bool]]]:
    """Return, by inode and page, the content before what was not flushed, and whether a failed flush took the rest.

    A record that the end of the child cut short is left out: what it was to note had not begun.
    """
    found: dict[int, dict[int, tuple[bytes, bool]]] = defaultdict(dict)
    for kind, inode, number, content in _records(path):
        pages = found[inode]
        if kind == _BEFORE:
            pages[number] = (content, False)
        elif kind == _DOOMED and number in pages:
            pages[number] = (pages[number][0], True)
        elif kind == _FORGET:
            pages.clear()
        elif kind == _DURABLE:
            pages.pop(number, None)
    return found


def _records(path: Path) -> Iterable[tuple[int, int, int, bytes]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    position = 0
    while position + _RECORD.size <= len(data):
        kind, size, inode, number = _RECORD.unpack_from(data, position)
        position += _RECORD.size
        if position + size > len(data):
            return
        yield kind, inode, number, data[position : position + size]
        position += size
