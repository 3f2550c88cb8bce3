"""Where a broker under test listens, for each transport, also for one that the suite has never heard of.

Asks a transport what it takes; runs nothing.
"""

from __future__ import annotations

from pathlib import Path

from mqcore.errors import MqcoreError
from mqcore.registry import create_transport
from mqcore.testing import reserve_ports
from mqcore_conformance.certificates import with_certificates

SHAPES = ("{scheme}://127.0.0.1:{port}", "{scheme}://{dir}/{name}.sock", "{scheme}://{name}")
"""Host and port, a path, a bare name: the first that a transport takes is where it listens."""


def _url(transport: str, port: int, folder: str, name: str) -> str:
    """Return where a broker listens over ``transport`` (a scheme). Raises what the last shape was refused with."""
    refusal: MqcoreError | None = None
    for shape in SHAPES:
        url = shape.format(scheme=transport, port=port, dir=folder, name=name)
        try:
            create_transport(url)
        except MqcoreError as error:
            refusal = refusal or error
        else:
            return with_certificates(url)
    assert refusal is not None
    raise refusal


def model_url(transport: str, number: int = 0, name: str = "broker") -> str:
    """Return where the broker of a simulation listens; ``ConfigurationError`` when no shape fits.

    Of a set: its node ``number``, called ``name``.
    """
    return _url(transport, 7400 + number, "/mqcore-simulation", name)


def why_not_on_the_model_network(transport: str) -> str:
    """Why ``transport`` cannot be simulated; empty when it can."""
    try:
        capabilities = create_transport(model_url(transport)).capabilities
    except MqcoreError as error:
        return f"no address of {transport} is known ({error}); T0 cannot connect to it"
    if not capabilities.simulable:
        return "its sockets are not Trio's, so that no model can stand in; T1 runs it over real ones (--tier T1)"
    return ""


def address(transport: str, folder: Path, name: str) -> str:
    """Return a URL on this machine at which nothing listens yet."""
    (port,) = reserve_ports(1)
    return _url(transport, port, str(folder), name)


def why_no_address(transport: str) -> str:
    """Why brokers cannot be reached over ``transport`` from another process; empty when they can."""
    if transport == "inproc":
        return "it does not leave its process"
    try:
        _url(transport, 1, "/nowhere", "broker")
    except MqcoreError:
        return f"no address of {transport} is known: neither host and port nor a path"
    return ""
