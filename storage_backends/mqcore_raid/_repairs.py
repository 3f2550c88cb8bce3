"""What an operator can have done to an open array: eject, replace or rebuild a member, scrub, look how far that is.

Each changes the array durably before it returns; what takes long goes on in the background, and after a restart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import attrs
import trio

from mqcore.abc import StorageBackend, StorageContext
from mqcore.errors import CommandNotPossibleError, CorruptionError, StorageError
from mqcore_raid._background import Background
from mqcore_raid._directory import (
    MemberDirectory,
    inspect,
    make_member_directory,
    places_above,
    set_aside,
)
from mqcore_raid._group import MirrorGroup
from mqcore_raid._looking import Lookout
from mqcore_raid._member import ArrayMember
from mqcore_raid._rebuild import Rebuild
from mqcore_raid._record import SlotState
from mqcore_raid._roster import Roster
from mqcore_raid._scrub import Scrub, ScrubResult, decode_result, encode_result
from mqcore_raid._shape import normal_path
from mqcore_raid._sums_files import SCRUB_NAME, keep_scrub, read_sums

__all__ = ["Repairs"]


class Repairs:
    """See the module. ``compose(path, slot)`` makes the storage of a member."""

    def __init__(
        self,
        roster: Roster,
        groups: Sequence[MirrorGroup],
        background: Background,
        context: StorageContext,
        lookout: Lookout,
        *,
        compose: Callable[[str, int], StorageBackend],
        late_after_s: float,
        scrub_interval_ms: int | None,
    ) -> None:
        self._roster = roster
        self._groups = groups
        self._background = background
        self._context = context
        self._lookout = lookout
        self._compose = compose
        self._late_after_s = late_after_s
        self._scrub_interval_ms = scrub_interval_ms
        self._rebuilds: dict[int, Rebuild] = {}
        self._scrub: Scrub | None = None
        self._last_scrub: ScrubResult | None = None
        self._scopes: list[trio.CancelScope] = []
        self._idle = trio.Event()
        self._ordering = trio.Lock()

    def resume(self) -> None:
        """Go on with what a stop interrupted, and begin what comes by itself."""
        self._start(self._recall)
        self._start(self._lookout.look_regularly)
        for member in self._roster.members:
            if member.is_rebuilding and member.storage is not None:
                self._start_rebuild(member, None)

    async def aclose(self) -> None:
        """Stop what runs in the background; the next opening goes on with it. What hangs is left behind."""
        for scope in self._scopes:
            scope.cancel()
        with trio.move_on_after(self._late_after_s):
            while self._scopes:
                self._idle = trio.Event()
                await self._idle.wait()

    async def operate(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        """See ``StorageBackend.operate``. Raises ``CommandNotPossibleError``, ``StorageError``."""
        match operation:
            case "status":
                with contextlib.suppress(StorageError):  # the next acknowledgement raises it
                    await self._lookout.look()
                return self.status()
            case "scrub":
                await self._lookout.look()
                return self._start_scrub(_rate(arguments))
            case "eject" | "replace" | "rebuild":
                # One after the other, and to the end: half of one leaves a slot that nobody works at.
                async with self._ordering:
                    with trio.CancelScope(shield=True):
                        return await self._change(operation, arguments)
        raise CommandNotPossibleError(
            f"an array has no operation {operation!r}; it has status, eject, replace, rebuild and scrub"
        )

    async def _change(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        member = self._member(arguments)
        was_in_sync = member.is_in_sync
        await self._lookout.look()
        if operation == "eject":
            if was_in_sync and not member.is_in_sync:
                return self.status()  # it has just left by itself
            return await self._eject(member)
        path = str(arguments.get("path", "")) if operation == "replace" else member.path
        return await self._replace(member, path, arguments)

    def status(self) -> dict[str, object]:
        """Members with their states, and how far rebuilds are, as JSON values."""
        return {
            "array_id": self._roster.record.array_id,
            "level": self._roster.record.level,
            "generation": self._roster.record.generation,
            "degraded": self._roster.is_degraded or any(group.lost for group in self._groups),
            "members": [self._describe(member) for member in self._roster.members],
            "groups": ["stopped" if group.stopped is not None else group.level.label for group in self._groups],
            **({"scrub": attrs.asdict(self._last_scrub)} if self._last_scrub is not None else {}),
        }

    def _describe(self, member: ArrayMember) -> dict[str, object]:
        facts: dict[str, object] = {
            "member": member.slot,
            "group": member.group,
            "path": member.path,
            "state": member.state.state,
            "reason": member.state.reason,
        }
        lost = self._groups[member.group].lost.get(member)
        if lost is not None:
            facts |= {"state": "failed", "reason": f"{lost}; it is the last of its group: bring it back and restart"}
        rebuild = self._rebuilds.get(member.slot)
        if rebuild is not None:
            facts["rebuild"] = attrs.asdict(rebuild.progress)
        return facts

    def _member(self, arguments: Mapping[str, object]) -> ArrayMember:
        wanted = str(arguments.get("member", ""))
        for member in self._roster.members:
            if wanted in (str(member.slot), member.path, member.path + "/"):
                return member
        known = ", ".join(f"{member.slot} ({member.path})" for member in self._roster.members)
        raise CommandNotPossibleError(f"no member {wanted!r}; the array has {known}")

    async def _eject(self, member: ArrayMember) -> Mapping[str, object]:
        if member.state.state == "ejected":
            raise CommandNotPossibleError(f"member {member.slot} ({member.path}) is ejected already")
        if not self._roster.eject(member, "an operator ejected it"):
            raise CommandNotPossibleError(
                f"{member.path} is the last member of its mirror group: replace another first"
            )
        await self._roster.settled()
        return self.status()

    async def _replace(self, old: ArrayMember, path: str, arguments: Mapping[str, object]) -> Mapping[str, object]:
        if old in self._groups[old.group].lost:
            raise CommandNotPossibleError(
                f"{old.path} is gone and is the last member of its mirror group, so that what it held is nowhere else: "
                "bring it back and restart, or begin anew in empty directories"
            )
        if old.is_in_sync:
            raise CommandNotPossibleError(
                f"member {old.slot} ({old.path}) is in sync; to replace it all the same, eject it first"
            )
        if old.is_rebuilding and old.storage is not None:
            raise CommandNotPossibleError(f"member {old.slot} ({old.path}) is being rebuilt already")
        rate = _rate(arguments)
        new = await self._begin(old, normal_path(path, f"replace {old.path}"))
        await self._roster.publish()
        opened = await self._background.run_bounded(partial(new.open_storage, self._compose(new.path, new.slot)))
        if not opened.is_good:
            self._roster.eject(new, f"its storage does not open ({opened.reason})")
            await self._roster.settled()
            raise StorageError(f"{new.path} cannot be used: {opened.reason}", kind="io", path=new.path)
        self._start_rebuild(new, rate)
        return self.status()

    async def _begin(self, old: ArrayMember, path: str) -> ArrayMember:
        """Make ``path`` the directory of a new member in the slot of ``old``; it counts for nothing yet."""
        others = [member.path for member in self._roster.members if member is not old]
        if any(path == other or f"{path}/".startswith(f"{other}/") or other.startswith(f"{path}/") for other in others):
            raise CommandNotPossibleError(f"{path} is, holds or lies in the directory of another member")
        with trio.move_on_after(self._late_after_s) as waited:
            await old.wait_idle()
        if waited.cancelled_caught and path == old.path:
            raise CommandNotPossibleError(f"{path} does not answer; name another directory")
        old.directory.release()
        ports, record = self._context.ports, self._roster.record
        directory = MemberDirectory(ports.files, path)
        thread = ports.threads.start(f"raid-{path}")
        state = SlotState(
            member_id=f"{ports.random.getrandbits(64):016x}",
            path=path,
            state="rebuilding",
            since=record.generation + 1,
            reason="it is being rebuilt",
        )
        new = ArrayMember(old.slot, old.group, state, directory, thread)
        try:
            finding, where = await new.call(inspect, ports.files, path)
            await self._check_apart(new, where)
            is_former = finding.record is not None and finding.record.array_id == record.array_id
            if finding.kind == "record" and not is_former:
                raise CommandNotPossibleError(f"{path} is a member of another array; name an empty directory")
            await new.call(make_member_directory, ports.files, path)
            await new.call(directory.lock)
            await new.call(set_aside, ports.files, path, record.generation)
            # As of a generation that is over: alone it never is the newest view, and nothing is in sync in it.
            members = tuple(state if each.slot == old.slot else each.state for each in self._roster.members)
            earlier = record.history[-1] if record.history else ""
            own = attrs.evolve(
                record,
                slot=old.slot,
                generation_id=earlier,
                committed=False,
                history=record.history[:-1],
                members=members,
            )
            await new.write(attrs.evolve(own, generation=max(1, record.generation - 1)))
        except (OSError, StorageError, CorruptionError, CommandNotPossibleError) as error:
            await new.aclose()
            if isinstance(error, OSError):
                raise StorageError(f"{path} cannot be used: {error}", kind="io", path=path) from error
            raise
        self._roster.members[old.slot] = new
        await old.aclose()
        return new

    async def _check_apart(self, new: ArrayMember, where: tuple[int, int] | None) -> None:
        """Raise ``CommandNotPossibleError`` when a link leads into, or around, the directory of another member."""
        files = self._context.ports.files
        above = await new.call(places_above, files, new.path)
        for other in self._roster.in_sync():
            around = await self._background.run_bounded(partial(other.call, places_above, files, other.path))
            is_inside = around.is_good and where in around.get()
            if other.slot != new.slot and (is_inside or other.directory.identity in {*above, where} - {None}):
                raise CommandNotPossibleError(
                    f"{new.path} is, holds or lies in the directory of {other.path}, by a link"
                )

    def _start_rebuild(self, member: ArrayMember, rate_bytes: int | None) -> None:
        group = self._groups[member.group]
        rebuild = Rebuild(member, group, self._roster, report=self._context.report, rate_bytes=rate_bytes)
        self._rebuilds[member.slot] = rebuild

        async def run() -> None:
            try:
                await rebuild.run()
            finally:
                if self._rebuilds.get(member.slot) is rebuild:
                    del self._rebuilds[member.slot]

        self._start(run)

    def _start_scrub(self, rate_bytes: int | None) -> Mapping[str, object]:
        if self._scrub is not None and self._scrub.result.is_running:
            raise CommandNotPossibleError("a scrub runs already; mqcore raid status shows how far it is")
        context = self._context
        scrub = self._scrub = Scrub(
            self._groups,
            look=self._lookout.look,
            report=context.report,
            wall_ms=context.ports.clock.wall_ms,
            rate_bytes=rate_bytes,
        )
        self._last_scrub = scrub.result
        self._start(partial(self._run_scrub, scrub))
        return self.status()

    async def _recall(self) -> None:
        """Find what the last scrub found, in an earlier life, and scrub again when it is time."""
        for member in self._roster.in_sync():
            try:
                found = decode_result(await member.call(read_sums, member.directory, SCRUB_NAME))
            except (OSError, ValueError, RecursionError):  # whatever lies there is hostile until read
                continue
            if self._scrub is None and found.finished_ms > (self._last_scrub.finished_ms if self._last_scrub else -1):
                self._last_scrub = found
        if self._scrub_interval_ms is not None:
            await self._scrub_regularly(self._scrub_interval_ms)

    async def _scrub_regularly(self, interval_ms: int) -> None:
        since_ms = 0 if self._last_scrub is None else self._context.ports.clock.wall_ms() - self._last_scrub.finished_ms
        # A broker that is started more often is scrubbed all the same; a clock that jumped costs one interval at most.
        wait_ms = min(max(interval_ms - since_ms, 0), interval_ms)
        while True:
            await trio.sleep(wait_ms / 1000)
            wait_ms = interval_ms
            if self._scrub is None or not self._scrub.result.is_running:
                self._start_scrub(None)

    async def _run_scrub(self, scrub: Scrub) -> None:
        try:
            await scrub.run()
        except (StorageError, CorruptionError, OSError) as error:
            scrub.result.places.append(f"it ended early: {error}")
        finally:
            scrub.result.is_running = False
        for member in self._roster.in_sync():
            member.submit(keep_scrub, member.directory, encode_result(scrub.result))

    def _start(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run ``function`` in the background, until ``aclose``."""
        scope = trio.CancelScope()
        self._scopes.append(scope)

        async def run() -> None:
            try:
                with scope:
                    await function()
            finally:
                self._scopes.remove(scope)
                self._idle.set()

        self._background.submit(run)


def _rate(arguments: Mapping[str, object]) -> int | None:
    rate = arguments.get("rate_bytes")
    if rate is None:
        return None
    if not isinstance(rate, int) or isinstance(rate, bool) or rate < 1:
        raise CommandNotPossibleError(f"rate_bytes = {rate!r}: a number of bytes per second, 1 or more")
    return rate
