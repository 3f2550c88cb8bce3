"""The files of one directory: read, appended to and written anew under a lock, in calls that block.

A commit is one line at the end of its group's file, flushed. What this process did not flush itself is never taken for
durable: it is flushed, dropped from the cache and read again from the device before anyone acts on it, since after a
failed flush of another process the cache would show what the disk does not hold. Nothing is ever cut off: after a
failed append, or one that a crash tore, the next commit writes the file anew. Must not know of tasks or timeouts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import attrs

from mqcore.abc import CommitStamp, Cursor, CursorKey, GroupCursors
from mqcore.directories import SharedDirectory
from mqcore.errors import OffsetStoreFencedError, OffsetStoreOutcomeUnknownError
from mqcore.ports import FileSystem
from mqcore_file_offsets._format import (
    FILE_SUFFIX,
    OffsetFile,
    commit_line,
    decode_file,
    encode_file,
    file_name,
    group_of,
)

__all__ = ["CursorFiles"]

_HEAD_BYTES_MAX = 1_024
_GROWTH_MAX = 4


@attrs.define
class _Flushed:
    """What of a file this process has flushed: nothing else may be appended to."""

    inode: int
    size: int
    stamp: CommitStamp
    rewritten_size: int


class CursorFiles:
    """Groups by name in ``directory``.

    Calls raise ``OSError`` when nothing was changed, ``OffsetStoreOutcomeUnknownError`` when the change may or may not
    outlive a power cut, ``CorruptionError`` when a file is damaged, ``BlockingIOError`` when another process writes.
    """

    def __init__(self, files: FileSystem, directory: str, rewrite_bytes_min: int) -> None:
        self._files = files
        self._directory = SharedDirectory(files, directory)
        self._rewrite_bytes_min = rewrite_bytes_min
        self._flushed: dict[str, _Flushed] = {}

    def load(self, group: str) -> GroupCursors:
        """Return what the file of ``group`` holds, as the device has it."""
        found = self._durable(group, remember=False)  # without the lock the file may be replaced meanwhile
        return GroupCursors() if found is None else found.cursors

    def commit(
        self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor], deleted_topic: str | None = None
    ) -> None:
        """Add one commit. Raises ``OffsetStoreFencedError`` as ``OffsetStore.commit`` says."""
        self._directory.make()
        with self._directory.locked():
            known = self._flushed.get(group)
            if known is not None and self._is_as_flushed(group, known):
                last = known.stamp
            else:
                held = self._durable(group)
                known = self._flushed.get(group)
                last = CommitStamp() if held is None else held.cursors.stamp
            if stamp == last:
                return
            _check_stamp(stamp, last)
            if known is None or known.size > max(self._rewrite_bytes_min, known.rewritten_size * _GROWTH_MAX):
                self._write_anew(group, stamp, cursors, deleted_topic)
            else:
                self._append(group, known, stamp, commit_line(stamp, cursors, deleted_topic))

    def delete(self, group: str, stamp: CommitStamp) -> None:
        """Remove the file of ``group``. Raises as ``commit``."""
        try:
            with self._directory.locked():
                found = self._durable(group)
                if found is None or stamp == found.cursors.stamp:
                    return
                _check_stamp(stamp, found.cursors.stamp)
                self._flushed.pop(group, None)
                self._files.unlink(self._path(group))
                self._flush_directory()
        except FileNotFoundError:
            return  # there is not even a directory

    def groups(self) -> list[str]:
        """Return the group of every file."""
        found = []
        for name in self._directory.names():
            if name.endswith(FILE_SUFFIX):
                with contextlib.suppress(FileNotFoundError), self._directory.opened(name) as file:
                    found.append(group_of(file.pread(_HEAD_BYTES_MAX, 0), file.path))
        return sorted(found)

    def _is_as_flushed(self, group: str, known: _Flushed) -> bool:
        try:
            facts = self._files.stat(self._path(group))
        except FileNotFoundError:
            return False
        return (facts.inode, facts.size_bytes) == (known.inode, known.size)

    def _durable(self, group: str, *, remember: bool = True) -> OffsetFile | None:
        """Return what the device holds of ``group``, None if nothing; what is not torn may be appended to then."""
        known = self._flushed.get(group)
        try:
            with self._directory.opened(file_name(group), write=True) as file:
                if known is None or not self._is_as_flushed(group, known):
                    # What wrote it may have been killed before it was flushed, or its flush may have failed.
                    file.flush()
                    self._directory.flush()
                    file.drop_cache(0, 0)
                data = file.pread(file.size(), 0)
        except FileNotFoundError:
            self._flushed.pop(group, None)
            return None
        found = decode_file(data, self._path(group), group)
        if not remember:
            return found
        self._flushed.pop(group, None)
        if not found.torn_bytes:
            inode = self._files.stat(self._path(group)).inode
            self._flushed[group] = _Flushed(inode, len(data), found.cursors.stamp, len(data))
        return found

    def _append(self, group: str, known: _Flushed, stamp: CommitStamp, line: bytes) -> None:
        del self._flushed[group]  # until it is flushed, whatever happens
        with self._directory.opened(file_name(group), write=True) as file:
            file.pwritev([line], known.size)
            try:
                file.flush()
            except OSError as error:
                raise OffsetStoreOutcomeUnknownError(f"{file.path} was not flushed: {error}") from error
        self._flushed[group] = attrs.evolve(known, size=known.size + len(line), stamp=stamp)

    def _write_anew(
        self, group: str, stamp: CommitStamp, cursors: Mapping[CursorKey, Cursor], deleted_topic: str | None
    ) -> None:
        held = self._durable(group)
        self._flushed.pop(group, None)
        kept = {} if held is None else dict(held.cursors.cursors)
        kept = {key: cursor for key, cursor in kept.items() if key.topic != deleted_topic}
        data = encode_file(group, GroupCursors(stamp, {**kept, **cursors}))
        self._directory.replace(file_name(group), data)
        self._flush_directory()
        inode = self._files.stat(self._path(group)).inode
        self._flushed[group] = _Flushed(inode, len(data), stamp, len(data))

    def _path(self, group: str) -> str:
        return self._directory.path_of(file_name(group))

    def _flush_directory(self) -> None:
        try:
            self._directory.flush()
        except OSError as error:
            raise OffsetStoreOutcomeUnknownError(f"{self._directory.path} was not flushed: {error}") from error


def _check_stamp(stamp: CommitStamp, last: CommitStamp) -> None:
    if stamp < last:
        raise OffsetStoreFencedError(
            f"its last commit is of {_words(last)}, this one of {_words(stamp)}: another owner has the group; load it"
        )


def _words(stamp: CommitStamp) -> str:
    return f"generation {stamp.generation} number {stamp.number}"
