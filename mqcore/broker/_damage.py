"""What a node of a set does about damage in its logs (G12): it is mended from another node, or the copy is given up.

A task of its own, log by log, so that no reader and no stream waits for other nodes. What cannot be written in its
place here, and is whole elsewhere: a primary makes way for who has it, and is its replica then; a replica gives its
copy up and copies the log again. What no node has whole is given up by the primary: batches that say so stand in its
place, are copied, and are replaced once a node comes that has it after all. Must not know how damage is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
import trio

from mqcore.abc import Notice
from mqcore.errors import CommandNotPossibleError, MqcoreError
from mqcore.log import METADATA_NAME, Damage, LogStore, Mended, MendTry, PartitionLog, damage_notice, salt_of_name

__all__ = ["DamageCare"]

AGAIN_S = 5.0
"""How long after a try in vain the next one is made: by then another node may answer, or hold everything."""

AGAIN_S_MAX = 60.0

SILENT_S_MAX = 60.0
"""How long what no node that answers has whole is not given up while others do not answer: they may have it."""


class Copying(Protocol):
    """What is asked of a follower."""

    def copy_anew(self, log: str) -> None:
        """Have the damaged copy of a log given up and copied again."""


class DamagedNode(Protocol):
    """What is asked of a node's keeper of roles."""

    played: trio.Event

    @property
    def follower(self) -> Copying | None:
        """What the node follows with; None while it does not."""
        ...

    @property
    def reigns(self) -> bool:
        """Whether the node reigns now."""
        ...

    async def switch_over(self, to: str) -> None:
        """Hand the set over to the member ``to``, or to the one that lacks least."""


@attrs.define(eq=False)
class _Damaged:
    """A log in which damage was met: when it is looked after next, what was told of it, what stays for now."""

    due_at: float
    pause_s: float = AGAIN_S
    asks_anew: bool = False
    sought_from: dict[int, float] = attrs.field(factory=dict)
    told: set[int] = attrs.field(factory=set)
    in_vain: frozenset[int] = frozenset()
    why: str = ""


