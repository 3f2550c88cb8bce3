"""``mqcore bench quic``: QUIC and TLS beside their limits, the bare driver on the same engine and Trio's own TLS.

What is compared takes turns, and the median of the ratios of neighbours counts. Client and server are processes of
their own. Nothing is asserted: a row says what it should be, and whether it is.
"""

from __future__ import annotations

import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import attrs
import trio

from mqcore.abc import TlsOptions, TransportContext
from mqcore.registry import create_transport
from mqcore_bench._children import ChildFailed, resident_bytes, serving
from mqcore_bench._quic_bare import BareEndpoint
from mqcore_bench._quic_peer import ANSWER_BYTES, BATCH_BYTES, ECHO, PING_BYTES, REQUESTS, SINK, UNREAD, OneStream

__all__ = ["MEASURES", "TransportRow", "measure_quic"]

PEER = "_quic_peer"
IN_FLIGHT = 16
PIECE_BYTES = 65_536
PINGS_EVERY_S = 0.002
STUCK_S = 0.5
STEP_BYTES = 8_192
WINDOW_BYTES = 1024 * 1024
GARBAGE_PER_S, INITIALS_PER_S = 20_000, 2_000
BYSTANDERS = 8
SETTLE_S = 0.5
CONNECT_S_MAX = 10.0
Opens = Callable[[], Awaitable[OneStream]]


@attrs.frozen(kw_only=True)
class TransportRow:
    """One figure. ``beside`` is that of the limit, if it has one; ``ratio`` the median of the ratios of neighbours."""

    name: str
    value: float
    unit: str
    beside: float | None = None
    ratio: float | None = None
    target: str = ""
    is_met: bool | None = None


@asynccontextmanager
async def _client(kind: str, port: int, folder: Path) -> AsyncIterator[Opens]:
    """Connect to a server of ``kind``; give what opens a stream on that connection."""
    async with AsyncExitStack() as stack:
        if kind == "bare":
            nursery = await stack.enter_async_context(trio.open_nursery())
            endpoint = BareEndpoint(folder, ("127.0.0.1", port), None)
            await nursery.start(endpoint.run)
            connection = await endpoint.connect()
            stack.callback(nursery.cancel_scope.cancel)

            async def opens() -> OneStream:
                return connection.open_stream()
        elif kind == "bare-tls":
            context = ssl.create_default_context(cafile=str(folder / "ca.pem"))

            async def opens() -> OneStream:
                stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context)
                return await stack.enter_async_context(stream)
        else:
            tls = TransportContext(tls=TlsOptions(ca=str(folder / "ca.pem")))
            link = await stack.enter_async_context(await create_transport(f"{kind}://127.0.0.1:{port}", tls).connect())
            opens = link.open_stream
        yield opens


# ---- what is measured ------------------------------------------------------------------------------------------------


async def bulk(opens: Opens, seconds: float) -> float:
    """MB/s on one stream that is read as fast as it comes."""
    stream = await opens()
    await stream.send_all(SINK)
    piece, sent = bytes(PIECE_BYTES), 0
    began = time.perf_counter()
    while time.perf_counter() < began + seconds:
        await stream.send_all(piece)
        sent += PIECE_BYTES
    return sent / 1e6 / (time.perf_counter() - began)


async def batches(opens: Opens, seconds: float) -> float:
    """MB/s in batches of 64 KiB, sixteen under way, each answered with 24 bytes: what a producer does."""
    stream = await opens()
    await stream.send_all(REQUESTS)
    batch, sent, answered = bytes(BATCH_BYTES), 0, 0
    room = trio.Semaphore(IN_FLIGHT)
    began = time.perf_counter()

    async def send() -> None:
        nonlocal sent
        while time.perf_counter() < began + seconds:
            await room.acquire()
            await stream.send_all(batch)
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        received = 0
        while time.perf_counter() < began + seconds or answered < sent:
            received += len(await stream.receive_some(4_096))
            for _ in range(received // ANSWER_BYTES):
                answered += 1
                room.release()
            received %= ANSWER_BYTES
    return answered * BATCH_BYTES / 1e6 / (time.perf_counter() - began)


async def round_trip(opens: Opens, seconds: float) -> float:
    """Median time of 100 bytes there and back, in us."""
    return statistics.median(await _pings(await opens(), seconds, 0.0)) * 1e6


async def beside_bulk(opens: Opens, seconds: float) -> float:
    """99 of 100 round trips beside a full stream of the same connection take less than so many ms."""
    pings = await opens()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bulk, opens, 1e9)
        times = await _pings(pings, seconds, PINGS_EVERY_S)
        nursery.cancel_scope.cancel()
    return statistics.quantiles(times, n=100)[98] * 1e3


