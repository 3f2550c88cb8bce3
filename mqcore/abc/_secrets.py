"""Secrets: values that nothing shows by accident, and files of them that nobody else can read.

Must not know what a secret is for.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

import attrs

from mqcore.errors import ConfigurationError

__all__ = ["Credentials", "FileStamp", "Secret", "read_credentials", "read_private_file"]

FILE_BYTES_MAX = 16 * 1024 * 1024
SECRET_BYTES_MAX = 1024


class Secret:
    """A text that no ``repr``, ``str``, JSON or pickle shows. ``reveal()`` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one function that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"

    def __reduce__(self) -> str:
        raise TypeError("a secret is not pickled")


@attrs.frozen(kw_only=True)
class Credentials:
    """What an end that connects may say of itself: a user's name and a password, a token, or nothing."""

    user: str | None = None
    password: Secret | None = None
    token: Secret | None = None


class FileStamp(NamedTuple):
    """What changes when a file is replaced or written."""

    inode: int
    size: int
    mtime_ns: int
    mode: int

    @classmethod
    def of(cls, facts: os.stat_result) -> FileStamp:
        """Return the stamp of a file as ``os.stat`` has it."""
        return cls(facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_mode)


def read_private_file(path: str) -> tuple[str, FileStamp]:
    """Return the text of a file that its owner alone can read, and its stamp.

    Raises ``ConfigurationError`` naming the file and the remedy: readable by others, no plain file, ...
    """
    if "\0" in path:
        raise ConfigurationError(f"{path!r} has a NUL byte in it, which no path can have: leave it out")
    try:
        # Opened first and judged by its descriptor: what is read is what was looked at. Not blocking, for a FIFO.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise ConfigurationError(f"{path}: no plain file")
            if facts.st_mode & 0o077:
                mode = stat.S_IMODE(facts.st_mode)
                raise ConfigurationError(
                    f"{path}: its mode is {mode:04o}, so that others can get at what is secret in it: chmod 600 {path}"
                )
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(FILE_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > FILE_BYTES_MAX:
        raise ConfigurationError(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    try:
        return data.decode(), FileStamp.of(facts)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 at byte {error.start}") from None


def _secret_in(path: str) -> Secret:
    text = read_private_file(path)[0].rstrip("\r\n")
    if not text or "\n" in text or len(text.encode()) > SECRET_BYTES_MAX:
        raise ConfigurationError(f"{path}: it has to be one line of at most {SECRET_BYTES_MAX} bytes, and nothing else")
    return Secret(text)


def read_credentials(
    *, user: str | None = None, password_file: str | None = None, token_file: str | None = None
) -> Credentials | None:
    """Return what the files say, None where none is named. Raises ``ConfigurationError``."""
    if user is None and password_file is None and token_file is None:
        return None
    if (user is None) != (password_file is None):
        raise ConfigurationError("user and password_file go together: name both or neither")
    return Credentials(
        user=user,
        password=None if password_file is None else _secret_in(password_file),
        token=None if token_file is None else _secret_in(token_file),
    )
