"""URLs that pick a part: ``scheme://rest?option=value``.

``rest`` belongs to the part (a path, an address, a name); the query fills the part's options. Nothing is guessed: an
empty scheme, a second ``?`` or a repeated option is an error that names the URL.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import quote, unquote

import attrs

from mqcore.errors import ConfigurationError

__all__ = ["Url"]

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*\Z")


@attrs.frozen
class Url:
    """A parsed URL: ``scheme``, ``rest`` (percent-decoded) and ``query`` (decoded, in order)."""

    scheme: str
    rest: str
    query: Mapping[str, str] = attrs.field(factory=dict, hash=False)

    @classmethod
    def parse(cls, text: str) -> Url:
        """Return the parts of ``text``; raises ``ConfigurationError`` naming it."""
        scheme, separator, tail = text.partition("://")
        if not separator or not _SCHEME.match(scheme):
            raise ConfigurationError(
                f"{text!r} is not a URL of a part: write SCHEME://..., such as mmap:///var/lib/mq or tcp://127.0.0.1:7400"
            )
        rest, _, query_text = tail.partition("?")
        query: dict[str, str] = {}
        for item in query_text.split("&") if query_text else ():
            name, equals, value = item.partition("=")
            name = _unquoted(name)
            if not equals or not name:
                raise ConfigurationError(f"{text!r}: {item!r} is not of the form option=value")
            if name in query:
                raise ConfigurationError(f"{text!r}: option {name!r} is given twice")
            query[name] = _unquoted(value)
        rest = _unquoted(rest)
        if any(ord(character) < 32 or ord(character) == 127 for character in rest):
            raise ConfigurationError(f"{text!r}: control characters are not allowed")
        return cls(scheme, rest, query)

    @property
    def path(self) -> str:
        """``rest`` as an absolute path; raises ``ConfigurationError`` when it is not one."""
        if not self.rest.startswith("/"):
            raise ConfigurationError(f"{self}: needs an absolute path, as in {self.scheme}:///var/lib/mq")
        return self.rest

    @property
    def address(self) -> tuple[str, int]:
        """``rest`` as host and port (IPv6 in brackets); raises ``ConfigurationError`` when it is not one."""
        host, separator, port_text = self.rest.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            separator = ""
        if not separator or not host or not port_text.isascii() or not port_text.isdigit() or int(port_text) > 65535:
            raise ConfigurationError(f"{self}: needs HOST:PORT (port 0 to 65535), as in {self.scheme}://127.0.0.1:7400")
        return host, int(port_text)

    @property
    def is_loopback(self) -> bool:
        """Whether its host is this machine's loopback, which no other machine reaches; False where it has no host."""
        try:
            host = self.address[0]
        except ConfigurationError:
            return False
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def __str__(self) -> str:
        query = "&".join(f"{_quoted(name, '/')}={_quoted(value, '/:,')}" for name, value in self.query.items())
        return f"{self.scheme}://{_quoted(self.rest, '/:,[]@')}" + (f"?{query}" if query else "")


# A path need not be UTF-8. Its other bytes are surrogates in Python's text, as ``os.fsdecode`` makes them, and stand as
# ``%FF`` in a URL: the standard library's default would make another name of them.


def _quoted(text: str, safe: str) -> str:
    return quote(text, safe=safe, errors="surrogateescape")


def _unquoted(text: str) -> str:
    return unquote(text, errors="surrogateescape")
