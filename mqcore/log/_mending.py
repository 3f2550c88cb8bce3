"""Asks for a whole batch where a log has none, to mend before damage is reported: the storage, then other nodes.

What is whole is decided here, by the batch's checksums; where copies are is the storage's, or the broker's, to know,
and how one is put right the storage's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple, TypeVar

import trio

from mqcore.abc import Log, Notice
from mqcore.batch import ATTRIBUTE_CONTROL, HEADER_BYTES, BatchHeader
from mqcore.errors import CommandNotPossibleError, CorruptionError, StorageError
from mqcore.log._control import LOST, control_kind
from mqcore.log._flushing import SerialFlusher
from mqcore.log._history import UNKNOWN_REIGN
from mqcore.log._scan import check_body, header_at, intact_header, read_exactly
from mqcore.log._types import NOWHERE, Damage, EpochEntry, LogPoint

__all__ = [
    "Answers",
    "AskGood",
    "CopyThere",
    "GoodCopies",
    "MendTry",
    "Mended",
    "Mends",
    "mend_batch",
    "mend_from_storage",
    "mended_end",
    "overwrite",
]


class CopyThere(NamedTuple):
    """What another node answered of a batch: ``batch`` is all of it; empty where it has none, or has it damaged.

    Where it is damaged there: ``end`` is where that range ends, and ``reign`` who wrote there. ``is_followed``: whether
    this node copies that one's log, so that what both gave up is to be the same here as there (G10).
    """

    batch: bytes = b""
    end: LogPoint = NOWHERE
    reign: EpochEntry | None = None
    is_followed: bool = False


class Answers(NamedTuple):
    """What other nodes answered, by name; ``is_complete``: whether every one did."""

    copies: Mapping[str, CopyThere]
    is_complete: bool


AskGood = Callable[[str, int, EpochEntry], Awaitable[Answers]]
"""Asks other nodes for the batch at a position of a log, which a reign wrote; what they sent, by name, is anything."""

ASKS_AT_ONCE = 4
"""Batches for which the nodes of a set are asked at once."""

ASK_AGAIN_S = 5.0
"""How long nobody is asked again for what no other node had, or what could not be written here."""

MENDS_MAX = 8
"""How often one batch is mended before it counts as damaged all the same: what is put right does not stay so."""

TRIES_KEPT_MAX = 256

_Kept = TypeVar("_Kept")


class Mended(Enum):
    """What came of a try to mend a batch."""

    YES = "yes"
    ELSEWHERE = "elsewhere"
    """Another node has it whole, and it cannot be written in its place here."""
    NO = "no"


class MendTry(NamedTuple):
    """A try to mend a batch: ``end`` is where the good one ends, ``node`` the name of who has it; unknown if ``NO``.

    If ``NO``: ``is_complete``, whether every other node said that it does not have it whole; ``there``, where the range
    that is damaged ends on the node where it is shortest, if any said; ``hidden``, the reign that was opened in it.
    """

    outcome: Mended
    end: LogPoint = NOWHERE
    node: str = ""
    is_complete: bool = False
    there: LogPoint = NOWHERE
    hidden: EpochEntry | None = None


class GoodCopies:
    """Where the logs of one store are mended from besides its storage.

    ``ask``: None where there is nobody to ask. ``met`` is called with the name of a log in which damage was met, to be
    mended or reported by who is called; None: it is reported at once. ``turns``: in which nothing is cut off a log.
    """

    def __init__(self, turns: SerialFlusher) -> None:
        self.ask: AskGood | None = None
        self.met: Callable[[str], None] | None = None
        self.turns = turns
        self.asking = trio.Semaphore(ASKS_AT_ONCE)


class Mends:
    """What was tried at which position of one log."""

    __slots__ = ("_done", "_failed")

    def __init__(self) -> None:
        self._done: dict[int, int] = {}
        self._failed: dict[int, tuple[float, MendTry]] = {}

    def is_worn(self, position: int) -> bool:
        """Whether what was put right there does not stay so."""
        return self._done.get(position, 0) >= MENDS_MAX

    def failed_lately(self, position: int) -> MendTry | None:
        """What asking for the batch came to, if that was so short a time ago that it is not done again yet."""
        at, tried = self._failed.get(position, (0.0, None))
        return None if tried is None or trio.current_time() >= at + ASK_AGAIN_S else tried

    def note(self, position: int, tried: MendTry) -> None:
        """Remember a try for which others were asked, or that put something right."""
        if tried.outcome is Mended.YES:
            _keep(self._done, position, self._done.get(position, 0) + 1)
            self._failed.pop(position, None)
        else:
            _keep(self._failed, position, (trio.current_time(), tried))


def _keep(tries: dict[int, _Kept], position: int, value: _Kept) -> None:
    tries.pop(position, None)
    if len(tries) >= TRIES_KEPT_MAX:
        del tries[next(iter(tries))]
    tries[position] = value


async def mend_from_storage(log: Log, position: int, end: int, *, salt: int, offset: int | None) -> bool:
    """As ``mend_batch``, from another copy of the storage's alone."""
    where = f"log {log.name} at {position}"

    def whole(view: memoryview) -> int:
        if len(view) < HEADER_BYTES:
            return HEADER_BYTES
        try:
            header = intact_header(view[:HEADER_BYTES], salt, where)
            if offset is not None and not _holds(header, offset):
                return 0
            if len(view) >= header.size:
                check_body(header, view[: header.size], where)
        except (CorruptionError, StorageError):
            return 0
        return header.size

    if not log.start <= position < end <= log.end:
        return False
    return await log.mend(position, end - position, whole) > 0


