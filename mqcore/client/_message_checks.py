"""What one message may be: refused alone when it is posted, and frozen, so that nothing changes it while it waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mqcore.batch import HEADER_BYTES, HeaderPairs, MessageHeaders
from mqcore.errors import ConfigurationError, RejectedError
from mqcore.limits import Limits
from mqcore.ports import Buffer
from mqcore.protocol import Code

__all__ = [
    "TAG_BYTES_BESIDE",
    "check_bytes",
    "check_partition",
    "check_tag",
    "check_tags",
    "freeze",
    "freeze_headers",
    "too_large",
]

COLUMN_ENTRY_BYTES = 4
TAG_BYTES_BESIDE = 6
"""What one tag takes in a batch beside its own bytes: the message's number, the table's count, its length."""
HEADERS_COUNT_BYTES = 2
HEADER_LENGTHS_BYTES = 6


def freeze(data: Buffer, what: str) -> bytes:
    """Return ``data`` as bytes that cannot change while they wait; ``TypeError`` for what is not bytes."""
    if type(data) is bytes:
        return data
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"a message's {what} is bytes, not {type(data).__name__}: encode it first")
    return bytes(data)


def freeze_headers(headers: MessageHeaders) -> HeaderPairs:
    """Return ``headers`` as pairs of their own; ``ConfigurationError`` for what is no header.

    Looked at when the message is posted: later, the caller may have changed them, and a batch would be refused for the
    headers of one message.
    """
    if not headers:
        return ()
    try:
        pairs = tuple((name, content) for name, content in _pairs_of(headers))
    except (TypeError, ValueError):
        raise ConfigurationError(f"headers are a mapping, or pairs of name and bytes, not {headers!r:.100}") from None
    frozen: list[tuple[str, bytes]] = []
    for name, content in pairs:
        is_named = isinstance(name, str) and 0 < _utf8_bytes("header", name) <= 0xFFFF
        if not is_named or not isinstance(content, bytes | bytearray | memoryview):
            raise ConfigurationError(f"header {name!r:.100}: a header is a name of 1 to 65535 bytes and bytes")
        frozen.append((name, bytes(content)))
    return tuple(frozen)


def _pairs_of(headers: Mapping[str, bytes] | Sequence[tuple[str, bytes]]) -> Iterable[tuple[str, bytes]]:
    return headers.items() if isinstance(headers, Mapping) else headers


def _utf8_bytes(what: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ConfigurationError(f"{what} {text!a:.100}: it cannot be written in UTF-8") from None


def check_tag(tag: str, limits: Limits) -> int:
    """Return the bytes of ``tag``; ``RejectedError`` names the limit that it exceeds, ``ConfigurationError`` no tag."""
    if not isinstance(tag, str) or not tag:
        raise ConfigurationError(f"tag {tag!r:.100}: a tag is text of at least one character")
    if not limits.batch_tags_max:
        text = f"tag {tag!r:.100}: tags are not taken (batch_tags_max is 0, or the broker is older than they are)"
        raise RejectedError(text, code=Code.LIMIT_REACHED, name=Code.LIMIT_REACHED.label)
    size = _utf8_bytes("tag", tag)
    _check("tag", size, limits.tag_bytes_max)
    return size


def check_tags(tags: Sequence[str], limits: Limits) -> None:
    """Raise ``ConfigurationError`` for tags that cannot be asked for, or too many at once."""
    if len(tags) > limits.fetch_tags_max:
        raise ConfigurationError(f"{len(tags)} tags; at most {limits.fetch_tags_max} may be asked for (fetch_tags_max)")
    for tag in tags:
        if not 0 < _utf8_bytes("tag", tag) <= limits.tag_bytes_max:
            raise ConfigurationError(f"tag {tag!r:.100}: a tag has 1 to {limits.tag_bytes_max} bytes (tag_bytes_max)")


def check_bytes(value: bytes, key: bytes | None, headers: HeaderPairs, tag: str | None, limits: Limits) -> int:
    """Return the bytes of key, headers and tag; ``RejectedError`` (message-too-large) names the limit that is exceeded.

    A message that would not even fit a batch of its own is refused here: in a batch, others would be refused with it.
    """
    _check("message", len(value), limits.message_bytes_max)
    key_bytes = 0 if key is None else len(key)
    _check("key", key_bytes, limits.key_bytes_max)
    headers_bytes = 0
    if headers:
        headers_bytes = HEADERS_COUNT_BYTES + sum(
            HEADER_LENGTHS_BYTES + len(name.encode()) + len(content) for name, content in headers
        )
        _check("headers", headers_bytes, limits.headers_bytes_max)
    columns = 1 + (key is not None) + bool(headers)
    alone = HEADER_BYTES + columns * COLUMN_ENTRY_BYTES + len(value) + key_bytes + headers_bytes
    tag_bytes = 0
    if tag is not None:
        tag_bytes = check_tag(tag, limits)
        alone += TAG_BYTES_BESIDE + tag_bytes
    _check("message, alone in a batch,", alone, limits.batch_bytes_max)
    return key_bytes + headers_bytes + tag_bytes


def _check(what: str, size: int, most: int) -> None:
    if size > most:
        raise too_large(what, size, most, Code.MESSAGE_TOO_LARGE)


def too_large(what: str, size: int, most: int, code: Code) -> RejectedError:
    """The refusal of something of ``size`` bytes where ``most`` are allowed."""
    return RejectedError(f"{what} of {size} bytes; at most {most} are allowed", code=code, name=code.label)


def check_partition(topic: str, partition: int, partitions: int) -> None:
    """Raise ``ConfigurationError`` unless a topic with so many ``partitions`` has this one."""
    if not 0 <= partition < partitions:
        raise ConfigurationError(f"topic {topic!r} has partitions 0 to {partitions - 1}, not {partition}")
