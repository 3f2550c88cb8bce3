"""Wire codes: what a failed request or a broken connection is told. One table, used in both directions.

A code never changes its meaning; a peer that does not know one treats it by its class: 100 to 199 rejected (nothing was
appended), 200 to 299 outcome unknown, 300 to 399 a read that cannot be answered, 1 to 99 the connection is over.
"""

from __future__ import annotations

import enum

from mqcore.errors import (
    CommandNotPossibleError,
    ConfigurationError,
    LostFromError,
    MqcoreError,
    NotPrimaryError,
    OutcomeUnknownError,
    ProducerFencedError,
    RefusedError,
    RejectedError,
    RemoteProtocolError,
)

__all__ = ["Code", "RequestFailedError", "error_for"]


class Code(enum.IntEnum):
    """Why something failed."""

    # 1 to 99: the connection is over
    NOT_THIS_PROTOCOL = 1
    VERSION = 2
    MALFORMED_FRAME = 3
    FRAME_TOO_LARGE = 4
    UNEXPECTED_FRAME = 5
    CREDIT_EXCEEDED = 6
    HANDSHAKE_TIMEOUT = 7
    STALLED = 8
    TOO_MANY_CONNECTIONS = 9
    UNKNOWN_SESSION = 10
    SHUTTING_DOWN = 11
    WRONG_SET = 12
    WRONG_EPOCH = 13
    LOGIN_REQUIRED = 14
    LOGIN_FAILED = 15
    UNKNOWN_MECHANISM = 16
    TOO_MANY_LOGINS = 17
    # 100 to 199: rejected before a byte was appended
    UNKNOWN_TOPIC = 100
    UNKNOWN_PARTITION = 101
    MALFORMED_BATCH = 102
    BATCH_TOO_LARGE = 103
    MESSAGE_TOO_LARGE = 104
    CHECKSUM = 105
    UNKNOWN_CODEC = 106
    POLICY_TOO_WEAK = 107
    POLICY_TOO_STRONG = 108
    SEQUENCE_GAP = 109
    SEQUENCE_FENCED = 110
    TOO_MANY_PRODUCERS = 111
    STORAGE_FULL = 112
    TOO_MANY_FILES = 113
    STORAGE_STOPPED = 114
    NOT_PRIMARY = 115
    DRAINING = 116
    TOPIC_EXISTS = 117
    INVALID_REQUEST = 118
    UNKNOWN_OPERATION = 119
    LIMIT_REACHED = 120
    SEQUENCE_CONFLICT = 122
    REFUSED = 123
    LOST_FROM = 124
    TOO_FEW_COPIES = 125
    STORAGE_DEGRADED = 126
    ACCESS_DENIED = 127
    MEMBER_IN_USE = 128
    UNKNOWN_ASSIGNOR = 129
    NOT_OWNER = 130
    CURSOR_PAST_END = 131
    UNKNOWN_GROUP = 132
    GROUP_IN_USE = 133
    CURSORS_NOT_READY = 134
    OVERTAKEN = 135
    PRODUCER_FENCED = 136
    UNKNOWN_PRODUCER = 137
    # 200 to 299: outcome unknown
    FLUSH_FAILED = 200
    APPEND_FAILED = 201
    SEQUENCE_TOO_OLD = 203
    # 300 to 399: a read that cannot be answered
    BELOW_START = 300
    DIVERGED = 301
    DAMAGED = 302
    READ_FAILED = 303
    NOT_YET = 304

    @property
    def label(self) -> str:
        """The stable name, such as ``unknown-topic``."""
        return self.name.lower().replace("_", "-")

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later without anybody's help."""
        return self in _RETRYABLE


_RETRYABLE = frozenset(
    {
        Code.TOO_MANY_CONNECTIONS,
        Code.TOO_MANY_LOGINS,
        Code.SHUTTING_DOWN,
        Code.STORAGE_FULL,
        Code.STORAGE_DEGRADED,
        Code.TOO_MANY_FILES,
        Code.NOT_PRIMARY,
        Code.DRAINING,
        Code.CURSORS_NOT_READY,
        Code.FLUSH_FAILED,
        Code.APPEND_FAILED,
        Code.NOT_YET,
    }
)


class RequestFailedError(CommandNotPossibleError):
    """A request was answered with a code of the 300s or an administrative refusal.

    ``code`` is the wire code, ``name`` its label, ``facts`` what the peer told with it (such as offsets).
    """

    def __init__(self, message: str, *, code: int, facts: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.name = Code(code).label if code in Code._value2member_map_ else str(code)
        self.facts = facts or {}


def error_for(code: int, message: str, facts: dict[str, object] | None = None) -> MqcoreError:
    """Return the exception that stands for a failed request, by the class of its code."""
    known = Code(code) if code in Code._value2member_map_ else None
    if known is Code.REFUSED:
        return RefusedError(message)
    if known is Code.INVALID_REQUEST:
        return ConfigurationError(message)
    # Facts are the peer's word: what has not the type that it should have is treated as not stated.
    facts = facts or {}
    if known is Code.NOT_PRIMARY:
        epoch, urls = facts.get("epoch"), facts.get("urls")
        return NotPrimaryError(
            message,
            code=code,
            epoch=epoch if isinstance(epoch, int) else 0,
            urls=[url for url in urls if isinstance(url, str)] if isinstance(urls, list) else (),
        )
    if known is Code.LOST_FROM and isinstance(sequence := facts.get("sequence"), int):
        return LostFromError(message, code=code, sequence=sequence)
    if known is Code.PRODUCER_FENCED:
        name, epoch, identity = facts.get("name"), facts.get("epoch"), facts.get("producer_id")
        return ProducerFencedError(
            message,
            code=code,
            producer_name=name if isinstance(name, str) else "",
            epoch=epoch if isinstance(epoch, int) else 0,
            producer_id=identity if isinstance(identity, int) else 0,
        )
    if 100 <= code < 200:
        return RejectedError(
            message, code=code, name=known.label if known else str(code), retryable=bool(known and known.retryable)
        )
    if 200 <= code < 300:
        return OutcomeUnknownError(message)
    if 300 <= code < 400:
        return RequestFailedError(message, code=code, facts=facts)
    return RemoteProtocolError(message, code=code)
