"""Streams and listeners over stream sockets: what the socket transports (TCP, Unix) have in common.

Sockets are ``trio.socket`` sockets, so that a custom socket factory (a model network) can stand in. One that has a
descriptor is read and written through it, without Trio's turn of the scheduler after every call that did not have to
wait: that turn costs as much as the call. What always holds: cancellation is seen before anything is sent, and a
receiver that never has to wait still lets others run. This is the hot path of every message: no context managers, no
copies. Must not know of addresses, files or the protocol.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

import trio

from mqcore.abc import Link, Listener, Notice
from mqcore.links import ClosableStream
from mqcore.ports import Buffer
from mqcore.url import Url

__all__ = [
    "ACCEPT_PAUSE_SECONDS",
    "BUFFERS_PER_SEND_MAX",
    "RECEIVE_BYTES_DEFAULT",
    "SocketListener",
    "SocketStream",
    "buffers_after",
    "enlarge_buffers",
    "grants_buffers",
]

RECEIVE_BYTES_DEFAULT = 65_536
"""What ``receive_some`` takes at most when it is not told."""
BUFFERS_PER_SEND_MAX = 1_024
"""IOV_MAX: most buffers that one ``sendmsg`` takes on Linux and the BSDs."""
ACCEPT_PAUSE_SECONDS = 0.1
"""Pause after an accept that failed for want of descriptors or memory."""

_CLOSED_ERRORS = frozenset({errno.EBADF, errno.ENOTSOCK})
_CAPACITY_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_FINAL_ACCEPT_ERRORS = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EFAULT})
# Linux passes on what happened to a connection while it waited. Each of these took one connection off the queue, so
# that trying again at once gets on. Of any other error this is not known: then trying at once might be a busy loop.
_DEAD_CONNECTION_ERRORS = frozenset(
    getattr(errno, name)
    for name in ("ECONNABORTED", "ECONNRESET", "EPROTO", "EPERM", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET",
                 "EHOSTUNREACH", "ENETUNREACH", "ETIMEDOUT", "EINTR")
    if hasattr(errno, name)
)  # fmt: skip


class SocketStream(ClosableStream, trio.abc.HalfCloseableStream):
    """A byte stream over a connected stream socket, which it owns.

    One task may send while another receives. A write that ended early (cancelled or failed after some of its bytes
    had gone) closes the socket: what follows could only be garbage to the peer. ``socket`` is for its options only.
    """

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self.socket = socket
        self._descriptor = _descriptor_of(socket)
        self._sending = False
        self._eof_sent = False
        self._torn = False
        # A subclass that frames, counts or spoils what is sent has to see every byte.
        self._may_send_now = self._descriptor >= 0 and type(self).send_buffers is SocketStream.send_buffers

    async def receive_into(self, buffer: bytearray | memoryview) -> int:
        """Receive at least one byte into ``buffer`` and return how many; 0 at the end. No effect if cancelled."""
        descriptor = self._descriptor
        try:
            if descriptor < 0:
                return await self.socket.recv_into(buffer)
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                received = os.readv(descriptor, (buffer,))
            except BlockingIOError:
                while True:
                    await trio.lowlevel.wait_readable(descriptor)
                    try:
                        return os.readv(descriptor, (buffer,))
                    except BlockingIOError:  # woken for nothing, which the kernel may do
                        continue
        except OSError as error:
            raise self._stream_error(error) from error
        await trio.lowlevel.cancel_shielded_checkpoint()
        return received

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive 1 to ``max_bytes`` bytes (64 KiB unless told); empty at the end. No effect if cancelled."""
        if max_bytes is None:
            max_bytes = RECEIVE_BYTES_DEFAULT
        elif max_bytes < 1:
            raise ValueError(f"max_bytes = {max_bytes}: must be at least 1")
        try:
            return await self.socket.recv(max_bytes)
        except OSError as error:
            raise self._stream_error(error) from error

    async def send_all(self, data: Buffer) -> None:
        """Send ``data``. A checkpoint, as Trio wants it of every stream.

        If cancelled after some of it went, the stream is closed; before, it has no effect.
        """
        await self.send_buffers((memoryview(data).cast("B"),))
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def send_buffers(self, buffers: Sequence[Buffer]) -> None:
        """Send ``buffers`` (of single bytes) one after the other in as few system calls as possible.

        Observes cancellation; lets others run only where it has to wait. If cancelled after some bytes went, the
        stream is closed; before, it has no effect.
        """
        if self._sending or self._eof_sent:
            self._begin_sending()
        self._sending = True
        try:
            descriptor = self._descriptor
            if descriptor < 0:
                sent = await self._send_once(buffers[:BUFFERS_PER_SEND_MAX])
            else:
                # As in ``_send_once``, without the call: one for every message in either direction.
                await trio.lowlevel.checkpoint_if_cancelled()
                try:
                    sent = os.writev(descriptor, buffers[:BUFFERS_PER_SEND_MAX])
                except BlockingIOError:
                    sent = await self._send_once(buffers[:BUFFERS_PER_SEND_MAX])
            if sent != sum(map(len, buffers)):
                await self._send_rest(buffers_after(buffers, sent))
        except OSError as error:
            raise self._stream_error(error) from error
        finally:
            self._sending = False

    def send_now(self, buffers: Sequence[Buffer]) -> int:
        """Send what the socket takes at once; see ``ByteStream.send_now``."""
        if not self._may_send_now or self._sending or self._eof_sent or self._descriptor < 0:
            return 0
        try:
            return os.writev(self._descriptor, buffers[:BUFFERS_PER_SEND_MAX])
        except OSError:  # full, or broken, which the caller is told by ``send_buffers``
            return 0

    async def _send_once(self, buffers: Sequence[Buffer]) -> int:
        """Send some bytes of ``buffers`` and return how many; waits only while the socket takes none."""
        await trio.lowlevel.checkpoint_if_cancelled()
        descriptor = self._descriptor
        if descriptor < 0:
            return await self.socket.sendmsg(buffers)
        while True:
            try:
                return os.writev(descriptor, buffers)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(descriptor)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes more bytes. No effect if cancelled."""
        self._begin_sending()
        try:
            if self.closed:
                raise self._stream_error(OSError(errno.EBADF, "closed"))
            await self.socket.wait_writable()
        except OSError as error:
            raise self._stream_error(error) from error
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """End this direction: the peer reads what was sent, then the end. Idempotent."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        await trio.lowlevel.checkpoint()
        if self._eof_sent:
            return
        try:
            self.socket.shutdown(trio.socket.SHUT_WR)
        except OSError as error:
            raise self._stream_error(error) from error
        self._eof_sent = True

    @property
    def closed(self) -> bool:
        """Whether the socket was closed."""
        return self.socket.fileno() == -1

    def close(self) -> None:
        """Close the socket at once; tasks waiting on it get ``trio.ClosedResourceError``. Idempotent."""
        self._descriptor = -1
        self.socket.close()

    async def aclose(self) -> None:
        """Close the socket. It is closed even if this is cancelled. Idempotent."""
        self.close()
        await trio.lowlevel.checkpoint()

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._eof_sent:
            raise trio.ClosedResourceError("this direction of the stream was ended")
        self._sending = True

    async def _send_rest(self, rest: list[memoryview]) -> None:
        try:
            while rest:
                sent = await self._send_once(rest[:BUFFERS_PER_SEND_MAX])
                rest = buffers_after(rest, sent)
        except BaseException:
            self._torn = True
            self.close()
            raise

    def _stream_error(self, error: OSError) -> Exception:
        if self._torn:
            return trio.BrokenResourceError("a write ended early, which closed the stream")
        if error.errno in _CLOSED_ERRORS:
            return trio.ClosedResourceError("the stream is closed")
        return trio.BrokenResourceError(f"the connection broke: {error}")


