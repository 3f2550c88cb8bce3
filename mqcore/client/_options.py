"""Options of a client, a producer and a consumer, as attrs classes. Must not know of sockets or the protocol."""

from __future__ import annotations

from typing import Literal

import attrs
from attrs import validators

from mqcore.abc import Credentials, Secret, TlsOptions, read_credentials
from mqcore.errors import ConfigurationError

__all__ = ["ClientOptions", "ConsumerOptions", "GroupOptions", "HandlingOptions", "Policy", "ProducerOptions"]

Policy = Literal["topic", "none", "async", "sync"]
"""When a send is acknowledged: as its topic says, at once, or by the asynchronous or synchronous flush policy."""

KIB = 1024
MIB = 1024 * KIB


def _number(default: int, minimum: int, *, help: str) -> int:
    return attrs.field(default=default, validator=validators.ge(minimum), metadata={"help": help})


def _path(help: str) -> str | None:
    value: str | None = attrs.field(default=None, metadata={"help": help})
    return value


@attrs.frozen(kw_only=True)
class ClientOptions:
    """Options of ``mqcore.connect``. Times in ms."""

    name: str = attrs.field(
        default="mqcore-python",
        validator=validators.max_len(200),
        metadata={"help": "what the broker calls this client in its status and log"},
    )
    connect_timeout_ms: int = _number(10_000, 1, help="time in which one of the servers has to answer, in ms")
    request_timeout_ms: int = _number(30_000, 1, help="time for the answer to an administrative request, in ms")
    keepalive_ms: int = _number(30_000, 1, help="silence after which the server is asked whether it lives, in ms")
    suspect_ms: int = _number(
        1_000, 1, help="the same where the cluster has other servers; as long again, and one of them is asked, in ms"
    )
    cert: str | None = _path("PEM file of the client's certificate, where the server asks for one")
    key: str | None = _path("PEM file of the key of that certificate")
    ca: str | None = _path("PEM file of the authorities that servers are believed by; unset: those of the system")
    server_name: str | None = _path("name that a server's certificate must have, where it is not the URL's host")
    user: str | None = attrs.field(default=None, metadata={"help": "name of the user to log in as; needs a password"})
    password: Secret | None = attrs.field(
        default=None, metadata={"help": "that user's password, as mqcore.abc.Secret: nothing shows it"}
    )
    password_file: str | None = _path("file with that user's password, readable by its owner only")
    token_file: str | None = _path("file with a token to log in with, readable by its owner only")
    retry_ms_min: int = _number(50, 1, help="first pause before something is tried again, in ms")
    retry_ms_max: int = _number(2_000, 1, help="longest pause before something is tried again, in ms")

    @property
    def tls(self) -> TlsOptions:
        """What an encrypting transport is given."""
        return TlsOptions(cert=self.cert, key=self.key, ca=self.ca, server_name=self.server_name)

    def credentials(self) -> Credentials | None:
        """Return what to log in with, files read; None where nothing is named. Raises ``ConfigurationError``."""
        if self.password is None:
            return read_credentials(user=self.user, password_file=self.password_file, token_file=self.token_file)
        if self.user is None or self.password_file is not None or self.token_file is not None:
            raise ConfigurationError("password goes with user, and with no password_file or token_file beside it")
        return Credentials(user=self.user, password=self.password)


@attrs.frozen(kw_only=True)
class ProducerOptions:
    """Options of ``client.producer``. Sizes in bytes, times in ms."""

    linger_ms: int = _number(0, 0, help="how long a batch that is not full waits for more messages, in ms")
    batch_bytes: int = _number(256 * KIB, 1, help="payload at which a batch is full; a larger message goes alone")
    batch_messages: int = _number(16_384, 1, help="messages at which a batch is full")
    batches_in_flight_max: int = attrs.field(
        default=16,
        validator=[validators.ge(1), validators.le(64)],
        metadata={"help": "unanswered batches of one partition; the broker remembers 64 of a producer"},
    )
    buffer_bytes_max: int = _number(64 * MIB, 1, help="messages held by the producer; a sender waits beyond it")
    delivery_timeout_ms: int = _number(60_000, 1, help="time after which an unanswered send ends, in ms")
    policy: Policy = attrs.field(
        default="topic",
        validator=validators.in_(("topic", "none", "async", "sync")),
        metadata={"help": "when a send is acknowledged: topic (its policy), none, async or sync"},
    )
    codec: str = attrs.field(default="none", metadata={"help": "compression: none, zlib, zstandard, lz4"})


