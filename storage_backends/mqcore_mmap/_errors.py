"""What an error of the operating system means to a caller of the storage."""

from __future__ import annotations

import errno

from mqcore.errors import StorageError

__all__ = ["is_full", "is_scarcity", "storage_error"]

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_KINDS = {
    errno.EMFILE: ("too-many-files", True),
    errno.ENFILE: ("too-many-files", True),
    errno.EACCES: ("permission", False),
    errno.EPERM: ("permission", False),
    errno.EROFS: ("permission", False),
    errno.ENOENT: ("missing", False),
}
_REMEDIES = {
    "full": "free space on its disk, or delete topics",
    "too-many-files": "raise the limit on open files (ulimit -n), or lower open_files_max",
    "permission": "give this user write permission, or choose another directory",
    "missing": "restore the file from a copy",
    "io": "look at the device",
}
_REMEDY_OF_READ_ONLY = "mount it for writing (in a systemd unit: ReadWritePaths=), or choose another directory"
"""Permissions do not help where the whole file system, or a supervisor's view of it, takes no writes."""


def is_full(error: OSError) -> bool:
    """Whether ``error`` says that there is no space."""
    return error.errno in _FULL


def is_scarcity(error: OSError) -> bool:
    """Whether ``error`` says that there is no space or no descriptor; what was asked for has not begun then."""
    return is_full(error) or error.errno in (errno.EMFILE, errno.ENFILE)


def storage_error(
    error: OSError, doing: str, path: str, *, position: int | None = None, appended: bool = False
) -> StorageError:
    """Return the ``StorageError`` that says what failed while ``doing``, where, and what would help."""
    kind, retryable = ("full", True) if is_full(error) else _KINDS.get(error.errno or 0, ("io", False))
    remedy = _REMEDY_OF_READ_ONLY if error.errno == errno.EROFS else _REMEDIES[kind]
    where = path if position is None else f"{path} at position {position}"
    return StorageError(
        f"cannot {doing} {where}: {error.strerror or error}; {remedy}",
        kind=kind,
        retryable=retryable,
        path=path,
        position=position,
        appended=appended,
    )
