"""A value made from files, and made anew when they change: certificates above all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from mqcore.abc import Notice
from mqcore.certificates import open_key_text
from mqcore.errors import TransportError

__all__ = ["FollowedFiles"]

T = TypeVar("T")


class FollowedFiles(Generic[T]):
    """What ``make`` returns from the files at ``paths``, for the listener or connection at ``url``.

    A change that cannot be loaded is reported once (``certificate-not-loaded``), and what was there before stays. So is
    ``key``, one of the paths, where others than its owner may read it (``key-file-readable``). ``make`` raises
    ``TransportError``; so does the constructor.
    """

    def __init__(
        self,
        make: Callable[[], T],
        paths: Sequence[str],
        url: str,
        report: Callable[[Notice], None],
        *,
        key: str | None = None,
    ) -> None:
        self._make = make
        self._paths = tuple(paths)
        self._url = url
        self._report = report
        self._key = key
        self._seen = self._look()
        self._value = make()
        self._look_at_key()

    def current(self) -> T:
        """Return the value of the files as they are now."""
        seen = self._look()
        if seen != self._seen:
            self._seen = seen
            try:
                self._value = self._make()
            except TransportError as error:
                text = f"{error}; going on with the certificate from before"
                self._report(Notice("certificate-not-loaded", text, {"url": self._url}))
            else:
                text = f"{self._url}: certificates were read again, as their files have changed"
                self._report(Notice("certificate-loaded", text, {"url": self._url}))
                self._look_at_key()
        return self._value

    def _look_at_key(self) -> None:
        if self._key is not None and (text := open_key_text(self._key, self._url)):
            self._report(Notice("key-file-readable", text, {"url": self._url, "path": self._key}))

    def _look(self) -> list[tuple[int, int, int] | None]:
        """What tells whether a file is another one: a renamed or a rewritten one is."""
        marks: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                stat = os.stat(path)
            except (OSError, ValueError):  # the latter of a NUL byte in the path
                marks.append(None)
            else:
                marks.append((stat.st_ino, stat.st_mtime_ns, stat.st_size))
        return marks