async def mend_batch(
    log: Log,
    position: int,
    *,
    salt: int,
    offset: int | None,
    history: Sequence[EpochEntry],
    hidden: EpochEntry | None,
    damage: Damage | None,
    good: GoodCopies,
    is_same: Callable[[], bool],
    report: Callable[[Notice], None],
) -> MendTry:
    """Mend the batch that begins at ``position`` and holds ``offset``, if that is known, from another node, durably.

    ``damage``: how much is known to be damaged there. In its place goes what another node has given up, too, unless
    that is no less than what is given up here; as much counts if it stands on the node that is followed.

    A batch of another reign than wrote there by the log's ``history`` is no copy of it (G05), but that ``hidden`` may
    have been opened there. ``is_same``: whether what stands there is still what it was when this was called. Raises
    ``StorageError``.
    """
    reigns = [each for each in history if each.start_position <= position][-1:]
    reigns += [] if hidden is None else [hidden]
    is_complete, there, found = bool(reigns), NOWHERE, None
    for reign in reigns:
        answers = await _asked(log, position, reign, hidden, salt, good)
        is_complete &= answers.is_complete
        whole = {node: copy for node, copy in answers.copies.items() if copy.batch}
        tried = await _mend_with(
            whole, log, position, reign, damage,
            salt=salt, offset=offset, good=good, is_same=is_same, report=report,
        )  # fmt: skip
        if tried.outcome is not Mended.NO:
            return tried
        damaged = {node: copy for node, copy in answers.copies.items() if copy.end.position > position}
        there = min([each.end for each in damaged.values()] + ([there] if there.position else []), default=NOWHERE)
        found = found or await _opened_there(log, position, damaged, hidden, salt, good)
    return MendTry(Mended.NO, is_complete=is_complete, there=there, hidden=found)


async def _asked(
    log: Log, position: int, reign: EpochEntry, hidden: EpochEntry | None, salt: int, good: GoodCopies
) -> Answers:
    if good.ask is None:
        return Answers({}, is_complete=False)
    async with good.asking:
        answers = await good.ask(log.name, position, reign)
        if reign is hidden and any(each.batch for each in answers.copies.values()):
            same = await _with_same_following(log, reign, salt, good.ask)
            answers = answers._replace(copies={node: each for node, each in answers.copies.items() if node in same})
    return answers


async def _with_same_following(log: Log, hidden: EpochEntry, salt: int, ask: AskGood) -> frozenset[str]:
    """The nodes that have the same history as far as what opened the reign ``hidden``.

    Of that reign the number is all that is known, and people may make two of one number. Who has the same batch behind
    it, to the last bit, has the same history.
    """
    at = hidden.start_position
    header = await header_at(log, at, log.end, salt)
    if header is None:
        return frozenset()
    following = bytes(await read_exactly(log, at, header.size))
    answers = await ask(log.name, at, hidden)
    return frozenset(node for node, each in answers.copies.items() if each.batch == following)


