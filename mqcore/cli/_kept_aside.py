"""What is kept aside, at the nodes of a cluster or in a stopped storage: the same three requests of either."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import attrs
import click

from mqcore.abc import Log, StorageBackend, StorageContext
from mqcore.broker import topic_names
from mqcore.broker.operations.quarantine import suffix_of
from mqcore.cli._client import connected
from mqcore.cli._cluster_nodes import NODE_SECONDS_MAX, alone_with, sets_of
from mqcore.cli.shell import Settings
from mqcore.client import SetAdmin
from mqcore.errors import (
    CommandNotPossibleError,
    ConfigurationError,
    MqcoreError,
    NotReachedError,
    RefusedError,
    RejectedError,
)
from mqcore.limits import Limits
from mqcore.log import METADATA_NAME, QUARANTINE_MARK, StorageInspection, read_side_file, side_file_batches
from mqcore.operations import ClusterNode, QuarantinedSuffix
from mqcore.ports import system_ports
from mqcore.registry import create_storage

__all__ = ["KeptAside", "SideFileKeeper", "find_kept_aside", "opened_keepers"]

PAGE_BYTES = 1024 * 1024


class SideFileKeeper(Protocol):
    """Keeps side files: a node, or a storage without its broker."""

    @property
    def name(self) -> str:
        """The node's name, or the URL of the storage."""
        ...

    async def suffixes(self) -> list[QuarantinedSuffix]:
        """Return everything that is kept aside here."""
        ...

    def batches(self, name: str) -> AsyncIterator[bytes]:
        """Iterate over the batches of one side file, as they were stored."""
        ...

    async def delete(self, name: str) -> int:
        """Delete one side file and return its size in bytes."""
        ...


@attrs.frozen
class KeptAside:
    """A side file and where it is kept."""

    keeper: SideFileKeeper
    suffix: QuarantinedSuffix


@attrs.frozen
class _Node:
    """A node that runs."""

    name: str
    admin: SetAdmin

    async def suffixes(self) -> list[QuarantinedSuffix]:
        return await self.admin.quarantined()

    def batches(self, name: str) -> AsyncIterator[bytes]:
        return self.admin.quarantined_batches(name)

    async def delete(self, name: str) -> int:
        return (await self.admin.delete_quarantined(name)).bytes


@attrs.frozen
class _Storage:
    """A storage, opened for looking; beside its broker nothing is deleted."""

    name: str
    backend: StorageBackend
    inspection: StorageInspection

    async def suffixes(self) -> list[QuarantinedSuffix]:
        async for _ in self.inspection.findings(METADATA_NAME):
            pass  # for the names of topics alone
        names = topic_names(self.inspection.records)
        found = []
        for name in sorted(await self.backend.list_logs()):
            if QUARANTINE_MARK in name:
                side = await read_side_file(await self._log(name))
                found.append(suffix_of(side, names.get(side.log.partition("-")[0], "")))
        return found

    async def batches(self, name: str) -> AsyncIterator[bytes]:
        log, position = await self._log(name), 0
        while True:
            batches, following = await side_file_batches(log, position, PAGE_BYTES)
            for batch in batches:
                yield batch
            if following is None:
                return
            position = following

    async def delete(self, name: str) -> int:
        if self.inspection.beside_broker:
            raise CommandNotPossibleError(f"a broker runs on {self.name}: ask it, with --server, or stop it first")
        log = await self._log(name)
        size = log.end - log.start
        await self.backend.delete_log(name)
        return size

    async def _log(self, name: str) -> Log:
        return await self.backend.open_log(name)


@asynccontextmanager
async def opened_keepers(settings: Settings, storage: str | None) -> AsyncIterator[list[SideFileKeeper]]:
    """Give those who keep side files: the ``storage`` with this URL, else the server and every node of its cluster.

    A node that does not answer is left out, with a line on standard error, when others do.
    """
    async with AsyncExitStack() as stack:
        if storage is not None:
            context = StorageContext(ports=system_ports(), limits=Limits())
            backend = create_storage(storage, context)
            inspection = await stack.enter_async_context(StorageInspection(backend, Limits()))
            yield [_Storage(storage, backend, inspection)]
            return
        nodes = await _nodes(settings)
        if nodes is None:
            client = await stack.enter_async_context(connected(settings))
            yield [_Node((await client.admin.status()).name, client.sets)]
            return
        # As for `describe`: a dead node holds nobody up, unless the wait was asked for.
        connect_ms = None if settings.timeout_is_given else round(NODE_SECONDS_MAX * 1000)
        keepers: list[SideFileKeeper] = []
        problems: list[str] = []
        for node in nodes:
            try:
                client = await stack.enter_async_context(alone_with(settings, node, connect_ms=connect_ms))
            except MqcoreError as error:
                problems.append(str(error))
            else:
                keepers.append(_Node(node.name, client.sets))
        if not keepers:
            raise NotReachedError("; ".join(problems))
        for problem in problems:
            click.echo(f"mqcore: left out: {problem}", err=True)
        yield keepers


async def _nodes(settings: Settings) -> list[ClusterNode] | None:
    """The nodes of the cluster; None where the server is alone, or was named by --server, which picks it."""
    if settings.servers:
        return None
    async with connected(settings) as client:
        try:
            described = await client.sets.describe()
        except (RefusedError, RejectedError):
            return None
    return [node for each in sets_of(described) for node in each.nodes]


async def find_kept_aside(keepers: list[SideFileKeeper], name: str) -> KeptAside:
    """Return the side file called ``name``; ``ConfigurationError`` when none has it, or more than one."""
    found = [
        KeptAside(keeper, suffix) for keeper in keepers for suffix in await keeper.suffixes() if suffix.name == name
    ]
    if not found:
        raise ConfigurationError(f"nothing called {name!r} is kept aside; 'mqcore quarantine list' shows what is")
    if len(found) > 1:
        where = ", ".join(each.keeper.name for each in found)
        raise ConfigurationError(f"{name} is kept by {where}: say which with --server")
    return found[0]
