"""``mqcore ping``: what stands between here and a server, step by step, and how long an answer takes.

Each step is timed by itself; the first that fails is named. Must not know of topics or messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import click

from mqcore.cli.shell import (
    Settings,
    Verb,
    connection_options,
    current,
    output_options,
    run_async,
    write_json,
    write_line,
)

if TYPE_CHECKING:
    from mqcore.abc import Peer, TransportCapabilities, Url

__all__ = ["command"]

COUNT = 5


@attrs.define(kw_only=True)
class _Path:
    """What was found on the way to the server; times in ms."""

    url: str
    addresses: tuple[str, ...] = ()
    resolve_ms: float | None = None
    connect_ms: float = 0.0
    greet_ms: float = 0.0
    peer: Peer | None = None
    transport: TransportCapabilities | None = None
    node: str = ""
    round_trips_ms: list[float] = attrs.field(factory=list)


@click.command(
    "ping",
    cls=Verb,
    examples=[
        "mqcore ping tcp://127.0.0.1:7400",
        "mqcore ping tls://127.0.0.1:7444 --ca certs/ca.pem",
        "mqcore ping tls://127.0.0.1:7444 --ca certs/ca.pem --cert certs/client.pem --key certs/client.key --count 100",
    ],
)
@click.argument("url", required=False)
@click.option(
    "--count", type=click.IntRange(1, 1_000_000), default=COUNT, show_default=True, help="Round trips to measure."
)
@connection_options
@output_options
def command(url: str | None, count: int) -> None:
    """Tell in one line what stands between here and the server at URL (the one of --server without it).

    The steps: the name is resolved, a link is connected and encrypted, the broker greets; then the round trips, median
    and worst. The identity is that of the server's certificate. Status 4 when a step fails, which is named; 2 for a
    file of certificates here that cannot be used.
    """
    path = run_async(_walk, current(), url or current().server_urls[0], count)
    if current().json:
        write_json(_as_json(path))
    else:
        write_line(_in_words(path))


async def _walk(settings: Settings, url: str, count: int) -> _Path:
    import trio

    from mqcore import connect  # loads the client: not part of what is timed
    from mqcore.abc import TlsOptions, TransportContext
    from mqcore.registry import create_transport
    from mqcore.url import Url

    path = _Path(url=url)
    transport = create_transport(url, TransportContext(tls=TlsOptions(**settings.tls)))
    path.transport = transport.capabilities
    seconds = settings.timeout_ms / 1000
    if (place := _place(Url.parse(url))) is not None:
        async with _step(url, "resolve", seconds):
            begin = trio.current_time()
            found = await trio.socket.getaddrinfo(*place, type=trio.socket.SOCK_STREAM)
            path.resolve_ms = _since(begin)
            path.addresses = tuple(dict.fromkeys(str(each[4][0]) for each in found))
    async with _step(url, "connect", seconds):
        begin = trio.current_time()
        link = await transport.connect()
        path.connect_ms = _since(begin)
        path.peer = link.peer
        await link.aclose()
    begin = trio.current_time()
    async with (
        _step(url, "greeting", seconds),
        connect(
            url, name="mqcore ping", connect_timeout_ms=settings.timeout_ms, **settings.tls, **settings.login
        ) as client,
    ):
        path.greet_ms = _since(begin)
        path.node = client.node or ""
        for _ in range(count):
            path.round_trips_ms.append(await client.ping() * 1000)
    return path


@asynccontextmanager
async def _step(url: str, name: str, seconds: float) -> AsyncIterator[None]:
    """Name the step that fails: ``NotReachedError`` for what keeps a server from being reached."""
    import trio

    from mqcore.errors import ConfigurationError, NotReachedError, RemoteProtocolError, TransportError

    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError:
        raise NotReachedError(f"{url}: {name}: no answer within {seconds:g} s") from None
    except ConfigurationError:  # a file of this end's own that is of no use: it was not the way that failed
        raise
    except (NotReachedError, TransportError, RemoteProtocolError) as error:
        raise NotReachedError(f"{name}: {error}" if url in str(error) else f"{url}: {name}: {error}") from error
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise NotReachedError(f"{url}: {name}: {why}: check the host's name") from error


def _since(begin: float) -> float:
    import trio

    return (trio.current_time() - begin) * 1000


def _place(url: Url) -> tuple[str, int] | None:
    """Host and port of a URL that has them."""
    from mqcore.errors import ConfigurationError

    try:
        return url.address
    except ConfigurationError:
        return None


def _in_words(path: _Path) -> str:
    words = []
    if path.resolve_ms is not None:
        words.append(f"resolved to {', '.join(path.addresses)} in {_ms(path.resolve_ms)}")
    assert path.transport is not None
    kind = "encrypted" if path.transport.encrypted else "not encrypted"
    words.append(f"connected in {_ms(path.connect_ms)} ({kind}{_identity(path.peer)})")
    words.append(f"broker {path.node} greeted in {_ms(path.greet_ms)}")
    trips = sorted(path.round_trips_ms)
    worst = f", at worst {_ms(trips[-1])}" if len(trips) > 1 else ""
    words.append(f"round trip {_ms(trips[len(trips) // 2])}{worst}")
    return f"{path.url}: {'; '.join(words)}"


def _ms(value: float) -> str:
    return f"{value:.3f} ms" if value < 10 else f"{value:.1f} ms"


def _identity(peer: Peer | None) -> str:
    if peer is None or peer.tls_subject is None:
        return ""
    return f", {peer.tls_subject}{f' for {names}' if (names := ', '.join(peer.tls_names)) else ''}"


def _as_json(path: _Path) -> dict[str, object]:
    assert path.transport is not None
    assert path.peer is not None
    trips = sorted(path.round_trips_ms)
    return {
        "url": path.url,
        "addresses": path.addresses,
        "resolve_ms": path.resolve_ms,
        "connect_ms": path.connect_ms,
        "encrypted": path.transport.encrypted,
        "multiplexed": path.transport.multiplexed,
        "tls_subject": path.peer.tls_subject,
        "tls_names": path.peer.tls_names,
        "greet_ms": path.greet_ms,
        "node": path.node,
        "round_trips": len(trips),
        "round_trip_ms_min": trips[0],
        "round_trip_ms_median": trips[len(trips) // 2],
        "round_trip_ms_max": trips[-1],
    }