async def _pings(stream: OneStream, seconds: float, pause_s: float) -> list[float]:
    await stream.send_all(ECHO)
    data, times = bytes(PING_BYTES), list[float]()
    began = time.perf_counter()
    while (sent := time.perf_counter()) < began + seconds:
        await stream.send_all(data)
        received = 0
        while received < PING_BYTES:
            received += len(await stream.receive_some(4_096))
        times.append(time.perf_counter() - sent)
        if pause_s:
            await trio.sleep(pause_s)
    return times[len(times) // 10 :]


async def unread(opens: Opens, seconds: float) -> float:
    """Bytes that go into a stream whose reader has stopped, in parts of its window."""
    stream = await opens()
    await stream.send_all(UNREAD)
    sent = 0
    while sent < 100 * WINDOW_BYTES:
        with trio.move_on_after(STUCK_S) as scope:
            await stream.send_all(bytes(STEP_BYTES))
        if scope.cancelled_caught:
            break
        sent += STEP_BYTES
    return sent / WINDOW_BYTES


# ---- in turns --------------------------------------------------------------------------------------------------------


async def _at(kind: str, folder: Path, work: Callable[[Opens, float], Awaitable[float]], seconds: float) -> float:
    with serving(PEER, "serve", kind, folder) as (port, _):
        async with _client(kind, int(port), folder) as opens:
            return await work(opens, seconds)


def _in_turns(
    name: str,
    unit: str,
    kinds: tuple[str, str],
    work: Callable[[Opens, float], Awaitable[float]],
    target: str,
    holds: Callable[[float], bool],
) -> Callable[[Path, float, int], TransportRow]:
    def measure(folder: Path, seconds: float, rounds: int) -> TransportRow:
        pairs = []
        for number in range(rounds):
            order = kinds if number % 2 == 0 else kinds[::-1]
            found = {kind: trio.run(_at, kind, folder, work, seconds) for kind in order}
            pairs.append((found[kinds[0]], found[kinds[1]]))
        ratio = statistics.median(own / limit for own, limit in pairs)
        own, limit = (statistics.median(values) for values in zip(*pairs, strict=True))
        return TransportRow(
            name=name, value=own, unit=unit, beside=limit, ratio=ratio, target=target, is_met=holds(ratio)
        )

    return measure


def _alone(
    name: str, unit: str, work: Callable[[Opens, float], Awaitable[float]], target: str, holds: Callable[[float], bool]
) -> Callable[[Path, float, int], TransportRow]:
    def measure(folder: Path, seconds: float, rounds: int) -> TransportRow:
        value = statistics.median(trio.run(_at, "quic", folder, work, seconds) for _ in range(rounds))
        return TransportRow(name=name, value=value, unit=unit, target=target, is_met=holds(value))

    return measure


def _flooded(name: str, kind: str, per_second: int) -> Callable[[Path, float, int], TransportRow]:
    """Batches while ``kind`` floods the server, beside those without; a client that is lost fails the row."""

    async def measure_at(folder: Path, seconds: float, rounds: int) -> TransportRow:
        pairs, lost = [], 0
        for _ in range(rounds):
            with serving(PEER, "serve", "quic", folder) as (port, _):
                async with AsyncExitStack() as stack:
                    clients = [
                        await stack.enter_async_context(_client("quic", int(port), folder)) for _ in range(BYSTANDERS)
                    ]
                    calm = await batches(clients[0], seconds)
                    with serving(PEER, "flood", kind, port, per_second):
                        pairs.append((await batches(clients[0], seconds), calm))
                    for opens in clients:
                        try:
                            with trio.fail_after(CONNECT_S_MAX):
                                await _pings(await opens(), 0.01, 0.0)
                        except (trio.BrokenResourceError, trio.TooSlowError, OSError):
                            lost += 1
        ratio = statistics.median(own / calm for own, calm in pairs)
        value, beside = (statistics.median(values) for values in zip(*pairs, strict=True))
        text = f">= 0.5, none of {BYSTANDERS} clients lost" + (f" ({lost} were)" if lost else "")
        return TransportRow(
            name=name,
            value=value,
            unit="MB/s",
            beside=beside,
            ratio=ratio,
            target=text,
            is_met=ratio >= 0.5 and not lost,
        )

    return lambda folder, seconds, rounds: trio.run(measure_at, folder, seconds, rounds)


async def _bytes_per_link(kind: str, folder: Path, count: int) -> float:
    with serving(PEER, "serve", kind, folder) as (port, child):
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_client(kind, int(port), folder))  # what is loaded for the first one only
            before = resident_bytes(child.pid)
            for _ in range(count):
                opens = await stack.enter_async_context(_client(kind, int(port), folder))
                await _pings(await opens(), 0.0, 0.0)
            await trio.sleep(SETTLE_S)
            return (resident_bytes(child.pid) - before) / count