@attrs.frozen(kw_only=True)
class ConsumerOptions:
    """Options of ``client.consumer``. Sizes in bytes, times in ms."""

    fetch_bytes: int = _number(1 * MIB, 1, help="most bytes of one answer; a larger batch comes alone")
    prefetch_bytes: int = _number(16 * MIB, 1, help="bytes asked for ahead of the reader, over all partitions")
    wait_ms: int = attrs.field(
        default=20_000,
        validator=[validators.ge(1), validators.le(60_000)],
        metadata={"help": "how long the broker holds a request while there is nothing to read, in ms"},
    )
    read_from: Literal["primary", "any", "replica-when-primary-is-gone"] = attrs.field(
        default="primary",
        validator=validators.in_(("primary", "any", "replica-when-primary-is-gone")),
        metadata={
            "help": "node of the owning set to read: the primary; any, which may be behind; a replica only while "
            "there is no primary"
        },
    )
    on_trimmed: Literal["error", "earliest", "latest"] = attrs.field(
        default="error",
        validator=validators.in_(("error", "earliest", "latest")),
        metadata={
            "help": "a position that retention has taken: error is raised once, or reading goes on at the earliest "
            "message that there is, or after the latest one"
        },
    )
    tags: tuple[str, ...] = attrs.field(
        default=(), metadata={"help": "messages with one of these tags, chosen by the broker; unset: all"}
    )
    refresh_ms: int = _number(5_000, 1, help="how often a consumer of a whole topic looks for new partitions, in ms")


@attrs.frozen(kw_only=True)
class HandlingOptions:
    """Options of ``client.handle``. Sizes in bytes, times in ms."""

    order: Literal["partition", "key"] = attrs.field(
        default="partition",
        validator=validators.in_(("partition", "key")),
        metadata={"help": "what is handled one after the other: each partition, or each key; without a key, nothing"},
    )
    in_flight_max: int = _number(16, 1, help="messages of one partition that are handled at once, where order allows")
    held_max: int = _number(10_000, 1, help="messages that were read and are not done; reading waits beyond it")
    attempts_max: int = _number(5, 1, help="attempts at a message before it goes to the dead-letter topic")
    pause_ms_first: int = _number(1_000, 0, help="pause before the second attempt, in ms; it doubles from then on")
    pause_ms_max: int = _number(60_000, 0, help="longest pause between two attempts, in ms")
    handler_timeout_ms: int = _number(60_000, 1, help="time after which a handler is cancelled and has failed, in ms")
    filter: str | None = attrs.field(
        default=None,
        metadata={"help": "NAME:EXPRESSION of a filter; what it does not match is done without the handler"},
    )
    dead_letter: str | None = attrs.field(
        default=None, metadata={"help": "the dead-letter topic; unset: the one that the topic names, if it does"}
    )
    dead_letter_timeout_ms: int = _number(30_000, 1, help="time in which the dead-letter topic has to take one, in ms")
    commit_interval_ms: int = _number(1_000, 1, help="how often what is done is committed for a group, in ms")
    recovery_dir: str | None = attrs.field(
        default=None, metadata={"help": "folder of this consumer's own for what cannot go to a dead-letter topic"}
    )
    recovery_bytes_max: int = _number(256 * MIB, 4 * KIB, help="largest size of what is kept there")
    recovery_pause_ms: int = _number(30_000, 1, help="how often what is kept there is tried again, in ms")


@attrs.frozen(kw_only=True)
class GroupOptions(ConsumerOptions):
    """Options of ``client.consumer`` with a ``group``, beside those of every consumer. Times in ms."""

    member: str = attrs.field(
        default="",
        validator=validators.max_len(200),
        metadata={"help": "name of this member, which no other one of the group may have; unset: one by chance"},
    )
    assignor: str = attrs.field(
        default="",
        validator=validators.max_len(200),
        metadata={"help": "how partitions are shared out: sticky, range, round-robin; unset: as the group does"},
    )
    session_ms: int = _number(
        10_000, 100, help="silence after which a member's partitions are given to the others, in ms"
    )
    rebalance_ms: int = _number(
        60_000, 100, help="time to be done with messages of a partition that is to be given up, in ms"
    )
    poll_interval_max_ms: int = _number(
        300_000,
        0,
        help="longest time in which the program asks for no message; then its partitions are given up until it asks, "
        "in ms; 0: none",
    )
    commit: Literal["auto", "manual"] = attrs.field(
        default="auto",
        validator=validators.in_(("auto", "manual")),
        metadata={"help": "auto: what was handled before the next message is asked for; manual: when told to"},
    )
    commit_interval_ms: int = _number(1_000, 1, help="how often what was handled is committed, where auto, in ms")
