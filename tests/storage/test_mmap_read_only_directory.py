"""A directory that nothing can be written to: what helps depends on why."""

from __future__ import annotations

import errno
import os

import pytest

from mqcore_mmap._errors import storage_error


@pytest.mark.parametrize(("number", "remedy"), [(errno.EROFS, "ReadWritePaths="), (errno.EACCES, "write permission")])
def test_g20_a_file_system_that_takes_no_writes_is_not_blamed_on_permissions(number: int, remedy: str) -> None:
    error = storage_error(OSError(number, os.strerror(number)), "open storage", "/data")
    assert error.kind == "permission"
    assert str(error).count("write permission") + str(error).count("ReadWritePaths=") == 1
    assert remedy in str(error)
