"""QUIC: what the libraries below owe the links, each of them, told by two of their connections without a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from mqcore.abc import TlsOptions
from mqcore_quic._config import QuicOptions
from mqcore_quic._engine import (
    QuicEngine,
    StreamArrived,
    StreamRefused,
    client_configuration,
    engine_for,
    server_configuration,
)
from mqcore_quic._packets import parse_header

CLIENT, SERVER = ("127.0.0.1", 2), ("127.0.0.1", 1)


class Pair:
    """A client and a server that have shaken hands, with a clock of their own."""

    def __init__(self, engine: str, folder: Path) -> None:
        authority = trustme.CA()
        ca, cert = str(folder / "ca.pem"), str(folder / "server.pem")
        authority.cert_pem.write_to_path(ca)
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(cert)
        options = QuicOptions(engine=engine)  # type: ignore[arg-type]
        self.now = 1_000.0
        self.client = engine_for(options, client_configuration(options, TlsOptions(ca=ca), "quic://", "127.0.0.1"))
        self.client.connect(SERVER, self.now)
        first = self.client.transmit(self.now)
        header = parse_header(first[0][0])
        assert header is not None
        own = server_configuration(options, TlsOptions(cert=cert), "quic://")
        self.server = engine_for(options, own, original_id=header.destination)
        self.server.receive([(data, len(data)) for data, _ in first], CLIENT, self.now)
        for _ in range(10):
            self.now += 0.01
            self.pass_on(self.server, self.client)
            self.pass_on(self.client, self.server)
            self.server.events()
            self.client.events()

    def pass_on(self, sender: QuicEngine, receiver: QuicEngine) -> int:
        """Give the peer what one side has to send now; return the number of datagrams."""
        found = sender.transmit(self.now)
        if found:
            address = CLIENT if sender is self.client else SERVER
            receiver.receive([(data, len(data)) for data, _ in found], address, self.now)
        return len(found)


@pytest.fixture(params=["qh3", "aioquic"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    return Pair(request.param, tmp_path)


@pytest.mark.parametrize("is_acknowledged", [False, True], ids=["under way", "acknowledged"])
def test_the_end_of_a_stream_goes_out_with_the_refusal_of_what_the_peer_sends_on_it(
    pair: Pair, *, is_acknowledged: bool
) -> None:
    """A link that is closed by force ends a stream, wants no more of it, and closes, with no answer in between."""
    stream_id = pair.client.open_stream()
    assert stream_id is not None
    pair.client.write(stream_id, b"question")
    pair.pass_on(pair.client, pair.server)
    assert pair.server.events() == [StreamArrived(stream_id, b"question", False)]
    pair.server.write(stream_id, b"answer")
    pair.pass_on(pair.server, pair.client)
    assert StreamArrived(stream_id, b"answer", False) in pair.client.events()
    if is_acknowledged:
        pair.client.ping()  # so that the acknowledgement goes now
        assert pair.pass_on(pair.client, pair.server)
    pair.server.write(stream_id, b"", is_end=True)
    pair.server.refuse(stream_id, 0)
    pair.pass_on(pair.server, pair.client)
    pair.server.close(0, "")
    pair.pass_on(pair.server, pair.client)
    found = pair.client.events()
    assert StreamArrived(stream_id, b"", True) in found
    assert StreamRefused(stream_id) in found
