"""Contracts of who somebody is (``Authenticator``) and of what they may do (``Authorizer``).

Identity belongs to the link. An authenticator reads it from the link's peer, or from a login whose bytes it alone
understands; both ends of a login are state machines without I/O. A principal is a text ``kind:name``, such as
``user:alice``: its kind says who vouches for the name. Secrets stay inside: no message or ``repr`` of a part has one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeAlias

import attrs

from mqcore.abc._context import Notice, ignore_notice
from mqcore.abc._secrets import Credentials
from mqcore.abc._transport import Peer, Transport
from mqcore.errors import MqcoreError

__all__ = [
    "ANONYMOUS",
    "OPERATIONS",
    "AccessContext",
    "AccessRule",
    "Authenticator",
    "Authorizer",
    "Decision",
    "LoginClient",
    "LoginRefusedError",
    "LoginServer",
    "Operation",
    "Proof",
]

ANONYMOUS = "anonymous"
"""The principal of a link that no authenticator knows, where none is configured."""

Operation: TypeAlias = Literal[
    "produce", "consume", "describe", "create", "alter", "delete", "manage", "operate", "replicate"
]
"""One of ``OPERATIONS``."""
OPERATIONS: tuple[Operation, ...] = (
    "produce",
    "consume",
    "describe",
    "create",
    "alter",
    "delete",
    "manage",
    "operate",
    "replicate",
)
"""What a rule may be about."""
_RESOURCES = "topic:NAME, group:NAME, producer:NAME, cluster, quarantine, part:SCHEME, or *"


class LoginRefusedError(MqcoreError):
    """A login failed. The message is for the operator: the peer is never told which part of it was wrong.

    ``user`` is the name that the peer gave, as far as it had given one.
    """

    user: str | None = None


@attrs.frozen(kw_only=True)
class AccessContext:
    """What an authenticator or authorizer is given when it is composed; ``report`` takes what is worth knowing."""

    report: Callable[[Notice], None] = ignore_notice


@attrs.frozen
class Proof:
    """The end of a login that succeeded: who the peer is, and the mechanism's last word to it."""

    principal: str
    data: bytes = b""


class LoginServer(ABC):
    """The broker's end of one login. ``user`` is the name that the peer gave, for the operator; None: none yet."""

    user: str | None = None

    @abstractmethod
    def answer(self, response: bytes) -> bytes | Proof:
        """Return what to say to the client's ``response``: a challenge, or the proof with which it ends.

        Raises ``LoginRefusedError``; then the login is over. Neither time nor answer may tell an unknown name from a
        wrong secret.
        """


class LoginClient(ABC):
    """The client's end of one login."""

    @abstractmethod
    def begin(self) -> bytes:
        """Return the first response."""

    @abstractmethod
    def answer(self, challenge: bytes) -> bytes:
        """Return the response to a challenge. ``LoginRefusedError``: it is none of the mechanism."""

    @abstractmethod
    def finish(self, data: bytes) -> None:
        """Check the broker's last word. Raises ``LoginRefusedError`` where the broker does not prove itself by it."""


class Authenticator(ABC):
    """One way of knowing who a peer is, picked by its name. The constructor does no I/O.

    ``describe`` is what an operator reads of it; it contains no secret.
    """

    options_class: ClassVar[type[Any]]

    def __init__(self, name: str, options: Any, context: AccessContext) -> None:
        self.name = name
        self.options = options
        self.context = context

    def open(self) -> None:  # noqa: B027
        """Read what this part needs (such as a file of verifiers). Called once, before the broker listens; small files.

        Raises ``ConfigurationError`` naming the file and the remedy.
        """

    def principal_of(self, peer: Peer) -> str | None:
        """Return who the link's peer is, as the transport knows it; None where that says nothing."""
        return None

    def begin_login(self, peer: Peer) -> LoginServer | None:
        """Return the broker's end of a new login; None for a part that has no logins. Reads changed files first."""
        return None

    def lacks(self, listener: Transport) -> str:
        """Return what ``listener`` lacks for this part to know anybody who comes by it, with the remedy; else empty."""
        return ""

    def is_known(self, principal: str) -> bool:
        """Whether ``principal``, which this part gave, is still valid: a connection of one that is not is ended."""
        return True

    @classmethod
    def client(cls, credentials: Credentials) -> LoginClient | None:
        """Return the client's end of a login with ``credentials``; None where they are not for this mechanism."""
        return None


@attrs.frozen
class Decision:
    """Whether an operation is allowed, and the rule that says so, in words that its author recognises."""

    is_allowed: bool
    rule: str


def _are_operations(_: object, __: object, value: tuple[str, ...]) -> None:
    unknown = [name for name in value if name != "*" and name not in OPERATIONS]
    if unknown or not value:
        raise ValueError(f"unknown operation {', '.join(unknown) or '(none)'}; one of {', '.join(OPERATIONS)}, or *")


def _is_resource(_: object, __: object, value: str) -> None:
    if value not in ("*", "cluster", "quarantine") and not value.startswith(("topic:", "group:", "producer:", "part:")):
        raise ValueError(f"unknown resource {value!r}; {_RESOURCES}")


@attrs.frozen(kw_only=True)
class AccessRule:
    """Table ``[[access.rules]]``: what principals may do, or may not. A deny wins over every allow.

    Patterns: ``*`` stands for any text, everything else for itself.
    """

    principal: str = attrs.field(metadata={"help": "pattern of principals, such as user:alice or tls:CN=node-*"})
    resource: str = attrs.field(
        validator=_is_resource,
        metadata={"help": f"pattern of resources: {_RESOURCES}"},
    )
    operations: tuple[str, ...] = attrs.field(
        validator=_are_operations, metadata={"help": "the operations, or * for all of them"}
    )
    effect: Literal["allow", "deny"] = attrs.field(
        default="allow", metadata={"help": "allow or deny; whatever no rule allows is denied"}
    )

    @property
    def words(self) -> str:
        """The rule as a denied operation names it."""
        return f"{self.effect} {self.principal} {','.join(self.operations)} on {self.resource}"


class Authorizer(ABC):
    """Decides what a principal may do. The constructor does no I/O.

    ``version`` changes whenever an earlier decision may be another one now: decisions are kept until then.
    """

    options_class: ClassVar[type[Any]]
    version: int = 0

    def __init__(self, name: str, options: Any, rules: tuple[AccessRule, ...], context: AccessContext) -> None:
        self.name = name
        self.options = options
        self.rules = rules
        self.context = context

    @abstractmethod
    def decide(self, principal: str, operation: Operation, resource: str) -> Decision:
        """Return whether ``principal`` may do ``operation`` to ``resource``; quick, without I/O, never raises."""
