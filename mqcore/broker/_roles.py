"""The role of a node in its set: what it can be, and what every way of deciding it has in common (architecture, 3a).

A role keeper decides, the node plays: it leaves one nursery and enters another whenever ``role`` has changed. Must not
know how a role is played.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

import attrs
import trio

from mqcore.abc import Link, Notice
from mqcore.broker._asking import SetAsker
from mqcore.broker._damage import DamageCare
from mqcore.broker._follower import Follower
from mqcore.broker._good_copies import GoodCopyAsker
from mqcore.broker._node_states import describe_node, found_node, node_state
from mqcore.broker._peers import NodeCaller
from mqcore.broker._reign import Reign, SetUp
from mqcore.broker._reign_set import ReignSet
from mqcore.broker._rotten_ends import mend_rotten_ends
from mqcore.broker._spread import TopicSpread
from mqcore.broker._suffix import AskSuffix, fetch_suffixes, suffix_of
from mqcore.broker._topics import Topics
from mqcore.config import BrokerConfig, NodeTable, SetTable
from mqcore.errors import CommandNotPossibleError, MqcoreError
from mqcore.log import METADATA_NAME, LogStore
from mqcore.operations import (
    FetchSuffix,
    FoundNode,
    LogSuffix,
    SetDescription,
    StateDescription,
    from_result,
    to_arguments,
)
from mqcore.ports import Ports
from mqcore.replication import Member, NodeState, SetRecord

__all__ = ["Following", "FoundStates", "Reigning", "Role", "RoleKeeper", "Waiting", "describe_role"]


@attrs.frozen(eq=False)
class Reigning:
    """The node is the primary, by ``set_up``."""

    set_up: SetUp


@attrs.frozen
class Following:
    """The node is a replica in the reign that is named; ids are 16 bytes."""

    set_id: bytes
    epoch: int
    reign_id: bytes
    node_id: bytes
    name: str
    urls: tuple[str, ...]


@attrs.frozen
class Waiting:
    """The node is neither, and ``why``."""

    why: str


_FETCH_TIMEOUT_S_MIN = 10.0
"""For one piece of a log: a node that just starts may recover the log first."""

Role: TypeAlias = Reigning | Following | Waiting
FoundStates: TypeAlias = list[tuple[StateDescription, NodeState]]
"""What nodes of a set say that they hold, as it came and as it is judged."""


class RoleKeeper(ABC):
    """Decides the role of one node on its open ``store``. ``run`` it.

    ``reign`` and ``follower`` are what the node plays now, which it notes here. ``changed`` is set when the role is
    another one than the one that was played when it was made. ``pause`` is called with the reason why no sends are
    taken, and with None when they are again.
    """

    def __init__(
        self,
        config: BrokerConfig,
        store: LogStore,
        *,
        ports: Ports,
        peers: NodeCaller,
        report: Callable[[Notice], None],
        pause: Callable[[str | None], None],
    ) -> None:
        assert config.cluster is not None
        assert config.own_set is not None
        self.config = config
        self.cluster = config.cluster
        self.set: SetTable = config.own_set
        self.store = store
        self.role: Role = Waiting("it has not heard of the other nodes yet")
        self.playing: Role | None = None
        """What the node begins, plays or leaves at the moment; ``role`` may be the next one already."""
        self.changed = trio.Event()
        self.reign: Reign | None = None
        self.follower: Follower | None = None
        self.played = trio.Event()
        """Set each time a role has begun or was left, and made anew."""
        self._stopped: tuple[Role, MqcoreError] | None = None
        self._ports = ports
        self._peers = peers
        self._pause = pause
        self._report = report
        self._asker = SetAsker(self.others(), peers, self.cluster.replica_timeout_ms / 1000, report)
        store.good_copies.ask = GoodCopyAsker(self._asker.ask_all, store).ask
        self.damage = DamageCare(self, store, report, is_manual=config.cluster.coordinator.is_manual)
        """What is done about logs that are damaged here."""
        self._failed_role: Role | None = None
        self._places_back = 0  # how far behind its place it waits to reign; behind all others once it could not
        self._hint = trio.Event()
        self._role_is_new = trio.Event()

    @abstractmethod
    async def run(self) -> None:
        """Decide until cancelled."""

    @abstractmethod
    async def init(self) -> None:
        """Begin the set with this node as its first primary (R14). Raises ``CommandNotPossibleError``."""

    @abstractmethod
    async def demote(self, epoch: int, reign_id: bytes) -> None:
        """Stop the reign that is named, for good. Raises ``CommandNotPossibleError`` if it is not the present one."""

    @abstractmethod
    async def hand_over(self, node: NodeTable, node_id: bytes) -> None:
        """Stop reigning and have ``node``, which has everything, reign. Raises ``MqcoreError``."""

    async def switch_over(self, to: str) -> None:
        """Hand the set over to the member called ``to``; empty: to one that lacks least. Nothing is lost.

        Sends are refused, as not for this node, until that one reigns: clients repeat them. Raises
        ``CommandNotPossibleError``; this node goes on reigning then. If cancelled, the set may have been handed over.
        """
        reign = self.reign
        if reign is None or reign.set is None:
            raise CommandNotPossibleError(f"this node {describe_role(self.role)}: ask the primary")
        node_id, node = self._successor(reign.set, to)
        self._pause(f"the set is handed over to {node.name}")
        try:
            with trio.move_on_after(self.cluster.replica_timeout_ms / 1000) as scope:
                while not reign.set.holds_everything(node_id):
                    await reign.set.next_report()
            if scope.cancelled_caught:
                raise CommandNotPossibleError(f"{node.name} does not catch up: it lacks what was sent last")
            await self.hand_over(node, node_id)
        finally:
            self._pause(None)

    def _successor(self, own_set: ReignSet, to: str) -> tuple[bytes, NodeTable]:
        in_sync = [each for each in own_set.facts() if each.is_in_sync and each.gone_since_us is None]
        among = [each for each in in_sync if to in ("", each.name)]
        if to == self.config.name:
            raise CommandNotPossibleError(f"{to} is the primary already")
        if not among:
            known = ", ".join(each.name for each in in_sync) or "none"
            what = f"{to} cannot take over: it is not in sync, or does not follow" if to else "no node can take over"
            text = f"{what}; in sync and following: {known}"
            if not in_sync and self.cluster.fails_over:
                text += (
                    f": mend what keeps them away, which 'mqcore cluster describe' names; or stop {self.config.name}"
                )
                text += ", and one that is in sync takes over by itself"
            raise CommandNotPossibleError(text)
        chosen = min(among, key=lambda each: (own_set.lag_of(each.member.node_id) or 0, each.name))
        node = self.set.node(chosen.name)
        if node is None:
            raise CommandNotPossibleError(f"{chosen.name} is no node of this set in this node's configuration")
        return chosen.member.node_id, node

    @property
    def reigns(self) -> bool:
        """Whether this node reigns now."""
        return self.reign is not None

    @property
    def has_successor(self) -> bool:
        """Whether another member is in sync and here, to which the set could be handed over."""
        own_set = self.reign.set if self.reign is not None else None
        return own_set is not None and any(each.is_in_sync and each.gone_since_us is None for each in own_set.facts())

    async def add(self, name: str, sync_bytes_per_s: int | None = None) -> None:
        """Take the configured node called ``name`` into the set, as ``ReignSet.add``.

        Raises ``CommandNotPossibleError``.
        """
        own_set = self.reign.set if self.reign is not None else None
        node = self.set.node(name)
        if own_set is None:
            raise CommandNotPossibleError(f"this node {describe_role(self.role)}: ask the primary")
        if node is None:
            raise CommandNotPossibleError(f"{name!r} is no node of the set in this node's configuration: add it there")
        answer = await self._peers.call(node.urls, "set.describe", {}, timeout_s=self.cluster.replica_timeout_ms / 1000)
        found = from_result(SetDescription, answer)
        if found.set_id not in ("", self.store.set_id.hex()):
            text = f"the storage of {name} holds logs of the set {found.set_id}, this one is {self.store.set_id.hex()}"
            raise CommandNotPossibleError(f"{text}: start {name} with an empty storage")
        own_set.add(bytes.fromhex(found.node_id), name, sync_bytes_per_s)

    async def until_played(self) -> None:
        """Wait until the node plays the role that it has."""
        while True:
            if isinstance(self.role, Reigning) and self.reign is not None:
                return
            if not isinstance(self.role, Reigning):
                raise CommandNotPossibleError(f"this node {describe_role(self.role)}")
            await self.played.wait()

    @abstractmethod
    async def promote(self, *, old_primary_is_stopped: bool, unclean: bool) -> None:
        """Make this node the primary by word of an operator (R16). Raises ``CommandNotPossibleError``."""

    @abstractmethod
    async def recover(self, *, missing_are_lost: bool) -> SetRecord:
        """Write the record anew, above every epoch that a node has seen, and reign by it (R14).

        Raises ``CommandNotPossibleError``.
        """

    async def found(self) -> tuple[FoundNode, ...]:
        """What every configured node of the set holds, as far as it answers."""
        found, silent = await self._states()
        states = {state.name: state for state, _ in found}
        nodes = self.set.nodes
        return tuple(found_node(node.name, states.get(node.name), silent.get(node.name, "")) for node in nodes)

    def failed(self, role: Role, error: MqcoreError) -> None:
        """Take note that ``role`` could not be played."""
        if self.role is role:
            self._failed_role = role
            self._places_back = len(self.set.nodes) if isinstance(role, Reigning) else self._places_back
            self._report(Notice("role-failed", f"this node cannot play its role: {error}"))
            self._become(Waiting(str(error)))

    def logs_stopped(self, error: MqcoreError) -> None:
        """Leave the reign where a flush failed under it, and another member can go on at once (G11, G13).

        A log that has stopped is served again by a restart only, and replicas may hold more of it than is left here:
        they cannot follow, and nobody could take over later.
        """
        if isinstance(self.role, Reigning):
            self._stopped = self.role, error
            self.give_way()

    def give_way(self) -> None:
        """Leave the reign in which logs have stopped once another member can go on; not there, as at first, it may."""
        if self._stopped is None:
            return
        role, error = self._stopped
        if self.role is role and self.cluster.fails_over and self.has_successor:
            self.failed(role, error)

    def note(self, *, reign: Reign | None = None, follower: Follower | None = None) -> None:
        """Take note of what the node plays now; neither: nothing of the last role acts any more."""
        self.reign, self.follower = reign, follower
        self.playing = self.playing if reign is not None or follower is not None else None
        self._places_back = 0 if reign is not None else self._places_back
        self.played.set()
        self.played = trio.Event()

    def hint(self) -> None:
        """Have it look again soon: something may be different."""
        self._hint.set()

    def _become(self, role: Role) -> None:
        if role != self.role:
            self.role = role
            self._report(Notice("role-changed", f"this node {describe_role(role)}"))
            self.changed.set()
            self._role_is_new.set()
            self._role_is_new = trio.Event()

    async def _next_role(self) -> None:
        """Wait until the role has changed."""
        await self._role_is_new.wait()

    async def _leave_role(self, why: str) -> None:
        """Stop reigning or following, and wait until nothing of it acts any more."""
        self._become(Waiting(why))
        while isinstance(self.playing, Reigning | Following):
            await self.played.wait()

    async def _join_set_of(self, record: SetRecord) -> None:
        """Be of the set of ``record`` before reigning by it. In no role. Raises ``StorageError`` for logs of another.

        A member that had not begun to follow when the first primary died is of no set yet: replicas would refuse it.
        """
        if record.set_id != self.store.set_id:
            await self.store.join(record.set_id)

    async def connect(self, urls: tuple[str, ...]) -> Link:
        """Connect to another node. Raises ``NotReachedError``. If cancelled, nothing stays open."""
        return await self._peers.connect(urls)

    # the others

    def spread_of(self, topics: Topics) -> TopicSpread:
        """What tells the other sets of the cluster of ``topics``, those of a reign of this node."""
        others = [each for each in self.cluster.sets if each.name != self.set.name]
        timeout_s = self.cluster.replica_timeout_ms / 1000
        return TopicSpread(topics, others, self._peers, report=self._report, timeout_s=timeout_s)

    @property
    def own_member(self) -> Member:
        """This node as the in-sync set names it."""
        return Member(self.store.node_id, self.store.incarnation)

    @property
    def primary_urls(self) -> tuple[str, ...]:
        """Where the primary is, as far as this node knows."""
        return self.role.urls if isinstance(self.role, Following) else ()

    def others(self) -> list[NodeTable]:
        """The other configured nodes of the set."""
        return [node for node in self.set.nodes if node.name != self.config.name]

    async def _described(self) -> Mapping[str, SetDescription]:
        return (await self._asker.ask("set.describe", SetDescription)).answers

    async def _states(self) -> tuple[FoundStates, Mapping[str, str]]:
        """What every node of the set that answers holds, this one first; and of the others why they do not."""
        own = await self.state()
        asked = await self._asker.ask("set.state", StateDescription)
        return [(each, node_state(each)) for each in (own, *asked.answers.values())], asked.silent

    async def _states_when_mended(self) -> tuple[FoundStates, Mapping[str, str]]:
        """As ``_states``, once what rotted at the end of this node's logs is mended, as far as the others have it."""
        await mend_rotten_ends(self.store, self._report)
        return await self._states()

    async def _fetch_before_reigning(
        self, found: FoundStates, fetch: Mapping[str, bytes], epoch: int, reign_id: bytes
    ) -> None:
        """Fetch what others have more of; ``fetch``: the logs by name, and the node that has most of each.

        ``found``: of ``_states``; ``epoch``, ``reign_id``: of a reign that none of their batches is later than. In no
        role. Raises ``CommandNotPossibleError``.
        """
        names = {state.member.node_id: told.name for told, state in found}

        def asks(node_id: bytes) -> AskSuffix:
            node = self.set.node(names[node_id])

            async def ask(request: FetchSuffix) -> LogSuffix:
                if node is None:
                    raise CommandNotPossibleError(f"{names[node_id]} is no node of this set in this configuration")
                timeout_s = max(_FETCH_TIMEOUT_S_MIN, self.cluster.replica_timeout_ms / 1000)
                answer = await self._peers.call(node.urls, "set.fetch", to_arguments(request), timeout_s=timeout_s)
                try:
                    return from_result(LogSuffix, answer)
                except ValueError as error:
                    raise CommandNotPossibleError(f"{node.name}: {error}") from None

            return ask

        wanted = {name: asks(node_id) for name, node_id in fetch.items()}
        who = ", ".join(sorted({names[node_id] for node_id in fetch.values()}))
        logs = f"{len(fetch)} log{'s' if len(fetch) != 1 else ''}"
        try:
            if not self.store.metadata.bytes_total and METADATA_NAME in fetch:
                # A member that had not begun to follow: its logs are nobody's yet.
                (set_id,) = {told.set_id for told, state in found if state.member.node_id == fetch[METADATA_NAME]}
                await self.store.join(bytes.fromhex(set_id))
            await fetch_suffixes(self.store, wanted, epoch=epoch, reign_id=reign_id, report=self._report)
        except MqcoreError as error:
            raise CommandNotPossibleError(f"{who} has more of {logs}, which cannot be fetched: {error}") from error
        self._report(Notice("suffix-fetched", f"what {who} had more of {logs} was fetched, before this node reigns"))

    def _missing(self, found: FoundStates, silent: Mapping[str, str]) -> dict[str, str]:
        """Of every configured node of the set that is not among ``found``, by name, why not."""
        there = {told.name for told, _ in found}
        names = [node.name for node in self.set.nodes if node.name not in there]
        return {name: silent.get(name, f"no answer from {name}") for name in names}

    @contextmanager
    def _saying_why(self, missing: Mapping[str, str]) -> Iterator[None]:
        """Have what cannot be done say of the nodes that are ``missing`` why they are, as it may be for that."""
        try:
            yield
        except CommandNotPossibleError as error:
            if not missing:
                raise
            raise CommandNotPossibleError(f"{error} ({'; '.join(missing.values())})") from error

    async def suffix(self, request: FetchSuffix) -> LogSuffix:
        """Answer a node that is about to reign and has less of a log. Raises ``CommandNotPossibleError`` on a primary,
        which reigns itself, ``StorageError``, ``CorruptionError``.
        """
        if self.reign is not None:
            raise CommandNotPossibleError(f"this node {describe_role(self.role)}")
        return await suffix_of(self.store, request, self.config.limits.admin_bytes_max // 2)

    # this node

    def set_record(self) -> SetRecord | None:
        """The newest record of the set that this node knows, None before the first."""
        if self.reign is not None and self.reign.set is not None:
            return self.reign.set.record
        topics = self.follower.topics if self.follower is not None else None
        return topics.set_record if topics is not None else None

    async def state(self) -> StateDescription:
        """Return what this node holds. Raises ``StorageError``, ``CorruptionError``."""
        record = await self._stored_record()
        # One that has not begun to yet, such as for want of room for its record, may in a moment (R16).
        reigns, has_failed = isinstance(self.playing, Reigning), self._places_back > 0
        return await describe_node(self.store, self.config.name, record, reigns=reigns, has_failed=has_failed)

    @abstractmethod
    async def _stored_record(self) -> SetRecord | None:
        """The newest record that this node's own metadata log has, None where a coordinator keeps it."""


def describe_role(role: Role) -> str:
    """Return a role in words."""
    match role:
        case Reigning(set_up):
            return f"reigns in epoch {set_up.record.epoch}"
        case Following(epoch=epoch, name=name):
            return f"follows {name} in epoch {epoch}"
        case Waiting(why):
            return f"waits: {why}"
