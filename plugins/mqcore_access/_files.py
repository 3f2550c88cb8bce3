"""Files with secrets in them: read only where nobody else can read them, read again when they changed, replaced whole.

Must not know what their lines mean.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from mqcore.abc import FileStamp, Notice, read_private_file
from mqcore.errors import ConfigurationError

__all__ = ["WatchedFile", "replace_private"]

T = TypeVar("T")


def replace_private(path: str, lines: Sequence[str]) -> None:
    """Write ``lines`` to ``path`` as a whole: a reader, or a crash, finds the old file or the new one.

    Raises ``ConfigurationError``.
    """
    folder = os.path.dirname(os.path.abspath(path))
    try:
        # Made with mode 0600 by mkstemp, before there is anything in it.
        handle, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=folder)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


class WatchedFile(Generic[T]):
    """What a file says, read again when it has changed; one that cannot be used leaves what was known, and is reported.

    ``parse`` takes the text and the path, and raises ``ConfigurationError``.
    """

    def __init__(self, path: str, parse: Callable[[str, str], T], report: Callable[[Notice], None]) -> None:
        self._path = path
        self._parse = parse
        self._report = report
        self._stamp: FileStamp | None = None
        self._value: T | None = None
        self._told: str | None = None

    def open(self) -> None:
        """Read the file for the first time. Raises ``ConfigurationError``."""
        text, self._stamp = read_private_file(self._path)
        self._value = self._parse(text, self._path)

    @property
    def value(self) -> T:
        """What the file says now."""
        try:
            if FileStamp.of(os.stat(self._path)) != self._stamp:
                text, stamp = read_private_file(self._path)
                self._value, self._stamp = self._parse(text, self._path), stamp
                self._told = None
        except (OSError, ConfigurationError) as error:
            text = str(error)
            if text != self._told:
                self._told = text
                self._report(Notice("access-file", f"{text}; what it said before goes on counting"))
        assert self._value is not None, "open() first"
        return self._value
