"""A follower's stream as a pure state machine: one session between a replica and its primary, for all logs of the set.

Used as ``Connection`` is. Data goes out as soon as it is appended, as far as the replica's credit allows; positions
come back as soon as they are reached, so that a commit costs one round trip; an idle set exchanges a heartbeat. Each
end holds the same account of the session (names, credit, heartbeat), and a message that the account forbids is refused
at both: ``LocalProtocolError`` before it is sent, ``RemoteProtocolError`` when it arrives.

What a position report counts for (rule R4: history, the primary's end, no going back) is the replication's to decide.
"""

from __future__ import annotations

from mqcore.errors import LocalProtocolError, RemoteProtocolError
from mqcore.ports import Buffer
from mqcore.protocol._connection import VERSION_MAX, VERSION_MIN
from mqcore.protocol._follow_frames import FOLLOW_DECODERS, FOLLOW_ENCODERS
from mqcore.protocol._follow_messages import (
    FOLLOW_KIND_OF,
    CommittedOffsets,
    Credit,
    Diverged,
    Follow,
    Followed,
    FollowKind,
    FollowMessage,
    Heartbeat,
    LogBegins,
    LogData,
    LogNamed,
    PositionRefused,
    Positions,
)
from mqcore.protocol._follow_state import FOLLOW_STEPS, FollowRole
from mqcore.protocol._layout import FRAME_BYTES, HELLO_BYTES_MAX, TEXT_BYTES_MAX
from mqcore.protocol._machine import Machine
from mqcore.protocol._receive_buffer import BUFFER_BYTES_BUSY
from mqcore.protocol._state import State
from mqcore.protocol.codes import Code

__all__ = ["FollowStream"]

_CREDIT_MAX = 1 << 48


class _AccountBrokenError(Exception):
    """A message that the account of the session forbids; each end makes its own error of it."""

    def __init__(self, text: str, code: Code) -> None:
        super().__init__(text)
        self.code = code


