"""A whole replica set on this machine for trying out: one broker process a node, begun by itself, ended together.

The configuration that the nodes share is written beside their storages, so that one that was killed can be started
again by hand. Must not know how a broker is composed: each node is ``mqcore serve`` with its name.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import attrs
import trio

from mqcore.abc import StorageContext
from mqcore.client import connect
from mqcore.config import cluster_example
from mqcore.errors import CommandNotPossibleError, ConfigurationError, MqcoreError
from mqcore.guarantees import Level, NoReplication, ReplicationPolicy, SyncReplication, parse_replication
from mqcore.operations import SetDescription
from mqcore.ports import system_ports
from mqcore.registry import create_storage
from mqcore.url import Url

__all__ = ["ClusterHere", "ClusterPlan", "describe_primary"]

HOST = "127.0.0.1"
FIRST_PORT = 7400
SET_NAME = "here"
LEASE_MS = 3_000
"""Shorter than the default: the coordinator here is a folder, which loses no server."""
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 20.0
LOOK_SECONDS = 0.1
_PR_SET_PDEATHSIG = 1
_QUICK = ("--set", f"cluster.lease_ms={LEASE_MS}")
_FORWARDED = {
    "flush": "--flush",
    "survive": "--survive",
    "limit": "--limit",
    "keys": "--set",
    "offset_store": "--offset-store",
}

Say = Callable[[str, Mapping[str, object]], None]


def _ports(count: int, first: int | None) -> list[int]:
    """Return consecutive ports from ``first``; without it, those from 7400 if all are free, else any free ones."""
    wanted = range(first or FIRST_PORT, (first or FIRST_PORT) + count)
    with_sockets, port = [socket.socket() for _ in wanted], wanted[0]
    try:
        for each, port in zip(with_sockets, wanted, strict=True):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind((HOST, port))
        return list(wanted)
    except OSError as error:
        if first is not None:
            raise CommandNotPossibleError(f"port {port} of {HOST} is in use: {error.strerror}") from None
    finally:
        for each in with_sockets:
            each.close()
    free = [socket.create_server((HOST, 0)) for _ in wanted]
    try:
        return [each.getsockname()[1] for each in free]
    finally:
        for each in free:
            each.close()


def _first_port(listen: Sequence[str]) -> int | None:
    if not listen:
        return None
    url = Url.parse(listen[0])
    host, _, port = url.rest.rpartition(":")
    if len(listen) > 1 or url.scheme != "tcp" or host != HOST or not port.isdigit():
        raise ConfigurationError(
            f"--listen {' '.join(listen)}: the nodes of a set here listen on ports in a row, from --listen "
            f"tcp://{HOST}:{FIRST_PORT} on"
        )
    return int(port)


@attrs.frozen(kw_only=True)
class ClusterPlan:
    """What is to run: the folder, and for each node its name, URL and storage; ``flags`` go to every node."""

    folder: Path
    nodes: tuple[tuple[str, str, str], ...]
    flags: tuple[str, ...]
    replication: ReplicationPolicy

    @classmethod
    def of(cls, count: int, folder: Path, options: Mapping[str, Any]) -> ClusterPlan:
        """Return the plan for ``count`` nodes, storages below ``folder``; ``options`` are those of ``mqcore serve``.

        Raises ``ConfigurationError``, ``CommandNotPossibleError``, ``PluginError``.
        """
        storage = options.get("storage") or f"mmap://{folder}"
        url = Url.parse(storage)
        ports = _ports(count, _first_port(options.get("listen") or ()))
        names = [chr(ord("a") + number) for number in range(count)]
        flags = [
            part
            for name, flag in _FORWARDED.items()
            for given in [options.get(name)]
            for value in ([given] if isinstance(given, str) else given or ())
            for part in (flag, value)
        ]
        return cls(
            folder=folder,
            nodes=tuple(
                (name, f"tcp://{HOST}:{port}", str(attrs.evolve(url, rest=f"{url.rest.rstrip('/')}/{name}")))
                if url.rest
                else (name, f"tcp://{HOST}:{port}", storage)
                for name, port in zip(names, ports, strict=True)
            ),
            flags=(*_QUICK, *flags),
            replication=_replication(options.get("replication"), storage, count),
        )

    @property
    def file(self) -> Path:
        """Where the configuration that all nodes share is written."""
        return self.folder / "cluster.toml"

    @property
    def text(self) -> str:
        """The configuration that all nodes share."""
        sets = {SET_NAME: [(name, url) for name, url, _ in self.nodes]}
        coordinator = f"file://{self.folder.absolute()}/coordinator"
        return cluster_example(sets, storage=self.nodes[0][2], coordinator=coordinator, replication=self.replication)

    def write(self) -> None:
        """Write the configuration. Raises ``OSError``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(self.text)

    def command(self, name: str, storage: str) -> list[str]:
        """The command line, after ``mqcore``, that runs one node."""
        return ["serve", "--config", str(self.file), "--name", name, "--storage", storage, *self.flags]


