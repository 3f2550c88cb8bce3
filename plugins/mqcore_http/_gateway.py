"""The server: one request after the other on each connection, GET and HEAD, no bodies, everything bounded.

What a peer sends is parsed by h11, whose limit on a request's head is set here. Errors of a peer end its connection.
"""

from __future__ import annotations

import json
from typing import Any

import h11
import trio

from mqcore.abc import BrokerView, Gateway, GatewayContext, Notice, Url
from mqcore.errors import TransportError
from mqcore_http._config import HttpOptions
from mqcore_http._exposition import OPENMETRICS, PROMETHEUS, exposition

__all__ = ["HttpGateway"]

HEAD_BYTES_MAX = 16 * 1024
RECEIVE_BYTES = 4096
PATHS = "/metrics, /health, /ready"
JSON = "application/json"
TEXT = "text/plain; charset=utf-8"

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class HttpGateway(Gateway):
    """``http://HOST:PORT``. It shows facts to all who reach it, and takes no orders: listen where only yours do."""

    options_class = HttpOptions

    def __init__(self, url: Url, options: HttpOptions, context: GatewayContext) -> None:
        super().__init__(url, options, context)
        self._host, self._port = url.address
        self._view: BrokerView = context.view
        self._timeout_s = options.timeout_ms / 1000
        self._connections = 0
        self._rendering = trio.Lock()

    async def serve(self, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        try:
            listeners = await trio.open_tcp_listeners(self._port, host=self._host)
        except OSError as error:
            raise TransportError(
                f"cannot listen on {self.url}: {error.strerror or error}; choose another port"
            ) from error
        port = listeners[0].socket.getsockname()[1]
        host = f"[{self._host}]" if ":" in self._host else self._host
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._serve_safely, listeners)
            task_status.started(f"http://{host}:{port}")

    async def _serve_safely(self, stream: trio.SocketStream) -> None:
        self._connections += 1
        try:
            if self._connections > self.options.connections_max:
                with trio.move_on_after(self._timeout_s):
                    await stream.send_all(_BUSY)
            else:
                await self._serve_connection(stream)
        except trio.BrokenResourceError:
            pass  # the peer is gone
        except Exception as error:
            # A defect in one answer ends that connection, loudly, and never the broker.
            self.context.report(Notice("gateway-failed", f"answering on {self.url} failed: {error!r}"))
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _serve_connection(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        while True:
            request: h11.Request | None = None
            try:
                with trio.move_on_after(self._timeout_s) as patience:
                    request = await _next_request(connection, stream)
                if patience.cancelled_caught or request is None:
                    return
                status, kind, body = await self._answer(request)
            except h11.RemoteProtocolError as error:
                status, kind, body = error.error_status_hint, TEXT, f"{error}\n".encode()
            if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
                return
            is_head = request is not None and request.method == b"HEAD"
            headers = [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
            if status == 405:
                headers.append(("Allow", "GET, HEAD"))
            if request is None or connection.their_state is not h11.DONE:
                headers.append(("Connection", "close"))
            data = [connection.send(h11.Response(status_code=status, headers=headers)) or b""]
            if not is_head:
                data.append(connection.send(h11.Data(data=body)) or b"")
            data.append(connection.send(h11.EndOfMessage()) or b"")
            with trio.move_on_after(self._timeout_s) as patience:
                await stream.send_all(b"".join(data))
            if patience.cancelled_caught or connection.states[h11.SERVER] is not h11.DONE:
                return
            connection.start_next_cycle()

    async def _answer(self, request: h11.Request) -> tuple[int, str, bytes]:
        if request.method not in (b"GET", b"HEAD"):
            return 405, TEXT, b"GET and HEAD only\n"
        path = request.target.partition(b"?")[0]
        if path == b"/metrics":
            accepts = b",".join(value for name, value in request.headers if name == b"accept")
            openmetrics = b"application/openmetrics-text" in accepts
            # One at a time: however many ask, one text is in the making.
            async with self._rendering:
                text = await exposition(self._view.metrics(), openmetrics=openmetrics)
            return 200, OPENMETRICS if openmetrics else PROMETHEUS, text
        if path == b"/health":
            failures = list(self._view.failures())[:16]
            return (
                (503, JSON, _json(healthy=False, failures=failures)) if failures else (200, JSON, _json(healthy=True))
            )
        if path == b"/ready":
            why = self._view.waits_for()
            return (503, JSON, _json(ready=False, why=why)) if why else (200, JSON, _json(ready=True))
        return 404, TEXT, f"there is nothing here; there are {PATHS}\n".encode()


async def _next_request(connection: h11.Connection, stream: trio.SocketStream) -> h11.Request | None:
    """The next request, with what belongs to it read; None when the peer is done.

    Raises ``h11.RemoteProtocolError``, for a body, too: none of the paths takes one.
    """
    request: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(RECEIVE_BYTES))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.EndOfMessage):
            return request
        elif isinstance(event, h11.Data):
            raise h11.RemoteProtocolError("no body is taken here", error_status_hint=413)
        else:
            return None


def _json(**facts: Any) -> bytes:
    return json.dumps(facts, ensure_ascii=False).encode() + b"\n"
