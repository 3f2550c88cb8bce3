"""Listening and connecting over Unix sockets. Must not know of the protocol that the streams carry.

The order at start is bind, set the mode, listen: before ``listen`` no client can connect, so the file is never open to
more users than its mode says, whatever the process's umask.
"""

from __future__ import annotations

import errno
import os
import struct
from functools import partial

from trio import socket as tsocket

from mqcore.abc import Link, Listener, Peer, Transport, TransportCapabilities, TransportContext, Url
from mqcore.errors import ConfigurationError, TransportError
from mqcore.links import StreamLink
from mqcore.sockets import SocketListener, SocketStream, enlarge_buffers, grants_buffers
from mqcore_unix._config import UnixOptions
from mqcore_unix._file import PathFacts, alone_in_folder, facts_of, remove_if_same, restrict

__all__ = ["PATH_BYTES_MAX", "UnixTransport"]

PATH_BYTES_MAX = 107
"""Longest path of a socket: the kernel's field has 108 bytes, the last one zero."""

_CAPABILITIES = TransportCapabilities(authenticated=True, half_close=True, local_only=True, simulable=True)
_CREDENTIALS = struct.Struct("3i")
_BIND_ATTEMPTS_MAX = 4

_LISTEN_REMEDIES = {
    errno.EACCES: "no permission: the directory must be writable for this user",
    errno.EPERM: "no permission: the directory must be writable for this user",
    errno.EROFS: "the file system is read-only: choose a path elsewhere",
    errno.ENOENT: "the directory does not exist: create it",
    errno.ENOTDIR: "part of the path is not a directory: check it",
}
_CONNECT_REMEDIES = {
    errno.ENOENT: "there is no such socket: start the broker with this --listen, or check the path",
    errno.ENOTDIR: "part of the path is not a directory: check it",
    errno.ECONNREFUSED: "nothing listens there (the file may be left over): start the broker, or check the path",
    errno.EACCES: "no permission: the broker's mode option says who may connect (0660 its group, 0666 everybody)",
    errno.EPROTOTYPE: "the socket there is not a broker's (not a stream socket): check the path",
    errno.ENOTCONN: "the broker is not accepting fast enough (its backlog is full): try again",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n) or open fewer connections",
}


_CONNECT_FINAL = (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EPROTOTYPE)
"""What does not pass by itself."""


class UnixTransport(Transport):
    """The transport part of the scheme ``unix``."""

    options_class = UnixOptions

    def __init__(self, url: Url, options: UnixOptions, context: TransportContext) -> None:
        super().__init__(url, options, context)
        self._path = url.path
        if len(os.fsencode(self._path)) > PATH_BYTES_MAX:
            raise ConfigurationError(
                f"{url}: the path has {len(os.fsencode(self._path))} bytes, a Unix socket's has at most"
                f" {PATH_BYTES_MAX}: choose a shorter one, such as unix:///run/mq.sock"
            )
        self._options = options

    @property
    def capabilities(self) -> TransportCapabilities:
        """What Unix sockets promise."""
        return _CAPABILITIES

    async def listen(self) -> Listener:
        """Make the socket file and listen; a file left over by a dead process is replaced.

        Raises ``TransportError``: somebody answers there, another kind of file is in the way, no permission. If
        cancelled, nothing stays open, but the file may stay.
        """
        socket = tsocket.socket(tsocket.AF_UNIX, tsocket.SOCK_STREAM)
        facts: PathFacts | None = None
        try:
            async with alone_in_folder(self._path):  # bound and not listening yet, it would look left over to others
                facts = await self._bind(socket)
                socket.listen(self._options.backlog)
            large = self._buffers_granted()
        except BaseException as error:
            socket.close()
            if facts is not None:
                remove_if_same(self._path, facts)
            if isinstance(error, OSError):
                raise self._error("listen", error, _LISTEN_REMEDIES) from error
            raise
        on_close = None if facts is None else partial(remove_if_same, self._path, facts)
        url = Url(self.url.scheme, self._path)
        return SocketListener(socket, url, partial(self._accepted, large), self.context.report, on_close)

    async def connect(self) -> Link:
        """Connect to the socket. Raises ``TransportError``. If cancelled, nothing stays open."""
        stream = await self._connect_stream()
        return StreamLink(stream, _peer_of(stream.socket, str(self.url)), self._connect_stream)

    async def _bind(self, socket: tsocket.SocketType) -> PathFacts | None:
        """Bind, after making sure that a file in the way is not in use; return the facts of the file that was made."""
        for _ in range(_BIND_ATTEMPTS_MAX):
            before = facts_of(self._path)
            try:
                await socket.bind(self._path)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                await self._remove_stale(before)
            else:
                return restrict(self._path, self._options.mode_bits) if before is None else None
        raise TransportError(f"cannot listen {self.url}: other processes keep making this file: choose another path")

    async def _remove_stale(self, facts: PathFacts | None) -> None:
        if facts is not None and not facts.is_socket:
            raise TransportError(
                f"cannot listen {self.url}: a file that is not a socket is in the way: move it or choose another path"
            )
        if facts is None or await self._is_answered():
            raise TransportError(
                f"cannot listen {self.url}: the socket is in use: stop the process that listens there"
                " (ss -xlp) or choose another path"
            )
        if facts_of(self._path) == facts:
            os.unlink(self._path)

    async def _is_answered(self) -> bool:
        """Whether a process listens on the socket file. When in doubt it does: then the file is left alone."""
        with tsocket.socket(tsocket.AF_UNIX, tsocket.SOCK_STREAM) as probe:
            try:
                await probe.connect(self._path)
            except OSError as error:
                return error.errno not in (errno.ECONNREFUSED, errno.ENOENT)
        return True

    async def _connect_stream(self) -> SocketStream:
        socket = tsocket.socket(tsocket.AF_UNIX, tsocket.SOCK_STREAM)
        try:
            if self._buffers_granted():
                enlarge_buffers(socket, self._options.socket_buffer_bytes)
            await socket.connect(self._path)
            # A full backlog refuses with EAGAIN, which looks like a connect under way: only this tells.
            socket.getpeername()
        except OSError as error:
            socket.close()
            raise self._error("connect", error, _CONNECT_REMEDIES) from error
        except BaseException:
            socket.close()
            raise
        return SocketStream(socket)

    def _accepted(self, large_buffers: bool, socket: tsocket.SocketType, _address: object) -> StreamLink:
        if large_buffers:
            enlarge_buffers(socket, self._options.socket_buffer_bytes)
        return StreamLink(SocketStream(socket), _peer_of(socket, str(self.url)))

    def _buffers_granted(self) -> bool:
        if not self._options.socket_buffer_bytes:
            return False
        with tsocket.socket(tsocket.AF_UNIX, tsocket.SOCK_STREAM) as probe:
            return grants_buffers(probe, self._options.socket_buffer_bytes)

    def _error(self, verb: str, error: OSError, remedies: dict[int, str]) -> TransportError:
        text = f"cannot {verb} {self.url}: {remedies.get(error.errno or 0, str(error))}"
        return TransportError(text, retryable=error.errno not in _CONNECT_FINAL)


def _peer_of(socket: tsocket.SocketType, address: str) -> Peer:
    """The peer with its credentials, as far as the socket tells them."""
    try:
        found = socket.getsockopt(tsocket.SOL_SOCKET, tsocket.SO_PEERCRED, _CREDENTIALS.size)
        process_id, user_id, group_id = _CREDENTIALS.unpack(found)
    except (AttributeError, OSError, struct.error):
        return Peer(address=address)
    return Peer(address=address, process_id=process_id, user_id=user_id, group_id=group_id)
