"""The files of checksums beside a member's storage: see ``_sums`` for what they say. All calls block, in one thread."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from mqcore.errors import StorageError
from mqcore_raid._directory import SUMS_NAME, MemberDirectory
from mqcore_raid._sums import SUM_BYTES, encode_void, newest_block

__all__ = ["SCRUB_NAME", "append_sums", "check_voided", "drop_sums", "keep_scrub", "read_sums", "void_sums"]

SCRUB_NAME = ".scrub"
"""No log is called so: names of logs do not begin with a dot."""
SUMS_BYTES_MAX = 64 * 1024 * 1024


def append_sums(directory: MemberDirectory, name: str, data: bytes) -> None:
    """Put ``data`` at the end of the checksums of the log ``name``, which are there or made. Raises ``OSError``."""
    directory.files.make_directory(f"{directory.path}/{SUMS_NAME}")
    _append(directory, name, data, create=True, flush=False)


def _append(directory: MemberDirectory, name: str, data: bytes, *, create: bool, flush: bool) -> None:
    file = directory.files.open(f"{directory.path}/{SUMS_NAME}/{name}", create=create)
    try:
        size = file.size()
        file.pwritev([data], size - size % SUM_BYTES)  # over what a full disk or a crash has left of an entry
        if flush:
            file.flush()
    finally:
        file.close()


def void_sums(directory: MemberDirectory, name: str, first: int) -> None:
    """Have the checksums of the log ``name`` say, durably, that from block ``first`` on they are old.

    Without room for that the file goes. Never raises ``OSError``: ``check_voided`` does for it.
    """
    directory.stale_sums.discard(name)
    try:
        # Also those that were given up before: that may not be on the disk.
        if newest_block(read_sums(directory, name)) >= first:
            _append(directory, name, encode_void(first), create=False, flush=True)
    except FileNotFoundError:
        return
    except OSError:
        try:
            drop_sums(directory, name)
        except OSError:
            directory.stale_sums.add(name)


def check_voided(directory: MemberDirectory, names: Collection[str]) -> None:
    """Raise ``StorageError`` where checksums of one of ``names`` are old and cannot be given up."""
    for name in directory.stale_sums.intersection(names):
        raise StorageError(
            f"{directory.path}/{SUMS_NAME}/{name} is old and can neither be written nor removed",
            kind="flush",
            path=directory.path,
        )


def drop_sums(directory: MemberDirectory, name: str) -> None:
    """Remove the checksums of the log ``name``, durably, if there are any. Raises ``OSError``."""
    folder = f"{directory.path}/{SUMS_NAME}"
    with contextlib.suppress(FileNotFoundError):
        directory.files.unlink(f"{folder}/{name}")
        directory.files.flush_directory(folder)


def keep_scrub(directory: MemberDirectory, data: bytes) -> None:
    """Keep what the last scrub found beside the checksums. Raises ``OSError``."""
    directory.files.make_directory(f"{directory.path}/{SUMS_NAME}")
    file = directory.files.open(f"{directory.path}/{SUMS_NAME}/{SCRUB_NAME}", create=True)
    try:
        file.truncate(0)
        file.pwritev([data], 0)
    finally:
        file.close()


def read_sums(directory: MemberDirectory, name: str) -> bytes:
    """The checksums of the log ``name``. Raises ``OSError`` where there are none."""
    file = directory.files.open(f"{directory.path}/{SUMS_NAME}/{name}", write=False)
    try:
        return file.pread(SUMS_BYTES_MAX, 0)
    finally:
        file.close()
