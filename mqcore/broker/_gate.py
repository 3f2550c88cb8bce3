"""Who a peer is, and whether it may do what it asks: the one place where a broker decides either.

Identity belongs to the link: the transport brings it, or a login before the first frame of anything else. What was
decided is kept by each connection, so that a request costs one look into a set. Refusals are reported, a line each and
not more of them than an operator can read. Must not know topics, nor what a mechanism's bytes mean.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterable, Sequence

import trio

from mqcore.abc import (
    ANONYMOUS,
    AccessContext,
    Authenticator,
    ByteStream,
    Link,
    LoginRefusedError,
    LoginServer,
    Notice,
    Operation,
    Peer,
    Proof,
    Transport,
    Url,
)
from mqcore.broker._login_rate import LoginRate, origin_of
from mqcore.config import AccessTable, BrokerConfig, ClusterTable
from mqcore.errors import ConfigurationError, RejectedError, RemoteProtocolError
from mqcore.limits import Limits
from mqcore.protocol import (
    Accepted,
    AuthResponse,
    Challenge,
    Code,
    Fatal,
    Login,
    LoginBegin,
    LoginMessage,
    Mechanism,
    Role,
)
from mqcore.registry import create_authenticator, create_authorizer

__all__ = ["Gate", "Permit", "Visitor", "check_exposure"]

_TURNS_MAX = 8
_LINES_PER_S = 20.0
_LINES_AT_ONCE = 100.0
_TEXT_MAX = 200
_NAME_MAX = 300
_TOPICS_REMEMBERED_MAX = 100_000


def check_exposure(config: BrokerConfig, transports: Sequence[Transport]) -> str | None:
    """Return what to say at the start of a broker that anybody may use from elsewhere; None where that is not so.

    Raises ``ConfigurationError`` where nobody has said that this is meant.
    """
    if config.access is not None and config.access.authenticators:
        return None
    open_ones = [
        str(each.url)
        for each in transports
        if not (each.capabilities.local_only or each.capabilities.authenticated or each.is_loopback)
    ]
    texts = [f"{', '.join(open_ones)}: whoever reaches it may read, write and delete everything"] if open_ones else []
    if config.http is not None and not Url.parse(f"http://{config.http}").is_loopback:
        texts.append(f"http://{config.http}: whoever reaches it sees the names and figures of every topic")
    if not texts:
        return None
    text = "; ".join(texts)
    if not config.insecure:
        raise ConfigurationError(
            f"{text}; configure [access] (docs/security.md), listen on 127.0.0.1 or a Unix socket, or say --insecure"
        )
    return f"{text} (insecure = true)"


class Visitor:
    """Who is at the other end of ``link``, for all of its streams. ``principal``: None until that is known."""

    def __init__(self, link: Link) -> None:
        self.peer = link.peer
        self.admit = link.admit
        self.principal: str | None = None
        self.authenticator: Authenticator | None = None

    @property
    def is_known(self) -> bool:
        """Whether it is known who is there, and that one is still somebody."""
        if self.principal is None:
            return False
        return self.authenticator is None or self.authenticator.is_known(self.principal)

    def forget(self) -> None:
        """Have the next stream of the link say anew who is there."""
        self.principal = self.authenticator = None


class Permit:
    """What one connection may do: ``produces`` and ``consumes`` are the ids of topics of which that was decided."""

    def __init__(self, gate: Gate, visitor: Visitor) -> None:
        self.principal = visitor.principal or ANONYMOUS
        self.produces: set[bytes] = set()
        self.consumes: set[bytes] = set()
        self._gate = gate
        self._visitor = copy.copy(visitor)  # who it is now: the link may be somebody else's once a login has ended
        self._version = gate.version

    def allows(self, operation: Operation, resource: str) -> bool:
        """Whether the principal may do ``operation``, which nobody asked for: a refusal is not reported."""
        return self._gate.allows(self.principal, operation, resource)

    def check(self, operation: Operation, resource: str) -> None:
        """Raise ``RejectedError``, naming the rule, unless the principal may do ``operation`` to ``resource``."""
        self._gate.check(self._visitor, operation, resource)

    def remember(self, decided: set[bytes], topic_id: bytes) -> None:
        """Keep that something was allowed; topics that come and go must not add up."""
        if len(decided) >= _TOPICS_REMEMBERED_MAX:
            decided.clear()
        decided.add(topic_id)

    @property
    def is_valid(self) -> bool:
        """Whether the principal is still known; forgets what was decided before the rules became others."""
        if self._version != self._gate.version:
            self._version = self._gate.version
            self.produces.clear()
            self.consumes.clear()
        return self._visitor.is_known


class Gate:
    """The authenticators and the authorizer of one broker. ``now``: seconds of a clock that does not go back."""

    def __init__(
        self, table: AccessTable, limits: Limits, report: Callable[[Notice], None], now: Callable[[], float]
    ) -> None:
        context = AccessContext(report=report)
        self._authenticators = {
            each.name: create_authenticator(each.name, context, each.options) for each in table.authenticators
        }
        if len(self._authenticators) < len(table.authenticators):
            raise ConfigurationError("access.authenticators: the same one twice")
        self._authorizer = create_authorizer(table.authorizer, table.all_rules, context)
        self._limits = limits
        self._report = report
        self._now = now
        self._half_open: dict[trio.CancelScope, None] = {}
        self._rate = LoginRate(limits.login_failures_max, now)
        self._lines_left, self._lines_at = _LINES_AT_ONCE, now()
        self._untold = 0

    @property
    def version(self) -> int:
        """Another one than before when what was decided may be decided differently now."""
        return self._authorizer.version

    def open(self) -> None:
        """Read what the authenticators need. Raises ``ConfigurationError``, ``PluginError``."""
        for each in self._authenticators.values():
            each.open()

    # who

    def take_in(self, scope: trio.CancelScope) -> None:
        """Count a stream in whose peer is not known yet; with too many the oldest, which is silent, is cancelled.

        Refusing the new one instead would let a few silent peers keep everybody out. ``let_go`` counts it out.
        """
        while len(self._half_open) >= self._limits.logins_max:
            oldest = next(iter(self._half_open))
            del self._half_open[oldest]
            oldest.cancel()
        self._half_open[scope] = None

    def let_go(self, scope: trio.CancelScope) -> bool:
        """Count out what ``take_in`` counted in; False when it had given way to another by then."""
        was_counted = scope in self._half_open
        self._half_open.pop(scope, None)
        return was_counted

    def identify(self, visitor: Visitor) -> None:
        """Look who the visitor is by what its link says. Raises ``RemoteProtocolError`` when it has to log in."""
        for authenticator in self._authenticators.values():
            principal = authenticator.principal_of(visitor.peer)
            if principal is not None:
                visitor.principal, visitor.authenticator = principal, authenticator
                return
        if self._authenticators:
            names = self._logins(visitor.peer)
            remedy = f"log in by one of {names} (such as --user NAME)" if names else "it has no logins: links say it"
            why = f"{visitor.peer.address}: it did not log in, and its link does not say who it is"
            self._tell("login-refused", why, {"address": visitor.peer.address})
            raise RemoteProtocolError(f"this broker has to know who connects; {remedy}", code=Code.LOGIN_REQUIRED)
        visitor.principal = ANONYMOUS

    async def log_in(self, stream: ByteStream, visitor: Visitor, first: bytes) -> bool:
        """Serve a login of which ``first`` was read; False when it failed, which the peer has been told.

        Raises Trio's errors of a broken or closed stream. If cancelled, the stream is of no more use.
        """
        machine = Login(Role.BROKER)
        machine.receive_buffer()[: len(first)] = first
        machine.received(len(first))
        origin = origin_of(visitor.peer)
        try:
            if wait_s := self._rate.charge(origin):
                text = f"too many failed logins from {origin}: wait {round(wait_s) + 1} s (limit login_failures_max)"
                raise RemoteProtocolError(text, code=Code.TOO_MANY_LOGINS)
            authenticator, proof = await self._converse(stream, machine, visitor.peer)
        except RemoteProtocolError as error:
            await refuse(stream, error)
            return False
        except LoginRefusedError as error:
            who = "" if error.user is None else f" of user {_clipped(error.user)}"
            text = f"{visitor.peer.address}: the login{who} failed: {_clipped(str(error))}"
            self._tell("login-refused", text, {"address": visitor.peer.address, "user": error.user})
            await refuse(stream, RemoteProtocolError("the login failed", code=Code.LOGIN_FAILED))
            return False
        self._rate.refund(origin)
        if visitor.principal not in (None, proof.principal):  # two logins at once, of two
            text = f"the link is {_line(visitor.principal or '')}'s already: one has one name on all of its streams"
            await refuse(stream, RemoteProtocolError(text, code=Code.LOGIN_FAILED))
            return False
        visitor.principal, visitor.authenticator = proof.principal, authenticator
        await stream.send_buffers(machine.send(Accepted(proof.principal, proof.data)))
        return True

    async def _converse(self, stream: ByteStream, machine: Login, peer: Peer) -> tuple[Authenticator, Proof]:
        begin = await _receive(stream, machine)
        assert isinstance(begin, LoginBegin)
        authenticator, server = self._choose(begin.mechanisms, peer)
        await stream.send_buffers(machine.send(Mechanism(authenticator.name)))
        try:
            for _ in range(_TURNS_MAX):
                response = await _receive(stream, machine)
                assert isinstance(response, AuthResponse)
                answer = _answer(authenticator, server, response.data)
                if isinstance(answer, Proof):
                    return authenticator, answer
                await stream.send_buffers(machine.send(Challenge(answer)))
            raise LoginRefusedError(f"no end after {_TURNS_MAX} turns")
        except LoginRefusedError as error:
            error.user = server.user  # who that is, the operator reads; the peer knows whom it named
            raise

    def _choose(self, mechanisms: Sequence[str], peer: Peer) -> tuple[Authenticator, LoginServer]:
        for name, authenticator in self._authenticators.items():
            if name in mechanisms and (server := authenticator.begin_login(peer)) is not None:
                return authenticator, server
        known = self._logins(peer)
        asked = _clipped(", ".join(mechanisms))
        text = f"this broker knows no mechanism {asked}; it has {known or 'none by which one could log in'}"
        raise RemoteProtocolError(text, code=Code.UNKNOWN_MECHANISM)

    def _logins(self, peer: Peer) -> str:
        """Return the names of what this peer could log in by."""
        return ", ".join(name for name, each in self._authenticators.items() if each.begin_login(peer) is not None)

    # what

    def allows(self, principal: str, operation: Operation, resource: str) -> bool:
        """Whether ``principal`` may do ``operation``; nothing is reported."""
        return self._authorizer.decide(principal, operation, resource).is_allowed

    def check(self, visitor: Visitor, operation: Operation, resource: str) -> None:
        """Raise ``RejectedError`` naming the rule, and report it, unless the visitor may do ``operation``."""
        principal = visitor.principal or ANONYMOUS
        decision = self._authorizer.decide(principal, operation, resource)
        if decision.is_allowed:
            return
        resource = _line(resource)  # in words of the peer's, of any length
        text = f"{_line(principal)} may not {operation} {resource}: {decision.rule}"
        facts: dict[str, object] = {
            "principal": principal,
            "operation": operation,
            "resource": resource,
            "rule": decision.rule,
            "address": visitor.peer.address,
        }
        self._tell("access-denied", text, facts)
        raise RejectedError(text, code=Code.ACCESS_DENIED, name=Code.ACCESS_DENIED.label)

    def check_node(self, visitor: Visitor, cluster: ClusterTable, names: Iterable[str]) -> None:
        """Raise ``RemoteProtocolError``, and report it, unless the visitor may follow as every node of ``names``."""
        principal = visitor.principal or ANONYMOUS
        for name in names:
            why = cluster.why_not(name, principal)
            if why is not None:
                facts: dict[str, object] = {
                    "principal": principal,
                    "operation": "replicate",
                    "resource": "cluster",
                    "node": name,
                    "address": visitor.peer.address,
                }
                self._tell("access-denied", _line(why), facts)
                raise RemoteProtocolError(_line(why), code=Code.ACCESS_DENIED)

    def _tell(self, kind: str, text: str, facts: dict[str, object]) -> None:
        """Report a refusal; those beyond what can be read are counted, and the next line says how many they were."""
        now = self._now()
        self._lines_left = min(_LINES_AT_ONCE, self._lines_left + (now - self._lines_at) * _LINES_PER_S)
        self._lines_at = now
        if self._lines_left < 1:
            self._untold += 1
            return
        self._lines_left -= 1
        if self._untold:
            facts = {**facts, "refusals_not_told": self._untold}
            self._untold = 0
        self._report(Notice(kind, text, facts))


async def refuse(stream: ByteStream, error: RemoteProtocolError) -> None:
    """Tell the peer why it is let go, if it reads; the stream is closed."""
    with trio.move_on_after(1):
        await stream.send_buffers(Login(Role.BROKER).send(Fatal(error.code, str(error))))
    await trio.aclose_forcefully(stream)


async def _receive(stream: ByteStream, machine: Login) -> LoginMessage:
    while (message := machine.next_message()) is None:
        if machine.at_end:
            raise trio.BrokenResourceError("the peer left in the middle of its login")
        machine.received(await stream.receive_into(machine.receive_buffer()))
    if isinstance(message, Fatal):
        raise trio.BrokenResourceError("the peer gave its login up")
    return message


def _answer(authenticator: Authenticator, server: LoginServer, response: bytes) -> bytes | Proof:
    """Return the answer of an authenticator; one that breaks has refused this login, and ends nothing else.

    What it raised is told without its text: the peer's words may be in it, and a secret in those.
    """
    try:
        answer = server.answer(response)
    except LoginRefusedError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename.rpartition('/')[2]}, line {place.lineno}"
        text = f"authenticator {authenticator.name!r} has a defect: it raised {type(error).__name__} in {where}"
        raise LoginRefusedError(text) from None
    if not isinstance(answer, bytes | Proof):
        text = f"authenticator {authenticator.name!r} has a defect: it answered with a {type(answer).__name__}"
        raise LoginRefusedError(text)
    return answer


def _line(name: str) -> str:
    """Return a name as a line of a log, and a reply, can have it: what is no letter or sign is escaped."""
    shown = name if len(name) <= _NAME_MAX else f"{name[:_NAME_MAX]}..."
    return shown if shown.isprintable() else ascii(shown)[1:-1]


def _clipped(text: str) -> str:
    """Return a peer's words in one line that is not long."""
    return ascii(text[:_TEXT_MAX])[1:-1]