def _idle_links(folder: Path, count: int) -> TransportRow:
    own, bare = (trio.run(_bytes_per_link, kind, folder, count) for kind in ("quic", "bare"))
    return TransportRow(
        name=f"memory of one of {count} idle links",
        value=own / 1024,
        unit="KiB",
        beside=bare / 1024,
        ratio=own / bare,
        target="<= 1.3",
        is_met=own <= 1.3 * bare,
    )


OURS = ("quic", "bare")
MEASURES: dict[str, Callable[[Path, float, int], TransportRow]] = {
    "bulk": _in_turns("one stream", "MB/s", OURS, bulk, "", lambda _: True),
    "batches": _in_turns("batches of 64 KiB", "MB/s", OURS, batches, ">= 0.8", lambda it: it >= 0.8),
    "round-trip": _in_turns("round trip of 100 B", "us", OURS, round_trip, "<= 1.3", lambda it: it <= 1.3),
    "beside-bulk": _alone("p99 beside a full stream", "ms", beside_bulk, "<= 5 ms", lambda it: it <= 5),
    "unread": _alone("unread bytes of a stream", "windows", unread, "<= 1.1", lambda it: it <= 1.1),
    "garbage": _flooded(f"batches, {GARBAGE_PER_S} garbage datagrams/s", "garbage", GARBAGE_PER_S),
    "initials": _flooded(f"batches, {INITIALS_PER_S} fake Initials/s", "initials", INITIALS_PER_S),
    "tls": _in_turns("TLS: one stream", "MB/s", ("tls", "bare-tls"), bulk, ">= 0.8", lambda it: it >= 0.8),
    "tls-round-trip": _in_turns("TLS: round trip", "us", ("tls", "bare-tls"), round_trip, "", lambda _: True),
    "idle": lambda folder, _, __: _idle_links(folder, IDLE_LINKS),
}
"""What can be asked for by name."""
IDLE_LINKS = 1_000


def measure_quic(
    names: Sequence[str], folder: Path, seconds: float, rounds: int, report: Callable[[str], None]
) -> Iterator[TransportRow]:
    """Measure ``names`` (all when empty), with certificates made in ``folder``; give each row as it is done.

    Raises ``ChildFailed``.
    """
    made = subprocess.run(
        [sys.executable, "-m", "mqcore", "cert", "dev", "--to", str(folder)], capture_output=True, text=True
    )
    if made.returncode:
        raise ChildFailed(made.stderr.strip().splitlines()[-1])
    for name in names or MEASURES:
        report(name)
        yield MEASURES[name](folder, seconds, rounds)