def _replication(text: str | None, storage: str, count: int) -> ReplicationPolicy:
    """The policy asked for, else two copies at the best level that the storage reaches, up to disk."""
    if text is not None:
        try:
            return parse_replication(text)
        except ValueError as error:
            raise ConfigurationError(f"--replication: {error}") from None
    if count == 1:
        return NoReplication()
    reached = create_storage(storage, StorageContext(ports=system_ports())).capabilities
    return SyncReplication(level=min(Level.DISK, max(reached.append_level, reached.flush_level)))


class _Node:
    """One broker process. ``say`` takes what it says, with its name."""

    def __init__(
        self, name: str, url: str, command: Sequence[str], say: Callable[[str, str, Mapping[str, object]], None]
    ) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._name = name
        self._url = url
        self._command = command
        self._say = say
        self._is_ready = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Run it to its end; ``task_status`` is told when it serves, ``CommandNotPossibleError`` raised if not."""
        # Not by Trio, which starts processes in a thread that may end: the child would then be told that its parent is
        # gone (PR_SET_PDEATHSIG is about threads).
        process = self.process = subprocess.Popen(  # noqa: ASYNC220
            [sys.executable, "-m", "mqcore", "--output", "json", *self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # or Ctrl-C would reach it too, and be its second signal when it is asked to stop
            preexec_fn=_dies_with_its_parent(),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_relay, process.stdout, self._on_event)
            nursery.start_soon(_relay, process.stderr, self._on_notice)
            with trio.move_on_after(START_SECONDS_MAX):
                async with trio.open_nursery() as waiting:
                    waiting.start_soon(_first, self._is_ready.wait, waiting.cancel_scope)
                    waiting.start_soon(_first, self.ended, waiting.cancel_scope)
            if not self._is_ready.is_set():
                raise CommandNotPossibleError(f"node {self._name} did not start (status {process.poll()})")
            facts = {"event": "node", "url": self._url, "pid": process.pid}
            self._say(self._name, f"{self._url}, process {process.pid}", facts)
            task_status.started()
            status = await self.ended()
        again = f"mqcore {' '.join(self._command)}"
        text = f"ended with status {status}; it is started again with: {again}"
        self._say(self._name, text, {"event": "ended", "status": status, "again": again})

    async def ended(self) -> int:
        """Wait until the process has ended and return its status. If cancelled, a thread waits on."""
        assert self.process is not None
        return await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("event") == "ready":
            self._is_ready.set()

    def _on_notice(self, notice: dict[str, Any]) -> None:
        self._say(self._name, str(notice.get("text") or notice.get("message") or ""), notice)


async def _first(wait: Callable[[], Awaitable[object]], others: trio.CancelScope) -> None:
    await wait()
    others.cancel()


class ClusterHere:
    """Runs a plan. ``say`` takes what happens, in words and as an event."""

    def __init__(self, plan: ClusterPlan, say: Say) -> None:
        self._plan = plan
        self._say = say
        self._nodes: list[_Node] = []
        self._has_begun = False

    async def run(self) -> bool:
        """Run until a signal comes or every node has ended; return whether it was an interrupt.

        Raises ``CommandNotPossibleError`` when a node does not start. No process is left when it returns or raises.
        """
        interrupted = False
        self._plan.write()
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._run_all, nursery.cancel_scope)
                    async for number in signals:
                        interrupted = number == signal.SIGINT
                        nursery.cancel_scope.cancel()
                        break
            finally:
                with trio.CancelScope(shield=True):
                    await self._stop(signals)
        return interrupted

    async def _run_all(self, everything: trio.CancelScope) -> None:
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as starting:
                for name, url, storage in self._plan.nodes:
                    node = _Node(name, url, self._plan.command(name, storage), self._say_of)
                    self._nodes.append(node)
                    starting.start_soon(nursery.start, node.run)
            await self._begin()
        everything.cancel()  # every node has ended

    def _say_of(self, node: str, text: str, event: Mapping[str, object]) -> None:
        # Nodes that are not there yet are no news while all of them are being started.
        if self._has_begun or event.get("notice") != "peer-not-reached":
            self._say(f"{node}: {text}", {"node": node, **event})

    async def _begin(self) -> None:
        """Begin the set if it has not begun, wait for its primary, and say how to reach it."""
        urls = [url for _, url, _ in self._plan.nodes]
        async with connect(urls[0]) as client:
            found = await client.sets.describe()
            if not found.set_id:
                found = await client.sets.init()
        with trio.move_on_after(START_SECONDS_MAX):
            while found.primary is None or not all(member.in_sync for member in found.members):
                await trio.sleep(LOOK_SECONDS)
                found = await describe_primary(urls) or found
        self._has_begun = True
        self._say(_headline(found), {"event": "set", "primary": None if found.primary is None else found.primary.name})
        self._say(f"export MQCORE_SERVER={','.join(urls)}", {"event": "ready", "urls": urls})

    async def _stop(self, signals: Any) -> None:
        """End every node in order; a second signal, or a node that takes too long, ends them at once."""
        running = [node for node in self._nodes if node.process is not None and node.process.poll() is None]
        for node in running:
            assert node.process is not None
            node.process.terminate()
        with trio.move_on_after(STOP_SECONDS_MAX):
            async with trio.open_nursery() as nursery:

                async def hurry() -> None:
                    async for _ in signals:
                        nursery.cancel_scope.cancel()

                nursery.start_soon(hurry)
                for node in running:
                    await node.ended()
                nursery.cancel_scope.cancel()
        for node in self._nodes:
            if node.process is not None:
                node.process.kill()
                node.process.wait()


def _headline(found: SetDescription) -> str:
    if found.primary is None:
        return f"the set has no primary yet: {found.why or 'mqcore cluster describe says more'}"
    in_sync = ", ".join(member.name for member in found.members if member.in_sync)
    return f"{found.primary.name} is the primary, epoch {found.epoch}; in sync: {in_sync}"


async def describe_primary(urls: Sequence[str]) -> SetDescription | None:
    """Return the set as its primary knows it, whichever of ``urls`` that is; None while none of them reigns."""
    for url in urls:
        try:
            async with connect(url, connect_timeout_ms=1000, request_timeout_ms=1000) as client:
                found = await client.sets.describe()
                if found.role == "primary":
                    return found
        except MqcoreError:
            continue
    return None


async def _relay(pipe: IO[bytes], take: Callable[[dict[str, Any]], None]) -> None:
    """Hand every line of JSON that comes from a pipe to ``take``; what is none as its text."""
    with pipe:
        stream = trio.lowlevel.FdStream(os.dup(pipe.fileno()))
    rest = b""
    async with stream:
        async for block in stream:
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                try:
                    value = json.loads(line)
                except ValueError:
                    value = None
                take(value if isinstance(value, dict) else {"text": line.decode(errors="replace")})


def _dies_with_its_parent() -> Callable[[], None] | None:
    """What the child does first, so that it never outlives this command, however that ends (Linux)."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)  # looked up here: in the child, between fork and exec, little is allowed
    return lambda: library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