def _descriptor_of(socket: trio.socket.SocketType) -> int:
    """The socket's descriptor, -1 where it has none that the kernel knows: a model socket."""
    descriptor = socket.fileno()
    try:
        return descriptor if stat.S_ISSOCK(os.fstat(descriptor).st_mode) else -1
    except OSError:
        return -1


def buffers_after(buffers: Sequence[Buffer], sent: int) -> list[memoryview]:
    """What is left of ``buffers`` after their first ``sent`` bytes."""
    for index, buffer in enumerate(buffers):
        if sent < len(buffer):
            return [memoryview(buffer)[sent:], *(memoryview(later) for later in buffers[index + 1 :])]
        sent -= len(buffer)
    return []


class SocketListener(Listener):
    """Accepts links on a listening socket, which it owns.

    ``make_link`` turns an accepted socket into a link; an ``OSError`` in it (the peer is gone again) drops that socket.
    ``report`` takes notices (``accept-waits``, ``accept-resumed``). ``on_close`` runs once, after the close.
    """

    def __init__(
        self,
        socket: trio.socket.SocketType,
        url: Url,
        make_link: Callable[[trio.socket.SocketType, object], Link],
        report: Callable[[Notice], None],
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.url = url
        self.socket = socket
        self._make_link = make_link
        self._report = report
        self._on_close = on_close
        self._waits = False  # of the listener, not of one call: a cancelled accept must not report it again

    async def accept(self) -> Link:
        """Accept the next link. No link is lost if cancelled.

        Connections that died while they waited are skipped. When the process or the machine is out of descriptors or
        memory, or accepting fails for another reason, this is reported once and tried again every 100 ms; the
        connections wait in the kernel meanwhile. Raises ``trio.ClosedResourceError``, and ``OSError`` where the socket
        can never accept.
        """
        while True:
            try:
                socket, address = await self.socket.accept()
            except OSError as error:
                if error.errno in _CLOSED_ERRORS:
                    raise trio.ClosedResourceError("the listener is closed") from None
                if error.errno in _FINAL_ACCEPT_ERRORS:
                    raise
                if error.errno not in _DEAD_CONNECTION_ERRORS:
                    if not self._waits:
                        self._waits = True
                        self._report_waiting(error)
                    await trio.sleep(ACCEPT_PAUSE_SECONDS)
                continue
            try:
                link = self._make_link(socket, address)
            except OSError:
                socket.close()
                continue
            if self._waits:
                self._waits = False
                self._report(Notice("accept-resumed", f"{self.url}: accepting connections again"))
            return link

    def _report_waiting(self, error: OSError) -> None:
        is_short = error.errno in _CAPACITY_ERRORS
        remedy = "raise the limit (ulimit -n) or lower connections_max; " if is_short else ""
        text = f"{self.url}: cannot accept connections: {error}; {remedy}trying again every {ACCEPT_PAUSE_SECONDS} s"
        self._report(Notice("accept-waits", text, {"url": str(self.url)}))

    async def aclose(self) -> None:
        """Stop listening, even if this is cancelled. Idempotent."""
        self.socket.close()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()
        await trio.lowlevel.checkpoint()


def grants_buffers(probe: trio.socket.SocketType, size_bytes: int) -> bool:
    """Whether the kernel gives socket buffers of ``size_bytes`` in full: tried on ``probe``, of no further use.

    Where it would clamp them they are better left alone: a size that was set once is no longer grown by the kernel.
    """
    try:
        for option in (trio.socket.SO_RCVBUF, trio.socket.SO_SNDBUF):
            probe.setsockopt(trio.socket.SOL_SOCKET, option, size_bytes)
            granted = probe.getsockopt(trio.socket.SOL_SOCKET, option)
            if granted != size_bytes and granted < 2 * size_bytes:  # Linux reports twice what was asked for
                return False
    except OSError:
        return False
    return True


def enlarge_buffers(socket: trio.socket.SocketType, size_bytes: int) -> None:
    """Give ``socket`` buffers of ``size_bytes``; ask ``grants_buffers`` first."""
    socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, size_bytes)
    socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, size_bytes)