class DamageCare:
    """Looks after the damaged logs of ``store``, that of the node of ``roles``. ``run`` it.

    ``is_manual``: an operator decides who reigns (R16), so that the set is not handed over by itself.
    """

    def __init__(
        self, roles: DamagedNode, store: LogStore, report: Callable[[Notice], None], *, is_manual: bool
    ) -> None:
        self._roles = roles
        self._store = store
        self._is_manual = is_manual
        self._report = report
        self._damaged: dict[str, _Damaged] = {}
        self._wake = trio.Event()
        store.good_copies.met = self.found

    def found(self, log: str, told: int | None = None) -> None:
        """Take in that damage was met in a log; ``told``: at which position, if that was reported already."""
        now = trio.current_time()
        damaged = self._damaged.setdefault(log, _Damaged(now))
        damaged.due_at = now
        if told is not None:
            damaged.told.add(told)
        self._wake.set()

    def node_came(self) -> None:
        """Take in that another node of the set is here again: it may have whole what none had that answered before."""
        for damaged in self._damaged.values():
            damaged.due_at, damaged.pause_s = trio.current_time(), AGAIN_S
            damaged.asks_anew, damaged.in_vain = True, frozenset()
        self._wake.set()

    def is_sought(self, log: str, offset: int) -> bool:
        """Whether what of a log is damaged from ``offset`` on may be whole soon, so that it is worth the wait."""
        damaged = self._damaged.get(log)
        return damaged is not None and offset not in damaged.in_vain

    async def run(self) -> None:
        """Look after what is found, until cancelled."""
        while True:
            self._wake, played = trio.Event(), self._roles.played
            due_at = math.inf
            if self._roles.reigns or self._roles.follower is not None:
                for name, each in list(self._damaged.items()):
                    if each.due_at <= trio.current_time():
                        await self._look_after(name, each)
                due_at = min((each.due_at for each in self._damaged.values()), default=math.inf)
            with trio.CancelScope(deadline=due_at):
                await self._until_new(played)
            if played.is_set():  # in another role something else can be done
                for each in self._damaged.values():
                    each.due_at = trio.current_time()

    async def _until_new(self, played: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            for event in (self._wake, played):
                nursery.start_soon(_cancel_after, event, nursery.cancel_scope)

    async def _look_after(self, name: str, damaged: _Damaged) -> None:
        damaged.due_at = math.inf
        log: PartitionLog | None = None
        in_vain: list[Damage] = []
        try:
            log = await self._open(name)
            anew, damaged.asks_anew = damaged.asks_anew, False
            all_stay = [] if log is None else await self._mend(log, damaged, anew)
            self._tell(name, damaged, [damage for damage, _ in all_stay])
            in_vain = [damage for damage, _ in all_stay if damage.is_given_up]
            stay = [each for each in all_stay if not each[0].is_given_up]
            if stay:
                await self._make_way(name, stay)
                # Once this was done again and again, what comes of it is not waited for any more.
                in_vain += [damage for damage, _ in stay] if damaged.pause_s > 2 * AGAIN_S else []
            elif all_stay and all(tried.is_complete for _, tried in all_stay):
                damaged.in_vain = frozenset(damage.first_offset for damage in in_vain)
                return  # every node has said that it has it no more: only one that comes anew may have it
        except MqcoreError as error:
            in_vain = [] if log is None else log.damages
            if str(error) != damaged.why:
                damaged.why = str(error)
                self._report(Notice("damage-stays", f"damaged and not mended: {name}: {error}", {"log": name}))
        else:
            if not all_stay and math.isinf(damaged.due_at):
                del self._damaged[name]
        if damaged.asks_anew:
            return  # another node came meanwhile
        damaged.in_vain = frozenset(damage.first_offset for damage in in_vain)
        damaged.due_at = min(damaged.due_at, trio.current_time() + damaged.pause_s)
        damaged.pause_s = min(2 * damaged.pause_s, AGAIN_S_MAX)

    async def _open(self, name: str) -> PartitionLog | None:
        """The log, in the present term; None for one that is gone."""
        if name == METADATA_NAME:
            return self._store.metadata
        salt = salt_of_name(name)
        if salt is None or name not in await self._store.list_logs():
            return None
        return await self._store.open_log(name, salt=salt)

    async def _mend(self, log: PartitionLog, damaged: _Damaged, anew: bool) -> list[tuple[Damage, MendTry]]:
        if log.name == METADATA_NAME:  # nobody is asked for it, and every member has it whole or does not serve
            return [(damage, MendTry(Mended.ELSEWHERE)) for damage in log.damages]

        def gives_up(damage: Damage, tried: MendTry) -> bool:
            now = trio.current_time()
            was_sought_long = now >= damaged.sought_from.setdefault(damage.position, now) + SILENT_S_MAX
            # The primary alone, so that all copies become the same.
            return self._roles.reigns and (tried.is_complete or was_sought_long)

        return await log.mend_damages(anew=anew, gives_up=gives_up)

    def _tell(self, name: str, damaged: _Damaged, damages: Sequence[Damage]) -> None:
        for damage in damages:
            if damage.position not in damaged.told:
                damaged.told.add(damage.position)
                self._report(damage_notice(name, damage))

    async def _make_way(self, name: str, stay: Sequence[tuple[Damage, MendTry]]) -> None:
        """Have what is damaged replaced by what another node has whole. Raises ``CommandNotPossibleError``."""
        lost = "; ".join(damage.place.rstrip(",") for damage, tried in stay if tried.outcome is not Mended.ELSEWHERE)
        if lost:
            raise CommandNotPossibleError(f"no node that answers has it whole: {lost}")
        roles = self._roles
        if roles.follower is not None:
            if name == METADATA_NAME:
                raise CommandNotPossibleError("this log is not mended: empty this node's storage and add it again")
            roles.follower.copy_anew(name)
        elif self._is_manual:
            text = "another member has it whole: 'mqcore cluster switchover', and this node copies it anew"
            raise CommandNotPossibleError(f"an operator decides who reigns here; {text}")
        elif roles.reigns:
            await roles.switch_over(stay[0][1].node)
            self._report(Notice("damage-handed-over", f"damaged here: {name}; a member that holds it whole reigns"))


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
