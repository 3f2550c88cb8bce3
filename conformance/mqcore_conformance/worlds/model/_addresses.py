"""Where the broker of a simulation listens, for each transport, also for one that the suite has never heard of.

Asks a transport what it is; runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from mqcore.errors import MqcoreError
from mqcore.registry import create_transport

__all__ = ["model_url", "why_not_on_the_model_network"]

URLS: Mapping[str, str] = MappingProxyType(
    {
        "tcp": "tcp://127.0.0.1:7400",
        "unix": "unix:///mqcore-simulation/broker.sock",
        "inproc": "inproc://simulation",
    }
)
SHAPES = ("{scheme}://127.0.0.1:7400", "{scheme}:///mqcore-simulation/broker.sock", "{scheme}://simulation")
"""Host and port, a path, a bare name: the first that a transport takes is where it listens."""


def model_url(transport: str) -> str:
    """Return where a broker listens over ``transport`` (a scheme); ``ConfigurationError`` when no shape fits."""
    if transport in URLS:
        return URLS[transport]
    refusal: MqcoreError | None = None
    for shape in SHAPES:
        url = shape.format(scheme=transport)
        try:
            create_transport(url)
        except MqcoreError as error:
            refusal = refusal or error
        else:
            return url
    assert refusal is not None
    raise refusal


def why_not_on_the_model_network(transport: str) -> str:
    """Why ``transport`` cannot be simulated; empty when it can."""
    try:
        capabilities = create_transport(model_url(transport)).capabilities
    except MqcoreError as error:
        return f"no address of {transport} is known ({error}); contract checks cover it"
    if not capabilities.simulable:
        return "its sockets are not Trio's, so that no model can stand in; contract checks and T1 cover it"
    return ""