class FollowStream(Machine[FollowMessage]):
    """State of one follower's stream, seen from ``role``.

    ``set_id`` and ``epoch`` are this node's own: a peer of another set, or of another reign, is refused. ``logs_max``
    bounds how many logs get a number, ``frame_bytes_max`` the frames accepted. ``credit_bytes`` is what the primary may
    still send, ``logs`` how many logs have a number.
    """

    _kind_of = FOLLOW_KIND_OF
    _kinds = FollowKind
    _encoders = FOLLOW_ENCODERS
    _decoders = FOLLOW_DECODERS

    def __init__(
        self,
        role: FollowRole,
        *,
        set_id: bytes,
        epoch: int,
        logs_max: int,
        frame_bytes_max: int,
        buffer_bytes_max: int = BUFFER_BYTES_BUSY,
    ) -> None:
        self.role = role
        self.set_id = set_id
        self.epoch = epoch
        self.logs = 0
        self.credit_bytes = 0
        self.peer_frame_bytes_max = frame_bytes_max
        self._logs_max = logs_max
        self._heartbeat: int | None = None
        limits = dict.fromkeys(map(int, FollowKind), frame_bytes_max)
        limits.update(
            {
                FollowKind.FOLLOW: HELLO_BYTES_MAX,
                FollowKind.FOLLOWED: HELLO_BYTES_MAX,
                FollowKind.FATAL: TEXT_BYTES_MAX,
            }
        )
        super().__init__(
            FOLLOW_STEPS[role],
            limits,
            own_name=role.value,
            peer_name=role.other.value,
            peer_state_first=State.START if role is FollowRole.PRIMARY else State.GREETED,
            buffer_bytes_max=buffer_bytes_max,
        )

    @property
    def may_send_data(self) -> bool:
        """Whether the replica takes another data frame now, however large: the last one may overdraw the credit.

        Else a batch larger than the credit could never be sent; what a replica holds is its credit and one frame.
        """
        return self.credit_bytes > 0

    def _on_received(self, kind: int, number: int, size: int, message: FollowMessage) -> None:
        if isinstance(message, Follow | Followed):
            self._check_greeting(message)
        try:
            self._account(message, size, self.role.other)
        except _AccountBrokenError as error:
            raise RemoteProtocolError(str(error), code=error.code) from None
        if isinstance(message, Follow | Followed):
            self.peer_frame_bytes_max = message.frame_bytes_max

    def _on_sending(self, kind: int, message: FollowMessage, buffers: list[Buffer]) -> None:
        size = sum(map(len, buffers))
        if size - FRAME_BYTES > self.peer_frame_bytes_max:
            raise LocalProtocolError(f"frame of {size} bytes; the peer takes {self.peer_frame_bytes_max}")
        try:
            self._account(message, size, self.role)
        except _AccountBrokenError as error:
            raise LocalProtocolError(str(error)) from None

    def _check_greeting(self, message: Follow | Followed) -> None:
        if isinstance(message, Follow):
            lowest, highest = message.version_min, message.version_max
        else:
            lowest = highest = message.version
        if not (lowest <= VERSION_MAX and highest >= VERSION_MIN):
            raise RemoteProtocolError(
                f"the {self.role.other.value} speaks versions {lowest} to {highest} of the protocol, this "
                f"{self.role.value} {VERSION_MIN} to {VERSION_MAX}: nodes of a set need releases that share one",
                code=Code.VERSION,
            )
        if message.set_id != self.set_id:
            raise RemoteProtocolError(
                f"the {self.role.other.value} is of the set {message.set_id.hex()}, this node of {self.set_id.hex()}: "
                "check the addresses of the set's nodes",
                code=Code.WRONG_SET,
            )
        if message.epoch != self.epoch:
            raise RemoteProtocolError(
                f"the {self.role.other.value} is in epoch {message.epoch}, this node in {self.epoch}: read the record "
                "and follow the reign that it names",
                code=Code.WRONG_EPOCH,
            )

    def _account(self, message: FollowMessage, size: int, sender: FollowRole) -> None:
        """Enter ``message`` into the account, or raise before anything changed. The same at both ends."""
        if isinstance(message, LogData):
            self._check_named(message.number)
            if self.credit_bytes <= 0:
                raise _AccountBrokenError("data without credit; ask may_send_data first", Code.CREDIT_EXCEEDED)
            self.credit_bytes -= size
        elif isinstance(message, Positions | CommittedOffsets):
            if message.logs:
                self._check_named(message.logs[-1].number)
        elif isinstance(message, Credit | Follow):
            granted = message.size if isinstance(message, Credit) else message.credit_bytes
            if self.credit_bytes + granted > _CREDIT_MAX:
                raise _AccountBrokenError(f"credit of more than {_CREDIT_MAX} bytes", Code.MALFORMED_FRAME)
            self.credit_bytes += granted
        elif isinstance(message, Heartbeat):
            self._account_heartbeat(message.number, sender)
        elif isinstance(message, LogNamed):
            # In sequence, so that "is it named" is one comparison and a session of a hostile peer costs no table.
            if message.number != self.logs or self.logs >= self._logs_max:
                raise _AccountBrokenError(
                    f"log number {message.number}; the next is {self.logs}, of at most {self._logs_max}",
                    Code.UNEXPECTED_FRAME,
                )
            self.logs += 1
        elif isinstance(message, Diverged | PositionRefused | LogBegins):
            self._check_named(message.number)

    def _account_heartbeat(self, number: int, sender: FollowRole) -> None:
        # One at a time: a replica that asked again and again would make its primary answer without bound.
        if sender is FollowRole.FOLLOWER:
            if self._heartbeat is not None:
                raise _AccountBrokenError(f"heartbeat {self._heartbeat} is not answered yet", Code.UNEXPECTED_FRAME)
            self._heartbeat = number
        else:
            if self._heartbeat != number:
                raise _AccountBrokenError(f"answer to heartbeat {number}, which is not asked", Code.UNEXPECTED_FRAME)
            self._heartbeat = None

    def _check_named(self, number: int) -> None:
        if number >= self.logs:
            raise _AccountBrokenError(f"log {number} has no name; {self.logs} have", Code.UNEXPECTED_FRAME)
