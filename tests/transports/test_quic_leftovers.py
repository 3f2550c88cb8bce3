"""QUIC: nothing is kept of a connection that ended in the middle of what came, nor of a stream that never began."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from mqcore.abc import TlsOptions, TransportContext
from mqcore.registry import create_transport

ENGINES = ("qh3", "aioquic")


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(90):
            await test()

    trio.run(main)


def files_in(folder: Path) -> tuple[str, str]:
    """An authority's certificate, and a server's with its key."""
    authority = trustme.CA()
    ca, cert = str(folder / "ca.pem"), str(folder / "server.pem")
    authority.cert_pem.write_to_path(ca)
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(cert)
    Path(cert).chmod(0o600)
    return ca, cert


@asynccontextmanager
async def both_ends(folder: Path, query: str) -> AsyncIterator[tuple[Any, Any]]:
    """The two ends of a connection, the client's first, both with the options of ``query``."""
    ca, cert = files_in(folder)
    served = TransportContext(tls=TlsOptions(cert=cert))
    async with await create_transport(f"quic://127.0.0.1:0?{query}", served).listen() as listener:
        context = TransportContext(tls=TlsOptions(ca=ca))
        link: Any = await create_transport(f"{listener.url}?{query}", context).connect()
        theirs: Any = await listener.accept()
        try:
            yield link._links[0], theirs
        finally:
            await trio.aclose_forcefully(link)
            await trio.aclose_forcefully(theirs)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_id_that_the_engine_gives_out_after_the_end_of_its_connection_is_not_kept(
    engine: str, tmp_path: Path
) -> None:
    """One round brings what breaks a rule, and after it what has the engine give out another id."""

    async def test() -> None:
        async with both_ends(tmp_path, f"engine={engine}") as (ours, theirs):
            stream = await ours.open_stream()
            await stream.send_all(b"x")
            await (await theirs.accept_stream()).receive_some()
            endpoint = theirs._outlet
            now = trio.current_time()
            control = ours.engine.open_stream(is_one_way=True)
            ours.engine.write(control, bytes([99]) * 17)
            ours.flush_now(now)
            ours.engine._connection.change_connection_id()
            ours.flush_now(now)
            with pytest.raises(trio.EndOfChannel):
                await theirs.accept_stream()
            assert "control record" in str(theirs.why_dead())
            assert endpoint._by_id == {}

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_streams_that_are_reset_before_their_first_byte_came_are_over(engine: str, tmp_path: Path) -> None:
    """As of streams given up by a client whose first packets were lost: no engine sends those again after a reset."""

    async def test() -> None:
        async with both_ends(tmp_path, f"engine={engine}&streams_max=8") as (ours, theirs):

            async def serve() -> None:
                while True:
                    stream = await theirs.accept_stream()
                    with suppress(trio.BrokenResourceError):
                        await stream.send_all(await stream.receive_some())
                    await stream.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                for _ in range(20):
                    given_up = ours.engine.open_stream()
                    ours.engine.abort(given_up, 1)
                    ours.flush()
                    stream = await ours.open_stream()
                    await stream.send_all(b"x")
                    assert await stream.receive_some() == b"x"
                    await stream.aclose()
                nursery.cancel_scope.cancel()
            assert theirs.why_dead() is None
            assert not theirs._numbers.left_out_with(0)

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_s_timer_runs_though_a_program_writes_all_the_time(engine: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with both_ends(tmp_path, f"engine={engine}") as (ours, _):
            times: list[float] = []
            due = trio.current_time()
            ours.engine.deadline = lambda: due
            ours.engine.on_deadline = times.append
            ours._pause.sent(due)
            ours._pause._unanswered_since = due - 1
            ours._pause.heard = lambda: None  # as if what is sent were lost
            for _ in range(2_000):
                ours.flush_now(trio.current_time())
                await trio.sleep(0.001)
                if len(times) >= 3:
                    break
            assert len(times) >= 3
            del ours.engine.deadline, ours.engine.on_deadline

    run(test)


@pytest.mark.parametrize("engine", ENGINES)
def test_who_loses_some_of_much_that_is_on_its_way_is_not_cut_off_where_windows_are_small(
    engine: str, tmp_path: Path
) -> None:
    """Each 97th datagram is lost, and the least may be kept out of order: aioquic lets peers be ahead by more."""

    async def test() -> None:
        async with both_ends(tmp_path, f"engine={engine}&held_bytes_max=1048576") as (ours, theirs):
            sock, count = ours._outlet._sock, itertools.count(1)
            send = sock.send
            sock.send = lambda datagrams: send([each for each in datagrams if next(count) % 97])
            stream = await ours.open_stream()
            left = 2 * 1024 * 1024
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.send_all, bytes(left))
                peer = await theirs.accept_stream()
                while left:
                    left -= len(await peer.receive_some())
                    if engine == "aioquic":
                        kept = theirs.engine._connection._streams.values()
                        assert sum(len(each.receiver._buffer) for each in kept) <= theirs.window_bytes

    run(test)
