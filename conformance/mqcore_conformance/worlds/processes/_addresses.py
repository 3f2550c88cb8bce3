"""Where a broker under test listens, for each transport."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from mqcore.errors import MqcoreError
from mqcore.registry import create_transport

__all__ = ["address", "why_no_address"]

TEMPLATES = {"tcp": "tcp://127.0.0.1:{port}", "unix": "unix://{dir}/{name}.sock"}
OTHERS = ("{scheme}://127.0.0.1:{{port}}", "{scheme}://{{dir}}/{{name}}.sock")
PORTS = range(15_000, 32_000)
"""Below those that the kernel gives to outgoing connections: a broker has to get its port again after a restart."""


def why_no_address(transport: str) -> str:
    """Why brokers cannot be reached over ``transport`` from another process; empty when they can."""
    if transport == "inproc":
        return "it does not leave its process"
    return "" if _template(transport) else f"no address of {transport} is known: neither host and port nor a path"


def address(transport: str, folder: Path, name: str) -> str:
    """Return a URL at which nobody listens yet."""
    template = _template(transport)
    port = _free_port() if "{port}" in template else 0
    return template.replace("{port}", str(port)).replace("{dir}", str(folder)).replace("{name}", name)


def _template(transport: str) -> str:
    if transport in TEMPLATES:
        return TEMPLATES[transport]
    for other in OTHERS:
        template = other.format(scheme=transport)
        try:
            create_transport(template.format(port=1, dir="/nowhere", name="broker"))
        except MqcoreError:
            continue
        return template
    return ""


def _free_port() -> int:
    source = random.SystemRandom()
    while True:
        port = source.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
