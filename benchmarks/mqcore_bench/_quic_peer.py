"""The other end of the measurements of QUIC and TLS: ``python -m mqcore_bench._quic_peer serve|flood ...``.

What a stream is for, its first byte says. A server prints its port once it listens.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import trio

from mqcore.abc import Link, TlsOptions, TransportContext
from mqcore.registry import create_transport
from mqcore_bench._quic_bare import BareEndpoint

__all__ = ["ANSWER_BYTES", "BATCH_BYTES", "ECHO", "PING_BYTES", "REQUESTS", "SINK", "UNREAD", "OneStream"]

SINK, ECHO, REQUESTS, UNREAD = b"S", b"E", b"R", b"U"
PING_BYTES, BATCH_BYTES, ANSWER_BYTES = 100, 65_536, 24
PAUSE_S = 0.001


class OneStream(Protocol):
    """What is measured has these two."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...

    async def send_all(self, data: bytes) -> None: ...


async def _handle(stream: OneStream) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        data = await stream.receive_some(1)
        kind, count = data[:1], len(data) - 1
        if kind == UNREAD:
            await trio.sleep_forever()
        size = {ECHO: PING_BYTES, REQUESTS: BATCH_BYTES}.get(bytes(kind), 0)
        answer = bytes(PING_BYTES if kind == ECHO else ANSWER_BYTES)
        # A stream of ours makes the buffer before it waits: what idles must not be counted with one for bulk.
        most = 4_096 if kind == ECHO else 262_144
        while data:
            while size and count >= size:
                count -= size
                await stream.send_all(answer)
            data = await stream.receive_some(most)
            count += len(data)


async def _serve_link(nursery: trio.Nursery, link: Link) -> None:
    with suppress(trio.EndOfChannel, trio.BrokenResourceError):
        while True:
            nursery.start_soon(_handle, await link.accept_stream())


async def _serve(kind: str, folder: Path) -> None:
    async with trio.open_nursery() as nursery:
        if kind == "bare":
            endpoint = BareEndpoint(folder, None, _handle)
            await nursery.start(endpoint.run)
            print(endpoint.port, flush=True)
        elif kind == "bare-tls":
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(folder / "server.pem", folder / "server.key")
            serve = partial(trio.serve_ssl_over_tcp, _handle, 0, context, host="127.0.0.1")
            listeners = await nursery.start(serve)
            print(listeners[0].transport_listener.socket.getsockname()[1], flush=True)
        else:
            tls = TlsOptions(cert=str(folder / "server.pem"), key=str(folder / "server.key"))
            transport = create_transport(f"{kind}://127.0.0.1:0", TransportContext(tls=tls))
            async with await transport.listen() as listener:
                print(listener.url.address[1], flush=True)
                while True:
                    nursery.start_soon(_serve_link, nursery, await listener.accept())


def _flood(kind: str, port: int, per_second: int) -> None:
    """Send datagrams that nobody asked for until killed, each from a socket of its own if they begin handshakes."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        began, sent = time.perf_counter(), 0
        print("floods", flush=True)
        while True:
            while sent < (time.perf_counter() - began) * per_second:
                sent += 1
                with suppress(OSError):
                    sock.sendto(_garbage(sent) if kind == "garbage" else _fake_initial(), ("127.0.0.1", port))
            time.sleep(PAUSE_S)


def _garbage(number: int) -> bytes:
    return (b"\x41" + os.urandom(99), os.urandom(1_200), b"\xc0" + os.urandom(60), b"\x00")[number % 4]


def _fake_initial() -> bytes:
    head = b"\xc3\x00\x00\x00\x01\x08" + os.urandom(8) + b"\x08" + os.urandom(8) + b"\x00"
    rest = 1_200 - len(head) - 2
    return head + (0x4000 | rest).to_bytes(2, "big") + os.urandom(rest)


if __name__ == "__main__":
    verb, which, *rest = sys.argv[1:]
    with suppress(KeyboardInterrupt):
        if verb == "serve":
            trio.run(_serve, which, Path(rest[0]))
        else:
            _flood(which, int(rest[0]), int(rest[1]))
