"""What several records say together: who belongs to the array now, who does not, or why it must not be opened.

Pure. Never a guess: a member that may have gone its own way is not used, and where two have, none is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import attrs

from mqcore.abc import Notice
from mqcore.errors import ConfigurationError, CorruptionError, StorageError
from mqcore_raid._record import HISTORY_MAX, ArrayRecord, SlotState
from mqcore_raid._shape import Shape

__all__ = ["Assembly", "Finding", "assemble"]


@attrs.frozen
class Finding:
    """What was found at a member's ``path``: its ``record``, or why there is none.

    ``absent``: no directory. ``blank``: an empty one. ``unreadable``: ``text`` says how. A ``text`` beside a ``record``
    says why the member cannot be used all the same.
    """

    path: str
    kind: Literal["record", "absent", "blank", "unreadable"]
    record: ArrayRecord | None = None
    text: str = ""


@attrs.frozen
class Assembly:
    """How the array is opened. ``record``: the newest view, None for an array that has to be made.

    ``members``: state of each slot from now on. ``paths``: where each slot is, None where nothing of it is there.
    """

    record: ArrayRecord | None
    members: tuple[SlotState, ...]
    paths: tuple[str | None, ...]
    may_lack: bool
    notices: tuple[Notice, ...] = ()


def assemble(findings: Sequence[Finding], shape: Shape, *, min_members: int, create: bool) -> Assembly:
    """Decide. Raises ``StorageError``, ``CorruptionError``, ``ConfigurationError`` that name member and remedy."""
    found = {finding.path: finding.record for finding in findings if finding.record is not None}
    if all(record.generation == 0 for record in found.values()):
        return _make(findings, found, create=create)
    _check_one_array(found)
    _check_shape(found, shape)
    top = _newest_view(found)
    paths = _places(found, top)
    assembled = _states(findings, found, shape, top, paths)
    _check_enough(assembled, shape, min_members)
    return assembled


def _make(findings: Sequence[Finding], found: Mapping[str, ArrayRecord], *, create: bool) -> Assembly:
    """A new array, or one whose making a crash interrupted: it never held anything."""
    for finding in findings:
        if finding.kind == "unreadable":
            raise CorruptionError(
                "this member cannot be read and no other member has a record; bring the members back, a new array is "
                "made of empty directories only",
                where=finding.path,
                found=finding.text,
            )
    if not create:
        where = ", ".join(finding.path for finding in findings)
        raise StorageError(
            f"none of the members {where} holds an array, and create=false: bring them back (are the disks mounted?)",
            kind="missing",
            path=findings[0].path,
        )
    return Assembly(None, (), tuple(finding.path for finding in findings), may_lack=False)


def _check_one_array(found: Mapping[str, ArrayRecord]) -> None:
    arrays = {record.array_id for record in found.values()}
    if len(arrays) > 1:
        which = ", ".join(f"{path} of array {record.array_id[:8]}" for path, record in found.items())
        raise StorageError(
            f"members of {len(arrays)} arrays are mixed: {which}; name the members of one array",
            kind="foreign",
            path=next(iter(found)),
        )
    seen: dict[str, str] = {}
    for path, record in found.items():
        own = record.members[record.slot].member_id
        if own in seen:
            raise StorageError(
                f"{seen[own]} and {path} are the same member {record.slot} of the array: one is a copy; take it away",
                kind="foreign",
                path=path,
            )
        seen[own] = path


def _check_shape(found: Mapping[str, ArrayRecord], shape: Shape) -> None:
    for path, record in found.items():
        is_same = (record.level, record.copies, len(record.members)) == (shape.level, shape.copies, len(shape.paths))
        if not is_same:
            raise ConfigurationError(
                f"{path} belongs to an array of {len(record.members)} members, level={record.level} with "
                f"{record.copies} copies; the URL names {len(shape.paths)} members, level={shape.level} with "
                f"{shape.copies} copies: name all members in an array of the level that it was made with"
            )


def _is_older(record: ArrayRecord, other: ArrayRecord) -> bool:
    """Whether ``other`` knows what ``record`` does, and went on from there."""
    # Below what a history keeps it cannot be told from a branch; so long left alone, it is old either way.
    return record.generation_id in other.history or record.generation < other.generation - HISTORY_MAX


def _newest_view(found: Mapping[str, ArrayRecord]) -> ArrayRecord:
    """The record that all others are older than, or that has ejected those that are not. Raises ``StorageError``."""
    views: dict[str, tuple[str, ArrayRecord]] = {}
    for path, record in found.items():
        known = views.get(record.generation_id)
        if known is None or record.committed:
            views[record.generation_id] = path, record
    newest = [
        (path, view) for path, view in views.values() if not any(_is_older(view, other) for _, other in views.values())
    ]
    winners = [
        (path, view) for path, view in newest if all(view is other or _has_ejected(view, other) for _, other in newest)
    ]
    if len(winners) == 1:
        return winners[0][1]
    ways = " and ".join(f"{path} (generation {view.generation})" for path, view in newest)
    raise StorageError(
        f"the array was used in two ways that do not know of each other: {ways}; decide which one is right, and take "
        "the other away or run `mqcore raid eject` on it while the broker is stopped",
        kind="foreign",
        path=newest[0][0],
    )


def _has_ejected(view: ArrayRecord, other: ArrayRecord) -> bool:
    """Whether ``view`` ejected the member of ``other`` while both were there, and ``other`` only missed its peer."""
    return view.members[other.slot].state == "ejected" and other.members[view.slot].state == "missing"


def _places(found: Mapping[str, ArrayRecord], top: ArrayRecord) -> tuple[str | None, ...]:
    """Where each slot of the newest view is; a directory that was replaced since is in none."""
    by_id = {record.members[record.slot].member_id: path for path, record in found.items()}
    return tuple(by_id.get(member.member_id) for member in top.members)


def _states(
    findings: Sequence[Finding],
    found: Mapping[str, ArrayRecord],
    shape: Shape,
    top: ArrayRecord,
    paths: tuple[str | None, ...],
) -> Assembly:
    by_path = {finding.path: finding for finding in findings}
    unplaced = {path: finding for path, finding in by_path.items() if path not in paths}
    states: list[SlotState] = []
    notices: list[Notice] = []
    may_lack = top.may_lack
    for slot, (member, path) in enumerate(zip(top.members, paths, strict=True)):
        if path is None and member.path not in shape.paths:
            raise ConfigurationError(
                f"member {slot} of the array is at {member.path}, which the URL does not name; name it in the place of "
                f"{', '.join(unplaced) or 'one that left'}; if it is lost, start with it named all the same, and then "
                f"`mqcore raid replace {member.path} DIRECTORY`"
            )
        record, finding = (found[path], by_path[path]) if path is not None else (None, unplaced.get(member.path))
        if finding is not None and finding.text and record is not None:  # its record was read, and counted: no more
            record, finding = None, Finding(finding.path, "unreadable", text=finding.text)
        state = _state(member, record, finding, top)
        if path is not None:
            state = attrs.evolve(state, path=path)
        may_lack = may_lack or (member.state == "in-sync" and state.state == "missing")
        if state.state != "in-sync":
            text = f"member {slot} ({state.path}) of the array is {state.state}: {state.reason}; the array is degraded"
            text += _remedy(state, is_there=path is not None)
            facts: dict[str, object] = {"member": slot, "path": state.path, "state": state.state}
            notices.append(Notice(f"raid-member-{state.state}", text, facts))
        states.append(state)
    return Assembly(top, tuple(states), paths, may_lack, tuple(notices))


def _state(member: SlotState, record: ArrayRecord | None, finding: Finding | None, top: ArrayRecord) -> SlotState:
    """State from now on of a member that the newest view states as ``member``; ``record`` is its own, if it is there.

    ``finding``: what else was found at its path.
    """
    since = top.generation + 1
    if member.state != "in-sync":
        # It left with the generation before ``since``, and nothing was changed without it.
        is_same = record is not None and record.generation == member.since - 1 and record.generation_id in top.history
        if member.state == "missing" and not member.is_behind and is_same:
            return attrs.evolve(member, state="in-sync", since=since, reason="", is_behind=True)
        if member.state == "rebuilding" and record is None:
            return attrs.evolve(member, state="ejected", since=since, reason="it was being rebuilt, and is not there")
        if member.state == "missing" and record is not None:
            return attrs.evolve(member, reason="it is back, and the array was used without it")
        return member
    if record is None:
        kind = finding.kind if finding is not None else "absent"
        reason = {
            "absent": "its directory is not there",
            "blank": "its directory is empty",
            "record": "its directory is another member's, or one that was replaced",
            "unreadable": f"it cannot be read ({finding.text if finding else ''})",
        }[kind]
        return attrs.evolve(member, state="missing", since=since, reason=reason, is_behind=False)
    previous = top.history[-1] if top.history else ""
    is_current = record.generation_id == top.generation_id
    # Between the two writings of a record a crash leaves some members with the one before it.
    is_interrupted = not top.committed and record.generation_id == previous
    if is_current or is_interrupted:
        return member
    reason = f"its content is of generation {record.generation}, the array's of {top.generation}: an old copy"
    return attrs.evolve(member, state="ejected", since=since, reason=reason)


def _remedy(state: SlotState, *, is_there: bool) -> str:
    """What an operator can do about a member in ``state``, in words."""
    if state.state == "rebuilding":
        return ""
    if state.state == "missing" and not is_there:
        return f". Bring it back and start again, or: mqcore raid replace {state.path} DIRECTORY"
    return f". mqcore raid rebuild {state.path}, or on another disk: mqcore raid replace {state.path} DIRECTORY"


def _check_enough(assembly: Assembly, shape: Shape, min_members: int) -> None:
    for group in range(shape.groups):
        slots = range(group * shape.copies, (group + 1) * shape.copies)
        good = [slot for slot in slots if assembly.members[slot].state == "in-sync"]
        if len(good) < min_members:
            out = [assembly.members[slot] for slot in slots if slot not in good]
            which = "; ".join(f"{member.path} is {member.state}: {member.reason}" for member in out)
            needs = f"{len(good)} of its {shape.copies} members are good and min_members is {min_members}"
            raise StorageError(
                f"mirror group {group} of the array cannot be used: {needs} ({which}); bring a member back"
                + (", or lower min_members" if good else ""),
                kind="missing",
                path=out[0].path,
            )
