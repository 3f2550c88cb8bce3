"""The disk after a power cut: a copy of a data folder in which nothing is newer than what a flush made durable.

Of each file the pages that were written and not flushed get what they held before (the child's undo log), unless the
kernel has written them back by itself; ranges that the disk was never given read zeros. Both are states that a power
cut may leave, so that a storage which keeps its promises is never accused. Not modelled here: directory entries and
sizes of files stay as they are, sectors of a page share its fate (the simulation has them).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from mqcore_conformance.broker_process.pages import PAGE_BYTES, dirty_pages, never_written
from mqcore_conformance.broker_process.undo import read_undo

COPY_BYTES = 1 << 20
_Pages = Mapping[int, tuple[bytes, bool]]


def cut_power(data: Path, undo: Path) -> int:
    """Replace the folder ``data``, which is not open, by its crash image; return how many pages lost something."""
    if not data.is_dir():
        return 0
    image = data.with_name(data.name + ".image")
    known = read_undo(undo)
    lost = 0
    for folder, _, names in os.walk(data):
        there = image / os.path.relpath(folder, data)
        there.mkdir(parents=True, mode=0o750)
        for name in names:
            source = Path(folder) / name
            if source.is_file() and not source.is_symlink():
                lost += _copy(source, there / name, known)
        _flush_folder(there)
    before = data.with_name(data.name + ".before")
    data.rename(before)
    image.rename(data)
    _flush_folder(data.parent)
    shutil.rmtree(before)
    return lost


def _copy(source: Path, target: Path, known: Mapping[int, _Pages]) -> int:
    old = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    new = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
    try:
        facts = os.fstat(old)
        lost = _contents_lost(old, facts.st_size, known.get(facts.st_ino, {}))
        for position in range(0, facts.st_size, COPY_BYTES):
            os.pwrite(new, os.pread(old, COPY_BYTES, position), position)
        for position, content in lost.items():
            os.pwrite(new, content[: facts.st_size - position], position)
        os.ftruncate(new, facts.st_size)
        os.fsync(new)
        return len(lost)
    finally:
        os.close(old)
        os.close(new)


def _contents_lost(descriptor: int, size: int, known: _Pages) -> dict[int, bytes]:
    """Position and content of the pages that the disk holds otherwise than the page cache."""
    found: dict[int, bytes] = {}
    for first, until in never_written(descriptor, size):
        for position in range(first, until, PAGE_BYTES):
            if os.pread(descriptor, PAGE_BYTES, position).strip(b"\0"):
                found[position] = bytes(PAGE_BYTES)
    for number, (before, doomed) in known.items():
        position = number * PAGE_BYTES
        if position >= size or position in found or not (doomed or dirty_pages(descriptor, position, PAGE_BYTES)):
            continue
        content = before.ljust(PAGE_BYTES, b"\0")
        if content[: size - position] != os.pread(descriptor, PAGE_BYTES, position):
            found[position] = content
    return found


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