async def _opened_there(
    log: Log,
    position: int,
    damaged: Mapping[str, CopyThere],
    hidden: EpochEntry | None,
    salt: int,
    good: GoodCopies,
) -> EpochEntry | None:
    """The reign ``hidden``, with what is known of it where what opened it has rotted too, but was read before."""
    if hidden is None or good.ask is None:
        return None
    knows = {
        node: each.reign
        for node, each in damaged.items()
        if each.reign is not None and each.reign.number == hidden.number and each.reign.reign_id != UNKNOWN_REIGN
        if position <= each.reign.start_position < hidden.start_position
    }
    if not knows:
        return None
    async with good.asking:
        same = await _with_same_following(log, hidden, salt, good.ask)
    return next((reign for node, reign in knows.items() if node in same), None)


async def _mend_with(
    copies: Mapping[str, CopyThere],
    log: Log,
    position: int,
    reign: EpochEntry,
    damage: Damage | None,
    *,
    salt: int,
    offset: int | None,
    good: GoodCopies,
    is_same: Callable[[], bool],
    report: Callable[[Notice], None],
) -> MendTry:
    where = f"log {log.name} at {position}"
    # First what is whole, last what others have given up.
    for node, copy in sorted(copies.items(), key=lambda each: _is_lost(each[1].batch)):
        data, view = copy.batch, memoryview(copy.batch)
        try:
            header = intact_header(view[:HEADER_BYTES], salt, where)
            check_body(header, view, where)
        except (CorruptionError, StorageError):
            continue
        is_it = header.epoch == reign.number and header.size == len(view)
        if not is_it or (offset is not None and not _holds(header, offset)):
            continue
        is_lost = _is_lost(data)
        if is_lost and not _may_take_lost(damage, position + header.size):
            is_alike = damage is not None and damage.end_position == position + header.size
            if not is_alike or not copy.is_followed or await read_exactly(log, position, header.size) == data:
                continue
        outcome = await overwrite(log, position, data, good.turns, is_same)
        if outcome is Mended.YES and (await mended_end(log, position, log.end, salt)).position <= position:
            outcome = Mended.ELSEWHERE  # what was written cannot be read either: it is not to be had in its place
        if outcome is Mended.YES and not is_lost:  # what is lost is told by who reads it, and by who gave it up
            text = f"{where}: {header.size} bytes had rotted; they were written anew from {node}"
            report(Notice("log-mended", text, {"log": log.name, "position": position, "size": header.size}))
        end = LogPoint(position + header.size, header.end_offset)
        return MendTry(outcome, end, node) if outcome is not Mended.NO else MendTry(outcome)
    return MendTry(Mended.NO)


def _is_lost(batch: bytes) -> bool:
    """Whether ``batch``, if it is one, stands for what was given up."""
    return control_kind(batch) == LOST and bool(int.from_bytes(batch[8:12], "little") & ATTRIBUTE_CONTROL)


def _may_take_lost(damage: Damage | None, end: int) -> bool:
    """Whether what another node has given up up to ``end`` is damaged here, all of it, and is less than here."""
    if damage is None or end > damage.end_position:
        return False
    return not damage.is_given_up or end < damage.end_position


async def overwrite(log: Log, position: int, data: bytes, turns: SerialFlusher, is_same: Callable[[], bool]) -> Mended:
    """Write ``data`` over what stands at ``position``, durably, in one of ``turns``, if that ``is_same`` still.

    ``ELSEWHERE``: the storage cannot. Raises ``StorageError``. If cancelled, it may be written.
    """
    await turns.begin_turn()
    try:
        # Asked only now, when nothing is cut: while others were asked the log may have been, and be another one there.
        if not is_same() or position + len(data) > log.durable_end:
            return Mended.NO
        with trio.CancelScope(shield=True):
            await log.overwrite(position, data)
    except CommandNotPossibleError:
        return Mended.ELSEWHERE
    except ValueError:
        return Mended.NO  # trimmed in just this moment: nobody reads it any more
    except StorageError as error:
        if error.kind not in ("missing", "io"):
            raise
        return Mended.ELSEWHERE
    finally:
        turns.end_turn()
    return Mended.YES


async def mended_end(log: Log, position: int, end: int, salt: int) -> LogPoint:
    """Where the batch that was put right at ``position`` ends; ``position`` itself if it is not whole after all."""
    header = await header_at(log, position, end, salt)
    return LogPoint(position, 0) if header is None else LogPoint(position + header.size, header.end_offset)


def _holds(header: BatchHeader, offset: int) -> bool:
    """Whether a batch holds ``offset``, or takes none and stands before it."""
    return header.base_offset <= offset < max(header.end_offset, header.base_offset + 1)
