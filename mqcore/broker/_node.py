"""The node: what of a broker lives as long as the process. Storage, identity, listeners, connections, sessions, limits.

What lives as long as an epoch is a ``Reign``, of which the node holds one reference and drops it when the reign ends.
``Node.serve`` opens the storage, opens a reign, then listens; leaving it stops accepting, answers what is in flight
within ``drain_grace_ms``, and closes the storage with a clean mark.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import trio

from mqcore.abc import (
    CoordinatorContext,
    Notice,
    StorageBackend,
    StorageContext,
    Transport,
    TransportContext,
    ignore_notice,
)
from mqcore.broker._connection import ClientConnection
from mqcore.broker._copy import PartitionCopy
from mqcore.broker._cursor_store import make_offset_store
from mqcore.broker._descriptors import connections_max
from mqcore.broker._elected import ElectedKeeper
from mqcore.broker._follower import FollowedPrimary, Follower
from mqcore.broker._gate import Gate, Permit, check_exposure
from mqcore.broker._group_room import GroupRoom
from mqcore.broker._listeners import accept_links, listening
from mqcore.broker._manual import ManualKeeper
from mqcore.broker._member_remedy import tell_member_remedy
from mqcore.broker._partition import Partition
from mqcore.broker._peers import NodeCaller
from mqcore.broker._reception import Reception
from mqcore.broker._reign import Reign, SetUp
from mqcore.broker._reign_set import ReignSet
from mqcore.broker._remarks import remark_daily, remarks_on, seconds_until_expiry
from mqcore.broker._role_facts import RoleFacts
from mqcore.broker._roles import Following, Reigning, RoleKeeper, Waiting, describe_role
from mqcore.broker._sessions import Sessions
from mqcore.broker._set_policy import may_report_flushed_only
from mqcore.broker.operations import AdminScope, carry_out
from mqcore.config import BrokerConfig, build_of
from mqcore.errors import (
    CommandNotPossibleError,
    FlushFailedError,
    MqcoreError,
    NotPrimaryError,
    RejectedError,
    StorageError,
)
from mqcore.grounds import judge, look_below
from mqcore.guarantees import check_available, check_build, raise_refusals
from mqcore.log import LogStore
from mqcore.logins import transport_as
from mqcore.nurseries import one_error
from mqcore.operations import ReloadedBroker
from mqcore.ports import ClockStep, Ports
from mqcore.protocol import VERSION_MAX, Code, Welcome
from mqcore.registry import create_coordinator, create_storage, create_transport
from mqcore.replication import CommitPolicy, LeaseTerms

__all__ = ["Node"]


def _unknown_operation(text: str) -> RejectedError:
    return RejectedError(text, code=Code.UNKNOWN_OPERATION, name=Code.UNKNOWN_OPERATION.label)


class Node:
    """One broker, composed and not yet running. ``report`` takes what an operator should know.

    ``reign`` is the present one; None while there is none. ``urls`` are what clients connect to, ``http_url`` where its
    figures are shown, empty where they are not.
    """

    def __init__(self, config: BrokerConfig, *, ports: Ports, report: Callable[[Notice], None] = ignore_notice) -> None:
        self.config = config
        self.limits = config.limits
        self.urls: list[str] = []
        self.http_url = ""
        self.reign: Reign | None = None
        self.connections: dict[ClientConnection, None] = {}  # in order of arrival, so that a seed replays
        self.receive_buffer_bytes = 0
        self.refusal: tuple[Code, str] | None = None
        self.now = trio.current_time
        self.report = report
        self.reload: Callable[[], Awaitable[ReloadedBroker]] | None = None
        self.sessions = Sessions(ports)
        self.connections_max = connections_max(config.limits, ports)
        self._ports = ports
        self._clock_step = ClockStep(ports.clock, config.retention.clock_step_max_ms)
        context = StorageContext(ports=ports, limits=config.limits, report=report, stopped=self._storage_stopped)
        self._backend = create_storage(config.storage.url, context, config.storage.options)
        links = TransportContext(random=ports.random, report=report, limits=config.limits, tls=config.tls, admits=True)
        self._offset_store = make_offset_store(config, ports, report)
        self._transports = [create_transport(listen.url, links, listen.options) for listen in config.listen]
        check_exposure(config, self._transports)
        gate = None if config.access is None else Gate(config.access, config.limits, report, self.now)
        self.reception = Reception(self, gate)
        build = build_of(config, self._backend.capabilities)
        verdict = judge(build, look_below(ports, self._backend.directories))
        raise_refusals([*check_build(build), *check_available(build), *verdict.refusals])
        self._of_the_ground = verdict.notices
        self._flush_policy = build.flush_policy
        usual = CommitPolicy(flush=build.flush_policy, replication=config.replication.value)
        self.roles: RoleKeeper | None = None
        """Who decides the role of this node in its set; None for a broker that is alone."""
        self.store = LogStore(
            self._backend,
            ports=ports,
            limits=config.limits,
            node_name=config.name,
            report=self._note_of_log,
            stopped=self._logs_stopped,
            flushed_only=config.cluster is not None and may_report_flushed_only(self._backend.capabilities, [usual]),
        )
        self.roles = roles = self._make_roles(links)
        self.mends_damage = lambda log, offset: roles is not None and roles.damage.is_sought(log, offset)
        self._stop = trio.Event()
        self._reign_scope = trio.CancelScope()

    def _note_of_log(self, notice: Notice) -> None:
        self.report(notice)
        if notice.kind == "log-damaged" and self.roles is not None:
            position = notice.facts["position"]
            self.roles.damage.found(str(notice.facts["log"]), position if isinstance(position, int) else None)

    def _make_roles(self, links: TransportContext) -> RoleKeeper | None:
        config = self.config
        if config.cluster is None:
            return None
        credentials = None if config.access is None else config.access.login.credentials()
        peers = NodeCaller(
            config.name, config.limits, lambda url: transport_as(credentials, create_transport(url, links))
        )
        table = config.cluster.coordinator
        if table.is_manual:
            return ManualKeeper(
                config, self.store, ports=self._ports, peers=peers, report=self.report, pause=self._pause_sends
            )
        terms = LeaseTerms(lease_ms=config.cluster.lease_ms)
        context = CoordinatorContext(
            ports=self._ports, limits=config.limits, report=self.report, call_timeout_ms=terms.call_timeout_ms
        )
        return ElectedKeeper(
            config,
            self.store,
            ports=self._ports,
            peers=peers,
            report=self.report,
            pause=self._pause_sends,
            coordinator=create_coordinator(table.url, context, table.options),
        )

    def _pause_sends(self, why: str | None) -> None:
        if self.refusal is None or self.refusal[0] is Code.NOT_PRIMARY:
            self.refusal = None if why is None else (Code.NOT_PRIMARY, why)

    # running

    async def serve(self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until ``stop`` is called or cancelled; ``task_status`` gets the URLs that clients connect to.

        Cancelled, the storage is still closed in order, without waiting for what is in flight: that ends unknown.
        """
        self.remark()
        if self.reception.gate is not None:
            self.reception.gate.open()
        try:
            try:
                await self.store.open()
            except MqcoreError as error:
                tell_member_remedy(error, self.config)
                raise
            self._clock_step.base_ms = self.store.clock_base_ms
            async with trio.open_nursery() as nursery:
                if self.roles is None:
                    reigned = trio.Event()
                    nursery.start_soon(self._reign_on, reigned)
                    await reigned.wait()
                nursery.start_soon(self.reception.watch)
                nursery.start_soon(remark_daily, self._transports, self._now_s, self.report)
                async with listening(self._transports) as listeners, trio.open_nursery() as accepting:
                    self.urls = [str(listener.url) for listener in listeners]
                    for transport, listener in zip(self._transports, listeners, strict=True):
                        multiplexed = transport.capabilities.multiplexed
                        serve, unknown_s = self.reception.serve_stream, self.reception.unknown_s_max
                        accepting.start_soon(accept_links, listener, multiplexed, nursery, serve, unknown_s)
                    if self.roles is not None:
                        # The others are asked first, and ask this node: it listens before it has a role.
                        nursery.start_soon(self.roles.run)
                        nursery.start_soon(self._play_roles, self.roles)
                        nursery.start_soon(self.roles.damage.run)
                    task_status.started(self.urls)
                    await self._stop.wait()
                    accepting.cancel_scope.cancel()
                await self._drain()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await self.store.aclose()
                if self._offset_store is not None:
                    await self._offset_store.aclose()

    def remark(self) -> None:
        """Report what an operator should know of how this broker is composed."""
        for notice in (*self._of_the_ground, *remarks_on(self.config, self._transports, self._now_s())):
            self.report(notice)

    @property
    def certificate_seconds(self) -> dict[str, float]:
        """Seconds until what each listener shows expires, by its URL; of those that show a certificate."""
        left = {str(each.url): seconds_until_expiry(each, self._now_s()) for each in self._transports}
        return {url: seconds for url, seconds in left.items() if seconds is not None}

    def _now_s(self) -> float:
        return self._ports.clock.wall_ms() / 1000

    def stop(self) -> None:
        """Begin an orderly stop: no new connections, no new sends, what is in flight is answered. Idempotent."""
        self.refusal = (Code.DRAINING, "the broker is stopping: send again elsewhere or later")
        self._stop.set()

    def leave_reign(self) -> None:
        """End the present reign; what waits in it ends unknown. A node that is alone opens the next one at once.

        Connections stay: until then their requests are answered with ``not-primary``, which clients repeat.
        """
        self._reign_scope.cancel()

    async def _reign_on(self, reigned: trio.Event) -> None:
        """Reign, one reign after the other, until cancelled; ``reigned`` is set once there has been one."""
        # An event, not a task status: a reign that is left before it has begun says nothing, and the next one may.
        while True:
            with trio.CancelScope() as self._reign_scope:
                await self._reign_once(reigned)
            await trio.lowlevel.checkpoint()

    async def _reign_once(self, reigned: trio.Event, set_up: SetUp | None = None) -> None:
        reign = Reign(
            self.config,
            self.store,
            ports=self._ports,
            flush_policy=self._flush_policy,
            report=self.report,
            ended=self._reign_ended,
            set_up=set_up,
            clock_step=self._clock_step,
            offset_store=self._offset_store,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(reign.run)
            self.reign = reign
            if self.roles is not None:
                self.roles.note(reign=reign)
                if reign.topics.set_names and reign.keeps_map:
                    nursery.start_soon(self.roles.spread_of(reign.topics).run)
            reigned.set()

    def _reign_ended(self) -> None:
        self.reign = None
        if isinstance(self.roles, ElectedKeeper):
            # Taken by the peer after the lease, it would state what another node's reign may not have (R11, G09).
            for connection in self.connections:
                if connection.outbox.has_receipts:
                    connection.cancel_scope.cancel()

    async def _play_roles(self, roles: RoleKeeper) -> None:
        """Play the role that this node has in its set, one after the other, until cancelled."""
        while True:
            roles.changed = trio.Event()
            role = roles.playing = roles.role
            try:
                with one_error():
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_cancel_after, roles.changed, nursery.cancel_scope)
                        if isinstance(role, Reigning):
                            await self._reign_once(trio.Event(), role.set_up)
                        elif isinstance(role, Following):
                            await self._follow(roles, role)
                        else:
                            await trio.sleep_forever()
            except MqcoreError as error:
                tell_member_remedy(error, self.config)
                roles.failed(role, error)
            finally:
                roles.note()
            await trio.lowlevel.checkpoint()

    async def _follow(self, roles: RoleKeeper, role: Following) -> None:
        await self.store.join(role.set_id)
        primary = FollowedPrimary(role.epoch, role.reign_id, role.node_id, role.urls, partial(roles.connect, role.urls))
        follower = Follower(
            self.config,
            self.store,
            primary,
            ports=self._ports,
            flush_policy=self._flush_policy,
            report=self.report,
            ended=self._reign_ended,
            lost=roles.hint,
            came=roles.damage.node_came,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(follower.run)
            roles.note(follower=follower)

    async def _drain(self) -> None:
        with trio.move_on_after(self.limits.drain_grace_ms / 1000):
            async with trio.open_nursery() as nursery:
                for connection in list(self.connections):
                    nursery.start_soon(connection.drain)

    # what connections ask

    async def open_partition(
        self, topic_id: bytes, index: int, *, may_be_copy: bool = False
    ) -> Partition | PartitionCopy:
        """Return a partition of the present reign, or of a replica its copy, if that will do.

        Raises ``NotPrimaryError``, and as ``Reign`` does.
        """
        follower = self.roles.follower if self.roles is not None and may_be_copy else None
        if follower is not None:
            await trio.lowlevel.checkpoint()
            return follower.open_partition(topic_id, index)
        reign = self._present_reign()
        try:
            partition = await reign.open_partition(topic_id, index)
        except StorageError as error:
            if self.reign is not reign and error.kind == "closed":
                raise self._not_primary() from error
            raise
        if self.reign is not reign:
            raise self._not_primary()
        return partition

    def _not_primary(self) -> NotPrimaryError:
        urls = self.roles.primary_urls if self.roles is not None else ()
        text = "this node does not reign at the moment: ask again"
        if urls:
            text = f"this node is a replica: the primary is at {urls[0]}"
        elif self.roles is not None and isinstance(self.roles.role, Waiting):
            text = f"this node {describe_role(self.roles.role)}"
        return NotPrimaryError(text, code=Code.NOT_PRIMARY, epoch=self.store.epoch, urls=urls)

    def _present_reign(self) -> Reign:
        if self.reign is None:
            raise self._not_primary()
        return self.reign

    @property
    def groups(self) -> GroupRoom:
        """The consumer groups of the present reign. Raises ``NotPrimaryError``."""
        return self._present_reign().groups

    @property
    def fed_reign(self) -> ReignSet | None:
        """The present reign as replicas follow it; None where there is none, or nobody follows."""
        return self.reign.set if self.reign is not None else None

    def topic_name(self, topic_id: bytes) -> str | None:
        """Return the name of a topic that is known here and now."""
        follower = self.roles.follower if self.roles is not None else None
        owner = follower if follower is not None else self.reign
        topic = owner.topics.by_id.get(topic_id) if owner is not None else None
        return None if topic is None else topic.name

    def report_defect(self, action: str, error: Exception) -> str:
        """Report what no part should ever raise, and return the sentence that the client is told."""
        text = f"{action} failed in a way that is a defect: {error!r}"
        self.report(Notice("defect", text))
        return text

    def _storage_stopped(self, error: FlushFailedError) -> None:
        """The storage reports logs that stopped, also when no flush of this broker met the error (G11)."""
        self.store.stop(error)

    def _logs_stopped(self, names: list[str], error: FlushFailedError) -> None:
        if self.reign is not None:
            self.reign.stop_failed()
        facts = {"logs": names[: self.limits.log_names_reported_max]}
        self.report(Notice("logs-stopped", f"{len(names)} logs stopped, such as {names[0]}: {error}", facts))
        if self.roles is not None:
            self.roles.logs_stopped(error)

    def welcome(self, session: bytes) -> Welcome:
        """The answer to a client's greeting."""
        return Welcome(
            VERSION_MAX,
            session,
            self.store.node_id,
            self.config.name,
            self.store.incarnation,
            self.store.epoch,
            self.store.set_id,
            "replica" if self.reign is None else "primary",
            self.limits.published(),
        )

    async def call(self, operation: str, arguments: Mapping[str, Any], permit: Permit | None = None) -> object:
        """Answer an administrative call of who has ``permit`` (None: this program itself). Raises ``MqcoreError``."""
        reign = self.reign
        try:
            scope = AdminScope(
                self.limits, self.store, self._present_reign, self.status, self.operate, self.roles, permit, self.reload
            )
            return await carry_out(scope, operation, arguments)
        except StorageError as error:
            if self.reign is not reign and error.kind == "closed" and not error.appended:
                raise self._not_primary() from error
            raise

    async def operate(self, part: str, operation: str, arguments: Mapping[str, Any]) -> object:
        """Hand an operation to the part called ``part`` (a URL's scheme). Raises ``MqcoreError``."""
        parts: list[StorageBackend | Transport] = [self._backend, *self._transports]
        for candidate in parts:
            if candidate.url.scheme == part:
                try:
                    return await candidate.operate(operation, arguments)
                except CommandNotPossibleError as error:
                    raise _unknown_operation(str(error)) from error
        there = ", ".join(candidate.url.scheme for candidate in parts)
        raise _unknown_operation(f"this broker has no part {part!r}; it has {there}")

    def status(self) -> dict[str, object]:
        """Facts of the running broker, as JSON values."""
        return {
            "name": self.config.name,
            "node_id": self.store.node_id.hex(),
            "incarnation": self.store.incarnation,
            "epoch": self.store.epoch,
            "listen": self.urls,
            "storage": {"url": str(self._backend.url), **self._backend.facts()},
            "connections": len(self.connections),
            "connections_max": self.connections_max,
            "sessions": len(self.sessions),
            "reigns": self.reign is not None,
            **RoleFacts(self.reign, self.roles).status(),
        }


async def _cancel_after(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()
